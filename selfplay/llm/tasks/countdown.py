"""Countdown as a search that is written out: a number is to be made of others, each used once.

A question is "3,4,2=14". A demonstration goes through all ways in a fixed order, depth first, and
writes each step down: " 3+4=7 7+2=9 7-2=5 7*2=14#(3+4)*2". Two numbers are joined by + - or *, the
smaller taken from the larger, until one is left; where that is not the target, the search goes back
to the last choice. So most answers stand at the end of a row of dead ends, and thinking longer
pays. A search may be given up on its way: its answer is then a guess.

It is a data set as reasoning-gym's are, whose own countdown takes 12 ms a question here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import add, mul, sub
from typing import Any, NamedTuple

import numpy as np

SIGNS = {"+": add, "-": sub, "*": mul}
MOST = 99  #: of what a step of the search gives; steps that give more are left out
TRIES = 10_000  #: drawings of numbers for a question


class Term(NamedTuple):
    """A number and how it was made, such as 7 by "3+4" or "(1+2)+4"."""

    value: int
    made: str

    @property
    def inner(self) -> str:
        """``made`` as a part of more."""
        return self.made if self.made.isdigit() else f"({self.made})"


@dataclass(frozen=True)
class CountdownSearchConfig:
    """numbers: how many there are; each is from min_value to max_value, the target from min_target
    to max_target. give_up: see ``searched``."""

    numbers: int = 3
    min_value: int = 1
    max_value: int = 9
    min_target: int = 10
    max_target: int = 50
    give_up: float = 0.0
    seed: int = 0
    size: int = 2**30

    def __post_init__(self) -> None:
        assert 2 <= self.numbers <= 6, "numbers from 2 to 6 wanted"
        assert 0 < self.min_value <= self.max_value <= MOST, (
            f"0 < min_value <= max_value <= {MOST} wanted")
        assert 0 <= self.give_up <= 1, "give_up from 0 to 1 wanted"
        assert 0 < self.min_target <= self.max_target, "0 < min_target <= max_target wanted"


@dataclass(frozen=True)
class CountdownSearch:
    """Questions by their number; each has an answer."""

    config: CountdownSearchConfig

    def __getitem__(self, index: int) -> dict[str, Any]:
        config, rng = self.config, np.random.default_rng([self.config.seed, 0x7F, index])
        for _ in range(TRIES):
            values = rng.integers(config.min_value, config.max_value + 1, config.numbers).tolist()
            found = guess(values, rng)
            if config.min_target <= found.value <= config.max_target:
                break
        else:
            raise ValueError("hardly any numbers make such targets; ask for others")
        words = ", ".join(map(str, values))
        return {"question": f"Make {found.value} of the numbers {words}: use each once, with + - "
                            "and *.", "answer": found.made,
                "metadata": {"numbers": values, "target": found.value}}


def guess(values: list[int], rng: np.random.Generator) -> Term:
    """Numbers joined at random."""
    held = [Term(value, str(value)) for value in values]
    while len(held) > 1:
        first, more, sign = (rng.random(3) * (len(held), len(held) - 1, 3)).astype(int).tolist()
        second = (first + 1 + more) % len(held)
        left = combined(held, min(first, second), max(first, second), "+-*"[sign])
        if left[0].value <= MOST:
            held = left
    return held[0]


def combined(held: list[Term], first: int, second: int, sign: str) -> list[Term]:
    """``held`` with what two of its numbers make, which stands first, in their place."""
    a, b = held[first], held[second]
    if sign == "-" and b.value > a.value:
        a, b = b, a
    value = SIGNS[sign](a.value, b.value)
    rest = [number for i, number in enumerate(held) if i not in (first, second)]
    return [Term(value, f"{a.inner}{sign}{b.inner}"), *rest]


def ways(held: list[Term]) -> Iterator[tuple[str, Term | None]]:
    """All steps of the search in their order, as (text, the number where it is the only one left).
    """
    for first in range(len(held)):
        for second in range(first + 1, len(held)):
            for sign in "+-*":
                a, b = held[first].value, held[second].value
                left = combined(held, first, second, sign)
                if left[0].value > MOST:
                    continue
                a, b = (b, a) if sign == "-" and b > a else (a, b)
                yield f"{a}{sign}{b}={left[0].value}", left[0] if len(left) == 1 else None
                if len(left) > 1:
                    yield from ways(left)


def searched(
    entry: dict[str, Any], give_up: float, guessed: float, rng: np.random.Generator
) -> tuple[str, str]:
    """(steps, answer) of a question. Each step stands behind a space, so that whoever adds a space
    asks for one more. guessed: the chance that there are no steps but a guess; give_up: the chance,
    before each step that uses the last number, that the search ends there, in a guess."""
    values, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
    steps = ""
    for text, last in ways([Term(value, str(value)) for value in values]):
        chance = give_up if last is not None else 0.0 if steps else guessed
        if chance and rng.random() < chance:
            break
        steps += f" {text}"
        if last is not None and last.value == target:
            return steps, last.made
    return steps, guess(values, rng).made
