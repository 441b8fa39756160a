"""The command as a user types it, in a process of its own, and settings small enough for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from forked import POSSIBLE, Forked, new_process

from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.models import build, seeded, spec_for

ROOT = Path(__file__).parent.parent

#: A whole run of tic-tac-toe in a few seconds; steps and iterations end it, not the clock.
TINY = [
    "--minutes", "60",
    *(word for setting in (
        "net=1x8",
        "expert.player=mcts:8", "expert.count=40",
        "sft.batch_size=32", "sft.evaluate_every=10", "sft.max_steps=45",
        "rl.iterations=3", "rl.positions=96", "rl.games=32", "rl.sims=8", "rl.cheap_sims=4",
        "rl.full_share=0.5",
        "rl.batch_size=32", "rl.reuse=2", "rl.cache_mb=1",
        "eval.sims=4", "eval.sft_points=2", "eval.rl_points=2", "eval.games=2",
        "eval.decisive_games=6", "eval.baseline_games=2", "eval.baselines=mcts:8",
    ) for word in ("--set", setting)),
]


def start(
    *words: str, cwd: Path, fresh: bool = False, env: dict[str, str] | None = None,
    **more: Any,
) -> subprocess.Popen[str] | Forked:
    """``selfplay WORDS`` in ``cwd``, one thread, its output in pipes.

    fresh: by a Python of its own, whose hashes of text are other ones; so is what has an ``env``.
    more: of ``forked.Way``.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(env or {})}
    forked = POSSIBLE and not fresh and not env
    return (Forked if forked else new_process)("selfplay", words, cwd, environment, **more)


def selfplay(
    *words: str, cwd: Path, fresh: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """``start``, waited for."""
    process = start(*words, cwd=cwd, fresh=fresh, **options)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Said(NamedTuple):
    code: int
    out: str
    err: str

    def mistake(self, *words: str) -> None:
        """One line for the user that holds ``words``."""
        assert self.code != 0
        assert self.err.startswith("selfplay: "), self.err
        assert self.err.strip().count("\n") == 0, self.err
        for word in words:
            assert word in self.err, self.err


Command = Callable[..., Said]


def save_net(path: Path, game_name: str) -> None:
    game = make(game_name)
    spec = spec_for(game, "1x8")
    trainer = board_trainer(seeded(0, lambda: build(spec)), TrainConfig())
    checkpoint.save(path, trainer, spec, {"game": game.name, "kind": "sft", "step": 1,
                                          "compute": {}})


def drop_sums(folder: Path) -> None:
    """Make the checkpoints in ``folder`` such as a version without sums has saved, so that what is
    changed in them counts."""
    for sums in folder.rglob("sums.json"):
        sums.unlink()
