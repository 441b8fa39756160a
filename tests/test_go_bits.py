"""Playouts on words of bits, move by move, against a slow reference, and beside those on chains."""

from __future__ import annotations

import numpy as np
import pytest
from go_boards import FIVE, NINE, Reference, random_games

from selfplay.games.base import take
from selfplay.games.go import Go, playouts


def an_eye(reference: Reference, cell: int) -> bool:
    """Own stones or the edge all round, fewer than two enemy diagonals, none at the edge."""
    if any(reference.board[n] != reference.mover for n in reference.around(cell)):
        return False
    row, col = divmod(cell, reference.size)
    spots = [(row + r, col + c) for r in (-1, 1) for c in (-1, 1)]
    inside = [r * reference.size + c for r, c in spots
              if 0 <= min(r, c) <= max(r, c) < reference.size]
    enemies = sum(reference.board[n] == 3 - reference.mover for n in inside)
    return enemies + (len(inside) < 4) < 2


def sensible(reference: Reference) -> list[int]:
    ko = reference.ko()
    return [cell for cell, content in enumerate(reference.board)
            if content == 0 and reference.after(cell) is not None
            and cell not in ko and not an_eye(reference, cell)]


@pytest.mark.parametrize(("size", "games"), [(5, 60), (9, 4)])
def test_every_move_is_a_sensible_one(size: int, games: int) -> None:
    """Legal but for superko, no eye filled, a pass only where nothing else is left."""
    game, rng = Go(size), np.arange(games, dtype=np.uint64)
    states, leads = game.new(games), np.zeros(games, np.int32)
    made = np.empty((games, 2 * size**2), np.int16)
    playouts.play_out(states, size, *playouts.lookup_tables(size), rng, leads, made)
    assert len({tuple(row) for row in made}) == games
    captures = 0
    for row, lead in zip(made, leads, strict=True):
        reference, passes = Reference(size, suicide=False), 0
        for action in row[row >= 0]:
            before = sum(content > 0 for content in reference.board)
            wanted = sensible(reference)
            assert (action in wanted) if wanted else action == game.pass_action
            passes = passes + 1 if action == game.pass_action else 0
            reference.play(int(action))
            captures += sum(content > 0 for content in reference.board) < before
        assert passes == 2 or (row >= 0).all()
        assert sum(reference.owners()) == lead
    assert captures > games


def test_all_points_are_as_likely() -> None:
    games, made = 26_000, np.empty((26_000, 50), np.int16)
    states = FIVE.new(games)
    FIVE.step(states, np.full(games, 12))
    playouts.play_out(states, 5, *playouts.lookup_tables(5), np.arange(games, dtype=np.uint64),
                     np.zeros(games, np.int32), made)
    for ply in (0, 1):
        counts = np.bincount(made[:, ply], minlength=25)
        expected = games / 24  # of the second move as well, over all first moves
        assert counts[12] == 0 and counts.sum() == games
        assert ((counts - expected) ** 2 / expected)[np.arange(25) != 12].sum() < 60


def test_words_and_chains_play_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same positions, equal mean results."""
    states, _ = random_games(NINE, 60, 40, seed=3)
    rows = np.repeat(np.arange(60), 200)
    many = take(states, rows)
    ours = NINE.rollout(many, np.arange(12_000, dtype=np.uint64)).reshape(60, 200)
    monkeypatch.setattr(playouts, "LARGEST", 0)
    other = NINE.rollout(many, np.arange(12_000, 24_000, dtype=np.uint64)).reshape(60, 200)
    gaps, error = ours.mean(1) - other.mean(1), np.sqrt((ours.var(1) + other.var(1)) / 200)
    assert np.abs(gaps / np.maximum(error, 0.02)).max() < 4.5
    assert np.ptp(ours.mean(1)) > 0.5, "positions that differ"
