"""How a board's net does on held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.board.data import Columns, batch
from selfplay.board.trainer import to_tensors
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers
from selfplay.games.rules import Rules
from selfplay.learn import losses
from selfplay.models import choose_dtype, folded, placed

EVALUATED_AT_ONCE = 256  #: rows of one forward pass
HELD_ROWS = 4096  #: held-out expert rows looked at after an iteration of self-play


def evaluate_columns(
    net: nn.Module, game: Rules, columns: Columns, device: str = "cpu", dtype: str = "auto"
) -> dict[str, float]:
    """What ``net`` (in eval mode) makes of held-out rows, as they lie (no symmetry).

    It runs as it does when it acts: BatchNorm folded, bfloat16 where the device multiplies it.

    top1, top5: share of rows whose target's best action is among the net's 1 or 5 best.
    policy_loss: cross-entropy in nats. These three are means over rows with policy weight.
    value_mse: mean (tanh z - v)^2 over all rows. value_accuracy: share of rows that are no draws
    where the sign of the value is the winner's.
    Raises UserError for no rows.
    """
    count = len(columns.value)
    if not count:
        raise UserError("no held-out rows to look at; give more expert games")
    kind = choose_dtype(dtype, device)
    fast = placed(folded(net), device, kind)
    symmetries = game.symmetries()

    def look(start: int) -> dict[str, float]:
        rows = np.arange(start, min(start + EVALUATED_AT_ONCE, count))
        tensors = to_tensors(batch(columns, rows, game, symmetries, None), device)
        with torch.inference_mode():
            out = fast(tensors.obs.to(kind))
            return {key: float(value) for key, value in _seen(out, tensors).items()}

    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    looks = Workers(threads).map(look, range(0, count, EVALUATED_AT_ONCE))
    sums = {key: sum(seen[key] for seen in looks) for key in looks[0]}
    policy, decided = max(sums["policy_weight"], 1e-9), max(sums["decided"], 1e-9)
    return {"top1": sums["top1"] / policy, "top5": sums["top5"] / policy,
            "policy_loss": sums["policy_loss"] / policy, "value_mse": sums["value_mse"] / count,
            "value_accuracy": sums["value_right"] / decided}


def _seen(out: Any, rows: Any) -> dict[str, Tensor]:
    """The sums behind ``evaluate_columns`` over one batch."""
    weight, best = rows.policy_weight, rows.policy.argmax(1, keepdim=True)
    ranks = out.policy.topk(min(5, out.policy.shape[1]), 1).indices == best
    decided = rows.value != 0
    return {
        "policy_weight": weight.sum(),
        "top1": (ranks[:, 0] * weight).sum(),
        "top5": (ranks.any(1) * weight).sum(),
        "policy_loss": (losses.policy_loss(out.policy, rows.policy) * weight).sum(),
        "value_mse": (out.value.float().tanh() - rows.value).square().sum(),
        "decided": decided.sum(),
        "value_right": ((out.value * rows.value > 0) & decided).sum(),
    }
