"""Exact solvers and the judging of moves by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyspiel
import pytest
from command import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.arena.judge import by_ply, drawn_positions, judge, read_positions, solved
from selfplay.arena.players import SlotPlayer, parse_player
from selfplay.common.errors import UserError
from selfplay.games import GameError, make
from selfplay.games.base import take
from selfplay.games.solve import ILLEGAL, KEEPS_VALUE, LOSES_VALUE, PERFECT, solver
from selfplay.games.solve.connect4 import Connect4Solver
from selfplay.games.solve.connect4_search import (
    CELLS,
    UNKNOWN,
    _claimeven,
    _completing,
    _zugzwang,
)

CONNECT4, TICTACTOE = make("connect4"), make("tictactoe")
POSITIONS = Path(__file__).parents[2] / "shared/connect4"


def played(game: Any, games: list[str]) -> Any:
    """The positions after moves written as digits from 1."""
    table = np.full((len(games), max(map(len, games))), -1)
    for row, moves in enumerate(games):
        table[row, : len(moves)] = [int(move) - 1 for move in moves]
    states = game.new(len(games))
    game.replay(states, table)
    return states


def slow_score(state: Any) -> int:
    """Plain negamax on OpenSpiel's own state: a win counts the winner's stones left, plus one."""
    board = str(state)
    if board not in SCORES:
        SCORES[board] = _slow_score(state)
    return SCORES[board]


SCORES: dict[str, int] = {}


def _slow_score(state: Any) -> int:
    player, best = state.current_player(), -CELLS
    for action in state.legal_actions():
        after = state.child(action)
        if after.is_terminal():
            won = after.returns()[player] > 0
            score = (CELLS + 2 - after.move_number()) // 2 if won else 0
        else:
            score = -slow_score(after)
        best = max(best, score)
    return best


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 6), min_size=60, max_size=90), st.integers(5, 9))
def test_late_positions_against_plain_search_over_openspiel(draws: list[int], left: int) -> None:
    state = pyspiel.load_game("connect_four").new_initial_state()
    moves: list[int] = []
    for draw in draws:
        legal = [a for a in state.legal_actions() if not state.child(a).is_terminal()]
        if not legal or state.move_number() >= CELLS - left:
            break
        action = legal[draw % len(legal)]
        state.apply_action(action)
        moves.append(action)
    if CELLS - len(moves) > left:
        return  # every move would end the game
    states = CONNECT4.new(1)
    CONNECT4.replay(states, np.array([moves]))
    solved = Connect4Solver(bits=12)
    assert solved.scores(states)[0] == slow_score(state)
    worth = solved.moves(states)[0]
    for action in range(7):
        if action not in state.legal_actions():
            assert worth[action] == UNKNOWN
            continue
        after = state.child(action)
        if not after.is_terminal():
            assert worth[action] == -slow_score(after)


@pytest.mark.skipif(not POSITIONS.is_dir(), reason="the benchmark's positions are not here")
@pytest.mark.parametrize(("name", "count"), [
    ("Test_L3_R1", 1000), ("Test_L2_R1", 1000), ("Test_L2_R2", 300), ("Test_L1_R1", 300)])
def test_scores_of_the_public_benchmark(name: str, count: int) -> None:
    rows = [line.split() for line in (POSITIONS / name).read_text().splitlines()[:count]]
    states = played(CONNECT4, [moves for moves, _ in rows])
    known = np.array([int(score) for _, score in rows])
    assert (Connect4Solver().scores(states) == known).all()
    assert (Connect4Solver(bits=16).values(states) == np.sign(known)).all()


@pytest.mark.skipif(not POSITIONS.is_dir(), reason="the benchmark's positions are not here")
@pytest.mark.parametrize("first", [True, False])
def test_what_answering_above_proves_is_so(first: bool) -> None:
    """The bounds that the search takes without looking, beside known scores."""
    proves, said = (_claimeven if first else _zugzwang), set()
    for name in ("Test_L3_R1", "Test_L2_R1", "Test_L2_R2", "Test_L1_R1", "Test_L1_R2"):
        for line in (POSITIONS / name).read_text().splitlines():
            moves, score = line.split()
            if len(moves) % 2 == first:
                continue
            boards = played(CONNECT4, [moves]).boards[0]
            taken = boards[0] | boards[1]
            threats = _completing(boards[int(first)], taken)
            for bound in range(-4, 3):
                high = proves(boards[1 - first], taken, threats, bound)
                assert high >= int(score), (moves, bound)
                said.add(high)
    assert said == ({-3, -2, -1, 0, CELLS} if first else {-2, -1, CELLS})


def test_grades_are_what_the_scores_say() -> None:
    known = drawn_positions(CONNECT4, 60, (22, 34), seed=3)
    worth = Connect4Solver().moves(known.states).astype(int)
    best = worth.max(1, keepdims=True)
    kept = np.sign(worth) == np.sign(best)
    expected = np.where(worth == UNKNOWN, ILLEGAL, np.where(
        worth == best, PERFECT, np.where(kept, KEEPS_VALUE, LOSES_VALUE)))
    assert (known.grades == expected).all()
    assert set(known.grades.ravel()) == {ILLEGAL, LOSES_VALUE, KEEPS_VALUE, PERFECT}


def test_known_positions_do_not_depend_on_what_was_asked_before() -> None:
    known = drawn_positions(CONNECT4, 30, (24, 34), seed=1)
    rows = np.arange(30)[::-1]
    again = Connect4Solver(bits=6).grades(take(known.states, rows))
    assert (again == known.grades[rows]).all()


def test_all_of_tictactoe() -> None:
    """A draw from the start, whatever the first move; a corner is answered in the middle only."""
    whole = solver(TICTACTOE)
    assert len(whole.scores) == 5478  # known number of positions
    assert (whole.moves(TICTACTOE.new(1)) == 0).all()
    assert np.flatnonzero(whole.grades(played(TICTACTOE, ["1"]))[0] >= KEEPS_VALUE).tolist() == [4]
    worth = whole.moves(played(TICTACTOE, ["1425"]))[0]  # X a1 b1, O a2 b2: X wins by c1
    assert worth[2] == worth.max() > 0 and (worth[[6, 7, 8]] < 0).all()


class Leftmost(SlotPlayer):
    """The first legal column."""

    name = "leftmost"

    def act(self, states: Any, slots: Any) -> Any:
        return CONNECT4.legal(states).argmax(1)


def test_judging_counts_what_was_played() -> None:
    known = drawn_positions(CONNECT4, 80, (20, 34), seed=0)
    found = judge(CONNECT4, Leftmost(), known)
    made = CONNECT4.legal(known.states).argmax(1)
    assert (found.action == made).all()
    assert (found.kept == (known.grades[np.arange(80), made] >= KEEPS_VALUE)).all()
    assert (found.perfect <= found.kept).all() and (found.took <= found.wins).all()
    assert 0 < found.wins.sum() <= 40  # half are quiet
    assert sum(among.sum() for *_, among in by_ply(known)) == 80
    best = parse_player("mcts:300", CONNECT4, slots=256)
    assert judge(CONNECT4, best, known).kept.mean() > found.kept.mean() + 0.1


def test_positions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "positions.txt"
    file.write_text("a1 a2 b1 b2\nb2 a1\ta note\n\n")
    known = solved(TICTACTOE, read_positions(TICTACTOE, file))
    assert known.ply.tolist() == [4, 2]
    file.write_text("5554224333234511764415115 4\n")  # a late one is solved soon
    assert solved(CONNECT4, read_positions(CONNECT4, file)).ply.tolist() == [25]


@pytest.mark.parametrize(("text", "words"), [
    ("", "no position"), ("44x\n", "line 1"), ("4\n4444444\n", "line 2: move 4 is not legal"),
    ("4\n1213141\n", "line 2: the game is over")])
def test_bad_positions_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "positions.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_positions(CONNECT4, file)


def test_games_without_a_solver_and_too_many_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GameError, match="no exact solver; there are some for connect4, tictactoe"):
        solver(make("go5x5"))
    monkeypatch.setattr("selfplay.arena.judge.TRIES", 2)
    with pytest.raises(UserError, match="ask for fewer"):
        drawn_positions(TICTACTOE, 500, (0, 1), seed=0)


def test_the_command(run: Command, tmp_path: Path) -> None:
    picture = tmp_path / "judge.png"
    said = run("judge", "mcts:50", "random", "--game", "tictactoe", "--count", "60",
               "--out", str(picture))
    assert said.code == 0, said.err
    kept, perfect = ([line.split() for line in said.out.split(f"{word} moves (%) by ply:\n")[1]
                      .splitlines()[:3]] for word in ("value-preserving", "perfect"))
    assert kept[0] == perfect[0] and kept[0][0] == "all" and len(kept[0]) > 2
    assert [row[0] for row in perfect] == ["all", "mcts:50", "random"]
    for one, other in zip(kept[1:], perfect[1:], strict=True):
        assert all(float(a) >= float(b) for a, b in zip(one[1:], other[1:], strict=True))
        assert f"perfect {other[1]}%" in said.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = run("judge", "random", "--game", "go9x9")
    assert said.code == 1 and "no exact solver" in said.err and "solving" not in said.out


def test_what_cannot_be_judged_is_said_at_once(run: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("4453\n44x\n")
    four = ("--game", "connect4")
    for words, said in (
            (("random", "random", *four), "random is there twice"),
            (("human", *four), "human: a program is judged"),
            (("random", *four, "--positions", "bad.txt", "--count", "9"), "leave out --count"),
            (("random", *four, "--positions", "bad.txt", "--plies", "1-9"), "and --plies"),
            (("othello8x8",), "such as net:othello8x8"),
            (("random", *four, "--plies", "40-60"), "--plies 40-60: a game of connect4 has at most "
                                                    "42 moves; a range within 0-41"),
            (("mct:5", *four, "--positions", "bad.txt"), "bad.txt, line 2")):  # before players
        told = run("judge", *words)
        told.mistake(said)
        assert not told.out  # nothing has been solved


def test_the_game_is_that_of_a_player_s_net(run: Command) -> None:
    said = run("judge", "net:tictactoe", "random", "--count", "20")
    assert said.code == 0 and "tictactoe: 20 positions" in said.out, said.err
    said = run("match", "random", "net:tictactoe", "--games", "2", "--out", "m")
    assert said.code == 0 and "rules: tictactoe" in said.out, said.err
    run("match", "net:tictactoe", "net:connect4@8", "random").mistake(
        "net:tictactoe plays tictactoe, net:connect4@8 plays connect4: different games; name")
    run("match", "random", "mcts:2").mistake("--game NAME: which game do these players play?")


def test_long_names_fit_into_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from selfplay.report import judged

    drawn: list[Figure] = []

    def kept(width: float, height: float, paint: Any) -> bytes:
        drawn.append(Figure(figsize=(width, height)))
        paint(drawn[0])
        return b""

    monkeypatch.setattr(judged, "png", kept)
    names = [f"net:runs/{'long-' * size}name/rl/ckpt-00{size:04d}@64" for size in (1, 4, 10, 40)]
    judged.draw_judged("title", [judged.KeptCurve(name, [(1, 4, 3, 9), (5, 8, 8, 9)])
                                 for name in names])
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == names[:3]
    assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and whole.y0 <= b.y0 for b in boxes)
    labels = figure.axes[0].xaxis.label.get_window_extent()
    assert max(b.y1 for b in boxes) < labels.y0


def test_what_is_neither_a_run_nor_a_player_is_said_to_be(run: Command, tmp_path: Path) -> None:
    run("judge", "runs/none").mistake("runs/none: no run there", "runs/connect4", "mcts:100")
    (tmp_path / "empty").mkdir()
    run("judge", "empty").mistake("empty: holds no run")
    run("judge", "mcts:10").mistake("--game NAME")
    said = run("judge", "random", "runs/none", "--game", "tictactoe")  # before anything is solved
    assert said.code == 1 and "solving" not in said.err + said.out
    said = run("judge", "random", "mct:5", "--game", "tictactoe")
    assert said.code == 1 and "unknown player" in said.err and "solving" not in said.err + said.out


# --------------------------------------------------------------------------- Othello

def slow_lead(game: Any, states: Any) -> int:
    """Plain negamax by the game's own steps: the lead in discs of the side to move."""
    legal = np.flatnonzero(game.legal(states)[0])
    if not len(legal):
        own = int(np.bitwise_count(states.boards[0, states.to_play[0]]))
        return own - int(np.bitwise_count(states.boards[0, 1 - states.to_play[0]]))
    best = -99
    for action in legal:
        after = take(states, [0])
        game.step(after, np.array([action]))
        lead = slow_lead(game, after)
        best = max(best, lead if after.to_play[0] == states.to_play[0] else -lead)
    return best


