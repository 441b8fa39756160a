"""Games of the user's own: a file is enough, and ``--check`` finds what is wrong with one."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, TINY, Command
from forked import python

from selfplay.games import identity, located, make
from selfplay.games.base import Game, GameError, Symmetries
from selfplay.games.check import check, sample

EXAMPLES = ROOT / "docs/examples"
GOMOKU = f"{EXAMPLES}/gomoku.py:Gomoku(size=5,row=4)"
SMALL: Any = type(make(GOMOKU))


@pytest.mark.parametrize("spec", [GOMOKU, f"{EXAMPLES}/pile.py:Pile"])
def test_a_sound_game_has_no_faults(spec: str) -> None:
    assert [finding for finding in check(make(spec)) if finding.fault] == []


def test_a_side_may_move_again() -> None:
    found = [finding.words for finding in check(Again(size=5, row=4)) if finding.fault]
    assert len(found) == 1 and "symmetries" in found[0]  # by the number of a cell: not symmetric


def test_gomoku_knows_who_has_won() -> None:
    game = make(GOMOKU)
    for moves, value in (("a1 b1 a2 b2 a3 b3 a4", 1.0), ("e5 a1 b1 b2 a2 c3 a3 d4", -1.0)):
        states = game.new(1)
        for text in moves.split():
            assert not game.result(states)[0][0]
            game.step(states, np.array([game.text_to_action(states, 0, text)]))
        assert [x.tolist() for x in game.result(states)] == [[True], [value]]
    assert game.render(states, 0).splitlines()[0] == "5 . . . . X"


def test_the_defaults_play_as_the_games_that_bring_all() -> None:
    """Tic-tac-toe by the defaults alone, and the one of kernels: the same moves, seen alike."""
    slow, fast = SMALL(size=3, row=3), make("tictactoe")
    rng, here, there = np.random.default_rng(0), slow.new(64), fast.new(64)
    for _ in range(9):
        assert (slow.legal(here) == fast.legal(there)).all()
        assert (slow.observe(here) == fast.observe(there)).all()
        assert [slow.render(here, b) for b in (0, 9)] == [fast.render(there, b) for b in (0, 9)]
        assert (slow.rollout(here, np.arange(64, dtype=np.uint64))
                == fast.rollout(there, np.arange(64, dtype=np.uint64))).all()
        actions = (slow.legal(here) + rng.random((64, 9))).argmax(1)
        slow.step(here, actions)
        fast.step(there, actions)
        for one, other in zip(slow.result(here), fast.result(there), strict=True):
            assert (one == other).all()
    assert slow.result(here)[0].all()
    assert (here.to_play == there.to_play).all() and (here.ply == there.ply).all()


# ------------------------------------------------------------------- what a check must find

class Mover(SMALL):
    def result(self, states: Any) -> Any:
        done, value = super().result(states)
        return done, value * (1 - 2 * states.to_play).astype(np.float32)


class Upside(SMALL):
    def result(self, states: Any) -> Any:
        done, value = super().result(states)
        return done, -value


class AnyCell(SMALL):
    def legal(self, states: Any) -> Any:
        return np.repeat(~self.result(states)[0][:, None], self.cells, 1)


class NeverOver(SMALL):
    def legal(self, states: Any) -> Any:
        return states.board == 0


class Stuck(SMALL):
    def legal(self, states: Any) -> Any:
        return super().legal(states) & (states.ply < 4)[:, None]


class GoesOn(SMALL):
    def step(self, states: Any, actions: Any) -> None:
        rows = np.flatnonzero(np.asarray(actions) >= 0)
        states.board[rows, np.asarray(actions)[rows]] = 1 - 2 * states.to_play[rows]
        states.ply[rows] += 1
        states.to_play[rows] ^= 1


class HearsMinusOne(SMALL):
    def step(self, states: Any, actions: Any) -> None:
        super().step(states, np.where(np.asarray(actions) < 0, self.legal(states).argmax(1),
                                      actions))


class OneForAll(SMALL):
    def move(self, states: Any, actions: Any) -> Any:
        states.board[np.arange(len(actions)), actions] = 1 - 2 * states.to_play[0]
        return actions % 3 == 0  # moves again: sides part


class Mirrored(SMALL):
    def symmetries(self) -> Any:
        cells, actions = super().symmetries()
        return Symmetries(cells, actions[[0, 2, 1, *range(3, len(actions))]])


class NoTable(SMALL):
    def symmetries(self) -> Any:
        cells, actions = super().symmetries()
        return Symmetries(cells, np.zeros_like(actions))


class SameText(SMALL):
    def action_to_text(self, states: Any, row: int, action: int) -> str:
        return "ab"[action % 2]


class TakesAll(SMALL):
    def text_to_action(self, states: Any, row: int, text: str) -> int:
        try:
            return super().text_to_action(states, row, text)
        except GameError:
            return 0


class Chance(SMALL):
    def move(self, states: Any, actions: Any) -> Any:
        super().move(states, actions)
        return np.random.default_rng().random(len(actions)) < 0.3


class Shared(SMALL):
    store: Any = None

    def new(self, batch: int) -> Any:
        if self.store is None or len(self.store.ply) != batch:
            self.store = super().new(batch)
        return self.store


class Floats(SMALL):
    def observe(self, states: Any) -> Any:
        return super().observe(states).astype(np.float32)


class Blind(SMALL):
    def observe(self, states: Any) -> Any:
        return np.ones((len(states.ply), *self.obs_shape), np.uint8)


class Absolute(SMALL):
    def observe(self, states: Any) -> Any:
        return super().observe(states._replace(to_play=np.zeros_like(states.to_play)))


class Again(SMALL):
    def move(self, states: Any, actions: Any) -> Any:
        super().move(states, actions)
        return actions % 5 == 0


class ByPly(Again):
    def observe(self, states: Any) -> Any:
        return super().observe(states._replace(to_play=(states.ply % 2).astype(np.int8)))


class Short(SMALL):
    max_moves = 6


class Spoils(SMALL):
    def rollout(self, states: Any, rng: Any) -> Any:
        for _ in range(self.max_moves):
            legal = self.legal(states)
            self.step(states, np.where(legal.any(1), legal.argmax(1), -1))
        return self.result(states)[1]


class NewStates(SMALL):
    def step(self, states: Any, actions: Any) -> None:
        super().step(type(states)(*(field.copy() for field in states)), actions)


class Keyless(SMALL):
    def keys(self, states: Any) -> Any:
        return np.zeros(len(states.ply), np.uint64)


class Stumbles(SMALL):
    def legal(self, states: Any) -> Any:
        return states.bord == 0


class OneArray(SMALL):
    def result(self, states: Any) -> Any:
        return super().result(states)[1]


class Wide(SMALL):
    def legal(self, states: Any) -> Any:
        return np.hstack([super().legal(states), super().legal(states)])


@pytest.mark.parametrize(("game", "words", "fault"), [
    (Mover, "value is that of player 0", True),
    (Upside, "the sign is turned round", False),
    (AnyCell, "not over after max_moves", True),
    (NeverOver, "moves are allowed in a game that is over", True),
    (Stuck, "no move, but result says that the game is not over", True),
    (GoesOn, "changes a game that is over", True),
    (HearsMinusOne, "action is -1", True),
    (OneForAll, "rows must not mix", True),
    (Mirrored, "symmetries: the game played turned by row", True),
    (NoTable, "no reordering", True),
    (SameText, "two moves have this text", True),
    (TakesAll, "takes nonsense for a move", True),
    (Chance, "ends the same every time", True),
    (Shared, "the same arrays twice", True),
    (Floats, "uint8 wanted", True),
    (Blind, "the first move changes nothing", True),
    (Absolute, "the same whoever is to move", False),
    (Absolute, "by to_play alone", True),
    (ByPly, "a side may move again", True),
    (Short, "not over after max_moves=6", True),
    (Spoils, "play out a copy", True),
    (NewStates, "ply does not count the moves", True),
    (Keyless, "the same key", True),
    (Stumbles, "no attribute 'bord' (test_own_games.py, line", True),
    (OneArray, "result(new(3)) gives one array, float32 [3]; two arrays wanted, (done bool", True),
    (Wide, "[48, 25] wanted", True),
], ids=lambda value: getattr(value, "__name__", None))
def test_planted_faults_are_named(game: type[Game], words: str, fault: bool) -> None:
    found = check(game(size=5, row=4))  # type: ignore[call-arg]
    assert any(words in finding.words and finding.fault == fault for finding in found), found
    assert all("\n" not in finding.words for finding in found)
    assert not any(word in finding.words for finding in found for word in ("base.py", "rules.py"))


def test_a_sample_game_says_who_has_won() -> None:
    words = sample(SMALL(size=3, row=3), seed=1)
    assert "has won" in words or "a draw" in words
    assert words.startswith("first ")


# ---------------------------------------------------------------------------- names and files

def test_the_name_of_a_games_file_stays_when_it_is_moved(tmp_path: Path) -> None:
    text = (EXAMPLES / "gomoku.py").read_text()
    (tmp_path / "gomoku.py").write_text(text)
    moved = make(f"{tmp_path}/gomoku.py:Gomoku( size=5, row=4 )")
    assert moved.name == make(GOMOKU).name == identity(GOMOKU) == "gomoku.py:Gomoku(size=5,row=4)"
    assert make(moved.name).board_shape == (5, 5)  # a file that was named is found again
    assert located("go9x9") == identity("go9x9") == "go9x9"


def test_a_file_that_was_edited_is_run_again(tmp_path: Path) -> None:
    file, text = tmp_path / "game.py", (EXAMPLES / "gomoku.py").read_text()
    file.write_text(text)
    first, again = (type(make(f"{file}:Gomoku")) for _ in range(2))
    assert first is again
    file.write_text(text.replace("size: int = 9", "size: int = 6"))
    os.utime(file, ns=(1, 1))
    assert make(f"{file}:Gomoku").board_shape == (6, 6)


@pytest.mark.parametrize(("words", "hints"), [
    ("nowhere.py:Game", ["nowhere.py", "no such file"]),
    (f"{EXAMPLES}/gomoku.py:Gomku", ["no Gomku in it", "Gomoku"]),
    (f"{EXAMPLES}/gomoku.py:Gomoku(sise=5)", ["no parameter 'sise'", "size=9,row=5"]),
    (f"{EXAMPLES}/gomoku.py:Gomoku(size=big)", ["whole number"]),
    ("broken.py:Game", ["broken.py, line 2", "ZeroDivisionError"]),
    ("words.py:Game", ["words.py, line 1", "SyntaxError"]),
    ("other.py:NUMBER", ["a game's class"]),
    ("other.py:Thing", ["no subclass of Game"]),
])
def test_a_file_that_is_no_game_is_explained(
    words: str, hints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("x = 1\ny = x / 0\n")
    Path("words.py").write_text("class :\n")
    Path("other.py").write_text("NUMBER = 3\nclass Thing: pass\n")
    with pytest.raises(GameError) as caught:
        make(words)
    for hint in hints:
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_installed_package_brings_a_game(tmp_path: Path) -> None:
    (tmp_path / "othergames.py").write_text(textwrap.dedent("""
        from selfplay.games.tictactoe import TicTacToe
        class Noughts(TicTacToe):
            pass
    """))
    info = tmp_path / "othergames-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: othergames\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[selfplay.games]\ngonoughts = othergames:Noughts\n")
    code = ("from selfplay.games import describe, make\ngame = make('gonoughts')\n"
            "assert game.name == 'gonoughts' and make(game.name).num_actions == 9\n"
            "assert 'gonoughts' in describe()")
    here = f"import sys; sys.path.append({str(tmp_path)!r})\n"
    done = python(here + code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------- the command

def test_the_command_checks_a_game(run: Command) -> None:
    fine = run("games", "--check", GOMOKU)
    assert fine.code == 0 and "no fault found" in fine.out, fine
    assert "has won" in fine.out or "a draw" in fine.out
    Path("bad.py").write_text("from selfplay.games.tictactoe import TicTacToe\n"
                              "class Bad(TicTacToe):\n    max_moves = 4\n")
    bad = run("games", "--check", "bad.py:Bad")
    assert bad.code == 1 and "not over after max_moves=4" in bad.out, bad
    run("games", "--check", "nowhere.py:Bad").mistake("nowhere.py", "no such file")


def test_a_game_whose_file_begins_with_go_trains_and_goes_on(run: Command) -> None:
    Path("a").mkdir()
    Path("a/gomoku5.py").write_text((EXAMPLES / "gomoku.py").read_text())
    said = run("train", "--game", "a/gomoku5.py:Gomoku(size=3,row=3)", "--run", "r", *TINY)
    assert said.code == 0, said.err
    assert Path("r/expert/games.jsonl.gz").exists() and Path("r/chart.png").exists()
    Path("a").rename("b")
    run("rl", "--run", "r").mistake("no such file", "gomoku5.py")
    again = run("train", "--game", "b/gomoku5.py:Gomoku(size=3,row=3)", "--run", "r", *TINY)
    assert again.code == 0, again.err
    match = run("match", "net:r@4", "mcts:4", "--games", "4", "--game",
                "b/gomoku5.py:Gomoku(size=3,row=3)")
    assert match.code == 0, match.err
    assert "as first" in match.out
