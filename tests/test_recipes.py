"""The recipes: what they set, which stages they have, and AlphaGo's from one end to the other."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command import TINY, Command, selfplay
from PIL import Image

from selfplay.board.value import SHARD_GAMES
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.common.settings import to_dict
from selfplay.learn import checkpoint
from selfplay.run import compare_runs
from selfplay.run.clock import Clock
from selfplay.run.compare import Pairing
from selfplay.run.config import (
    RunConfig,
    from_dict,
    must_have_effect,
    override,
    preset,
    with_recipe,
)
from selfplay.run.folder import freeze, open_run, stages
from selfplay.run.shards import read_rows
from selfplay.run.start import open_or_start

T = ("--game", "tictactoe")
SMALL = [*TINY, *(word for setting in (
    "pool.games=32", "value.games=512", "value.batch_size=32", "value.evaluate_every=10",
    "value.max_steps=20") for word in ("--set", setting))]


# ---------------------------------------------------------------------------------- settings

def test_what_a_recipe_sets() -> None:
    plain = preset("connect4")
    assert (plain.recipe, plain.init, plain.rl.algorithm) == ("alphazero", "sft", "gumbel")
    alphago, zero = (with_recipe(plain, name) for name in ("alphago", "zero"))
    assert (alphago.init, alphago.rl.algorithm, alphago.pg.value_weight > 0) == (
        "sft", "ppo", True)
    assert (zero.init, zero.rl.algorithm) == ("random", "gumbel")
    assert with_recipe(alphago, "alphazero") == with_recipe(zero, "alphazero") == plain
    taught = override(plain, ["rl.algorithm=reinforce", "recipe=alphago"])
    assert taught.rl.algorithm == "reinforce"  # in whatever order
    assert with_recipe(override(plain, ["rl.algorithm=grpo"]), "alphago").rl.algorithm == "grpo"


def test_self_play_from_nothing_learns_at_a_higher_rate() -> None:
    plain = preset("connect4")
    for words, rate in {
        "recipe=zero": 4e-3, "init=random": 4e-3, "init=random rl.algorithm=puct": 4e-3,
        "rl.learning_rate=2e-3 init=random": 2e-3, "": 1e-3, "init=runs/other": 1e-3,
        "recipe=alphago": 1e-3, "init=random rl.algorithm=ppo": 1e-3,
    }.items():
        assert override(plain, words.split()).rl.learning_rate == rate, words
    taught = with_recipe(with_recipe(plain, "zero"), "alphago")
    assert taught.rl == with_recipe(plain, "alphago").rl
    must_have_effect(taught, plain.rl, None)


def test_a_run_from_before_keeps_its_rate(tmp_path: Path) -> None:
    old = replace(preset("tictactoe"), init="random")
    freeze(open_run(tmp_path, old))
    for again in (open_or_start(tmp_path), open_or_start(tmp_path, init="random"),
                  open_or_start(tmp_path, assignments=["init=random"])):
        assert again.config.rl.learning_rate == 1e-3
    new = open_or_start(tmp_path / "new", "tictactoe", init="random")
    assert new.config.rl.learning_rate == 4e-3


def test_the_value_stage_is_alphagos_only(tmp_path: Path) -> None:
    plain = preset("tictactoe")
    assert list(stages(plain)) == ["expert", "sft", "rl", "eval"]
    assert list(stages(plain).values()) == list(plain.shares)
    alphago = with_recipe(plain, "alphago")
    assert list(stages(alphago)) == ["expert", "sft", "rl", "value", "eval"]
    run = open_run(tmp_path, override(alphago, ["minutes=10", "shares=0,0,1,1",
                                                "value.share=0.5"]))
    clock = Clock(run, stages(run.config))
    assert clock.budget("rl") == pytest.approx(600 / 2.5)
    clock.seconds["rl"] = 300.0
    assert clock.budget("value") == pytest.approx(300 / 3)
    assert clock.budget("eval") == pytest.approx(300)


def test_a_run_from_before_the_recipes_opens(tmp_path: Path) -> None:
    old = to_dict(preset("tictactoe"))
    del old["recipe"], old["value"]
    assert from_dict(old, "config.json") == preset("tictactoe")
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "progress.json").write_text('{"seconds": {"sft": 5.0}, "done": ["sft"]}')
    run = open_run(tmp_path, preset("tictactoe"))
    clock = Clock(run, stages(run.config))
    assert clock.seconds == {"expert": 0.0, "sft": 5.0, "rl": 0.0, "eval": 0.0}
    assert clock.done == ["sft"]
    assert RunConfig("tictactoe").recipe == "alphazero"


@pytest.mark.parametrize(("words", "told"), [
    (("train", *T, "--recipe", "alphago", "--algo", "gumbel"), ("rl.algorithm=gumbel", "ppo")),
    (("train", *T, "--recipe", "alphago", "--init", "random"), ("--init sft", "--recipe zero")),
    (("train", *T, "--recipe", "zero", "--init", "sft"), ("from nothing", "alphazero")),
    (("train", *T, "--recipe", "muzero"), ("muzero", "alphago")),
    (("train", *T, "--set", "value.init=sft"), ("value.init=sft", "rl, random")),
    (("train", *T, "--set", "value.games=0"), ("value.games=0", "more than 0")),
    (("value", "--run", "nowhere"), ("nowhere", "no run there")),
    (("match", "alphago:nowhere@4", "random", *T), ("nowhere", "no folder of a run")),
    (("match", "alphago:nowhere", "random", *T), ("simulations", "@64x8")),
    (("compare", "nowhere", "elsewhere"), ("nowhere", "no run there")),
], ids=lambda v: " ".join(v)[:60])
def test_a_mistake_is_one_line(run: Command, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    run(*words).mistake(*told)


# ------------------------------------------------------------------------------- a whole run

@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a (alphago) and z (zero), made by the command."""
    place = tmp_path_factory.mktemp("recipes")
    for name, recipe in (("a", "alphago"), ("z", "zero")):
        done = selfplay("train", *T, "--recipe", recipe, "--run", name, *SMALL, cwd=place,
                        fresh=recipe == "alphago")
        assert done.returncode == 0, done.stderr
    return place


