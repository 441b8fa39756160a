"""``scripts/gpu``: one part in its small form on a CPU, and parts that fail, hang or cannot run."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import pytest
from script import SCRIPTS, load, start

ARGS = argparse.Namespace(device="cpu", small=True)


def test_a_part_on_a_cpu() -> None:
    done = start("gpu_day", "--device", "cpu", "--small", "--parts", "learner",
                 "--patience", "20")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("`scripts/gpu --device cpu --small") and "a small form" in lines[0]
    assert lines[2:4] == ["| what | measured | beside | ratio |", "|---|---|---|---|"]
    assert len(lines) == 5 and lines[4].startswith("| learner |")
    assert "positions/s" in lines[4] and lines[4].count("|") == 5


def ended(pid: int, within: float) -> bool:
    """True once the process is gone or dead; one that is killed may still wait for a processor."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_fails_hangs_or_cannot_run_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what it has measured before is kept, and nothing that it has started goes on."""
    gpu = load("gpu_day")
    program = tmp_path / "part.py"
    program.write_text(
        "import os, subprocess, sys, time\n"
        "print('ROW {\"what\": \"first\", \"value\": 1, \"unit\": \"s\"}', flush=True)\n"
        "if sys.argv[-1] == 'busy':\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        f"    open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "    time.sleep(60)\n"
        "sys.exit('Traceback\\nRuntimeError: a | bar' if sys.argv[-1] == 'learner' else 0)\n")
    monkeypatch.setattr(gpu, "this", lambda args: [gpu.sys.executable, str(program)])
    row = {"what": "first", "value": 1, "unit": "s"}
    assert gpu.outcome("learner", ARGS, 20) == ([row], "RuntimeError: a | bar")
    assert gpu.outcome("share", ARGS, 20) == ([row], "")
    begun = time.monotonic()
    assert gpu.outcome("busy", ARGS, 4) == ([row], "cut off after 4 s")
    assert time.monotonic() - begun < 50  # it would sleep for 60
    child = int((tmp_path / "child").read_text())
    assert ended(child, within=20.0)
    monkeypatch.setitem(gpu.PARTS, "llm", gpu.Part(gpu.llm, 1, ("no_such_module",)))
    assert gpu.outcome("llm", ARGS, 20) == ([], "no_such_module not installed")
    shown = gpu.table("head", [row], {"learner": "RuntimeError: a | bar"}).splitlines()
    assert shown[4:] == ["| first | 1 s | | |",
                         "| learner | did not run, or not to its end: RuntimeError: a / bar | | |"]


def test_time_that_is_over(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    gpu = load("gpu_day")
    monkeypatch.setattr(gpu.sys, "argv", ["gpu", "--device", "cpu", "--small", "--minutes", "0.01"])
    monkeypatch.setattr(gpu, "outcome", lambda *_: pytest.fail("no time for it"))
    gpu.main()
    assert capsys.readouterr().out.count("minutes were over") == len(gpu.PARTS)


def test_the_door_is_a_program() -> None:
    assert os.access(SCRIPTS / "gpu", os.X_OK)
