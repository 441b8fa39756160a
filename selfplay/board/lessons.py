"""Batches without end from rows that stay what they are, and rows from all over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from selfplay.board.config import RLConfig
from selfplay.board.data import Batch, Columns, Window, batches, concat
from selfplay.common.errors import UserError
from selfplay.games.base import Game


def endless_batches(
    game: Game, rows: Columns, size: int, seeds: list[int], step: int
) -> Iterator[list[Batch]]:
    """``data.batches`` from number ``step`` on, without end. Number k depends on (seeds, k) alone,
    so that an interrupted run and an uninterrupted one see the same batches."""
    sizes = [] if rows.size is None else np.unique(rows.size).tolist()
    boards = [(board, board.symmetries()) for board in game.boards(sizes)]
    for k in itertools.count(step):
        rng = np.random.default_rng([*seeds, k])
        yield batches(rows, rng.integers(0, len(rows.value), size), boards, rng)


def count_rows(batches: list[Batch]) -> int:
    return sum(len(rows.value) for rows in batches)


def evenly(columns: Columns, count: int) -> Columns:
    """``count`` rows at most, spread evenly."""
    rows = np.linspace(0, len(columns.value) - 1, min(count, len(columns.value))).astype(np.int64)
    return columns.rows(rows)


class Beside(Window):
    """A replay buffer whose samples have rows of an expert's games among them."""

    def __init__(self, config: RLConfig, lessons: Columns | None) -> None:
        """lessons: what ``config.expert_share`` of a sample is drawn from.

        Raises UserError where such are wanted and there are none.
        """
        super().__init__(config.window_min, config.window_growth, config.window_max)
        if config.expert_share and lessons is None:
            raise UserError("rl.expert_share: there are no expert games; name some, as --set "
                            "expert.games=FOLDER")
        self.lessons, self.expert_share = lessons, config.expert_share

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Columns, NDArray[np.int64]]:
        own = max(1, round(count * (1 - self.expert_share)))
        columns, rows = super().sample(own, rng)
        if self.lessons is None or own == count:
            return columns, rows
        beside = self.lessons.rows(rng.integers(0, len(self.lessons.value), count - own))
        return concat([columns, beside]), np.arange(count)
