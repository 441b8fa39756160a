"""A finished game as a record, and files of such records (one JSON object a line).

``play`` makes records; ``match`` and ``expert`` write each to disk when its game ends, so that a
killed match continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.arena.contest.clock import Control
from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, parse_json, read_file, read_json, refused, write_atomic
from selfplay.common.history import finite_float
from selfplay.common.words import clip, disk_remedy

#: How the settings of a match are called, where not by their keys.
SETTINGS = {"a": "the first player", "b": "the second player", "book": "book of checksum"}
ON_TIME = "loss on time of "  #: how the end of a game begins whose loser has overstepped


@dataclass(frozen=True)
class GameRecord:
    """One finished game between two players."""

    index: int  #: number of the game in its match
    seed: int  #: seed that player 0 was started with
    players: tuple[str, str]  #: names of player 0 and player 1
    actions: tuple[int, ...]  #: every move, those of the opening included
    opening: int  #: how many of them were drawn at random before the players took over
    value: float  #: result for player 0, in [-1, 1]
    score: float | None  #: player 0's lead in points, where the game was counted
    #: "two passes", "max moves", "win", "draw", "resignation", "illegal move by …", "failure of …",
    #: "loss on time of …"
    end: str

    @property
    def natural(self) -> bool:
        """The rules or a resignation ended it: not the cap on moves, not a forfeit."""
        return self.end in ("two passes", "win", "draw", "resignation")

    @property
    def result(self) -> str:
        """The result as SGF's RE has it: "B+3.5", "W+R" (resignation), "W+T" (on time), "W+F"
        (forfeit), "0"."""
        if self.value == 0:
            return "0"
        if self.score is None:
            how = {"resignation": "R", "win": ""}.get(self.end, "F")
            how = "T" if self.end.startswith(ON_TIME) else how
        else:
            how = f"{abs(self.score):g}"
        return f"{'B' if self.value > 0 else 'W'}+{how}"


def to_line(record: GameRecord) -> str:
    return json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n"


def from_line(line: bytes | str) -> GameRecord:
    """Raises one of ``DAMAGE`` for a line that is no record."""
    data: dict[str, Any] = parse_json(line)
    first, second = map(str, data["players"])
    data["players"], data["actions"] = (first, second), tuple(map(whole, data["actions"]))
    data |= {key: whole(data[key]) for key in ("index", "seed", "opening")}
    if not -1 <= finite_float(data["value"]) <= 1 or data["opening"] > len(data["actions"]):
        raise ValueError(f"value {data['value']}, opening {data['opening']}")
    if data["score"] is not None:
        finite_float(data["score"])
    if not isinstance(data["end"], str):
        raise TypeError(f"end {data['end']}")
    return GameRecord(**data)


def whole(value: Any) -> int:
    """A number from 0. Raises TypeError or ValueError for anything else."""
    if finite_float(value) < 0 or not isinstance(value, int):
        raise ValueError(f"{value} is no whole number from 0")
    return value


def read_records(path: Path) -> list[GameRecord]:
    """The records of a file, ``[]`` where there is none; of each index the first.

    A last line cut short by a kill is removed from the file, so that the next can be appended.
    Raises UserError naming the first damaged line before it.
    """
    if not path.exists():
        return []
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {disk_remedy(error)}") from None
    whole, _, torn = data.rpartition(b"\n")
    if torn:
        write_atomic(path, whole + b"\n" if whole else b"")
    records: dict[int, GameRecord] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            record = from_line(line)
        except DAMAGE:
            raise UserError(
                f"{path}, line {number}: damaged; delete that line and run the same command again"
            ) from None
        records.setdefault(record.index, record)  # two processes may have played the same game
    return list(records.values())


def append_records(path: Path, records: Iterable[GameRecord]) -> None:
    """Append records to a file and flush them to the disk.

    Raises UserError naming the file if it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(map(to_line, records)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise refused(path, error) from None


def resume(settings_file: Path, settings: dict[str, Any], records: Path) -> list[GameRecord]:
    """The records already made under ``settings``, which are saved where there are none yet.

    Raises UserError where there are records made under other settings, or files are damaged.
    """
    stored = read_settings(settings_file) if settings_file.exists() else None
    if stored is None or not (records.exists() and records.stat().st_size):
        write_atomic(settings_file, (json.dumps(settings, indent=1) + "\n").encode())
        return read_records(records)
    for key, value in settings.items():
        if stored.get(key) != value:
            raise UserError(
                f"{settings_file}: has games with {SETTINGS.get(key, key)} "
                f"{_in_words(stored.get(key))}, not {_in_words(value)}; "
                "give another place (--out), or delete those"
            )
    return read_records(records)


def _in_words(value: Any) -> str:
    """A setting as the options have it."""
    if isinstance(value, dict):
        with suppress(TypeError, ValueError):
            return str(Control(**value))
    if isinstance(value, list):
        return "-".join(map(str, value))
    return "none" if value is None else str(value)


def read_settings(path: Path) -> dict[str, Any]:
    """Of a match or of expert games, with seed and opening as they are written where there are any.
    Raises UserError naming a damaged file."""
    remedy = "delete it and the games beside it, and start again"
    found = read_json(path, dict, remedy)
    try:
        low, high = map(whole, found.get("opening", (0, 0)))
        whole(found.get("seed", 0))
        if low > high:
            raise ValueError(f"opening {low}-{high}")
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 60)}); {remedy}") from None
    return found
