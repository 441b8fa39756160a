"""What runs on the machines of a cluster: an actor that makes the pieces of work it is asked for.

It makes a piece from the job, the weights and the piece's number, and from nothing that was before,
so that another actor makes the same when this one dies. This file imports nothing heavy: threads
and folders are set before numpy, torch and Numba are loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

Key = tuple[int, ...]  #: the number of a piece


class Order(NamedTuple):
    """What there is to make: ``module:class`` of a Maker, and what it is made of; plain data."""

    maker: str
    about: dict[str, Any]
    programs: tuple[str, ...] = ()  #: command lines that a machine must be able to run


class Maker:
    """Makes the pieces of a job, one at a time. Its class is called with the job's ``about`` and
    ``device``, cpu or cuda."""

    def load(self, weights: Any) -> None:
        """New weights, for all pieces from now on; their arrays can only be read."""
        raise NotImplementedError

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """The piece ``key``, and figures of it: games, evaluations."""
        raise NotImplementedError

    def close(self) -> None:
        """There is another job now."""


class Output(NamedTuple):
    """A piece as an actor hands it in."""

    piece: Any
    figures: dict[str, float]
    seconds: float  #: that it took
    fetched: int  #: bytes of weights that had to come


class RayActor:
    """An actor, of as many threads as pieces are made at once."""

    def __init__(self, device: str) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # a piece is one thread's work
        from selfplay.common.machine import keep_compiled

        keep_compiled()
        self.device = device
        self._lock = threading.Lock()
        self._job: Order | None = None
        self._idle: list[tuple[Maker, int]] = []  # each with the version that it has loaded

    def hello(self, programs: tuple[str, ...] = ()) -> dict[str, Any]:
        """Where and what this process is; able: whether its machine has ``programs``."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), "sources": sources(),
                "able": all(map(_runs, programs))}

    def make(self, job: Order, version: int, weights: list[Any], key: Key) -> Output:
        """A piece of ``job`` by the weights of ``version``, whose reference is in ``weights``."""
        began, fetched = time.perf_counter(), 0
        maker, loaded = self._take(job)
        if loaded != version and weights:
            import ray

            found = ray.get(weights[0])
            maker.load(found)
            fetched = size(found)
        piece, figures = maker.make(key)
        with self._lock:
            current = self._job == job
            if current:
                self._idle.append((maker, version))
        if not current:
            maker.close()
        return Output(piece, figures, time.perf_counter() - began, fetched)

    def _take(self, job: Order) -> tuple[Maker, int]:
        with self._lock:
            if self._job != job:
                for maker, _ in self._idle:
                    maker.close()
                self._job, self._idle = job, []
            if self._idle:
                return self._idle.pop()
        module, _, name = job.maker.partition(":")
        return getattr(importlib.import_module(module), name)(**job.about, device=self.device), -1


def _runs(command: str) -> bool:
    """Whether the program of a command line is on this machine."""
    from selfplay.arena.gtp import find_executable
    from selfplay.common.errors import UserError

    try:
        return bool(find_executable(command))
    except UserError:
        return False


def size(piece: Any) -> int:
    """Bytes of the arrays in a piece."""
    if isinstance(piece, dict):
        return sum(map(size, piece.values()))
    if isinstance(piece, (list, tuple)):
        return sum(map(size, piece))
    return int(getattr(piece, "nbytes", 0))


@lru_cache(maxsize=1)
def sources() -> str:
    """A sum of the package's own files: equal where the same commit is installed."""
    package, sum_of = Path(__file__).parent.parent, hashlib.blake2b(digest_size=8)
    for folder, folders, files in os.walk(package, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                sum_of.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return sum_of.hexdigest()
