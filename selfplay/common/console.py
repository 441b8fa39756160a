"""What a person at the terminal sees: plain lines, and one progress bar at a time.

On a terminal the bar is live; in a log file a line is printed twice a minute instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from selfplay.common import interrupt, ranks
from selfplay.common.compiling import working_seconds

_console = Console(highlight=False, soft_wrap=True, emoji=False)
LOG_SECONDS = 30.0
FIRST_SECONDS = 1.0  #: of work, after which its pace is believed


def say(text: str) -> None:
    """One or more lines for the user, above any live bar; from the first of a run's processes."""
    if ranks.leads():
        _console.print(text, markup=False)


def clock_text(seconds: float) -> str:
    """90 -> '1:30', 3700 -> '1:01:40'."""
    minutes, secs = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class _Live(Progress):
    """A bar with some lines below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below)


class Bar:
    """Progress of a stage against its total (a time budget in seconds, or a count of games).

    live: whether it may redraw itself on a terminal; False where somebody types there. ``part``,
    where it is set, is the share done of work that may be over before the total is: the bar and the
    ETA follow whichever ends first. limit: a count that the work will hardly reach, so that nothing
    but ``part`` tells when it ends. late: it comes up at the first look, so that what is wrong with
    the work's input is said without a title. Numba's compilation counts in no time.
    """

    def __init__(
        self, title: str, total: float, unit: str = "seconds", live: bool = True,
        limit: bool = False, late: bool = False,
    ) -> None:
        self.title, self.total, self.unit = title, max(total, 1e-9), unit
        self.redraws = live and _console.is_terminal and ranks.leads()
        self.started, self.logged = working_seconds(), time.monotonic()
        self.part, self.limit, self.late = 0.0, limit, late
        #: done, part and the time at the first look
        self.first: tuple[float, float, float] | None = None
        self.latest = ""  #: the line that has not been logged yet
        self.live: _Live | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Bar:
        if not self.late:
            self._begin()
        return self

    def _begin(self) -> None:
        if self.redraws:
            self.live = _Live(
                TextColumn("[bold]{task.fields[title]}"), BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[elapsed]} ETA {task.fields[eta]}  {task.fields[note]}",
                           markup=False),
                console=_console, refresh_per_second=4,
            )
            self.live.start()
            self.task = self.live.add_task("", total=self.total, title=self.title, note="",
                                           elapsed="0:00", eta="-")
        else:
            timed = self.unit == "seconds" and self.total >= 1
            limit = f" (at most {clock_text(self.total)})" if timed else ""
            say(f"{self.title}{limit}")

    def at(self, done: float, note: str = "", below: str = "") -> None:
        """``done`` of the total; ``note`` is the latest figure worth reading, ``below`` a table
        that stands below a live bar.

        Raises KeyboardInterrupt if the process has been asked to stop.
        """
        interrupt.raise_if_asked()
        now = working_seconds()
        if self.first is None:
            if self.late:
                self._begin()
            self.first = (done, self.part, now)
        eta, share = self._eta(done, now), min(max(done / self.total, self.part), 1.0)
        elapsed = clock_text(done if self.unit == "seconds" else now - self.started)
        if self.live and self.task is not None:
            self.live.below = below
            self.live.update(self.task, completed=share * self.total, note=note,
                             elapsed=elapsed, eta=eta)
            return
        self.latest = f"{self.title} {share:4.0%}  {elapsed} ETA {eta}  {note}"
        if time.monotonic() - self.logged >= LOG_SECONDS:
            self._log()

    def _log(self) -> None:
        if self.latest:
            say(self.latest)
        self.logged, self.latest = time.monotonic(), ""

    def _eta(self, done: float, now: float) -> str:
        assert self.first is not None, "this is a look"
        if max(done / self.total, self.part) >= 1:
            return clock_text(0)
        begun, part, since = self.first
        passed = done - begun if self.unit == "seconds" else now - since
        more = self.total - done if self.unit == "seconds" else math.inf
        if passed >= FIRST_SECONDS:
            if self.part > part:
                more = min(more, passed * (1 - self.part) / (self.part - part))
            if self.unit != "seconds" and not self.limit and done > begun:
                more = min(more, (self.total - done) * passed / (done - begun))
        return "-" if math.isinf(more) else clock_text(more)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()
        else:
            self._log()
