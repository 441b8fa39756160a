"""Checkpoints: whole or not there, exact to resume from, and clear about what is wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from selfplay.board.data import Batch
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.common.files import read_json, write_state, write_sums
from selfplay.learn import checkpoint
from selfplay.learn.optimizer import Trainer
from selfplay.models import NetSpec, build, seeded

SPEC = NetSpec("2x16", (3, 3, 3), 9, False)
META = {"game": "tictactoe", "kind": "rl", "step": 3,
        "compute": {"seconds": 1.5, "flops": 1e9, "positions": 512}, "metrics": {"top1": 0.5}}
META_TEXT = json.dumps({**META, "net": dataclasses.asdict(SPEC)}).encode()


def rows(seed: int, count: int = 16) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        obs=rng.integers(0, 2, (count, 3, 3, 3)).astype(np.uint8),
        policy=rng.dirichlet(np.ones(9), count).astype(np.float32),
        policy_weight=np.ones(count, np.float32),
        value=rng.choice([-1, 0, 1], count).astype(np.float32),
        ownership=np.zeros((count, 9), np.float32),
        score=np.zeros(count, np.float32),
        aux_weight=np.zeros(count, np.float32),
    )


def trainer(seed: int = 0, **settings: Any) -> Trainer:
    return board_trainer(seeded(seed, lambda: build(SPEC)), TrainConfig(warmup=3, **settings))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "rl" / "ckpt-000003"
    some = trainer()
    some.step(rows(0))
    checkpoint.save(path, some, SPEC, META)
    return path


@pytest.mark.parametrize("settings", [
    {}, {"ema_decay": 0.0}, {"dtype": "float32"},
    {"schedule": "cosine", "total_steps": 9},
], ids=str)
@pytest.mark.parametrize("before", [0, 4])
def test_resuming_is_exact(tmp_path: Path, settings: dict[str, Any], before: int) -> None:
    """4 + 3 steps are the same to the last bit with a save and a load in between, or without."""
    straight = trainer(**settings)
    for k in range(before + 3):
        straight.learning_rate = 1e-3 if k < before else 3e-4
        straight.step(rows(k))

    first = trainer(**settings)
    for k in range(before):
        first.step(rows(k))
    first.learning_rate = 3e-4
    checkpoint.save(tmp_path / "ckpt-000004", first, SPEC, META)
    second = trainer(seed=99, **settings)  # other weights to begin with
    second.load_state(*checkpoint.load_training(tmp_path / "ckpt-000004"))
    for k in range(before, before + 3):
        second.step(rows(k))

    (tensors, numbers), (expected, expected_numbers) = second.state(), straight.state()
    assert same(tensors, expected) and numbers == expected_numbers
    assert same(second.inference_net().state_dict(), straight.inference_net().state_dict())
    if before:
        assert not same(first.state()[0], expected)


def test_a_checkpoint_holds_what_acts(saved: Path) -> None:
    some = trainer()
    some.step(rows(0))
    net, meta = checkpoint.load_net(saved, "tictactoe")
    assert not net.training
    assert same(net.state_dict(), some.inference_net().state_dict())
    assert {key: meta[key] for key in META} == META
    assert checkpoint.spec_of(meta) == SPEC
    assert checkpoint.load_net(saved)[1] == checkpoint.read_meta(saved) == meta


def test_its_files_are_plain(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == ["meta.json", "sums.json", "train.json",
                                         "train.safetensors", "weights.safetensors"]
    assert json.loads((saved / "meta.json").read_text())["net"]["size"] == "2x16"
    assert load_file(saved / "weights.safetensors")["stem.conv.weight"].shape == (16, 3, 3, 3)


def test_listing_is_by_step_and_skips_what_is_not_whole(tmp_path: Path) -> None:
    some = trainer()
    for step in (9, 100, 20, 300, 400, 500):
        checkpoint.save(tmp_path / f"ckpt-{step}", some, SPEC, META)
    (tmp_path / "ckpt-300" / "meta.json").unlink()
    weights = tmp_path / "ckpt-400" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (tmp_path / "ckpt-500" / "meta.json").write_text("{")
    (tmp_path / "ckpt-600").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "notes-700").write_text("no folder")
    assert [path.name for path in checkpoint.listing(tmp_path)] == ["ckpt-9", "ckpt-20", "ckpt-100"]
    assert checkpoint.newest(tmp_path) == tmp_path / "ckpt-100"
    assert checkpoint.newest(tmp_path / "nowhere") is None
    assert checkpoint.listing(tmp_path / "records") == []


def test_what_a_killed_process_left_is_ignored_and_swept(saved: Path) -> None:
    left = saved.with_name(".tmp-ckpt-000004")
    left.mkdir()
    (left / "weights.safetensors").write_bytes((saved / "weights.safetensors").read_bytes())
    assert checkpoint.newest(saved.parent) == saved
    checkpoint.save(saved.with_name("ckpt-000004"), trainer(), SPEC, META)
    assert sorted(os.listdir(saved.parent)) == ["ckpt-000003", "ckpt-000004"]


def test_saving_again_replaces(saved: Path) -> None:
    checkpoint.save(saved, trainer(seed=8), SPEC, {**META, "step": 4})
    assert checkpoint.read_meta(saved)["step"] == 4
    expected = trainer(seed=8).inference_net().state_dict()
    assert same(checkpoint.load_net(saved)[0].state_dict(), expected)
    assert os.listdir(saved.parent) == ["ckpt-000003"]


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_full_disk_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch,
                                               writes: int) -> None:
    """The disk fills up at the first, the second or the last file."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    real, left = os.replace, [writes]

    def replace(*arguments: Any) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(*arguments)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(saved, trainer(seed=8), SPEC, META)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert os.listdir(saved.parent) == ["ckpt-000003"]


