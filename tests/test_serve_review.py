"""Reviews: SGF that other programs read, a page, a folder at once."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from command import Command
from sgfmill import sgf as sgfmill

import selfplay as sp
from selfplay.learn.checkpoint import save_net
from selfplay.serve.mind import of_net, rollout_mind
from selfplay.serve.record import read_sgf
from selfplay.serve.review import MISTAKE, NOTHING, review, reviewed_sgf, to_page

GAME = ("(;GM[1]FF[4]SZ[5]KM[7]PB[Anna \\] <b>]PW[]RE[B+3]C[old];B[cc];W[bb](;B[dd];W[cb];B[];W[])"
        "(;B[aa]))")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    made = sp.net("go5x5", "1x8", seed=2)
    save_net(tmp_path / "net", made, made.spec, {"game": "go5x5", "step": 0, "compute": {}})
    return tmp_path / "net"


def test_a_review_is_read_by_another_program(tmp_path: Path) -> None:
    """sgfmill takes it apart: the game as it was, a comment and marks on every node, and the
    variations, all of them legal and better than what was played."""
    (tmp_path / "g.sgf").write_text(GAME)
    mind = of_net(sp.net("go5x5", "1x8", seed=2), sp.make("go5x5"), "tiny", 30)
    (one,) = review(mind, read_sgf(tmp_path / "g.sgf"))
    assert not isinstance(one, tuple)
    assert all(f.visits == 31 or f.proven is not None for f in one.found[:-1])
    assert one.found[-1].over and one.found[2].visits == 31
    alone = sp.search("go5x5", one.line.at(2), mind.net, sims=30)
    assert one.found[2].best is not None and one.found[2].best.action == alone.action[0]
    assert one.found[2].value == pytest.approx(alone.value[0], abs=1e-5)
    game = sgfmill.Sgf_game.from_string(reviewed_sgf(one, "tiny"))
    nodes = game.get_main_sequence()
    moves = [node.get_move() for node in nodes[1:]]
    assert moves == [("b", (2, 2)), ("w", (3, 1)), ("b", (1, 3)), ("w", (3, 2)), ("b", None),
                     ("w", None)]
    assert game.get_player_name("b") == "Anna ] <b>" and game.get_komi() == 7
    judged = one.moves()
    assert game.get_root().get("RU") == "Chinese"
    for ply, node in enumerate(nodes):
        text = node.get("C")
        black = float(re.match(r"Black ([\d.]+)%", text)[1])  # type: ignore[index]
        assert black == pytest.approx(100 * one.black()[ply], abs=0.06)
        assert float(node.get_raw("SBKV")) == pytest.approx(100 * one.black()[ply], abs=0.06)
        better = one.found[ply - 1].best if ply else None
        triangles = node.get("TR") if node.has_property("TR") else set()
        if better is None or better.action in (25, judged[ply - 1].action):
            assert not triangles
        else:  # what was better stands on the board, by a mark or a letter
            point = divmod(better.action, 5)
            letters = node.get("LB") if node.has_property("LB") else []
            assert point in triangles | {place for place, _ in letters}
        assert node.has_property("LB") or one.found[ply].over or "A pass" in text
        if ply < len(judged):
            assert (len(node) == 2) == (judged[ply].loss >= MISTAKE)
    for move in judged:
        assert 0 <= move.loss <= 1 and (not move.agrees or move.loss == 0)
    page = to_page(one, "tiny")
    for colour, row in enumerate(page.table):
        mine = [m.agrees for m in judged if m.colour == colour]
        assert (row[1], row[2]) == (3, f"{sum(mine) / 3:.0%}") and len(mine) == 3
    assert len(page.curve.winrates) == 7 and len(page.mistakes) <= 5
    losses = [float(re.search(r"loses ([\d.]+)%", m.words)[1])  # type: ignore[index]
              for m in page.mistakes]
    assert losses == sorted(losses, reverse=True)


def test_by_the_command(net: Path, tmp_path: Path, run: Command) -> None:
    games = tmp_path / "games"
    games.mkdir()
    (games / "a.sgf").write_text(GAME + "(;SZ[5]KM[7];B[zz])" + GAME)
    (games / "handicap.sgf.gz").write_bytes(gzip.compress(
        b"(;SZ[5]KM[7]HA[2]AB[aa][ee]PL[W];W[cc];B[bb];B[cb])"))
    (games / "size.sgf").write_text("(;SZ[21]KM[7];B[aa])")
    (games / "illegal.sgf").write_text("(;SZ[5]KM[7];B[aa];W[aa])")
    (games / "no.sgf").write_text("not a game")
    said = run("analyse", str(games), "--net", f"{net}@8", "--out", "out", "--html")
    assert said.code == 1 and "3 games reviewed, 4 left out (named above)" in said.err, said.err
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {f"{name}-reviewed.{kind}" for name in ("a-1", "a-3", "handicap")
                    for kind in ("sgf", "html")}
    assert said.out.count("left out: ") == 4 and "move 2: illegal" in said.out
    assert "a.sgf, game 2: move 1 is off the board" in said.out
    page = (tmp_path / "out/a-1-reviewed.html").read_text()
    assert "Anna ] &lt;b&gt;" in page and "<b>]" not in page and "http" not in re.sub(
        r'xmlns="[^"]*"', "", page)
    assert page.count("<figure>") <= 5 and 'class="curve"' in page
    one = run("analyse", str(games / "handicap.sgf.gz"), "--net", f"{net}@8", "--out", "r.sgf")
    assert one.code == 0 and "AB[" in (tmp_path / "r.sgf").read_text()
    run("analyse", str(games / "illegal.sgf"), "--net", f"{net}@8").mistake("illegal move")
    sized = run("analyse", str(games / "handicap.sgf.gz"), "--net", "mcts:8", "--game", "go7x7")
    sized.mistake("a game of 5x5, and --game asks for 7x7", "without --game")
    run("analyse", str(games / "none.sgf"), "--net", f"{net}@8").mistake("no such file")
    run("analyse", "--net", f"{net}@8").mistake("name a game")
    run("analyse", str(games / "a.sgf"), "--net", "tictactoe@8").mistake("SGF is of Go")


def test_what_loses_nothing_has_nothing_better(tmp_path: Path) -> None:
    """Rollouts judge the position after a move anew, so that it may look as good as the best."""
    (tmp_path / "g.sgf").write_text(
        "(;GM[1]FF[4]SZ[5]KM[7];B[cc];W[bb];B[dd];W[cb];B[bc];W[dc];B[cd];W[db];B[ec];W[eb])")
    for sims in (8, 20):
        (one,) = review(rollout_mind(sp.make("go5x5"), sims), read_sgf(tmp_path / "g.sgf"))
        assert not isinstance(one, tuple)
        text, judged = reviewed_sgf(one, "mcts"), one.moves()
        assert "loses 0.0%" not in text and "loses nothing; the net's move is" in text
        assert any(move.loss < NOTHING and not move.agrees for move in judged)
        assert not any("loses 0.0%" in mistake.words for mistake in to_page(one, "mcts").mistakes)


def test_a_game_is_reviewed_by_the_net_that_comes_along(
    run: Command, tmp_path: Path,
) -> None:
    game = tmp_path / "g.sgf"
    game.write_text("(;GM[1]FF[4]SZ[9]KM[7]RE[B+R];B[ee];W[gc])")
    said = run("analyse", str(game), "--visits", "4")
    assert said.code == 0 and "2 moves" in said.out, said.err
