"""Othello, Hex, Gomoku and Dots and Boxes: against OpenSpiel, published counts and plain rules."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pyspiel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script import load

from selfplay.arena.engines import pyspiel_name
from selfplay.games import GameError, make
from selfplay.games.base import take
from selfplay.games.check import check

CONFORMANCE = load("conformance")


@pytest.mark.parametrize(("ours", "theirs"), CONFORMANCE.PAIRS[2:])
def test_agrees_with_openspiel(ours: str, theirs: str) -> None:
    """scripts/conformance.py plays 10,000 games of each."""
    plies, wrong = CONFORMANCE.differences(ours, theirs, games=60, seed=1)
    assert plies > 600 and wrong == 0
    named = pyspiel.load_game(pyspiel_name(make(ours)))
    assert str(named) == str(pyspiel.load_game(theirs))


@pytest.mark.parametrize("name", [
    "othello6x6", "hex5x5", "hex4x4(swap=True)", "gomoku9x9(exact=True)",
    "dotsandboxes(rows=2,columns=3)"])
def test_the_contract(name: str) -> None:
    assert [finding for finding in check(make(name)) if finding.fault] == []


def perft(name: str, depth: int) -> list[int]:
    """Numbers of move sequences; a game that is over counts no further."""
    game, counts = make(name), []
    level = game.new(1)
    for _ in range(depth):
        rows, actions = np.nonzero(game.legal(level))
        level = take(level, rows)
        game.step(level, actions)
        counts.append(len(rows))
    return counts


def test_perft_of_othello() -> None:
    """As published (and counted by OpenSpiel)."""
    assert perft("othello8x8", 7) == [4, 12, 56, 244, 1396, 8200, 55_092]


def test_perft_of_hex() -> None:
    assert perft("hex3x3", 7) == [9, 72, 504, 3024, 15_120, 54_720, 146_880]


@pytest.mark.parametrize(("size", "winning"), [
    (2, {"01", "10"}), (3, {"001", "111", "100"})])
def test_winning_first_moves_of_hex(size: int, winning: set[str]) -> None:
    """Row by row; the middle row first in neither: by the half turn they read the same."""
    from selfplay.games.solve.exhaustive import Exhaustive

    game = make(f"hex{size}x{size}")
    worth = Exhaustive(game).moves(game.new(1))[0].reshape(size, size) > 0
    rows = ["".join(str(int(cell)) for cell in row) for row in worth]
    assert set(rows) == winning and all(a == b[::-1] for a, b in zip(rows, rows[::-1], strict=True))


def test_winning_first_moves_of_hex_4x4() -> None:
    """By plain search; which side a full board joins is asked of the game."""
    game, full = make("hex4x4"), (1 << 16) - 1
    boards = game.new(full + 1)
    boards.stones[:] = np.where(np.arange(full + 1)[:, None] >> np.arange(16) & 1, 1, -1)
    first = game.rollout(boards, np.zeros(full + 1, np.uint64)) > 0
    joins = first.tolist(), (~first[::-1]).tolist()  # [side][set of its stones]
    bits = [1 << cell for cell in (6, 9, 5, 10, 3, 12, 2, 13, 7, 8, 1, 14, 4, 11, 0, 15)]

    @cache
    def wins(own: int, other: int, side: int) -> bool:
        free = [bit for bit in bits if not (own | other) & bit]
        if not joins[side][full & ~other]:
            return False
        return any(joins[side][own | bit] for bit in free) or any(
            not wins(other, own | bit, 1 - side) for bit in free)

    winning = [int(not wins(0, 1 << cell, 1)) for cell in range(8)]
    assert winning == [0, 0, 0, 1, 0, 0, 1, 0]  # and by the half turn the short diagonal's others


def lines_of_five(rows: int, columns: int) -> int:
    return rows * (columns - 4) + columns * (rows - 4) + 2 * (rows - 4) * (columns - 4)


@pytest.mark.parametrize("name", ["gomoku9x9", "gomoku9x9(exact=True)"])
def test_counts_of_gomoku(name: str) -> None:
    """(n n)! / (n n - d)! sequences of d plies before the ninth, which ends the game in 5! ways for
    every line of five; here of a corner of 5 x 7 cells, all fours of stones tried."""
    assert perft(name, 2) == [81, 81 * 80] and lines_of_five(9, 9) == 140
    corner = np.add.outer(9 * np.arange(5), np.arange(7)).ravel()
    fours = corner[np.array(list(combinations(range(35), 4)))]
    game = make(name)
    states = game.new(len(fours))
    states.stones[np.arange(len(fours))[:, None], fours] = 1
    won = game.wins(states, game.legal(states))[:, corner]
    assert won.sum() == 5 * lines_of_five(5, 7)


def test_othello_passes_and_ends() -> None:
    """The shortest game (9 plies, black takes all) as published: no disc of white is left."""
    game, states = make("othello8x8"), make("othello8x8").new(1)
    for move in ("e6", "f4", "e3", "f6", "g5", "d6", "e7", "f5", "c5"):
        action = game.text_to_action(states, 0, move)
        assert game.legal(states)[0, action], move
        game.step(states, np.array([action]))
    assert game.result(states)[0][0] and game.result(states)[1][0] == 1
    assert states.boards[0, 1] == 0


def plain_winner(stones: Any, size: int, longest: int) -> bool:
    """Whether black has a row of five up to ``longest``: every maximal run, cell by cell."""
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for row in range(size):
            for col in range(size):
                if (row - down, col - right) in stones or (row, col) not in stones:
                    continue
                length = 0
                while (row + length * down, col + length * right) in stones:
                    length += 1
                if 5 <= length <= longest:
                    return True
    return False


@settings(deadline=None, max_examples=60)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 8), st.integers(2, 6)), min_size=9,
                               max_size=30, unique=True))
def test_rows_of_gomoku(exact: bool, cells: list[tuple[int, int]]) -> None:
    """Black on ``cells``, white out of the way; the first win ends the game."""
    game = make(f"gomoku9x9(exact={exact})" if exact else "gomoku9x9")
    states, black = game.new(1), set()
    outside = [(r, c) for c in (0, 8, 1, 7) for r in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    for cell, white in zip(cells, outside, strict=False):
        game.step(states, np.array([cell[0] * 9 + cell[1]]))
        black.add(cell)
        won = plain_winner(black, 9, 5 if exact else 99)
        assert bool(game.result(states)[0][0]) == won
        if won:
            assert game.result(states)[1][0] == 1
            return
        game.step(states, np.array([white[0] * 9 + white[1]]))
        if game.result(states)[0][0]:
            return  # white happened to have five


def test_a_swap_is_the_first_stone_mirrored() -> None:
    game = make("hex4x4(swap=True)")
    states = game.new(1)
    for move in ("c1", "swap"):
        action = game.text_to_action(states, 0, move)
        assert game.legal(states)[0, action]
        game.step(states, np.array([action]))
    assert states.to_play[0] == 0 and states.stones[0].reshape(4, 4)[2, 0] == -1
    assert not game.legal(states)[0, 16] and game.legal(states)[0].sum() == 15


def test_who_closes_a_box_moves_again() -> None:
    game = make("dotsandboxes(rows=1,columns=2)")
    states = game.new(1)
    for move, mover in (("h 0 0", 0), ("h 1 0", 1), ("v 0 0", 0), ("v 0 1", 1), ("h 0 1", 1)):
        assert states.to_play[0] == mover
        game.step(states, np.array([game.text_to_action(states, 0, move)]))
    assert states.to_play[0] == 0 and states.boxes[0].tolist() == [0, 1]
    assert game.render(states, 0) == "+---+   +\n| O |\n+---+---+"


@pytest.mark.parametrize("name", ["othello(board_size=7)", "hex(board_size=12)",
                                  "gomoku(board_size=5)", "dotsandboxes(rows=6)"])
def test_boards_that_do_not_exist(name: str) -> None:
    with pytest.raises(GameError, match="wanted"):
        make(name)


@pytest.mark.parametrize("name", ["othello6x6", "othello8x8", "hex7x7", "gomoku9x9",
                                  "dotsandboxes"])
def test_rollouts_are_random_games(name: str) -> None:
    """The mean result beside that of games played move by move."""
    game, count = make(name), 4000
    fast = game.rollout(game.new(count), np.arange(count, dtype=np.uint64) * 7919)
    states, rng = game.new(count), np.random.default_rng(0)
    while True:
        legal = game.legal(states)
        live = legal.any(1)
        if not live.any():
            break
        actions = np.where(live, (legal + rng.random(legal.shape)).argmax(1), -1)
        game.step(states, actions)
    slow = game.result(states)[1]
    assert abs(fast.mean() - slow.mean()) < 4 * np.sqrt((fast.var() + slow.var()) / count)
    assert abs((fast == 0).mean() - (slow == 0).mean()) < 0.04
