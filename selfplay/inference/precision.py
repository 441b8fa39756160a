"""The arithmetic of self-play's net: the fastest on this machine that agrees with float32.

The choice is measured, so it is saved beside the run's checkpoints, and a run continues in the
arithmetic that it began in. Where the config names a dtype, nothing is measured.

``ActorNets`` holds the nets that play: an evaluator for every group of games, in that arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from selfplay.common.errors import UserError
from selfplay.common.files import read_json, write_json
from selfplay.common.threads import torch_alone
from selfplay.games.rules import Rules
from selfplay.inference import (
    graphs,  # noqa: F401  whoever imports this has graphs on a GPU
    openvino,
)
from selfplay.inference.actors import groups_of
from selfplay.inference.evaluator import Dtype, Evaluator, Outputs, load_all
from selfplay.models import has_fast_bfloat16

POSITIONS = 256  #: that dtypes are compared on
#: Multiplications a position below which int8 is not tried: the search costs more than such a net.
LEAST_WORK = 2_000_000
KOMI_SPREAD = 30  #: half points either way
BURSTS, SECONDS = 3, 0.15  #: of work behind the speed of one
#: Beyond these a dtype is not trusted. The best move alone says little: near ties change places.
LEAST_SAME, MOST_KL, MOST_VALUE = 0.93, 0.003, 0.02


@dataclass(frozen=True)
class Agreement:
    """How far the outputs in a dtype agree with those in float32."""

    same: float  #: share of positions with float32's most probable move
    kl: float  #: mean KL(float32 || dtype) of the policies, nats
    value: float  #: mean absolute difference of the values

    def good(self) -> bool:
        """Whether the agreement is enough to learn from; False for NaN."""
        return self.same >= LEAST_SAME and self.kl <= MOST_KL and self.value <= MOST_VALUE

    def __str__(self) -> str:
        return f"float32's best move in {self.same:.1%} of positions, KL {self.kl:.1e}"


@dataclass(frozen=True)
class Trial:
    """One dtype: how fast one core evaluates in it (positions/s), and its agreement."""

    dtype: Dtype
    rate: float
    agreement: Agreement


def random_positions(game: Rules, seed: int = 0, count: int = POSITIONS) -> NDArray[Any]:
    """Observations [count, C, H, W] of positions up to half of the board into random games.

    They calibrate int8 as well as real games do, and make the outputs depend on the weights
    alone. Komi varies, where there is any.
    """
    rng = np.random.default_rng([seed, 0xA7])
    states = game.new(count)
    if game.komi_planes:
        states.komi[:] += np.linspace(-KOMI_SPREAD, KOMI_SPREAD, count).astype(np.int16)
    until = rng.integers(0, max(2, game.board_shape[0] * game.board_shape[1] // 2), count)
    for ply in range(until.max()):
        legal = game.legal(states) & (ply < until)[:, None]
        moves = (legal * rng.random(legal.shape)).argmax(1)
        game.step(states, np.where(legal.any(1), moves, -1))
    return game.observe(states)


def agree(
    expected: Outputs, found: Outputs, legal: NDArray[np.bool_] | None = None
) -> Agreement:
    """expected: float32's outputs; found: those of another dtype on the same positions; legal: bool
    [n, A], at least one True a row, the moves that count, or None for all."""
    legal = np.ones(expected[0].shape, np.bool_) if legal is None else legal
    theirs, ours = _log_policy(expected[0], legal), _log_policy(found[0], legal)
    difference = np.subtract(theirs, ours, out=np.zeros_like(ours), where=legal)
    return Agreement(
        same=float((theirs.argmax(1) == ours.argmax(1)).mean()),
        kl=float((np.exp(theirs) * difference).sum(1).mean()),
        value=float(np.abs(expected[1] - found[1]).mean()))


def candidates(device: str) -> list[Dtype]:
    """The dtypes that may be faster than float32 on this device."""
    found: list[Dtype] = ["bfloat16"] if has_fast_bfloat16(device) else []
    if device == "cpu" and openvino.available():
        found.append("int8")
    return found


def trials(
    net: nn.Module, game: Rules, positions: NDArray[Any], dtypes: list[Dtype], batch: int
) -> list[Trial]:
    """Float32 and ``dtypes`` on ``positions`` [n, C, H, W], in turn, ``batch`` rows at a time on
    one core. A dtype that this machine's libraries refuse is left out."""
    ranges = random_positions(game)
    with torch_alone():
        made: dict[Dtype, Evaluator] = {}
        for dtype in ("float32", *dtypes):
            with suppress(UserError):
                made[dtype] = Evaluator(net, game, dtype=dtype, calibration=ranges)
        outputs = {dtype: evaluator.forward(positions) for dtype, evaluator in made.items()}
        rates = [{dtype: _rate(evaluator, positions[:batch]) for dtype, evaluator in made.items()}
                 for _ in range(BURSTS)]
    return [Trial(dtype, max(burst[dtype] for burst in rates),  # others can only slow it down
                  agree(outputs["float32"], outputs[dtype])) for dtype in made]


def fastest_sound(found: list[Trial]) -> Trial:
    """The fastest that agrees with float32; float32 itself always does.

    Raises FloatingPointError where it does not agree with itself.
    """
    good = [t for t in found if t.agreement.good()]
    if not good:
        raise FloatingPointError("the net's outputs are not finite; it has diverged, take an "
                                 "earlier checkpoint")
    return max(good, key=lambda t: t.rate)


def work(net: nn.Module, game: Rules) -> int:
    """Multiplications of the net's convolutions for one position."""
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    return weights * game.cells


