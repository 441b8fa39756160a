"""Over-optimisation: how the proxy reward and the gold reward, which is the truth, change with the
divergence from the reference.

This is Goodhart's law as Gao, Schulman and Hilton (2023, arXiv:2210.10760) measure it: learning
raises the proxy, and beyond some divergence the gold reward falls while the proxy goes on rising.
Axes: n held-out prompts, m completions of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selfplay.common.stats import Z95, wilson

BINS = 10  #: of the calibration
PICTURE = "overoptimisation.png"  #: of proxy and gold in a run's folder


def judged(chosen: Tensor, rejected: Tensor) -> dict[str, Any]:
    """How well rewards [M] of chosen and [M] of rejected completions tell them apart.

    loss: mean Bradley-Terry loss; accuracy, with its 95% interval low and high (a tie is half
    right); calibration_error: expected |confidence - accuracy| over BINS bins of the confidence
    sigmoid(|margin|) (Guo et al. 2017, arXiv:1706.04599, eq. 3); calibration: (mean confidence,
    accuracy, pairs) of each bin that has any; pairs; margin: the mean difference.
    """
    margin = (chosen - rejected).double().cpu().numpy()
    right = (margin > 0) + 0.5 * (margin == 0)
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    place = np.minimum((2 * (confidence - 0.5) * BINS).astype(int), BINS - 1)
    rows = [[float(confidence[place == k].mean()), float(right[place == k].mean()),
             int((place == k).sum())] for k in range(BINS) if (place == k).any()]
    low, high = wilson(float(right.mean()), len(margin))
    return {"loss": float(np.logaddexp(0, -margin).mean()), "accuracy": float(right.mean()),
            "low": low, "high": high, "pairs": len(margin), "margin": float(margin.mean()),
            "calibration_error": sum(n * abs(c - a) for c, a, n in rows) / len(margin),
            "calibration": rows}


class Looked(NamedTuple):
    """What completions are worth, float64 [n, m]."""

    proxy: NDArray[np.float64]
    gold: NDArray[np.float64]
    kl: NDArray[np.float64]  #: log p - log reference of a completion, nats
    length: NDArray[np.float64]  #: tokens
    ended: NDArray[np.float64]  #: 0 where the limit cut it off


def figures(looked: Looked) -> dict[str, float]:
    """Means, and for proxy and gold their 95% intervals over prompts; kl in nats a completion."""
    row: dict[str, float] = {}
    for name in ("proxy", "gold"):
        row |= _with_interval(name, getattr(looked, name))
    kl = float(looked.kl.mean())
    return {**row, "kl": kl, "kl_root": math.sqrt(max(kl, 0.0)),
            "length": float(looked.length.mean()), "ended": float(looked.ended.mean()),
            "held_prompts": looked.gold.shape[0], "held_samples": looked.gold.shape[1]}


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """(mean, low, high) of values [n, m]: normal 95% interval of the mean over prompts, whose
    completions are not independent of each other."""
    means = values.mean(1)
    half = Z95 * float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.inf
    return float(means.mean()), float(means.mean()) - half, float(means.mean()) + half


def _with_interval(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval(values), strict=True))


def best_of_n(looked: Looked) -> list[dict[str, float]]:
    """Proxy and gold of the sample with the best proxy among k, for k = 1, 2, 4, ... up to m.

    Unbiased from m samples: that of rank r from below is the best of k drawn without replacement
    with probability C(r - 1, k - 1) / C(m, k) (Nakano et al. 2021, arXiv:2112.09332).
    kl: log k - (k - 1) / k nats (Stiennon et al. 2020, arXiv:2009.01325), an upper bound.
    """
    order = np.argsort(looked.proxy, 1, kind="stable")
    ranked = {name: np.take_along_axis(getattr(looked, name), order, 1)
              for name in ("proxy", "gold")}
    count, rows = order.shape[1], []
    for k in (2**i for i in range(count.bit_length())):
        chance = np.array([math.comb(r, k - 1) / math.comb(count, k) for r in range(count)])
        kl = math.log(k) - (k - 1) / k
        row: dict[str, float] = {"n": k, "kl": kl, "kl_root": math.sqrt(kl)}
        for name, values in ranked.items():
            row |= _with_interval(name, (values @ chance)[:, None])
        rows.append(row)
    return rows


def turn(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Where the gold reward is best, and how much of it is lost by the end of ``rows`` (by step).

    gain: best - first; loss: best - last, both of gold; loss_low, loss_high: the loss's 95%
    interval, with the two looks taken as independent; proxy_rise: the last proxy - that at the
    best; kl: of the best.
    """
    best, last = max(rows, key=lambda row: row["gold"]), rows[-1]
    half = math.hypot(best["gold_high"] - best["gold"], last["gold_high"] - last["gold"])
    loss = best["gold"] - last["gold"]
    return {"step": best["step"], "kl": best["kl"], "gold": best["gold"],
            "gain": best["gold"] - rows[0]["gold"], "loss": loss, "loss_low": loss - half,
            "loss_high": loss + half, "proxy_rise": last["proxy"] - best["proxy"]}
