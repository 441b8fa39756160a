"""Demonstrations of how a question is worked out, for the tasks that one can be written for.

A trace: (entry of reasoning-gym, share of wrong steps, generator) -> (chain of thought, answer).
With no share the answer is the right one. A wrong step is carried along, as by somebody who has
miscalculated and does not notice, so that learning from such demonstrations has a ceiling that is
known: of n steps, each wrong with probability w, all are right with probability (1 - w)^n.
Such errors fall on any step and every way: the likeliest next token is still right. Of one who
forgets what he carries more often than not, it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Trace = Callable[[dict[str, Any], float, np.random.Generator], tuple[str, str]]
GUESS = 9  #: what a guess is off by, at most

SLIPS = (-10, -2, -1, 1, 2, 10)  #: what a wrong step is off by


def chain_sum(entry: dict[str, Any], wrong: float, rng: np.random.Generator) -> tuple[str, str]:
    """Running totals from the left: "4 - 1 + 7" is ("3 10", "10")."""
    words = entry["metadata"]["expression"].split()
    total, totals = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        total += int(term) if sign == "+" else -int(term)
        if wrong and rng.random() < wrong:
            total += int(rng.choice(SLIPS))
        totals.append(str(total))
    return " ".join(totals), str(total)


def chain_sum_forgetting(
    entry: dict[str, Any], wrong: float, rng: np.random.Generator
) -> tuple[str, str]:
    """``chain_sum``, wrong in steps alone that carry or borrow a ten, by that ten."""
    words = entry["metadata"]["expression"].split()
    total, totals = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        before, total = total, total + (int(term) if sign == "+" else -int(term))
        if total // 10 != before // 10 and rng.random() < wrong:
            total += 10 if total < before else -10
        totals.append(str(total))
    return " ".join(totals), str(total)


def gcd(entry: dict[str, Any], wrong: float, rng: np.random.Generator) -> tuple[str, str]:
    """Euclid's remainders of the numbers, one after another."""
    first, *rest = (int(n) for n in entry["metadata"]["numbers"])
    steps = []
    for other in rest:
        a, b = max(first, other), min(first, other)
        while b:
            a, b = b, a % b
            if wrong and rng.random() < wrong:
                b = max(b + int(rng.choice(SLIPS)), 0) % max(a, 1)
            steps.append(f"{a},{b}")
        first = a
    return " ".join(steps), str(first)


TRACES: dict[str, Trace] = {"chain_sum": chain_sum, "gcd": gcd}
FORGETTING: dict[str, Trace] = {"chain_sum": chain_sum_forgetting}

#: The tersest way to ask, by task.
SHORT: dict[str, Callable[[dict[str, Any]], str]] = {
    "chain_sum": lambda entry: entry["metadata"]["expression"].replace(" ", "") + "=",
    "gcd": lambda entry: ",".join(str(n) for n in entry["metadata"]["numbers"]) + "=",
    "countdown": lambda entry: (",".join(str(n) for n in entry["metadata"]["numbers"])
                                + f"={entry['metadata']['target']}"),
}
