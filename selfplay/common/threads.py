"""Work for torch on several threads, each of which computes alone.

torch's own threads wait for each other at every layer. On small boards that costs a third of the
second core; where a core is busy with something else, it costs nearly everything. Here no thread's
work depends on another's, so results are the same for any number of threads.
"""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")


#: mallopt's numbers for its settings, and bytes: the largest block that is not mapped by itself,
#: and how much free memory is kept (the default grows to twice the largest block met so far).
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 32 << 20), (-1, 256 << 20)


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to TRIM_THRESHOLD in each of malloc's arenas (a few
    threads share one or have their own), for what it allocates next.

    Otherwise glibc returns the memory of a net's layers to the system in every pass and asks for
    it again, and the system clears every page: a fifth of the time of a pass in bfloat16. Without
    glibc this does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):  # no C library to ask, or not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for setting, size in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            mallopt(setting, size)


@contextmanager
def torch_alone() -> Iterator[None]:
    """Within the block torch uses the calling thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """At most ``threads`` threads, in each of which torch uses that thread only."""

    def __init__(self, threads: int) -> None:
        keep_freed_memory()
        self.threads = max(1, threads)
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1:
            self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads,
                                            initargs=(1,))
            barrier = threading.Barrier(threads)
            with torch_alone():  # what a new thread sets, torch takes for the whole process
                list(self._pool.map(lambda _: barrier.wait(), range(threads)))

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``work`` of every item, in order; the first failure is raised."""
        run = map if self._pool is None else self._pool.map
        with torch_alone():  # MKL in all threads hears of it here
            return list(run(work, items))


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """``items``, each made while the caller is at work on the one before it."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


def replica(net: nn.Module) -> nn.Module:
    """A net for another thread: it shares the parameters of ``net``, but not their gradients."""
    copied = copy.deepcopy(net)
    for mine, shared in zip(copied.parameters(), net.parameters(), strict=True):
        mine.data = shared.data
    return copied
