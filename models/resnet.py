"""A residual net for boards: pre-activated blocks, global pooling, policy and value heads.

Blocks are pre-activated (He et al. 2016, arXiv:1603.05027) and every second one pools globally
(KataGo: Wu 2019, arXiv:1902.10565). Unlike there, each BatchNorm
stands right behind a convolution, so that for inference all of them fold into the convolutions
(``folded``) and nothing but convolutions, additions and ReLUs is left.

Komi is a global input, beside the pooled features: as a plane for the convolutions it would cost
more, and seem smaller at the edge. One set of weights serves boards of several sizes.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

POOL_EVERY = 2  #: blocks 1, 3, 5 ... (from 0) pool globally
HEAD_CHANNELS = 32  #: at most
SCORE_SCALE = 20.0  #: points per unit of the score head, so that its weights stay small
KOMI_SCALE = 10.0  #: points per unit of the komi as an input
KOMI_INPUTS = 2  #: numbers that ``komi_inputs`` makes


class NetOutput(NamedTuple):
    """What a net says about B positions, for the side to move.

    policy: float [B, A], logits over all actions, illegal ones included.
    value: float [B], a logit z: tanh(z) is the value in [-1, 1], sigmoid(2z) the chance to win.
    ownership: float [B, H*W], logits as value's: tanh is +1 for a point of the side to move; None
        where the net has no such head.
    score: float [B], lead in points; None where the net has no such head.
    """

    policy: Tensor
    value: Tensor
    ownership: Tensor | None
    score: Tensor | None


class ConvNorm(nn.Module):
    """A convolution that keeps the board's size, and its BatchNorm until ``folded``.

    scale: the BatchNorm's initial weight; 0 makes a new residual block the identity.
    """

    def __init__(self, inputs: int, outputs: int, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        norm = nn.BatchNorm2d(outputs)
        nn.init.constant_(norm.weight, scale)
        self.norm: nn.Module = norm
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def pool(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 3C]: mean, mean scaled by the board's width, maximum (KataGo).

    The scaled mean lets one set of weights serve boards of several sizes.
    """
    mean = x.mean((2, 3))
    highest = max_pool2d(x, x.shape[2:]).flatten(1)  # on a CPU several times faster than amax
    return torch.cat([mean, mean * ((x.shape[3] - 14) / 10), highest], 1)


def komi_inputs(bits: Tensor, powers: Tensor, odd: bool) -> tuple[Tensor, Tensor]:
    """(inputs [B, 2], komi in points [B]) of the side to move.

    bits: [B, K], 0 and 1: half points in two's complement, lowest bit first; powers: [K], what
    each is worth, in half points. odd: whether the board has an odd number of points. Products and
    sums are exact in bfloat16 up to 127 half points.

    The first input is the komi in units of KOMI_SCALE. The second is half a point or none: a lead
    has the parity of the board, so that 5.5, 6 and 6.5 decide alike on an odd one, and the sum of
    both, in points, is the same for the three of them (Wu 2019 has a similar input).
    """
    halves = (bits * powers).sum(1)
    toward = bits[:, 0] * (bits[:, 1] - 0.5) * (1.0 if odd else -1.0)
    return torch.stack([halves / (2 * KOMI_SCALE), toward], 1), halves / 2


def beside(pooled: Tensor, inputs: Tensor | None) -> Tensor:
    """Pooled features [B, n] and, where the net has them, the global inputs [B, KOMI_INPUTS]."""
    return pooled if inputs is None else torch.cat([pooled, inputs], 1)


