"""Who can think about a game, and what they say, in the protocol's words."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.common.errors import UserError
from selfplay.games import own
from selfplay.games.base import Game, take
from selfplay.games.go import Go
from selfplay.learn import packaged
from selfplay.learn.checkpoint import best, chosen, newest, read_meta
from selfplay.llm.stage_config import game_learnt
from selfplay.search.grow import children_of
from selfplay.serve.analysis import Analysis
from selfplay.serve.gtp.dead import owners
from selfplay.serve.mind import Mind, mind_of
from selfplay.serve.thinker import Limits, Thinker
from selfplay.serve.web.protocol import STRENGTHS

MCTS = "mcts"  #: who thinks where there is no net
PLAYOUTS = 128  #: behind an ownership that no net gives
RUNS = Path("runs")
SHOWN_MOVES = 60  #: of a position of the tree
SHOWN_LINES = 12  #: moves of a report that come with what follows them
SHOWN_PV = 12
EVERY = 0.25  #: seconds between two reports
LOOK = 0.03  #: seconds between two looks whether a thought is still wanted
LEAVES = 8  #: of one tree at once
#: strength -> exponent of the visits that a move is drawn by; the strongest makes the best move
SHARPNESS = {1: 0.35, 2: 0.8, 3: 1.5, 4: 4.0}


@dataclass(frozen=True)
class Choice:
    """A net that can be chosen. words: as ``mind_of`` takes them."""

    words: str
    label: str


def choices(game: Game, given: str | None = None) -> list[Choice]:
    """Nets for a game: the one that was given where it plays it, those that came along, those of
    the runs here, and search without a net."""
    found = _along(game) + _of_runs(game)
    if given is not None and given not in [choice.words for choice in found]:
        with contextlib.suppress(UserError):
            mind(given, game.name, LEAVES)
            found.insert(0, Choice(given, given))
    return [*found, Choice(MCTS, "playouts, no net")]


def _along(game: Game) -> list[Choice]:
    return [Choice(name, f"{name}, packaged") for name in packaged.names()
            if (path := packaged.find(name)) and _plays(read_meta(path), game)]


def _plays(meta: dict[str, Any], game: Game) -> bool:
    """Whether a net plays a game: its own, or one of the same kin (Go of another komi or size)."""
    return meta.get("game") == game.name or meta.get("plays") == game.kin


def _of_runs(game: Game) -> list[Choice]:
    """Nets, and then language models."""
    found, written = list[Choice](), list[Choice]()
    for run in sorted(RUNS.iterdir()) if RUNS.is_dir() else []:
        with contextlib.suppress(UserError):
            if game_learnt(run) == game.name and (chosen(run / "rl") or chosen(run / "sft")):
                written.append(Choice(f"llm:{run}", f"{run.name}, language model"))
        for stage, pick in (("rl", newest), ("sft", best)):
            try:
                path = pick(run / stage)
                if path is not None and _plays(read_meta(path), game):
                    found.append(Choice(str(path), f"{run.name}, {stage.upper()} {path.name}"))
            except UserError:  # a damaged run is no reason to do without the others
                continue
    return found + written


@cache
def mind(words: str, game: str, leaves: int) -> Mind:
    """One for all tables. Raises UserError for words that name nobody, or a net of another game."""
    if own.is_own(words):
        raise UserError(f"{words}: nets in files of Python are not loaded from the page")
    if words == MCTS:
        return mind_of(f"mcts:1000x{leaves}", game)
    return mind_of(words, game, visits=leaves * 8)


class Head:
    """A thinker whose thoughts take turns; one that has been told to stop thinks nothing."""

    def __init__(self, words: str, game: Game, sims: int) -> None:
        self.words = words
        leaves = max(1, min(LEAVES, sims // 8))  # of few simulations, many at once are weak
        self.thinker = Thinker(mind(words, game.name, leaves))
        self._turn = threading.Lock()

    def think(self, actions: list[int], limits: Limits, stop: threading.Event,
              report: Callable[[Analysis], Any] | None = None) -> Analysis | None:
        """About the position after these moves; None where ``stop`` came first. Blocks."""
        with self._turn:
            if stop.is_set():
                return None
            self.thinker.go_to(actions)
            thought = self.thinker.start(limits, report, EVERY)
            while (found := thought.wait(LOOK)) is None:
                if stop.is_set():
                    thought.stop()
            return found


def move_of_strength(found: Analysis, strength: int, passing: int, rng: np.random.Generator) -> int:
    """A move as strong as wanted; ``passing`` is made only where it is the best."""
    assert found.best is not None
    moves = [move for move in found.moves if move.action != passing]
    if strength >= STRENGTHS or found.best.action == passing or not moves:
        return found.best.action
    share = np.array([move.visits for move in moves], float)
    if share.sum() == 0:  # the raw policy
        share = np.array([move.prior for move in moves], float)
    weights = (share / share.max()) ** SHARPNESS[strength]
    weights[share == 0] = 0
    return moves[int(rng.choice(len(moves), p=weights / weights.sum()))].action


def ownership_of(game: Game, states: Any) -> list[float] | None:
    """Of each cell, from playouts, for player 0; None in games without ownership."""
    if not isinstance(game, Go):
        return None
    return np.round(owners(game, states, PLAYOUTS), 2).tolist()


def told(found: Analysis, side: int, node: int, ended: bool,
         ownership: list[float] | None) -> dict[str, Any]:
    """A report of the protocol."""
    sign = 1 - 2 * found.to_play
    if found.ownership is not None:
        ownership = np.round(found.ownership * sign, 2).tolist()
    searched = max(found.visits - 1, 0)
    moves = [{"action": m.action, "text": m.text, "visits": m.visits,
              "value": round(m.value * sign, 4), "prior": round(m.prior, 4),
              "pv": list(m.pv[:SHOWN_PV] if n < SHOWN_LINES else m.pv[:1]),
              "pv_text": list(m.pv_text[:SHOWN_PV] if n < SHOWN_LINES else m.pv_text[:1])}
             for n, m in enumerate(found.moves)]
    return {"is": "report", "side": side, "node": node, "visits": searched,
            "value": round(found.value * sign, 4),
            "score": None if found.score is None else round(found.score * sign, 2),
            "seconds": round(found.seconds, 2), "moves": moves, "ownership": ownership,
            "ended": ended}


def explored(head: Head, path: list[int], pieces: Callable[[Any], list[str]]) -> dict[str, Any]:
    """What the tree of a head knows after ``path``. Raises UserError where it has not been."""
    thinker = head.thinker
    game, states, tree = thinker.mind.game, take(thinker.line.states, [0]), thinker.tree
    node = 0
    for action in path:
        child = children_of(tree, 0, node).get(action)
        if child is None:
            raise UserError("the search has not been there (any more)")
        game.step(states, np.array([action], np.int64))
        node = child
    if not tree.size[0]:
        raise UserError("nothing has been searched here yet: turn the analysis on")
    prior = np.abs(tree.prior[0, node])
    children: list[dict[str, Any]] = [{
        "action": action, "text": game.action_to_text(states, 0, action),
        "visits": int(tree.visits[0, child]), "value": round(float(tree.mean[0, child]), 4),
        "prior": round(float(prior[action]), 4)}
        for action, child in children_of(tree, 0, node).items()]
    children.sort(key=lambda row: (-row["visits"], -row["prior"]))
    return {"visits": int(tree.visits[0, node]), "value": round(float(tree.mean[0, node]), 4),
            "to_play": int(states.to_play[0]), "pieces": pieces(states),
            "children": children[:SHOWN_MOVES]}
