"""Tasks beside a run's own: what pretraining reads, texts of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from selfplay.arena.match import safe_name
from selfplay.llm.config import TextConfig
from selfplay.llm.folder import task_of
from selfplay.llm.play.lessons import GameTask
from selfplay.llm.rewards import Example
from selfplay.llm.stage_config import PREFIX
from selfplay.llm.tasks.task import Task

GAMES_SHARE = 0.1  #: of the minutes, that the games of a board game's expert may take


@dataclass(frozen=True)
class Corpus:
    """The questions of several tasks, as many of each; a ``Questions``."""

    tasks: Sequence[Task]
    seed: int

    @property
    def name(self) -> str:
        return ", ".join(task.name for task in self.tasks)

    def batch(self, number: int, size: int) -> list[Example]:
        rng = np.random.default_rng([self.seed, 0x77, number])
        kinds = rng.integers(len(self.tasks), size=size)
        parts = [iter(task.batch(number, int((kinds == k).sum()))) if (kinds == k).any()
                 else iter(()) for k, task in enumerate(self.tasks)]
        return [next(parts[kind]) for kind in kinds]

    def held_out(self, count: int) -> list[Example]:
        """Taken from the tasks by turns, so that the first few are of all kinds."""
        parts = [task.held_out(-(-count // len(self.tasks))) for task in self.tasks]
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)][:count]

    def texts(self, count: int = 200) -> list[str]:
        return [text for task in self.tasks for text in task.texts(count)]


def other_task(config: TextConfig, name: str, folder: Path, guessed: float = 0.0) -> Task:
    """The task ``name`` for the run in ``folder``. guessed: see ``folder.task_of``.

    A game's positions are made. Those of the first game that the settings name are in the run's
    folder, those of each other game in a folder below.
    """
    names = (config.task, *config.data.corpus, *config.eval.also)
    first = next((one for one in names if one.startswith(PREFIX)), name)
    task = task_of(replace(config, task=name), guessed,
                   folder if name == first else folder / safe_name(name))
    if isinstance(task, GameTask):
        task.make(GAMES_SHARE * 60 * config.minutes)
    return task
