"""The Game protocol, read aloud to every game."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.games import GAMES, describe, make
from selfplay.games.base import GameError, take
from selfplay.games.check import CHECKS

NATIVE = ["tictactoe", "connect4", "go5x5", "go9x9(komi=5.5)"]
ADAPTED = [
    "openspiel:tic_tac_toe",
    "openspiel:hex(board_size=3)",
    "openspiel:othello",
    "openspiel:breakthrough(columns=4,rows=5)",
    "openspiel:dots_and_boxes",  # who closes a box moves again
    "openspiel:nim",  # an observation of one axis
]
SPECS = NATIVE + ADAPTED


@pytest.fixture(scope="module", params=SPECS)
def game(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def batch_of(game: Any) -> int:
    return 6 if game.name.startswith("openspiel:") else 48


def fields(states: Any) -> list[Any]:
    """Every field as something comparable."""
    return [
        [str(item) for item in field] if field.dtype == object else field.tolist()
        for field in states
    ]


def middle(game: Any, play_random: Any, seed: int = 3) -> Any:
    """Positions from all over the games, finished ones among them."""
    batch = batch_of(game)
    _, actions = play_random(game, batch, seed)
    cut = np.random.default_rng(seed).integers(0, actions.shape[1] + 1, batch)
    cut[0] = actions.shape[1]
    states = game.new(batch)
    game.replay(states, np.where(np.arange(actions.shape[1]) < cut[:, None], actions, -1))
    return states


@pytest.mark.parametrize("name", CHECKS)
def test_a_game_keeps_its_promises(game: Any, name: str) -> None:
    """What ``selfplay games --check`` asks of a user's game; see test_own_games for its teeth."""
    function, fault = CHECKS[name]
    assert not list(function(game, batch_of(game), 3)) or not fault


@pytest.mark.parametrize("rows", [slice(0, 2), np.arange(2), [0, 1], np.arange(6) < 2])
def test_what_was_taken_is_a_copy(game: Any, rows: Any, play_random: Any) -> None:
    states, _ = play_random(game, 6, 1, plies=1)
    before, some = fields(states), take(states, rows)
    game.step(some, game.legal(some).argmax(1))
    assert some.ply.tolist() == [2, 2] and fields(states) == before


@pytest.mark.parametrize(("spec", "moves", "value"), [
    ("tictactoe", "a1 a2 b1 b2 c1", 1),
    ("tictactoe", "a1 a2 b1 b2 c3 c2", -1),
    ("tictactoe", "a1 b1 c1 b2 a2 a3 b3 c2 c3", 0),
    ("connect4", "1 2 1 2 1 2 1", 1),
    ("connect4", "1 2 1 2 1 2 3 2", -1),
    ("go5x5", "C3 pass pass", 1),
    ("go5x5", "pass C3 pass pass", -1),
    ("go5x5", "pass pass", -1),
    ("openspiel:tic_tac_toe", "x(0,0) o(1,0) x(0,1) o(1,1) x(0,2)", 1),
    ("openspiel:tic_tac_toe", "x(0,0) o(1,0) x(0,1) o(1,1) x(2,2) o(1,2)", -1),
    ("openspiel:connect_four", "x0 o1 x0 o1 x0 o1 x0", 1),
])  # fmt: skip
def test_the_value_speaks_for_player_0(spec: str, moves: str, value: float) -> None:
    game = make(spec)
    states = game.new(1)
    for text in moves.split():
        assert not game.result(states)[0][0], f"over before {text}\n{game.render(states, 0)}"
        game.step(states, np.array([game.text_to_action(states, 0, text)]))
    done, values = game.result(states)
    assert done.tolist() == [True], game.render(states, 0)
    assert values.tolist() == [value]
    assert game.rollout(states, np.zeros(1, np.uint64)).tolist() == [value]


@pytest.mark.parametrize("spec", NATIVE)
def test_the_view_turns_with_the_side_to_move(spec: str, play_random: Any) -> None:
    """Planes 0 and 1 of the native games are own and opposing stones."""
    game = make(spec)
    states, _ = play_random(game, 48, 6, plies=5)
    before, turns = game.observe(states), states.to_play.copy()
    assert before[:, :2].any(axis=(2, 3)).all(), "both have stones"
    game.step(states, game.legal(states).argmax(1))
    after = game.observe(states)[states.to_play != turns]
    before = before[states.to_play != turns]
    assert len(after)
    assert (before[:, 0] <= after[:, 1]).all(), "what was mine is now the opponent's"
    assert ((after[:, 1] - before[:, 0]).sum(axis=(1, 2)) == 1).all(), "with one stone more"
    assert (after[:, 0] <= before[:, 1]).all(), "what was the opponent's is mine, unless captured"


def test_moves_as_text_come_back(game: Any, play_random: Any) -> None:
    states, _ = play_random(game, 2, 9, plies=3)
    # OpenSpiel spells moves by position, so only the legal ones are known there.
    everything = game.legal(states)[1] | (not game.name.startswith("openspiel:"))
    texts = {game.action_to_text(states, 1, a): a for a in np.flatnonzero(everything)}
    assert len(texts) == everything.sum(), "no two moves look alike"
    for text, action in texts.items():
        assert game.text_to_action(states, 1, text) == action
        assert game.text_to_action(states, 1, f" {text}\n") == action


@pytest.mark.parametrize(
    "text", ["", " ", "zz", "j0", "a", "0", "d44", "-1", "a1 a2", "é", "²", "a²"]
)
def test_nonsense_is_no_move(game: Any, text: str) -> None:
    with pytest.raises(GameError, match="no "):
        game.text_to_action(game.new(1), 0, text)


