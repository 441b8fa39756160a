"""Random numbers of the search: one splitmix64 stream a row, and what is drawn from it.

A row's numbers depend on its own stream alone, so that results depend neither on the other rows
of a batch nor on threads. splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators" (2014).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
_MASK = 2**64 - 1


@njit(cache=True, nogil=True)
def _mix(z):
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(cache=True, nogil=True)
def _uniform(rng, b):
    """In the open interval (0, 1), from row b's stream."""
    rng[b] += _GOLDEN
    return (np.float64(_mix(rng[b]) >> _S11) + 0.5) * 2.0**-53


@njit(cache=True, nogil=True)
def _normal(rng, b):
    """Box and Muller 1958."""
    radius = math.sqrt(-2.0 * math.log(_uniform(rng, b)))
    return radius * math.cos(2.0 * math.pi * _uniform(rng, b))


@njit(cache=True, nogil=True)
def _log_gamma_draw(rng, b, shape):
    """Log of a Gamma(shape, 1) variate; in logs, as small shapes underflow.

    Marsaglia and Tsang 2000; for shape < 1, Gamma(shape + 1) * U ** (1 / shape).
    """
    boost = 0.0
    if shape < 1.0:
        boost = math.log(_uniform(rng, b)) / shape
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = _normal(rng, b)
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(_uniform(rng, b)) < 0.5 * x * x + d * (1.0 - v + math.log(v)):
            return math.log(d * v) + boost


@njit(cache=True, nogil=True)
def _dirichlet(rng, rows, legal, total, out):
    for i in range(rows.shape[0]):
        count = 0
        for a in range(legal.shape[1]):
            count += legal[i, a]
        top = -np.inf
        for a in range(legal.shape[1]):
            out[i, a] = -np.inf
            if legal[i, a]:
                out[i, a] = _log_gamma_draw(rng, rows[i], total / count)
                top = max(top, out[i, a])
        mass = 0.0
        for a in range(legal.shape[1]):
            out[i, a] = math.exp(out[i, a] - top) if legal[i, a] else 0.0
            mass += out[i, a]
        for a in range(legal.shape[1]):
            out[i, a] /= mass


@njit(cache=True, nogil=True)
def _gumbel(rng, rows, legal, out):
    for i in range(rows.shape[0]):
        for a in range(legal.shape[1]):
            out[i, a] = -math.log(-math.log(_uniform(rng, rows[i]))) if legal[i, a] else 0.0


@njit(cache=True, nogil=True)
def _absorb(words, out):
    for b in range(words.shape[0]):
        for k in range(words.shape[1]):
            out[b] = _mix((out[b] ^ np.uint64(words[b, k])) + _GOLDEN)


def streams(seed: int, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [n]: the first generator state of each (seed, id); ids int64 [n]."""
    start = np.full(len(ids), seed & _MASK, np.uint64)
    _absorb(np.zeros((len(ids), 1), np.uint64), start)
    _absorb(np.asarray(ids, np.int64).view(np.uint64)[:, None], start)
    return start


def dirichlet(
    rng: NDArray[np.uint64], rows: NDArray[np.int64], legal: NDArray[np.bool_], total: float
) -> NDArray[np.float64]:
    """float64 [n, A]: for each of ``rows`` one draw from Dirichlet(alpha) over its legal moves,
    alpha = total / their number; 0 elsewhere. legal: bool [n, A]. Advances ``rng`` [B]."""
    out = np.empty(legal.shape, np.float64)
    _dirichlet(rng, rows, legal, total, out)
    return out


def gumbel(
    rng: NDArray[np.uint64], rows: NDArray[np.int64], legal: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """float64 [n, A]: standard Gumbel draws for the legal moves, 0 elsewhere."""
    out = np.empty(legal.shape, np.float64)
    _gumbel(rng, rows, legal, out)
    return out


def fingerprint(fields: tuple[NDArray[Any], ...], seed: int) -> NDArray[np.uint64]:
    """uint64 [B]: generator states that depend on ``seed`` and each row's contents alone.

    fields: arrays [B, ...] of numbers.
    """
    out = streams(seed, np.zeros(len(fields[0]), np.int64))
    for field in fields:
        flat = np.ascontiguousarray(field).reshape(len(field), -1).view(np.uint8)
        whole = flat.shape[1] % 8 == 0
        _absorb(flat.view(np.uint64) if whole else flat, out)
    return out
