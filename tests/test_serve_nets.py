"""The nets that come with the package, and nets for other programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, Command

import selfplay as sp
from selfplay.arena.players import parse_player
from selfplay.arena.spec import checkpoint_of, full_name
from selfplay.games.base import take
from selfplay.learn import checkpoint, packaged
from selfplay.learn.checkpoint import load_net, read_meta, save_net
from selfplay.serve.card import card_of
from selfplay.serve.export import export
from selfplay.serve.listing import nets_text
from selfplay.serve.mind import mind_of, of_net


def worst(net: torch.nn.Module, side: int) -> tuple[float, int]:
    """(the worst result for player ``side`` who makes the net's most probable move, against every
    reply; positions in which it had to move) of tic-tac-toe, by going through all of them."""
    game = sp.make("tictactoe")
    evaluate = sp.Evaluator(net, game)
    states, lowest, seen = game.new(1), 1.0, 0
    while len(states.ply):
        legal = game.legal(states)
        if states.to_play[0] == side:
            seen += len(legal)
            logits, _ = evaluate(states, legal)
            game.step(states, np.where(legal, logits, -np.inf).argmax(1))
        else:
            rows, actions = np.nonzero(legal)
            states = take(states, rows)
            game.step(states, actions)
            states = take(states, np.unique(game.keys(states), return_index=True)[1])
        done, value = game.result(states)
        lowest = min([lowest, *(value[done] * (1 - 2 * side)).tolist()])
        states = take(states, ~done)
    return lowest, seen


def test_the_tictactoe_net_that_comes_along_never_loses() -> None:
    net = sp.load("tictactoe", "tictactoe")
    for side in (0, 1):
        lowest, seen = worst(net, side)
        assert lowest == 0.0 and seen > 50
    fresh = sp.net("tictactoe", "1x8")
    assert min(worst(fresh, 0)[0], worst(fresh, 1)[0]) == -1.0  # the test can fail


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packaged nets with one tiny one, ``small``."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(packaged, "folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    net = sp.net("go5x5", "1x8", seed=3)
    save_net(tmp_path / "run/rl/ckpt-000007", net, net.spec,
             {"game": "go5x5", "kind": "rl", "step": 7, "compute": {"seconds": 1800.0}})
    checkpoint = tmp_path / "run/rl/ckpt-000007"
    card = card_of(checkpoint, "a note")
    assert card["hours"] == 0.5 and card["commit"] and card["rules"].startswith("Tromp")
    export(checkpoint, card, "safetensors", folder / "small.safetensors")
    return folder


def test_names_mean_packaged_nets(weights: Path, run: Command) -> None:
    assert packaged.names() == ["small"] and packaged.find("other") is None
    first = sp.net("go5x5", "1x8", seed=3)
    for net in (sp.load("small"), mind_of("small@8").net, mind_of("net:small").net):
        assert net is not None
        for one, two in zip(net.parameters(), first.parameters(), strict=True):
            assert torch.equal(one, two)
    assert checkpoint_of("small@64", "net:small@64")[1] is not None
    assert full_name("net:small@64") == "net:small@64"  # it means the same everywhere
    result = sp.match("go5x5", "net:small", "policy:small", games=2)
    assert result.games == 2
    said = run("nets")
    assert "small: go5x5, net 1x8" in said.out and "a note" in said.out
    assert "a note" in nets_text()
    with pytest.raises(sp.UserError, match="no packaged net"):
        mind_of("tiny@8")
    with pytest.raises(sp.UserError, match="a net for go5x5, not for go7x7"):
        sp.load("small", "go7x7")
    Path("small").mkdir()  # a folder of that name comes first
    with pytest.raises(sp.UserError):
        sp.load("small")


def test_a_card_says_by_how_many_symmetries_its_net_is_played(weights: Path, run: Command) -> None:
    where = ("run/rl/ckpt-000007", "--safetensors", "weights/turned.safetensors", "--symmetries")
    run("export", *where, "9").mistake("--symmetries 9: the board of go5x5 has 8")
    run("export", *where, "3", "--torchscript", "n.pt").mistake("goes with --safetensors")
    assert run("export", *where, "8").code == 0
    assert "    raw policy: the mean of 8 views" in run("nets").out
    game = sp.make("go5x5")
    states = game.new(2)
    game.replay(states, np.array([[0], [4]]))  # one corner, and the next
    legal = game.legal(states)
    for words, turned in (("small@0", False), ("turned@0", True), ("turned@8", False)):
        assert np.allclose(*mind_of(words)(states, legal)[1], atol=1e-3) == turned
    for words, turned in (("net:small", False), ("net:turned", True), ("policy:turned", True),
                          ("net:turned@2", False)):
        player: Any = parse_player(words, game, seed=0, slots=1)
        evaluate = player.evaluate if "@" in words else player.evaluator
        assert np.allclose(*evaluate(states, legal)[1], atol=1e-3) == turned
    larger, other = sp.make("go9x9"), sp.make("go7x7")
    net = sp.net(larger, "1x8")
    mind = of_net(net, larger, "larger", 0, spec=net.spec, symmetries=8).playing(other)
    states = other.new(2)
    other.replay(states, np.array([[0], [6]]))
    assert np.allclose(*mind(states, other.legal(states))[1], atol=1e-3)
    run("export", "turned", "--safetensors", "again.safetensors")
    assert read_meta(Path("again.safetensors"))["symmetries"] == 8
    card = weights / "turned.json"
    card.write_text(card.read_text().replace('"symmetries": 8', '"symmetries": 0'))
    with pytest.raises(sp.UserError, match=r"turned.json.*symmetries are no number from 1"):
        sp.load("turned")


def test_a_mind_is_told_of_its_net_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    once = checkpoint._read_meta
    monkeypatch.setattr(checkpoint, "_read_meta", lambda path: (read.append(path), once(path))[1])
    for words in ("small@8", "run/rl/ckpt-000007"):
        read.clear()
        assert mind_of(words).game.name == "go5x5" and len(read) == 1


def test_a_flipped_bit_in_packaged_weights_is_told(weights: Path, run: Command) -> None:
    file = weights / "small.safetensors"
    whole = file.read_bytes()
    for place in range(len(whole) - 1, len(whole) // 2, -997):  # in numbers, which stay numbers
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        with pytest.raises(sp.UserError, match=r"small\.safetensors: damaged .*install the pack"):
            sp.load("small")
    assert "small: left out" in run("nets").out
    file.write_bytes(whole)
    sp.load("small")


def test_every_packaged_net_has_its_sum() -> None:
    for name in packaged.names():
        file = packaged.folder() / f"{name}.safetensors"
        card = json.loads(file.with_suffix(".json").read_text())
        assert card[packaged.SUM] == zlib.crc32(file.read_bytes()), name
        for command in card["command"].split(";"):
            assert "--minutes" in command, f"{name}: {command}"


def test_nets_are_listed_without_anything_heavy(run: Command) -> None:
    code = ("import sys; from selfplay.serve.listing import nets_text; print(nets_text()); "
            "print(sorted({'torch', 'numpy', 'numba'} & set(sys.modules)))")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True).stdout
    assert said.strip().endswith("[]") and "tictactoe: tictactoe, net 3x32" in said


def test_a_misspelt_net_is_guessed(run: Command) -> None:
    run("match", "net:tictacto", "random", "--game", "tictactoe").mistake(
        "did you mean tictactoe?")
    with pytest.raises(sp.UserError, match=r"did you mean connect4\?"):
        sp.load("conect4")
    run("gtp", "--net", "mcts:100").mistake("mcts:100", "--game go9x9")
    run("gtp", "--net", "mcts:0", "--game", "go5x5").mistake("mcts:0", "from 1")


def test_training_starts_from_a_packaged_net(weights: Path, run: Command) -> None:
    said = run("rl", "--game", "go5x5", "--init", "small", "--minutes", "60", "--run", "again",
               "--set", "rl.iterations=1", "--set", "rl.sims=2", "--set", "rl.cheap_sims=2",
               "--set", "rl.games=4", "--set", "rl.positions=8", "--set", "rl.batch_size=8")
    assert said.code == 0, said.err
    config = json.loads(Path("again/config.json").read_text())
    assert config["net"] == "1x8" and config["init"].endswith("small.safetensors")
    run("rl", "--game", "go5x5", "--init", "smal", "--run", "other").mistake("a packaged net")


def test_damaged_packaged_nets_are_one_line(weights: Path) -> None:
    shutil.copy(weights / "small.safetensors", weights / "bare.safetensors")
    with pytest.raises(sp.UserError, match="no checkpoint"):
        sp.load("bare")
    (weights / "small.safetensors").write_bytes(b"xx")
    with pytest.raises(sp.UserError, match="damaged"):
        sp.load("small")


@pytest.mark.parametrize("game", ["go5x5", "connect4"])
def test_exported_nets_say_the_same(game: str, tmp_path: Path) -> None:
    """By other programs' readers, for one position and for many."""
    onnxruntime = pytest.importorskip("onnxruntime")
    net = sp.net(game, "2x8", seed=1)
    save_net(tmp_path / "c", net, net.spec, {"game": game, "step": 0, "compute": {}})
    card = card_of(tmp_path / "c")
    assert export(tmp_path / "c", card, "onnx", tmp_path / "n.onnx").read_text().count("| ") > 9
    export(tmp_path / "c", card, "torchscript", tmp_path / "n.pt")
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"))
    script = torch.jit.load(str(tmp_path / "n.pt"))
    for batch in (1, 7):
        obs = np.random.default_rng(0).random((batch, *net.spec.obs_shape), np.float32)
        with torch.inference_mode():
            out = net(torch.from_numpy(obs))
        wanted = [out.policy, out.value.tanh()]
        if out.ownership is not None:
            wanted += [out.ownership.tanh(), out.score]
        by_onnx = session.run(None, {"obs": obs})
        assert [o.name for o in session.get_outputs()] == ["policy", "value", "ownership",
                                                           "score"][: len(wanted)]
        for one, two, three in zip(wanted, by_onnx, script(torch.from_numpy(obs)), strict=True):
            assert np.abs(one.numpy() - two).max() < 1e-4
            assert np.abs(one.numpy() - three.detach().numpy()).max() < 1e-4


