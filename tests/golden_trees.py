"""Trees of the sequential search on fixed positions, kept so that any change of them is noticed.

``python tests/golden_trees.py`` (with the root of the repository on PYTHONPATH) writes
``golden_trees.json`` anew: only where the trees are meant to change.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games import make
from selfplay.games.base import Game, put, take
from selfplay.search import random as rng
from selfplay.search.search import Search, SearchConfig

FILE = Path(__file__).with_suffix(".json")
GAMES = {"go9x9": 60, "go7x7(komi=0.5,suicide=True)": 90, "connect4": 28}  #: -> deepest position
RULES = {
    "puct": SearchConfig(rule="puct"),
    "puct, kept": SearchConfig(rule="puct", reuse=True),
    "gumbel": SearchConfig(rule="gumbel"),
    "uct": SearchConfig(rule="uct"),
    "puct, 8 leaves": SearchConfig(rule="puct", leaves=8),
    "gumbel, 8 leaves": SearchConfig(rule="gumbel", leaves=8),
}
RULES = ({name: replace(config, proven=False) for name, config in RULES.items()}
         | {f"{name}, proven": config for name, config in RULES.items() if name != "uct"})
COUNT, SIMS, SEED = 6, 150, 11


def positions(game: Game, deepest: int) -> Any:
    """COUNT positions, none of them over, after 0 to ``deepest`` random moves."""
    draw = np.random.default_rng(SEED)
    states = game.new(COUNT)
    for ply in range(deepest):
        legal = game.legal(states)
        moves = (legal * draw.random(legal.shape)).argmax(1)
        moves[np.arange(COUNT) * deepest // (COUNT - 1) <= ply] = -1
        ahead = take(states, np.arange(COUNT))
        game.step(ahead, moves)
        rows = np.flatnonzero(~game.result(ahead)[0])
        put(states, rows, take(ahead, rows))
    return states


def evaluator(game: Game) -> Any:
    """Random logits in +-2 and values in +-1 that depend on the board shown alone: a net that is
    told the komi too changes no search."""
    shown = game.obs_shape[0] - game.komi_planes

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        streams = rng.fingerprint((np.ascontiguousarray(game.observe(states)[:, :shown]),), SEED)
        everywhere = np.ones((len(legal), game.num_actions + 1), np.bool_)
        draws = rng.gumbel(streams, np.arange(len(legal)), everywhere)
        numbers = np.exp(-np.exp(-draws)) * 2 - 1  # uniform again
        return (2 * numbers[:, 1:]).astype(np.float32), numbers[:, 0].astype(np.float32)

    return evaluate


def trees(name: str, rule: str) -> list[dict[str, Any]]:
    """Of each position: the visits of the root's moves, the move chosen, and a digest of the
    whole tree. Every second row has noise; a kept tree is that of the second of two moves."""
    game, config = make(name), RULES[rule]
    states, rows = positions(game, GAMES[name]), np.arange(COUNT)
    evaluate = evaluator(game)
    search = Search(game, config, COUNT, SIMS, SEED)
    found = search.run(states, SIMS, evaluate, noise=rows % 2 == 1)
    if config.reuse:
        game.step(states, found.action)
        search.advance(rows, found.action)
        rows = np.flatnonzero(~game.result(states)[0])
        search.begin(rows, take(states, rows), SIMS, rows % 2 == 1, fresh=False)
        while len(rows) and not set(search.wave(evaluate).tolist()) & {int(rows[-1])}:
            pass
        found = search.result(rows)
    return [{"row": int(row), "visits": {str(a): int(found.visits[i, a])
                                         for a in np.flatnonzero(found.visits[i])},
             "action": int(found.action[i]), "tree": digest(search, int(row))}
            for i, row in enumerate(rows)]


def digest(search: Search, row: int) -> str:
    """Of who came from whom by which move, how often, in order of birth."""
    tree, size = search.tree, int(search.tree.size[row])
    parts = [tree.parent, tree.action, tree.visits, tree.terminal]
    text = b"".join(part[row, :size].astype("<i4").tobytes() for part in parts)
    return hashlib.sha256(text).hexdigest()[:16]


def everything() -> dict[str, list[dict[str, Any]]]:
    return {f"{name} {rule}": trees(name, rule) for name in GAMES for rule in RULES}


if __name__ == "__main__":
    lines = ",\n".join(f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "]"
                       for key, rows in everything().items())
    FILE.write_text("{" + lines + "}\n")
