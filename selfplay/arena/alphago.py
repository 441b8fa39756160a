"""AlphaGo's player: a policy net for the priors, a value net and rollouts for the leaves.

    alphago:RUN@64                        alphago:RUN@64x8,lambda=0.25,prior=rl

A leaf s is worth (1 - lambda) v(s) + lambda z (Silver et al. 2016, "Searching with policy and
value networks"): v the value net's, z the result of one of the game's fast random playouts, which
stands where AlphaGo's had a linear policy of its own. Every node is evaluated once, so that the
mean of these is the mixture of the two means that AlphaGo keeps apart. A finished game counts as
it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.spec import Words
from selfplay.common.errors import UserError
from selfplay.games.base import Game

if TYPE_CHECKING:
    from torch import nn

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Evaluate = Callable[[Any, NDArray[np.bool_]], Outputs]


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


def load_alphago(words: Words, game: Game, device: str) -> tuple[nn.Module, nn.Module]:
    """(policy net, value net) in eval mode.

    Raises UserError for a checkpoint that is missing, damaged, of another game, or no value net.
    """
    from selfplay.learn.checkpoint import load_net

    value, meta = load_net(words.path, game, device)
    policies = meta.get("policies")
    if not isinstance(policies, dict) or words.prior not in policies:
        raise UserError(f"player 'alphago:{words}': {words.path} is no value net; give a run of "
                        "selfplay train --recipe alphago")
    run = words.path.parent.parent
    return load_net(run / str(policies[words.prior]), game, device)[0], value