def test_a_card_names_no_folder_of_this_machine_alone(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from command import TINY

    (tmp_path / "here").mkdir()
    (tmp_path / "games").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = run("expert", "--game", "tictactoe", "--player", "random", "--games", "30", "--out",
               "../games/a.jsonl.gz")
    assert said.code == 0, said.err
    said = run("sft", "--game", "tictactoe", "--games", str(tmp_path / "games"), "--run", "r",
               *TINY)
    assert said.code == 0, said.err
    for net in ("r", str(tmp_path / "here/r")):
        assert run("export", net, "--torchscript", "n.pt").code == 0
        card = Path("n.md").read_text()
        assert str(tmp_path) not in card and "--run r " in card
        assert "expert.games=games" in card and "| data | games |" in card


def test_only_a_runs_checkpoint_is_said_to_be_deleted(run: Command) -> None:
    """Beside it lie older ones; a folder of another name may hold anything."""
    for name, remedy in (("notes", "name another"), ("ckpt-000007", "delete ckpt-000007")):
        Path(name).mkdir()
        Path(name, "meta.json").write_text("garbage")
        said = run("match", f"net:{name}", "random", "--game", "tictactoe")
        said.mistake("meta.json: damaged", remedy)
        assert ("delete" in said.err) == name.startswith("ckpt")


def test_export_says_what_is_wanted(run: Command) -> None:
    run("export", "tictactoe").mistake("name a file")
    run("export", "no-such", "--onnx", "x.onnx").mistake("no packaged net")
    run("export", "tictactoe", "--torchscript", "deep/t.pt")
    assert "never loses" in Path("deep/t.md").read_text()
    again = run("export", "tictactoe", "--safetensors", "u.safetensors")
    assert again.code == 0
    ours = packaged.find("tictactoe")
    assert ours is not None and Path("u.safetensors").read_bytes() == ours.read_bytes()
    assert read_meta(Path("u.safetensors"))["command"] == read_meta(ours)["command"]
    assert load_net(Path("u.safetensors"))[1]["game"] == "tictactoe"
    said = run("match", "net:u.safetensors", "net:tictactoe", "--games", "2")  # a draw by both
    assert said.code == 0 and "50.0% of 2 games" in said.out, said.err
    both = [sp.analyse(["a1 b2", "c3"], sims=8, net=sp.load(name))
            for name in ("u.safetensors", "tictactoe")]
    ours, theirs = ([(move.text, move.visits, move.prior) for found in some for move in found.moves]
                    for some in both)
    assert ours == theirs
    Path("u.safetensors").write_bytes(b"xx")
    run("match", "net:u.safetensors", "random").mistake("u.safetensors: damaged", "export it again")
    Path("u.json").unlink()
    run("match", "net:u.safetensors", "random", "--game", "tictactoe").mistake("card u.json")


@pytest.mark.parametrize(("files", "words"), [
    (["--safetensors", "t.json"], ["t.json", "call it t.safetensors"]),
    (["--torchscript", "t.md"], ["t.md: two files"]),
    (["--torchscript", "t.pt", "--onnx", "t.onnx"], ["t.md: two files", "other names"]),
])
def test_export_writes_nothing_over_what_it_has_written(
    run: Command, files: list[str], words: list[str]
) -> None:
    run("export", "tictactoe", *files).mistake(*words)
    assert not list(Path().glob("t.*"))


def test_a_card_that_does_not_fit_is_damaged(run: Command) -> None:
    assert run("export", "tictactoe", "--safetensors", "t.safetensors").code == 0
    whole = json.loads(Path("t.json").read_text())
    Path("t.json").write_text(json.dumps({**whole, "game": "go9x9"}))
    run("match", "net:t.safetensors", "random").mistake("t.json: damaged", "another board")
    for strength in ([1], "abc", {"a": 1}):
        Path("t.json").write_text(json.dumps({**whole, "strength": strength}))
        run("export", "t.safetensors", "--torchscript", "o.pt").mistake("t.json: damaged",
                                                                        "strength")


def test_every_net_that_comes_along_plays_its_game() -> None:
    """And Go's as much as its card says."""
    for name in packaged.names():
        game = sp.make(read_meta(packaged.folder() / f"{name}.safetensors")["game"])
        found = sp.search(game, game.new(1), sp.load(name), sims=8)
        assert game.legal(game.new(1))[0, found.action[0]]
    other = sp.make("go13x13(komi=5.5)")
    net = load_net(packaged.folder() / "go9x9.safetensors", other)[0]
    assert sp.search(other, other.new(1), net, sims=4).visits.sum() >= 4
