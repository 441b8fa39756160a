"""Answers asked for while others are still learnt from.

One thread does what it is told in order: hand over the weights of a version, gather the batch of a
step. Weights are copied when they are handed in, so that learning goes on meanwhile. Because the
order is fixed, the batch of step k is always answered by the weights of step k - S (S the
staleness; the first ones by the first weights): same seed, same batches, however fast either side
is. Only a run that begins again from a checkpoint differs, as older weights are gone: its first
batches are answered by those of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from torch import nn

from selfplay.llm.models import copy_of

Found = TypeVar("Found")


class Ahead(Generic[Found]):
    """gather: step -> its batch, by the weights handed over last. hand_over: takes a model's
    weights. staleness: steps that a batch is gathered ahead of its learning, 1 at least."""

    def __init__(
        self, gather: Callable[[int], Found], hand_over: Callable[[nn.Module], None],
        step: int, staleness: int = 1,
    ) -> None:
        """step: the next to learn; whoever answers has the weights that it starts from."""
        self._gather, self._hand_over, self.staleness = gather, hand_over, staleness
        self._thread = ThreadPoolExecutor(1, "answers")
        self._asked: dict[int, Future[tuple[int, Found]]] = {}
        self._version = step  #: of the thread: the step that the answering weights start from

    def batch(self, step: int) -> tuple[int, Found]:
        """(staleness, the batch of ``step``), which is waited for; those of the next steps are
        asked for. Raises what ``gather`` raised."""
        for ahead in range(step, step + self.staleness + 1):
            if ahead not in self._asked:
                self._asked[ahead] = self._thread.submit(self._versioned, ahead)
        version, found = self._asked.pop(step).result()
        return step - version, found

    def hand_over(self, model: nn.Module, step: int) -> None:
        """Batches that are asked for from now on are answered by the present weights of ``model``,
        which step ``step`` starts from."""
        self._thread.submit(self._take, copy_of(model).eval().requires_grad_(False), step)

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """``work()``, once all that was asked for before has been done, and while nothing else
        is."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        """Forget what has been asked for, once the batch under way is there."""
        self._thread.shutdown(cancel_futures=True)

    def _versioned(self, step: int) -> tuple[int, Found]:
        return self._version, self._gather(step)

    def _take(self, model: nn.Module, step: int) -> None:
        self._hand_over(model)
        self._version = step
