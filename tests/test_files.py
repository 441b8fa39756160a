"""Locks: who is kept out, until when, and what a lock leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfplay.common.errors import UserError
from selfplay.common.files import in_use, locked
from selfplay.common.history import read_history

HOLD = ("import sys, pathlib, selfplay.common.files as f\n"
        "with f.in_use(pathlib.Path(sys.argv[1]), '--out'):\n"
        "    print('held', flush=True); sys.stdin.read()")


@pytest.mark.parametrize("name", ["folder", "file.jsonl.gz"])
def test_a_second_process_is_told_at_once_and_a_dead_one_holds_nothing(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(UserError, match=f"{name}: another process is at work.*--out"), in_use(
                path, "--out"):
            pass
        assert time.monotonic() - began < 1
        other.kill()
    with in_use(path, "--out"), pytest.raises(UserError), in_use(path, "--out"):
        pass  # not by the same process either
    assert [found.name for found in tmp_path.iterdir()] == (["folder"] if path.is_dir() else [])


def test_a_file_is_held_by_a_lock_beside_it(tmp_path: Path) -> None:
    with in_use(tmp_path / "x.sgf", "--out"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.sgf.lock"]
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_is_held_and_nothing_is_written_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Path, flags: int, *mode: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unknown(descriptor: int, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path), locked(tmp_path):
        pass


@pytest.mark.parametrize("line", ['{"step": "x"}', '{"iteration": null, "step": 1}', "{}",
                                  '{"step": 1, "seconds": NaN}', '{"step": true}'])
def test_rows_that_count_nothing_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n')
    with pytest.raises(UserError, match="line 2: damaged; delete that line"):
        read_history(path, ["step"])
