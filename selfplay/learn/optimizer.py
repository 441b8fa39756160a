"""The trainer: a net, AdamW, and one step on a batch, whatever the loss and the net are.

The loss is handed in. On a CPU a batch may go in parts, a thread and a replica of the net each; as
in data-parallel training a part's BatchNorms see that part alone, and the running statistics are
the mean over parts. Gradients are added in the order of the parts, so that the weights do not
depend on the number of threads, nor of processes, to the last bit. A net too large for that many
gradients (APART_BYTES) goes through its parts one by one with all of torch's threads and adds up
one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import Breakdown, UserError
from selfplay.common.threads import Workers, replica, torch_alone

MOMENTS = ("exp_avg", "exp_avg_sq")
APART_BYTES = 64 << 20  #: of a gradient, up to which every part of a batch has one of its own

#: (net, a part of a batch) -> (scalar to descend, scalars to watch). Of both the sum over the parts
#: is the batch's.
Loss = Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move (AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float
    weight_decay: float = 0.0
    decay_all: bool = False  #: or matrices only: biases and norms do not decay
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0  #: largest norm of the gradient
    warmup: int = 0  #: steps over which the rate rises from 0
    decay: str = "cosine"  #: or linear
    decay_steps: int = 0  #: step at which the rate has come down to a tenth; 0 leaves it
    times: tuple[tuple[str, float], ...] = ()
    #: (beginning of parameters' names, what their rate is multiplied by)
    ema_decay: float | None = None
    #: of a second set of weights that acts, a step; 0: they are the weights; None: there is none
    fused: bool = True


class Trainer:
    """A net in training, its optimizer and, where asked for, the running average of its weights.

    net is trained in place: those of its parameters that want a gradient.
    parts: cuts a batch for threads, each part a thread's own work; None leaves it whole, with as
    many of torch's threads as it is set to use, and as one process's work. one_by_one: parts go
    through the net one after the other. mode: that the net is put in for a step; None is the one
    it is in. called: what a step is called in messages.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, config: OptimizerConfig, *, device: str = "cpu",
        parts: Callable[[Any], Sequence[Any]] | None = None, mode: bool | None = None,
        called: str = "training step", one_by_one: bool = False,
    ) -> None:
        self.net, self.loss, self.config, self.parts = net, loss, config, parts
        self.mode, self.called = mode, called
        self.steps = self.forgot = 0  #: so far; of them before ``forget``
        self.learning_rate = config.learning_rate  #: before warm-up and schedule; may be set
        self.named = {n: p for n, p in net.named_parameters() if p.requires_grad}
        self._optimizer = _adamw(self.named, config)
        self._average: _Average | None = None
        if config.ema_decay is not None:
            self._average = _Average(net, config.ema_decay)
        size = 4 * sum(p.numel() for p in self.named.values())
        self.sharded = ranks.here().sharded(net)  #: its weights are shared out among processes
        on_cpu = torch.device(device).type == "cpu"
        #: whether the parts of a batch have a replica and a gradient each
        self.apart = parts is not None and on_cpu and not one_by_one and not self.sharded and (
            mode is True or size <= APART_BYTES)
        self._replicas = [Replica(net)]
        self._workers: Workers | None = None

    def inference_net(self) -> nn.Module:
        """The net that acts: averaged weights in eval mode, if there are any. Not a copy: the next
        step moves it."""
        return self.net if self._average is None else self._average.net

    def step(self, batch: Any) -> dict[str, float]:
        """Train on one batch: the loss, what else is watched, and grad_norm before clipping.

        Raises Breakdown if the loss or its gradient is not finite; the weights are then as they
        were before the step.
        """
        figures = self.gradient(batch)
        self.must_be_sound("loss", figures["loss"])
        return {**figures, "grad_norm": self.descend()}

    def gradient(self, batch: Any) -> dict[str, float]:
        """Leave the gradient of the batch's loss in the net's parameters: the loss and what else
        is watched."""
        every = [batch] if self.parts is None else list(self.parts(batch))
        parts = [every[k] for k in ranks.share(len(every))]
        mine = len(parts)
        if self.sharded:  # where the others wait in every part
            parts += every[:1] * (-(-len(every) // ranks.here().size) - mine)
        parts = parts or every[:1]  # those behind ``mine`` count for nothing
        self._prepare(len(parts))
        replicas = self._replicas[: len(parts)] if self.apart else self._replicas * len(parts)
        with self._threads():
            for one in replicas:
                one.begin(self._replicas[0], self.mode)
            counts = [k < mine for k in range(len(parts))]
            jobs = list(zip(replicas, parts, counts, strict=True))
            work = map(self._part, jobs) if self._workers is None else self._workers.map(
                self._part, jobs)
            found = list(work)
            figures = torch.stack([torch.stack([f.float() for f in one.values()]) for one in found])
            if ranks.here().size > 1:
                figures = ranks.here().added(self, replicas, figures[:mine], len(every))
            elif self.apart:
                _sum_gradients(replicas)
                if self.net.training:
                    _mean_buffers(replicas)
        sums = figures.sum(0)
        return dict(zip(found[0], sums.tolist(), strict=True))  # a GPU is waited for once

    def descend(self) -> float:
        """Move the weights by the gradient that is there; its norm before clipping.

        Raises Breakdown where that is not finite.
        """
        with self._threads():
            norm = float(ranks.here().whole(nn.utils.clip_grad_norm_(
                list(self.named.values()), self.config.grad_clip, foreach=True)))
            self.must_be_sound("gradient", norm)
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate() * group["times"]
            self._optimizer.step()
            self.steps += 1
            if self._average is not None:
                self._average.update(self.steps)
        return norm

    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.learning_rate * min(1.0, (self.steps + 1) / max(self.config.warmup, 1))
        if self.config.decay_steps:
            done = min(self.steps / self.config.decay_steps, 1.0)
            left = (1 + math.cos(math.pi * done)) / 2 if self.config.decay == "cosine" else 1 - done
            rate *= 0.1 + 0.9 * left
        return rate

    def forget(self) -> None:
        """Let the optimizer begin anew: without moments, as at the first step."""
        self._optimizer.state.clear()
        self.forgot = self.steps

    def _threads(self) -> Any:
        return torch_alone() if self.apart else nullcontext()

    def _part(self, job: tuple[Replica, Any, bool]) -> dict[str, Tensor]:
        one, part, counts = job
        loss, watched = self.loss(one.net, part)
        (loss if counts else 0 * loss).backward()
        return {"loss": loss.detach(), **{key: f.detach() for key, f in watched.items()}}

    def _prepare(self, parts: int) -> None:
        """As many replicas as parts, and a thread for each, as far as torch may use so many."""
        if not self.apart:
            return
        while len(self._replicas) < parts:
            self._replicas.append(Replica(replica(self.net)))
        threads = min(torch.get_num_threads(), parts)
        if self._workers is None or self._workers.threads != threads:
            self._workers = Workers(threads)

    def must_be_sound(self, what: str, value: float, most: float = math.inf) -> None:
        """Raises Breakdown for a ``value`` that is not finite or is above ``most``."""
        if not (math.isfinite(value) and value <= most):
            raise Breakdown(f"{self.called} {self.steps + 1}: the {what} is {value:.3g}, which "
                            f"asks for a lower learning rate (it is {self.learning_rate:g})")

    def held_bytes(self) -> int:
        """What this process holds of the weights that learn and of their moments."""
        held = [*self.named.values(), *(moments[key] for moments in self._optimizer.state.values()
                                        for key in MOMENTS)]
        return sum(ranks.here().part(tensor).nbytes for tensor in held)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON types): all that training depends on beside its batches.

        Tensors are named net.NAME, exp_avg.NAME, exp_avg_sq.NAME: of what is trained, with an
        average (average.NAME) of all that the net has.
        """
        kept = ranks.here().kept
        if self._average is None:
            tensors = {f"net.{name}": kept(p.detach()) for name, p in self.named.items()}
        else:
            tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
            tensors |= {f"average.{k}": v for k, v in self._average.net.state_dict().items()}
        for name, parameter in self.named.items():
            state = self._optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": kept(state[key]) for key in MOMENTS if key in state}
        return tensors, {"steps": self.steps, "learning_rate": self.learning_rate,
                         "forgot": self.forgot}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on exactly where ``state`` was taken. Raises UserError if it is another net's."""
        try:
            self._load_weights(tensors)
            self.steps, self.forgot = int(numbers["steps"]), int(numbers.get("forgot", 0))
            self.learning_rate = float(numbers["learning_rate"])
            for name, parameter in self.named.items() if self.steps else ():
                self._load_moments(parameter, [tensors.get(f"{key}.{name}") for key in MOMENTS])
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the training state is of another net and does not fit this net "
                            f"({reason}); give --run another name, or go on with the net that the "
                            "run was started with") from None

    @torch.no_grad()
    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        mine = under(tensors, "net.")
        if self._average is not None:
            self.net.load_state_dict(mine)
            self._average.net.load_state_dict(under(tensors, "average."))
            return
        if odd := mine.keys() ^ self.named.keys():
            raise KeyError(f"{min(odd)} is in one of them only")
        for name, parameter in self.named.items():
            parameter.copy_(ranks.here().like(mine[name], parameter))

    def _load_moments(self, parameter: Tensor, moments: list[Tensor | None]) -> None:
        state = self._optimizer.state[parameter]
        for key, moment in zip(MOMENTS, moments, strict=True):
            if moment is None:  # it has never had a gradient
                del self._optimizer.state[parameter]
                return
            # in the parameter's memory layout, which AdamW's kernel relies on
            state[key] = torch.zeros_like(parameter, requires_grad=False)
            state[key].copy_(ranks.here().like(moment, parameter))
        state["step"] = torch.tensor(float(self.steps - self.forgot),
                                     device=parameter.device if self.config.fused else "cpu")


