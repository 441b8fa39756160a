"""Rows, shards, the window, symmetries, and files that survive a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.board.data import Columns, Window, batch, concat, pack, unpack
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
from selfplay.games import make
from selfplay.games.base import Symmetries
from selfplay.run.shards import load_shard, save_shard


def columns(count: int, seed: int = 0, first: int = 0) -> Columns:
    """Rows of a 2x3 board with 2 planes and a pass; ``score`` numbers them."""
    rng = np.random.default_rng(seed)
    return Columns(
        obs=pack(rng.integers(0, 2, (count, 2, 2, 3)), True),
        policy=rng.dirichlet(np.ones(7), count).astype(np.float16),
        policy_weight=np.ones(count, np.float32),
        value=rng.choice([-1, 1], count).astype(np.float32),
        ownership=rng.integers(-1, 2, (count, 6)).astype(np.int8),
        score=np.arange(first, first + count, dtype=np.float32),
        aux_weight=np.ones(count, np.float32),
    )


@given(st.integers(0, 5), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_packed_bits_come_back(count: int, shape: tuple[int, int, int], seed: int) -> None:
    obs = np.random.default_rng(seed).integers(0, 2, (count, *shape)).astype(np.uint8)
    packed = pack(obs, True)
    assert packed.dtype == np.uint8 and packed.shape == (count, -(-int(np.prod(shape)) // 8))
    assert np.array_equal(unpack(packed, shape), obs)


def test_planes_of_numbers_come_back() -> None:
    obs = np.array([0.0, 0.5, -3.25, 1024.0], np.float32).reshape(1, 1, 2, 2)
    packed = pack(obs, False)
    assert packed.dtype == np.float16 and packed.shape == (1, 4)
    back = unpack(packed, (1, 2, 2))
    assert back.dtype == np.float32 and np.array_equal(back, obs)


def test_bits_are_numpys_packbits() -> None:
    obs = np.array([1, 0, 1, 0, 0, 0, 0, 1, 1], np.uint8).reshape(1, 1, 3, 3)
    assert pack(obs, True).tolist() == [[0b10100001, 0b10000000]]


# --- symmetries -------------------------------------------------------------------------------


def mirror() -> Symmetries:
    """A 2x3 board and its left-right mirror image, by hand; action 6 is the pass."""
    return Symmetries(np.array([[0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3]]),
                      np.array([[0, 1, 2, 3, 4, 5, 6], [2, 1, 0, 5, 4, 3, 6]]))


SMALL: Any = SimpleNamespace(obs_shape=(2, 2, 3))


def test_a_batch_is_turned_as_a_whole() -> None:
    data = columns(200)
    plain = batch(data, np.arange(200), SMALL, mirror(), None)
    turned = batch(data, np.arange(200), SMALL, mirror(), np.random.default_rng(0))
    flips = 0
    for k in range(200):
        flipped = plain.obs[k][:, :, ::-1]
        if np.array_equal(flipped, plain.obs[k]):
            continue  # a symmetric position cannot tell
        if np.array_equal(turned.obs[k], plain.obs[k]):
            assert np.array_equal(turned.policy[k], plain.policy[k])
            assert np.array_equal(turned.ownership[k], plain.ownership[k])
        else:
            flips += 1
            assert np.array_equal(turned.obs[k], flipped)
            points = plain.policy[k, :6].reshape(2, 3)[:, ::-1].ravel()
            assert np.array_equal(turned.policy[k, :6], points)
            assert turned.policy[k, 6] == plain.policy[k, 6]
            owned = plain.ownership[k].reshape(2, 3)[:, ::-1].ravel()
            assert np.array_equal(turned.ownership[k], owned)
    assert 60 < flips < 130
    for name in ("policy_weight", "value", "score", "aux_weight"):
        assert np.array_equal(getattr(turned, name), getattr(plain, name))


def test_a_batch_without_symmetry_is_the_rows() -> None:
    data = columns(9)
    got = batch(data, np.array([4, 4, 0]), SMALL, mirror(), None)
    assert got.score.tolist() == [4, 4, 0]
    assert np.array_equal(got.obs, unpack(data.obs, (2, 2, 3))[[4, 4, 0]])
    assert got.policy.dtype == np.float32 and got.ownership.dtype == np.float32


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5"])
def test_turning_a_row_is_playing_the_turned_game(name: str, play_random: Any) -> None:
    """Under symmetry s the move a is played at the place whose content s brings to a's."""
    game = make(name)
    symmetries = game.symmetries()
    plies = {"tictactoe": 4, "connect4": 9, "go5x5": 12}[name]
    states, actions = play_random(game, 6, 1, plies)
    live = np.flatnonzero(~game.result(states)[0])
    cells = game.board_shape[0] * game.board_shape[1]
    owner = game.ownership(states) if game.has_ownership else np.zeros((6, cells), np.int8)
    legal = game.legal(states).astype(np.float16)
    data = Columns(pack(game.observe(states), True), legal, np.ones(6, np.float32),
                   np.zeros(6, np.float32), owner, np.zeros(6, np.float32), np.ones(6, np.float32))
    for s in range(len(symmetries.cells)):
        only = Symmetries(symmetries.cells[[0, s]], symmetries.actions[[0, s]])
        rng: Any = SimpleNamespace(integers=lambda low, high, n: np.ones(n, np.int64))
        turned = batch(data, np.arange(6), game, only, rng)
        place = np.argsort(symmetries.actions[s])  # where s puts the action a
        other = game.new(6)
        game.replay(other, np.where(actions < 0, -1, place[actions]))
        assert np.array_equal(turned.obs[live], game.observe(other)[live]), s
        assert np.array_equal(turned.policy[live], game.legal(other)[live]), s
        if game.has_ownership:
            assert np.array_equal(turned.ownership[live], game.ownership(other)[live]), s