@pytest.mark.parametrize(("name", "low"), [("othello6x6", 26), ("othello8x8", 55)])
def test_othello_s_ends_against_plain_search(name: str, low: int) -> None:
    game = make(name)
    known = drawn_positions(game, 20, (low, low + 2), seed=2)
    worth = solver(game)
    for row in range(20):
        states = take(known.states, [row])
        best = slow_lead(game, states)
        assert worth.scores(states)[0] == best
        for action in range(game.num_actions):
            grade = known.grades[row, action]
            if not game.legal(states)[0, action]:
                assert grade == ILLEGAL
                continue
            after = take(states, [0])
            game.step(after, np.array([action]))
            lead = -slow_lead(game, after) if after.to_play[0] != states.to_play[0] else (
                slow_lead(game, after))
            assert grade == (PERFECT if lead == best else
                             KEEPS_VALUE if np.sign(lead) == np.sign(best) else LOSES_VALUE)
    assert (known.grades == LOSES_VALUE).any() and (known.grades == KEEPS_VALUE).any()


def test_othello_against_openspiel_s_results() -> None:
    def value(state: Any) -> float:
        if state.is_terminal():
            return state.returns()[0]
        values = [value(state.child(action)) for action in state.legal_actions()]
        return max(values) if state.current_player() == 0 else min(values)

    game, rng = make("othello8x8"), np.random.default_rng(0)
    signs = []
    for _ in range(12):
        state, moves = pyspiel.load_game("othello").new_initial_state(), []
        while len(moves) < 55 and not state.is_terminal():
            moves.append(int(rng.choice(state.legal_actions())))
            state.apply_action(moves[-1])
        if not state.is_terminal():
            states = game.new(1)
            game.replay(states, np.array([moves]))
            lead = int(solver(game).scores(states)[0]) * (1 - 2 * int(states.to_play[0]))
            signs.append(np.sign(lead))
            assert signs[-1] == value(state)
    assert {-1, 1} <= set(signs)


