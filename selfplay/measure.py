"""What strength is measured in: Elo, of matches, or accuracy, of answered questions.

The chart, the verdict and the report ask here for every word and number that differs between the
two; an evaluation (see report.py) names its measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The stages of all recipes, in the order of training.
STAGES = ("base", "sft", "rl", "own", "rl2", "free", "rlhf", "student", "value")
NAMES = {"base": "Base", "sft": "SFT", "rl": "RL", "own": "Own answers", "rl2": "Second RL",
         "free": "RL, no budget", "rlhf": "RLHF", "student": "Student", "value": "AlphaGo"}
LEARNERS = ("sft", "base")  #: learn what others have made: the ceiling to pass, the first that is
IMPROVERS = ("value", "rlhf", "rl2", "rl")  #: are to pass it, the first that is there


@dataclass(frozen=True)
class Measure:
    """A unit of strength. Records have it under ``key``, with its 95% interval low and high, and
    under ``counted`` the number of games or questions it rests on."""

    key: str
    name: str
    counted: str
    title: str  #: of the chart, before "against training compute"
    form: str  #: format of a number
    sign: str  #: right behind a number
    unit: str  #: behind a number and its interval
    least: float  #: what an axis spans at least
    level: float  #: a wider interval of a difference says nothing about who is level
    zero: bool  #: does the axis show 0, the anchor
    raw: str  #: what the mode 0 is called, at length and in short
    raw_short: str
    more: str  #: the same of a mode that spends {} simulations or samples
    more_short: str
    more_key: str
    improver: str  #: what follows SFT on the axis
    about: str  #: what an evaluation's "rules" are
    expert: str  #: how a sentence names the expert

    def mode(self, sims: int) -> str:
        return self.more.format(sims) if sims else self.raw

    def mode_short(self, sims: int) -> str:
        return self.more_short.format(sims) if sims else self.raw_short

    def mode_key(self, sims: int) -> str:
        return f"{self.more_key}@{sims}" if sims else "raw"


ELO = Measure(
    key="elo", name="Elo", counted="games", title="Strength", form=".0f", sign="",
    unit=" Elo", least=100.0, level=150.0, zero=True, raw="raw policy", raw_short="raw",
    more="{} simulations", more_short="{} sims", more_key="search", improver="self-play RL",
    about="Rules", expert="The expert {}")
#: In percent; ``sims`` is the number of answers whose majority counts, 0 a single one.
ACCURACY = Measure(
    key="accuracy", name="accuracy", counted="questions", title="Accuracy", form=".1f", sign="%",
    unit="", least=20.0, level=8.0, zero=False, raw="one answer", raw_short="one answer",
    more="majority of {} answers", more_short="majority of {}", more_key="majority",
    improver="RL", about="Task", expert="{}")
MEASURES = {measure.key: measure for measure in (ELO, ACCURACY)}


def measure_of(evaluation: dict[str, Any]) -> Measure:
    """The measure that an evaluation names, Elo where it names none."""
    return MEASURES[evaluation.get("measure", "elo")]
