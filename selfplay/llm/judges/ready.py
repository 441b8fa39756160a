"""What must be so before a run begins, so that a mistake is found before anything is made."""

from __future__ import annotations

from selfplay.common.errors import UserError
from selfplay.llm.config import TextConfig
from selfplay.llm.envs.episodes import Episodes
from selfplay.llm.judges.functions import Judge
from selfplay.llm.play.lessons import GameTask
from selfplay.llm.tasks.task import Task


def must_be_of_use(config: TextConfig, task: Task) -> None:
    """Raises UserError for settings that a run of ``task`` would not look at."""
    rl, what = config.rl, f"{config.task}:"
    elsewhere = isinstance(task, Episodes | GameTask)
    if config.judge.functions and elsewhere:
        raise UserError(f"{what} it gives its own rewards; leave out --reward")
    if config.judge.weights and task.judge is None:
        raise UserError(f"{what} no reward function that judge.weights would weigh; give one with "
                        "--reward path.py:NAME, or leave it out")
    if elsewhere and (rl.format_weight or rl.partial_weight):
        raise UserError(f"{what} it gives its own rewards; leave out rl.format_weight and "
                        "rl.partial_weight")
    if config.memory.dtype != "float32" and config.recipe == "sft":
        raise UserError("memory.dtype: for RL and DPO; SFT learns in float32: leave it out")
    if task.judge is not None and rl.partial_weight:
        raise UserError(f"{what} reward functions say what is nearly right; leave out "
                        "rl.partial_weight")


def must_start(task: Task) -> None:
    """Raises UserError where code of the user's own, which judges or answers, cannot be used."""
    if isinstance(task.judge, Judge):
        task.judge.start()
    if isinstance(task, Episodes):
        task.world.start()
    if isinstance(task, GameTask):
        task.must_be_playable()