def test_othello_with_too_many_empty_cells_is_refused(run: Command) -> None:
    game = make("othello6x6")
    with pytest.raises(GameError, match="at most 16 empty cells"):
        solver(game).grades(game.new(1))
    said = run("judge", "random", "--game", "othello6x6", "--plies", "6-8", "--count", "4")
    assert said.code == 1 and "--plies" in said.err
    said = run("judge", "random", "--game", "othello6x6", "--count", "30")
    assert said.code == 0 and "18-20" in said.out


@pytest.mark.parametrize("budget", ["-4", "", "0x2"])
def test_a_budget_that_is_none_is_no_misspelt_net(run: Command, budget: str) -> None:
    run("match", f"net:tictactoe@{budget}", "random", "--game", "tictactoe").mistake(
        f"@{budget} is no budget", "@64")


def test_a_picture_shows_what_more_effort_brings() -> None:
    """Beside the plies, where a player was judged with several efforts."""
    from selfplay.arena.spec import effort_of
    from selfplay.report.judged import KeptCurve, by_effort, draw_judged

    assert effort_of("net:runs/a@64x8") == ("net:runs/a", 64)
    assert effort_of("net:runs/a") == ("net:runs/a", 0)
    assert effort_of("llm:runs/b@8,mask") == ("llm:runs/b,mask", 8)
    assert effort_of("mcts:100") == ("mcts", 100) and effort_of("random") == ("random", 0)
    names = ["net:a@16", "net:a", "llm:b@4", "llm:b", "random"]
    curves = [KeptCurve(name, [(1, 2, 3, 4), (3, 4, 2, 6)], *effort_of(name)) for name in names]
    assert {who: [c.effort for c in found] for who, found in by_effort(curves).items()} == {
        "net:a": [0, 16], "llm:b": [0, 4], "random": [0]}
    assert curves[0].kept() == (5, 10)
    assert draw_judged("both", curves) != draw_judged("both", curves[3:])
