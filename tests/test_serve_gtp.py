"""The GTP engine: what the protocol asks of every answer, and what each command does."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command, selfplay
from sgfmill import sgf

import selfplay as sp
from selfplay.arena.contest.clock import Control, GameClock, of_words
from selfplay.arena.gtp import GtpEngine
from selfplay.inference.evaluator import Evaluator
from selfplay.serve.gtp import dead
from selfplay.serve.gtp.commands import COMMANDS, run
from selfplay.serve.gtp.engine import Engine, Manner
from selfplay.serve.gtp.protocol import LONGEST, parse
from selfplay.serve.line import Line, stones_of
from selfplay.serve.mind import mind_of, of_net

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def net_engine(**manner: object) -> Engine:
    mind = of_net(sp.net("go5x5", "1x8"), sp.make("go5x5"), "tiny", 16)
    return Engine(mind, Manner(**manner))


def rollout_engine(game: str = "go5x5", **manner: object) -> Engine:
    return Engine(mind_of("mcts:20", game), Manner(**manner))


def talk(engine: Engine, text: str | bytes) -> list[str]:
    """The answers to some lines, each without the empty line at its end."""
    out = io.BytesIO()
    run(engine, io.BytesIO(text.encode() if isinstance(text, str) else text), out)
    whole = out.getvalue().decode()
    assert whole == "" or whole.endswith("\n\n")
    return whole.split("\n\n")[:-1]


# ------------------------------------------------------------------------------- protocol

def test_ids_comments_line_ends_and_control_characters() -> None:
    answers = talk(net_engine(), b"1 protocol_version\r\n\r\n  # a comment\n\t22\tname # why\n"
                                 b"ver\x07sion\n333 no_such\nno_such\n7\n")
    assert answers[0] == "=1 2" and answers[1] == "=22 selfplay tiny"
    assert answers[2].startswith("= ")
    assert answers[3:] == ["?333 unknown command", "? unknown command", "?7 unknown command"]
    assert parse("3x play") == ("", "3x", ["play"])


def test_a_megabyte_in_a_line_is_one_answer() -> None:
    for line in (b"5 " + b"x" * (1 << 20), b"5 play b " + b"9" * (1 << 20)):
        answers = talk(net_engine(), line + b"\n6 protocol_version\n")
        assert len(answers) == 2 and answers[0].startswith("?5 ") and answers[1] == "=6 2"
        assert len(answers[0]) < 200
    exact = b"7 name " + b"a" * (LONGEST - 8) + b"\n"
    assert talk(net_engine(), exact + b"8 name\n")[1].startswith("=8")


def test_every_command_is_listed_and_survives_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # printsgf writes files of any name
    engine = net_engine()
    listed = talk(engine, "list_commands\n")[0].removeprefix("= ").split("\n")
    assert set(listed) == set(COMMANDS)
    tries = ["", "x", "b", "-1", "b Z99", "99 99 99", "nan nan", "1e999 0 0", "b \udcff",
             "\x00", "b A1 A1", "9" * 400, "{}", "{\"ko\": []}", "b 1 2 3 4",
             "9" * 5000, "²", f"b 1 minmoves {'9' * 400}", f"maxmoves {'9' * 400}", "interval ²"]
    lines = [f"{n} {name} {words}" for n, (name, words) in enumerate(
        (name, words) for name in listed if name != "quit" for words in tries)]
    text = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
    answers = talk(engine, text)
    assert len(answers) == len(lines)
    for n, answer in enumerate(answers):
        assert re.match(rf"[=?]{n}\b", answer), (lines[n], answer)
        assert answer[0] == "=" or len(answer) < 220


def test_quit_answers_and_ends_and_so_does_the_end_of_the_input() -> None:
    assert talk(net_engine(), "quit\nname\n") == ["= "]
    assert talk(net_engine(), "") == []
    assert talk(net_engine(), "name")[0].startswith("= selfplay")  # no line end


# ------------------------------------------------------------------------------- the game

def test_a_game_is_set_up_played_and_taken_back() -> None:
    answers = talk(net_engine(), "boardsize 5\nclear_board\nkomi 7\nplay b C3\nplay white d4\n"
                                 "play b C3\nplay b Z9\nplay x C2\nplay b\nundo\nundo\nundo\n"
                                 "get_komi\nplay w pass\nplay W PASS\nall_legal b\nis_legal b A1\n")
    assert answers[:5] == ["= "] * 5
    assert answers[5:9] == ["? illegal move", "? syntax error: invalid coordinate: 'Z9' is no "
                            f"vertex of {sp.make('go5x5').name}; play A1 to E5 or pass",
                            "? syntax error: invalid color", "? syntax error: too few arguments"]
    assert answers[9:14] == ["= ", "= ", "? cannot undo", "= 7", "= "]
    assert len(answers[15].split()) == 27 and answers[16] == "= 1"


def test_what_the_net_cannot_play_is_refused_in_the_protocols_words() -> None:
    answers = talk(net_engine(), "boardsize 19\nkomi 6.5\nkata-set-rule suicide true\n"
                                 "kata-set-rules japanese\nkata-get-rules\nget_komi\n")
    assert answers[0] == "? unacceptable size: tiny plays 5x5"
    assert answers[1].startswith("? unacceptable komi")
    assert answers[2].startswith("? unsupported") and answers[3].startswith("? unknown or unsup")
    assert json.loads(answers[4][2:])["scoring"] == "AREA" and answers[5] == "= 7"
    free = talk(rollout_engine(), "boardsize 7\nkomi 0.5\nplay b G7\nkata-set-rules tromp-taylor\n"
                                  "kata-get-rules\nget_komi\nis_legal w G7\n")
    assert free[:4] == ["= "] * 4 and json.loads(free[4][2:])["suicide"] is True
    assert free[5] == "= 0.5" and free[6] == "= 0"  # komi and rules have left the stone there


def test_a_net_that_sees_the_komi_plays_other_komi_and_sizes() -> None:
    game = sp.make("go7x7")
    net = sp.net(game, "1x8")
    engine = Engine(of_net(net, game, "tiny", 8, spec=net.spec))
    answers = talk(engine, "komi 0.5\nplay b D4\nget_komi\ngenmove w\nboardsize 9\nget_komi\n"
                           "genmove b\nboardsize 19\nkata-raw-nn 0\n")
    assert [a[0] for a in answers] == list("=======?=") and answers[2] == answers[5] == "= 0.5"
    assert answers[7] == "? unacceptable size: tiny plays 7x7 to 13x13"
    assert engine.game.name == "go9x9(komi=0.5)" and engine.line.states.komi[0] == 1


def test_moves_are_generated_for_either_side_and_kept() -> None:
    answers = talk(net_engine(), "genmove b\nreg_genmove w\ngenmove b\nundo\nundo\nundo\n")
    game = sp.make("go5x5")
    for answer in answers[:3]:
        game.text_to_action(game.new(1), 0, answer[2:])
    assert answers[3:] == ["= ", "= ", "? cannot undo"]  # reg_genmove makes no move


def test_play_goes_on_after_two_passes() -> None:
    engine = net_engine()
    answers = talk(engine, "play b pass\nplay w pass\nplay b C3\nplay w A1\nplay w A2\n"
                           "play b pass\nplay w pass\ngenmove w\n")
    assert answers[:7] == ["= "] * 7 and answers[7] != "= "
    assert stones_of(engine.game, engine.line.at(7))[0].sum() == -1


@pytest.mark.parametrize(("size", "count", "points"), [
    (9, 2, {"C3", "G7"}), (9, 5, {"C3", "G7", "C7", "G3", "E5"}),
    (9, 6, {"C3", "G7", "C7", "G3", "C5", "G5"}), (13, 3, {"D4", "K10", "D10"}),
    (19, 9, {"D4", "Q16", "D16", "Q4", "K4", "K16", "D10", "Q10", "K10"})])
def test_handicap_stones_stand_where_gtp_has_them(size: int, count: int, points: set[str]) -> None:
    """Against the table of the specification."""
    engine = rollout_engine(f"go{size}x{size}")
    answers = talk(engine, f"fixed_handicap {count}\nfixed_handicap 2\ngenmove w\nundo\n")
    assert set(answers[0][2:].split()) == points
    assert answers[1] == "? board not empty" and answers[2][0] == "="
    assert engine.line.to_play == 1


def test_free_handicap_and_its_mistakes() -> None:
    answers = talk(net_engine(), "fixed_handicap 2\nset_free_handicap A1\nset_free_handicap A1 A1\n"
                                 "set_free_handicap A1 pass\nset_free_handicap A1 B2 C3\n"
                                 "clear_board\nplace_free_handicap 4\n")
    assert answers[0] == "? invalid number of stones" and answers[1] == "? bad vertex list"
    assert answers[2:5] == ["? bad vertex list"] * 2 + ["= "]
    assert len(set(answers[6].split()[1:])) == 4


def test_sgf_is_loaded_up_to_a_move_and_printed(tmp_path: Path) -> None:
    path = tmp_path / "a.sgf"
    path.write_text("(;GM[1]FF[4]SZ[5]KM[7]HA[2]AB[aa][bb:cc];W[dd];B[ee];W[](;B[de])(;B[ed]))")
    engine = net_engine()
    answers = talk(engine, f"loadsgf {path}\nprintsgf\nloadsgf {path} 2\nis_legal b E1\n")
    assert answers[0] == "= white" and answers[2] == "= black" and answers[3] == "= 1"
    assert answers[1].endswith("AB[bc][cc][bb][cb][aa]PL[W];W[dd];B[ee];W[];B[de])")
    root = sgf.Sgf_game.from_string(answers[1][2:]).get_root()
    assert (root.get("RU"), root.get("HA"), root.get("SZ")) == ("Chinese", 5, 5)
    out = tmp_path / "b.sgf"
    again = talk(engine, f"loadsgf {path}\nprintsgf {out}\nloadsgf {out}\nprintsgf\n")
    assert again[3] == answers[1]
    for text, why in (("(;SZ[19];B[aa])", "unacceptable|net for"), ("no", "not SGF"),
                      ("(;SZ[5]KM[7];B[aa];W[aa])", "illegal"), ("(;SZ[5]KM[7];B[zz])", "off")):
        path.write_text(text)
        assert re.search(f"^[?] cannot load file.*({why})", talk(engine, f"loadsgf {path}\n")[0])
    assert talk(engine, "loadsgf /no/such\n")[0].startswith("? cannot load file")


def test_small_commands_answer_as_programs_expect() -> None:
    answers = talk(rollout_engine(), (
        "known_command play\nknown_command dance\nversion\nkgs-chat game x hello\nkgs-game_over\n"
        "stop\nkata-list_time_settings\nrectangular_boardsize 5 5\nrectangular_boardsize 5 7\n"
        "play b C3\nplay w D4\ngg-undo 2\nundo\nkgs-rules chinese-kgs\nkgs-rules chinese\n"
        "play b A1\nplay w E5\nshowboard\n"))
    assert answers[:2] == ["= true", "= false"] and answers[2] == f"= {sp.__version__}"
    assert answers[3:6] == ["= "] * 3  # KGS is told nothing
    assert answers[6] == "= none absolute canadian byoyomi fischer"
    assert answers[7] == "= " and answers[8] == "? unacceptable size"
    assert answers[11:14] == ["= ", "? cannot undo", "= "]
    assert answers[14].startswith("? unsupported rule ko=SIMPLE")
    shown = answers[17].split("\n")
    assert shown[0] == "= " and shown[1].split() == list("ABCDE")
    assert shown[2].split() == ["5", ".", ".", ".", ".", "(O)", "5"]
    assert shown[6].split() == ["1", "X", ".", ".", ".", ".", "1"]


# ----------------------------------------------------------------------------------- ends

DEAD = """
.X.XO
X.XXO
XXX.O
OOOOO
O.OX.
"""


def test_dead_stones_are_those_that_cannot_live() -> None:
    """X lives with two eyes, O too; the X stone at d1 is dead."""
    game = sp.make("go5x5")
    rows = DEAD.split()[::-1]
    stones = np.array([[{"X": 1, "O": -1, ".": 0}[c] for c in row] for row in rows])
    line = Line(game)
    line.setup(stones, 0)
    assert dead.dead(game, line.states) == [[3]]
    assert dead.score(game, line.states) == 11 - 13 - 7
    board = stones_of(game, line.states)[0]
    agrees, says_x_is_dead = np.where(board == 1, 1.0, -1.0), -np.ones(25)
    assert dead.dead(game, line.states, agrees) == [[3]]  # the playouts have a word in it
    living = [cells for cells in dead.chains(board, 5) if board[cells[0]] == 1 and cells != [3]]
    assert dead.dead(game, line.states, says_x_is_dead) == sorted([[3], *living])


def test_what_a_net_says_of_ownership_turns_with_the_board() -> None:
    mind = mind_of("go9x9")
    game, turn = mind.game, mind.game.symmetries()
    line, turned = Line(game), Line(game)
    for cell in (20, 24, 60, 30, 31):
        line.play(cell)
        turned.play(int(np.flatnonzero(turn.cells[3] == cell)[0]))
    owned = mind.owned(line.states)
    assert owned is not None and owned.shape == (81,) and np.abs(owned).max() <= 1
    found = mind.owned(turned.states)
    assert found == pytest.approx(owned[turn.cells[3]], abs=1e-5)
    assert np.corrcoef(owned, stones_of(game, line.states)[0])[0, 1] > 0.1  # for player 0


def test_area_is_that_of_the_rules(play_random: Callable[..., Any]) -> None:
    game = sp.make("go7x7")
    states, _ = play_random(game, 20, 0, 40)
    for row, stones in enumerate(stones_of(game, states)):
        assert dead.area_lead(stones, 7) - game.komi == game.score(states)[row]


def test_dead_stones_are_told_counted_off_and_played_out(gnugo: str) -> None:
    engine = rollout_engine("go7x7")
    moves = ("b D1 w C1 b D2 w C2 b D3 w C3 b D4 w C4 b D5 w C5 b D6 w C6 b D7 w C7 "
             "b A2 w F2 b E5 w B6 b F4 w A4 b F6 w B2 b G3")
    setup = "gogui-play_sequence " + moves + "\n"
    answers = talk(engine, setup + "final_status_list dead\nfinal_score\nfinal_status_list seki\n"
                                   "final_status_list alive\nfinal_status_list what\n")
    assert set(answers[1][2:].split()) >= {"A2"} and answers[3] == "= "
    assert answers[5].startswith("? syntax error")
    with GtpEngine(f"{gnugo} --mode gtp --chinese-rules --komi 7") as other:
        for command in ("boardsize 7", "komi 7"):
            other.ask(command)
        words = moves.split()
        for colour, vertex in zip(words[::2], words[1::2], strict=True):
            assert other.ask(f"play {colour} {vertex}").ok
        gone = set(other.ask("final_status_list dead").text.split())
        assert set(answers[1][2:].split()) == gone
        assert other.ask("final_score").text.removesuffix(".0") == answers[2][2:]
    out = talk(engine, "kgs-genmove_cleanup w\n")
    assert out[0] != "= pass"


def test_a_hopeless_game_is_given_up_at_the_level_asked_for() -> None:
    def lost(resign: float) -> list[str]:
        engine = rollout_engine("tictactoe", resign=resign)
        engine.mind.evaluate = lambda s, legal: (np.zeros(legal.shape, np.float32),
                                                 np.full(len(legal), -0.9, np.float32)
                                                 * np.where(s.to_play == 0, 1, -1))
        return talk(engine, "genmove b\nplay w a1\ngenmove b\n")

    assert lost(0.2)[2] == "= resign" and lost(0.0)[2] != "= resign"
    assert lost(0.2)[0] != "= resign"  # it takes two moves


# ----------------------------------------------------------------------------------- time

def test_time_controls_by_hand() -> None:
    clock = GameClock(margin=0.5)
    assert clock.seconds(0, 30) is None
    clock.set(of_words(["absolute", "60"]))
    assert clock.seconds(0, 30) == pytest.approx(1.5)
    clock.used(0, 59.8)
    assert clock.seconds(0, 30) == 0.0 and clock.seconds(1, 30) == pytest.approx(1.5)
    clock.set(of_words(["byoyomi", "10", "5", "3"]))
    assert clock.seconds(0, 30) == pytest.approx(4.5)
    clock.used(0, 22.0)  # 10 of main time, 12 over: two periods of five are gone
    assert clock.sides[0].count == 1 and clock.seconds(0, 30) == pytest.approx(4.5)
    clock.set(of_words(["canadian", "0", "30", "10"]))
    assert clock.seconds(0, 30) == pytest.approx(2.5)
    clock.used(0, 12.0)
    assert clock.seconds(0, 30) == pytest.approx(18 / 9 - 0.5)
    clock.said(0, 4.0, 2)
    assert clock.seconds(0, 30) == pytest.approx(1.5)
    clock.set(of_words(["fischer", "30", "2"]))
    assert clock.seconds(0, 30) == pytest.approx(1 + 2 - 0.5)
    clock.used(0, 3.0)
    assert clock.sides[0].main == pytest.approx(29)
    for words in ([], ["none", "1"], ["absolute", "-1"], ["absolute", "nan"],
                  ["byoyomi", "1", "1", "0"], ["canadian", "1", "1"], ["sand", "1"]):
        with pytest.raises(ValueError, match=r"."):
            of_words(words)


@pytest.mark.parametrize("control", [
    Control("absolute", 20), Control("byoyomi", 3, 0.4, 2), Control("canadian", 3, 4, 10),
    Control("fischer", 3, 0.4), Control("byoyomi", 0, 0.4, 1), Control("absolute", 1)])
def test_no_clock_is_overstepped_in_any_game(control: Control) -> None:
    """Against a clock of another kind of bookkeeping, and moves that use all they may."""
    engine_clock, rng = GameClock(margin=0.1), np.random.default_rng(0)
    engine_clock.set(control)
    main, period, count = control.main, control.period, control.count
    for move in range(200):
        allowed = engine_clock.seconds(0, 40 - move)
        assert allowed is not None
        if control.kind == "absolute" and not allowed:
            break
        spent = allowed + rng.uniform(0, 0.09)
        engine_clock.used(0, spent)
        main, over = max(main - spent, 0), max(spent - main, 0)
        if control.kind in ("absolute", "fischer"):
            assert over == 0
            main += control.period
        elif over and control.kind == "byoyomi":
            count -= int(over / control.period)
            assert count >= 1
        elif over:
            period, count = period - over, count - 1
            assert period >= 0
            if not count:
                period, count = control.period, control.count


def test_a_move_is_made_within_the_time_left() -> None:
    engine = net_engine(margin=0.1)
    engine.mind.sims = 10**6
    for setting, most in (("kgs-time_settings byoyomi 0 0.5 2", 0.5), ("time_settings 0 2 4", 0.5),
                          ("kata-time_settings fischer 0.5 0.3", 0.5),
                          ("time_settings 3 0 0\ntime_left w 0.3 0", 0.3)):
        began = time.monotonic()
        answers = talk(engine, f"clear_board\n{setting}\ngenmove w\n")
        assert time.monotonic() - began < most and answers[-1][0] == "="


# ------------------------------------------------------------------------------- analysis

def pairs(text: str, kind: str) -> list[dict[str, str]]:
    """The moves of an analysis as another program would take it apart."""
    moves = []
    for part in re.split(r"(?:^|\s)info\s+", text.split(" ownership")[0].split(" rootInfo")[0])[1:]:
        head, _, pv = part.partition(" pv ")
        words = head.split()
        moves.append({**dict(zip(words[::2], words[1::2], strict=True)), "pv": pv})
    return moves


def test_live_analysis_until_the_next_line() -> None:
    engine = net_engine()
    inside, outside = os.pipe(), os.pipe()
    ends = os.fdopen(inside[0], "rb"), os.fdopen(outside[1], "wb")
    thread = threading.Thread(target=run, args=(engine, *ends))
    thread.start()
    with os.fdopen(inside[1], "wb", 0) as to, os.fdopen(outside[0], "rb") as back:
        to.write(b"4 lz-analyze b 1\n")
        assert back.readline() == b"=4\n"
        received = [back.readline().decode() for _ in range(3)]
        to.write(b"\n")
        while (line := back.readline()) != b"\n":
            received.append(line.decode())
        to.write(b"5 name\n")
        assert back.readline().startswith(b"=5 ")
        back.readline()
        to.write(b"kata-analyze interval 1\nplay b C3\nquit\n")
        rest = ""
        while "info" not in rest:
            rest += back.readline().decode()
    thread.join(20)
    assert not thread.is_alive()
    visits = [sum(int(m["visits"]) for m in pairs(line, "lz")) for line in received]
    assert visits == sorted(visits) and visits[-1] > visits[0] >= 0
    first = pairs(received[-1], "lz")[0]
    assert first["order"] == "0" and first["pv"].split()[0] == first["move"]
    assert 0 <= int(first["lcb"]) <= int(first["winrate"]) <= 10_000


def test_moves_with_their_analysis() -> None:
    answers = talk(net_engine(), "kata-genmove_analyze b 10 ownership true rootInfo true\n"
                                 "3 lz-genmove_analyze w 100 minmoves 5\n"
                                 "kata-analyze b 1 allow b A1,B2 1 maxmoves 1\n")
    lines = answers[0].split("\n")
    assert lines[0] == "=" and lines[-1].startswith("play ")
    moves = pairs(lines[-2], "kata")
    assert {"winrate", "scoreLead", "prior", "lcb", "utility", "visits"} <= moves[0].keys()
    assert lines[-1].split()[1] == moves[0]["move"]
    owners = [float(x) for x in lines[-2].split(" ownership ")[1].split()]
    assert len(owners) == 25 and max(map(abs, owners)) <= 1
    assert " rootInfo visits 17 " in lines[-2]
    assert answers[1].startswith("=3\n") and len(pairs(answers[1].split("\n")[1], "lz")) >= 5
    assert [m["move"] for m in pairs(answers[2].split("\n")[1], "kata")] in (["A1"], ["B2"])


def test_of_each_move_is_told_what_was_asked_for() -> None:
    answers = talk(net_engine(), (
        "kata-genmove_analyze b 10 maxmoves 5 movesOwnership true pvVisits true\n"
        "kata-genmove_analyze w 10 avoid w A1,B1,C1,D1,E1,pass 1\n"))
    parts = re.split(r"(?:^|\s)info\s+", answers[0].split("\n")[-2])[1:]
    assert 0 < len(parts) <= 5
    for part in parts:
        words = part.split()
        places = [words.index(key) for key in ("pv", "pvVisits", "movesOwnership")]
        pv, counts, owned = (words[a + 1 : b] for a, b in zip(places, [*places[1:], None],
                                                              strict=True))
        assert pv[0] == words[1] and counts[0] == words[words.index("visits") + 1]
        assert len(counts) == len(pv) and len(owned) == 25
    moves = {m["move"] for m in pairs(answers[1].split("\n")[-2], "kata")}
    assert moves and not moves & {"A1", "B1", "C1", "D1", "E1", "pass"}


def test_every_share_is_told_from_whole_numbers() -> None:
    """Sabaki takes a winrate without a point for ten thousandths, and a proven win's is 1."""
    answers = talk(rollout_engine("tictactoe"), "gogui-play_sequence b a1 w a2 b b1 w b2\n"
                                                "kata-genmove_analyze b\n")
    moves = pairs(answers[1].split("\n")[-2], "kata")
    assert moves[0]["move"] == "c1" and moves[0]["winrate"] == "1.000000"
    assert all("." in m[key] for m in moves for key in ("winrate", "prior", "lcb", "utility"))


