"""What pretraining reads: texts of several tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfplay.llm.rewards import Example
from selfplay.llm.tasks.task import Task


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
