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
from selfplay.games.base import GameError, put, side, take

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


def copy(states: Any) -> Any:
    return take(states, np.arange(len(states.ply)))


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


def test_a_fresh_game(game: Any) -> None:
    states = game.new(3)
    done, value = game.result(states)
    assert not done.any() and not value.any()
    assert done.dtype == np.bool_ and value.dtype == np.float32
    assert states.to_play.dtype == np.int8 and states.ply.dtype == np.int32
    assert states.to_play.tolist() == states.ply.tolist() == [0, 0, 0]
    assert side(states).tolist() == [1, 1, 1]
    assert all(len(field) == 3 for field in states)
    assert all(len(field) == 0 for field in game.new(0))


def test_whole_games_keep_the_masks_and_end_in_time(game: Any) -> None:
    states = game.new(batch_of(game))
    rng = np.random.default_rng(0)
    for ply in range(game.max_moves + 1):
        legal = game.legal(states)
        done, value = game.result(states)
        assert legal.shape == (len(done), game.num_actions) and legal.dtype == np.bool_
        assert (legal.any(1) == ~done).all(), "no legal move if and only if the game is over"
        assert not value[~done].any(), "no result before the end"
        assert (np.abs(value) <= 1).all()
        assert np.isin(states.to_play, [0, 1]).all()
        assert (states.ply[~done] == ply).all() and (states.ply <= ply).all()
        if done.all():
            break
        actions = (legal + rng.random(legal.shape)).argmax(1)
        game.step(states, np.where(done, -1, actions))
    assert done.all(), "over after max_moves at the latest"


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