def test_the_raw_net_is_the_same_for_every_symmetry_of_the_empty_board() -> None:
    engine = net_engine()
    text = talk(engine, "kata-raw-nn all\n")[0]
    assert text.count("symmetry ") == 8
    said = [engine.mind.turned(engine.line.states, k) for k in range(8)]
    # as the net is asked here: the search may ask it in bfloat16
    assert engine.mind.net is not None
    single = Evaluator(engine.mind.net, engine.game, dtype="float32")
    plain, _ = single(engine.line.states, engine.game.legal(engine.line.states))
    assert said[0].logits == pytest.approx(plain[0], abs=1e-5)
    turn = engine.game.symmetries()
    for k in range(8):  # the empty board looks the same from everywhere
        assert said[k].logits[turn.actions[k]] == pytest.approx(plain[0], abs=1e-5)
    policy = re.search(r"^policy (.*)$", text, re.MULTILINE)
    assert policy is not None and len(policy[1].split()) == 25
    assert talk(engine, "kata-raw-nn 8\nkata-raw-nn x\n")[0].startswith("? syntax error")


def test_pondering_is_of_use_and_ends_with_the_opponents_move() -> None:
    engine = net_engine(ponder=True)
    engine.genmove(0)
    deadline = time.monotonic() + 20
    while engine.thinker._search.tree.visits[0, 0] < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    best = engine.thinker._search.result([0]).visits[0].argmax()
    engine.play(1, engine.line.text(int(best)))
    assert engine.thinker._search.tree.visits[0, 0] > 10
    engine.thinker.halt()


