"""The table of all players met, from match folders on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.arena import play_match
from selfplay.games import make
from selfplay.ladder import standings


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
    rows = standings(folder, make("tictactoe")).splitlines()[1:]
    assert [row.split()[0] for row in rows][-1] == "random"
    assert {row.split()[0] for row in rows} == {"random", "mcts:30", "mcts:200"}
    assert float(rows[-1].split()[1]) == 0
    assert float(rows[0].split()[1]) > 0
    assert "mcts:30" in rows[0] + rows[1]


def test_no_table_without_matches(folder: Path) -> None:
    assert standings(folder, make("go5x5")) == ""
