"""What learning by policy gradient asks of a policy, be it of a board or of a text.

A trajectory is a game as one side saw it, or a completion; a step is a move, or a token. A policy
acts, and says afterwards what it would do now; nothing else about it is known to the learner.
Axes: N trajectories, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Acted(NamedTuple):
    """What was done.

    action: int64 [N, T] (one step: T = 1); logp: float32 [N, T], log-probability of each action
    under the distribution that it was drawn from; mask: bool [N, T], the real steps.
    """

    action: Tensor
    logp: Tensor
    mask: Tensor


class Evaluated(NamedTuple):
    """What a policy thinks of steps that were made; 0 or anything at steps that are not real.

    logp: float32 [N, T] of the actions made; entropy: float32 [N, T], nats; value: float32 [N, T],
    the critic's expectation of the return, None where there is no critic.
    """

    logp: Tensor
    entropy: Tensor
    value: Tensor | None


@dataclass(frozen=True)
class Rollout:
    """N trajectories of at most T steps.

    inputs: what the policy looks at; the first axis of each tensor is N, the rest is the policy's.
    action int64, mask bool, logp float32, reward float32: [N, T]; logp is the sampling policy's.
    group: int64 [N], trajectories from the same prompt or opening have the same number.
    value, ref_logp: float32 [N, T], the critic's and the reference policy's view at that time.
    sampled: float32 [N, T], log-probabilities for what wrote the actions, where ``logp`` is of the
    policy in the learner's arithmetic.
    """

    inputs: dict[str, Tensor]
    action: Tensor
    mask: Tensor
    logp: Tensor
    reward: Tensor
    group: Tensor
    value: Tensor | None = None
    ref_logp: Tensor | None = None
    sampled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.group)

    def rows(self, index: Tensor | slice) -> Rollout:
        """Some trajectories, and of the steps as many as the longest of them has."""
        mask = self.mask[index]
        steps = int(mask.any(0).nonzero()[-1]) + 1 if bool(mask.any()) else 1

        def cut(name: str, field: Any) -> Any:
            if field is None:
                return None
            if name == "inputs":
                return {key: tensor[index] for key, tensor in field.items()}
            return field[index] if name == "group" else field[index][:, :steps]

        return replace(self, **{f.name: cut(f.name, getattr(self, f.name)) for f in fields(self)})


#: Tensors [N, T] of a rollout, and those of them that some rollouts do without.
COLUMNS, OPTIONAL = ("action", "mask", "logp", "reward"), ("value", "ref_logp", "sampled")


def joined(parts: Sequence[Rollout], *, left: bool = False, renumber: bool = False) -> Rollout:
    """The trajectories of all parts, in order, padded with 0 to the longest; optional columns
    where all have them.

    left: inputs are padded before what is there, as prompts are, not behind it. renumber: the
    groups of a part come behind those of the parts before it.
    """
    steps = max(part.mask.shape[1] for part in parts)
    widest = {key: max(part.inputs[key].shape[1] for part in parts) for key in parts[0].inputs}
    numbers, first = [part.group for part in parts], 0
    for i, part in enumerate(parts if renumber else ()):
        numbers[i] = part.group + first
        first = int(numbers[i].max()) + 1
    kept = [key for key in (*COLUMNS, *OPTIONAL)
            if all(getattr(part, key) is not None for part in parts)]
    return Rollout(
        inputs={key: torch.cat([padded(part.inputs[key], widest[key], left) for part in parts])
                for key in widest},
        **{key: torch.cat([padded(getattr(part, key), steps) for part in parts]) for key in kept},
        group=torch.cat(numbers))


def padded(tensor: Tensor, width: int, left: bool = False) -> Tensor:
    """[N, width, ...] of [N, T, ...], with 0 behind what is there, or before it."""
    missing = width - tensor.shape[1]
    if not missing:
        return tensor
    none = tensor.new_zeros((len(tensor), missing, *tensor.shape[2:]))
    return torch.cat([none, tensor] if left else [tensor, none], 1)


def on(rollout: Rollout, device: str) -> Rollout:
    """``rollout`` on another device."""
    moved = {key: tensor.to(device) for key, tensor in vars(rollout).items()
             if isinstance(tensor, Tensor)}
    return replace(rollout, inputs={k: t.to(device) for k, t in rollout.inputs.items()}, **moved)


class Policy(Protocol):
    """A board's or a text's policy; ``dataclasses.replace(policy, net=...)`` is the same policy
    with other weights."""

    @property
    def net(self) -> nn.Module:
        """All that is trained: the policy and, where there is one, the critic."""

    def act(self, batch: Any) -> Acted:
        """Draw actions for a batch of whatever the policy acts on."""

    def evaluate(self, rollout: Rollout) -> Evaluated:
        """Of every real step of ``rollout`` under the net's weights, with their gradient."""


def parts_of(mask: Tensor, fewest: int, most: int, group: Tensor | None = None) -> list[Tensor]:
    """Trajectories of like length together, in parts of about as many real steps: at least
    ``fewest`` parts, at most ``most`` steps a part. mask: bool [N, T]. group: int64 [N],
    trajectories with the same number stay together, where no part has twice the steps then."""
    lengths = mask.sum(1)
    order = torch.argsort(lengths, stable=True)
    if group is not None:
        order = order[torch.argsort(group[order], stable=True)]
    total = max(int(lengths.sum()), 1)
    count = min(max(fewest, -(-total // most)), len(mask))
    ends, whole = lengths[order].cumsum(0), {0, len(mask)}
    cuts = {int(torch.searchsorted(ends, total * k / count)) for k in range(1, count)}
    if group is not None:
        first = [0, *((group[order].diff() != 0).nonzero()[:, 0] + 1).tolist()]
        near = {min(first, key=lambda place: abs(place - cut)) for cut in cuts}
        parts = order.tensor_split(sorted(near - whole))
        if len(first) >= count and max(int(lengths[rows].sum()) for rows in parts) <= 2 * most:
            return list(parts)
    return list(order.tensor_split(sorted(cuts - whole)))
