"""Many positions analysed side by side: a tree each, the leaves of all evaluated together.

A position that is done makes room for the next, so that batches stay full to the end. What is
found of a position does not depend on what else is analysed.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import take
from selfplay.search.search import Search
from selfplay.search.tree import node_bytes
from selfplay.serve.analysis import Analysis, analyses_of, of_end, restrict
from selfplay.serve.mind import Mind, Views

ROWS = 64  #: positions of one search at once: two parts of a batch, for two cores
TREE_BYTES = 2**29  #: of memory for one search
SMALLEST = 64  #: simulations that a search has room for, at least; beyond, powers of two


@dataclass
class Job:
    """A position to be analysed. states: one row. sims: simulations, 0 is the net alone. only:
    bool [A], the moves to think about. every: seconds between two looks on the way, None for none.
    detail: ownership and score of the first moves too, not of the position alone. first: jobs of a
    lower number come first. tag: what the caller wants back."""

    states: Any
    sims: int
    mind: Mind
    only: NDArray[np.bool_] | None = None
    every: float | None = None
    detail: bool = False
    first: float = 0.0
    tag: Any = None
    told: float = 0.0
    views: Views | None = None
    stopped: bool = False


@dataclass
class _Group:
    """A search and the jobs in its rows."""

    search: Search
    mind: Mind
    jobs: list[Job | None]
    waiting: list[tuple[float, int, Job]] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)  #: rows whose root is not evaluated yet


class AnalysisBatch:
    """Jobs in, analyses out, in whatever order they are done."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int], _Group] = {}
        self._count = itertools.count()
        self._ended: list[Job] = []

    def add(self, job: Job) -> None:
        """Take a job on."""
        if job.mind.game.result(job.states)[0][0]:
            self._ended.append(job)
            return
        room = max(SMALLEST, 1 << (max(job.sims, 1) - 1).bit_length())
        key = (f"{id(job.mind)}", room)
        if key not in self._groups:
            self._groups[key] = _group(job.mind, room)
        heapq.heappush(self._groups[key].waiting, (job.first, next(self._count), job))

    @property
    def busy(self) -> bool:
        return bool(self._ended) or any(
            group.waiting or any(group.jobs) for group in self._groups.values())

    def jobs(self) -> list[Job]:
        """All that are not done."""
        groups = self._groups.values()
        return [*self._ended, *(job for group in groups for job in group.jobs if job is not None),
                *(job for group in groups for _, _, job in group.waiting)]

    def step(self) -> Iterator[tuple[Job, Analysis | None, bool]]:
        """One wave of every search: (job, what is known, whether it is done), where there is
        something to tell. None of a job that was stopped before it began."""
        ended, self._ended = self._ended, []
        for job in ended:
            yield job, of_end(job.mind.game, job.states), True
        for key, group in list(self._groups.items()):
            yield from _wave(group)
            if not group.waiting and not any(group.jobs):
                del self._groups[key]


def _group(mind: Mind, room: int) -> _Group:
    size = node_bytes(mind.game.num_actions) * (room + 1)
    rows = max(1, min(ROWS, TREE_BYTES // size))
    config = replace(mind.config, leaves=mind.leaves or 1, reuse=True)
    return _Group(Search(mind.game, config, rows, room, 0), mind, [None] * rows)


def _wave(group: _Group) -> Iterator[tuple[Job, Analysis | None, bool]]:
    search, mind = group.search, group.mind
    yield from _fill(group)
    finished = set(search.wave(mind).tolist())
    if group.fresh:
        finished -= set(group.fresh)
        finished |= _rooted(group)
    now = time.monotonic()
    asked = {row: job for row, job in enumerate(group.jobs) if job is not None and (
        row in finished or job.stopped or (job.every is not None and now - job.told >= job.every))}
    known = _so_far(group, asked)
    done = {row for row, job in asked.items() if row in finished or job.stopped}
    search.forget(sorted(done))
    for row in done:
        group.jobs[row] = None
    for row, job in asked.items():
        job.told = now
        yield job, known.get(row), row in done


def _fill(group: _Group) -> Iterator[tuple[Job, Analysis | None, bool]]:
    """Give free rows to jobs that wait."""
    free, filled = [row for row, job in enumerate(group.jobs) if job is None], list[int]()
    while free and group.waiting:
        job = heapq.heappop(group.waiting)[2]
        if job.stopped:
            yield job, None, True
            continue
        row = free.pop(0)
        group.jobs[row], job.told = job, time.monotonic()
        filled.append(row)
    if filled:
        group.search.seed(filled, [0] * len(filled))
        group.search.begin(filled, _states_of(group, filled), 1, False)
        group.fresh += filled


def _rooted(group: _Group) -> set[int]:
    """Begin the simulations of rows whose roots have just been evaluated; the rows that want
    none."""
    rows, search, done = group.fresh, group.search, set[int]()
    group.fresh = []
    sims = list[int]()
    views = Views.of([group.jobs[row].states for row in rows], group.mind)  # type: ignore
    for row, view in zip(rows, views, strict=True):
        job = group.jobs[row]
        assert job is not None
        job.views = view
        if job.only is not None:
            restrict(search, row, job.only)
        sims.append(job.sims)
        if not job.sims:
            done.add(row)
    begun = [row for row in rows if row not in done]
    if begun:
        search.begin(begun, _states_of(group, begun), list(filter(None, sims)), False, fresh=False)
    return done


def _states_of(group: _Group, rows: list[int]) -> Any:
    """The positions in these rows, which have jobs."""
    parts = [job.states for row in rows if (job := group.jobs[row]) is not None]
    return type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


def _so_far(group: _Group, asked: dict[int, Job]) -> dict[int, Analysis]:
    """What is known in these rows; nothing where the root is not evaluated yet."""
    jobs = {row: job for row, job in asked.items() if group.search.tree.size[row]}
    if not jobs:
        return {}
    found = analyses_of(group.mind.game, [job.states for job in jobs.values()], group.search,
                        list(jobs))
    return {row: known if job.views is None else job.views.add(known, job.detail)
            for (row, job), known in zip(jobs.items(), found, strict=True)}


def analyses(jobs: Iterable[Job]) -> list[Analysis]:
    """What is found of every job, in their order."""
    batch, wanted = AnalysisBatch(), list(jobs)
    found: dict[int, Analysis] = {}
    for number, job in enumerate(wanted):
        job.tag = number
        batch.add(job)
    while batch.busy:
        for job, known, done in batch.step():
            if done and known is not None:
                found[job.tag] = known
    return [found[number] for number in range(len(wanted))]


def jobs_of(mind: Mind, states: Any, sims: int) -> list[Job]:
    """A job for each row of ``states``."""
    return [Job(take(states, [row]), sims, mind) for row in range(len(states.ply))]
