"""Questions with checkable answers: any data set of reasoning-gym, or a JSON-lines file.

Whether a question is held out follows from its text alone, so that nothing that is measured on can
be learnt from, however many questions are drawn. Batch k of training depends on (seed, k) alone.

For some tasks demonstrations are made, of how a question is worked out. A trace makes one: (entry
of reasoning-gym, share of wrong steps, generator) -> (chain of thought, answer). Without wrong
steps the answer is right. A wrong step is carried on, as by a person who does not notice it, so
that learning from such demonstrations has a known ceiling: of n steps, each wrong with probability
w, all are right with probability (1 - w)^n. Such errors may fall on any step and in either
direction, so that the likeliest next token is still the right one. ``chain_sum_forgetting`` is the
exception: where tens are forgotten more often than not, the likeliest token is wrong.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selfplay.common.errors import UserError, clip, nearest
from selfplay.common.files import clipped, parse_json, read_json, text_lines
from selfplay.common.threads import time_limit
from selfplay.llm.rewards import CHECKERS, FORMATS, Example, Format, parsed_number, reward
from selfplay.llm.scorers import refuse, scorer

HELD_OUT = 0.1  #: share of the questions that is held out
SIZE, ENDLESS = 10_000, 2**30  #: questions of a data set of reasoning-gym
TRIES = 20  #: questions drawn for each one wanted before a data set counts as used up
PATIENCE = 20.0  #: seconds that a data set may take for its first question
BRIEF = 40  #: characters of a value in a message

#: Data sets of reasoning-gym whose answers are numbers, checked exactly.
NUMBERS = frozenset(("chain_sum", "basic_arithmetic", "products", "gcd", "lcm", "leg_counting",
                     "gsm_symbolic", "decimal_chain_sum", "decimal_arithmetic"))


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

    def batch(self, number: int, size: int) -> list[Example]:
        """``size`` training examples, the same ones for the same number."""
        rng = np.random.default_rng([self.seed, 0x7A, number])
        found: list[Example] = []
        for _ in range(size * TRIES):
            example = self.source.item(int(rng.integers(self.source.count)))
            if not self.is_held_out(example.prompt):
                found.append(example)
                if len(found) == size:
                    return found
        raise UserError(f"task {self.name}: hardly any questions to learn from that are not held "
                        "out; give a task with more of them")

    def held_out(self, count: int) -> list[Example]:
        """At most ``count`` different questions that no batch contains, always the same ones.

        Raises UserError if there is none.
        """
        found: dict[str, Example] = {}
        rng, tries = np.random.default_rng([self.seed, 0x7E]), int(count * TRIES / HELD_OUT)
        limit = self.source.count
        order = rng.permutation(limit) if limit <= tries else rng.integers(limit, size=tries)
        for index in order:
            example = self.source.item(int(index))
            if self.is_held_out(example.prompt):
                found.setdefault(example.prompt, example)
                if len(found) == count:
                    break
        if not found:
            raise UserError(f"task {self.name}: no question to hold out; give more of them")
        return list(found.values())

    def is_held_out(self, prompt: str) -> bool:
        """The same for every seed, as a run may begin with another run's model."""
        digest = hashlib.blake2b(f"0 {prompt}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") < HELD_OUT * 2**32

    def texts(self, count: int = 200) -> list[str]:
        """Some questions, answers and demonstrations, to make a tokenizer of."""
        return [text for example in self.batch(0, count) for text in
                (example.prompt, example.answer, example.demonstration or "")]


