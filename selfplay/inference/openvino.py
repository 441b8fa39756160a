"""A residual net as an OpenVINO graph: the fastest way through it on a CPU.

The graph is built from the modules of ``models.resnet`` (policy and value only) and compiled
anew for new weights, which takes a tenth of a second. In int8 the 3x3 convolutions of the blocks,
nine tenths of the work, multiply 8-bit integers: weights symmetric with a scale per output
channel, activations (behind a ReLU, so from 0 up) with one scale per convolution, taken from the
largest value on some positions (Jacob et al. 2018, arXiv:1712.05877). Stem, heads, pooling and the
sums of the residual stream stay in floating point.

A CPU without VNNI adds pairs of products up in 16 bits, where they can saturate. The nets of runs
stay clear of that, and ``precision`` compares every new set of weights with float32.

openvino is imported only where a net is compiled. With this module an ``Evaluator`` knows int8.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.inference.evaluator import COMPILERS, INT8_FEW, Evaluator, Outputs, Run
from selfplay.models import has_fast_bfloat16
from selfplay.models.resnet import (
    KOMI_SCALE,
    ConvNorm,
    FlatPolicy,
    PointPolicy,
    PoolBlock,
    ResNet,
)

Precision = Literal["int8", "bfloat16", "float32"]
Ranges = dict[nn.Module, float]  #: the convolutions that work in int8, and their largest input

#: Values may grow this much beyond those of the calibration before they are cut off.
HEADROOM = 1.1
LEVELS = 256  #: of an 8-bit activation
WEIGHT_MAX = 127  #: of a signed 8-bit weight; -128 is left out, so that scales are symmetric
INSTALL = ".venv/bin/pip install -c constraints.txt openvino"
#: What it buys, in RESULTS.md: 3.7 times torch's float32 where torch's bfloat16 has 1.8 times, 2.2
#: to 2.6 times where the CPU has AVX2 only.
GAIN = "in int8 a net is about twice as fast"


def available() -> bool:
    """Whether the library can be imported here."""
    try:
        import openvino  # noqa: F401
    except Exception:  # missing, or not made for this machine
        return False
    return True


class CompiledNet:
    """A net of fixed weights: planes in, policy logits and value logits out.

    For one thread at a time (its buffers are its own); several may be used side by side. The
    outputs of a row depend on nothing but its planes.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._planes = self._request.get_input_tensor().data
        self._policy, self._value = (self._request.get_output_tensor(i).data for i in (0, 1))
        self.rows = len(self._planes)  #: at most, a call

    def another(self) -> CompiledNet:
        """The same weights for another thread (see ``streams`` of ``compile_net``)."""
        return CompiledNet(self._compiled)

    def __call__(
        self, planes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(policy float32 [n, A], value float32 [n]): the logits of ``NetOutput``.

        planes: [n, C, H, W], n from 0 to ``batch``, of the dtype of ``compile_net``. The time is
        that of a whole batch. Raises ValueError for planes of another shape or dtype.
        """
        n, room = len(planes), self._planes
        if n > len(room) or planes.shape[1:] != room.shape[1:] or planes.dtype != room.dtype:
            raise ValueError(f"planes {planes.dtype} {planes.shape}: {room.dtype} {room.shape} "
                             "or fewer rows wanted")
        room[:n] = planes
        self._request.infer()
        return self._policy[:n].copy(), self._value[:n].copy()


def compile_net(
    net: nn.Module,
    obs_shape: tuple[int, int, int],
    batch: int,
    precision: Precision,
    ranges: Ranges | None = None,
    threads: int = 1,
    binary: bool = True,
    streams: int = 1,
) -> CompiledNet:
    """``net`` (a ``folded`` ResNet), its weights copied, for up to ``batch`` rows a call.

    precision: int8 for the blocks' 3x3 convolutions, the rest then in bfloat16 where the CPU
        multiplies it, else float32; or all in bfloat16 or float32.
    ranges: of ``find_ranges`` of this net, for int8.
    threads: that one call works with. They are not pinned to cores.
    streams: how many of it (``another``) may be at work side by side.
    binary: planes are uint8 (``Game.obs_binary``), else float32.
    Raises UserError where openvino is missing or refuses, or the net is of another family;
    ValueError for int8 without ranges and for a net that has not been folded.
    """
    ov = _openvino()
    net = _resnet(net)
    if precision == "int8" and ranges is None:
        raise ValueError("int8 wants the ranges of positions to calibrate on")
    quantised = ranges if precision == "int8" and ranges is not None else {}
    graph = _Graph(ov, net, (batch, *obs_shape), np.uint8 if binary else np.float32, quantised)
    floats = precision
    if precision == "int8":
        floats = "bfloat16" if has_fast_bfloat16("cpu") else "float32"
    return CompiledNet(_compile(ov, graph.model(graph.policy, graph.value), floats, threads,
                                streams))


def _resnet(net: nn.Module) -> ResNet:
    """``net`` itself; UserError for another family."""
    if not isinstance(net, ResNet):
        raise UserError(f"{type(net).__name__}: OpenVINO runs nets of the family resnet only; "
                        "choose another backend")
    return net


def _openvino() -> Any:
    try:
        import openvino
    except Exception as error:
        raise UserError(f"OpenVINO cannot be used here ({error}); install it: {INSTALL}") from None
    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    return _openvino().Core()


def _compile(ov: Any, model: Any, precision: str, threads: int, streams: int = 1) -> Any:
    """For the calls of ``streams`` Python threads; the system may move their work about."""
    hint = {"bfloat16": ov.Type.bf16, "float32": ov.Type.f32}[precision]
    try:
        return _core().compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads * streams,
            "ENABLE_CPU_PINNING": False})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"OpenVINO cannot compile this net in {precision} on this machine "
                        f"({reason}); choose another backend") from None


def find_ranges(
    net: nn.Module, obs_shape: tuple[int, int, int], calibration: NDArray[Any] | None
) -> Ranges:
    """The range by which to quantise the input of each convolution in a folded ResNet's blocks.

    calibration: [n, C, H, W], positions of real or random games; 256 are plenty.
    Found by the same library in float32 on one thread: the same bits on every call.
    Raises as ``compile_net``, and ValueError without positions.
    """
    net = _resnet(net)
    if calibration is None or not len(calibration):
        raise ValueError("int8 wants positions to calibrate on")
    ov = _openvino()
    graph = _Graph(ov, net, (len(calibration), *obs_shape), calibration.dtype, {})
    blocks: Iterable[Any] = net.blocks
    trunk = [layer.conv for block in blocks for layer in (block.first, block.second)]
    axes = np.arange(4)
    model = graph.model(*(ov.opset13.reduce_max(graph.conv_inputs[conv], axes) for conv in trunk))
    outputs = _compile(ov, model, "float32", 1)(calibration)
    return {conv: HEADROOM * max(float(outputs[i]), 1e-6) for i, conv in enumerate(trunk)}


class _Graph:
    """The operations of a folded ResNet; the methods mirror the modules of ``models.resnet``.

    ranges: the convolutions that work in int8, and the largest input that they tell apart.
    """

    def __init__(
        self, ov: Any, net: ResNet, shape: tuple[int, int, int, int], dtype: Any,
        ranges: dict[nn.Module, float],
    ) -> None:
        self._ov, self._ops, self._ranges = ov, ov.opset13, ranges
        self._height, self._width = shape[2:]
        self.conv_inputs: dict[nn.Module, Any] = {}  #: before quantisation
        self.planes = self._ops.parameter(shape, dtype)
        board, rest = self._ops.convert(self.planes, np.float32), None
        if net.planes < shape[1]:
            board, rest = self._split(board, net.planes)
        self._inputs = self._komi(rest, net) if net.komi else None
        x = self._conv(board, net.stem)
        for block in net.blocks:
            x = self._block(x, block)
        x = self._ops.relu(x)
        self.policy = self._policy(x, net.policy)
        self.value = self._value_head(x, net)

    def model(self, *outputs: Any) -> Any:
        return self._ov.Model([self._ops.result(node) for node in outputs], [self.planes])

    def _floats(self, values: Any) -> Any:
        return self._ops.constant(np.ascontiguousarray(values, np.float32))

    def _ints(self, values: Iterable[int] | int) -> Any:
        return self._ops.constant(np.array(values, np.int64))

    def _conv(self, x: Any, layer: ConvNorm | nn.Conv2d) -> Any:
        conv = layer.conv if isinstance(layer, ConvNorm) else layer
        if conv.bias is None:
            raise ValueError("a net that has not been folded")
        self.conv_inputs[conv] = x
        weight = _numpy(conv.weight)
        if conv in self._ranges:
            low, high = self._floats(0.0), self._floats(self._ranges[conv])
            x = self._ops.fake_quantize(x, low, high, low, high, LEVELS)
            kernel = self._int8(weight)
        else:
            kernel = self._floats(weight)
        pad = list(conv.padding)
        y = self._ops.convolution(x, kernel, [1, 1], pad, pad, [1, 1])
        return self._ops.add(y, self._floats(_numpy(conv.bias).reshape(1, -1, 1, 1)))

    def _int8(self, weight: NDArray[np.float32]) -> Any:
        """[O, I, h, w], each output channel with its own scale."""
        top = np.abs(weight).max((1, 2, 3), keepdims=True)
        scale = np.where(top > 0, top, 1) / WEIGHT_MAX
        whole = self._ops.constant(np.rint(weight / scale).astype(np.int8))
        return self._ops.multiply(self._ops.convert(whole, np.float32), self._floats(scale))

    def _linear(self, x: Any, layer: nn.Linear) -> Any:
        product = self._ops.matmul(x, self._floats(_numpy(layer.weight)), False, True)
        return self._ops.add(product, self._floats(_numpy(layer.bias).reshape(1, -1)))

    def _bias(self, x: Any, pooled: Any, layer: nn.Linear) -> Any:
        """x [B, C, H, W] + layer(pooled) [B, C]"""
        return self._ops.add(
            x, self._ops.unsqueeze(self._linear(pooled, layer), self._ints((2, 3))))

    def _flat(self, x: Any) -> Any:
        return self._ops.reshape(x, self._ints((0, -1)), True)  # 0: as it is

    def _split(self, x: Any, first: int) -> tuple[Any, Any]:
        """The first channels, and the others."""
        parts = self._ops.variadic_split(x, self._ints(1), self._ints((first, -1)))
        return parts.output(0), parts.output(1)

    def _komi(self, planes: Any, net: ResNet) -> Any:
        """[B, 2], as ``resnet.komi_inputs`` has it; the planes are the same all over the board."""
        bits = self._ops.reduce_max(planes, self._ints((2, 3)), False)
        # a product of matrices would take the scale into its weights, and in bfloat16 round them
        worth = self._ops.multiply(bits, self._floats(_numpy(net.powers).reshape(1, -1)))
        halves = self._ops.reduce_sum(worth, self._ints((1,)), True)
        half, odd = self._split(self._split(bits, 2)[0], 1)
        toward = self._ops.multiply(half, self._ops.subtract(odd, self._floats(0.5)))
        sign = self._floats(1.0 if self._height * self._width % 2 else -1.0)
        return self._ops.concat([
            self._ops.multiply(halves, self._floats(1 / (2 * KOMI_SCALE))),
            self._ops.multiply(toward, sign)], 1)

    def _pool(self, x: Any) -> Any:
        """Pooled features, and the global inputs beside them."""
        axes = self._ints((2, 3))
        mean = self._ops.reduce_mean(x, axes, False)
        scaled = self._ops.multiply(mean, self._floats((self._width - 14) / 10))
        parts = [mean, scaled, self._ops.reduce_max(x, axes, False)]
        return self._ops.concat(parts if self._inputs is None else [*parts, self._inputs], 1)

    def _block(self, x: Any, block: Any) -> Any:
        inner = self._conv(self._ops.relu(x), block.first)
        if isinstance(block, PoolBlock):
            some, inner = self._split(inner, block.pooled)
            inner = self._bias(inner, self._pool(self._ops.relu(some)), block.bias)
        return self._ops.add(x, self._conv(self._ops.relu(inner), block.second))

    def _policy(self, x: Any, head: Any) -> Any:
        inner = self._conv(x, head.first)
        if isinstance(head, FlatPolicy):
            return self._linear(self._flat(self._ops.relu(inner)), head.last)
        assert isinstance(head, PointPolicy)
        some, others = self._split(inner, head.hidden)
        pooled = self._pool(self._ops.relu(some))
        biased = self._bias(others, pooled, head.bias)
        logits = self._flat(self._conv(self._ops.relu(biased), head.points))
        if head.pass_move is None:
            return logits
        return self._ops.concat([logits, self._linear(pooled, head.pass_move)], 1)

    def _value_head(self, x: Any, net: ResNet) -> Any:
        head = net.value
        inner = self._ops.relu(self._conv(x, head.first))
        features = self._flat(inner) if head.flat else self._pool(inner)
        middle = self._ops.relu(self._linear(features, head.middle))
        return self._ops.squeeze(self._linear(middle, head.value), self._ints((1,)))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().numpy()


def int8_runs(
    net: nn.Module, like: Evaluator, count: int, calibration: NDArray[Any] | None
) -> list[Run]:
    """For ``COMPILERS``: a net is compiled for many rows and for few."""
    ranges = find_ranges(net, like.game.obs_shape, calibration)
    sizes = []
    for rows in (min(INT8_FEW, like.max_batch), like.max_batch):
        first = compile_net(net, like.game.obs_shape, rows, "int8", ranges,
                            binary=like.game.obs_binary, streams=count)
        sizes.append([first, *(first.another() for _ in range(count - 1))])
    return [partial(_int8_run, few=few, many=many) for few, many in zip(*sizes, strict=True)]


def _int8_run(obs: NDArray[Any], few: Any, many: Any) -> Outputs:
    if len(obs) > many.rows - few.rows:
        logits, value = many(obs)
    else:
        parts = [few(obs[i : i + few.rows]) for i in range(0, max(len(obs), 1), few.rows)]
        logits, value = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return logits, np.tanh(value)


COMPILERS["int8"] = int8_runs