class Block(nn.Module):
    """x + N(conv(relu(N(conv(relu(x))))))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3, scale=0.0)

    def forward(self, x: Tensor, inputs: Tensor | None = None) -> Tensor:
        return x + self.second(relu(self.first(relu(x)), inplace=True))


class PoolBlock(nn.Module):
    """A Block in which a quarter of the inner channels, pooled, biases the others, as do ``more``
    global inputs."""

    def __init__(self, channels: int, more: int = 0) -> None:
        super().__init__()
        self.pooled = max(channels // 4, 4)
        rest = channels - self.pooled
        self.first = ConvNorm(channels, channels, 3)
        self.bias = nn.Linear(3 * self.pooled + more, rest)
        self.second = ConvNorm(rest, channels, 3, scale=0.0)

    def forward(self, x: Tensor, inputs: Tensor | None = None) -> Tensor:
        pooled, rest = self.first(relu(x)).split([self.pooled, self.bias.out_features], 1)
        bias = self.bias(beside(pool(relu(pooled)), inputs))
        return x + self.second(relu(rest + bias[:, :, None, None], inplace=True))


class PointPolicy(nn.Module):
    """One logit per point of the board, and one of the pass where there is one (A = H*W + 1)."""

    def __init__(self, channels: int, hidden: int, has_pass: bool, more: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = ConvNorm(channels, 2 * hidden, 1)
        self.bias = nn.Linear(3 * hidden + more, hidden)
        self.points = nn.Conv2d(hidden, 1, 1)
        self.pass_move = nn.Linear(3 * hidden + more, 1) if has_pass else None

    def forward(self, x: Tensor, inputs: Tensor | None = None) -> Tensor:
        seen, inner = self.first(x).split(self.hidden, 1)
        pooled = beside(pool(relu(seen)), inputs)
        biased = inner + self.bias(pooled)[:, :, None, None]
        logits = self.points(relu(biased, inplace=True)).flatten(1)
        return logits if self.pass_move is None else torch.cat([logits, self.pass_move(pooled)], 1)


class FlatPolicy(nn.Module):
    """Any number of actions: a 1x1 convolution, then one matrix over all points."""

    def __init__(self, channels: int, hidden: int, cells: int, num_actions: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, hidden, 1)
        self.last = nn.Linear(hidden * cells, num_actions)

    def forward(self, x: Tensor, inputs: Tensor | None = None) -> Tensor:
        return self.last(relu(self.first(x), inplace=True).flatten(1))


class ValueHead(nn.Module):
    """Value, and where asked for ownership and score.

    flat: see each point separately, for boards whose points differ in meaning, as the rows of
    Connect Four do; otherwise only pooled features. more: global inputs beside them. The score's
    part that is komi is added as it is: what is left to learn is the lead on the board.
    """

    def __init__(
        self, channels: int, hidden: int, cells: int, flat: bool, ownership: bool, more: int = 0,
    ) -> None:
        super().__init__()
        self.flat = flat
        self.first = ConvNorm(channels, hidden, 1)
        self.middle = nn.Linear((hidden * cells if flat else 3 * hidden) + more, 2 * hidden)
        self.value = nn.Linear(2 * hidden, 1)
        self.owner = nn.Conv2d(hidden, 1, 1) if ownership else None
        self.score = nn.Linear(2 * hidden, 1) if ownership else None

    def forward(
        self, x: Tensor, inputs: Tensor | None = None, komi: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        inner = relu(self.first(x), inplace=True)
        features = inner.flatten(1) if self.flat else pool(inner)
        middle = relu(self.middle(beside(features, inputs)))
        value = self.value(middle).squeeze(1)
        if self.owner is None or self.score is None:
            return value, None, None
        score = SCORE_SCALE * self.score(middle).squeeze(1)
        return value, self.owner(inner).flatten(1), score if komi is None else score + komi


class ResNet(nn.Module):
    """The whole net: float [B, C, H, W] -> NetOutput.

    komi: the last so many planes spell it; these do not go through convolutions. The first planes
    are those that it was made for: what games have shown since then is left out.
    """

    powers: Tensor

    def __init__(
        self, blocks: int, channels: int, obs_shape: tuple[int, int, int], num_actions: int,
        ownership: bool, komi: int = 0,
    ) -> None:
        super().__init__()
        planes, height, width = obs_shape
        cells, hidden = height * width, min(HEAD_CHANNELS, channels)
        by_point, more = num_actions in (cells, cells + 1), KOMI_INPUTS if komi else 0
        self.planes, self.komi = planes - komi, komi
        powers = 2 ** torch.arange(komi)
        powers[-1:] *= -1  # two's complement; whole numbers, which no change of dtype rounds
        self.register_buffer("powers", powers, persistent=False)
        self.stem = ConvNorm(self.planes, channels, 3)
        self.blocks = nn.Sequential(*(
            PoolBlock(channels, more) if index % POOL_EVERY == POOL_EVERY - 1 else Block(channels)
            for index in range(blocks)))
        self.policy: nn.Module = (
            PointPolicy(channels, hidden, num_actions > cells, more) if by_point
            else FlatPolicy(channels, hidden, cells, num_actions))
        self.value = ValueHead(channels, hidden, cells, not by_point, ownership, more)

    def forward(self, obs: Tensor) -> NetOutput:
        inputs = komi = None
        if self.komi:
            bits = obs[:, self.planes : self.planes + self.komi, 0, 0]
            odd = obs.shape[2] * obs.shape[3] % 2 == 1
            inputs, komi = komi_inputs(bits, self.powers, odd)
        x = self.stem(obs[:, : self.planes])
        for block in self.blocks:
            x = block(x, inputs)
        x = relu(x, inplace=True)
        return NetOutput(self.policy(x, inputs), *self.value(x, inputs, komi))


def folded(net: nn.Module) -> nn.Module:
    """A copy for inference: every BatchNorm folded into the convolution before it.

    ``net`` must be in eval mode (its running statistics are what is folded in).
    """
    copied = copy.deepcopy(net)
    for module in copied.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return copied


def placed(
    net: nn.Module, device: str | torch.device, dtype: torch.dtype | None = None,
) -> nn.Module:
    """``net`` itself, moved to ``device``; weights lie channels last, the order in which
    convolutions run fastest. dtype: cast to this; None leaves it."""
    moved: nn.Module = net.to(  # type: ignore[call-overload]
        device, dtype, memory_format=torch.channels_last)
    return moved
