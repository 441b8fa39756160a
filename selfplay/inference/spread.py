"""The evaluator of a net for many games at once, its work spread over threads."""

from __future__ import annotations

import torch
from torch import nn

from selfplay.common.threads import Workers
from selfplay.games.rules import Rules
from selfplay.inference.evaluator import Evaluator

#: Rows of a thread's part of a call.
SPREAD_ROWS = 32


def spread(net: nn.Module, game: Rules, device: str = "cpu") -> Evaluator:
    """An Evaluator for many games at once: every SPREAD_ROWS rows of a call are one thread's work,
    on as many threads as torch is set to use."""
    if torch.device(device).type != "cpu":
        return Evaluator(net, game, device)
    return Evaluator(net, game, device, max_batch=SPREAD_ROWS,
                     workers=Workers(torch.get_num_threads()))