def test_alphago_from_end_to_end(folder: Path) -> None:
    a = folder / "a"
    rows = read_rows(a / "value/games")
    assert 0.5 * SHARD_GAMES < len(rows.value) <= SHARD_GAMES
    history = read_history(a / "value/history.jsonl")
    assert [row["step"] for row in history] == [10, 20]
    assert all(0 < row["train_mse"] < 2 and 0 < row["value_mse"] < 2 for row in history)
    rl = checkpoint.newest(a / "rl")
    meta = checkpoint.read_meta(checkpoint.newest(a / "value"))
    taught = json.loads((a / "sft/best.json").read_text())["checkpoint"]
    assert meta["policies"] == {"sft": f"sft/{taught}", "rl": f"rl/{rl.name}"}
    assert meta["compute"]["flops"] > checkpoint.read_meta(rl)["compute"]["flops"]
    evaluation = json.loads((a / "evaluation.json").read_text())
    modes = {(p["stage"], p["sims"]) for p in evaluation["points"] if p["elo"] is not None}
    assert modes == {("sft", 0), ("sft", 4), ("rl", 0), ("value", 4)}
    final = [p for p in evaluation["points"] if p["stage"] == "value"]
    assert final[0]["player"].startswith("alphago:a/value/ckpt-0000")
    met = {m["b"] for m in evaluation["matches"] if m["a"] == final[0]["player"]}
    assert {"random", "mcts:8"} < met
    assert sum("sft/" in name and name.endswith("@4") for name in met) == 1
    assert "--recipe alphago" in evaluation["commands"][0]
    assert "algorithm" not in evaluation["commands"][0]
    text = (a / "report.html").read_text()
    assert "AlphaGo" in text and "Value net: mean squared error" in text
    assert json.loads((a / "summary.json").read_text())["modes"]["search@4"]["stage"] == "value"
    assert "value" in json.loads((a / "progress.json").read_text())["seconds"]
    assert "value" not in json.loads((folder / "z/progress.json").read_text())["seconds"]
    assert not (folder / "z/value").exists() and not (folder / "z/sft").exists()


