"""Learning to play board games."""
