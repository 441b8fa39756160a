"""Tasks of one's own: ``path.py:NAME`` is something with examples and, if it likes, more.

What is named is an iterable of rows, a function ``n -> row``, or an object that is one of the two,
such as of a class with ``__iter__`` or ``__call__``. A row is what a line of a file of questions
is; with a reward of one's own it needs no answer, and may be the question alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.interrupt import time_limit
from selfplay.common.words import clip, one_of
from selfplay.games import own
from selfplay.llm.judges.worker import built, failure_of
from selfplay.llm.rewards import FORMATS, Example, Format, answer_of
from selfplay.llm.stage_config import TaskConfig
from selfplay.llm.tasks.rows import (
    MOST_ROWS,
    Finder,
    Lines,
    Reading,
    distinct,
    example_of,
)

#: What an object may have beside its examples, and what it is where there is none.
EXTRAS: dict[str, Any] = {
    "test": None,  #: rows that are held out, an iterable
    "reward": None,  #: a function (completions, examples) -> {name: [number]}, or several
    "weights": {},  #: name -> weight of the reward's parts
    "style": "", "instruction": "", "system": "", "checker": "",  #: as in the settings data
    "extract": None,  #: completion -> answer or None
}
FIND = 1.0  #: seconds that finding an answer may take
ENDLESS = 2**30  #: examples of a function


@dataclass(frozen=True)
class Endless:
    """The examples of a function ``n -> row``."""

    words: str
    row: Callable[[int], Any]
    reading: Reading
    count: int = ENDLESS

    def item(self, index: int) -> Example:
        try:
            row = self.row(index)
        except Exception as error:
            raise UserError(f"{self.words}: example {index}: {failure_of(error)}") from error
        return example_of(row, f"{self.words}, example {index}", self.reading)


@dataclass(frozen=True)
class OwnTask:
    """What a name stands for; source and test as ``task.Task`` has them."""

    source: Lines | Endless
    test: Lines | None
    note: str
    rewarded: bool  #: whether it has a reward
    weights: Mapping[str, float]
    data: TaskConfig  #: the settings, with what the task brings


def own_task(words: str, style: str, data: TaskConfig, judged: bool) -> OwnTask:
    """The task that ``path.py:NAME(key=value)`` names.

    style: a name of FORMATS, or "full": the task's own, else plain where functions judge, else
    answer. judged: whether other reward functions judge its completions. Raises UserError where it
    cannot be used.
    """
    made = built(words, "a task")
    extra = {key: getattr(made, key, usual) for key, usual in EXTRAS.items()}
    rewarded = extra["reward"] is not None
    data = replace(data, instruction=data.instruction or str(extra["instruction"]),
                   system=data.system or str(extra["system"]),
                   checker=str(extra["checker"] or data.checker))
    chosen = style if style != "full" else str(extra["style"]) or (
        "plain" if rewarded or judged else "answer")
    form = format_of(chosen, data, extra["extract"])
    reading = Reading(form, data, finder_of(data.answer_in), free=rewarded or judged)
    if not isinstance(extra["weights"], Mapping):
        raise UserError(f"{words}: weights {clip(str(extra['weights']), 60)}; {{name: weight}} "
                        "wanted")
    source, note = _source(words, made, reading)
    test = None
    if extra["test"] is not None:
        test, _ = _listed(f"{words}, test", extra["test"], reading, 1)
    return OwnTask(source, test, note, rewarded, dict(extra["weights"]), data)


def _source(words: str, made: Any, reading: Reading) -> tuple[Lines | Endless, str]:
    if isinstance(made, Iterable):
        return _listed(words, made, reading, 2)
    if not callable(made):
        talks = all(callable(getattr(made, name, None)) for name in ("reset", "step"))
        raise UserError(f"{words}: {type(made).__name__}; an iterable of examples, or a function "
                        "n -> example, wanted" + (
                            "; an environment is for --env" if talks else ""))
    source = Endless(words, made, reading)
    source.item(0)
    return source, ""


def _listed(words: str, rows: Any, reading: Reading, least: int) -> tuple[Lines, str]:
    def found() -> Iterable[Example]:
        number = 0
        try:
            for number, row in enumerate(islice(iter(rows), MOST_ROWS), 1):
                yield example_of(row, f"{words}, example {number}", reading)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{words}: after {number} examples: {failure_of(error)}") from error

    return distinct(words, found(), least)


# ------------------------------------------------------------------------------- answers' places


def format_of(style: str, data: TaskConfig, extract: Finder | None = None) -> Format:
    """The format of that name, with the settings' own instruction and finder. extract: a task's
    finder, where the settings have none. Raises UserError for another name."""
    if style not in FORMATS:
        raise UserError(f"data.style={style}: {one_of(sorted(FORMATS), style)}")
    form = FORMATS[style]
    if data.instruction:
        form = replace(form, instruction=data.instruction)
    finder = finder_of(data.find) if data.find else extract and guarded(extract, "extract")
    return replace(form, find=finder, open="", close="", chain=("", "")) if finder else form


def finder_of(words: str) -> Finder | None:
    """What finds an answer in a text: a name of FORMATS, ``path.py:NAME``, or a regular expression,
    of whose last match the first group (the whole, without groups) is the answer. None for "".

    Raises UserError for a file or an expression that cannot be used.
    """
    if not words:
        return None
    if words in FORMATS:
        return lambda text: answer_of(text, FORMATS[words])
    if own.is_own(words):
        extract = built(words, "a function completion -> answer")
        if not callable(extract):
            raise UserError(f"{words}: a function completion -> answer or None wanted")
        return guarded(extract, words)
    try:
        pattern = re.compile(words)
    except re.error as error:
        raise UserError(f"{clip(words, 60)}: {error}; a style ({', '.join(FORMATS)}), "
                        "path.py:NAME or a regular expression wanted") from None

    def last(text: str) -> str | None:
        found = list(pattern.finditer(text))
        return None if not found else found[-1][1 if pattern.groups else 0]

    return guarded(last, words)


def guarded(extract: Callable[[str], Any], words: str) -> Finder:
    """``extract``; a failure, or more time than FIND, is no answer."""
    def found(text: str) -> str | None:
        try:
            with time_limit(FIND, words):
                answer = extract(text)
        except Exception:  # of a text that may be anything; the limit's as well
            return None
        return None if answer is None else str(answer)

    return found
