"""Damaged files of runs: each opens as it was, or ends in one line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attacking import Attack
from command import Command
from test_damaged_runs import files, whole  # noqa: F401
from test_kill import meta, random_columns, trainer

from selfplay.common.files import SUMS, write_state
from selfplay.learn import checkpoint
from selfplay.run.clock import Clock
from selfplay.run.shards import load_shard, save_shard

SPEC = checkpoint.NetSpec("1x8", (3, 3, 3), 9, False)


def spoil(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(what was done to it, the data): mostly one bit."""
    place = rng.randrange(len(data))
    kind = rng.choice(["bit"] * 7 + ["cut", "zeros", "noise"])
    if kind == "bit":
        flipped = data[place] ^ 1 << rng.randrange(8)
        return f"bit in byte {place}", data[:place] + bytes([flipped]) + data[place + 1:]
    if kind == "cut":
        return f"cut at {place}", data[:place]
    block = rng.choice((1, 16, 512))
    filling = bytes(block) if kind == "zeros" else rng.randbytes(block)
    return f"{block} of {kind} at {place}", data[:place] + filling + data[place + block:]


def board_net(folder: Path) -> Any:
    net, facts = checkpoint.load_net(folder, "tictactoe")
    return net.state_dict(), facts, checkpoint.read_meta(folder)


def clock(folder: Path) -> Any:
    run = SimpleNamespace(folder=folder, config=SimpleNamespace(minutes=1.0))
    found = Clock(run, {"sft": 0.5, "rl": 0.5})
    return found.seconds, found.done


def language_model(folder: Path) -> Any:
    from selfplay.llm.models import load_model

    model, tokenizer = load_model(folder)
    return model.state_dict(), tokenizer.get_vocab(), checkpoint.read_meta(folder)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of file that a run goes on from."""
    folder = tmp_path_factory.mktemp("stored")
    checkpoint.save(folder / "sft/ckpt-000003", trainer(1), SPEC, meta(3))
    write_state(folder / "sft/best.json", {"checkpoint": "ckpt-000003", "flat": True})
    clock_at = {"seconds": {"sft": 12.25, "rl": 3.0625}, "done": ["sft"]}
    write_state(folder / "progress.json", clock_at)
    ends = np.array([20, 50])
    save_shard(folder / "000001.npz", random_columns(50, 1), np.arange(50, dtype=np.int16), ends,
               np.array([1, -1], np.float32))
    return folder


def damage(attack: Attack, stored: Path, tmp_path: Path, readers: dict[str, Any],
           count: int) -> None:
    """Spoil each of the files in turn, and read what it belongs to."""
    folder = tmp_path / "damaged"
    shutil.copytree(stored, folder)
    before = {name: read(folder) for name, read in readers.items()}
    for number in range(count):
        rng = attack.rng(number)
        name = list(readers)[number % len(readers)]
        file = folder / name
        kept = file.read_bytes()
        what, data = spoil(kept, rng)
        file.write_bytes(data)
        with attack.variant(f"{name}: {what}"):
            for place in folder.glob("*/"):
                checkpoint.newest(place)
            assert same(readers[name](folder), before[name]), "opens as something else"
        file.write_bytes(kept)
    assert all(same(read(folder), before[name]) for name, read in readers.items())


@pytest.mark.attack
def test_damaged_runs(attack: Attack, stored: Path, tmp_path: Path) -> None:
    def of(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda folder: read(folder / "sft/ckpt-000003")

    readers: dict[str, Callable[[Path], Any]] = {
        **{f"sft/ckpt-000003/{name}": of(board_net)
           for name in (checkpoint.WEIGHTS, checkpoint.META, SUMS)},
        **{f"sft/ckpt-000003/{name}": of(checkpoint.load_training)
           for name in (checkpoint.TRAIN, checkpoint.TRAIN_META)},
        "sft/best.json": lambda folder: [checkpoint.best(folder / "sft"),
                                         checkpoint.reached_plateau(folder / "sft")],
        "progress.json": clock, "000001.npz": lambda folder: load_shard(folder / "000001.npz"),
    }
    damage(attack, stored, tmp_path, readers, attack.count(160, 4000))
    attack.must_have_held()


@pytest.mark.attack
def test_damaged_language_models(attack: Attack, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.folder import save_checkpoint

    tokenizer, path = character_tokenizer(), tmp_path / "stored/ckpt-000001"
    save_checkpoint(path, small_model("1x32", tokenizer, 0), tokenizer, trainer(1).state(), meta(1))
    readers = {name.name: language_model for name in sorted(path.iterdir())
               if name.name not in (checkpoint.TRAIN, checkpoint.TRAIN_META)}
    damage(attack, path, tmp_path, readers, attack.count(16, 500))
    attack.must_have_held()


@pytest.mark.attack
def test_commands_on_damaged_runs(attack: Attack, whole: Path, run: Command,  # noqa: F811
                                  tmp_path: Path) -> None:
    """As above through the command line, the files of an old run among them, which have no sums."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    kinds = [path.relative_to(folder) for path in files(folder)] + [
        path.relative_to(folder) for place in ("rl/ckpt-000003", "rl/records", "matches", "sft")
        for path in sorted((folder / place).rglob("*")) if path.is_file()]
    for number in range(attack.count(4, 150)):
        rng = attack.rng(number)
        file = folder / rng.choice(kinds)
        kept = file.read_bytes()
        what, data = spoil(kept, rng) if kept else ("empty", kept)
        file.write_bytes(data)
        words = rng.choice([
            ["compare", str(folder)], ["rl", "--run", str(folder), "--minutes", "9", "--set",
                                       "rl.iterations=4"],
            ["match", f"net:{folder}", "random", "--game", "tictactoe", "--games", "2"]])
        with attack.variant(f"{file.relative_to(folder)}: {what}; {words[0]}"):
            said = run(*words)
            if said.code:
                said.mistake()
                assert len(said.err) < 1000
                attack.came["one line"] += 1
                attack.came["held"] -= 1
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
    attack.must_have_held()