def test_the_same_again_and_after_a_loss(folder: Path, tmp_path: Path) -> None:
    """The value net comes out the same where it is made again from the same policies, and where
    training is cut after the first look."""
    shutil.copytree(folder / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a/value/games")
    for path in (tmp_path / "a/value").glob("ckpt-*"):
        shutil.rmtree(path)
    words = ("value", "--run", "a", "--minutes", "60")
    assert selfplay(*words, "--set", "value.max_steps=10", cwd=tmp_path).returncode == 0
    done = selfplay(*words, "--set", "value.max_steps=20", cwd=tmp_path)
    assert done.returncode == 0 and "ckpt-0000" in done.stdout
    for one in ("value/ckpt-000020/weights.safetensors", "value/games/000000.npz"):
        first, again = ((place / "a" / one).read_bytes() for place in (folder, tmp_path))
        assert first == again or one.endswith("npz")  # zip files keep the time
    more = selfplay("rl", "--run", "a", "--minutes", "60", "--set", "rl.iterations=9",
                    cwd=tmp_path)
    assert more.returncode == 0 and "its policy plays for the value net" in more.stdout
    assert checkpoint.newest(tmp_path / "a/rl").name == "ckpt-000003"


def test_runs_on_one_chart(
    folder: Path, run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    out = ("--out", str(tmp_path / "both"))
    run("compare", "a", "z", "--labels", "one", *out).mistake("2 different names wanted")
    run("compare", "a", "a", *out).mistake("compare: a and a are one run", "name it once")
    first = run("compare", "a", "z", "--labels", "ours,theirs", *out)
    assert first.code == 0, first.err  # the runs' own matches tie them together
    played = run("compare", "a", "z", "--minutes", "30", *out)
    assert played.code == 0, played.err
    result = json.loads((tmp_path / "both/compared.json").read_text())
    assert [entry["label"] for entry in result["runs"]] == ["a", "z"]
    stages = [{(p["stage"], p["sims"]) for p in entry["points"]} for entry in result["runs"]]
    assert stages == [{("sft", 0), ("sft", 4), ("rl", 0), ("value", 4)}, {("rl", 0), ("rl", 4)}]
    for entry in result["runs"]:
        assert all(p["low"] < p["elo"] < p["high"] for p in entry["points"])
    final = result["runs"][0]["points"][-1]["player"]
    assert any({final, "net:z/rl/ckpt-000003@4"} == {m["a"], m["b"]} and m["games"] == 6
               for m in result["matches"])
    assert all(m["a"].split("/")[0] != m["b"].split("/")[0] for m in result["matches"])
    for name in (final, "net:z/rl/ckpt-000003@4"):
        assert name in played.out
    with Image.open(tmp_path / "both/compared.png") as chart:
        assert chart.format == "PNG" and chart.width == 2000
    games = {p: p.read_bytes() for p in (tmp_path / "both").glob("*/games.jsonl")}
    assert run("compare", "a", "z", "--minutes", "30", "--time", *out).code == 0
    assert games == {p: p.read_bytes() for p in (tmp_path / "both").glob("*/games.jsonl")}


def test_each_pair_of_runs_meets_and_nobody_meets_himself(folder: Path) -> None:
    runs = [open_run(folder / name, from_dict(json.loads((folder / name / "config.json")
                                                         .read_text()), "")) for name in "az"]
    found = compare_runs.pairings(compare_runs.entries(runs))
    assert found[0] == Pairing(f"net:{folder}/z/rl/ckpt-000003@4", f"{_final(folder)}@4", 6)
    keys = [frozenset((p.a, p.b)) for p in found]
    assert len(set(keys)) == len(keys) and all(len(key) == 2 for key in keys)
    with pytest.raises(UserError, match="different names"):
        compare_runs.entries([runs[0], runs[0]])
    other = replace(runs[1], config=override(runs[1].config, ["eval.sims=9"]))
    with pytest.raises(UserError, match=r"judged with eval\.sims 9") as caught:
        compare_runs.entries([runs[0], other])
    words = shlex.split(str(caught.value).partition("to judge all alike: ")[2])
    assert words == ["selfplay", "compare", f"{folder}/a", f"{folder}/z", "--set", "eval.sims=4"]


def _final(folder: Path) -> str:
    best = json.loads((folder / "a/value/best.json").read_text())["checkpoint"]
    return f"alphago:{folder}/a/value/{best}"
