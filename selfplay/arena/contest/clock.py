"""Time controls: how long a move may take, so that no clock is ever overstepped.

Known are main time alone, Canadian overtime (a time for some stones), byo-yomi (periods that begin
anew with every move made within them) and Fischer's increment. The engine keeps the clocks of both
sides itself; what the controller says (``said``) overrides that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from selfplay.common.errors import UserError
from selfplay.games.rules import Rules

Kind = Literal["none", "absolute", "canadian", "byoyomi", "fischer"]

MARGIN = 0.3  #: seconds of each move that are left, for what lies between engine and clock
FEWEST = 10  #: moves that are taken to be still to come, at least
LOCAL = 0.05  #: MARGIN where the judge is in the same process
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
_TIME = r"(\d+(?:\.\d+)?)([hms]?)"
_CONTROL = re.compile(rf"{_TIME}(?:\+(?:(\d+)x)?{_TIME}(?:/(\d+))?)?")


@dataclass(frozen=True)
class Control:
    """A time control. main: seconds. period: seconds of an overtime, or Fischer's increment. count:
    stones of a Canadian overtime, or periods of byo-yomi.

    Raises ValueError for what makes none.
    """

    kind: Kind = "none"
    main: float = 0.0
    period: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        numbers = self.main, self.period, self.count
        if not all(0 <= number < 1e9 for number in numbers):  # NaN neither
            raise ValueError("times from 0 wanted")
        if self.kind in ("canadian", "byoyomi") and self.count < 1:
            raise ValueError("at least one stone or period wanted")

    def __str__(self) -> str:
        """As ``of_text`` takes it, in seconds; "none" without a limit."""
        main, period = (f"{time:.12g}s" for time in (self.main, self.period))
        overtime = {"fischer": f"+{period}", "canadian": f"+{period}/{self.count}",
                    "byoyomi": f"+{self.count}x{period}"}
        return "none" if self.kind == "none" else main + overtime.get(self.kind, "")


UNLIMITED = Control()


@dataclass
class Side:
    """What one side has left. main: seconds of main time. period: seconds of the present overtime.
    count: stones still to be made in it, or periods left, the present one included."""

    main: float
    period: float
    count: int


class GameClock:
    """Both sides' clocks. margin: seconds of each move that are not used.

    >>> clock = GameClock(margin=0.5)
    >>> clock.set(Control("byoyomi", main=0, period=10, count=3))
    >>> clock.seconds(0, to_come=30)
    9.5
    """

    def __init__(self, margin: float = MARGIN, control: Control = UNLIMITED) -> None:
        self.margin = margin
        self.set(control)

    def set(self, control: Control) -> None:
        """Both clocks anew."""
        self.control = control
        self.restart()

    def restart(self) -> None:
        """Another game under the same control."""
        c = self.control
        self.sides = [Side(c.main, c.period, c.count) for _ in range(2)]

    def said(self, side: int, seconds: float, count: int) -> None:
        """The controller's word: ``seconds`` left, of main time where ``count`` is 0, else of an
        overtime with ``count`` stones (Canadian) or periods (byo-yomi) left."""
        mine = self.sides[side]
        seconds = max(seconds, 0.0)
        if count and self.control.kind in ("canadian", "byoyomi"):
            mine.main, mine.period, mine.count = 0.0, seconds, count
        else:
            mine.main = seconds
            mine.period, mine.count = self.control.period, self.control.count

    def seconds(self, side: int, to_come: int) -> float | None:
        """Seconds for this side's move, None for no limit; 0 where there is no time to think.

        to_come: moves that this side still has to make, about.
        """
        c, mine = self.control, self.sides[side]
        if c.kind == "none":
            return None
        share = mine.main / max(to_come, FEWEST)
        if c.kind == "absolute":
            wanted, most = share, mine.main
        elif c.kind == "fischer":
            wanted, most = share + c.period, mine.main
        elif c.kind == "byoyomi":
            wanted, most = max(share, mine.period), mine.main + mine.period
        else:
            each = mine.period / max(mine.count, 1)
            wanted, most = max(share, each), mine.main + each
        return max(min(wanted, most) - self.margin, 0.0)

    def most(self, side: int) -> float:
        """Seconds after which this side's move oversteps the time."""
        c, mine = self.control, self.sides[side]
        if c.kind == "none":
            return math.inf
        periods = mine.count - 1 if c.kind == "byoyomi" else 0
        over = mine.period if c.kind in ("byoyomi", "canadian") else 0.0
        return mine.main + over + periods * c.period

    def left(self, side: int) -> tuple[float, int]:
        """GTP's ``time_left``: seconds of main time and 0, or of an overtime and the stones
        (Canadian) or periods (byo-yomi) left in it."""
        mine = self.sides[side]
        if mine.main > 0 or self.control.kind not in ("canadian", "byoyomi"):
            return mine.main, 0
        return mine.period, mine.count

    def used(self, side: int, seconds: float) -> None:
        """A move by ``side`` has taken so long."""
        c, mine = self.control, self.sides[side]
        over = max(seconds - mine.main, 0.0)
        mine.main = max(mine.main - seconds, 0.0)
        if c.kind == "fischer":
            mine.main += c.period
        elif c.kind == "byoyomi" and not mine.main:
            while over >= mine.period and mine.count > 1:
                over, mine.count, mine.period = over - mine.period, mine.count - 1, c.period
            mine.period = c.period
        elif c.kind == "canadian" and not mine.main:
            mine.period, mine.count = max(mine.period - over, 0.0), mine.count - 1
            if mine.count < 1:
                mine.period, mine.count = c.period, c.count


