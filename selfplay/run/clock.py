"""A run's clock: the seconds that each stage has spent, and what it may still spend.

``--minutes`` is split between the stages by their shares. A stage that needs more than its share to
get anywhere is given what it needs, as far as the others' needs allow; what a stage leaves goes to
the stages after it. Numba's compilation is charged to nobody.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from selfplay.common import interrupt
from selfplay.common.compiling import working_seconds
from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, read_json, write_state
from selfplay.common.history import finite_float

OVERTIME = 0.05  #: of the minutes: how far a stage may go past its time to finish a step
SOME = "0.1,0.2,0.5,0.2"  #: shares of the time, by which every stage has some
GIVEN_UP = ("value", "rl")  #: whose needs are dropped, in this order, where not all can be met


class Limited(Protocol):
    """Settings that limit the time."""

    @property
    def minutes(self) -> float: ...


class Budgeted(Protocol):
    """What a Clock needs to know about a run."""

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> Limited: ...


def divide(
    seconds: float, shares: Mapping[str, float], least: Mapping[str, float]
) -> dict[str, float]:
    """Split ``seconds`` between stages by ``shares`` (equally where all are 0), giving none of them
    less than its ``least``.

    Where the needs add up to more than there is, those of GIVEN_UP are dropped first; if even that
    is not enough, the stages that are left get time in proportion to their needs.
    """
    seconds = max(seconds, 0.0)
    shares = shares if any(shares.values()) else dict.fromkeys(shares, 1.0)
    needs = {name: least.get(name, 0.0) for name in shares}
    for name in GIVEN_UP:
        if sum(needs.values()) > seconds and name in needs:
            needs[name] = 0.0
    total = sum(needs.values())
    if total > seconds:
        return {name: seconds * need / total for name, need in needs.items()}
    fixed: set[str] = set()
    while True:
        rest = seconds - sum(needs[name] for name in fixed)
        weight = max(sum(share for name, share in shares.items() if name not in fixed), 1e-9)
        given = {name: needs[name] if name in fixed else rest * share / weight
                 for name, share in shares.items()}
        short = {name for name in shares if given[name] < needs[name]}
        if not short:
            return given
        fixed |= short


class Clock:
    """Seconds spent per stage, kept on disk, and what each stage may still spend."""

    def __init__(
        self, run: Budgeted, shares: Mapping[str, float], alone: float | None = None,
        only: Sequence[str] = (),
    ) -> None:
        """shares: the stages in order (see ``folder.stages``), and each one's part of the minutes.
        alone: minutes for this start, whatever was spent before; they are for the stages ``only``,
        or for whichever stage runs if none are named.

        Raises UserError for a damaged progress.json.
        """
        self.run, self.shares, self.alone, self.only = run, dict(shares), alone, tuple(only)
        self.needs: dict[str, float] = {}  #: seconds that stages need, from this start on
        self.file = run.folder / "progress.json"
        data = read_json(self.file) if self.file.exists() else {"seconds": {}, "done": []}
        try:
            self.seconds = {s: max(finite_float(data["seconds"].get(s, 0)), 0.0)
                            for s in self.shares}
            self.done = [stage for stage in self.shares if stage in data["done"]]
            #: minutes that RL's first point needs in all, where the run's are too few for it
            self.enough = math.ceil(max(finite_float(data.get("enough", 0)), 0.0))
            #: the minutes of the last start, for all stages together
            self.before = finite_float(data.get("minutes", run.config.minutes))
            #: seconds in all that ``promise`` has given to stages
            self.promised = {s: finite_float(data.get("promised", {}).get(s, 0))
                             for s in self.shares}
        except DAMAGE:
            raise UserError(f"{self.file}: damaged; delete it and run the same command again, "
                            "which then counts its minutes from 0") from None
        self.at_start = dict(self.seconds)
        self.told = False  #: that RL will have no first point
        if alone is None:
            self.needs = {s: total - self.seconds[s] for s, total in self.promised.items()
                          if total > self.seconds[s]}
        self.stage: str | None = None
        self.since = working_seconds()
        self.saved = time.monotonic()

    @contextlib.contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Count the time of the block as ``stage``'s, however the block ends.

        A first Ctrl-C waits for the stage to look at the clock (see ``common.interrupt``).
        """
        self.stage, self.since = stage, working_seconds()
        with interrupt.gently():
            try:
                yield
            finally:
                self._add()
                self.stage = None
                self.save()

    def _add(self) -> None:
        now = working_seconds()
        if self.stage:
            self.seconds[self.stage] += now - self.since
        self.since = now

    def spent(self, stage: str) -> float:
        """Seconds of ``stage`` until now, over all starts of this run.

        Raises KeyboardInterrupt if the process has been asked to stop.
        """
        interrupt.raise_if_asked()
        self._add()
        if time.monotonic() - self.saved > 5:
            self.save()
        return self.seconds[stage]

    def budget(self, stage: str) -> float:
        """Seconds that ``stage`` may spend, over all starts of this run."""
        if self.alone is None:
            names, minutes = list(self.shares), self.run.config.minutes
            before = dict.fromkeys(names, 0.0)
            least = {name: self.at_start[name] + need for name, need in self.needs.items() if need}
        else:
            names, minutes = [s for s in self.shares if s in (self.only or (stage,))], self.alone
            before, least = self.at_start, self.needs
        index = names.index(stage)
        left = minutes * 60 - sum(self.seconds[s] - before[s] for s in names[:index])
        later = {name: self.shares[name] for name in names[index:]}
        return before[stage] + divide(left, later, least)[stage]

    def planned(self, minutes: float, idle: Collection[str] = ()) -> dict[str, float]:
        """What each stage would have of ``minutes``, over all starts of this run. idle: stages with
        nothing to do."""
        active = {name: share for name, share in self.shares.items() if name not in idle
                  and (self.alone is None or not self.only or name in self.only)}
        before = self.at_start if self.alone is None else dict.fromkeys(active, 0.0)
        return divide(minutes * 60, active, {
            name: before[name] + self.needs[name] for name in active if self.needs.get(name)})

    def left(self, stage: str) -> float:
        """Seconds that ``stage`` still has."""
        return self.budget(stage) - self.spent(stage)

    def more(self, stage: str) -> str:
        """The option that gives ``stage`` more time."""
        return "more --minutes" if self.shares[stage] else f"--set shares={SOME}"

    def overtime(self) -> float:
        """Seconds that a stage may go past its time to finish what is under way."""
        return OVERTIME * 60 * (self.run.config.minutes if self.alone is None else self.alone)

    def promise(self, stage: str) -> None:
        """Let ``stage`` have as long again as it has had, at this start and those that go on with
        it."""
        self.needs[stage] = self.at_start[stage]
        self.promised[stage] = 2 * self.at_start[stage]

    def begin_anew(self, stage: str) -> None:
        """Count none of the time that ``stage`` has had: what it made is put aside."""
        self.seconds[stage] = self.at_start[stage] = 0.0
        self.reopen(stage)

    def finish(self, stage: str) -> None:
        """Note that ``stage`` has nothing left to do."""
        if stage not in self.done:
            self.done.append(stage)
        self.save()

    def reopen(self, stage: str) -> None:
        """Note that ``stage`` has something to do again."""
        self.done = [name for name in self.done if name != stage]
        self.save()

    def save(self) -> None:
        """Write progress.json."""
        self.saved = time.monotonic()
        minutes = self.run.config.minutes if self.alone is None else self.before
        write_state(self.file, {"seconds": self.seconds, "done": self.done, "minutes": minutes,
                                "enough": self.enough, "promised": self.promised})
