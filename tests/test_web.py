"""The web board's server: what it says to pages, good ones and others."""

from __future__ import annotations

import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import forked
import numpy as np
import pytest
from command import Command, save_net
from sgfmill import sgf
from web_server import ALONG, Page, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.openspiel import playable
from selfplay.learn import packaged
from selfplay.learn.checkpoint import read_meta
from selfplay.serve.thinker import Thought
from selfplay.serve.web import minds, protocol, server, variations
from selfplay.serve.web.boards import GameBoard

HUMANS = [{"who": "human"}, {"who": "human"}]
MCTS = {"who": "net", "net": "mcts", "sims": 30, "strength": 5}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running(tmp_path_factory.mktemp("runs")) as number:
        yield number


# --------------------------------------------------------------------------------- boards

@pytest.mark.parametrize("name", [*(f"openspiel:{n}" for n in playable()), "tictactoe", "connect4",
                                  "go5x5", "othello6x6", "hex4x4(swap=True)", "gomoku9x9",
                                  "dotsandboxes(rows=2,columns=2)"])
def test_every_game_has_a_board_or_its_text(name: str) -> None:
    """A random game: as many cells all along, and what a move puts down is the mover's."""
    game, rng = make(name), np.random.default_rng(0)
    board, states = GameBoard(game), game.new(1)
    for _ in range(12):
        if game.result(states)[0][0]:
            break
        pieces, targets = board.pieces(states), board.targets(states)
        assert len(pieces) == len(board.layout.places)
        assert set(targets) == set(np.flatnonzero(game.legal(states)[0]).tolist())
        action, mover = int(rng.choice(list(targets))), str(int(states.to_play[0]))
        target = targets[action]
        if target.start >= 0:
            assert pieces[target.start][:1] == mover
        game.step(states, np.array([action]))
        after = board.pieces(states)
        if target.to >= 0 and not game.result(states)[0][0] and "amazons" not in name:
            drawn = "#" if board.layout.shape == "dots" else mover
            assert after[target.to][:1] == drawn


@pytest.mark.parametrize(("name", "cells"), [
    ("chess", 64), ("othello", 64), ("hex", 121), ("go", 361), ("xiangqi", 90), ("shogi", 81),
    ("gomoku", 225), ("y", 190), ("havannah", 169), ("checkers", 64), ("connect_four", 42),
    ("ultimate_tic_tac_toe", 81), ("amazons", 100), ("breakthrough", 64), ("mnk", 225)])
def test_boards_of_openspiel_have_all_their_cells(name: str, cells: int) -> None:
    assert len(GameBoard(make(f"openspiel:{name}")).layout.places) == cells


def test_a_chess_move_goes_from_cell_to_cell() -> None:
    game = make("openspiel:chess")
    states, board = game.new(1), GameBoard(game)
    found = board.targets(states)[game.text_to_action(states, 0, "e4")]
    assert [board.layout.places[c] for c in (found.start, found.to)] == [(4, 6), (4, 4)]
    assert board.pieces(states)[0] == "0R" and board.pieces(states)[63] == "1R"
    assert board.sides == ("black", "white")


def test_stones_fall() -> None:
    game = make("connect4")
    states, board = game.new(1), GameBoard(game)
    assert board.targets(states)[3].to == 3
    game.step(states, np.array([3]))
    assert board.targets(states)[3].to == 10 and board.pieces(states)[3] == "0"


def test_lines_and_boxes() -> None:
    """Every line is a place between two dots; the fourth line of a box fills the box, and it is the
    line that is its move's place, on a board first seen then too."""
    game = make("dotsandboxes(rows=1,columns=2)")
    states, board = game.new(1), GameBoard(game)
    places = board.layout.places
    assert board.layout.shape == "dots" and len(places) == 3 * 5
    found = {game.action_to_text(states, 0, a): places[t.to] for a, t in
             board.targets(states).items()}
    assert found == {"h 0 0": (1, 2), "h 0 1": (3, 2), "h 1 0": (1, 0), "h 1 1": (3, 0),
                     "v 0 0": (0, 1), "v 0 1": (2, 1), "v 0 2": (4, 1)}
    for move in ("h 0 0", "h 1 0", "v 0 0"):
        game.step(states, np.array([game.text_to_action(states, 0, move)]))
    late = GameBoard(game)
    last = late.targets(states)[game.text_to_action(states, 0, "v 0 1")]
    assert places[last.to] == (2, 1) and late.pieces(states)[last.to] == ""
    game.step(states, np.array([game.text_to_action(states, 0, "v 0 1")]))
    pieces = dict(zip(places, late.pieces(states), strict=True))
    assert {place for place, piece in pieces.items() if piece == "#"} == {
        (1, 2), (1, 0), (0, 1), (2, 1)}
    assert pieces[1, 1] == "1" and pieces[3, 1] == pieces[0, 0] == ""


