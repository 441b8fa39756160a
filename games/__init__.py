"""Rules: arrays in, arrays out. What can be played is in ``catalogue``, which is read when a game
is named: who needs the protocol alone (``rules``) reads nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalogue import GAMES, Game, GameError, describe, identity, located, make

__all__ = ["GAMES", "Game", "GameError", "describe", "identity", "located", "make"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".catalogue", __name__), name)
