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


class Symmetric(Evaluator):
    """Sees every board by the first ``symmetries`` of its symmetries, or by all where it has fewer;
    logits and values are the means (AlphaGo's ensemble, Silver et al. 2016). As many times the
    work. The rest is as for an ``Evaluator``."""

    def __init__(self, net: nn.Module, game: Rules, device: str, symmetries: int, **how: Any
                 ) -> None:
        turns = game.symmetries()
        self.cells = turns.cells[:symmetries]
        self.back = np.argsort(turns.actions[:symmetries], axis=1)
        super().__init__(net, game, device, **how)

    def run(self, obs: NDArray[Any]) -> Outputs:
        planes = obs.reshape(*obs.shape[:2], -1)
        logits, value = super().run(np.concatenate(
            [planes[:, :, cells].reshape(obs.shape) for cells in self.cells]))
        each = logits.reshape(len(self.cells), len(obs), -1)
        turned = [part[:, back] for part, back in zip(each, self.back, strict=True)]
        return np.mean(turned, axis=0), value.reshape(len(self.cells), -1).mean(0)


def spread(net: nn.Module, game: Rules, device: str = "cpu", symmetries: int = 1) -> Evaluator:
    """An Evaluator for many games at once: every SPREAD_ROWS rows of a call are one thread's work,
    on as many threads as torch is set to use. symmetries: see ``Symmetric``; 1 sees the board as
    it lies."""
    how: dict[str, Any] = {} if torch.device(device).type != "cpu" else {
        "max_batch": SPREAD_ROWS, "workers": Workers(torch.get_num_threads())}
    if symmetries == 1:
        return Evaluator(net, game, device, **how)
    return Symmetric(net, game, device, symmetries, **how)