# ---------------------------------------------------------------------------- bad messages

@pytest.mark.parametrize(("text", "words"), [
    ("hello", "no JSON"), ("[" * 100_000, "no JSON"), ("[]", "without a known do"),
    ('{"do": "fly"}', "without a known do"), ('{"do": []}', "without a known do"),
    ('{"do": "play", "action": "4", "at": 0}', "action must be"),
    ('{"do": "play", "action": true, "at": 0}', "action must be"),
    ('{"do": "goto"}', "node must be"), ('{"do": "undo", "x": 1}', "no field 'x'"),
    ('{"do": "seats", "seats": [{"who": "human"}], "run": true}', "two seats"),
    ('{"do": "setup", "stones": [2], "to_play": 0}', "stones must be"),
    ('{"do": "analyse", "on": true, "net": "mcts", "sims": 1e9, "beside": ""}', "sims must be"),
])
def test_a_bad_message_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        protocol.message_of(text)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_what_is_no_json_leaves_the_table_as_it_is(port: int) -> None:
    with Page(port) as page:
        page.socket.send("what?")
        assert "no JSON" in page.hear("error")["text"]
        page.say("play", action=99, at=0)
        assert "illegal" in page.hear("error")["text"]
        page.say("goto", node=7)
        assert "no position 7" in page.hear("error")["text"]
        page.say("seats", seats=HUMANS, run=True)
        assert page.play("b2")["position"]["pieces"][4] == "0"


def test_a_message_of_ten_megabytes_ends_its_own_connection_only(port: int) -> None:
    with Page(port) as page, Page(port) as other:
        with pytest.raises(ConnectionClosed):
            page.socket.send("x" * 10_000_000)
            while True:
                page.socket.recv(timeout=30)
        assert page.socket.close_code == 1009
        other.say("goto", node=0)
        assert other.hear("state")["node"] == 0


def test_a_page_of_another_site_is_turned_away(port: int) -> None:
    with pytest.raises(InvalidStatus):
        connect(f"ws://127.0.0.1:{port}/ws", origin="http://example.com")  # type: ignore[arg-type]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
    with pytest.raises(HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_the_modules_of_the_page_import_what_there_is() -> None:
    """A browser without them all shows an empty page and says nothing."""
    files = {path.name: path.read_text() for path in server.STATIC.glob("*.js")}
    found = 0
    for name, text in files.items():
        assert text.count("\n") <= 400, name
        for names, other in re.findall(r"^import {([^}]+)} from \"./([\w.]+)\";", text, re.M):
            for word in map(str.strip, names.split(",")):
                found += 1
                assert re.search(rf"^export (?:function|class|const|let) (?:.*, )?{re.escape(word)}"
                                 r"(?![\w$])", files[other], re.M), (name, word)
                assert len(re.findall(rf"(?<![\w$]){re.escape(word)}(?![\w$])", text)) > 1, word
    assert found > 60


def test_files_outside_are_not_served(port: int) -> None:
    for path in ("static/../server.py", "static/%2e%2e/server.py", "static/none.js"):
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}")


# ----------------------------------------------------------------------------------- games

def test_a_net_answers(port: int) -> None:
    with Page(port) as page:
        assert page.state["seats"][1]["net"].endswith("first/rl/ckpt-000002")
        page.play("b2")
        while page.state["position"]["to_play"] or page.state["thinking"] >= 0:
            page.hear("state")
        assert len(page.state["nodes"]) == 3 and page.state["run"]


def test_both_look_at_one_game(port: int) -> None:
    """Two browsers: each sees the other's move, and one that comes too late is told so."""
    with Page(port) as page:
        page.say("seats", seats=HUMANS, run=True)
        page.hear("state")
        with Page(port, table=page.state["table"]) as other:
            assert other.state["table"] == page.state["table"]
            page.play("a1")
            assert other.hear("state")["position"]["pieces"][0] == "0"
            page.say("play", action=4, at=1)
            other.say("play", action=8, at=1)
            late = [said for p in (page, other) for said in p.all_said("error")]
            assert len(late) == 1 and "somebody else has moved" in late[0]["text"]


