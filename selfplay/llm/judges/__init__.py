"""What answers are worth by code of one's own, which runs in processes of its own."""
