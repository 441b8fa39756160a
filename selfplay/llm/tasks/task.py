"""Questions to learn from and questions held out.

Where a task has no held-out questions of its own, whether a question is held out follows from its
text alone, so that nothing that is measured on can be learnt from, however many questions are
drawn. Batch k of training depends on (seed, k) alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from selfplay.common.errors import UserError
from selfplay.common.files import parse_json
from selfplay.games import own
from selfplay.llm.judges.functions import Judge
from selfplay.llm.rewards import Example, Judging
from selfplay.llm.stage_config import JudgeConfig, TaskConfig
from selfplay.llm.tasks.gym import gym
from selfplay.llm.tasks.own import finder_of, format_of, own_task
from selfplay.llm.tasks.rows import Lines, Reading, read_lines_of

HELD_OUT = 0.1  #: share of the questions that is held out
TRIES = 20  #: questions drawn for each one wanted before a data set counts as used up
FILES = (".jsonl", ".json", ".parquet")


class Source(Protocol):
    """A numbered set of questions: ``item(i)`` for i from 0 to ``count`` - 1."""

    @property
    def count(self) -> int: ...

    def item(self, index: int) -> Example: ...


@dataclass(frozen=True)
class Task:
    """Questions to learn from and questions held out."""

    name: str
    source: Source
    seed: int = 0
    note: str = ""  #: what of the file was left out
    test: Lines | None = None  #: the questions held out; None: a tenth of the source
    judge: Judging | None = None  #: reward functions of the user's own
    template: tuple[tuple[str, object], ...] = ()  #: arguments of the chat template
    system: str = ""  #: said before each question that has no system prompt of its own

    def batch(self, number: int, size: int) -> list[Example]:
        """``size`` training examples, the same ones for the same number."""
        rng = np.random.default_rng([self.seed, 0x7A, number])
        found: list[Example] = []
        for _ in range(size * TRIES):
            example = self.source.item(int(rng.integers(self.source.count)))
            if not self.is_held_out(example.prompt):
                found.append(self._dressed(example))
                if len(found) == size:
                    return found
        raise UserError(f"task {self.name}: hardly any questions to learn from that are not held "
                        "out; give a task with more of them")

    def held_out(self, count: int) -> list[Example]:
        """At most ``count`` different questions that no batch contains, always the same ones.

        Raises UserError if there is none.
        """
        found: dict[str, Example] = {}
        source = self.test or self.source
        rng, tries = np.random.default_rng([self.seed, 0x7E]), int(count * TRIES / HELD_OUT)
        limit = source.count
        order = rng.permutation(limit) if limit <= tries else rng.integers(limit, size=tries)
        for index in order:
            example = source.item(int(index))
            if self.is_held_out(example.prompt):
                found.setdefault(example.prompt, self._dressed(example))
                if len(found) == count:
                    break
        if not found:
            raise UserError(f"task {self.name}: no question to hold out; give more of them")
        return list(found.values())

    def is_held_out(self, prompt: str) -> bool:
        """The same for every seed, as a run may begin with another run's model."""
        if self.test is not None:
            return prompt in self._tested
        return held_out_share(prompt) < HELD_OUT

    @cached_property
    def _tested(self) -> frozenset[str]:
        return frozenset(e.prompt for e in self.test.examples) if self.test else frozenset()

    def _dressed(self, example: Example) -> Example:
        messages = example.messages
        if self.system and not any(m["role"] == "system" for m in messages):
            messages = ({"role": "system", "content": self.system},
                        *(messages or [{"role": "user", "content": example.prompt}]))
        return replace(example, judge=self.judge, template=dict(self.template), messages=messages)

    def asked(self, question: str, like: Example) -> Example:
        """A question of somebody's, in the way of the task's examples."""
        return self._dressed(replace(like, prompt=question, messages=()))

    def texts(self, count: int = 200) -> list[str]:
        """Some questions, answers and demonstrations, to make a tokenizer of."""
        return [text for example in self.batch(0, count) for text in
                (example.prompt, example.answer, example.demonstration or "",
                 *(message["content"] for message in example.messages))]


def held_out_share(prompt: str) -> float:
    """A number in [0, 1) that follows from a prompt alone: below HELD_OUT it is held out."""
    digest = hashlib.blake2b(f"0 {prompt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32


def make_task(
    spec: str, *, style: str = "full", seed: int = 0, wrong: float = 0.0, slips: str = "any",
    guessed: float = 0.0, data: TaskConfig | None = None, judge: JudgeConfig | None = None,
) -> Task:
    """The task of ``name``, ``name(key=value,...)`` (reasoning-gym), ``FILE.jsonl``,
    ``FILE.parquet``, ``hf:NAME(split=...)`` (a data set of Hugging Face) or ``path.py:NAME``.

    style: "short" asks as tersely as the task can and wants "#answer", for models that learn
    characters; any other name of FORMATS asks in words, with that format; "full" is the task's own,
    "answer" where it has none. wrong: share of the demonstrations' steps that are wrong (and are
    carried on); slips: which steps, "any" or, with "carry", those that carry a ten. guessed: share
    of the demonstrations that work nothing out and guess a number within gym.GUESS of the answer.
    data, judge: settings of those names. Raises UserError for an unknown name (naming the nearest),
    parameter or file.
    """
    data, judge = data or TaskConfig(), judge or JudgeConfig()
    words = list(judge.functions)
    test: Lines | None = None
    weights: Mapping[str, float] = {}
    source: Source
    if own.is_own(spec):
        mine = own_task(spec, style, data, bool(words))
        source, note, test, weights, data = (mine.source, mine.note, mine.test, mine.weights,
                                             mine.data)
        words = [spec] * mine.rewarded + words
    else:
        form = format_of("answer" if style == "full" else style, data)
        reading = Reading(form, data, finder_of(data.answer_in), bool(words))
        if spec.endswith(FILES) or spec.startswith("hf:") or Path(spec).is_file():
            source, note = read_lines_of(spec, reading)
        else:
            source, note = gym(spec, form, seed, wrong, slips, guessed), ""
    if data.test:
        form = source.item(0).format
        test, _ = read_lines_of(_test_of(spec, data.test),
                            Reading(form, data, finder_of(data.answer_in), bool(words)), 1)
    judging = Judge(tuple(map(own.located, words)), judge, weights) if words else None
    return Task(spec, source, seed, note, test, judging, template_of(data.template), data.system)


def _test_of(spec: str, test: str) -> str:
    """Where the held-out questions are: a file, a data set, or a split of that of ``spec``."""
    if test.endswith(FILES) or test.startswith("hf:"):
        return test
    if not spec.startswith("hf:"):
        raise UserError(f"data.test={test}: a file ({', '.join(FILES)}) or hf:NAME(split=...) "
                        "wanted; a split's name alone is for tasks hf:NAME")
    if "split=" in spec:
        return re.sub(r"split=[^,)]*", f"split={test}", spec)
    return f"{spec[:-1]},split={test})" if spec.endswith(")") else f"{spec}(split={test})"


def template_of(words: tuple[str, ...]) -> tuple[tuple[str, object], ...]:
    """key=value texts as arguments: JSON where they are, else texts."""
    found: list[tuple[str, object]] = []
    for text in words:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"data.template: {text}; key=value, such as enable_thinking=false, "
                            "wanted")
        try:
            found.append((key, parse_json(value)))
        except ValueError:
            found.append((key, value))
    return tuple(found)