def test_games_do_not_meet(port: int) -> None:
    with Page(port) as page, Page(port, game="connect4") as other:
        page.say("seats", seats=HUMANS, run=True)
        page.hear("state")
        page.play("a1")
        assert other.state["game"]["name"] == "connect4" and len(other.state["nodes"]) == 1


def test_two_nets_play_to_the_end_and_stop_when_nobody_looks(port: int) -> None:
    with Page(port) as page:
        page.say("new", game="tictactoe", seats=[MCTS, MCTS])
        while not page.hear("state")["position"]["over"]:
            pass
        assert page.state["position"]["result"]
        page.say("new", game="openspiel:hex(board_size=5)", seats=[MCTS, MCTS])
        while len(page.hear("state")["nodes"]) < 3:
            pass
        name = page.state["table"]
    time.sleep(0.7)
    with Page(port, table=name) as page:
        moves = len(page.state["nodes"])
        assert 3 <= moves < 10  # and goes on when somebody looks again
        while len(page.hear("state")["nodes"]) <= moves:
            pass


def test_undo_takes_the_nets_answer_back_as_well(port: int) -> None:
    with Page(port) as page:
        page.say("undo")
        assert "no move" in page.hear("error")["text"]
        page.play("b2")
        while page.state["position"]["to_play"] or page.state["thinking"] >= 0:
            page.hear("state")
        page.say("undo")
        assert page.hear("state")["node"] == 0


def test_resigning_ends_a_game(port: int) -> None:
    with Page(port) as page:
        page.say("resign")
        assert page.hear("state")["position"]["result"] == "second wins: first has resigned"
        page.say("resign")
        assert "over" in page.hear("error")["text"]


def test_analysis_with_two_nets_and_its_tree(port: int) -> None:
    with Page(port) as page:
        nets = [words for words, _ in page.state["nets"]]
        assert len(nets) == 3 and nets[2] == "mcts"
        page.say("tree", path=[], side=0)
        assert "turn the analysis on" in page.hear("error")["text"]
        page.say("analyse", on=True, net=nets[0], sims=60, beside=nets[1])
        reports: dict[int, Any] = {}
        while len(reports) < 2:
            report = page.hear("report", ended=True)
            reports[report["side"]] = report
        for report in reports.values():
            assert report["visits"] == 60 and abs(report["value"]) <= 1
            assert abs(sum(m["prior"] for m in report["moves"]) - 1) < 1e-2
            assert sum(m["visits"] for m in report["moves"]) == 60
        page.say("tree", path=[], side=1)
        tree = page.hear("tree")
        assert tree["visits"] == 61 and tree["to_play"] == 0
        best = tree["children"][0]
        page.say("tree", path=[best["action"]], side=1)
        deeper = page.hear("tree")
        assert deeper["visits"] == best["visits"] and deeper["pieces"].count("0") == 1
        page.say("tree", path=[best["action"]] * 2, side=1)
        assert "has not been there" in page.hear("error")["text"]


def test_territory_comes_from_the_net_or_from_playouts(port: int) -> None:
    with Page(port, game="go5x5") as page:
        for net in (page.state["nets"][0][0], "mcts"):
            page.say("analyse", on=True, net=net, sims=8, beside="")
            report = page.hear("report", ended=True)
            assert len(report["ownership"]) == 25
            assert all(-1 <= share <= 1 for share in report["ownership"])
            assert (report["score"] is None) == (net == "mcts")


def test_a_search_that_is_not_wanted_stops(port: int) -> None:
    """Without an end it goes on; then it is turned off, and ends."""
    with Page(port, game="go5x5") as page:
        page.say("analyse", on=True, net="mcts", sims=0, beside="")
        page.hear("report")
        thought = f"({Thought._run.__name__})"  # of a thread's name
        assert any(thought in repr(t) for t in threading.enumerate())
        page.say("analyse", on=False, net="mcts", sims=0, beside="")
        page.hear("state")
        end = time.monotonic() + 60
        while any(thought in repr(t) for t in threading.enumerate()) and time.monotonic() < end:
            time.sleep(0.01)
        assert time.monotonic() < end and not page.all_said("report")