def make_task(
    spec: str, *, style: str = "full", seed: int = 0, wrong: float = 0.0, slips: str = "any",
    guessed: float = 0.0,
) -> Task:
    """The task of ``name``, ``name(key=value,...)`` (reasoning-gym) or ``FILE.jsonl``.

    style: "short" asks as tersely as the task can and wants "#answer", for models that learn
    characters; any other name of FORMATS asks in words, with that format; "full" is "answer".
    wrong: share of the demonstrations' steps that are wrong (and are carried on); slips: which
    steps, "any" or, with "carry", those that carry a ten. guessed: share of the demonstrations that
    work nothing out and guess a number within GUESS of the answer. Raises UserError for an unknown
    name (naming the nearest), parameter or file.
    """
    if style not in ("full", *FORMATS):
        raise UserError(f"task.style={style}: one of full, {', '.join(FORMATS)} wanted")
    form = FORMATS["answer" if style == "full" else style]
    if spec.endswith((".jsonl", ".json")) or Path(spec).is_file():
        lines, note = _file(Path(spec), form)
        return Task(spec, lines, seed, note)
    return Task(spec, _gym(spec, form, seed, wrong, slips, guessed), seed)


@dataclass(frozen=True)
class Gym:
    """A data set of reasoning-gym."""

    name: str
    data: Any
    format: Format
    seed: int
    wrong: float
    slips: str = "any"
    guessed: float = 0.0

    @property
    def count(self) -> int:
        return int(self.data.config.size)

    def item(self, index: int) -> Example:
        entry = self.data[index]
        example = Example(
            prompt=self._question(entry), answer=str(entry["answer"]),
            checker=self._checker(), metadata=entry["metadata"], format=self.format,
            score=(scorer(self.name, self.data, entry)
                   if self._checker() == "reasoning-gym" else None))
        trace = (TRACES if self.slips == "any" else FORGETTING).get(self.name)
        if trace is None:
            return example
        rng = np.random.default_rng([self.seed, 0x7D, index])
        if self.guessed and rng.random() < self.guessed:
            guess = int(example.answer) + int(rng.integers(-GUESS, GUESS + 1))
            return replace(example, demonstration=demonstration("", str(guess), self.format))
        chain, answer = trace(entry, self.wrong, rng)
        return replace(example, demonstration=demonstration(chain, answer, self.format))

    def _question(self, entry: dict[str, Any]) -> str:
        if self.format.name == "short" and self.name in SHORT:
            return SHORT[self.name](entry)
        return f"{entry['question'].strip()}\n{self.format.instruction}".strip()

    def _checker(self) -> str:
        if self.name in CHECKERS:
            return self.name
        return "number" if self.name in NUMBERS else "reasoning-gym"


@dataclass(frozen=True)
class Lines:
    """The questions of a user's file."""

    examples: list[Example]

    @property
    def count(self) -> int:
        return len(self.examples)

    def item(self, index: int) -> Example:
        return self.examples[index]


def demonstration(chain: str, answer: str, form: Format) -> str:
    """A completion in the format ``form``."""
    opened, closed = form.chain
    gap = "" if form.name == "short" else "\n"
    return f"{opened}{chain}{closed}{gap}{form.open}{answer}{form.close}"


def _gym(
    spec: str, form: Format, seed: int, wrong: float, slips: str = "any", guessed: float = 0.0
) -> Gym:
    found = re.fullmatch(r"\s*([^\s()]+)\s*(?:\((.*)\))?\s*", spec)
    if not found:
        raise UserError(f"task {spec!r}: a name such as chain_sum, name(key=value,...) or "
                        "FILE.jsonl wanted")
    name, text = found[1], found[2] or ""
    registry = _registry()
    if name not in registry:
        near = nearest(name, registry)
        hint = f"did you mean {near!r}?" if near else "see reasoning-gym's list of data sets"
        raise UserError(f"unknown task {name!r}: {hint}")
    refuse(name)
    arguments = _arguments(name, text, list(inspect.signature(registry[name][1]).parameters))
    known = TRACES if slips == "any" else FORGETTING
    if (wrong or slips != "any") and name not in known:
        raise UserError(f"task {name}: no demonstrations are made for it, so none can be wrong; "
                        f"they are for {', '.join(known)}")
    try:
        from reasoning_gym.factory import create_dataset

        size = ENDLESS if name in SHORT else SIZE  # some data sets make all questions at once
        with time_limit(PATIENCE, f"task {spec}: no question within {PATIENCE:g} s; ask for "
                        "smaller ones"):
            data = create_dataset(name, **{"seed": seed % 2**31, "size": size, **arguments})
            data[0]
            int(data.config.size)
    except (AssertionError, TypeError, ValueError, IndexError, AttributeError, OverflowError,
            MemoryError) as error:
        raise UserError(f"task {spec}: {clip(str(error), 160) or type(error).__name__}") from None
    return Gym(name, data, form, seed, wrong, slips, guessed)


