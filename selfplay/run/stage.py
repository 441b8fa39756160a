"""One stage of a run, on boards or texts: its clock, its bar and its curves.

A stage looks at what is in the run's folder, does what is left to do within its share of the time,
and hands files to the next stage rather than objects. So a run killed anywhere continues from its
folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from selfplay.arena.play import Away
from selfplay.common import ranks
from selfplay.common.console import Bar, clock_text, say
from selfplay.common.errors import UserError
from selfplay.common.settings import to_dict
from selfplay.run.clock import Clock
from selfplay.run.keep import Row
from selfplay.run.loggers import Loggers

#: Stages that the first of a run's processes does alone while the others wait.
BY_ONE = ("expert", "value", "eval")


class NotYet(UserError):
    """A stage cannot start because what it builds on does not exist yet."""


@dataclass
class Desk:
    """What a stage works with while it runs: how much time is left, and where to report."""

    name: str
    clock: Clock
    bar: Bar
    loggers: Loggers | None
    look: Callable[[Row], str]  #: the figures of a row worth reading; "" keeps the previous ones
    latest: str
    waits: str = "the step under way"  #: what the stage still does once its time is up
    steps: int = 0  #: after which the stage ends, whatever its time; 0: nobody knows

    def left(self) -> float:
        """Seconds that the stage still has; negative once it is past its time."""
        return self.clock.left(self.name)

    def log(self, row: Row) -> None:
        """Report a new row of the stage's history."""
        if self.loggers:
            self.loggers.log(self.name, row)
        self.latest = self.look(row) or self.latest

    def made(self, count: float, wanted: float) -> None:
        """Note how much is done of what ends the stage, should its time not end it first."""
        self.bar.part = count / max(wanted, 1)

    def at(self, text: str) -> None:
        """Show on the bar what is being done now, and what the stage waits for if it is late."""
        spent = self.clock.spent(self.name)
        late = spent - self.bar.total
        if late >= 1:
            text += f"  {clock_text(late)} past its time, waits for {self.waits}"
        self.bar.at(spent, f"{text}  {self.latest}".rstrip())

    def step(self, step: int, figures: Any = None) -> None:
        """Show that an optimizer step has been made."""
        self.made(step, self.steps or math.inf)
        self.at(f"step {step:,}")

    def show(self, samples: list[Row]) -> None:
        """Log completions to read (``llm.rl.shown``)."""
        if self.loggers:
            self.loggers.log(self.name, {
                "step": samples[0]["step"],
                "shown": [[s["prompt"], s["completion"]] for s in samples]})


def nothing(found: Any) -> str:
    """No words."""
    return ""


@dataclass(frozen=True)
class Work:
    """What there is to do in a stage.

    learn: does it, within the time that the desk leaves. look: see ``Desk``. said: turns what
    ``learn`` returned into the text to print. ended: tells from the same whether the stage is done
    for good. first: what the bar shows before the first row. curves: whether the stage has rows for
    TensorBoard and other loggers.
    """

    title: str
    learn: Callable[[Desk], Any]
    look: Callable[[Row], str] = nothing
    said: Callable[[Any], str] = nothing
    ended: Callable[[Any], bool] = lambda found: False
    first: str = "first look soon"
    curves: bool = True


class Elsewhere(Protocol):
    """What plays a run's games on other machines (``cluster``)."""

    def selfplay(self, run: Any, learner: Any) -> Any:
        """What plays by the weights of a ``boards.KeptLearner``: its ``ShardedGames``."""

    def league(self, run: Any, learner: Any) -> Any:
        """What plays for a ``boards.KeptPolicyLearner``: its ``board.league.Play``."""

    def matches(self, *runs: Any) -> Away:
        """What plays between players: the nets of ``runs``, and others."""

    def value_games(
        self, run: Any, policies: Sequence[Path], numbers: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """As ``shards.Shards``, by the checkpoints of two policies, before and after the random
        move."""


#: (run, clock, device) -> what there is to do, or a line to print instead, or nothing.
Stage = Callable[[Any, Clock, str], "Work | str | None"]


def must_be_played(run: Any, only: Sequence[str], elsewhere: Elsewhere | None) -> None:
    """Raises UserError for self-play ahead of the weights where no cluster plays it."""
    ahead = run.config.rl.max_staleness
    if ahead and elsewhere is None and (not only or "rl" in only):
        raise UserError(f"rl.max_staleness={ahead}: for games that a cluster plays; give --ray, or "
                        "--set rl.max_staleness=0")


def run_stages(
    run: Any, stages: Mapping[str, Stage], clock: Clock, device: str, only: Sequence[str] = ()
) -> None:
    """Run the stages in order; if ``only`` names some, just those."""
    for name, stage in stages.items():
        if name in clock.shares and (not only or name in only):
            work = partial(_run_stage, name, stage, run, clock, device)
            with clock.running(name):
                ranks.here().meet()
                if name in BY_ONE:
                    by_first(work)
                else:
                    work()


def by_first(work: Callable[[], object]) -> None:
    """Let the first process do ``work`` alone while the others wait."""
    if ranks.leads():
        with ranks.belonging(ranks.Alone()):
            work()
    ranks.here().meet()


def _run_stage(name: str, stage: Stage, run: Any, clock: Clock, device: str) -> None:
    try:
        _work_at(name, stage(run, clock, device), run, clock)
    except NotYet as error:  # later stages can still measure what is there
        say(str(error))


def _work_at(name: str, work: Work | str | None, run: Any, clock: Clock) -> None:
    if not isinstance(work, Work):
        if work:
            say(work)
        return
    curves = work.curves and ranks.leads()
    loggers = Loggers(run.folder, to_dict(run.config), run.config.log) if curves else None
    with desk(loggers, clock, name, work) as place:
        found = work.learn(place)
    if work.ended(found):
        clock.finish(name)
    if text := work.said(found):
        say(text)


@contextmanager
def desk(loggers: Loggers | None, clock: Clock, name: str, work: Work) -> Iterator[Desk]:
    """A desk for ``work``, with a bar and loggers that are closed afterwards."""
    closed = closing(loggers) if loggers else nullcontext()
    with closed, Bar(work.title, clock.budget(name)) as bar:
        yield Desk(name, clock, bar, loggers, work.look, work.first)
