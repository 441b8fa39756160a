"""Many positions analysed side by side: a tree each, the leaves of all evaluated together.

A position that is done makes room for the next, so that batches stay full to the end. On a CPU
every core has a search of its own: one reads trees while a net is at work for another. What is
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
import torch
from numpy.typing import NDArray

from selfplay.common.threads import Workers
from selfplay.games.base import take
from selfplay.inference.spread import SPREAD_ROWS
from selfplay.search.search import Search
from selfplay.search.tree import node_bytes
from selfplay.serve.analysis import Analysis, analyses_of, of_end, restrict
from selfplay.serve.mind import Mind, Views

ROWS = 64  #: positions at once, at least; a core's search has as many as fill its batch
TREE_BYTES = 2**29  #: of memory for the trees of a group
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
class _Part:
    """A search, what it asks, and the jobs in its rows; all of it is one thread's at a time."""

    search: Search
    mind: Mind
    jobs: list[Job | None]
    seated: list[int] = field(default_factory=list)  #: rows that are to begin
    fresh: list[int] = field(default_factory=list)  #: rows whose root is not evaluated yet

    def count(self) -> int:
        """Rows that have a job."""
        return sum(job is not None for job in self.jobs)


@dataclass
class _Group:
    """Jobs for one mind, in searches with the same room."""

    mind: Mind
    parts: list[_Part]
    waiting: list[tuple[float, int, Job]] = field(default_factory=list)

    def busy(self) -> bool:
        return bool(self.waiting) or any(part.count() for part in self.parts)


class AnalysisBatch:
    """Jobs in, analyses out, in whatever order they are done."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, int], _Group] = {}  #: by mind and room
        self._workers: Workers | None = None
        self._count = itertools.count()
        self._ended: list[Job] = []

    def add(self, job: Job) -> None:
        """Take a job on."""
        if job.mind.game.result(job.states)[0][0]:
            self._ended.append(job)
            return
        room = max(SMALLEST, 1 << (max(job.sims, 1) - 1).bit_length())
        key = id(job.mind), room
        if key not in self._groups:
            self._groups[key] = _group(job.mind, room)
        heapq.heappush(self._groups[key].waiting, (job.first, next(self._count), job))

    @property
    def busy(self) -> bool:
        return bool(self._ended) or any(group.busy() for group in self._groups.values())

    def jobs(self) -> list[Job]:
        """All that are not done."""
        groups = self._groups.values()
        return [*self._ended, *(job for group in groups for part in group.parts
                                for job in part.jobs if job is not None),
                *(job for group in groups for _, _, job in group.waiting)]

    def step(self) -> Iterator[tuple[Job, Analysis | None, bool]]:
        """One wave of every search: (job, what is known, whether it is done), where there is
        something to tell. None of a job that was stopped before it began."""
        ended, self._ended = self._ended, []
        for job in ended:
            yield job, of_end(job.mind.game, job.states), True
        groups = self._groups.values()
        for group in groups:
            yield from _settle(group)
        self._workers = self._workers or Workers(torch.get_num_threads())
        waves = [part for group in groups for part in group.parts if part.count()]
        for told in self._workers.map(_wave, waves):
            yield from told
        for group in groups:
            for part in group.parts:
                if part.mind is not group.mind:
                    group.mind.evaluations += part.mind.evaluations
                    part.mind.evaluations = 0
        self._groups = {key: group for key, group in self._groups.items() if group.busy()}


def _group(mind: Mind, room: int) -> _Group:
    trees = max(1, TREE_BYTES // (node_bytes(mind.game.num_actions) * (room + 1)))
    minds = mind.apart(min(torch.get_num_threads(), trees))
    rows = min(ROWS if len(minds) == 1 else SPREAD_ROWS, trees // len(minds))
    config = replace(mind.config, leaves=mind.leaves or 1, reuse=True)
    return _Group(mind, [_Part(Search(mind.game, config, rows, room, 0), own, [None] * rows)
                         for own in minds])


def _settle(group: _Group) -> Iterator[tuple[Job, Analysis | None, bool]]:
    """Tell of jobs that were stopped while they waited, and give free rows to the others."""
    stopped = [job for _, _, job in group.waiting if job.stopped]
    if stopped:
        group.waiting = [rank for rank in group.waiting if not rank[2].stopped]
        heapq.heapify(group.waiting)
    while group.waiting:
        part = min(group.parts, key=_Part.count)
        if part.count() == len(part.jobs):
            break
        job = heapq.heappop(group.waiting)[2]
        row = part.jobs.index(None)
        part.jobs[row], job.told = job, time.monotonic()
        part.seated.append(row)
    for job in stopped:
        yield job, None, True


def _wave(part: _Part) -> list[tuple[Job, Analysis | None, bool]]:
    search, mind = part.search, part.mind
    if part.seated:
        search.seed(part.seated, [0] * len(part.seated))
        search.begin(part.seated, _states_of(part, part.seated), 1, False)
        part.fresh, part.seated = part.fresh + part.seated, []
    finished = set(search.wave(mind).tolist())
    if part.fresh:
        finished -= set(part.fresh)
        finished |= _rooted(part)
    now = time.monotonic()
    asked = {row: job for row, job in enumerate(part.jobs) if job is not None and (
        row in finished or job.stopped or (job.every is not None and now - job.told >= job.every))}
    known = _so_far(part, asked)
    done = {row for row, job in asked.items() if row in finished or job.stopped}
    search.forget(sorted(done))
    for row in done:
        part.jobs[row] = None
    told = []
    for row, job in asked.items():
        job.told = now
        told.append((job, known.get(row), row in done))
    return told


def _rooted(part: _Part) -> set[int]:
    """Begin the simulations of rows whose roots have just been evaluated; the rows that want
    none."""
    rows, search, done = part.fresh, part.search, set[int]()
    part.fresh = []
    sims = list[int]()
    views = Views.of([part.jobs[row].states for row in rows], part.mind)  # type: ignore
    for row, view in zip(rows, views, strict=True):
        job = part.jobs[row]
        assert job is not None
        job.views = view
        if job.only is not None:
            restrict(search, row, job.only)
        sims.append(job.sims)
        if not job.sims:
            done.add(row)
    begun = [row for row in rows if row not in done]
    if begun:
        search.begin(begun, _states_of(part, begun), list(filter(None, sims)), False, fresh=False)
    return done


def _states_of(part: _Part, rows: list[int]) -> Any:
    """The positions in these rows, which have jobs."""
    parts = [job.states for row in rows if (job := part.jobs[row]) is not None]
    return type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


def _so_far(part: _Part, asked: dict[int, Job]) -> dict[int, Analysis]:
    """What is known in these rows; nothing where the root is not evaluated yet."""
    jobs = {row: job for row, job in asked.items() if part.search.tree.size[row]}
    if not jobs:
        return {}
    found = analyses_of(part.mind.game, [job.states for job in jobs.values()], part.search,
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
