"""Rows of a user's own data as examples: JSON lines, arrays, Parquet, data sets of Hugging Face.

A row is an object with named columns. What is asked is a text or a list of messages; the answer is
a text or a number, or stands somewhere in its column; a demonstration is optional.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.files import clipped, parse_json, read_json, text_lines
from selfplay.common.words import clip, counted, nearest
from selfplay.llm.rewards import CHECKERS, Example, Format, parsed_number, reward
from selfplay.llm.stage_config import TaskConfig
from selfplay.llm.tasks.gym import demonstration, gym
from selfplay.llm.tasks.scorers import scorer

BRIEF = 40  #: characters of a value in a message
MOST_ROWS = 1_000_000  #: of a task's examples that are taken
_WANTED = '{"prompt": ..., "answer": ...} wanted'

#: The names that columns have where none is given, the first that is there.
PROMPT = ("prompt", "question", "problem", "instruction", "input", "query", "messages")
ANSWER = ("answer", "final_answer", "target", "solution", "label", "ground_truth")
DEMONSTRATION = ("demonstration", "completion", "response", "rationale", "output")

Row = Mapping[str, Any]
Finder = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Lines:
    """Questions that are all there."""

    examples: list[Example]

    @property
    def count(self) -> int:
        return len(self.examples)

    def item(self, index: int) -> Example:
        return self.examples[index]


@dataclass(frozen=True)
class Reading:
    """How rows are read. free: a row needs no answer, as something else judges completions."""

    form: Format
    data: TaskConfig
    answer_in: Finder | None = None
    free: bool = False


def read_lines_of(spec: str, reading: Reading, least: int = 2) -> tuple[Lines, str]:
    """(the questions of FILE.jsonl, FILE.json, FILE.parquet or hf:NAME, what was left out of them).

    A question may come several times, with different demonstrations. Left out are repetitions, and
    rows with another answer to a question than its first.
    """
    return distinct(spec, (example_of(row, where, reading) for where, row in raw_rows(spec)),
                    least)


def distinct(name: str, examples: Iterable[Example], least: int = 2) -> tuple[Lines, str]:
    """The examples that do not repeat or contradict an earlier one, and how many were left out.
    Raises UserError for fewer than ``least`` questions."""
    kept: dict[tuple[str, str | None], Example] = {}
    answers: dict[str, str] = {}
    repeated = other = 0
    for example in examples:
        key = (example.prompt, example.demonstration)
        if answers.setdefault(example.prompt, example.answer) != example.answer:
            other += 1
        elif key in kept:
            repeated += 1
        else:
            kept[key] = example
    if len(answers) < least:
        raise UserError(f"{name}: {counted(len(answers), 'question')}; at least {least} are "
                        "wanted")
    left_out = ((other, "with another answer to a question than at first"), (repeated, "repeated"))
    notes = [f"{count} {what}" for count, what in left_out if count]
    return Lines(list(kept.values())), f"{name}: {', '.join(notes)}: left out" if notes else ""


# ------------------------------------------------------------------------------- where rows are


def raw_rows(spec: str) -> Iterator[tuple[str, Any]]:
    """(its place in words, its value) of every row."""
    if spec.startswith("hf:"):
        return _hub_rows(spec)
    path = Path(spec)
    return _parquet_rows(path) if path.suffix == ".parquet" else _objects(path)


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Every line, or every item of an array."""
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


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow; pip install pyarrow") from None
    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a task ({clip(str(error), 120)})") from None


def _hub_rows(spec: str) -> Iterator[tuple[str, Any]]:
    """Rows of ``hf:NAME(name=CONFIG,split=train)``: a data set's name on the hub, or a folder."""
    found = re.fullmatch(r"hf:([^()]+)(?:\((.*)\))?", spec.strip())
    if found is None:
        raise UserError(f"task {spec}: hf:NAME or hf:NAME(name=CONFIG,split=train) wanted")
    known = {"split": "train"}
    for part in filter(None, (found[2] or "").split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in ("name", "split", "revision"):
            raise UserError(f"task {spec}: {part.strip()!r}; name=, split= and revision= are known")
        known[key] = value
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"task {spec}: data sets need datasets; pip install datasets") from None
    try:
        data = load_dataset(found[1], **known)
    except Exception as error:  # a library's own, of many kinds
        why = f"{type(error).__name__}: {clip(str(error), 200)}"
        raise UserError(f"task {spec}: cannot be loaded ({why}); give a folder, or a name with the "
                        "network there") from None
    for number, row in enumerate(data, 1):
        yield f"{spec}, row {number}", row


# ---------------------------------------------------------------------------------- what they say


