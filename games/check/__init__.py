"""Does a game keep its promises? Every check plays the game and says in words what is wrong.

``check(game)`` runs them all. A *fault* breaks search or training; a *note* is right for some
games and should be looked at.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base import Game
from ..catalogue import make
from . import rules, views
from .play import play_random

BATCH = 48  #: games of a check
HERE = Path(__file__).parent


class Finding(NamedTuple):
    """check: the name in CHECKS. words: one line. fault: False is a note."""

    check: str
    words: str
    fault: bool = True


def check(game: Game | str, batch: int = BATCH, seed: int = 0) -> list[Finding]:
    """All that is wrong with ``game`` (or the game of that name), the first cause first; an empty
    list is a sound game.

    A check that cannot be run because the game fails is a fault that names the line. Plays
    ``batch`` games at a time.

    >>> from importlib import import_module
    >>> check(import_module(__package__.removesuffix(".check")).make("tictactoe"))
    []
    """
    if isinstance(game, str):
        game = make(game)
    found: list[Finding] = []
    for name, (function, fault) in CHECKS.items():
        try:
            found += [Finding(name, words, fault) for words in function(game, batch, seed)]
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            found.append(Finding(name, f"{type(error).__name__}: {reason} ({_place(error)})"))
        if name in FIRST and any(finding.fault for finding in found):
            break  # the others would say the same in other words
    return found


def _place(error: Exception) -> str:
    """Where the game failed: the last line of its own that was being run."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if "site-packages" not in f.filename]
    own = [f for f in frames if Path(f.filename).parent != HERE
           and f.filename != sys.modules[Game.__module__].__file__]
    if not own:
        return "in no line of the game's own"
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"


def sample(game: Game, seed: int = 0) -> str:
    """A random game in words, for a look at who is said to have won."""
    states, actions = play_random(game, 1, seed)
    now, words = game.new(1), []
    for action in actions[0][actions[0] >= 0]:
        words.append(f"{game.sides[now.to_play[0]]} {game.action_to_text(now, 0, int(action))}")
        game.step(now, np.array([action]))
    value = float(game.result(states)[1][0])
    ending = "a draw" if value == 0 else f"{game.sides[0 if value > 0 else 1]} has won"
    return f"{', '.join(words)}: {ending}\n{game.render(states, 0)}"


#: name -> (check, whether what it finds is a fault), causes before effects
CHECKS: dict[str, tuple[Callable[[Game, int, int], Iterator[str]], bool]] = {
    "attributes": (rules.attributes, True),
    "a fresh game": (rules.fresh, True),
    "masks and ends": (rules.masks, True),
    "signs": (rules.sign, True),
    "the last move": (rules.winner, False),
    "finished games": (rules.absorbing, True),
    "-1": (rules.waiting, True),
    "determinism": (rules.replaying, True),
    "rows": (rules.alone, True),
    "copies": (rules.copies, True),
    "symmetry tables": (views.tables, True),
    "symmetries": (views.turned, True),
    "observations": (views.observed, True),
    "the view": (views.viewed, False),
    "whose stones": (views.owned, True),
    "playouts": (views.playouts, True),
    "openings": (views.openings, True),
    "moves as text": (views.texts, True),
    "drawing": (views.drawn, True),
    "points": (views.points, True),
    "branch": (rules.branching, True),
    "keys": (rules.keyed, True),
}
#: Where one of these fails, there is no playing on.
FIRST = ("attributes", "a fresh game", "masks and ends")
