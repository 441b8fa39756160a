"""The AlphaGo recipe as a framework: games, nets, search, self-play, and the chart.

    import selfplay as sp

    game = sp.make("tictactoe")
    net = sp.net(game, "2x16")
    for row in sp.alphazero(game, net, sims=32, iterations=3): ...
    sp.match(game, sp.player(game, net, sims=32), "mcts:100", games=100)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfplay.api.analyse import analyse
    from selfplay.api.boards import Board, Found, load, match, net, player, search
    from selfplay.api.runs import Run, train
    from selfplay.api.training import alphazero, league, policy, policy_gradient, rollouts
    from selfplay.arena.match import MatchResult
    from selfplay.arena.players import SlotPlayer
    from selfplay.common.errors import UserError
    from selfplay.games import Game, GameError, make
    from selfplay.games.check import check
    from selfplay.inference.evaluator import Evaluator
    from selfplay.models import NetOutput, NetSpec

#: Public name -> the module that it is defined in.
_PLACES = {
    **dict.fromkeys(("make", "Game", "GameError"), "selfplay.games"),
    "check": "selfplay.games.check",
    **dict.fromkeys(("net", "load", "search", "match", "player", "Board", "Found"),
                    "selfplay.api.boards"),
    "analyse": "selfplay.api.analyse",
    **dict.fromkeys(("alphazero", "league", "policy", "policy_gradient", "rollouts"),
                    "selfplay.api.training"),
    **dict.fromkeys(("train", "Run"), "selfplay.api.runs"),
    "Evaluator": "selfplay.inference.evaluator",
    **dict.fromkeys(("NetOutput", "NetSpec"), "selfplay.models"),
    "MatchResult": "selfplay.arena.match",
    "SlotPlayer": "selfplay.arena.players",
    "UserError": "selfplay.common.errors",
}

__all__ = ["Board", "Evaluator", "Found", "Game", "GameError", "MatchResult", "NetOutput",
           "NetSpec", "Run", "SlotPlayer", "UserError", "alphazero", "analyse", "check", "league",
           "load", "make", "match", "net", "player", "policy", "policy_gradient", "rollouts",
           "search", "train"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        from selfplay.common.machine import keep_compiled

        keep_compiled()
        return getattr(import_module(_PLACES[name]), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("selfplay-lab")
        except PackageNotFoundError:  # a folder on the path, that nobody installed
            return "unknown"
    if name in ("games", "models"):  # folders that are of use by themselves
        return import_module(f"selfplay.{name}")
    raise AttributeError(f"module 'selfplay' has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "games", "models"])


class _Door(ModuleType):
    """``sp.search`` is the function, also once the folder of that name has been imported."""

    @property
    def search(self) -> Any:
        return getattr(import_module("selfplay.api.boards"), "search")  # noqa: B009

    @search.setter
    def search(self, module: ModuleType) -> None:
        """The import system puts the folder here; ``from selfplay.search import tree`` finds it."""


sys.modules[__name__].__class__ = _Door