class _Average:
    """average += (1 - d) (weights - average), d = min(decay, (1 + steps) / (10 + steps)).

    The second term lets the average forget the first, untrained weights. BatchNorm's running
    statistics are averaged like weights; its counts of steps are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = copy.deepcopy(net).eval().requires_grad_(False), decay
        self._floats = [[t for t in some.state_dict().values() if t.is_floating_point()]
                        for some in (self.net, net)]
        self._counts = [[t for t in some.state_dict().values() if not t.is_floating_point()]
                        for some in (self.net, net)]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.decay else 0.0
        averaged, new = self._floats
        torch._foreach_lerp_(averaged, new, 1 - decay)
        for mine, theirs in zip(*self._counts, strict=True):
            mine.copy_(theirs)


class Replica:
    """A net and lists of its tensors: to walk through its modules takes longer than to add them up.

    floats: running statistics; the other buffers count steps.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.parameters, self.buffers = list(net.parameters()), list(net.buffers())
        self.floats = [b for b in self.buffers if b.is_floating_point()]

    @torch.no_grad()
    def begin(self, original: Replica, mode: bool | None) -> None:
        """No gradient yet, and the statistics of ``original``."""
        wanted = original.net.training if mode is None else mode
        if self.net.training is not wanted:
            self.net.train(wanted)
        for parameter in self.parameters:
            parameter.grad = None
        if self is not original and self.buffers:
            torch._foreach_copy_(self.buffers, original.buffers)