def test_a_net_of_another_game_is_named(port: int) -> None:
    with Page(port) as page, Page(port, game="go5x5") as other:
        net = other.state["nets"][0][0]
        page.say("analyse", on=True, net=net, sims=8, beside="")
        assert "a net for go5x5, not for tictactoe" in page.hear("error")["text"]
        page.say("seats", seats=[{"who": "net", "net": "no/where", "sims": 1, "strength": 1},
                                 HUMANS[0]], run=True)
        assert "no/where" in page.hear("error")["text"]
        page.say("analyse", on=True, net="nets.py:mine", sims=8, beside="")
        assert "not loaded from the page" in page.hear("error")["text"]


def test_a_position_is_set_up(port: int) -> None:
    with Page(port, game="go5x5") as page:
        stones = [0] * 25
        stones[6], stones[12], stones[18] = 1, 1, -1
        page.say("setup", stones=stones, to_play=1)
        state = page.hear("state")
        assert state["position"]["to_play"] == 1 and len(state["nodes"]) == 1
        assert [state["position"]["pieces"][k] for k in (6, 12, 18)] == ["0", "0", "1"]
        page.say("setup", stones=[1] * 25, to_play=0)
        assert "cannot be set up" in page.hear("error")["text"]
        assert page.state["position"]["pieces"][6] == "0"


# ----------------------------------------------------------------------------------- files

def test_sgf_with_variations_there_and_back(port: int) -> None:
    with Page(port, game="go5x5") as page:
        page.say("seats", seats=HUMANS, run=False)
        page.hear("state")
        for text in ("C3", "B2"):
            page.play(text)
        page.say("goto", node=1)
        page.hear("state")
        page.play("D4")
        page.say("save")
        saved = page.hear("file")
        assert saved["name"] == "go5x5.sgf"
        root = sgf.Sgf_game.from_string(saved["text"]).get_root()
        assert root[0].get_move() == ("b", (2, 2)) and len(root[0]) == 2
        assert root[0][1].get_move() == ("w", (3, 3))
        page.say("load", text=saved["text"])
        state = page.hear("state")
        assert [n[2] for n in state["nodes"]] == ["", "C3", "B2", "D4"] and state["node"] == 2


@pytest.mark.parametrize(("text", "moves", "words"), [
    ("(;SZ[5];B[cc];W[bb];B[cc];W[dd])", 2, "move 3: C3 is illegal"),
    ("(;SZ[5]KM[5.3];B[cc])", 1, "komi=5.3 is not a whole or half number"),
    ("(;SZ[5];B[cc];B[bb])", 3, ""),  # two in a row: a pass between
    ("(;SZ[5]AB[bb][cc]AW[dd]PL[W];W[aa])", 1, ""),
    ("(;SZ[7]KM[6.5];B[cc])", 1, ""),  # another board
])
def test_sgf_from_elsewhere(text: str, moves: int, words: str) -> None:
    record, said = variations.read_text(text, make("go5x5"))
    assert len(record.nodes) == moves + 1
    assert any(words in line for line in said) if words else not said


def test_the_files_komi_is_played(port: int) -> None:
    """By a net of any komi, too."""
    with Page(port, game="go5x5") as page:
        net = page.state["seats"][1]["net"]
        page.say("load", text="(;SZ[5]KM[0.5];B[cc];W[];B[])")
        while page.hear("state")["begun"] == 1:
            pass
        assert page.state["game"]["name"] == "go5x5(komi=0.5)"
        assert page.state["position"]["result"] == "black wins by 24.5"
        assert (page.state["seats"][1]["net"] == net) == (net in [n[0] for n in page.state["nets"]])


@pytest.mark.parametrize(("text", "words"), [
    ("GIF89a", "no game"), ("(;SZ[99])", "cannot be read"), ("(;SZ[2];B[aa])", "cannot be shown"),
    ("(", "cannot be read"), ("(;SZ[5]AB[aa][ab][ba][bb]AW[ac][bc][cb][ca])", "cannot be shown"),
    ("(;SZ[5]AB[aa:zz])", "cannot be read: a property"), ("(;GM[2]SZ[5])", r"not of Go \(GM\[2"),
    ("selfplay game: no_such_game\n", "unknown game")])
