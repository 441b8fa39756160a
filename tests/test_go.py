"""Go against counted positions, OpenSpiel, a slow reference and boards drawn by hand.

OpenSpiel's Go differs in one rule. It forbids only the recapture of a simple ko; a move that
repeats an older board is legal there and ends the game at once as a draw, where ours is illegal
(positional superko). Its cap, 2 * N * N moves and then scored as it lies, is ours, and so are
area scoring, no suicide and two passes. So its legal moves must be ours plus moves that end the
game as a draw at once, and as we never play those, ends and returns must agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from go_boards import (
    FIVE,
    NINE,
    Reference,
    can,
    drawn,
    go_on,
    moves,
    played,
    random_games,
    same,
    small,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.games.base import GameError, put, side, take
from selfplay.games.go import Go

# counted positions (exhaustive counts by an independent program, partly by two)


def perft(game: Go, states: Any, depth: int) -> int:
    legal = game.legal(states)
    if depth == 1:
        return int(legal.sum())
    rows, actions = np.nonzero(legal)
    total = 0
    for part in range(0, len(rows), 50_000):
        children = take(states, rows[part : part + 50_000])
        game.step(children, actions[part : part + 50_000])
        total += perft(game, children, depth - 1)
    return total


@pytest.mark.parametrize(("size", "suicide", "counts"), [
    (2, False, [5, 21, 68, 156, 316, 604, 1088, 2184]),
    (2, True, [5, 21, 68, 156, 316, 604, 1088, 2184]),
    (3, False, [10, 91, 738, 5281, 33384, 179712, 842696]),
    (3, True, [10, 91, 738, 5281, 33384, 180768, 857576]),
    (4, True, [17, 273, 4112, 57984, 764016, 9326320]),
    (5, False, [26, 651, 15650, 361041]),
    (9, False, [82, 6643, 531522]),
])
def test_perft(size: int, suicide: bool, counts: list[int]) -> None:
    game = small(size, suicide)
    assert [perft(game, game.new(1), d + 1) for d in range(len(counts))] == counts


# OpenSpiel


def compare_with_openspiel(size: int, games: int, seed: int) -> int:
    """Play random games in step; returns how many legal moves superko took away.

    In odd games passes are rare, so that boards fill, empty and fill again.
    """
    pyspiel = pytest.importorskip("pyspiel")
    theirs = [pyspiel.load_game(f"go(board_size={size},komi=7.0)").new_initial_state()]
    theirs += [theirs[0].clone() for _ in range(games - 1)]
    game, rng, superko = Go(size), np.random.default_rng(seed), 0
    states = game.new(games)
    while True:
        ours = game.legal(states)
        done, value = game.result(states)
        expected = np.zeros_like(ours)
        for i, state in enumerate(theirs):
            expected[i, state.legal_actions()] = True
            assert state.is_terminal() == done[i]
        for i, action in np.argwhere(ours != expected):
            child = theirs[i].child(action)
            assert expected[i, action] and child.is_terminal() and child.returns() == [0, 0]
            superko += 1
        if done.all():
            assert [state.returns()[0] for state in theirs] == value.tolist()
            return superko
        wishes = ours * rng.random(ours.shape)
        wishes[1::2, -1] /= 100
        actions = np.where(done, -1, np.argmax(wishes, axis=1))
        game.step(states, actions)
        for state, action in zip(theirs, actions.tolist(), strict=True):
            if action >= 0:
                state.apply_action(action)


@pytest.mark.parametrize("seed", range(4))
def test_5x5_games_agree_with_openspiel(seed: int) -> None:
    assert compare_with_openspiel(5, 2500, seed) > 0


@pytest.mark.parametrize(("size", "games"), [(7, 500), (9, 400), (13, 10), (19, 4)])
def test_larger_games_agree_with_openspiel(size: int, games: int) -> None:
    compare_with_openspiel(size, games, size)


# superko by hand


def test_simple_ko() -> None:
    states = drawn(FIVE, """
        . . . . .
        . . . . .
        . X O . .
        X . X O .
        . X O . .
    """, white=True)
    go_on(FIVE, states, "B2")
    assert not can(FIVE, states, "C2")
    assert FIVE.observe(states)[0, 13].ravel().nonzero()[0].tolist() == moves(FIVE, "C2")
    go_on(FIVE, states, "E5 A5 C2")
    assert not can(FIVE, states, "B2")


def test_send_two_return_one() -> None:
    """The third move would give the first board again, with the other side to move."""
    states = drawn(FIVE, """
        . . . . .
        . . . . .
        . . . . .
        X X O . .
        . O . O .
    """, white=True)
    go_on(FIVE, states, "A1 C1")
    assert not can(FIVE, states, "B1") and can(FIVE, states, "A1") and can(FIVE, states, "pass")
    assert FIVE.observe(states)[0, 13].ravel().nonzero()[0].tolist() == moves(FIVE, "B1")
    go_on(FIVE, states, "E5 E4 B1")


def test_triple_ko() -> None:
    """Three kos taken in turn: the sixth capture would give the first board again."""
    states = drawn(NINE, """
        X . X O . . . . .
        . X O . . . . . .
        . . . . . . . . .
        . . . . . . . . .
        . . . . . . . . .
        . . . . . . . . .
        . . . . . . . . .
        . X O . . . X O .
        X . X O . X O . O
    """, white=True)
    go_on(NINE, states, "B1 H1 B9 C1 G1")
    assert not can(NINE, states, "C9") and can(NINE, states, "E5")
    go_on(NINE, states, "E5 E6 C9")


def test_passes_may_repeat_the_board() -> None:
    states = played(FIVE, "C3 pass")
    assert can(FIVE, states, "pass")


# suicide


SURROUNDED = """
    . . . . .
    . . . . .
    X X . . .
    O O X . .
    . O X . .
