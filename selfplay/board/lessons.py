"""What an expert's games are to learning: batches without end, rows beside one's own, and positions
that self-play begins at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.board.config import RLConfig
from selfplay.board.data import Batch, Columns, Window, batches, concat
from selfplay.common.errors import UserError
from selfplay.games.base import Game
from selfplay.games.rules import Rules, put


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


class Starts:
    """Positions of an expert's games, for games that begin in the middle, at what self-play alone
    would seldom come to (as KataGo's start positions from game records)."""

    def __init__(self, game: Rules, games: Sequence[Sequence[int]], share: float) -> None:
        """games: the moves of each. share: of new games, those that begin at one of their
        positions, in Go at the usual komi."""
        self.game, self.share = game, share if games else 0.0
        self.moves = [np.asarray(moves, np.int64) for moves in games]

    def begin(self, states: Any, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """Let some of the new games ``states`` begin elsewhere: after any number of a game's moves
        but all. Their moves [B, T], -1 pads; None where none does."""
        if not self.share or not len(
                rows := np.flatnonzero(rng.random(len(states.ply)) < self.share)):
            return None
        chosen = [self.moves[k] for k in rng.integers(0, len(self.moves), len(rows))]
        plies = rng.integers(0, [len(moves) for moves in chosen])
        begun = np.full((len(states.ply), max(plies.max(), 1)), -1, np.int64)
        for row, moves, ply in zip(rows, chosen, plies, strict=True):
            begun[row, :ply] = moves[:ply]
        fresh = self.game.new(len(rows))
        self.game.replay(fresh, begun[rows])
        put(states, rows, fresh)
        return begun


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
