"""Figures that a run has measured, as files of JSON keep them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.files import (
    AGAIN,
    DAMAGE,
    clipped,
    parse_json,
    read_file,
    read_json,
    write_atomic,
)
from selfplay.common.words import clip, disk_remedy

#: What is a number wherever a row of a history has it.
COUNTED = frozenset(("step", "iteration", "seconds", "flops", "positions", "learning_rate", "rows",
                     "learn_seconds"))
WHOLE = frozenset(("step", "iteration", "rows"))  #: of these, the whole numbers


def finite_float(value: Any) -> float:
    """A number as a float. Raises TypeError or ValueError for anything else, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{clipped(value)} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{clipped(str(value))} is not finite")
    return number


def read_figures(path: Path, start: Mapping[str, float]) -> dict[str, float]:
    """``start``, with the figures that a JSON file has in their places; the file may be missing,
    since a damaged one is deleted by the user.

    Raises UserError naming a file that holds anything but finite numbers from 0.
    """
    found = read_json(path, dict) if path.exists() else {}
    for key, value in found.items():
        try:
            if finite_float(value) < 0:
                raise ValueError(f"{value} is less than 0")
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({clip(str(key), 40)}: {error}); {AGAIN}") from None
    return {**start, **found}


def read_figure_rows(path: Path, need: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of a JSON list, each with finite numbers under the keys ``need``. Raises UserError
    naming a damaged file."""
    rows = read_json(path, list)
    try:
        for row in rows:
            for key in need:
                finite_float(row[key])
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 60)}); {AGAIN}") from None
    return list(rows)


def read_history(path: Path, need: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Rows of a history.jsonl, which have numbers under the keys ``need``; UserError naming the
    first damaged line."""
    rows = []
    try:
        data = read_file(path) if path.exists() else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {disk_remedy(error)}") from None
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n") if data else [], 1):
        try:
            row = dict(parse_json(line))
            for key in {*need, *COUNTED.intersection(row)}:
                value = finite_float(row[key])
                if (key in WHOLE and value != int(value)) or (
                        key == "learning_rate" and value <= 0):
                    raise ValueError(f"{key}={value}")
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}, line {number}: damaged; delete that line and run the same "
                            "command again") from None
    return rows


def write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
