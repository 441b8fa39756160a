"""Remembered evaluations against evaluating everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harvesting import played
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_games import drawn_from

from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor
from selfplay.games import make
from selfplay.inference import cache
from selfplay.inference.cache import EvaluationCache
from selfplay.inference.evaluator import Evaluator
from selfplay.models import build, seeded, spec_for

ACTIONS = 3


class Counted:
    """A forward that depends on the position alone, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, obs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert len(obs), "nothing to evaluate"
        names = obs[:, 0, 0, 0].astype(int)
        self.asked += names.tolist()
        logits = names[:, None] * 10 + np.arange(ACTIONS)
        return logits.astype(np.float32), (names / 7).astype(np.float32)


def planes(names: list[int], dtype: Any = np.uint8) -> NDArray[Any]:
    """Positions that differ in one number of 18: rows are no multiple of 8 bytes."""
    obs = np.zeros((len(names), 2, 3, 3), dtype)
    obs[:, 0, 0, 0] = names
    return obs


batches = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(deadline=None)  # the first call compiles
@given(batches, st.sampled_from([0.00001, 0.0002, 1.0]), st.sampled_from([np.uint8, np.float32]))
def test_answers_are_those_of_the_net(
    asked: list[list[int]], megabytes: float, dtype: Any
) -> None:
    cache, rows = EvaluationCache(megabytes, ACTIONS), 0  # of 1, 4 and 16,384 places
    counted = Counted()
    for names in asked:
        logits, value = cache(planes(names, dtype), counted)
        expected = Counted()(planes(names))
        np.testing.assert_array_equal(logits, expected[0])
        np.testing.assert_array_equal(value, expected[1])
        rows += len(names)
    assert cache.hits + len(counted.asked) == rows
    if megabytes == 1.0:
        assert sorted(counted.asked) == sorted({name for names in asked for name in names})


def test_what_was_forgotten_is_evaluated_again() -> None:
    cache, counted = EvaluationCache(1, ACTIONS), Counted()
    cache(planes([1, 2, 1]), counted)
    cache(planes([2, 3]), counted)
    assert (counted.asked, cache.hits) == ([1, 2, 3], 2)
    cache.clear()
    cache(planes([2]), counted)
    assert (counted.asked, cache.hits) == ([1, 2, 3, 2], 2)


def test_a_failed_evaluation_leaves_nothing_behind() -> None:
    cache, counted = EvaluationCache(1, ACTIONS), Counted()
    cache(planes([1]), counted)

    def fails(obs: Any) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache(planes([1, 2]), fails)
    _, value = cache(planes([2, 1]), counted)
    np.testing.assert_array_equal(value, (np.array([2, 1]) / 7).astype(np.float32))
    assert counted.asked == [1, 2, 1]


def test_an_interrupt_leaves_no_claimed_place_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between claiming the places and evaluating."""
    remembers, counted, find = EvaluationCache(1, ACTIONS), Counted(), cache._find

    def interrupted(*arguments: Any) -> None:
        find(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_find", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remembers(planes([1, 2]), counted)
    _, value = remembers(planes([0, 0, 2, 1]), counted)
    np.testing.assert_array_equal(value, (np.array([0, 0, 2, 1]) / 7).astype(np.float32))


def test_no_rows_have_no_evaluations() -> None:
    remembers, counted = EvaluationCache(1, ACTIONS), Counted()
    logits, value = remembers(planes([]), counted)
    assert (logits.shape, value.shape, remembers.hits) == ((0, ACTIONS), (0,), 0)


def test_the_games_of_self_play_stay_the_same() -> None:
    game, config = make("tictactoe"), RLConfig(sims=8, cheap_sims=4, games=16)

    def forward(obs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        draws = [drawn_from(planes).normal(size=10) for planes in obs]
        return np.array(draws, np.float32)[:, :9], np.tanh(np.array(draws, np.float32)[:, 9])

    cache = EvaluationCache(0.01, game.num_actions)
    plain = played(
        Actor(game, lambda states, legal: forward(game.observe(states)), config, 1), 200)
    cached = played(
        Actor(game, lambda states, legal: cache(game.observe(states), forward), config, 1), 200)
    for a, b in zip(plain.columns, cached.columns, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain.actions, cached.actions)
    assert cache.hits > 500


def test_new_weights_are_asked_anew() -> None:
    torch.set_num_threads(1)
    game = make("connect4")
    spec = spec_for(game, "1x8")
    old, new = (seeded(seed, lambda: build(spec)).eval() for seed in (1, 2))
    remembers = Evaluator(old, game, dtype="float32", cache_mb=1)
    states = game.new(7)
    game.step(states, np.arange(7))
    legal = game.legal(states)
    for net in (old, old, new):
        if net is new:
            remembers.load(net)
        for got, wanted in zip(remembers(states, legal),
                               Evaluator(net, game, dtype="float32")(states, legal), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert remembers.cache is not None
    assert (remembers.evaluations, remembers.cache.hits) == (14, 7)
