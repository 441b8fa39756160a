"""Rules: arrays in, arrays out. What can be played is in ``catalogue``, which is read when a game
is named: who needs the protocol alone (``rules``), or none of it, reads nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Game, GameError
    from .catalogue import GAMES, describe, identity, located, make

__all__ = ["GAMES", "Game", "GameError", "describe", "identity", "located", "make"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = ".base" if name in ("Game", "GameError") else ".catalogue"
    return getattr(import_module(place, __name__), name)
