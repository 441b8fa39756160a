"""What all other folders use: files, settings, threads, the terminal. No games, no nets."""
