"""The evaluator of a net for players: many games at once, the work spread over threads, and the
board seen from more sides than one where that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selfplay.common.threads import Workers
from selfplay.games.rules import Rules
from selfplay.inference.evaluator import Evaluator, Outputs

#: Rows of a thread's part of a call.
SPREAD_ROWS = 32


def spread(net: nn.Module, game: Rules, device: str = "cpu") -> Evaluator:
    """An Evaluator for many games at once: every SPREAD_ROWS rows of a call are one thread's work,
    on as many threads as torch is set to use."""
    if torch.device(device).type != "cpu":
        return Evaluator(net, game, device)
    return Evaluator(net, game, device, max_batch=SPREAD_ROWS,
                     workers=Workers(torch.get_num_threads()))


class Symmetric:
    """What ``evaluate`` says of a board on the mean of the first ``symmetries`` ways to turn and
    mirror it, or of all where it has fewer (AlphaGo's ensemble, Silver et al. 2016); as many times
    the work. An ``Evaluate`` itself."""

    def __init__(self, evaluate: Evaluator, symmetries: int) -> None:
        self.evaluate, self.game = evaluate, evaluate.game
        turns = self.game.symmetries()
        self.cells = turns.cells[:symmetries]
        self.back = np.argsort(turns.actions[:symmetries], axis=1)

    def __call__(self, states: Any, legal: NDArray[np.bool_]) -> Outputs:
        obs = self.game.observe(states)
        planes = obs.reshape(*obs.shape[:2], -1)
        logits, value = self.evaluate.forward(np.concatenate(
            [planes[:, :, cells].reshape(obs.shape) for cells in self.cells]))
        each = logits.reshape(len(self.cells), len(obs), -1)
        turned = [part[:, back] for part, back in zip(each, self.back, strict=True)]
        return np.mean(turned, axis=0), value.reshape(len(self.cells), -1).mean(0)