@torch.no_grad()
def _sum_gradients(replicas: list[Replica]) -> None:
    """In the first; in order, whichever was ready first. A part may have none where it has not
    used a part of the net."""
    first, *others = replicas
    for other in others:
        both = []
        for mine, theirs in zip(first.parameters, other.parameters, strict=True):
            if theirs.grad is not None and mine.grad is not None:
                both.append((mine.grad, theirs.grad))
            elif theirs.grad is not None:
                mine.grad = theirs.grad
        if both:
            torch._foreach_add_(*(list(side) for side in zip(*both, strict=True)))


@torch.no_grad()
def _mean_buffers(replicas: list[Replica]) -> None:
    total = replicas[0].floats
    if len(replicas) > 1 and total:
        for other in replicas[1:]:
            torch._foreach_add_(total, other.floats)
        torch._foreach_div_(total, len(replicas))


def _adamw(named: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    rest = config.weight_decay if config.decay_all else 0.0
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, p in named.items():
        times = next((x for start, x in config.times if name.startswith(start)), 1.0)
        groups.setdefault((times, p.ndim > 1), []).append(p)
    return torch.optim.AdamW(
        [{"params": some, "times": times, "weight_decay": config.weight_decay if matrix else rest}
         for (times, matrix), some in groups.items()],
        lr=config.learning_rate, betas=config.betas, fused=config.fused or None)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those named PREFIX..., without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def counter(tell: Callable[[str, int, int], None], what: str, total: int) -> Callable[[int], None]:
    """A counter: each call adds to what is done and tells ``tell(what, done, total)``."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        tell(what, done, total)

    return add
