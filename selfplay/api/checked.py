"""Numbers that a caller gives, checked before anything begins."""

from __future__ import annotations

import operator
from typing import Any

from selfplay.common.errors import UserError, clip


def must_be_whole(call: str, least: int = 0, most: int = 2**31 - 1, **numbers: Any) -> None:
    """Raises UserError naming the first argument of ``call`` that is no whole number from ``least``
    to ``most``."""
    for name, value in numbers.items():
        try:
            fine = not isinstance(value, bool) and least <= operator.index(value) <= most
        except TypeError:
            fine = False
        if not fine:
            raise UserError(f"{call}: {name}={clip(repr(value), 60)}: a whole number, {least} or "
                            "more, wanted" if most == 2**31 - 1 else
                            f"{call}: {name}={clip(repr(value), 60)}: a whole number from {least} "
                            f"to {most} wanted")


def must_be_plies(call: str, opening: Any) -> None:
    """Raises UserError where ``opening`` is no pair of whole numbers in order."""
    try:
        low, high = opening
    except (TypeError, ValueError):
        raise UserError(f"{call}: opening={clip(repr(opening), 60)}: fewest and most random plies "
                        "wanted, as (2, 6)") from None
    must_be_whole(call, **{"opening[0]": low, "opening[1]": high})
    if low > high:
        raise UserError(f"{call}: opening={opening}: fewest and most random plies in order wanted")
