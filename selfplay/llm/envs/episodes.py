"""Conversations with an environment as questions: each is a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfplay.games import own
from selfplay.llm.config import TextConfig
from selfplay.llm.envs.talks import World
from selfplay.llm.rewards import FORMATS, Example
from selfplay.llm.tasks.task import Task, template_of

#: Seeds below the first are held out, those from it to the second are learnt.
HELD, SEEDS = 1 << 20, 1 << 31


@dataclass(frozen=True)
class Starts:
    """Every seed of an environment."""

    world: World
    count: int = SEEDS

    def item(self, index: int) -> Example:
        return Example(f"conversation {index}", "", metadata={"seed": index},
                       format=FORMATS["plain"], world=self.world)


@dataclass(frozen=True)
class Episodes(Task):
    """Conversations to learn from and others that are held out, by their seeds."""

    source: Starts

    @property
    def world(self) -> World:
        return self.source.world

    def batch(self, number: int, size: int) -> list[Example]:
        rng = np.random.default_rng([self.seed, 0x7F, number])
        return [self._dressed(self.source.item(int(seed)))
                for seed in rng.integers(HELD, SEEDS, size)]

    def held_out(self, count: int) -> list[Example]:
        return [self._dressed(self.source.item(seed)) for seed in range(min(count, HELD))]


def episodes(config: TextConfig) -> Episodes:
    """Those of a run whose task is ``env:path.py:NAME``."""
    world = World(own.located(config.task.removeprefix("env:")), config.env)
    return Episodes(config.task, Starts(world), config.seed,
                    template=template_of(config.data.template), system=config.data.system)
