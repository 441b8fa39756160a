"""Workers really work side by side, and leave torch as they found it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch

from selfplay.common.threads import Workers, ahead, torch_alone


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_as_many_as_there_are_threads_work_at_once() -> None:
    barrier = threading.Barrier(3, timeout=30)
    assert len(set(Workers(3).map(lambda _: barrier.wait(), range(3)))) == 3


def test_results_come_in_order_and_torch_keeps_to_each_thread() -> None:
    for threads in (1, 2, 5):
        workers = Workers(threads)
        assert workers.map(lambda x: (x, torch.get_num_threads()), range(9)) == [
            (x, 1) for x in range(9)]
        assert torch.get_num_threads() == 2


def test_new_threads_do_not_change_torch_for_the_others() -> None:
    for _ in range(20):
        Workers(4).map(lambda x: x, [1])
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_failure_is_raised_and_torch_is_as_before(threads: int) -> None:
    def work(x: int) -> int:
        if x % 2:
            raise FloatingPointError(str(x))
        return x

    workers = Workers(threads)
    with pytest.raises(FloatingPointError, match="1"):
        workers.map(work, range(6))
    assert torch.get_num_threads() == 2
    assert workers.map(work, [0, 2]) == [0, 2]  # and they go on working


def test_torch_alone() -> None:
    with torch_alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_ahead_gives_all_in_order_and_is_one_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for k in range(4):
            made.append(k)
            if k == 1:
                second.set()
            yield k

    coming = ahead(items())
    assert next(coming) == 0
    assert second.wait(30)  # while 0 is at work
    assert list(coming) == [1, 2, 3] and made == [0, 1, 2, 3]
    assert next(ahead(itertools.count(7))) == 7


def test_a_failure_ahead_is_heard_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no more"):
        next(coming)