def example_of(row: Any, where: str, reading: Reading) -> Example:
    """The example of a row; a text is a question alone. Raises UserError naming the place."""
    form, data = reading.form, reading.data
    try:
        found = {"prompt": row} if isinstance(row, str) and reading.free else dict(row)
        asked, shown = _asked(found, where, data)
        prompt = asked if isinstance(asked, str) else asked[-1]["content"]
        answer = _column(found, where, data.answer, ANSWER)
        for text in (prompt, str(answer), str(shown)):
            text.encode()  # fails at half of a surrogate pair
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {error.object[error.start]!a} is half a letter; mend the line"
                        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{where}: {_WANTED}") from None
    answer, shown = _answered(answer, shown, where, reading, found)
    checker = str(found.get("checker", "number" if form.name == "number" else data.checker))
    metadata, score = _checked(found, where, checker, answer, prompt, reading)
    before = () if isinstance(asked, str) else tuple(asked[:-1])
    last = f"{prompt}\n{form.instruction}".strip()
    example = Example(
        "\n".join([*(m["content"] for m in before), last]), answer, checker, metadata, shown, form,
        score, (*before, {"role": "user", "content": last}) if before else ())
    if shown is None or not answer or reward(shown, example)["format"] >= 1:
        return example
    return replace(example, demonstration=demonstration(shown, answer, form))


def _asked(row: Row, where: str, data: TaskConfig) -> tuple[str | list[dict[str, str]], str | None]:
    """(the question, a text or messages of which the last is the user's; the demonstration). Raises
    TypeError for anything else."""
    asked = _column(row, where, data.prompt, PROMPT)
    shown = _column(row, where, data.demonstration, DEMONSTRATION)
    if isinstance(asked, list):
        asked = [{"role": str(m["role"]), "content": m["content"]} for m in asked]
        if shown is None and len(asked) > 1 and asked[-1]["role"] == "assistant":
            shown = asked.pop()["content"]
        if not asked or asked[-1]["role"] != "user" or not all(
                isinstance(m["content"], str) for m in asked):
            raise TypeError("messages that end with the user's are wanted")
        asked = asked[0]["content"] if len(asked) == 1 else asked
    elif not isinstance(asked, str):
        raise TypeError("a text is wanted")
    if isinstance(shown, list) and len(shown) == 1:  # a completion as messages
        shown = shown[0]["content"]
    return asked, None if shown is None else str(shown)


def _column(row: Row, where: str, name: str, usual: Sequence[str]) -> Any:
    """A row's column of that name, or of the first of the usual ones; None where there is none."""
    if name and name not in row:
        near = nearest(name, row)
        raise UserError(f"{where}: no column {name!r}; it has {', '.join(map(str, row))}"
                        + (f"; did you mean {near!r}?" if near else ""))
    return row[name] if name else next((row[key] for key in usual if key in row), None)


def _answered(
    answer: Any, shown: str | None, where: str, reading: Reading, row: Row
) -> tuple[str, str | None]:
    """(the answer, the demonstration). Raises UserError where there is no answer and one is
    wanted."""
    if answer is None and not (set(ANSWER) & set(row)):
        if shown is not None:  # a prompt and its completion
            found = reading.answer_in(shown) if reading.answer_in else None
            return (shown.strip(), None) if found is None else (found, shown)
        if reading.free:
            return "", None
        raise UserError(f"{where}: {_WANTED}")
    if not isinstance(answer, str | int | float):
        if reading.free:
            return "", shown
        raise UserError(f"{where}: answer {clipped(answer, BRIEF)}; a text or a number wanted")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise UserError(f"{where}: answer {answer}; a number that is finite wanted")
    text = _as_written(answer)
    if reading.answer_in is None:
        return text, shown
    found = reading.answer_in(text)
    if found is None:
        raise UserError(f"{where}: no answer by data.answer_in={reading.data.answer_in} in "
                        f"{clipped(text, BRIEF)}")
    before = text[:text.rindex(found)].rstrip().removesuffix("####").rstrip()
    return found, shown if shown is not None else before or None


def _as_written(answer: str | float) -> str:
    """As a person would write it: true, 7 (for 7.0)."""
    if isinstance(answer, bool):
        return str(answer).lower()
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


def _checked(
    row: Row, where: str, checker: str, answer: str, prompt: str, reading: Reading
) -> tuple[dict[str, Any], Callable[[str], float] | None]:
    """(the metadata, the score) of a row. Raises UserError where its checker cannot work with
    it."""
    if checker not in (*CHECKERS, "reasoning-gym"):
        raise UserError(f"{where}: checker {checker!r}; one of {', '.join(CHECKERS)}, "
                        "reasoning-gym wanted")
    if checker == "number" and answer and parsed_number(answer) is None:
        raise UserError(f"{where}: answer {clipped(answer, BRIEF)} is no number that checker "
                        'number reads (such as "-1,234.5" or "3/4"); write one, or use checker '
                        "exact")
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: metadata {clipped(metadata, BRIEF)}; an object wanted")
    if checker == "countdown" and not {"numbers", "target"} <= set(metadata):
        raise UserError(f"{where}: metadata with numbers and target wanted")
    if checker == "reasoning-gym":
        data = gym(str(row.get("task") or metadata.get("source_dataset") or ""), reading.form, 0,
                   0.0)
        entry = {"question": prompt, "answer": answer, "metadata": metadata}
        return metadata, scorer(data.name, data.data, entry)
    if reading.free:  # reward functions see the whole row
        metadata = {**metadata, **{str(key): value for key, value in row.items()}}
        try:
            json.dumps(metadata)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {clip(str(error), 80)}; rows of texts, numbers, lists and "
                            "objects wanted") from None
    return metadata, None