def must_have_int8() -> None:
    """Raises UserError where int8 is not available."""
    if not openvino.available():
        raise UserError(f"rl.dtype=int8: {without_openvino('cpu')}, or take --set rl.dtype=auto")


def without_openvino(device: str) -> str:
    """What OpenVINO would gain and how to install it; "" where it is installed or of no use."""
    if device != "cpu" or openvino.available():
        return ""
    return f"OpenVINO is not installed ({openvino.GAIN}): {openvino.INSTALL}"


def _rate(evaluator: Evaluator, obs: NDArray[Any]) -> float:
    evaluator.forward(obs)
    start, done = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < SECONDS:
        evaluator.forward(obs)
        done += len(obs)
    return done / (now - start)


def _log_policy(logits: NDArray[np.float32], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [n, A]: log-probabilities over legal moves, -inf for the others."""
    masked = np.where(legal, logits.astype(np.float64), -np.inf)
    masked -= masked.max(1, keepdims=True)
    return masked - np.log(np.exp(masked).sum(1, keepdims=True))


DTYPES_NOTED = ("float32", "bfloat16", "int8")


class ActorSettings(Protocol):
    """The settings of self-play that matter here: games at once, sizes of their boards, dtype,
    cache in megabytes."""

    @property
    def games(self) -> int: ...

    @property
    def sizes(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> Dtype: ...

    @property
    def cache_mb(self) -> int: ...


class ActorNets:
    """One evaluator a group; new weights are loaded into all of them at once.

    note: the file that keeps the dtype that the run evaluates in. fresh: nothing has been played
    yet, so that ``rl.dtype=auto`` may choose. positions: makes observations [n, C, H, W] of real
    games, on which dtypes are compared.
    Raises UserError for a damaged note, and where a dtype that is named cannot be had here.
    """

    def __init__(
        self, game: Rules, net: nn.Module, config: ActorSettings, note: Path, device: str,
        positions: Callable[[], NDArray[Any]], fresh: bool = True,
    ) -> None:
        self.game, self.device, self.note = game, device, note
        self._positions = positions
        groups = groups_of(game, config.games, device, config.sizes)
        self.said = ""  #: what there is to say of a choice just made
        self.agreement: Agreement | None = None  #: of these weights in int8
        dtype = self._dtype(net, config.dtype, groups[0][1], fresh)
        self.said = self.said or f"self-play in {_by_torch(device) if dtype == 'auto' else dtype}"
        self._ranges = {board: random_positions(board)
                        for board, _ in groups} if dtype == "int8" else {}
        self.evaluators = [Evaluator(None, board, device, dtype,
                                     cache_mb=config.cache_mb / len(groups)) for board, _ in groups]
        self.load(net)

    def load(self, net: nn.Module) -> None:
        """Play by the weights of ``net``. Where these disagree with float32 in int8, the rest of
        the run plays in bfloat16 or float32."""
        for board in dict.fromkeys(e.game for e in self.evaluators):  # int8 is compiled for one
            load_all([e for e in self.evaluators if e.game is board], net, self._ranges.get(board))
        if self.evaluators[0].dtype_name != "int8":
            return
        positions = self._positions()
        with torch_alone():
            expected = Evaluator(net, self.game, dtype="float32").forward(positions)
        self.agreement = agree(expected, self.evaluators[0].run(positions))
        if not self.agreement.good():
            plain = _by_torch(self.device)
            self.said = f"int8 has only {self.agreement}: {plain} from now on"
            self.agreement = None
            write_json(self.note, {"dtype": plain, "left": "int8"})
            for evaluator in self.evaluators:
                evaluator.change(plain)
            load_all(self.evaluators, net)

    def figures(self) -> dict[str, float]:
        """Columns for the history: int8's agreement with float32, where int8 plays."""
        found = {} if self.agreement is None else asdict(self.agreement)
        return {f"int8_{key}": value for key, value in found.items()}

    def _dtype(self, net: nn.Module, named: Dtype, batch: int, fresh: bool) -> Dtype:
        """The dtype that the run has played in; else the one named, else the fastest here."""
        noted = self._noted()
        if named not in ("auto", "int8"):
            return named
        if noted.get("left") == "int8":
            return noted["dtype"]
        if named == "int8":
            return named
        known: list[Dtype] = ["float32", *candidates(self.device)]
        dtype: Dtype = noted.get("dtype") or _by_torch(self.device)
        if dtype not in known:
            self.said = f"{dtype} cannot be had here: {_by_torch(self.device)} from now on"
            dtype = _by_torch(self.device)
        measured: list[Trial] = []
        choice = fresh and not noted and work(net, self.game) >= LEAST_WORK
        if choice and "int8" in known:
            measured = trials(net, self.game, self._positions(), known[1:], batch)
            best = fastest_sound(measured)
            dtype = best.dtype
            self.said = f"self-play in {dtype}" + (
                "" if dtype == "float32" else f", {best.rate / measured[0].rate:.1f} times "
                f"float32's speed, {best.agreement}")
        elif choice and (advice := without_openvino(self.device)):
            self.said = f"self-play in {dtype}; {advice}"
        write_json(self.note, {"dtype": dtype, "trials": [asdict(t) for t in measured]})
        return dtype

    def _noted(self) -> dict[str, Any]:
        if not self.note.exists():
            return {}
        found = read_json(self.note, dict)
        if found.get("dtype") not in DTYPES_NOTED:
            raise UserError(f"{self.note}: damaged; delete it and run the same command again")
        return found


def _by_torch(device: str) -> Dtype:
    """torch's own choice."""
    return "bfloat16" if has_fast_bfloat16(device) else "float32"