def _registry() -> dict[str, Any]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError('reasoning-gym is not installed; pip install -e ".[llm]"') from None
    return dict(DATASETS)


def _arguments(name: str, text: str, known: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in re.split(r",(?![^\[(]*[\])])", text) if text.strip() else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"task {name}({text}): {part.strip()!r} is not key=value")
        if key not in known:
            raise UserError(f"task {name}: no parameter {key!r}; it has {', '.join(known)}")
        try:
            values[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            values[key] = value
    return values


def _file(path: Path, form: Format) -> tuple[Lines, str]:
    """(the questions of a file, a sentence on what was left out of it).

    Lines, or one array, of {"prompt", "answer", "checker" (exact), "demonstration" (optional),
    "task" and "metadata" (of checker "reasoning-gym")}. A question may come several times, with
    different demonstrations. Left out are repetitions, and lines with another answer to a question
    than its first.
    """
    kept: dict[tuple[str, str | None], Example] = {}
    answers: dict[str, str] = {}
    repeated = other = 0
    for where, data in _objects(path):
        example = _example(data, where, form)
        key = (example.prompt, example.demonstration)
        if answers.setdefault(example.prompt, example.answer) != example.answer:
            other += 1
        elif key in kept:
            repeated += 1
        else:
            kept[key] = example
    if len(answers) < 2:
        raise UserError(f"{path}: {len(answers)} questions; at least 2 are wanted")
    left_out = ((other, "with another answer to a question than at first"), (repeated, "repeated"))
    notes = [f"{count} {what}" for count, what in left_out if count]
    note = f"{path}: {', '.join(notes)}: left out" if notes else ""
    return Lines(list(kept.values())), note


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """(its place in words, its value) of every line, or of every item of an array."""
    lines = text_lines(path, "a task")
    if path.suffix == ".json" and lines and lines[0][1].lstrip().startswith("["):
        for number, item in enumerate(read_json(path, list, "mend it"), 1):
            yield f"{path}, item {number}", item
        return
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            yield where, parse_json(line)
        except ValueError:
            raise UserError(f"{where}: {_WANTED}") from None


_WANTED = '{"prompt": ..., "answer": ...} wanted'


def _example(line: Any, where: str, form: Format) -> Example:
    try:
        data = dict(line)
        prompt, answer = _question_text(data["prompt"]), data["answer"]
        for text in (prompt, str(answer), str(data.get("demonstration"))):
            text.encode()  # fails at half of a surrogate pair
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {error.object[error.start]!a} is half a letter; mend the line"
                        ) from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{where}: {_WANTED}") from None
    if not isinstance(answer, str | int | float):
        raise UserError(f"{where}: answer {clipped(answer, BRIEF)}; a text or a number wanted")
    answer, checker = _answer(answer), str(data.get("checker", "exact"))
    if checker not in (*CHECKERS, "reasoning-gym"):
        raise UserError(f"{where}: checker {checker!r}; one of {', '.join(CHECKERS)}, "
                        "reasoning-gym wanted")
    if checker == "number" and parsed_number(answer) is None:
        raise UserError(f"{where}: answer {clipped(answer, BRIEF)} is no number that checker "
                        'number reads (such as "-1,234.5" or "3/4"); write one, or use checker '
                        "exact")
    metadata, score = _metadata(data, where), None
    if checker == "countdown" and not {"numbers", "target"} <= set(metadata):
        raise UserError(f"{where}: metadata with numbers and target wanted")
    if checker == "reasoning-gym":
        gym = _gym(str(data.get("task") or metadata.get("source_dataset") or ""), form, 0, 0.0)
        entry = {"question": prompt, "answer": answer, "metadata": metadata}
        score = scorer(gym.name, gym.data, entry)
    shown = data.get("demonstration")
    asked = f"{prompt}\n{form.instruction}".strip()
    example = Example(asked, answer, checker, metadata, None if shown is None else str(shown), form,
                      score)
    if example.demonstration is None or reward(example.demonstration, example)["format"] >= 1:
        return example
    return replace(example, demonstration=demonstration(example.demonstration, answer, form))


