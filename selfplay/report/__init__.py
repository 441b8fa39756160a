"""Numbers in, pictures and words out."""
