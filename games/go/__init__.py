"""Go of any size from 5 to 19: rules, superko, planes, playouts."""

from .go import LARGEST, SMALLEST, Go
from .handicap import usual_points

__all__ = ["LARGEST", "SMALLEST", "Go", "usual_points"]