def _question_text(prompt: Any) -> str:
    """A question's text, which may be the only message of a conversation. Raises TypeError for
    anything else."""
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0].get("role") == "user":
        prompt = prompt[0]["content"]
    if not isinstance(prompt, str):
        raise TypeError("a text is wanted")
    return prompt


def _answer(answer: str | float) -> str:
    """As a person would write it: true, 7 (for 7.0)."""
    if isinstance(answer, bool):
        return str(answer).lower()
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


def _metadata(data: dict[str, Any], where: str) -> dict[str, Any]:
    found = data.get("metadata") or {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: metadata {clipped(found, BRIEF)}; an object wanted")
    return found


Trace = Callable[[dict[str, Any], float, np.random.Generator], tuple[str, str]]
GUESS = 9  #: the most that a guess is off by
SLIPS = (-10, -2, -1, 1, 2, 10)  #: what a wrong step may be off by


def chain_sum(entry: dict[str, Any], wrong: float, rng: np.random.Generator) -> tuple[str, str]:
    """Running totals from the left: "4 - 1 + 7" is ("3 10", "10")."""
    words = entry["metadata"]["expression"].split()
    total, totals = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        total += int(term) if sign == "+" else -int(term)
        if wrong and rng.random() < wrong:
            total += int(rng.choice(SLIPS))
        totals.append(str(total))
    return " ".join(totals), str(total)


def chain_sum_forgetting(
    entry: dict[str, Any], wrong: float, rng: np.random.Generator
) -> tuple[str, str]:
    """``chain_sum`` with errors only in steps that carry or borrow a ten: they forget the ten."""
    words = entry["metadata"]["expression"].split()
    total, totals = int(words[0]), []
    for sign, term in zip(words[1::2], words[2::2], strict=True):
        before, total = total, total + (int(term) if sign == "+" else -int(term))
        if total // 10 != before // 10 and rng.random() < wrong:
            total += 10 if total < before else -10
        totals.append(str(total))
    return " ".join(totals), str(total)


def gcd(entry: dict[str, Any], wrong: float, rng: np.random.Generator) -> tuple[str, str]:
    """The remainders of Euclid's algorithm, over the numbers one after another."""
    first, *rest = (int(n) for n in entry["metadata"]["numbers"])
    steps = []
    for other in rest:
        a, b = max(first, other), min(first, other)
        while b:
            a, b = b, a % b
            if wrong and rng.random() < wrong:
                b = max(b + int(rng.choice(SLIPS)), 0) % max(a, 1)
            steps.append(f"{a},{b}")
        first = a
    return " ".join(steps), str(first)


TRACES: dict[str, Trace] = {"chain_sum": chain_sum, "gcd": gcd}
FORGETTING: dict[str, Trace] = {"chain_sum": chain_sum_forgetting}

#: The tersest way to ask, by task.
SHORT: dict[str, Callable[[dict[str, Any]], str]] = {
    "chain_sum": lambda entry: entry["metadata"]["expression"].replace(" ", "") + "=",
    "gcd": lambda entry: ",".join(str(n) for n in entry["metadata"]["numbers"]) + "=",
    "countdown": lambda entry: (",".join(str(n) for n in entry["metadata"]["numbers"])
                                + f"={entry['metadata']['target']}"),
}
