"""CUDA graphs: the launches of a small net's pass, recorded once a batch size and replayed.

A net of boards is some fifty kernels of a few microseconds each; launched one by one the processor
is what they wait for. A replay is one launch. A graph reads and writes the same memory every time,
so each evaluator has graphs of its own, of a few sizes, recorded when a batch first needs one; a
batch is filled up to the next size.

Written after torch's documentation (pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) and tested
on a CPU with a recorder that replays by calling; no GPU has run it. So it is careful: where a net
cannot be recorded, or a recording does not give what the net gives, the net is called as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from selfplay.inference.evaluator import COMPILERS, Evaluator, Run, torch_run
from selfplay.models import DTYPES, NetOutput, placed

SIZES = (16, 64, 256, 512, 1024, 2048, 4096)  #: rows of a graph
CLOSE = 0.02  #: that outputs of a recording may be off, beside the largest of the net's

Forward = Callable[[Tensor], NetOutput]
#: (net, its inputs) -> (what runs it again on what now stands in the inputs, its outputs)
Recorder = Callable[[Forward, Tensor], tuple[Callable[[], object], NetOutput]]
_RECORDING = threading.Lock()  #: one recording at a time in a process


def cuda_recorder(forward: Forward, planes: Tensor) -> tuple[Callable[[], object], NetOutput]:
    """A CUDA graph of ``forward(planes)``, after some calls aside in which libraries choose their
    kernels. Other threads may go on with the GPU meanwhile."""
    aside = torch.cuda.Stream(planes.device)
    aside.wait_stream(torch.cuda.current_stream(planes.device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            forward(planes)
    torch.cuda.current_stream(planes.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = forward(planes)
    return graph.replay, found


class Graphs:
    """A net's forward pass by graphs. For one thread at a time.

    replays: passes made by a graph so far; given_up: why the net is called instead, "" where it is
    not.
    """

    def __init__(self, net: Forward, record: Recorder = cuda_recorder) -> None:
        """net: on its device, in its dtype, ready for inference."""
        self._net, self._record = net, record
        self._graphs: dict[int, tuple[Tensor, Callable[[], object], NetOutput]] = {}
        self.replays, self.given_up = 0, ""

    def __call__(self, planes: Tensor) -> NetOutput:
        """policy and value of planes [n, C, H, W], channels last; valid until the next call."""
        rows = len(planes)
        size = next((size for size in SIZES if size >= rows), None)
        if size is None or self.given_up or not rows:
            return self._net(planes)
        if size not in self._graphs and not self._recorded(size, planes):
            return self._net(planes)
        inputs, replay, out = self._graphs[size]
        inputs[:rows].copy_(planes)
        replay()
        self.replays += 1
        return NetOutput(out.policy[:rows], out.value[:rows], None, None)

    def _recorded(self, size: int, planes: Tensor) -> bool:
        """Record a graph of ``size`` rows; whether it gives what the net gives for ``planes``."""
        inputs = planes.new_zeros((size, *planes.shape[1:])).contiguous(
            memory_format=torch.channels_last)
        inputs[:len(planes)].copy_(planes)
        try:
            with _RECORDING:
                replay, found = self._record(self._net, inputs)
            replay()
            for ours, theirs in zip(found[:2], self._net(inputs)[:2], strict=True):
                far = float((ours - theirs).abs().max())
                if not far <= CLOSE * max(float(theirs.abs().max()), 1.0):
                    raise RuntimeError(f"a recording is off by {far:.2g}")
        except RuntimeError as error:
            self.given_up = str(error).splitlines()[0][:200]
            return False
        self._graphs[size] = inputs, replay, found
        return True


def graph_runs(net: nn.Module, first: Evaluator, count: int, calibration: Any = None) -> list[Run]:
    """A Run for each of ``count`` evaluators like ``first``, with graphs of its own."""
    dtype = DTYPES[first.dtype_name]
    net = placed(net, first.device, dtype)
    return [torch_run(net, first.device, dtype, Graphs(net)) for _ in range(count)]


COMPILERS["graphs"] = graph_runs
