"""The processes that do one run's work together: this one alone, or as many as torchrun started.

All of them run the same program on the same data and share out the work inside it. The first one
decides what depends on the clock, and it alone writes files and speaks. Here is what one process
does; ``learn.distributed`` puts several in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

Item = TypeVar("Item")


class Alone:
    """One process. Methods that others take part in are called by all of them, in one order."""

    rank, size = 0, 1

    def meet(self) -> None:
        """Wait until all processes are here."""

    def first(self, value: Item) -> Item:
        """The first process's ``value``."""
        return value

    def gathered(self, items: list[Item]) -> list[Item]:
        """The items of all processes, in their order."""
        return items

    def rows(self, rows: Any, count: int) -> Any:
        """[count, P]: the rows of all processes, of which each has those of its ``share``."""
        return rows

    def added(self, trainer: Any, replicas: Any, figures: Any, parts: int) -> Any:
        """Leave the gradient of all processes' parts in the net; the figures of all parts."""
        return figures

    def sharded(self, net: Any) -> bool:
        """Whether each process holds only a part of the weights of ``net``."""
        return False

    def whole(self, tensor: Any) -> Any:
        """All of a tensor that may be sharded."""
        return tensor

    def part(self, tensor: Any) -> Any:
        """What this process holds of a tensor that may be sharded."""
        return tensor

    def kept(self, tensor: Any) -> Any:
        """``whole``, for the first process, which saves it; nothing for the others."""
        return tensor

    def like(self, tensor: Any, other: Any) -> Any:
        """``tensor``, sharded as ``other`` is."""
        return tensor

    def within(self, net: Any, work: Callable[[], Item]) -> Item:
        """``work()``, in which all weights of ``net`` are there as they are needed."""
        return work()

    def opened(self, net: Any) -> AbstractContextManager[None]:
        """A block in which all weights of ``net`` are there, for work without a gradient that each
        process does by itself."""
        return nullcontext()

    def may_speak(self) -> bool:
        """Whether this process is the one that says why the run ends."""
        return True


_here = [Alone()]


def here() -> Alone:
    """The processes that this one belongs to."""
    return _here[-1]


def leads() -> bool:
    """Whether this process writes files and speaks."""
    return here().rank == 0


@contextmanager
def belonging(processes: Alone) -> Iterator[None]:
    """In the block, this process belongs to ``processes``."""
    _here.append(processes)
    try:
        yield
    finally:
        _here.remove(processes)


def share(count: int) -> range:
    """Which of ``count`` things in a row are this process's."""
    rank, size = here().rank, here().size
    return range(count * rank // size, count * (rank + 1) // size)


def shared(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Any]]) -> list[Any]:
    """What ``work`` makes of this process's items, for all items in order on all processes."""
    mine = share(len(items))
    return here().gathered(work(items[mine.start:mine.stop]))
