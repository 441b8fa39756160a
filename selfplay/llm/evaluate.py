"""What a model can do on held-out questions: accuracy, pass@k, and the majority of k.

And over-optimisation: how the proxy reward and the gold reward, which is the truth, change with the
divergence from the reference. This is Goodhart's law as Gao, Schulman and Hilton (2023,
arXiv:2210.10760) measure it: learning raises the proxy, and beyond some divergence the gold reward
falls while the proxy goes on rising. Axes: n held-out prompts, m completions of each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selfplay.common.stats import Z95, wilson
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.models import completion_texts, render
from selfplay.llm.rewards import Example, answer_of, parsed_number, reward

AT_ONCE = 1024  #: completions sampled side by side
BINS = 10  #: of the calibration


@dataclass(frozen=True)
class Answers:
    """``group`` completions of each example, one after another."""

    examples: list[Example]  #: [n]
    texts: list[list[str]]  #: [n][group], without the end token
    parts: list[list[dict[str, float]]]  #: [n][group], of ``rewards.reward``
    tokens: float  #: mean length

    def right(self) -> list[int]:
        """Right answers of each example's group."""
        return [sum(p["accuracy"] >= 1 for p in row) for row in self.parts]

    def mean(self, part: str) -> float:
        """The mean of a part over all completions."""
        values = [p[part] for row in self.parts for p in row]
        return sum(values) / max(len(values), 1)


def answers(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], group: int,
    sampling: Sampling, seed: int,
) -> Answers:
    """Answer each example ``group`` times and judge the answers."""
    texts: list[list[str]] = []
    parts: list[list[dict[str, float]]] = []
    tokens, size = 0, max(AT_ONCE // group, 1)
    for start in range(0, len(examples), size):
        some = examples[start:start + size]
        samples = generator([render(tokenizer, e.prompt) for e in some], group, sampling, seed)
        found = completion_texts(tokenizer, samples.action, samples.mask, samples.ended)
        ended = samples.ended.tolist()
        tokens += int(samples.mask.sum())
        for i, example in enumerate(some):
            rows = range(i * group, (i + 1) * group)
            texts.append([found[r] for r in rows])
            parts.append([reward(found[r], example, ended[r]) for r in rows])
    return Answers(list(examples), texts, parts, tokens / max(len(examples) * group, 1))


def greedy_and_sampled(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], group: int,
    sampling: Sampling, seed: int,
) -> tuple[Answers, Answers]:
    """(the best answer to each example, ``group`` answers to each as ``sampling`` says)."""
    best = answers(generator, tokenizer, examples, 1, replace(sampling, temperature=0.0), seed)
    return best, answers(generator, tokenizer, examples, group, sampling, seed)


def accuracy(found: Answers) -> dict[str, float]:
    """accuracy with its 95% interval (Wilson, over questions: a group counts by its mean), the
    shares of completions in the form asked for and of those that ended, and the mean tokens."""
    rate = found.mean("accuracy")
    low, high = wilson(rate, len(found.examples))
    return {"accuracy": rate, "low": low, "high": high, "format": found.mean("format"),
            "ended": found.mean("ended"), "tokens": found.tokens,
            "questions": float(len(found.examples))}


def pass_at(k: int, right: int, samples: int) -> float:
    """Unbiased estimate, from ``samples`` tries of which ``right`` were right, of the chance that
    one of k is: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority_vote(answered: Sequence[str | None]) -> int | None:
    """The place of the first answer that says what most say. Equal numbers are the same answer, and
    a completion without an answer has no vote. None without votes."""
    names = [None if a is None else _vote(a) for a in answered]
    votes = Counter(name for name in names if name is not None)
    if not votes:
        return None
    return names.index(max(votes, key=lambda name: votes[name]))  # of equals the first


def majority_at(k: int, found: Answers) -> float:
    """Share of the blocks of k completions whose commonest answer is right."""
    wins = blocks = 0
    for example, texts, parts in zip(found.examples, found.texts, found.parts, strict=True):
        for start in range(0, len(texts) - k + 1, k):
            named = [answer_of(texts[i], example.format, parts[i]["ended"] >= 1)
                     for i in range(start, start + k)]
            winner = majority_vote(named)
            wins += winner is not None and parts[start + winner]["accuracy"] >= 1
            blocks += 1
    return wins / max(blocks, 1)


def evaluate_model(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], sampling: Sampling,
    ks: Sequence[int], seed: int,
) -> dict[str, Any]:
    """greedy and sampled: ``accuracy``'s figures; pass and majority: k -> rate."""
    count = max(ks)
    best, sampled = greedy_and_sampled(generator, tokenizer, examples, count, sampling, seed)
    right = sampled.right()
    return {"greedy": accuracy(best), "sampled": accuracy(sampled),
            "pass": {str(k): sum(pass_at(k, c, count) for c in right) / len(right) for k in ks},
            "majority": {str(k): majority_at(k, sampled) for k in ks}}


def evaluation_table(result: dict[str, Any]) -> str:
    """An evaluation for a terminal."""
    def line(name: str) -> str:
        row = result[name]
        return (f"{name:<8}{row['accuracy']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]  "
                f"format {row['format']:.1%}, {row['tokens']:.1f} tokens")

    head = f"{'k':<10}" + "".join(f"{k:>8}" for k in result["pass"])
    rows = [f"{name:<10}" + "".join(f"{v:8.1%}" for v in result[key].values())
            for name, key in (("pass@k", "pass"), ("majority", "majority"))]
    return "\n".join([line("greedy"), line("sampled"), head, *rows])


def _vote(answer: str) -> str:
    value = parsed_number(answer)
    return answer if value is None else str(value)


# -------------------------------------------------------------------- reward models and the truth


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