# ---------------------------------------------------------------------------- other games

def test_another_game_by_the_same_commands() -> None:
    answers = talk(rollout_engine("connect4"), "boardsize 7\nboardsize 19\nplay b 4\nplay w 4\n"
                   "play w 4\ngenmove x\ngenmove b\nshowboard\nfinal_score\nkomi 7\nundo\nundo\n"
                   "lz-analyze 5\n")
    assert answers[0] == "= " and answers[1] == "? unacceptable size"
    assert answers[2:4] == ["= ", "= "] and answers[4][0] == "?"
    assert answers[8].startswith("? cannot score") and answers[9].startswith("? only in Go")
    assert answers[12].startswith("=\ninfo move ")
    ended = talk(rollout_engine("tictactoe"), "gogui-play_sequence b a1 w a2 b b1 w b2 b c1\n"
                 "final_score\ngenmove w\nplay w c3\nkata-analyze\n")
    out_of_turn = talk(rollout_engine("tictactoe"), "play b a1\ngenmove b\nplay w z1\n")
    assert out_of_turn[1] == "? it is not the turn of b (first)"
    assert out_of_turn[2].startswith("? syntax error: invalid coordinate: tictactoe: 'z1' is no")
    assert ended[1] == "= B+1" and ended[2].startswith("? the game is over")
    assert ended[3][0] == "?" and ended[4] == "="


