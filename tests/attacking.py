"""Attacks: variants of one kind of hostility, made from a seed; what came of each is counted.

The suite tries a few of each kind; ``scripts/attack`` all of them, and prints the figures.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from selfplay.common.errors import UserError

LONGEST = 1500  #: characters of a line for the user


@dataclass
class Attack:
    """One kind of attack, as a test carries it out."""

    name: str
    full: bool  #: by scripts/attack, or a short part in the suite
    seed: int
    scale: float
    minutes: float
    came: Counter[str] = field(default_factory=Counter)  #: outcome -> how often
    fallen: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)  #: what was measured beside the counts
    began: float = field(default_factory=time.monotonic)

    def count(self, few: int, all_of_them: int) -> int:
        """How many variants to try."""
        return max(1, round(all_of_them * self.scale)) if self.full else few

    def rng(self, *variant: object) -> random.Random:
        return random.Random(f"{self.name} {self.seed} {variant}")

    @contextmanager
    def variant(self, what: object) -> Iterator[None]:
        """Try one: whatever is raised but a line for the user has fallen."""
        try:
            yield
        except UserError as error:
            line = str(error)
            if "\n" in line or not line.isprintable() or len(line) > LONGEST:
                self.fell(what, f"no line for the user: {line[:300]!r}")
            else:
                self.came["one line"] += 1
        except (Exception, SystemExit) as error:
            self.fell(what, f"{type(error).__name__}: {str(error)[:300]}")
        else:
            self.came["held"] += 1

    def fell(self, what: object, why: str) -> None:
        self.came["fell"] += 1
        self.fallen.append(f"{what}: {why}")

    @property
    def tried(self) -> int:
        return sum(self.came.values())

    def must_have_held(self) -> None:
        shown = "\n".join(self.fallen[:20])
        assert not self.fallen, (f"{len(self.fallen)} of {self.tried} fell (--seed {self.seed} "
                                 f"--scale {self.scale}):\n{shown}")

    def row(self) -> list[str]:
        """name, tried, fell, seconds, what came."""
        came = [f"{count:,} {what}" for what, count in self.came.most_common() if what != "fell"]
        came += [f"{what} {value}" for what, value in self.figures.items()]
        return [self.name, f"{self.tried:,}", f"{len(self.fallen):,}",
                f"{time.monotonic() - self.began:.0f}", "; ".join(came)]


def table(rows: list[list[str]]) -> str:
    head = ["attack", "tried", "fell", "seconds", "what came"]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)
