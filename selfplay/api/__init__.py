"""The front door for Python: what ``import selfplay as sp`` has, in short functions."""