def test_a_file_that_is_no_game(text: str, words: str) -> None:
    with pytest.raises(Exception, match=words) as raised:
        variations.read_text(text, make("go5x5"))
    assert "\n" not in str(raised.value)


def test_other_games_are_saved_as_their_moves() -> None:
    record = variations.VariationTree(make("openspiel:othello"))
    for _ in range(5):
        states = record.nodes[-1].states
        record.add(len(record.nodes) - 1, int(record.game.legal(states)[0].argmax()))
    name, text = variations.record_text(record, ("a", "b"))
    back, said = variations.read_text(text, make("tictactoe"))
    assert name == "openspiel-othello.txt" and not said
    assert back.actions(5) == record.actions(5) and back.game.name == "openspiel:othello"
    broken, said = variations.read_text(text + "h8\n", make("tictactoe"))
    assert len(broken.nodes) == 6 and "move 6, h8" in said[0]


def test_nets_that_came_along_are_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minds, "_along", ALONG)
    for name in packaged.names():
        game = make(read_meta(packaged.find(name) or Path())["game"])
        assert name in [choice.words for choice in minds.choices(game)]
        assert minds.mind(name, game.name, 1).net is not None


# --------------------------------------------------------------------------------- strength

def test_strength_draws_by_visits() -> None:
    from selfplay.serve.thinker import Limits, Thinker

    thinker = Thinker(minds.mind("mcts", "tictactoe", 1))
    thinker.go_to([0, 3, 1, 4])  # c1 wins
    found, rng = thinker.think(Limits(sims=300)), np.random.default_rng(0)
    assert {minds.move_of_strength(found, 5, -1, rng) for _ in range(20)} == {2}
    weak = [minds.move_of_strength(found, 1, -1, rng) for _ in range(60)]
    good = [minds.move_of_strength(found, 4, -1, rng) for _ in range(60)]
    assert len(set(weak)) > 2 and weak.count(2) < good.count(2)


# ----------------------------------------------------------------------------------- command

def test_a_port_in_use(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --port the next free one; with it, one line."""
    with server.listen(None) as first, server.listen(None) as second:
        ports = [made.getsockname()[1] for made in (first, second)]
        assert ports[0] < ports[1] and first.getsockname()[0] == "127.0.0.1"
        monkeypatch.setattr(server, "TRIED", 0)
        run("play", "--no-browser", "--port", str(ports[0])).mistake(str(ports[0]), "--port")
        run("play", "--no-browser", "--game", "tictactoe").mistake("all in use", "--port")


STOPPED = """
import json, os, signal, threading, time
from websockets.sync.client import connect
from selfplay.serve.web import server, table

def state(self):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)
    print("waited for", flush=True)

def page(port):
    with connect(f"ws://127.0.0.1:{port}/ws") as socket:
        socket.send(json.dumps({"do": "hello"}))
        time.sleep(20)

def listening(port, listen=server.listen):
    made = listen(port)
    threading.Thread(target=page, args=made.getsockname()[1:], daemon=True).start()
    return made

table.Table.state, server.listen, server.warm = state, listening, lambda game, net: None
from selfplay.cli import main
main()
"""


def test_play_ends_at_once_whatever_its_threads_do(tmp_path: Path) -> None:
    """A page waits for a thread that compiles, say, when Ctrl-C comes."""
    done = forked.python(STOPPED, "play", "--no-browser", "--game", "tictactoe", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "waited for" not in done.stdout
    assert done.stdout.startswith("the board is being set up\nhttp://127.0.0.1:")


def test_play_says_what_is_wrong(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "net", "tictactoe")
    for words, told in (
            (("--game", "connect4", "--net", str(tmp_path / "net")),
             "a net for tictactoe, not for connect4"),
            (("--game", "conect4"), "did you mean"), (("--net", "nowhere"), "no folder")):
        said = run("play", "--no-browser", *words)
        said.mistake(told)
        assert said.out == ""
    run("play", "--no-browser", "--port", "0").mistake("--port")


def test_pages_name_no_other_machine() -> None:
    for path in server.STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "https:" not in text and "http:" not in text and "//cdn" not in text, path


def test_the_server_listens_here_alone() -> None:
    with server.listen(None) as made, socket.socket() as other:
        other.settimeout(2)
        assert made.getsockname()[0] == "127.0.0.1"