# --- window -----------------------------------------------------------------------------------


def test_the_window_grows_by_its_line() -> None:
    window = Window(100, 0.5, 220)
    sizes = []
    for k in range(6):
        window.add(columns(80, first=80 * k))
        sizes.append(len(window))
    # totals 80 160 240 320 400 480 -> 100 + (total - 100) / 2, at most 220, at most the total
    assert sizes == [80, 130, 170, 210, 220, 220]


def test_the_window_samples_its_newest_rows_evenly() -> None:
    window = Window(100, 0.5, 220)
    for k in range(6):
        window.add(columns(80, first=80 * k))
    picked, rows = window.sample(22_000, np.random.default_rng(0))
    scores = picked.score[rows].astype(int)
    assert scores.min() == 260 and scores.max() == 479  # the newest 220 of 480
    counts = np.bincount(scores, minlength=480)[260:]
    assert counts.min() > 50 and counts.max() < 160  # 100 on average, standard deviation 10


def test_a_sampled_row_keeps_its_columns_together() -> None:
    parts = [columns(30, seed=k, first=30 * k) for k in range(4)]
    window = Window(120, 0.0, 120)
    for part in parts:
        window.add(part)
    whole = concat(parts)
    picked, rows = window.sample(64, np.random.default_rng(1))
    index = picked.score[rows].astype(int)
    for got, expected in zip(picked.rows(rows), whole.rows(index), strict=True):
        assert np.array_equal(got, expected)


def test_the_window_forgets_what_it_cannot_sample() -> None:
    window = Window(50, 0.0, 50)
    for k in range(20):
        window.add(columns(20, first=20 * k))
    assert window.total == 400 and len(window) == 50
    assert sum(len(shard.value) for shard in window._shards) < 50 + 20


def test_an_empty_window_says_so() -> None:
    with pytest.raises(UserError, match="empty"):
        Window(10, 0.5, 10).sample(1, np.random.default_rng(0))


@pytest.mark.parametrize("arguments", [(0, 0.5, 10), (20, 0.5, 10), (10, 1.5, 20), (10, -0.1, 20)])
def test_a_window_that_makes_no_sense(arguments: Any) -> None:
    with pytest.raises(UserError, match="wanted"):
        Window(*arguments)


# --- files ------------------------------------------------------------------------------------


def saved(path: Path, count: int = 40) -> Columns:
    data = columns(count)
    save_shard(path, data, np.arange(9, dtype=np.int16), np.array([4, 9]),
               np.array([1, -1], np.float32))
    return data


def test_a_shard_comes_back(tmp_path: Path) -> None:
    data = saved(tmp_path / "deep" / "000001.npz")
    shard = load_shard(tmp_path / "deep" / "000001.npz")
    assert shard.columns.size is data.size is None
    for got, expected in zip(shard.columns[:-1], data[:-1], strict=True):
        assert got.dtype == expected.dtype and np.array_equal(got, expected)
    assert shard.actions.tolist() == list(range(9)) and shard.ends.tolist() == [4, 9]
    assert shard.values.tolist() == [1, -1]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000001.npz"
    saved(path)
    whole = path.read_bytes()
    for damage in (b"", b"no zip", whole[: len(whole) // 2], whole[:-1],
                   whole[:300] + bytes(200) + whole[500:]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"000001\.npz: damaged .*delete it"):
            load_shard(path)
    with pytest.raises(UserError, match=r"000002\.npz: no such file"):
        load_shard(tmp_path / "000002.npz")


def test_a_shard_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    data = columns(3)
    objects = np.empty(3, object)
    np.savez(path, **{**data._asdict(), "obs": objects, "actions": objects, "ends": objects,
                      "values": objects}, allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        load_shard(path)


def test_columns_of_different_length_are_damage(tmp_path: Path) -> None:
    data = columns(5)._replace(value=np.zeros(4, np.float32))
    save_shard(tmp_path / "a.npz", data, np.zeros(1, np.int16), np.array([1]),
               np.zeros(1, np.float32))
    with pytest.raises(UserError, match="length"):
        load_shard(tmp_path / "a.npz")


def test_write_atomic_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomic(path, b"one")
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_refusing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             where: str) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, where, full)
    with pytest.raises(UserError, match=r"file: cannot be written: No space left.*free disk"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The kernel refuses the bytes beyond a limit on the size of files, in a process of its own."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    code = f"""
import resource, signal
from pathlib import Path
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomic(Path({str(path)!r}), bytes(100_000))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parent.parent)
    assert str(path) in done.stdout and "cannot be written" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_ctrl_c_within_a_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", stop)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "plain" / "file", b"x")


def test_every_flipped_bit_of_a_shard_is_found_or_harmless(tmp_path: Path) -> None:
    """In what says how it is packed, above all: a method or a version that no library knows."""
    path = tmp_path / "a.npz"
    saved(path, 3)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for place in [*range(60), *draw.integers(0, len(whole), 300).tolist()]:
        torn = bytearray(whole)
        torn[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(torn)
        with contextlib.suppress(UserError):
            load_shard(path)


def test_a_column_without_an_axis_is_damage(tmp_path: Path) -> None:
    data = columns(3)
    one = np.zeros(1)
    np.savez(tmp_path / "a.npz", **{**data._asdict(), "value": np.float32(1), "actions": one,
                                    "ends": one, "values": one})
    with pytest.raises(UserError, match="damaged"):
        load_shard(tmp_path / "a.npz")
