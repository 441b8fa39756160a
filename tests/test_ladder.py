"""The table of all players met, from match folders on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.arena.elo import standings
from selfplay.arena.match import play_match
from selfplay.games import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("matches")
    game = make("tictactoe")
    play_match(game, "mcts:30", "random", games=20, folder=root / "one")
    play_match(game, "mcts:200", "mcts:30", games=20, folder=root / "two")
    play_match(make("connect4"), "mcts:5", "random", games=2, folder=root / "other")
    (root / "notes.txt").write_text("not a match")
    return root


def test_players_that_never_met_are_rated_through_others(folder: Path) -> None:
    head, *rows = standings(folder, make("tictactoe"), ("mcts:200", "mcts:30")).splitlines()
    assert "random (= 0)" in head
    assert [row.split()[0] for row in rows][-1] == "random"
    assert {row.split()[0] for row in rows} == {"random", "mcts:30", "mcts:200"}
    assert float(rows[-1].split()[1]) == 0
    assert float(rows[0].split()[1]) > 0
    assert "mcts:30" in rows[0] + rows[1]


def test_no_table_without_matches(folder: Path) -> None:
    assert standings(folder, make("go5x5"), ("random", "mcts:30")) == ""


def test_players_that_nothing_ties_to_random_are_rated_all_the_same(folder: Path) -> None:
    play_match(make("tictactoe"), "mcts:3", "mcts:4", games=4, folder=folder / "apart")
    head, *rows = standings(folder, make("tictactoe"), ("mcts:3", "mcts:4")).splitlines()
    assert "mcts:4 (= 0)" in head
    assert {row.split()[0]: float(row.split()[1]) for row in rows}.keys() == {"mcts:3", "mcts:4"}
    assert [float(row.split()[1]) for row in rows if row.split()[0] == "mcts:4"] == [0]
    # who met a player of the others is in their table
    assert "random (= 0)" in standings(folder, make("tictactoe"), ("mcts:30", "random"))
    assert standings(folder, make("tictactoe"), ("mcts:7", "mcts:7")) == ""  # only itself
