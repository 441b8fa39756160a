"""Training rows as columns, the window that is sampled, and batches.

Expert games and self-play both end here; ``batch`` is what ``trainer`` steps on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.common.errors import UserError
from selfplay.games.rules import Rules, Symmetries


class Columns(NamedTuple):
    """N positions, one a row. Everything speaks for the side to move."""

    obs: NDArray[Any]
    #: uint8 [N, P], packed bits (``pack``), or float16 [N, C*H*W] where planes are not binary
    policy: NDArray[np.float16]  #: [N, A], rows sum to 1
    policy_weight: NDArray[np.float32]  #: [N], 0 where the move teaches nothing
    value: NDArray[np.float32]  #: [N] in [-1, 1], the game's result
    ownership: NDArray[np.int8]  #: [N, H*W] in -1, 0, 1
    score: NDArray[np.float32]  #: [N] points
    aux_weight: NDArray[np.float32]  #: [N], 0 where ownership and score are not known
    #: int8 [N], the size of each one's board where these differ; columns are as wide as the largest
    size: NDArray[np.int8] | None = None

    def rows(self, index: Any) -> Columns:
        """Some rows, as numpy's ``index`` picks them (a slice copies nothing)."""
        return Columns._make(None if column is None else column[index] for column in self)


class Batch(NamedTuple):
    """Rows as a net and the losses want them; the fields of Columns, unpacked."""

    obs: NDArray[Any]  #: uint8 or float32 [B, C, H, W]
    policy: NDArray[np.float32]  #: [B, A]
    policy_weight: NDArray[np.float32]  #: [B]
    value: NDArray[np.float32]  #: [B]
    ownership: NDArray[np.float32]  #: [B, H*W]
    score: NDArray[np.float32]  #: [B]
    aux_weight: NDArray[np.float32]  #: [B]


def pack(obs: NDArray[Any], binary: bool) -> NDArray[Any]:
    """[N, C, H, W] -> uint8 [N, ceil(C*H*W / 8)] of bits if ``binary``, else float16 [N, C*H*W]."""
    flat = obs.reshape(len(obs), int(np.prod(obs.shape[1:])))
    return np.packbits(flat.astype(np.bool_), axis=1) if binary else flat.astype(np.float16)


def unpack(packed: NDArray[Any], obs_shape: tuple[int, int, int]) -> NDArray[Any]:
    """Inverse of ``pack``: uint8 (bits; missing ones are 0) or float32 [N, C, H, W]."""
    if packed.dtype == np.uint8:
        flat = np.unpackbits(packed, axis=1, count=int(np.prod(obs_shape)))
    else:
        flat = packed.astype(np.float32)
    return flat.reshape(len(packed), *obs_shape)


def concat(parts: list[Columns]) -> Columns:
    """The rows of all parts (at least one), in order. Those of a smaller board, or of an earlier
    version that showed fewer planes, are filled up with zeros."""
    def joined(fields: tuple[Any, ...]) -> Any:
        if fields[0] is None or fields[0].ndim < 2:
            return None if fields[0] is None else np.concatenate(fields)
        wide = max(field.shape[1] for field in fields)
        return np.concatenate([field if field.shape[1] == wide else np.pad(
            field, ((0, 0), (0, wide - field.shape[1]))) for field in fields])

    return Columns._make(map(joined, zip(*parts, strict=True)))


def batch(
    columns: Columns,
    rows: NDArray[np.int64],
    game: Rules,
    symmetries: Symmetries,
    rng: np.random.Generator | None,
) -> Batch:
    """``rows`` of ``columns``, each under a random symmetry; rng None leaves them as they are."""
    picked = columns.rows(rows)
    obs = unpack(picked.obs, game.obs_shape)
    policy = picked.policy[:, : symmetries.actions.shape[1]].astype(np.float32)
    ownership = picked.ownership[:, : symmetries.cells.shape[1]].astype(np.float32)
    if rng is not None:
        which = rng.integers(0, len(symmetries.cells), len(rows))
        planes = obs.reshape(len(rows), game.obs_shape[0], -1)
        for s in np.unique(which[which > 0]):
            some, cells = which == s, symmetries.cells[s]
            planes[some] = planes[some][:, :, cells]
            policy[some] = policy[some][:, symmetries.actions[s]]
            ownership[some] = ownership[some][:, cells]
        obs = planes.reshape(obs.shape)
    return Batch(obs, policy, picked.policy_weight, picked.value, ownership, picked.score,
                 picked.aux_weight)


def batches(
    columns: Columns, rows: NDArray[np.int64], boards: Sequence[tuple[Rules, Symmetries]],
    rng: np.random.Generator,
) -> list[Batch]:
    """``batch`` of the rows of each of the boards that has any: a batch is of one size, so that
    nothing is padded for the net."""
    size = columns.size
    parts = [(rows if size is None else rows[size[rows] == board[0].board_shape[0]], board)
             for board in boards]
    return [batch(columns, some, *board, rng) for some, board in parts if len(some)]


class Window:
    """The newest rows of a growing replay buffer.

    Of T rows added in all, the newest ``minimum + growth * (T - minimum)`` are sampled, at least
    all of the first ``minimum``, at most ``maximum``: early, poor games drop out sooner than in a
    buffer of fixed size (the idea is KataGo's, Wu 2019, arXiv:1902.10565; its power law is
    replaced by a line). Rows that can no longer be sampled are let go.
    """

    def __init__(self, minimum: int, growth: float, maximum: int) -> None:
        if not (0 < minimum <= maximum and 0 <= growth <= 1):
            raise UserError(f"window: minimum {minimum}, growth {growth}, maximum {maximum}: "
                            "0 < minimum <= maximum and 0 <= growth <= 1 wanted")
        self.minimum, self.growth, self.maximum = minimum, growth, maximum
        self.total = 0  #: rows ever added
        self._shards: list[Columns] = []

    def __len__(self) -> int:
        """Rows that are sampled from now."""
        grown = self.minimum + self.growth * max(self.total - self.minimum, 0)
        return min(int(grown), self.maximum, self.total)

    def add(self, columns: Columns) -> None:
        """Take in new rows, the newest of all."""
        self._shards.append(columns)
        self.total += len(columns.value)
        stored = sum(len(shard.value) for shard in self._shards)
        while stored - len(self._shards[0].value) >= len(self) and len(self._shards) > 1:
            stored -= len(self._shards.pop(0).value)

    def newest(self) -> Columns:
        """The rows that were added last."""
        return self._shards[-1]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Columns, NDArray[np.int64]]:
        """(columns, rows) for ``batch``: ``count`` rows drawn uniformly, with replacement.

        Raises UserError while the window is empty.
        """
        if not len(self):
            raise UserError("the replay window is empty: no self-play position has been added")
        ends = np.cumsum([len(shard.value) for shard in self._shards])
        index = rng.integers(ends[-1] - len(self), ends[-1], count)
        index.sort()  # rows of one shard side by side; the order within a batch means nothing
        cuts = np.searchsorted(index, ends)
        starts = np.concatenate([[0], ends[:-1]])
        parts = []
        for shard, low, high, start in zip(self._shards, [0, *cuts[:-1]], cuts, starts,
                                           strict=True):
            parts.append(shard.rows(index[low:high] - start))
        return concat(parts), np.arange(count)
