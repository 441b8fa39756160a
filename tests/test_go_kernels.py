"""The two ways that boards are kept, as sets of points and as chains in arrays: one game.

Boards up to 9x9 are sets, larger ones chains; the rules of the former are tested against a slow
reference and OpenSpiel. Here small boards are played both ways, so that what holds for sets holds
for chains, superko and suicide included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selfplay.games.base import put, take
from selfplay.games.go import Go

REPEATS = 13  #: the plane of what superko alone forbids


def both(size: int, suicide: bool) -> tuple[Go, Go]:
    """A game on sets, and the same on chains."""
    sets, chains = Go(size, suicide=suicide), Go(size, suicide=suicide)
    chains._in_sets = False
    chains._start = chains._empty_board()
    return sets, chains


def same(a: Go, b: Go, x: Any, y: Any) -> NDArray[np.uint8]:
    """Everything that a game says of its states; returns the observations."""
    planes = a.observe(x)
    np.testing.assert_array_equal(planes, b.observe(y))
    np.testing.assert_array_equal(a.legal(x), b.legal(y))
    for mine, theirs in zip(a.result(x), b.result(y), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for what in ("ownership", "score", "keys"):
        np.testing.assert_array_equal(getattr(a, what)(x), getattr(b, what)(y))
    np.testing.assert_array_equal(x.stones, y.stones)
    return planes


@pytest.mark.parametrize(("size", "suicide", "games"), [
    (5, False, 200), (5, True, 200), (7, True, 40), (9, False, 20)])
def test_sets_and_chains_play_the_same_game(size: int, suicide: bool, games: int) -> None:
    sets, chains = both(size, suicide)
    rng, superko = np.random.default_rng(size), 0
    x, y = sets.new(games), chains.new(games)
    for _ in range(sets.max_moves):
        planes = same(sets, chains, x, y)
        superko += int(planes[:, REPEATS].sum())
        legal = sets.legal(x)
        weights = legal * rng.random(legal.shape)
        weights[:, -1] *= 0.02  # few passes: full boards are where stones come back
        moves = np.where(legal.any(1), weights.argmax(1), -1)
        sets.step(x, moves)
        chains.step(y, moves)
    assert superko > 0


@pytest.mark.parametrize("suicide", [False, True])
def test_leaves_of_a_search_are_the_same(suicide: bool) -> None:
    """``branch`` from games under way, by walks of many lengths; some end the game."""
    sets, chains = both(5, suicide)
    rng, count = np.random.default_rng(1), 64
    x, y, moves = sets.new(count), chains.new(count), np.full((count, 60), -1, np.int64)
    walks = sets.new(count)
    for t in range(60):
        legal = sets.legal(walks)
        choice = np.where(legal.any(1), (legal * rng.random(legal.shape)).argmax(1), -1)
        sets.step(walks, choice)
        moves[:, t] = choice
    begun = rng.integers(0, 30, count)
    for t in range(30):
        early = np.where(t < begun, moves[:, t], -1)
        sets.step(x, early)
        chains.step(y, early)
    paths = np.full((count, 30), -1, np.int64)
    for row in range(count):
        part = moves[row, begun[row]:][: rng.integers(0, 30)]
        paths[row, : len(part)] = part
    outs = [game.new(count) for game in (sets, chains)]
    rows = np.arange(count)
    found = [game.branch(roots, rows, paths, out)
             for game, roots, out in zip((sets, chains), (x, y), outs, strict=True)]
    for place, legal in found:
        assert 0 < len(legal) < count and sorted(place) == rows.tolist()
    ordered = [take(out, place) for out, (place, _) in zip(outs, found, strict=True)]
    same(sets, chains, *ordered)
    for (place, legal), out, game in zip(found, outs, (sets, chains), strict=True):
        live = np.arange(len(legal))
        whole = game.new(count)
        put(whole, rows, out)
        np.testing.assert_array_equal(game.legal(whole)[live], legal)
        assert place.max() == count - 1
