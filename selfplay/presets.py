"""What differs from the settings' defaults: per game, and per policy-gradient algorithm.

Keys are dotted, as ``--set`` takes them; ``config`` applies them.
"""

from __future__ import annotations

from typing import Any

GNUGO = "gtp:gnugo --mode gtp --level {}"

#: What differs from the defaults above, per game; a game not here gets the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "tictactoe": {
        "net": "2x16",
        "expert.player": "mcts:100",
        "expert.count": 300,
        "expert.opening": (0, 3),
        "sft.evaluate_every": 50,
        "sft.patience": 3,
        "rl.games": 64,
        "rl.positions": 1024,
        "rl.window_min": 8_000,
        "rl.window_max": 40_000,
        "rl.temperature_plies": 4,
        "rl.opening": (0, 3),
        "eval.sims": 32,
        "eval.opening": (0, 1),  # one random mark never decides the game; two can
        "eval.baseline_games": 200,
        "eval.sft_points": 3,
        "eval.rl_points": 4,
        "value.games": 4_096,
        "shares": (0.1, 0.1, 0.45, 0.35),
    },
    "connect4": {
        "net": "4x32",
        "expert.player": "mcts:1000",
        "expert.count": 600,
        "rl.temperature_plies": 10,
        "rl.opening": (0, 4),
        "eval.sims": 64,
        "eval.opening": (1, 4),
        "value.latest": 30,  # half of such games are over by then
        "shares": (0.1, 0.1, 0.68, 0.12),
    },
    "go9x9": {
        "net": "6x64",
        "expert.player": GNUGO.format(10),
        "eval.baselines": ("mcts:100", "mcts:1000", GNUGO.format(1)),
        "eval.sims": 64,
        "rl.temperature_plies": 16,
        "value.latest": 80,  # most games are over by then
        "shares": (0.1, 0.3, 0.36, 0.24),  # games are embedded: 0.33, 0.4, 0.27 of the time
    },
}

ALPHAGO = "ppo"  #: the algorithm of recipe alphago, where none is named

#: Games by policy gradient: what differs from ``algorithms.ALGORITHMS``, whatever the algorithm.
#: With three changes together, 512 games an iteration (BY_GAME) and the two weights here, the best
#: moves in Connect Four gained; they have not been told apart (RESULTS.md, "Policy gradient on
#: boards") ...
ON_BOARDS: dict[str, Any] = {
    "pg.learning_rate": 3e-4,
    "pg.value_clip": 0.0,
    "pg.minibatches": 4,
    "pg.entropy_weight": 0.01,
    "pg.kl_weight": 0.02,
}
#: ... then by its name (groups are of use to some only) ...
BY_ALGORITHM: dict[str, dict[str, Any]] = {
    "ppo": {"pg.epochs": 2},
    **{name: {"pool.group": 8} for name in ("rloo", "grpo", "dr_grpo", "dapo", "gspo")},
}
#: ... and then by the game.
BY_GAME: dict[str, dict[str, Any]] = {
    "tictactoe": {"pool.opening": (0, 3)},
    "connect4": {"pool.games": 512},
}
