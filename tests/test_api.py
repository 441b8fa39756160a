"""``import selfplay as sp``: light, documented, and enough for a notebook."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from command import ROOT, TINY

import selfplay as sp
from selfplay.arena.engines import GtpPlayer
from selfplay.run.config import FROM_NOTHING, preset


def python(code: str, cwd: Path, *options: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=cwd, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_it_is_light() -> None:
    heavy = ["torch", "numba", "numpy", "matplotlib", "pyspiel", "click", "rich"]
    python(f"import sys, selfplay; dir(selfplay); found = set({heavy}) & set(sys.modules)\n"
           "assert not found, found", ROOT)


def test_a_clones_parent_folder_gives_the_package(tmp_path: Path) -> None:
    """The clone's folder is called like the package and holds folders called like its modules; an
    editable install must be a line of a .pth, as one by a finder comes after namespace packages."""
    clone, wheels, site = (tmp_path / name for name in ("selfplay", "wheels", "site"))
    clone.mkdir()
    wheels.mkdir()
    for name in ("pyproject.toml", "README.md", "games", "models", "selfplay"):
        (clone / name).symlink_to(ROOT / name)
    (clone / "runs").mkdir()
    python("from setuptools.build_meta import build_editable\n"
           f"build_editable({str(wheels)!r})", clone)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    python(f"import site; site.addsitedir({str(site)!r})\n"
           "import importlib.util as find, selfplay\n"
           f"assert selfplay.__file__ == {str(clone / 'selfplay/__init__.py')!r}\n"
           "assert 'UserError' in dir(selfplay) and selfplay.UserError\n"
           "for name in ('run', 'report', 'cli', 'learn'):\n"
           "    assert find.find_spec(f'selfplay.{name}').origin.endswith('__init__.py')",
           tmp_path, "-S")


@pytest.mark.parametrize(("call", "said"), [
    (lambda: sp.match("tictactoe", "random", "random", games=-1), "sp.match: games=-1"),
    (lambda: sp.match("tictactoe", "random", "random", games=2.5), "games=2.5"),
    (lambda: sp.match("tictactoe", "random", "random", slots=0), "slots=0"),
    (lambda: sp.match("tictactoe", "random", "random", opening=(3, 1)), "in order"),
    (lambda: sp.match("tictactoe", "random", "random", opening=5), "opening=5"),
    (lambda: sp.match("tictactoe", "random", "random", seed=-1), "seed=-1"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), sims=-4), "sp.search: sims=-4"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), sims=0), "from 1 to 999999999"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), leaves=0), "from 1 to 1024"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), seed="x"), "seed='x'"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), sims=2**31 - 1), "999999999"),
    (lambda: sp.search("go9x9", sp.make("go7x7").new(1)), "states of go9x9 wanted"),
    (lambda: sp.search("connect4", sp.make("tictactoe").new(1)), "states of connect4 wanted"),
    (lambda: sp.search("connect4", sp.make("connect4").new(1), sp.net("tictactoe", "1x8")),
     "sp.search: the net is for tictactoe, not for connect4"),
    (lambda: sp.search("tictactoe", sp.make("tictactoe").new(1), torch.nn.Linear(3, 3)),
     "does not take positions of tictactoe"),
    (lambda: sp.match("connect4", sp.net("tictactoe", "1x8"), "random"), "not for connect4"),
    (lambda: sp.analyse(sp.make("connect4").new(1), "tictactoe"), "states of tictactoe wanted"),
    (lambda: sp.match("tictactoe", "random", "random", device="tpu"), "sp.match: device tpu: auto"),
    (lambda: sp.load("a" * 5000), "no packaged net"),
    (lambda: sp.player("tictactoe", "random", sims=-1), "sp.player: sims=-1"),
    (lambda: sp.analyse(["a1"], "tictactoe", sims=-1), "sp.analyse: sims=-1"),
    (lambda: sp.analyse(["a1"], "tictactoe", sims=True), "sims=True"),
    (lambda: sp.net("tictactoe", "1x8", seed=-1), "sp.net: seed=-1"),
    (lambda: next(sp.alphazero("tictactoe", iterations=-1)), "iterations=-1"),
    (lambda: next(sp.alphazero("tictactoe", sims=-1)), "sims=-1"),
    (lambda: next(sp.league("tictactoe", iterations=0)), "iterations=0"),
    (lambda: next(sp.rollouts("tictactoe", None, games=0)), "games=0"),
    (lambda: sp.train("tictactoe", minutes=-1), "minutes=-1"),
    (lambda: sp.Board("tictactoe", sp.make("connect4").new(1)), "states of tictactoe wanted"),
    (lambda: sp.Board("tictactoe", None), "states of tictactoe wanted"),
    (lambda: sp.Board("tictactoe", sp.make("tictactoe").new(2), 2), "row=2"),
])
def test_bad_numbers_are_named_before_anything_begins(call: Any, said: str) -> None:
    with pytest.raises(sp.UserError, match=re.escape(said)):
        call()


def test_a_board_by_the_name_of_its_game() -> None:
    game = sp.make("tictactoe")
    assert str(sp.Board("tictactoe", game.new(1))) == str(sp.Board(game, game.new(1)))


def test_games_and_players_show_themselves() -> None:
    game = sp.make("tictactoe")
    assert repr(game) == f"<tictactoe: {game.rules}>"
    made = [sp.player(game, "random"), sp.player(game, sp.net(game, "1x8"), sims=8),
            sp.player(game, "human"), GtpPlayer("gtp:x", "x", sp.make("go5x5"))]
    assert list(map(repr, made)) == ["<player random>", "<player net@8>", "<player human>",
                                     "<player gtp:x>"]


def test_the_version_is_that_of_the_package() -> None:
    assert f'version = "{sp.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(sp, name)
    assert name in dir(sp)
    assert len(inspect.getdoc(thing) or "") > 30, name


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no 'serch'; it has"):
        sp.serch  # noqa: B018


def test_search_stays_a_function_when_its_folder_is_imported() -> None:
    for first in ("selfplay.search.search", "selfplay.search", "selfplay"):
        code = (f"import importlib, selfplay as sp; importlib.import_module({first!r})\n"
                "from selfplay.search import tree\nassert tree.__name__ == 'selfplay.search.tree'\n"
                "assert callable(sp.search) and sp.search.__name__ == 'search'")
        done = forked.python(code, cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_types_are_shipped() -> None:
    assert (ROOT / "selfplay/py.typed").exists()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("module", [
    "api.analyse", "api.boards", "api.training", "api.runs", "games.catalogue", "games.base",
    "games.check", "inference.evaluator", "arena.match", "arena.players", "search.grow",
    "arena.contest.clock", "serve.gtp.protocol", "serve.line", "serve.thinker"])
def test_examples_in_docstrings(module: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(f"selfplay.{module}"),
                            optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize("name", [name for name in sp.__all__ if name not in (
    "Found", "GameError", "UserError", "NetOutput", "NetSpec")])
def test_each_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(sp, name)) or "")


# ------------------------------------------------------------------------------------ boards

def shown(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter()
            if element.tag.endswith("text")]


@pytest.mark.parametrize(("spec", "moves", "stones", "words"), [
    ("go9x9", "E5 C3 G7", 3, ["A", "J", "9", "move 3, white to move"]),
    ("connect4", "4 4 3", 3, ["7", "move 3, second to move"]),
    ("tictactoe", "a1 b2", 2, ["a", "3", "move 2, first to move"]),
])
def test_a_board_is_drawn(spec: str, moves: str, stones: int, words: list[str]) -> None:
    game = sp.make(spec)
    states = game.new(1)
    for text in moves.split():
        game.step(states, np.array([game.text_to_action(states, 0, text)]))
    policy = np.zeros(game.num_actions)
    policy[[1, 0]] = 0.75, 0.25
    bare, full = (sp.Board(game, states, policy=p, last=-1)._repr_svg_() for p in (None, policy))
    assert set(words) <= set(shown(bare)) and "75%" not in shown(bare)
    assert {"75%", "25%", *words} <= set(shown(full))
    discs = [e for e in ElementTree.fromstring(bare).iter() if e.tag.endswith("circle")
             and e.get("stroke") == "#20242b"]
    assert len(discs) == stones
    seen = sp.Board(game, states, policy=policy).pixels()
    assert seen.dtype == np.uint8 and seen.shape[2] == 3 and len(np.unique(seen)) > 20


def test_the_last_move_a_pass_and_the_end_are_told() -> None:
    game = sp.make("go5x5")
    states = game.new(1)
    game.replay(states, np.array([[12, 25]]))
    policy = np.eye(26)[25]
    assert "after a pass, pass 100%" in sp.Board(game, states, policy=policy)._repr_svg_()
    game.replay(states, np.array([[25]]))
    assert "black has won" in sp.Board(game, states)._repr_svg_()
    marked = sp.Board(sp.make("tictactoe"), sp.make("tictactoe").new(1), last=4)._repr_svg_()
    assert "#e02f7b" in marked


def test_a_board_of_another_kind_is_drawn_as_text() -> None:
    game = sp.make("openspiel:nim")
    policy = np.zeros(game.num_actions)
    policy[3] = 1.0
    drawn = sp.Board(game, game.new(1), policy=policy)._repr_svg_()
    assert any("100%" in text for text in shown(drawn))
    with pytest.raises(ValueError, match="policy of shape"):
        sp.Board(game, game.new(1), policy=policy[:2])._repr_svg_()


def test_search_does_not_depend_on_the_batch() -> None:
    game, net = sp.make("connect4"), sp.net("connect4", "1x8")
    states = game.new(3)
    game.replay(states, np.array([[3, -1], [2, 3], [0, 0]]))
    found = sp.search(game, states, net, sims=24)
    visits, policy, value, action = found
    assert visits.shape == policy.shape == (3, 7) and (visits.sum(1) == 24).all()
    assert np.allclose(policy.sum(1), 1) and (np.abs(value) <= 1).all()
    assert (action == visits.argmax(1)).all()
    evaluator = sp.Evaluator(net, game)
    again = sp.search(game, states, evaluator, sims=24)
    assert (again.visits == visits).all()
    assert found._repr_html_().count("<svg") == 3 and "(" in str(found)


def test_a_match_of_nets_and_its_picture() -> None:
    game = sp.make("tictactoe")
    one, two = sp.net(game, "1x8", seed=0), sp.net(game, "1x8", seed=1)
    result = sp.match(game, sp.player(game, one, sims=16, name="one"), two, games=12)
    assert (result.a, result.b, result.games) == ("one", "net b", 12)
    html = result._repr_html_()
    assert f"{result.score:.1%}" in html and "<svg" in html and "one against net b" in html


# ---------------------------------------------------------------------------------- training

def test_alphazero_learns_and_can_be_left() -> None:
    net = sp.net("tictactoe", "1x8")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    small = {"sims": 8, "positions": 64, "games": 8, "opening": (0, 1), "cache_mb": 1}
    rows = sp.alphazero("tictactoe", net, **small)
    assert [next(rows)["iteration"] for _ in range(2)] == [1, 2]
    rows.close()
    after = {k: v.clone() for k, v in net.state_dict().items()}
    assert any((before[k] != v).any() for k, v in after.items())
    again = sp.net("tictactoe", "1x8")
    list(sp.alphazero("tictactoe", again, iterations=2, **small))
    assert all((after[k] == v).all() for k, v in again.state_dict().items()), "the same again"
    with pytest.raises(sp.UserError, match=r"did you mean rl\.positions"):
        next(sp.alphazero("tictactoe", net, posittions=64))


def test_a_fresh_net_learns_at_the_rate_of_runs_from_nothing() -> None:
    small = {"sims": 8, "positions": 64, "games": 8, "iterations": 2}
    size = preset("tictactoe").net
    own, given, usual = (
        [row["loss"] for row in sp.alphazero("tictactoe", net, **small, **rate)]
        for net, rate in ((None, {}), (sp.net("tictactoe", size), {"learning_rate": FROM_NOTHING}),
                          (sp.net("tictactoe", size), {})))
    assert own == given and own != usual


def test_a_gated_loop_judges() -> None:
    row = next(sp.alphazero("tictactoe", sp.net("tictactoe", "1x8"), sims=8, positions=64, games=8,
                            gating=True, gating_games=8))
    assert 0 <= row["gate"] <= 1


def test_the_league_moves_the_net() -> None:
    net = sp.net("tictactoe", "1x8")
    before = [p.clone() for p in net.parameters()]
    row = next(sp.league("tictactoe", net, "grpo", pool_games=16, pool_group=4, epochs=2))
    assert row["games"] == 16 and row["updates"] >= 2
    assert any((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(sp.UserError, match="searches"):
        next(sp.league("tictactoe", net, "gumbel"))


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "grpo", {"estimator": "mean",
                                                                     "kl_weight": 0.01}])
def test_policy_gradient_moves_the_policy(algorithm: Any) -> None:
    game = sp.make("tictactoe")
    net = sp.net(game, "1x8")
    policy = sp.policy(game, net)
    before = [p.clone() for p in net.parameters()]
    rows = sp.policy_gradient(policy, sp.rollouts(game, policy, 16, group=4), algorithm,
                              learning_rate=1e-3)
    row = next(rows)
    assert row["iteration"] == 1 and row["steps"] > 16 and np.isfinite(row["policy_loss"])
    assert any((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(sp.UserError, match="reinforce"):
        next(sp.policy_gradient(policy, [], "pppo"))


def test_a_run_is_the_command_lines(tmp_path: Path) -> None:
    settings = dict(word.split("=") for word in TINY if "=" in word and "." in word)
    run = sp.train("tictactoe", minutes=60, run=tmp_path / "r", net="1x8", settings=settings)
    assert run.history("rl")[-1]["iteration"] == 3 and run.summary
    assert run._repr_png_()[:4] == b"\x89PNG" and "base64" in run._repr_html_()
    assert "rl 3 rows" in repr(sp.Run(tmp_path / "r"))
    game = sp.make("tictactoe")
    assert sp.search(game, game.new(1), run.net(), sims=4).visits.sum() == 4
    with pytest.raises(sp.UserError, match="not for connect4"):
        sp.load(tmp_path / "r", "connect4")
