"""Keys and values of what has been read and written, and attention over them, a token at a time.

Axes: n prompts of P tokens, m rows being written (row b answers prompt ``prompt_of[b]``), heads of
width d, of which the queries have some multiple of the keys' (grouped queries).

    start(layer, k, v [n, kv_heads, P, d])         what the prompts left
    select(rows int64 [m])                         row i becomes the old row rows[i]
    attend(layer, q [m, heads, d], k, v [m, kv_heads, d]) -> [m, heads * d]
    advance()                                      after a token's last layer
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor

_NEVER = np.float32(-1e30)  #: a score that softmax makes 0


class Cache(Protocol):
    """See the top of this file."""

    def start(self, layer: int, k: Tensor, v: Tensor) -> None: ...

    def select(self, rows: Tensor) -> None: ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...

    def advance(self) -> None: ...


def cache_for(mask: Tensor, room: int, layers: int, like: Tensor) -> Cache:
    """An empty cache for prompts of ``mask`` bool [n, P], on the device and of the dtype of
    ``like``."""
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return HostCache(mask, room, layers)
    return TensorCache(mask, room, layers)


class TensorCache:
    """Any device: a prompt is repeated for each of its rows, dropped rows are copied out."""

    def __init__(self, mask: Tensor, room: int, layers: int) -> None:
        self.padding = None if bool(mask.all()) else ~mask
        self.room, self.used = room, mask.shape[1]
        self.keys: list[Tensor] = [torch.empty(0)] * layers
        self.values: list[Tensor] = [torch.empty(0)] * layers

    def start(self, layer: int, k: Tensor, v: Tensor) -> None:
        shape = (*k.shape[:2], k.shape[2] + self.room, k.shape[3])
        for held, new in ((self.keys, k), (self.values, v)):
            held[layer] = new.new_empty(shape)
            held[layer][:, :, :k.shape[2]] = new

    def select(self, rows: Tensor) -> None:
        self.padding = None if self.padding is None else self.padding[rows]
        self.keys = [held[rows] for held in self.keys]
        self.values = [held[rows] for held in self.values]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values, end = self.keys[layer], self.values[layer], self.used + 1
        keys[:, :, self.used], values[:, :, self.used] = k, v
        q = q.unflatten(1, (k.shape[1], -1))  # queries that share a key
        scores = (q @ keys[:, :, :end].transpose(2, 3)).float() * q.shape[-1] ** -0.5
        if self.padding is not None:
            width = self.padding.shape[1]
            scores[..., :width].masked_fill_(self.padding[:, None, None], float(_NEVER))
        seen = torch.softmax(scores, -1).to(v.dtype) @ values[:, :, :end]
        return seen.flatten(1)

    def advance(self) -> None:
        self.used += 1


class HostCache:
    """float32 in main memory: rows of a prompt read the same keys, and nothing is ever copied;
    ``select`` moves indices only."""

    def __init__(self, mask: Tensor, room: int, layers: int) -> None:
        self.first = mask.int().argmax(1).numpy()  # of the text behind the padding
        self.room, self.written, self.layers = room, 0, layers
        self.prompt: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.own: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.prompt_of = np.arange(len(mask))
        self.slot = np.arange(len(mask))

    def start(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.prompt[layer] = k.contiguous().numpy(), v.contiguous().numpy()

    def select(self, rows: Tensor) -> None:
        """Rows may be repeated only before the first token is written."""
        index = rows.numpy()
        self.prompt_of = self.prompt_of[index]
        self.slot = self.slot[index] if self.written else np.arange(len(index))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.written == 0:
            shape = (len(self.slot), k.shape[1], self.room, k.shape[2])
            self.own[layer] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        keys, values = self.own[layer]
        keys[self.slot, :, self.written] = k.numpy()
        values[self.slot, :, self.written] = v.numpy()
        end = self.written + 1
        before, behind = self.prompt[layer]
        scores = np.empty((*q.shape[:2], before.shape[2] + end), np.float32)
        _score(q.numpy(), before, keys, self.prompt_of, self.slot, self.first, end, scores)
        weights = torch.softmax(torch.from_numpy(scores), -1).numpy()
        seen = np.empty(tuple(q.shape), np.float32)
        _mix(weights, behind, values, self.prompt_of, self.slot, self.first, end, seen)
        return torch.from_numpy(seen).flatten(1)

    def advance(self) -> None:
        self.written += 1


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _score(q, before, own, prompt_of, slot, first, end, out):
    """out [m, heads, P + end] = q . k / sqrt(d), before [n, kv, P, d], own [slots, kv, room, d]."""
    rows, heads, width = q.shape
    length, shared = before.shape[2], heads // before.shape[1]
    scale = np.float32(1.0 / np.sqrt(width))
    for b in range(rows):
        p, s = prompt_of[b], slot[b]
        for h in range(heads):
            g = h // shared
            for t in range(first[p]):
                out[b, h, t] = _NEVER
            for t in range(first[p], length):
                total = np.float32(0.0)
                for i in range(width):
                    total += q[b, h, i] * before[p, g, t, i]
                out[b, h, t] = total * scale
            for t in range(end):
                total = np.float32(0.0)
                for i in range(width):
                    total += q[b, h, i] * own[s, g, t, i]
                out[b, h, length + t] = total * scale


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _mix(weight, before, own, prompt_of, slot, first, end, out):
    """out [m, heads, d] = sum over tokens of weight [m, heads, P + end] times their values."""
    rows, heads, width = out.shape
    length, shared = before.shape[2], heads // before.shape[1]
    for b in range(rows):
        p, s = prompt_of[b], slot[b]
        for h in range(heads):
            g = h // shared
            for i in range(width):
                out[b, h, i] = np.float32(0.0)
            for t in range(first[p], length):
                w = weight[b, h, t]
                for i in range(width):
                    out[b, h, i] += w * before[p, g, t, i]
            for t in range(end):
                w = weight[b, h, length + t]
                for i in range(width):
                    out[b, h, i] += w * own[s, g, t, i]