def test_the_name_makes_the_game_again(game: Any, play_random: Any) -> None:
    again = make(game.name)
    for attribute in (
        "name", "rules", "num_actions", "board_shape", "obs_shape", "obs_binary", "max_moves",
        "pass_action", "has_ownership",
    ):  # fmt: skip
        assert getattr(again, attribute) == getattr(game, attribute)
    assert "\n" not in game.rules and game.rules
    first, actions = play_random(game, 4, 11)
    second = again.new(4)
    again.replay(second, actions)
    assert fields(first) == fields(second)


@pytest.mark.parametrize("spec", SPECS)
def test_names_are_canonical(spec: str) -> None:
    assert make(spec).name == spec


@pytest.mark.parametrize(("spec", "name"), [
    ("go", "go9x9"),
    ("go()", "go9x9"),
    (" go( board_size = 7 ,komi=5.5) ", "go7x7(komi=5.5)"),
    ("go9x9(komi=7)", "go9x9"),
    ("go9x9(suicide=TRUE)", "go9x9(suicide=True)"),
    ("go9x9(suicide=false,komi=-.5)", "go9x9(komi=-0.5)"),
    ("openspiel:tic_tac_toe()", "openspiel:tic_tac_toe"),
])  # fmt: skip
def test_other_spellings(spec: str, name: str) -> None:
    assert make(spec).name == name


@pytest.mark.parametrize(("spec", "hint"), [
    ("conect4", "'connect4'"),
    ("TicTacToe", "'tictactoe'"),
    ("go9x8", "'go9x9'"),
    ("quake", "tictactoe, connect4, go5x5"),
    ("", "name"),
    ("go9x9(", "name"),
    ("go9x9(komi)", "'komi' is not key=value"),
    ("go9x9(kommi=3)", "komi=7.0"),
    ("go9x9(board_size=9)", "komi=7.0,suicide=False"),
    ("connect4(rows=5)", "takes no parameters"),
    ("go(komi=1,komi=2)", "twice"),
    ("go(board_size=9.5)", "whole number"),
    ("go(komi=much)", "number"),
    ("go(komi=nan)", "number"),
    ("go(suicide=1)", "true or false"),
    ("go(board_size=4)", "5 to 19"),
])  # fmt: skip
def test_mistakes_are_named(spec: str, hint: str) -> None:
    with pytest.raises(GameError) as error:
        make(spec)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=300)
@given(st.one_of(
    st.text(max_size=20),
    st.builds("{}({}={})".format, st.sampled_from(sorted(GAMES)),
              st.sampled_from(["komi", "suicide", "board_size", "x"]), st.text(max_size=6)),
))  # fmt: skip
def test_any_text_is_a_game_or_a_one_line_error(text: str) -> None:
    try:
        assert make(text).num_actions > 1
    except GameError as error:
        assert len(str(error).splitlines()) == 1


def test_the_list_of_games() -> None:
    text = describe()
    for name in ("tictactoe", "connect4", "go9x9", "go5x5", "go19x19", "openspiel:chess"):
        assert name in text
    assert make("connect4").rules in text
    assert "othello6x6, othello8x8   Othello: who" in text  # of no one size
    for unsuitable in ("kuhn_poker", "backgammon", "goofspiel", "phantom_ttt"):
        assert unsuitable not in text


def test_naming_games_is_cheap() -> None:
    """Importing the games loads neither a compiler nor OpenSpiel nor torch; the processes that run
    a user's files, none of which names a game, no arrays either."""
    code = ("import sys, selfplay.llm.envs.worker; print(*{'numpy'} & set(sys.modules))\n"
            "import selfplay.games.base, selfplay.games.catalogue\n"
            "print(*{'numba', 'pyspiel', 'torch'} & set(sys.modules))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_branch_is_replay_result_and_legal_at_once(game: Any, play_random: Any) -> None:
    """From positions all over the games, some of whose branches run into the end of the game."""
    _, actions = play_random(game, batch_of(game), 7)
    length = (actions >= 0).sum(1)
    cut = np.maximum(0, length - 1 - np.arange(len(length)) % 9)
    columns = np.arange(actions.shape[1])
    roots = game.new(len(length))
    game.replay(roots, np.where(columns < cut[:, None], actions, -1))
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(length)), 2))
    moves = np.full((len(rows), 5), -1)
    for i, row in enumerate(rows):
        own = actions[row, cut[row] : min(length[row], cut[row] + i % 6)][:5]
        moves[i, : len(own)] = own
    plain, out = take(roots, rows), middle(game, play_random)
    game.replay(plain, moves)
    out = take(out, np.arange(len(rows)) % batch_of(game))
    place, legal = game.branch(roots, rows, moves, out)
    done, value = game.result(plain)
    assert done.any() and not done.all()
    assert sorted(place.tolist()) == list(range(len(rows)))
    assert ((place >= len(legal)) == done).all()
    assert (legal[place[~done]] == game.legal(plain)[~done]).all()
    found = take(out, place)
    assert (game.result(found)[0] == done).all() and (game.result(found)[1] == value).all()
    assert (game.observe(found) == game.observe(plain)).all()
    assert found.ply.tolist() == plain.ply.tolist()
    assert found.to_play.tolist() == plain.to_play.tolist()
    if game.name.startswith("go"):  # superko looks further back than the board
        assert (game.legal(found) == game.legal(plain)).all()
        assert [found.history[i, : n + 1].tolist() for i, n in enumerate(found.ply)] == [
            plain.history[i, : n + 1].tolist() for i, n in enumerate(plain.ply)]
