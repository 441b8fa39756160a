"""Loads, where this is imported, the kernels that most of the programs that tests start will use,
from Numba's cache, which still takes longer than to run them; and what learns and draws.

The console is left to the new process: it looks at the terminal when it is made.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np

from selfplay.common.machine import keep_compiled

keep_compiled()

from selfplay.games import make  # noqa: E402
from selfplay.search.rollouts import rollout_evaluate  # noqa: E402
from selfplay.search.search import Rule, Search, SearchConfig  # noqa: E402

for module in ("board.alphazero", "board.supervised", "inference.evaluator", "learn.checkpoint",
               "report.page"):
    importlib.import_module(f"selfplay.{module}")
GAME = make("tictactoe")
RULES: tuple[Rule, ...] = ("uct", "gumbel", "puct")
for rule in RULES:
    search = Search(GAME, SearchConfig(rule=rule), 2, 4, 0)
    rows, states = np.arange(2), GAME.new(2)
    search.begin(rows, states, 4, rule != "uct")
    evaluate = rollout_evaluate(GAME, 0)
    for _ in range(6):
        search.wave(evaluate)
    search.advance(rows, search.result(rows).action)
assert "selfplay.common.console" not in sys.modules
