"""Go of any size from 5 to 19: rules, superko, planes, playouts."""

from .go import Go

__all__ = ["Go"]
