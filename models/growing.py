"""Nets that grow: more blocks, more channels, and what the net says stays the same.

New blocks are the identity and new channels begin as in a fresh net, but nothing that was there
listens to these yet (function-preserving, as Net2Net: Chen et al. 2016, arXiv:1511.05641).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, arange, cat, nn

from . import NetError, NetSpec, build, dimensions, names_file
from .resnet import ConvNorm, FlatPolicy, PointPolicy, PoolBlock, ResNet, ValueHead


def must_grow_to(size: str, wanted: str) -> None:
    """Raises NetError where a net of ``size`` cannot become one of ``wanted``."""
    if _same(size, wanted):
        return
    if names_file(size) or names_file(wanted):
        raise NetError(f"net {wanted}: a net {size} does not grow; leave --net out, or start from "
                       "another net")
    (family, blocks, channels), (other, more, wider) = dimensions(size), dimensions(wanted)
    if other != family or more < blocks or wider < channels:
        raise NetError(f"net {wanted}: a net {size} grows to at least as many blocks and channels; "
                       "leave --net out to keep its size")


def grown(net: Any, spec: NetSpec, size: str) -> nn.Module:
    """A net of ``size`` that says what ``net`` says, but for rounding.

    net: of ``spec``; returned as it is where the size is the same. What is new comes from torch's
    global generator (see ``seeded``). Raises NetError for a smaller size and for a net of the
    user's own.
    """
    must_grow_to(spec.size, size)
    if _same(spec.size, size):
        return net
    larger: Any = build(replace(spec, size=size))
    _lay_net(net.cpu(), larger)  # a fresh net is there too, and is placed later
    return larger.eval()


def _same(size: str, other: str) -> bool:
    """Whether two sizes are of the same nets; a file of the user's may have moved."""
    return size.rpartition("/")[2] == other.rpartition("/")[2]


@torch.no_grad()
def _lay_net(old: ResNet, new: ResNet) -> None:
    trunk = arange(old.stem.conv.out_channels)
    _lay_conv(old.stem, new.stem, trunk, arange(old.planes))
    for before, after in zip(old.blocks, new.blocks, strict=False):  # further ones change nothing
        _lay_block(before, after, trunk)
    _lay_policy(old.policy, new.policy, trunk)
    _lay_value(old.value, new.value, trunk)


def _lay_block(old: Any, new: Any, trunk: Tensor) -> None:
    inner = rest = trunk
    if isinstance(old, PoolBlock):  # its pooled channels, then the others
        rest = trunk[: len(trunk) - old.pooled]
        inner = cat([trunk[: old.pooled], new.pooled + rest])
        _lay(old.bias, new.bias, rest, _features(old.bias, 3, old.pooled, new.pooled))
    _lay_conv(old.first, new.first, inner, trunk)
    _lay_conv(old.second, new.second, trunk, rest)


def _lay_policy(old: Any, new: Any, trunk: Tensor) -> None:
    if isinstance(old, FlatPolicy):
        _lay_conv(old.first, new.first, arange(old.first.conv.out_channels), trunk)
        _lay(old.last, new.last, arange(old.last.out_features), arange(old.last.in_features))
        return
    assert isinstance(old, PointPolicy)
    hidden, one = arange(old.hidden), arange(1)
    pooled = _features(old.bias, 3, old.hidden, new.hidden)
    _lay_conv(old.first, new.first, cat([hidden, new.hidden + hidden]), trunk)
    _lay(old.bias, new.bias, hidden, pooled)
    _lay(old.points, new.points, one, hidden)
    if old.pass_move is not None:
        _lay(old.pass_move, new.pass_move, one, pooled)


def _lay_value(old: ValueHead, new: ValueHead, trunk: Tensor) -> None:
    had, has = old.first.conv.out_channels, new.first.conv.out_channels
    cells = old.middle.in_features // had if old.flat else 1
    features = _features(old.middle, 1 if old.flat else 3, had * cells, has * cells)
    middle, hidden, one = arange(old.middle.out_features), arange(had), arange(1)
    _lay_conv(old.first, new.first, hidden, trunk)
    _lay(old.middle, new.middle, middle, features)
    _lay(old.value, new.value, one, middle)
    if old.owner is not None:
        _lay(old.owner, new.owner, one, hidden)
        _lay(old.score, new.score, one, middle)


def _features(old: Any, parts: int, had: int, has: int) -> Tensor:
    """Where the inputs of the matrix ``old`` lie once each of its ``parts`` has grown from ``had``
    to ``has`` features; global inputs are the last."""
    more = old.in_features - parts * had
    return cat([*(part * has + arange(had) for part in range(parts)), parts * has + arange(more)])


def _lay_conv(old: ConvNorm, new: ConvNorm, rows: Tensor, columns: Tensor) -> None:
    _lay(old.conv, new.conv, rows, columns)
    for name, kept in old.norm.state_dict().items():
        if kept.ndim:  # not the number of batches seen
            new.norm.state_dict()[name][rows] = kept


def _lay(old: Any, new: Any, rows: Tensor, columns: Tensor) -> None:
    """``old`` at ``rows`` and ``columns`` of ``new``; its other inputs count nothing there."""
    weight = torch.zeros_like(new.weight[rows])
    weight[:, columns] = old.weight
    new.weight[rows] = weight
    if new.bias is not None:
        new.bias[rows] = old.bias
