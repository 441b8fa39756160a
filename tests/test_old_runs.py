"""A run of version 0.1.0, made before the package had floors, still opens and goes on."""

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

ARCHIVE = Path(__file__).parent / "data" / "run-before-floors.tar.xz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "tictactoe"


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
