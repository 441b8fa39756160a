"""The loop that every learning stage runs in: it keeps what a generator yields in a folder.

Learning itself is a generator in memory that yields a row at a time. Here the rows are timed and
written to ``history.jsonl``, checkpoints are saved when they are due and thinned, the best one is
named in ``best.json``, and a run that was killed picks up where it left off.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from selfplay.common import ranks
from selfplay.common.compiling import working_seconds
from selfplay.common.errors import Absent, Breakdown, UserError
from selfplay.common.files import write_atomic, write_state
from selfplay.common.history import read_history, write_history
from selfplay.common.machine import peak_mb, reset_peak, rss_mb
from selfplay.learn import checkpoint
from selfplay.learn.plateau import Learning, Lesson, noted, until_flat
from selfplay.learn.plateau_config import PlateauConfig

Row = dict[str, Any]


class Watch:
    """Measures named parts of the work behind a row: ``with watch("play")`` gives play_seconds,
    all in all but for Numba's compilation, and play_rss_mb, the peak memory in megabytes (on a GPU
    also play_cuda_mb)."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.seen: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        cuda, start = self.device.type == "cuda", working_seconds()
        reset_peak()
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        if cuda:
            torch.cuda.synchronize(self.device)
            self._peak(f"{name}_cuda_mb", torch.cuda.max_memory_allocated(self.device) / 2**20)
        spent, key = working_seconds() - start, f"{name}_seconds"
        self.seen[key] = self.seen.get(key, 0.0) + spent
        self._peak(f"{name}_rss_mb", peak_mb())

    def _peak(self, key: str, value: float) -> None:
        self.seen[key] = max(self.seen.get(key, 0.0), value)

    def take(self) -> dict[str, float]:
        """What has been measured since the last call, and rss_mb as it is now; {} if nothing."""
        found, self.seen = self.seen, {}
        return {**found, "rss_mb": rss_mb()} if found else {}


