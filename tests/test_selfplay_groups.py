"""Groups of games on threads: the same games whatever the number of threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from harvesting import played

from selfplay.board import selfplay
from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor, Harvest, SelfPlay, join_harvests
from selfplay.games import make
from selfplay.inference import actors
from selfplay.inference.actors import group_sizes
from selfplay.inference.evaluator import Evaluator
from selfplay.models import NetSpec, build, seeded

GAME = make("tictactoe")
SMALL = RLConfig(sims=4, cheap_sims=2, games=24, opening=(0, 2), temperature_plies=3)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "GROUP_GAMES", {"cpu": 8})


def evaluators(count: int = 3) -> list[Evaluator]:
    spec = NetSpec("1x8", GAME.obs_shape, GAME.num_actions)
    net = seeded(1, lambda: build(spec))
    return [Evaluator(net, GAME, cache_mb=0.1) for _ in range(count)]


def crew_of(threads: int, config: RLConfig = SMALL) -> SelfPlay:
    return SelfPlay(GAME, evaluators(), config, seed=5, threads=threads)


def equal(a: Harvest, b: Harvest) -> bool:
    return all(np.array_equal(x, y) for x, y in zip((*a.columns, *a[1:]), (*b.columns, *b[1:]),
                                                    strict=True))


def test_groups_are_few_and_even() -> None:
    assert group_sizes(24, "cpu") == [8, 8, 8]
    assert group_sizes(17, "cpu") == [6, 6, 5]
    assert group_sizes(8, "cpu") == [8]
    assert group_sizes(1, "cpu") == [1]


def test_a_gpu_has_another_group_to_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "GROUP_GAMES", {"cuda": 8})
    assert group_sizes(8, "cuda:0") == [4, 4]
    assert group_sizes(20, "cuda") == [7, 7, 6]
    assert group_sizes(1, "cuda") == [1]


def test_threads_do_not_change_the_games() -> None:
    alone, pair, many = (crew_of(threads).play(300) for threads in (1, 2, 8))
    assert len(alone.columns.value) >= 300
    assert equal(alone, pair) and equal(alone, many)


def test_a_call_that_is_cut_short_goes_on_with_the_same_games() -> None:
    whole = crew_of(2).play(300)
    cut, parts, calls = crew_of(2), [], 0
    while sum(len(p.columns.value) for p in parts) < 300:
        asked = iter([False, True])
        part = cut.play(300, stop=lambda asked=asked: next(asked))
        parts += [] if part is None else [part]
        calls += 1
    assert calls > 2
    assert equal(join_harvests(parts), whole)


def test_each_group_plays_as_an_actor_of_its_own() -> None:
    harvest = crew_of(2).play(1)  # one meeting: the first that brings a game
    actors = [Actor(GAME, evaluate, replace(SMALL, games=8), 5, group)
              for group, evaluate in enumerate(evaluators())]
    rounds: list[Harvest] = []
    while not rounds:
        for actor in actors:
            rounds += [h for h in (actor.wave() for _ in range(selfplay.WAVES)) if h is not None]
    assert equal(harvest, join_harvests(rounds))
    games = [set(map(bytes, np.split(h.actions, h.ends[:-1]))) for h in
             (played(actor, 40) for actor in actors)]
    assert games[0] != games[1] != games[2]


def test_progress_counts_rows_and_stop_comes_first() -> None:
    seen: list[int] = []
    harvest = crew_of(2).play(100, progress=seen.append)
    assert sum(seen) == len(harvest.columns.value) and all(seen)
    assert crew_of(2).play(100, stop=lambda: True) is None


def test_torch_keeps_to_one_thread_in_each_and_gets_its_own_back(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def spy(self: Actor) -> None:
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(Actor, "wave", spy)
        for threads in (1, 2):
            asked = iter([False, True])
            crew_of(threads).play(1, stop=lambda asked=asked: next(asked))
        assert seen == [1] * (2 * 3 * selfplay.WAVES)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_failure_in_a_thread_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise FloatingPointError("not finite")

    monkeypatch.setattr(Actor, "wave", fail)
    with pytest.raises(FloatingPointError, match="not finite"):
        crew_of(2).play(1)


def test_every_group_wants_its_evaluator() -> None:
    with pytest.raises(ValueError, match="2 evaluators for 3 groups"):
        SelfPlay(GAME, evaluators(2), SMALL, seed=5, threads=1)


def test_large_nets_meet_more_often() -> None:
    def waves(work: float) -> int:
        return SelfPlay(GAME, evaluators(), SMALL, seed=5, threads=1, work=work).waves

    assert waves(0.0) == waves(1.0) == selfplay.WAVES
    assert waves(selfplay.WORK / 8 / 3.5) == 3  # 8 games a group
    assert waves(selfplay.WORK) == 1
