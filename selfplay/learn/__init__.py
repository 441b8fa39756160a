"""Gradients: nothing here knows a game or a token."""
