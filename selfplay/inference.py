"""Leaves in, priors and values out: the net as search and players call it.

The net is copied, its BatchNorms are folded into the convolutions, and on hardware that
multiplies bfloat16 it runs in bfloat16 with channels last (on a Zen 4 core two to three times as
fast as float32 as the net stands).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.cache import EvaluationCache
from selfplay.errors import UserError
from selfplay.games.base import Game
from selfplay.models import choose_dtype, folded
from selfplay.threads import Workers

#: Rows of one forward pass: more gain nothing on a CPU's caches; a GPU wants many.
MAX_BATCH = {"cpu": 128, "cuda": 4096}
#: Rows of a thread's part of a call that is spread over threads.
SPREAD_ROWS = 32
#: On a CPU an odd batch is filled up to a multiple of this: oneDNN compiles a kernel per shape.
CPU_MULTIPLE = 16


class Evaluator:
    """A copy of a net, ready for use as an ``Evaluate``.

    net: any net of ``models``; its weights are copied, later training does not change them.
    dtype: "auto" (bfloat16 where the device multiplies it), "float32" or "bfloat16".
    cache_mb: megabytes for outputs that calls (not ``forward``) remember until the next ``load``.
    workers: threads for the parts, of ``max_batch`` rows, of one call; None is the caller's, with
        as many of torch's as it is set to use.
    Raises UserError for another dtype, or a device that is not there.
    """

    def __init__(
        self,
        net: nn.Module,
        game: Game,
        device: str = "cpu",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        max_batch: int | None = None,
        cache_mb: float = 0,
        workers: Workers | None = None,
    ) -> None:
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {device}: no CUDA device here; use --device cpu")
        if dtype not in ("auto", "float32", "bfloat16"):
            raise UserError(f"dtype {dtype!r}: auto, float32 or bfloat16 wanted")
        self._dtype = choose_dtype(dtype, device)
        self.dtype_name = str(self._dtype).removeprefix("torch.")
        self.game, self.device = game, torch.device(device)
        self.max_batch = max_batch or MAX_BATCH.get(kind, MAX_BATCH["cuda"])
        self.evaluations = 0  #: positions evaluated so far
        self.workers = workers
        self.cache = EvaluationCache(cache_mb, game.num_actions) if cache_mb else None
        self._multiple = CPU_MULTIPLE if kind == "cpu" else 1
        self.load(net)

    def load(self, source: nn.Module | Mapping[str, Tensor]) -> None:
        """Act on new weights: a net, or the state_dict of a net like the one before."""
        if isinstance(source, nn.Module):
            self._source = source
        else:
            self._source = copy.deepcopy(self._source)  # not into somebody else's net
            self._source.load_state_dict(source)
        training = self._source.training
        net = folded(self._source.eval())
        self._source.train(training)
        if self.cache is not None:
            self.cache.clear()
        self._net = net.to(self.device, self._dtype, memory_format=torch.channels_last)

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(logits float32 [n, A], value float32 [n] for the side to move).

        Logits are of all actions, illegal ones included. states: n rows, n may be 0.
        legal: bool [n, A], not needed by a net.
        """
        obs = self.game.observe(states)
        return self.forward(obs) if self.cache is None else self.cache(obs, self.forward)

    def forward(self, obs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As a call, of observations [n, C, H, W] (any number type)."""
        logits = np.empty((len(obs), self.game.num_actions), np.float32)
        value = np.empty(len(obs), np.float32)
        starts = range(0, len(obs), self.max_batch)

        def run(start: int) -> None:
            part = slice(start, start + self.max_batch)
            self._chunk(obs[part], logits[part], value[part])

        if self.workers is None:
            list(map(run, starts))
        else:
            self.workers.map(run, starts)
        self.evaluations += len(obs)
        return logits, value

    @torch.inference_mode()
    def _chunk(self, obs: NDArray[Any], logits: NDArray[Any], value: NDArray[Any]) -> None:
        rows = len(obs)
        size = -(-rows // self._multiple) * self._multiple
        planes = torch.zeros((size, *obs.shape[1:]), dtype=self._dtype, device=self.device)
        planes[:rows] = torch.from_numpy(obs).to(self.device)
        out = self._net(planes.contiguous(memory_format=torch.channels_last))
        logits[:] = out.policy[:rows].float().cpu().numpy()
        value[:] = out.value[:rows].float().tanh().cpu().numpy()


def spread(net: nn.Module, game: Game, device: str = "cpu") -> Evaluator:
    """An Evaluator whose every call is spread over as many threads as torch is set to use."""
    if torch.device(device).type != "cpu":
        return Evaluator(net, game, device)
    return Evaluator(net, game, device, max_batch=SPREAD_ROWS,
                     workers=Workers(torch.get_num_threads()))
