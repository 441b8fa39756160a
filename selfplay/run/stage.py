"""A stage of a run, of boards or of texts: its clock, its bar and its curves.

Each stage looks at what the run's folder holds, does what is left within its share of the time,
and hands the next one files, not objects: a run killed anywhere continues from its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from selfplay.common.console import Bar, say
from selfplay.common.errors import UserError
from selfplay.common.settings import to_dict
from selfplay.run.clock import Clock
from selfplay.run.keep import Row
from selfplay.run.loggers import Loggers


class NotYet(UserError):
    """A stage whose turn has come before there is what it builds on."""


@dataclass
class Desk:
    """What a stage works with: ``left`` seconds, and who is told what it does."""

    name: str
    clock: Clock
    bar: Bar
    loggers: Loggers
    look: Callable[[Row], str]  #: the figures of a row worth reading; nothing: those before stay
    latest: str

    def left(self) -> float:
        return self.clock.left(self.name)

    def log(self, row: Row) -> None:
        """A row has come."""
        self.loggers.log(self.name, row)
        self.latest = self.look(row) or self.latest

    def at(self, text: str) -> None:
        """What is being done now."""
        self.bar.at(self.clock.spent(self.name), f"{text}  {self.latest}")

    def step(self, step: int, figures: Any = None) -> None:
        """A step has been made."""
        self.at(f"step {step:,}")

    def show(self, samples: list[Row]) -> None:
        """Completions to read (``llm.rl.shown``)."""
        self.loggers.log(self.name, {
            "step": samples[0]["step"],
            "shown": [[s["prompt"], s["completion"]] for s in samples]})


@dataclass(frozen=True)
class Work:
    """What there is to do in a stage.

    learn: does it, within what the desk leaves. ended: of what ``learn`` returned, whether the
    stage is done for good. said: what is said of it.
    """

    title: str
    learn: Callable[[Desk], Any]
    look: Callable[[Row], str]
    said: Callable[[Any], str]
    ended: Callable[[Any], bool] = lambda found: False
    first: str = field(default="first look soon")


#: (run, clock, device) -> what there is to do; else what is said instead, or nothing.
Stage = Callable[[Any, Clock, str], "Work | str | None"]


def run_stages(
    run: Any, stages: Mapping[str, Stage], clock: Clock, device: str, only: str | None = None
) -> None:
    """All stages in order, or ``only`` one of them."""
    for name, stage in stages.items():
        if name in clock.shares and only in (None, name):
            with clock.running(name):
                try:
                    _run(name, stage, run, clock, device)
                except NotYet as error:  # what there is can be measured all the same
                    say(str(error))


def _run(name: str, stage: Stage, run: Any, clock: Clock, device: str) -> None:
    work = stage(run, clock, device)
    if not isinstance(work, Work):
        if work:
            say(work)
        return
    with desk(Loggers(run.folder, to_dict(run.config), run.config.log), clock, name, work) as place:
        found = work.learn(place)
    if work.ended(found):
        clock.finish(name)
    say(work.said(found))


@contextmanager
def desk(loggers: Loggers, clock: Clock, name: str, work: Work) -> Iterator[Desk]:
    """A desk for ``work``, with a bar and loggers."""
    with closing(loggers), Bar(work.title, clock.budget(name)) as bar:
        yield Desk(name, clock, bar, loggers, work.look, work.first)
