"""AlphaGo's player: a policy net for the priors, a value net and rollouts for the leaves.

    alphago:RUN@64                        alphago:RUN@64x8,lambda=0.25,prior=rl

A leaf s is worth (1 - lambda) v(s) + lambda z (Silver et al. 2016, "Searching with policy and value
networks"): v the value net's, z the result of one of the game's fast random playouts, which stands
where AlphaGo's had a linear policy of its own. Every node is evaluated once, so that the mean of
these is the mixture of the two means that AlphaGo keeps apart. A finished game counts as it ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.budget import LEAVES, Budget, budget
from selfplay.errors import UserError
from selfplay.records import read_settings

if TYPE_CHECKING:
    from torch import nn

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Evaluate = Callable[[Any, NDArray[np.bool_]], Outputs]

LAMBDA = 0.5  #: AlphaGo's, the strongest of those that it tried
PRIORS = ("sft", "rl")  #: AlphaGo took the SFT policy's, which were better in search
METRIC = "value_mse"


class Words(NamedTuple):
    """What ``alphago:`` is followed by: the value net's checkpoint, and how to search."""

    path: Path
    budget: Budget
    weight: float = LAMBDA  #: of the rollouts
    prior: str = PRIORS[0]

    def __str__(self) -> str:
        text = f"{self.path}@{self.budget}"
        if self.weight != LAMBDA:
            text += f",lambda={self.weight:g}"
        return text + (f",prior={self.prior}" if self.prior != PRIORS[0] else "")


class Mixed:
    """An ``Evaluate``: logits of ``prior``, and (1 - weight) * value + weight * rollout.

    All three speak for the side to move. What has no weight is not evaluated.
    """

    def __init__(
        self, prior: Evaluate, value: Evaluate, rollout: Evaluate, weight: float
    ) -> None:
        self.prior, self.weight = prior, weight
        self.parts = [(part, share) for part, share in ((value, 1 - weight), (rollout, weight))
                      if share > 0]

    def __call__(self, states: Any, legal: NDArray[np.bool_]) -> Outputs:
        logits, _ = self.prior(states, legal)
        values = [np.float32(share) * part(states, legal)[1] for part, share in self.parts]
        return logits, np.sum(values, axis=0, dtype=np.float32)


def parse(text: str) -> Words:
    """Of PATH@SIMULATIONS with options; PATH is a run, its folder ``value``, or a checkpoint there.

    Raises UserError.
    """
    path, _, how = text.rpartition("@")
    number, *options = how.split(",")
    found = budget(number)
    if not path or found is None:
        raise UserError(f"player 'alphago:{text}': simulations are needed, as alphago:RUN@64 or "
                        f"@64x8 with 1 to {LEAVES} leaves at once; without search it is net:RUN")
    words = Words(_checkpoint(Path(path), text), found)
    for option in options:
        key, _, value = option.partition("=")
        if key == "lambda":
            words = words._replace(weight=_weight(value, text))
        elif key == "prior" and value in PRIORS:
            words = words._replace(prior=value)
        else:
            raise UserError(f"player 'alphago:{text}': {option!r} is no option; there are "
                            "lambda=0.5, from 0 to 1, and prior=sft or rl")
    return words


def _weight(value: str, text: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        raise UserError(f"player 'alphago:{text}': lambda={value}: the rollouts' weight from 0 to "
                        "1 wanted")
    return weight


def _checkpoint(path: Path, text: str) -> Path:
    """The value net's best checkpoint of a run, or ``path`` where it is one itself."""
    from selfplay.checkpoint import META, lowest_loss

    if not path.is_dir():
        raise UserError(f"player 'alphago:{text}': {path} is no folder of a run")
    if (path / META).is_file():
        return path
    folder = path if path.name == "value" else path / "value"
    note = folder / "best.json"
    if note.exists():
        return folder / str(read_settings(note).get("checkpoint"))
    found = lowest_loss(folder, METRIC)
    if found is None:
        raise UserError(f"player 'alphago:{text}': no value net in {folder}; make one with "
                        f"selfplay value --run {folder.parent}")
    return found


def load(words: Words, game: str, device: str) -> tuple[nn.Module, nn.Module]:
    """(policy net, value net) in eval mode.

    Raises UserError for a checkpoint that is missing, damaged, of another game, or no value net.
    """
    from selfplay.checkpoint import load_net

    value, meta = load_net(words.path, game, device)
    policies = meta.get("policies")
    if not isinstance(policies, dict) or words.prior not in policies:
        raise UserError(f"player 'alphago:{words}': {words.path} is no value net; give a run of "
                        "selfplay train --recipe alphago")
    run = words.path.parent.parent
    return load_net(run / str(policies[words.prior]), game, device)[0], value