def test_finished_games_absorb(game: Any, play_random: Any) -> None:
    states, _ = play_random(game, batch_of(game), 1)
    before = fields(copy(states))
    for action in {0, game.num_actions // 2, game.num_actions - 1}:
        game.step(states, np.full(len(states.ply), action))
        game.replay(states, np.full((len(states.ply), 2), action))
    assert fields(states) == before


def test_minus_one_leaves_a_row_alone(game: Any, play_random: Any) -> None:
    states, _ = play_random(game, batch_of(game), 2, plies=2)
    moved, rows = copy(states), np.arange(len(states.ply))
    game.step(moved, np.where(rows % 2, game.legal(states).argmax(1), -1))
    assert (moved.ply == states.ply + rows % 2).all()
    assert fields(take(moved, rows % 2 == 0)) == fields(take(states, rows % 2 == 0))


def test_replay_is_step_repeated(game: Any, play_random: Any) -> None:
    stepped, actions = play_random(game, batch_of(game), 4)
    padded = np.full((len(actions), 2 * actions.shape[1]), -1)
    padded[:, ::2] = actions
    for given_actions in (actions, padded):
        replayed = game.new(len(actions))
        game.replay(replayed, given_actions)
        assert fields(replayed) == fields(stepped)


def test_take_copies_and_put_overwrites(game: Any, play_random: Any) -> None:
    states = middle(game, play_random)
    before, rows = fields(states), np.array([4, 1])
    some = take(states, rows)
    assert some.ply.tolist() == states.ply[rows].tolist()
    game.step(some, np.where(game.legal(some).any(1), game.legal(some).argmax(1), -1))
    assert fields(states) == before, "a copy moves on by itself"
    put(states, rows, some)
    assert fields(take(states, rows)) == fields(some)
    others = np.setdiff1d(np.arange(len(states.ply)), rows)
    assert fields(take(states, others)) == fields(take(middle(game, play_random), others))


def test_symmetries_are_permutations_with_the_identity_first(game: Any) -> None:
    cells, actions = game.symmetries()
    height, width = game.board_shape
    assert cells.dtype == actions.dtype == np.int64
    assert len(cells) == len(actions)
    for table, size in ((cells, height * width), (actions, game.num_actions)):
        assert (table[0] == np.arange(size)).all()
        assert (np.sort(table, axis=1) == np.arange(size)).all()
    assert len(np.unique(np.concatenate([cells, actions], axis=1), axis=0)) == len(cells)


def test_transformed_play_gives_the_transformed_game(game: Any, play_random: Any) -> None:
    plain, actions = play_random(game, batch_of(game), 5, plies=min(30, game.max_moves))
    channels, height, width = game.obs_shape
    for cells, table in zip(*game.symmetries(), strict=True):
        inverse = np.append(np.argsort(table), -1)  # the last entry keeps -1 what it is
        turned = game.new(len(actions))
        game.replay(turned, inverse[actions])
        seen = game.observe(plain).reshape(-1, channels, height * width)[:, :, cells]
        assert (game.observe(turned).reshape(seen.shape) == seen).all()
        assert (game.legal(turned) == game.legal(plain)[:, table]).all()
        for expected, found in zip(game.result(plain), game.result(turned), strict=True):
            assert (expected == found).all()


def test_observations_have_the_promised_shape(game: Any, play_random: Any) -> None:
    states = middle(game, play_random)
    seen = game.observe(states)
    assert seen.shape == (len(states.ply), *game.obs_shape)
    assert game.obs_shape[1:] == game.board_shape
    assert seen.dtype == (np.uint8 if game.obs_binary else np.float32)
    assert np.isfinite(seen).all()
    assert not game.obs_binary or seen.max() == 1


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


def test_rollouts_leave_the_states_alone(game: Any, play_random: Any) -> None:
    states = middle(game, play_random)
    before = fields(states)
    done, value = game.result(states)
    rng = np.arange(len(done), dtype=np.uint64)
    ends = game.rollout(states, rng)
    assert ends.shape == done.shape and ends.dtype == np.float32
    assert (np.abs(ends) <= 1).all()
    assert (ends[done] == value[done]).all() and done.any()
    assert fields(states) == before
    assert (rng != np.arange(len(done)))[~done].all(), "the generators moved on"


def test_a_rollout_depends_on_its_own_row_alone(game: Any, play_random: Any) -> None:
    states = middle(game, play_random)
    seeds = np.random.default_rng(0).integers(2**64, size=len(states.ply), dtype=np.uint64)
    together = seeds.copy()
    ends = game.rollout(states, together)
    for row in (0, 1, len(seeds) - 1):
        alone = seeds[row : row + 1].copy()
        assert game.rollout(take(states, [row]), alone)[0] == ends[row]
        assert alone[0] == together[row]
    backward = seeds[::-1].copy()
    order = np.arange(len(seeds))[::-1]
    assert (game.rollout(take(states, order), backward) == ends[::-1]).all()
    assert (backward == together[::-1]).all()


def test_rollouts_from_one_position_differ(game: Any) -> None:
    ends = game.rollout(game.new(60), np.arange(60, dtype=np.uint64))
    assert len(np.unique(ends)) > 1


def test_opening_moves_are_legal(game: Any, play_random: Any) -> None:
    assert game.opening_moves(game.new(1)).any()
    states, _ = play_random(game, batch_of(game), 8, plies=3)
    moves = game.opening_moves(states)
    assert moves.dtype == np.bool_ and moves.any(1).all()
    assert not (moves & ~game.legal(states)).any()
    assert game.pass_action < 0 or not moves[:, game.pass_action].any()


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


def test_render_draws_the_row_asked_for(game: Any, play_random: Any) -> None:
    states, _ = play_random(game, 2, 10, plies=3)
    fresh = game.new(1)
    put(states, np.array([0]), fresh)
    assert game.render(states, 0) == game.render(fresh, 0)
    assert game.render(states, 0) != game.render(states, 1)


def test_ownership_and_score(game: Any, play_random: Any) -> None:
    states = middle(game, play_random)
    if not game.has_ownership:
        for function in (game.ownership, game.score):
            with pytest.raises(GameError, match=game.name.split("(")[0]):
                function(states)
        return
    owner, score = game.ownership(states), game.score(states)
    assert owner.dtype == np.int8 and score.dtype == np.float32
    assert owner.shape == (len(states.ply), np.prod(game.board_shape))
    assert len(np.unique(score - owner.sum(1))) == 1, "points owned, and the same komi everywhere"
    done, value = game.result(states)
    assert (np.sign(score)[done] == value[done]).all()


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
    for unsuitable in ("kuhn_poker", "backgammon", "goofspiel", "phantom_ttt"):
        assert unsuitable not in text


def test_naming_games_is_cheap() -> None:
    """Importing the games loads neither a compiler nor OpenSpiel nor torch."""
    code = "import sys, selfplay.games; print(*{'numba', 'pyspiel', 'torch'} & set(sys.modules))"
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
