"""Reward functions of the user's own as a judge of completions.

A function gets completions and the rows that they answer, and gives numbers by name:
``(completions, examples) -> {name: [number]}``. It runs in processes of its own. A call that raises
or takes too long is repeated for each completion alone; those that fail again, and those whose
number is none or not finite, get the reward that the settings state, and are counted. What no
repetition mends (other names, a wrong number of values) ends the run with a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.llm.judges.processes import GRACE, Lost, Talk
from selfplay.llm.rewards import Example
from selfplay.llm.stage_config import MOST, JudgeConfig

ALONE = 4  #: failures by time of completions alone, in a row, after which the rest count as failed
RESERVED = ("partial", "format", "length", "ended", "earned", "failed")  #: names of other parts
Values = dict[str, float]


@dataclass(eq=False)
class Judge:
    """The reward functions that ``words`` name, as a ``rewards.Judging``.

    Parts of a completion: those of the functions; earned, their weighted sum, or the stated reward
    where one of them failed; failed, 1 there; accuracy, where a function gives it or the example
    has no answer to compare with: then 1 where 1 or more is earned.
    """

    words: tuple[str, ...]  #: path.py:NAME of tasks with a reward, or of functions
    config: JudgeConfig = field(default_factory=JudgeConfig)
    weights: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()  #: of the parts, as the first call gave them
    told: set[str] = field(default_factory=set)  #: failures that have been shown

    def __post_init__(self) -> None:
        self.weights = {**self.weights, **weights_of(self.config.weights)}
        self.talks = [Talk("selfplay.llm.judges.worker.judge_completions",
                           {"words": list(self.words)}) for _ in range(self.config.workers)]

    def start(self) -> list[str]:
        """Start a process; the names of the functions. Raises UserError where they cannot be
        used."""
        self.talks[0].start()
        names: list[str] = self.talks[0].hello["functions"]
        return names

    def __call__(
        self, texts: list[str], examples: list[Example], parts: list[Values]
    ) -> list[Values]:
        asked = [{"prompt": e.prompt, **e.metadata, **({"answer": e.answer} if e.answer else {})}
                 for e in examples]
        try:
            found = self._values(texts, asked)
            if failures := [why for why in found if isinstance(why, str)]:
                self._tell(failures, len(texts))
        except UserError:
            for talk in self.talks:  # which may have an answer that nobody has heard
                talk.stop()
            raise
        out = []
        for values, example in zip(found, examples, strict=True):
            if isinstance(values, str):
                more = {**dict.fromkeys(self.names, 0.0), "earned": self.config.failed,
                        "failed": 1.0, "accuracy": 0.0}
            else:
                earned = sum(self.weights.get(name, 1.0) * values[name] for name in self.names)
                more = {**values, "earned": earned, "failed": 0.0}
                if "accuracy" not in values and not example.answer:
                    more["accuracy"] = float(earned >= 1)
            out.append(more)
        return out

    def _tell(self, failures: list[str], count: int) -> None:
        """Say what failed, each kind once. Raises UserError where too much did."""
        where, why = " and ".join(self.words), max(set(failures), key=failures.count)
        share = f"{where}: {len(failures)} of {count} completions could not be judged ({why})"
        if len(failures) > self.config.most_failed * count:
            raise UserError(f"{share}; mend the function, or raise --set judge.seconds or "
                            "judge.most_failed")
        if why not in self.told:
            self.told.add(why)
            say(f"{share}; each earns {self.config.failed:g}")

    def _values(self, texts: list[str], asked: list[dict[str, Any]]) -> list[Values | str]:
        """The parts of each completion, or why there are none."""
        talks = self.talks[:max(1, min(len(self.talks), len(texts)))]
        shares = [rows.tolist() for rows in np.array_split(np.arange(len(texts)), len(talks))]
        lost: dict[int, str] = {}
        for k, (talk, rows) in enumerate(zip(talks, shares, strict=True)):  # all work at once
            try:
                self._ask(talk, texts, asked, rows)
            except Lost as error:
                lost[k] = str(error)
        out: list[Values | str] = []
        for k, (talk, rows) in enumerate(zip(talks, shares, strict=True)):
            found = [lost[k]] * len(rows) if k in lost else self._hear(talk, len(rows))
            if len(rows) > 1 and all(isinstance(one, str) for one in found):
                found = self._alone(talk, texts, asked, rows)
            out += found
        return out

    def _alone(
        self, talk: Talk, texts: list[str], asked: list[dict[str, Any]], rows: Sequence[int]
    ) -> list[Values | str]:
        out: list[Values | str] = []
        late = 0
        for row in rows:
            if late >= ALONE:
                out.append(f"no value within {self.config.seconds:g} s")
                continue
            try:
                self._ask(talk, texts, asked, [row])
                found, = self._hear(talk, 1)
            except Lost as error:
                found = str(error)
            late = late + 1 if isinstance(found, str) and found.startswith("no value") else 0
            out.append(found)
        return out

    def _ask(
        self, talk: Talk, texts: list[str], asked: list[dict[str, Any]], rows: Sequence[int]
    ) -> None:
        talk.start()
        talk.send({"completions": [texts[i] for i in rows], "examples": [asked[i] for i in rows],
                   "seconds": self.config.seconds})

    def _hear(self, talk: Talk, count: int) -> list[Values | str]:
        """The answer to ``_ask``."""
        assert talk.hello is not None
        limit = self.config.seconds * len(talk.hello["functions"])
        try:
            outcomes = talk.receive(limit + GRACE)
        except Lost as lost:
            return [str(lost)] * count
        rows: list[Values] = [{} for _ in range(count)]
        for outcome in outcomes:
            if "failed" in outcome:
                return [outcome["failed"]] * count
            for name, values in self._sound(outcome, count):
                if name in rows[0]:
                    raise UserError(f"{' and '.join(self.words)}: {outcome['name']} gave a part "
                                    f"{name}, as another function gives; choose another name")
                for row, value in zip(rows, values, strict=True):
                    row[name] = value
        if not rows[0] or (self.names and set(rows[0]) != set(self.names)):
            raise UserError(f"{' and '.join(self.words)}: parts {', '.join(rows[0]) or 'none'}, "
                            f"where {', '.join(self.names) or 'some'} are wanted, always the same")
        self.names = self.names or tuple(rows[0])
        if unknown := [name for name in self.weights if name not in self.names]:
            raise UserError(f"judge.weights: no part {unknown[0]!r}; there are "
                            f"{', '.join(self.names)}")
        return [next((f"{name} is {value}, no finite number" for name, value in row.items()
                      if not abs(value) <= MOST), row) for row in rows]

    def _sound(
        self, outcome: dict[str, Any], count: int
    ) -> Iterator[tuple[str, list[float]]]:
        """(name, values, NaN where there is none) of a function's parts. Raises UserError where it
        gave something else."""
        where = " and ".join(self.words)
        for name, values in outcome["value"].items():
            if len(values) != count:
                raise UserError(f"{where}: {outcome['name']} gave {len(values)} values of {name} "
                                f"for {count} completions; one of each, in their order, wanted")
            if name in RESERVED:
                raise UserError(f"{where}: {outcome['name']} gave a part called {name}, which "
                                "there is already; choose another name")
            yield name, [float("nan") if value is None else value for value in values]


def weights_of(words: Sequence[str]) -> dict[str, float]:
    """NAME=WEIGHT texts as numbers. Raises UserError."""
    found = {}
    for text in words:
        name, equals, value = (part.strip() for part in text.partition("="))
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not abs(found[name]) <= MOST:
            raise UserError(f"judge.weights: {clip(text, 40)}; NAME=WEIGHT, such as short=0.2, "
                            "wanted")
    return found

