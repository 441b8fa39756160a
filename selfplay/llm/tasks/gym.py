"""Data sets of reasoning-gym.

For some of them demonstrations are made, of how a question is worked out. A trace makes one: (entry
of reasoning-gym, share of wrong steps, generator) -> (chain of thought, answer). Without wrong
steps the answer is right. A wrong step is carried on, as by a person who does not notice it, so
that learning from such demonstrations has a known ceiling: of n steps, each wrong with probability
w, all are right with probability (1 - w)^n. Such errors may fall on any step and in either
direction, so that the likeliest next token is still the right one. ``chain_sum_forgetting`` is the
exception: where tens are forgotten more often than not, the likeliest token is wrong.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfplay.common.errors import UserError
from selfplay.common.interrupt import time_limit
from selfplay.common.words import clip, nearest
from selfplay.llm.rewards import CHECKERS, Example, Format
from selfplay.llm.tasks.countdown import CountdownSearch, CountdownSearchConfig, searched
from selfplay.llm.tasks.scorers import refuse, scorer

SIZE, ENDLESS = 10_000, 2**30  #: questions of a data set of reasoning-gym
LONGEST = 100_000  #: characters of a question
PATIENCE = 20.0  #: seconds that a data set may take for its first question

#: Data sets of reasoning-gym whose answers are numbers, checked exactly.
NUMBERS = frozenset(("chain_sum", "basic_arithmetic", "products", "gcd", "lcm", "leg_counting",
                     "gsm_symbolic", "decimal_chain_sum", "decimal_arithmetic"))


@dataclass(frozen=True)
class Gym:
    """A data set of reasoning-gym."""

    name: str
    data: Any
    format: Format
    seed: int
    wrong: float
    slips: str = "any"
    guessed: float = 0.0

    @property
    def count(self) -> int:
        return int(self.data.config.size)

    def item(self, index: int) -> Example:
        entry = self.data[index]
        example = Example(
            prompt=self._question(entry), answer=str(entry["answer"]),
            checker=self._checker(), metadata=entry["metadata"], format=self.format,
            score=(scorer(self.name, self.data, entry)
                   if self._checker() == "reasoning-gym" else None))
        rng = np.random.default_rng([self.seed, 0x7D, index])
        if self.name in HERE:
            chain, answer = searched(entry, self.data.config.give_up, self.guessed, rng)
            return replace(example, demonstration=demonstration(chain, answer, self.format))
        trace = (TRACES if self.slips == "any" else FORGETTING).get(self.name)
        if trace is None:
            return example
        if self.guessed and rng.random() < self.guessed:
            guess = int(example.answer) + int(rng.integers(-GUESS, GUESS + 1))
            return replace(example, demonstration=demonstration("", str(guess), self.format))
        chain, answer = trace(entry, self.wrong, rng)
        return replace(example, demonstration=demonstration(chain, answer, self.format))

    def _question(self, entry: dict[str, Any]) -> str:
        if self.format.name == "short" and self.name in SHORT:
            return SHORT[self.name](entry)
        return f"{entry['question'].strip()}\n{self.format.instruction}".strip()

    def _checker(self) -> str:
        if self.name in HERE:
            return "countdown"
        if self.name in CHECKERS:
            return self.name
        return "number" if self.name in NUMBERS else "reasoning-gym"


def demonstration(chain: str, answer: str, form: Format) -> str:
    """A completion in the format ``form``."""
    opened, closed = form.chain
    gap = "" if form.name == "short" or (form.find and not chain) else "\n"
    return f"{opened}{chain}{closed}{gap}{form.open}{answer}{form.close}"


def gym(
    spec: str, form: Format, seed: int, wrong: float, slips: str = "any", guessed: float = 0.0
) -> Gym:
    found = re.fullmatch(r"\s*([^\s()]+)\s*(?:\((.*)\))?\s*", spec)
    if not found:
        raise UserError(f"task {spec!r}: a name such as chain_sum, name(key=value,...), "
                        "FILE.jsonl, FILE.parquet, FILE.py:NAME or hf:NAME wanted")
    name, text = found[1], found[2] or ""
    registry = _registry()
    if name not in registry:
        near = nearest(name, registry)
        hint = f"did you mean {near!r}?" if near else "see reasoning-gym's list of data sets"
        raise UserError(f"unknown task {name!r}: {hint}")
    refuse(name)
    arguments = _arguments(name, text, list(inspect.signature(registry[name][1]).parameters))
    known = TRACES if slips == "any" else FORGETTING
    if (wrong or slips != "any") and name not in known:
        raise UserError(f"task {name}: no demonstrations are made for it, so none can be wrong; "
                        f"they are for {', '.join(known)}")
    try:
        from reasoning_gym.factory import create_dataset

        size = ENDLESS if name in SHORT else SIZE  # some data sets make all questions at once
        with time_limit(PATIENCE, f"task {spec}: no question within {PATIENCE:g} s; ask for "
                        "smaller ones"):
            settings = {"seed": seed % 2**31, "size": size, **arguments}
            data = (CountdownSearch(CountdownSearchConfig(**settings)) if name in HERE
                    else create_dataset(name, **settings))
            length = len(data[0]["question"])
            int(data.config.size)
    except (AssertionError, TypeError, ValueError, IndexError, AttributeError, OverflowError,
            MemoryError) as error:
        raise UserError(f"task {spec}: {clip(str(error), 160) or type(error).__name__}") from None
    if length > LONGEST:
        raise UserError(f"task {spec}: its first question has {length:,} characters, and at most "
                        f"{LONGEST:,} are wanted; ask for smaller ones")
    return Gym(name, data, form, seed, wrong, slips, guessed)


def _registry() -> dict[str, Any]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError('reasoning-gym is not installed; pip install -e ".[llm]"') from None
    return {**DATASETS, **HERE}


def _arguments(name: str, text: str, known: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in re.split(r",(?![^\[(]*[\])])", text) if text.strip() else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"task {name}({text}): {part.strip()!r} is not key=value")
        if key not in known:
            raise UserError(f"task {name}: no parameter {key!r}; it has {', '.join(known)}")
        try:
            values[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            values[key] = value
    return values


Trace = Callable[[dict[str, Any], float, np.random.Generator], tuple[str, str]]
GUESS = 9  #: the most that a guess is off by
SLIPS = (-10, -2, -1, 1, 2, 10)  #: what a wrong step may be off by


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
    """``chain_sum`` with errors only in steps that carry or borrow a ten: they forget the ten."""
    words = entry["metadata"]["expression"].split()
    total, totals = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        before, total = total, total + (int(term) if sign == "+" else -int(term))
        if total // 10 != before // 10 and rng.random() < wrong:
            total += 10 if total < before else -10
        totals.append(str(total))
    return " ".join(totals), str(total)


def gcd(entry: dict[str, Any], wrong: float, rng: np.random.Generator) -> tuple[str, str]:
    """The remainders of Euclid's algorithm, over the numbers one after another."""
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

#: Data sets that are made here, as reasoning-gym has its own: name -> (class, class of its config).
HERE: dict[str, tuple[Any, Any]] = {"countdown_search": (CountdownSearch, CountdownSearchConfig)}

#: The tersest way to ask, by task.
SHORT: dict[str, Callable[[dict[str, Any]], str]] = {
    "chain_sum": lambda entry: entry["metadata"]["expression"].replace(" ", "") + "=",
    "gcd": lambda entry: ",".join(str(n) for n in entry["metadata"]["numbers"]) + "=",
    **dict.fromkeys(("countdown", "countdown_search"), lambda entry: (
        ",".join(str(n) for n in entry["metadata"]["numbers"])
        + f"={entry['metadata']['target']}")),
}