def canadian(main: float, period: float, stones: int) -> Control:
    """GTP's ``time_settings``: no overtime is main time alone; a time for no stones, no limit."""
    if period > 0 and stones == 0:
        return Control()
    return Control("canadian", main, period, stones) if period > 0 else Control("absolute", main)


def of_words(words: list[str]) -> Control:
    """``none``, ``absolute MAIN``, ``canadian MAIN TIME STONES``, ``byoyomi MAIN TIME PERIODS``,
    ``fischer MAIN INCREMENT``, as in kgs-time_settings and kata-time_settings.

    Raises ValueError.
    """
    kind, numbers = words[0] if words else "", words[1:]
    wanted = {"none": 0, "absolute": 1, "canadian": 3, "byoyomi": 3, "fischer": 2}
    if kind not in wanted or len(numbers) != wanted[kind]:
        raise ValueError("none, absolute MAIN, canadian MAIN TIME STONES, byoyomi MAIN TIME "
                         "PERIODS or fischer MAIN INCREMENT wanted")
    times = [float(number) for number in numbers[:2]]
    if kind == "canadian":
        return canadian(times[0], times[1], int(numbers[2]))
    return Control(kind, *times, *map(int, numbers[2:]))  # type: ignore[arg-type]


def of_text(text: str) -> Control:
    """A control as people write it: ``5m`` (absolute), ``5m+3s`` (Fischer: 3 s more with every
    move), ``5m+30s/10`` (Canadian: then 10 stones in 30 s each time), ``5m+3x30s`` (byo-yomi: then
    3 periods of 30 s). Numbers without a unit are seconds.

    Raises UserError.
    """
    found = _CONTROL.fullmatch(text.strip().replace(" ", ""))
    if found is None or (found[3] and found[6]):
        raise UserError(f"--clock {text}: 5m, 5m+3s (a move), 5m+30s/10 (for 10 moves) or 5m+3x30s "
                        "(periods) wanted")
    main = float(found[1]) * _UNITS[found[2]]
    more = float(found[4]) * _UNITS[found[5]] if found[4] else 0.0
    try:
        if found[3]:
            made = Control("byoyomi", main, more, int(found[3]))
        elif found[6]:
            made = Control("canadian", main, more, int(found[6]))
        else:
            made = Control("fischer", main, more) if more else Control("absolute", main)
    except ValueError as error:
        raise UserError(f"--clock {text}: {error}") from None
    if GameClock(control=made).most(0) <= 0:
        raise UserError(f"--clock {text}: that is no time at all")
    return made


def to_gtp(control: Control, known: Collection[str]) -> str:
    """The command that tells an engine of a control; empty where it knows none that fits. known:
    the engine's commands.

    Without Fischer's increment, which GTP itself lacks, it is told the main time alone, and before
    each move what it really has left.
    """
    c = control
    if "kata-time_settings" in known and c.kind == "fischer":
        return f"kata-time_settings fischer {c.main:g} {c.period:g}"
    if "kgs-time_settings" in known and c.kind == "byoyomi":
        return f"kgs-time_settings byoyomi {c.main:g} {c.period:g} {c.count}"
    if "time_settings" not in known or c.kind == "none":
        return ""
    main, period, stones = round(c.main), 0, 0
    if c.kind == "canadian":
        period, stones = round(c.period), c.count
    elif c.kind == "byoyomi":  # its first period is as one of a single stone
        period, stones = round(c.period), 1
    return f"time_settings {main} {period} {stones}"


def to_come(game: Rules, made: int) -> int:
    """Moves that a side has to make yet, about, which has made so many: a game is taken to fill
    two thirds of its cells."""
    return min(game.max_moves, game.cells) // 3 - made
