"""Past selves to play against (AlphaGo: Silver et al. 2016, "Reinforcement learning of policy
networks"): of a net that learns a board game, and of a language model that does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from selfplay.common.errors import UserError
from selfplay.learn.config import PastSelves

if TYPE_CHECKING:
    import numpy as np


class Freezable(Protocol):
    """A policy that learns."""

    def frozen(self) -> Any:
        """A copy that later training does not change."""


One = TypeVar("One", bound=Freezable)
LOADED = 16  #: past selves of a folder that are held in memory, at most


class Pool(Generic[One]):
    """The first policy and those after every ``config.every`` iterations, in memory. Which there
    are at an iteration follows from its number."""

    def __init__(self, config: PastSelves) -> None:
        self.config = config
        self._loaded: dict[int, One] = {}

    def joins(self, iteration: int) -> bool:
        """Whether the policy joins the pool after so many iterations."""
        return iteration % self.config.every == 0

    def add(self, step: int, policy: One) -> None:
        """Add the policy after ``step`` iterations; drop members that can no longer be drawn."""
        self._loaded[step] = policy.frozen()
        kept = {0, *self.steps(step + 1)}
        self._loaded = {k: one for k, one in self._loaded.items() if k in kept}

    def steps(self, iteration: int) -> list[int]:
        """The members while iteration ``iteration`` (from 1) is played, oldest first."""
        return list(range(0, iteration, self.config.every))[-self.config.size :]

    def draw(self, iteration: int, rng: np.random.Generator) -> list[int]:
        """The opponents of an iteration, drawn uniformly; all different if there are enough."""
        steps, wanted = self.steps(iteration), self.config.opponents
        repeats = -(-wanted // len(steps))
        order = [int(step) for _ in range(repeats) for step in rng.permutation(steps)]
        return sorted(order[:wanted])

    def member(self, step: int) -> One:
        """The policy as it was after ``step`` iterations, frozen."""
        return self._loaded[step]


class FolderPool(Pool[One]):
    """Past selves as checkpoints in a folder, read when they are wanted. Those of iterations that a
    kill has undone are overwritten when the iterations are done again."""

    def __init__(self, folder: Path, config: PastSelves) -> None:
        super().__init__(config)
        self.folder = folder

    def save(self, path: Path, step: int, policy: One) -> None:
        """Write a checkpoint of ``policy`` after ``step`` iterations."""
        raise NotImplementedError

    def load(self, path: Path) -> One:
        """The policy of a checkpoint, frozen. Raises UserError if it is gone or damaged."""
        raise NotImplementedError

    def path(self, step: int) -> Path:
        return self.folder / f"ckpt-{step:06d}"

    def add(self, step: int, policy: One) -> None:
        self.save(self.path(step), step, policy)
        self._loaded.pop(step, None)

    def member(self, step: int) -> One:
        """The policy of a step. Raises UserError if its checkpoint is gone or damaged."""
        if step not in self._loaded:
            try:
                found = self.load(self.path(step))
            except UserError as error:
                raise UserError(f"opponent of the pool: {error}") from None
            while len(self._loaded) >= LOADED:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[step] = found
        return self._loaded[step]