@pytest.mark.parametrize("name", ["othello6x6", "hex4x4(swap=True)", "gomoku9x9",
                                  "dotsandboxes(rows=1,columns=2)"])
def test_every_native_game_is_played_to_its_end(name: str) -> None:
    """By both sides in turn; no pass is put in where the rules have none."""
    engine, moves = rollout_engine(name, resign=0.0), 0
    while not engine.line.over:
        waits, before = 1 - engine.line.to_play, engine.line.ply
        if engine.line.legal().sum() > 1 or engine.game.pass_action < 0:
            assert talk(engine, f"genmove {'bw'[waits]}\n")[0].startswith("? ")
        assert engine.line.ply == before
        answer = talk(engine, f"genmove {'bw'[1 - waits]}\n")[0]
        assert answer.startswith("= ") and engine.line.ply == before + 1
        moves += 1
    result = engine.line.result
    assert moves > 6 and talk(engine, "final_score\n") == [
        "= B+1" if result > 0 else "= W+1" if result < 0 else "= 0"]
    assert talk(engine, "showboard\nundo\n")[1] == "= " and not engine.line.over

# ------------------------------------------------------------------------------ as a program

@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from selfplay.learn.checkpoint import save_net
    path = tmp_path_factory.mktemp("net") / "ckpt-000001"
    net = sp.net("go5x5", "1x8")
    save_net(path, net, net.spec, {"game": "go5x5", "step": 1, "compute": {}})
    yield path