"""


def test_suicide_is_a_rule_of_choice() -> None:
    assert not can(FIVE, drawn(FIVE, SURROUNDED, white=True), "A1")
    game = Go(5, suicide=True)
    states = drawn(game, SURROUNDED, white=True)
    go_on(game, states, "A1")
    assert game.ownership(states)[0, moves(game, "A1 B1 A2 B2")].tolist() == [1, 1, 1, 1]
    assert game.observe(states)[0, :2].sum(axis=(1, 2)).tolist() == [4, 0]  # Black to move


def test_suicide_of_one_stone_repeats_the_board() -> None:
    game = Go(5, suicide=True)
    states = played(game, "A2 C3 B1")
    assert not can(game, states, "A1") and not states.lost.any()
    assert game.observe(states)[0, 13].ravel().nonzero()[0].tolist() == moves(game, "A1")


def test_suicide_before_any_capture_may_repeat_an_older_board() -> None:
    game = Go(5, suicide=True)
    assert can(game, played(game, "A3 A1 B2 A2 C1 C5 pass D5 pass"), "B1")
    # here the white stones in the corner came last: without them, the board of move 5
    assert not can(game, played(game, "A3 C5 B2 D5 C1 A1 pass A2 pass"), "B1")


# a slow reference that shares nothing with the kernels


def check_against(game: Go, states: Any, reference: Reference, actions: list[int]) -> None:
    board = np.array(reference.board)
    legal, repeats = reference.verdicts()
    assert game.legal(states)[0].nonzero()[0].tolist() == [*legal, game.pass_action]
    planes = game.observe(states)[0].reshape(game.obs_shape[0], -1)
    assert planes[13].nonzero()[0].tolist() == repeats
    assert np.flatnonzero(game.points == states.ko[0]).tolist() == reference.ko()
    for k, colour in enumerate((reference.mover, 3 - reference.mover)):
        assert np.array_equal(planes[k], board == colour)
        few = [min(reference.liberties(reference.board, c), 3) if board[c] == colour else 0
               for c in range(len(board))]
        for liberties in (1, 2, 3):
            assert np.array_equal(planes[2 + 3 * k + liberties], np.array(few) == liberties)
    for back in range(4):
        where = [a for a in actions[len(actions) - 1 - back :][:1] if a != game.pass_action]
        assert planes[9 + back].nonzero()[0].tolist() == (where if back < len(actions) else [])
    assert planes[2].all() and (planes[14] == (reference.mover == 2)).all()
    assert (planes[15] == (actions[-1:] == [game.pass_action])).all()
    stones = board.nonzero()[0]
    key = np.bitwise_xor.reduce(
        game.zobrist[board[stones] - 1, game.points[stones]], initial=np.uint64(0)
    )
    assert states.history[0, states.ply[0]] == key
    owners = reference.owners()
    assert game.ownership(states)[0].tolist() == owners
    assert game.score(states)[0] == sum(owners) - game.komi


GAMES = {(n, s): small(n, s) for n in (2, 3, 4, 5) for s in (False, True)}


@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from([2, 3, 3, 4, 5]),
    suicide=st.booleans(),
    seed=st.integers(0, 2**32),
    pass_rate=st.sampled_from([0.0, 0.1]),
    plies=st.integers(5, 50),
)
def test_agrees_with_the_reference(
    size: int, suicide: bool, seed: int, pass_rate: float, plies: int
) -> None:
    game, reference = GAMES[size, suicide], Reference(size, suicide)
    states, rng, actions = game.new(1), np.random.default_rng(seed), []
    for _ in range(plies):
        check_against(game, states, reference, actions)
        choices = game.legal(states)[0].nonzero()[0][:-1].tolist()
        action = game.pass_action
        if choices and rng.random() > pass_rate:
            action = choices[rng.integers(len(choices))]
        actions.append(action)
        game.step(states, np.array([action]))
        if game.result(states)[0][0]:
            break
        reference.play(action)


def test_large_boards_agree_with_the_reference() -> None:
    """Long chains and the packed sums of far points."""
    game, reference = Go(19), Reference(19, False)
    states, rng, actions = game.new(1), np.random.default_rng(3), []
    for ply in range(420):
        if ply % 60 == 59:
            check_against(game, states, reference, actions)
        choices = game.legal(states)[0].nonzero()[0][:-1]
        actions.append(int(choices[rng.integers(len(choices))]))
        game.step(states, np.array(actions[-1:]))
        reference.play(actions[-1])


# ends and scores


def test_two_passes_end_the_game_and_it_absorbs() -> None:
    states = played(FIVE, "C3 pass")
    assert not FIVE.result(states)[0][0]
    go_on(FIVE, states, "pass")
    before = take(states, [0])
    assert FIVE.result(states)[0][0] and FIVE.result(states)[1][0] == 1  # 25 - 7
    assert not FIVE.legal(states).any() and not FIVE.opening_moves(states).any()
    FIVE.step(states, np.array([3]))
    assert all(np.array_equal(a, b) for a, b in zip(states, before, strict=True))


@pytest.mark.parametrize(("komi", "value"), [(24.5, 1), (25, 0), (25.0, 0), (-25, 1)])
def test_komi_and_draws(komi: float, value: int) -> None:
    game = Go(5, komi=komi)
    states = played(game, "C3 pass pass")
    assert (game.result(states)[1][0], game.score(states)[0]) == (value, 25 - komi)


def test_white_wins_the_empty_board_by_komi() -> None:
    states = played(NINE, "pass pass")
    assert NINE.result(states)[1][0] == -1 and NINE.score(states)[0] == -7
    assert not NINE.ownership(states).any()


def test_area_leaves_shared_regions_to_nobody() -> None:
    states = drawn(FIVE, """
        . X . O .
        X X . O O
        . . . O .
        X X . O O
        . X . . .
    """)
    assert FIVE.ownership(states).reshape(5, 5)[::-1].tolist() == [
        [1, 1, 0, -1, -1],
        [1, 1, 0, -1, -1],
        [0, 0, 0, -1, -1],
        [1, 1, 0, -1, -1],
        [1, 1, 0, 0, 0],
    ]
    assert FIVE.score(states)[0] == 8 - 8 - 7


def test_a_game_is_over_at_the_cap() -> None:
    rng, states = np.random.default_rng(1), FIVE.new(64)
    for ply in range(50):
        legal = FIVE.legal(states)
        assert legal.any(axis=1).all() and (states.ply == ply).all()
        legal[:, -1] &= ~legal[:, :-1].any(axis=1)
        actions = np.argmax(legal * rng.random(legal.shape), axis=1)
        keep = FIVE.result(states)[0] | (actions == FIVE.pass_action)
        if keep.any():  # start those over that ran out of stones
            rows = np.flatnonzero(~keep)
            states, actions = take(states, rows), actions[rows]
        FIVE.step(states, actions)
    done, value = FIVE.result(states)
    assert len(done) and done.all() and np.array_equal(value, np.sign(FIVE.score(states)))


# the batch


def test_replay_is_step_by_step_with_holes() -> None:
    states, record = random_games(NINE, 20, 80, seed=5)
    rng = np.random.default_rng(0)
    holes = np.full((20, 100), -1)
    for i in range(20):
        holes[i, np.sort(rng.choice(100, 80, replace=False))] = record[i]
    again = NINE.new(20)
    NINE.replay(again, holes)
    assert same(states, again)


def test_rows_can_be_copied_out_and_back() -> None:
    states, _ = random_games(NINE, 12, 60, seed=6)
    other = NINE.new(12)
    rows = np.array([7, 2])
    put(other, rows, take(states, rows))
    assert same(take(other, rows), take(states, rows))
    assert np.array_equal(NINE.legal(take(states, rows)), NINE.legal(states)[rows])
    NINE.step(other, np.full(12, NINE.pass_action))
    assert np.array_equal(other.stones[rows], states.stones[rows])
    assert (side(other)[[0, 1]] == -1).all()


def test_new_games_share_no_memory() -> None:
    states = NINE.new(2)
    NINE.step(states, np.array([40, -1]))
    assert same(take(states, [1]), NINE.new(1)) and same(NINE.new(1), NINE.new(1))


@pytest.mark.parametrize("index", range(8))
def test_symmetries_are_games(index: int) -> None:
    """A turned game has the turned observation, legal moves and ownership."""
    _, record = random_games(NINE, 8, 70, seed=7)
    cells, actions = (table[index] for table in NINE.symmetries())
    inverse = np.argsort(actions)
    plain, turned = NINE.new(8), NINE.new(8)
    NINE.replay(plain, record)
    NINE.replay(turned, np.where(record < 0, -1, inverse[record]))
    assert np.array_equal(
        NINE.observe(turned).reshape(8, -1, 81), NINE.observe(plain).reshape(8, -1, 81)[:, :, cells]
    )
    assert np.array_equal(NINE.legal(turned), NINE.legal(plain)[:, actions])
    assert np.array_equal(NINE.ownership(turned), NINE.ownership(plain)[:, cells])


def test_symmetries_are_eight_and_start_with_none() -> None:
    tables = NINE.symmetries()
    assert len(np.unique(tables.cells, axis=0)) == 8
    assert np.array_equal(tables.cells[0], np.arange(81))
    assert np.array_equal(tables.actions[0], np.arange(82))


# openings, text, parameters


def test_opening_moves_stay_off_the_first_line() -> None:
    inner = [r * 9 + c for r in range(1, 8) for c in range(1, 8)]
    assert NINE.opening_moves(NINE.new(1))[0].nonzero()[0].tolist() == inner
    inner.remove(40)
    assert NINE.opening_moves(played(NINE, "E5"))[0].nonzero()[0].tolist() == inner
    assert FIVE.opening_moves(FIVE.new(1))[0].tolist() == [True] * 25 + [False]


@pytest.mark.parametrize("size", [5, 9, 19])
def test_every_action_survives_text(size: int) -> None:
    game = Go(size)
    texts = [game.action_to_text(None, 0, a) for a in range(game.num_actions)]
    assert len(set(texts)) == game.num_actions and not any("I" in t for t in texts)
    for change in (str.lower, str.upper, " {} ".format):
        assert [game.text_to_action(None, 0, change(t)) for t in texts] == list(range(len(texts)))


def test_vertices_count_from_the_bottom_left() -> None:
    assert moves(NINE, "A1 J1 A2 D4 J9 pass") == [0, 8, 9, 30, 80, 81]


VALID = {NINE.action_to_text(None, 0, a).upper() for a in range(82)}


@given(st.text(max_size=4))
def test_other_text_is_an_error(text: str) -> None:
    word = text.strip().upper()
    if word in VALID:
        assert 0 <= NINE.text_to_action(None, 0, text) < 82
    elif word.replace("0", "") not in VALID:
        with pytest.raises(GameError, match="play A1 to J9 or pass"):
            NINE.text_to_action(None, 0, text)


@pytest.mark.parametrize("text", ["I5", "A10", "K1", "A0", "5A", "", "A1B", "resign", "A²"])
def test_vertices_off_the_board(text: str) -> None:
    with pytest.raises(GameError):
        NINE.text_to_action(None, 0, text)


def test_render() -> None:
    text = FIVE.render(played(FIVE, "A1 C3"), 0)
    assert text.splitlines()[0].split() == list("ABCDE")
    assert text.splitlines()[3].split() == ["3", ".", ".", "(O)", ".", ".", "3"]
    assert "move 2, black to move" in text
    assert "after a pass" in FIVE.render(played(FIVE, "pass"), 0)
    assert "over" in FIVE.render(played(FIVE, "pass pass"), 0)


@pytest.mark.parametrize(("options", "name"), [
    ({}, "go9x9"),
    ({"komi": 7}, "go9x9"),
    ({"board_size": 5, "komi": 5.5}, "go5x5(komi=5.5)"),
    ({"suicide": True}, "go9x9(suicide=True)"),
    ({"board_size": 19, "komi": -3, "suicide": True}, "go19x19(komi=-3,suicide=True)"),
])
def test_names(options: dict[str, Any], name: str) -> None:
    assert Go(**options).name == name


def test_rules_and_shapes() -> None:
    assert NINE.rules == (
        "Tromp-Taylor area scoring, positional superko, suicide forbidden, komi 7"
    )
    assert "suicide allowed, komi 6.5" in Go(9, 6.5, True).rules
    assert NINE.observe(NINE.new(3)).shape == (3, *NINE.obs_shape)
    assert sum(field[0].nbytes for field in NINE.new(1)) < 3500


@pytest.mark.parametrize("options", [
    {"board_size": 4}, {"board_size": 20}, {"board_size": 9.0}, {"board_size": True},
    {"komi": 7.3}, {"komi": float("nan")}, {"komi": float("inf")}, {"komi": "7"}, {"komi": 82},
    {"suicide": 1},
])
def test_bad_parameters(options: dict[str, Any]) -> None:
    with pytest.raises(GameError, match=next(iter(options))):
        Go(**options)