@dataclass
class Kept:
    """A stage's folder, and how its rows are kept there.

    save: writes the checkpoint of a row to a path. number: the entry of a row that numbers it.
    every: rows between two checkpoints. keep, evenly: see ``checkpoint.thin``. note: turns the rows
    so far into what best.json says (empty: no file). seconds: the entry for the seconds so far,
    but for Numba's compilation; parts: count only the time inside ``watch``. before: seconds spent
    before the first row.
    breakdown: (the option that starts from a checkpoint, the learning rate's setting, its value),
    for the advice when learning breaks down.
    """

    folder: Path
    save: Callable[[Path, Row], object]
    number: str = "step"
    every: int = 1
    keep: int = 1 << 30
    evenly: bool = False
    note: Callable[[Sequence[Row]], Mapping[str, Any]] = lambda history: {}
    seconds: str = "seconds"
    before: float = 0.0
    parts: bool = False
    watch: Watch = field(default_factory=Watch)
    breakdown: tuple[str, str, float] = ("", "", 1.0)
    history: list[Row] = field(default_factory=list)
    figures: tuple[str, ...] = ()  #: what every row has beside its number

    def path(self, row: Mapping[str, Any]) -> Path:
        """The path of a row's checkpoint."""
        return self.folder / f"ckpt-{row[self.number]:06d}"

    def resume(self, step: int) -> None:
        """Read the rows up to ``step``, that of the checkpoint to continue from."""
        self.history = rows_up_to(self.folder / "history.jsonl", step, self.number, *self.figures)
        self._note()  # a kill may have come just before this

    def spent(self) -> float:
        """Seconds up to the last row."""
        return float(self.history[-1].get(self.seconds, self.before)) if self.history else (
            self.before)

    def go_on(self, rows: Iterator[Row], log: Callable[[Row], None] = lambda row: None
              ) -> Path | None:
        """Keep every row that ``rows`` yields. Returns the newest checkpoint, or None.

        Raises UserError if learning breaks down; what had been saved stays as it was. Absent comes
        through once the last row has its checkpoint.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.history:  # drop rows of a run that was killed before its first checkpoint
            rows_up_to(self.folder / "history.jsonl", -1, self.number)
        total = self.spent()
        last = working_seconds()
        while True:
            try:
                with _advising(self.folder, *self.breakdown):
                    row = next(rows, None)
            except Absent:
                self._write_last()
                raise
            if row is None:
                break
            now = working_seconds()
            seen = self.watch.take()
            spent = sum(value for key, value in seen.items() if key.endswith("_seconds"))
            total += row.pop("earlier_seconds", 0.0) + (spent if self.parts else now - last)
            last = now
            self.history.append(ranks.here().first({**row, self.seconds: total, **seen}))
            due = row[self.number] % self.every == 0
            self._write(due)
            log(self.history[-1])
        self._write_last()
        return checkpoint.newest(self.folder)

    def _write_last(self) -> None:
        if self.history and not self.path(self.history[-1]).exists():
            self._write(True)

    def _write(self, due: bool) -> None:
        path, row = self.folder / "history.jsonl", self.history[-1]
        if not due:
            append(path, [row])
            return
        write_history(path, self.history)  # first: a row too many is left out later
        self.save(self.path(row), row)
        best = self._note()
        if ranks.leads():
            checkpoint.thin(self.folder, self.keep, self.folder / best if best else None,
                            self.evenly)
        ranks.here().meet()

    def _note(self) -> str | None:
        """Write best.json and return the name of the best checkpoint."""
        found = self.note(self.history) if self.history else {}
        if found:
            write_state(self.folder / checkpoint.BEST, found)
        return found.get("checkpoint")


def learn_until_flat(
    trainer: Learning, lesson: Lesson, config: PlateauConfig, kept: Kept, *,
    load: Callable[[Path], Any] | None = None,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[Row], None] = lambda row: None,
    progress: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> Path:
    """Run ``until_flat`` for up to ``left()`` seconds and keep what it yields; a later call
    continues from the newest checkpoint. Returns the best checkpoint by ``lesson.metric``, the one
    that best.json names. load: the net of a checkpoint, for ``lesson.look_at``."""
    @functools.cache
    def loss_now(step: int) -> float:
        if load is None or lesson.look_at is None:
            return math.inf
        try:
            net = load(kept.folder / f"ckpt-{step:06d}")
        except UserError:  # gone, or damaged
            return math.inf
        return float(lesson.look_at(net)[lesson.metric])

    kept.note = lambda history: noted(history, lesson, config, loss_now)
    kept.figures = (lesson.metric,)
    newest = checkpoint.newest(kept.folder)
    if newest is not None:
        trainer.load_state(*checkpoint.load_training(newest))  # type: ignore[attr-defined]
        kept.resume(trainer.steps)
    begun = [ranks.here().first(left())]
    in_all = kept.spent() - kept.before + begun[0]

    def share() -> float:
        now = begun.pop() if begun else ranks.here().first(left())
        return 1.0 if math.isinf(in_all) else now / max(in_all, 1e-9)

    kept.go_on(until_flat(trainer, lesson, config, kept.history[:], left=share,
                          progress=progress), log)
    best = checkpoint.best(kept.folder, lesson.metric)
    assert best is not None, "there has been a look"
    return best


def rows_up_to(path: Path, step: int, number: str = "step", *figures: str) -> list[Row]:
    """The rows of a history up to ``step``, with numbers under ``figures``; anything a kill
    left after them is removed from the file.

    Raises UserError naming a damaged line.
    """
    if not path.exists():
        return []
    whole, newline, rest = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    if rest:
        write_atomic(path, (whole + newline).encode())
    found = read_history(path, [number, *figures])
    rows = [row for row in found if row[number] <= step]
    if len(rows) < len(found):
        write_history(path, rows)
    return rows


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a history."""
    if not ranks.leads():
        return
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@contextmanager
def _advising(folder: Path, option: str, setting: str, rate: float) -> Iterator[None]:
    """Turn a Breakdown in the block into advice on how to continue from the newest checkpoint: in
    another run, since a run keeps its settings. option: the option that takes a checkpoint to start
    from, if there is one. setting: the name of the learning rate, which is ``rate``."""
    try:
        yield
    except Breakdown as error:
        path, less = checkpoint.newest(folder), f"--run NEW --set {setting}={rate / 3:.2g}"
        none = "there is no checkpoint yet, " if option else ""
        raise UserError(f"{error}; " + (
            f"the last good checkpoint is kept, go on from it with {option} {path} {less}"
            if path and option else f"{none}begin again with {less}")) from None


def look_of(path: Path, look: Callable[[Row], str]) -> str:
    """A checkpoint's name, followed by its row in words if there is one."""
    for row in read_history(path.parent / "history.jsonl"):
        with suppress(KeyError, TypeError, ValueError):  # a row that somebody has edited
            if f"ckpt-{row['step']:06d}" == path.name:
                return f"{path.name}, {look(row)}"
    return path.name