def test_that_it_compiles_is_said_on_stderr(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr("selfplay.common.compiling.announce", lambda: told.append("told"))
    run("gtp", "--net", "no-such").mistake("no-such")
    assert told == ["told"]


def test_the_program_speaks_gtp_and_nothing_else(folder: Path) -> None:
    """Driven by our client, which is strict, and by a pipe that just ends."""
    done = selfplay("gtp", "--net", f"{folder}@8", cwd=folder,
                    hears="1 name\ngenmove b\nlz-analyze 1\n")
    assert done.returncode == 0 and done.stdout.startswith("=1 selfplay ")
    assert "info move" in done.stdout and done.stdout.endswith("\n\n")
    bad = selfplay("gtp", "--net", "no-such", cwd=folder)
    assert bad.returncode == 1 and bad.stdout == "" and bad.stderr.count("\n") == 1
    command = [sys.executable, "-c", "from selfplay.cli import main; main()", "gtp", "--net"]
    line = " ".join(f"'{word}'" for word in [*command, f"{folder}@8"])
    game = sp.make("go5x5")
    result = sp.match(game, sp.player(game, f"gtp:{line}"), "random", games=2, slots=1)
    assert result.games == 2


def test_a_program_ends_while_somebody_still_holds_its_input() -> None:
    """As gtp2ogs does after quit."""
    words = ("import sys; from selfplay.serve.lines import LineReader; "
             "print(LineReader(sys.stdin.buffer).next(), flush=True)")
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin and program.stdout and program.stderr
        program.stdin.write(b"quit\n")
        program.stdin.flush()
        assert program.stdout.readline() == b"quit\n"
        assert program.wait(60) == 0, program.stderr.read()


def test_rules_without_end_are_a_syntax_error() -> None:
    out = talk(rollout_engine("go7x7"), 'kata-set-rules {"a":' + "[" * 60_000 + "\nname\n")
    assert out[0].startswith("? syntax error") and out[1].startswith("= ")


def test_a_start_leaves_out_what_only_products_of_matrices_need() -> None:
    """Numba imports SciPy's linear algebra to see that it is there; a kernel that needs it still
    has it."""
    words = textwrap.dedent("""
        import sys
        from selfplay.common.compiling import import_numba
        import_numba()
        from selfplay.games.go import Go
        game = Go(9)
        assert game.legal(game.new(2)).all() and "scipy.linalg" not in sys.modules
        import numba, numpy as np
        product = numba.njit(lambda a, b: a @ b)
        a = np.arange(6.0).reshape(2, 3)
        assert (product(a, a.T.copy()) == a @ a.T).all() and "scipy.linalg" in sys.modules
    """)
    subprocess.run([sys.executable, "-c", words], check=True)


def test_a_start_leaves_out_torchs_rules_for_tensors_without_data() -> None:
    """And makes the same move; what needs them can still have them."""
    words = textwrap.dedent("""
        import sys
        from selfplay.common.compiling import import_torch
        import_torch()
        import torch
        from selfplay.serve.gtp.engine import Engine
        from selfplay.serve.mind import mind_of
        engine = Engine(mind_of("tictactoe@16"))
        print(engine.genmove(0), engine.genmove(1))
        assert not {"torch._decomp", "torch._meta_registrations"} & sys.modules.keys()
        import torch._meta_registrations
        from selfplay.models import flops
        assert flops(engine.mind.spec) > 1e5
    """)
    light = subprocess.run(
        [sys.executable, "-c", words], check=True, capture_output=True, text=True)
    engine = Engine(mind_of("tictactoe@16"))
    assert light.stdout.split() == [engine.genmove(0), engine.genmove(1)]
