"""How much a player may search: ``64``, or ``64x8`` with eight leaves of a tree under way."""

from __future__ import annotations

import re
from typing import NamedTuple

LEAVES = 1024  #: of one tree at once, at most


class Budget(NamedTuple):
    """Simulations of a move, and leaves of its tree under way at once."""

    sims: int
    leaves: int = 1

    def __str__(self) -> str:
        return f"{self.sims}x{self.leaves}" if self.leaves > 1 else str(self.sims)


def budget(text: str) -> Budget | None:
    """Of ``1000`` or ``1000x8``; None for other text."""
    found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,4}))?", text)
    if found is None or int(found[1]) < 1 or not 1 <= int(found[2] or 1) <= LEAVES:
        return None
    return Budget(int(found[1]), int(found[2] or 1))
