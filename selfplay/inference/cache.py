"""A cache of evaluations: no position is evaluated twice by the same weights.

Self-play begins thousands of games from one position, and searches of successive moves visit the
same ones: of the evaluations of Connect Four about half are repetitions, of Go 9x9 an eighth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from selfplay.search.random import fingerprint

#: observations [n, C, H, W] -> (logits float32 [n, A], value float32 [n])
Forward = Callable[[NDArray[Any]], tuple[NDArray[np.float32], NDArray[np.float32]]]

_EMPTY = np.uint64(0)
_STORED = -1  #: in ``owner``: the outputs are there


class EvaluationCache:
    """A table of the outputs of ``forward``, by a 128-bit hash of the observation.

    A new position takes the place of the one that lay where its hash points. What is kept is what
    was computed, bit for bit. megabytes: of memory, at most; a position takes 4 A + 24 bytes, and
    the number of places is a power of two. ``hits``: int, rows so far that needed no evaluation.
    """

    def __init__(self, megabytes: float, actions: int) -> None:
        size = 1 << (max(1, int(megabytes * 2**20 / (4 * actions + 24))).bit_length() - 1)
        self._keys = np.zeros((size, 2), np.uint64)
        self._owner = np.full(size, _STORED, np.int32)  # else the row that is being evaluated
        self._logits = np.zeros((size, actions), np.float32)
        self._value = np.zeros(size, np.float32)
        self.hits = 0

    def clear(self) -> None:
        """Forget everything: the net has changed."""
        self._keys[:] = _EMPTY
        self._owner[:] = _STORED

    def __call__(
        self, obs: NDArray[Any], forward: Forward
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``forward(obs)``, called with the rows only that are not known, each position once."""
        count = len(obs)
        logits = np.empty((count, self._logits.shape[1]), np.float32)
        value = np.empty(count, np.float32)
        if not count:
            return logits, value
        keys, source = _hash(obs), np.empty(count, np.int32)
        try:
            _find(keys, self._keys, self._owner, self._logits, self._value, logits, value, source)
            missing = np.flatnonzero(source == np.arange(count))
            if len(missing):
                logits[missing], value[missing] = forward(obs[missing])
                twins = np.flatnonzero((source >= 0) & (source != np.arange(count)))
                logits[twins], value[twins] = logits[source[twins]], value[source[twins]]
                _store(keys, missing, self._keys, self._owner, self._logits, self._value, logits,
                       value)
        except BaseException:  # Ctrl-C included: places are taken whose outputs never came
            self.clear()
            raise
        self.hits += count - len(missing)
        return logits, value


def _hash(obs: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64 [n, 2] from the bytes of each row; the first word is never _EMPTY."""
    rows = np.ascontiguousarray(obs).reshape(len(obs), -1).view(np.uint8)
    words = np.zeros((len(obs), -(-rows.shape[1] // 8)), np.uint64)
    words.view(np.uint8)[:, : rows.shape[1]] = rows
    keys = np.stack([fingerprint((words,), seed) for seed in (1, 2)], axis=1)
    keys[:, 0] |= np.uint64(1)
    return keys


@njit(cache=True, nogil=True)
def _find(keys, known, owner, kept_logits, kept_value, logits, value, source):
    """Copy what is known; claim a place for each other position.

    source int32 [n]: _STORED where the outputs were copied; else the first row of this call with
    the same position, which is the row itself where it has to be evaluated.
    """
    mask = np.uint64(known.shape[0] - 1)
    for i in range(keys.shape[0]):
        place = np.int64((keys[i, 0] >> np.uint64(1)) & mask)
        if known[place, 0] == keys[i, 0] and known[place, 1] == keys[i, 1]:
            source[i] = owner[place]
            if owner[place] == _STORED:
                logits[i] = kept_logits[place]
                value[i] = kept_value[place]
        else:
            known[place, 0], known[place, 1] = keys[i, 0], keys[i, 1]
            owner[place] = source[i] = i


@njit(cache=True, nogil=True)
def _store(keys, rows, known, owner, kept_logits, kept_value, logits, value):
    """Keep the outputs of ``rows`` int64 [m] whose places have not been claimed by later ones."""
    mask = np.uint64(known.shape[0] - 1)
    for i in rows:
        place = np.int64((keys[i, 0] >> np.uint64(1)) & mask)
        if owner[place] == i:
            kept_logits[place] = logits[i]
            kept_value[place] = value[i]
            owner[place] = _STORED
