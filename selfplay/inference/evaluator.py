"""Leaves in, priors and values out: the net as search and players call it.

The net is copied, its BatchNorms are folded into the convolutions, and on hardware that
multiplies bfloat16 it runs in bfloat16 with channels last (on a Zen 4 core two to three times as
fast as float32 as the net stands).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selfplay.common.errors import UserError
from selfplay.common.threads import Workers, keep_freed_memory
from selfplay.games.rules import Rules
from selfplay.inference.cache import EvaluationCache
from selfplay.models import DTYPES, choose_dtype, folded, padded_rows, placed

Dtype = Literal["auto", "float32", "bfloat16", "int8"]

#: Rows of one forward pass: on a CPU twice as many gain some 5%, and halve the groups for its
#: cores; a GPU wants many.
MAX_BATCH = {"cpu": 128, "cuda": 4096}
#: Rows of one pass in int8; a net is compiled for so many, and the time is theirs however many
#: are used: the large one where nearly all are, else the small one as often as it takes.
INT8_ROWS, INT8_FEW = 64, 16

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]  #: (logits [n, A], value [n])
Run = Callable[[NDArray[Any]], Outputs]  #: of observations [n, C, H, W], n at most ``max_batch``
#: What evaluates in place of torch's plain calls: ``openvino`` brings int8, ``graphs`` graphs, for
#: GPUs. -> (folded net, an evaluator of its kind, how many, calibration) -> a Run for each.
COMPILERS: dict[str, Callable[..., Sequence[Run]]] = {}


class Evaluator:
    """A copy of a net, ready for use as an ``Evaluate``. For one thread at a time.

    net: any net of ``models``; its weights are copied, so later training does not change them.
        None: ``load`` must come before the first evaluation.
    dtype: "auto" (bfloat16 where the device multiplies it), "float32", "bfloat16", or "int8"
        (OpenVINO, see ``openvino``), which wants ``calibration`` [n, C, H, W], positions to take
        its ranges from.
    cache_mb: megabytes for outputs that calls (not ``forward``) remember until the next ``load``.
    workers: threads for the parts, of ``max_batch`` rows, of one call; None is the caller's, with
        as many of torch's as it is set to use. Not for int8.
    Raises UserError for another dtype, or a device that is not there.

    >>> import selfplay as sp
    >>> game = sp.make("tictactoe")
    >>> evaluate = sp.Evaluator(sp.net(game, "1x8"), game)
    >>> states = game.new(5)
    >>> logits, value = evaluate(states, game.legal(states))
    >>> logits.shape, value.shape, evaluate.evaluations
    ((5, 9), (5,), 5)
    """

    def __init__(
        self, net: nn.Module | None, game: Rules, device: str = "cpu", dtype: Dtype = "auto",
        max_batch: int | None = None, cache_mb: float = 0, workers: Workers | None = None,
        calibration: NDArray[Any] | None = None,
    ) -> None:
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {device}: no CUDA device here; use --device cpu")
        if dtype not in get_args(Dtype):
            raise UserError(f"dtype {dtype!r}: {', '.join(get_args(Dtype))} wanted")
        if dtype == "int8" and kind != "cpu":
            raise UserError("dtype int8: on a CPU only; take auto")
        self.game, self.device, self._most = game, torch.device(device), max_batch
        self.evaluations = 0  #: positions evaluated so far
        self.workers = workers
        self.graphs = kind == "cuda" and workers is None  #: whether passes may be recorded
        self.cache = EvaluationCache(cache_mb, game.num_actions) if cache_mb else None
        if dtype == "int8" and workers is not None:
            raise ValueError("int8: its buffers are for one thread; no workers")
        if dtype == "int8" and dtype not in COMPILERS:
            raise ValueError("int8: import selfplay.inference.openvino first")
        keep_freed_memory()
        self._run: Run = _nothing_loaded
        self.change(dtype)
        if net is not None:
            self.load(net, calibration)

    def twin(self) -> Evaluator:
        """Another with the same weights and no memory, for a thread besides this one's; on a CPU,
        and not in int8."""
        other = copy.copy(self)
        other.evaluations, other.workers, other.cache = 0, None, None
        return other

    def change(self, dtype: Dtype) -> None:
        """Evaluate in another dtype from the next ``load`` on."""
        plain = "int8" if dtype == "int8" else choose_dtype(dtype, str(self.device))
        self.dtype_name = str(plain).removeprefix("torch.")
        kind = self.device.type
        self.max_batch = self._most or (INT8_ROWS if dtype == "int8" else
                                        MAX_BATCH.get(kind, MAX_BATCH["cuda"]))

    def load(self, net: nn.Module, calibration: NDArray[Any] | None = None) -> None:
        """Evaluate by new weights, those of a net of the same shape as before."""
        load_all([self], net, calibration)

    def use(self, run: Run) -> None:
        """Evaluate by ``run`` from now on."""
        if self.cache is not None:
            self.cache.clear()
        self._run = run

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(logits float32 [n, A], value float32 [n] for the side to move).

        Logits are of all actions, illegal ones included. states: n rows, n may be 0.
        legal: bool [n, A], not needed by a net.
        """
        obs = self.game.observe(states)
        return self.forward(obs) if self.cache is None else self.cache(obs, self.forward)

    def forward(self, obs: NDArray[Any]) -> Outputs:
        """As a call, but for observations [n, C, H, W] (any number type), and never cached."""
        self.evaluations += len(obs)
        return self.run(obs)

    def run(self, obs: NDArray[Any]) -> Outputs:
        """``forward`` without counting it in ``evaluations``."""
        logits = np.empty((len(obs), self.game.num_actions), np.float32)
        value = np.empty(len(obs), np.float32)

        def some(start: int) -> None:
            part = slice(start, start + self.max_batch)
            logits[part], value[part] = self._run(obs[part])

        starts = range(0, len(obs), self.max_batch)
        if self.workers is None:
            list(map(some, starts))
        else:
            self.workers.map(some, starts)
        return logits, value


def _nothing_loaded(obs: NDArray[Any]) -> Outputs:
    raise ValueError("an Evaluator without a net: call load first")


def load_all(
    evaluators: Sequence[Evaluator], net: nn.Module, calibration: NDArray[Any] | None = None
) -> None:
    """Load the weights of ``net`` into evaluators of one game, dtype and device."""
    first, training = evaluators[0], net.training
    fast = folded(net.eval())
    net.train(training)
    kind = "graphs" if first.graphs else first.dtype_name
    if kind in COMPILERS:
        runs = COMPILERS[kind](fast, first, len(evaluators), calibration)
    else:
        runs = [torch_run(fast, first.device, DTYPES[first.dtype_name])] * len(evaluators)
    for evaluator, run in zip(evaluators, runs, strict=True):
        evaluator.use(run)


def torch_run(
    net: nn.Module, device: torch.device, dtype: torch.dtype, recorded: Any = None,
) -> Run:
    """Several threads may call it at once. recorded: called in the net's place."""
    net = placed(net, device, dtype)
    forward, on_cpu = recorded or net, device.type == "cpu"

    @torch.inference_mode()
    def run(obs: NDArray[Any]) -> Outputs:
        rows = len(obs)
        size = padded_rows(rows) if on_cpu else rows
        planes = torch.zeros((size, *obs.shape[1:]), dtype=dtype, device=device)
        planes[:rows] = torch.from_numpy(obs).to(device)
        out = forward(planes.contiguous(memory_format=torch.channels_last))
        return (out.policy[:rows].float().cpu().numpy(),
                out.value[:rows].float().tanh().cpu().numpy())

    return run
