"""Batches without end from rows that stay what they are, and rows from all over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from selfplay.board.data import Batch, Columns, batches
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
