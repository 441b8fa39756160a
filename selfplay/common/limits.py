"""Types of settings with their limits, which pydantic checks where a value comes from outside
(``settings``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

#: Seeds go to torch, which takes 63 bits; other numbers count what a machine holds and does.
MAX_SEED, MAX_NUMBER = 2**63 - 1, 2**31 - 1


@dataclass(frozen=True)
class Limit:
    """A part of a field's type: what its value must be beside an int, a float or a tuple."""

    holds: Callable[[Any], bool]
    wanted: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.checked, handler(source))

    def checked(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.wanted)
        return value


def at_most(most: int) -> Limit:
    return Limit(lambda number: number <= most, f"at most {most}")


FROM_0 = Limit(lambda number: number >= 0, "0 or more")  # NaN is neither
ABOVE_0 = Limit(lambda number: number > 0, "more than 0")
UP_TO_1 = Limit(lambda number: number <= 1, "at most 1")
IN_ORDER = Limit(lambda plies: plies[0] <= plies[1], "fewest and most plies in order")
Seed = Annotated[int, FROM_0, at_most(MAX_SEED)]
Whole = Annotated[int, FROM_0, at_most(MAX_NUMBER)]
Count = Annotated[int, ABOVE_0, at_most(MAX_NUMBER)]
Amount = Annotated[float, FROM_0, at_most(MAX_NUMBER)]
Positive = Annotated[float, ABOVE_0, at_most(MAX_NUMBER)]
Share = Annotated[float, FROM_0, UP_TO_1]
Part = Annotated[float, ABOVE_0, UP_TO_1]  #: a share that is not nothing
BelowOne = Annotated[float, FROM_0, Limit(lambda share: share < 1, "below 1")]
Plies = Annotated[tuple[Whole, Whole], IN_ORDER]
