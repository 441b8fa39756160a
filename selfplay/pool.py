"""Past selves to play against (AlphaGo: Silver et al. 2016): checkpoints of weights in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfplay import checkpoint
from selfplay.board_policy import BoardPolicy
from selfplay.config import PoolConfig
from selfplay.errors import UserError
from selfplay.models import NetSpec

LOADED = 16  #: policies kept in memory


class Pool:
    """The first policy and those after every ``config.every`` iterations.

    Which there are at an iteration follows from its number; what lies in the folder beside them,
    of iterations that a kill has undone, is overwritten when they come again.
    """

    def __init__(self, folder: Path, like: BoardPolicy, game: str, config: PoolConfig) -> None:
        self.folder, self.like, self.game, self.config = folder, like, game, config
        self._loaded: dict[int, BoardPolicy] = {}

    def path(self, step: int) -> Path:
        return self.folder / f"ckpt-{step:06d}"

    def joins(self, iteration: int) -> bool:
        """Whether the policy after so many iterations becomes a member."""
        return iteration % self.config.every == 0

    def add(self, policy: checkpoint.Training, spec: NetSpec, meta: Mapping[str, Any]) -> None:
        path = self.path(int(meta["step"]))
        checkpoint.save(path, policy, spec, meta)
        checkpoint.drop_training(path)

    def steps(self, iteration: int) -> list[int]:
        """The members while iteration ``iteration`` (from 1) is played, oldest first."""
        return list(range(0, iteration, self.config.every))[-self.config.size :]

    def draw(self, iteration: int, rng: np.random.Generator) -> list[int]:
        """Opponents for one iteration, uniformly; different ones while there are enough."""
        steps, wanted = self.steps(iteration), self.config.opponents
        repeats = -(-wanted // len(steps))
        order = np.concatenate([rng.permutation(steps) for _ in range(repeats)])
        return sorted(order[:wanted].tolist())

    def member(self, step: int) -> BoardPolicy:
        """Raises UserError where its checkpoint is gone or damaged."""
        if step not in self._loaded:
            try:
                net, _ = checkpoint.load_net(self.path(step), self.game, self.like.device)
            except UserError as error:
                raise UserError(f"opponent of the pool: {error}") from None
            while len(self._loaded) >= LOADED:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[step] = BoardPolicy(
                net, self.like.obs_shape, self.like.num_actions, self.like.device,
                self.like.dtype).frozen()
        return self._loaded[step]
