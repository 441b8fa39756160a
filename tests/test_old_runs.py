"""Runs of version 0.1.0 still open and go on: one of a game, made before the package had floors,
and one of texts, made before ``llm`` had sixteen files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from command import Command

from selfplay.arena.players import parse_player
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.run.folder import open_run, stored_config

DATA = Path(__file__).parent / "data"


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked("run-before-floors", tmp_path) / "tictactoe"


def test_its_settings_and_nets_are_read(folder: Path) -> None:
    config = stored_config(folder)
    assert config is not None
    run = open_run(folder, config)
    assert (run.config.net, run.config.seed, run.config.rl.iterations) == ("1x8", 3, 3)
    player = parse_player(f"net:{folder}@8", make("tictactoe"))
    assert str(folder) in player.name
    player.close()


def test_its_chart_is_drawn_again(folder: Path, run: Command) -> None:
    assert run("compare", str(folder)).code == 0
    assert (folder / "chart.png").stat().st_size > 10_000
    assert "ckpt-000003" in (folder / "evaluation.json").read_text()


def test_it_goes_on(folder: Path, run: Command) -> None:
    before = json.loads((folder / "rl" / "ckpt-000003" / "meta.json").read_text())
    assert run("rl", "--run", str(folder), "--minutes", "5", "--set", "rl.iterations=4").code == 0
    newest = checkpoint.newest(folder / "rl")
    assert newest is not None and newest.name == "ckpt-000004"
    after = checkpoint.read_meta(newest)
    assert after["compute"]["positions"] > before["compute"]["positions"]
    history = (folder / "rl" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in history] == [1, 2, 3, 4]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
    return unpacked("run-of-texts", tmp_path) / "sums"


def test_a_run_of_texts_is_measured_again(sums: Path, run: Command) -> None:
    from selfplay.llm.folder import newest_model, open_text_run, stored_text_config

    config = stored_text_config(sums)
    assert config is not None and (config.recipe, config.net, config.seed) == ("grpo", "1x32", 7)
    assert open_text_run(sums, config).config == config
    assert newest_model(sums) == sums / "rl" / "ckpt-000003"
    before = json.loads((sums / "evaluation.json").read_text())
    (sums / "evaluation.json").unlink()
    assert run("llm", "eval", str(sums), "--samples", "1,2", "--device", "cpu").code == 0
    after = json.loads((sums / "evaluation.json").read_text())
    assert after["stages"]["rl"] == before["stages"]["rl"]


def test_a_run_of_texts_goes_on(sums: Path, run: Command) -> None:
    said = run("llm", "train", "--run", str(sums), "--minutes", "900", "--set", "rl.steps=4")
    assert said.code == 0, said.err
    newest = checkpoint.newest(sums / "rl")
    assert newest is not None and newest.name == "ckpt-000004"
    history = (sums / "rl" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in history] == [1, 2, 3, 4]