@pytest.mark.parametrize(("failure", "told"), [
    (OSError(errno.EIO, os.strerror(errno.EIO)), UserError),
    (KeyboardInterrupt(), KeyboardInterrupt),
])
def test_a_refused_rename_leaves_the_old_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, told: type[BaseException]
) -> None:
    real, calls = os.rename, [0]

    def rename(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:  # the old one is out of the way, the new one cannot come
            raise failure
        real(*arguments)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(told, match="cannot be written" if told is UserError else None):
        checkpoint.save(saved, trainer(seed=8), SPEC, {**META, "step": 4})
    assert os.listdir(saved.parent) == ["ckpt-000003"]
    assert checkpoint.read_meta(saved)["step"] == 3


def test_weights_alone_still_play_but_do_not_train(saved: Path) -> None:
    checkpoint.drop_training(saved)
    assert sorted(os.listdir(saved)) == ["meta.json", "sums.json", "weights.safetensors"]
    assert checkpoint.newest(saved.parent) == saved
    checkpoint.load_net(saved, "tictactoe")
    with pytest.raises(UserError, match=r"ckpt-000003: holds weights only.*--init"):
        checkpoint.load_training(saved)
    checkpoint.drop_training(saved)  # twice does no harm


def test_another_games_checkpoint(saved: Path) -> None:
    with pytest.raises(UserError, match="a net for tictactoe, not for connect4"):
        checkpoint.load_net(saved, "connect4")
    meta = read_json(saved / "meta.json")
    del meta["game"]  # as a language model's
    (saved / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=rf"no net of a board game.*llm:{saved}"):
        checkpoint.load_net(saved, "tictactoe")


@pytest.mark.parametrize(("name", "content"), [
    ("weights.safetensors", b""),
    ("weights.safetensors", b"garbage that is no safetensors file"),
    ("meta.json", b"{"),
    ("meta.json", b"[]x"),
    ("meta.json", b'{"game": "tictactoe"}'),
    ("meta.json", META_TEXT.replace(b'"step"', b'"stop"')),
    ("meta.json", META_TEXT.replace(b'"compute"', b'"computer"')),
    ("meta.json", META_TEXT.replace(b"1.5", b"[1]")),
    ("meta.json", META_TEXT.replace(b"2x16", b"3x16")),
    ("meta.json", META_TEXT.replace(b"2x16", b"huge")),
])
def test_damage_names_the_file_and_the_remedy(saved: Path, name: str, content: bytes) -> None:
    (saved / name).write_bytes(content)
    with pytest.raises(UserError, match=r"ckpt-000003.*damaged.*delete") as caught:
        checkpoint.load_net(saved, "tictactoe")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "meta.json", "train.safetensors",
                                  "train.json"])
def test_a_flipped_bit_that_leaves_all_readable_is_found(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    place = len(data) - 20  # a weight
    if name.endswith("json"):  # a digit of the positions, of the learning rate
        place = data.index(b"512" if name == "meta.json" else b"01", 0)
    data[place] ^= 1
    (saved / name).write_bytes(data)
    load = checkpoint.load_training if name.startswith("train") else checkpoint.load_net
    with pytest.raises(UserError, match=rf"{name}: damaged \(not as it was saved\); delete"):
        load(saved)
    (saved / "sums.json").unlink()  # as an older checkpoint, which has none
    load(saved)


def test_damaged_training_state(saved: Path) -> None:
    whole = (saved / "train.safetensors").read_bytes()
    (saved / "train.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"train\.safetensors: damaged"):
        checkpoint.load_training(saved)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_checkpoint_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.load_net(tmp_path / name)


def test_a_missing_weights_file(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged"):
        checkpoint.load_net(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved: Path, value: float) -> None:
    tensors = load_file(saved / checkpoint.WEIGHTS)
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = value
    (saved / checkpoint.WEIGHTS).write_bytes(to_bytes(tensors))
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged \(weights that are no"):
        checkpoint.load_net(saved)


@pytest.mark.parametrize(("key", "value"), [
    ("size", "99x9999"), ("size", "9x99"), ("size", "9999999x99999999"), ("obs_shape", [2]),
    ("obs_shape", None), ("num_actions", -1)])
def test_a_meta_that_asks_for_another_net_is_refused_before_it_is_made(
    saved: Path, key: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = json.loads((saved / checkpoint.META).read_text())
    meta["net"][key] = value
    (saved / checkpoint.META).write_text(json.dumps(meta))
    if key == "size":
        monkeypatch.setattr(checkpoint, "build", lambda spec: pytest.fail("it was made"))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_net(saved)


def test_sums_are_of_plain_files(tmp_path: Path) -> None:
    """A tokenizer may bring a folder of its own."""
    (tmp_path / "more_templates").mkdir()
    (tmp_path / "weights").write_bytes(b"123456789")
    write_sums(tmp_path)
    assert json.loads((tmp_path / "sums.json").read_text()) == {"weights": 0xCBF43926}


def test_the_line_of_a_sum_can_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, {"step": 4, "done": []})
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "crc32" not in line))
    assert read_json(path) == {"step": 4, "done": []}
