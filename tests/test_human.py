"""Somebody at the terminal: what they type, what they are told, what is kept."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import Command

from selfplay.arena.human import HumanPlayer
from selfplay.arena.play import play_games
from selfplay.arena.players import parse_player
from selfplay.arena.records import read_records
from selfplay.games import make

TTT = make("tictactoe")
Typed = Callable[..., None]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    def answers(*words: str) -> None:
        waiting = iter(words)
        monkeypatch.setattr(builtins, "input", lambda prompt: next(waiting))

    return answers


class First:
    """The lowest legal cell."""

    name = "first"

    def start(self, slots, seeds) -> None: ...

    def moved(self, slots, actions) -> None: ...

    def act(self, states, slots):
        return TTT.legal(states).argmax(1)

    def close(self) -> None: ...


def test_undo_takes_back_a_move_and_its_answer(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    """c3, answered by a1; taken back; then the diagonal b2, c3, ... that wins by a column."""
    typed("undo", "c3", "undo", "b1", "b2", "b3")
    human = HumanPlayer("human", TTT)
    (record,) = play_games(TTT, human, First(), games=1, seed=0, opening=(0, 0), slots=1)
    text = [TTT.action_to_text(TTT.new(1), 0, action) for action in record.actions]
    assert text == ["b1", "a1", "b2", "c1", "b3"] and record.value == 1
    said = capsys.readouterr().out
    assert said.count("you are first (X)") == 1 and "the last move was a1" in said


def test_help_hint_and_what_is_no_move(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint wins at once: two in a row are on the board."""
    states = TTT.new(1)
    for action in (0, 3, 1, 4):
        TTT.step(states, np.array([action]))
    typed("help", "nonsense", "a1", "hint", "c1")
    assert parse_player("human", TTT).act(states, np.array([0])).tolist() == [2]
    said = capsys.readouterr().out
    for words in ("take back", "nonsense", "a1 is illegal", "a search plays c1"):
        assert words in said


@pytest.mark.parametrize(("player", "more", "words"), [
    ("net:hex7x7@2", (), ["a1"]), ("net:othello6x6@2", (), ["c2", "pass"]),
    ("net:gomoku9x9@2", (), ["i9"]), ("net:dotsandboxes@2", (), ["h 0 1", "h 0 1"]),
    ("mcts:2", ("--game", "dotsandboxes(rows=2,columns=2)"), ["h 0 1"]),
    ("mcts:2", ("--game", "hex5x5(swap=True)"), ["a1", "swap"])], ids=lambda v: str(v)[:30])
def test_the_games_of_nets_that_come_along_are_played_by_hand(
    typed: Typed, run: Command, player: str, more: tuple[str, ...], words: list[str]
) -> None:
    """A move as docs/native-games.md has it is made, or illegal there, and no unknown word."""
    typed(*words, "resign")
    said = run("match", "human", player, *more, "--opening", "0", "--out", "here")
    assert said.code == 0 and "you have lost (resignation)" in said.out, said.err
    assert "is no move" not in said.out and said.out.count(" is illegal here") == len(words) - 1
    assert len(read_records(Path("here/games.jsonl"))[0].actions) == 2


def test_the_same_command_plays_another_game_and_says_who_has_won(
    typed: Typed, run: Command, tmp_path: Path
) -> None:
    words = ("match", "human", "random", "--game", "tictactoe", "--opening", "1", "--out", "here")
    typed("resign")
    said = run(*words)
    assert said.code == 0 and "you have lost (resignation)" in said.out
    assert "you are" in said.out and "random (--opening 0 for none)" in said.out
    typed("resign")
    assert "of 2 games" in run(*words).out
    typed("quit")
    said = run(*words)
    assert said.code == 130 and "the game under way is not kept" in said.err
    assert (tmp_path / "here/games.jsonl").read_text().count("\n") == 2
