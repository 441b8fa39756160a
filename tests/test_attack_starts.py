"""First starts where little may be written: the command works, or ends in one line.

Mounts are made in a namespace of their own, where the system lets us (``unshare``); elsewhere only
the variables of the environment are tried.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attacking import Attack
from command import ROOT, TINY

from selfplay.common import machine
from selfplay.common.errors import UserError

MATCH = ["match", "mcts:8", "random", "--game", "tictactoe", "--games", "2"]
TRAIN = ["train", "--game", "tictactoe", "--run", "run", *TINY]
TEXT = ["llm", "train", "--task", "chain_sum(min_terms=2,max_terms=2)", "--run", "run", "--set",
        "net=1x32", "--set", "sft.max_steps=2", "--set", "sft.evaluate_every=2", "--set",
        "data.held_out=4", "--set", "sft.looked_at=4", "--set", "eval.samples=1"]
#: What the suite starts: kernels of the game are compiled, those of the search, which take a minute
#: to compile, only find the place where they would be kept.
SHORT = ["match", "random", "random", "--game", "tictactoe", "--games", "2"]
CODE = """
from selfplay.cli import main
try:
    main()
except SystemExit as ended:
    if not ended.code:
        import selfplay.search.search
    raise
"""
SECONDS = 600

#: Variables of the environment, None for unset; HERE is the folder of the variant.
VARIABLES: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None, "USER": None, "LOGNAME": None},
    "HOME is a file": {"HOME": "/dev/null"},
    "HOME is nowhere": {"HOME": "/nowhere/at/all", "XDG_CACHE_HOME": "/nowhere/cache"},
    "TMPDIR is nowhere": {"TMPDIR": "/nowhere", "TEMP": None, "TMP": None},
    "TMPDIR is a file": {"TMPDIR": "/dev/null"},
    "numba's cache is nowhere": {"NUMBA_CACHE_DIR": "/dev/null/cache"},
    "no PATH": {"PATH": None},
    "C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
    "no terminal": {"TERM": None, "COLUMNS": None},
}
#: Commands as root in the namespace; PACKAGE, HOME_, HERE, SHM are set.
MOUNTS: dict[str, str] = {
    "package read-only": 'mount --bind "$PACKAGE" "$PACKAGE"; '
                         'mount -o remount,ro,bind "$PACKAGE"',
    "HOME read-only": 'mount --bind "$HOME_" "$HOME_"; mount -o remount,ro,bind "$HOME_"',
    "no /dev/shm": "umount /dev/shm; mount --bind /proc/self /dev/shm",
    # bind: without it all who have /dev/shm mounted, outside of the namespace too, may only read
    "/dev/shm read-only": "mount --bind /dev/shm /dev/shm; mount -o remount,ro,bind /dev/shm",
    "/tmp read-only": 'mount --bind /tmp /tmp; mount --bind "$HERE" "$HERE"; '
                      "mount -o remount,ro,bind /tmp",
}
WORST = ("package read-only", "HOME read-only", "no /dev/shm", "/tmp read-only")


def may_mount() -> bool:
    tried = subprocess.run(["unshare", "-m", "mount", "--bind", "/tmp", "/tmp"],
                           capture_output=True, check=False) if shutil.which("unshare") else None
    return tried is not None and tried.returncode == 0


@pytest.mark.attack
def test_first_starts(attack: Attack, tmp_path: Path) -> None:
    mounts = may_mount()
    attack.figures["mounts"] = "made" if mounts else "not allowed: variables alone"
    tried = [("package read-only", "no HOME"), WORST, (*WORST, "TMPDIR is nowhere")]
    tried += [(name,) for name in (*VARIABLES, *MOUNTS)]
    for number in range(attack.count(1, len(tried) + 10)):
        rng = attack.rng(number)
        names = tried[number] if number < len(tried) else tuple(
            name for name in (*VARIABLES, *MOUNTS) if rng.random() < 0.3)
        names = names if mounts else tuple(name for name in names if name in VARIABLES)
        words = MATCH if number % 4 else rng.choice((MATCH, MATCH, TRAIN, TEXT))
        if not attack.full:
            words = SHORT
        with attack.variant(f"{', '.join(names) or 'as usual'}; {words[0]}"):
            here = tmp_path / str(number)
            here.mkdir()
            done = started(names, words, here)
            said = done.stderr.strip()
            assert "Traceback" not in said, said[-2000:]
            if done.returncode:
                assert said.startswith("selfplay: ") and "\n" not in said, said[-2000:]
                raise UserError(said)
            assert any(here.iterdir())
    attack.must_have_held()


def started(
    names: tuple[str, ...], words: list[str], here: Path
) -> subprocess.CompletedProcess[str]:
    """The command in an environment of these names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "PYTHONDONTWRITEBYTECODE": "1", "HERE": str(here), "PACKAGE": str(ROOT),
                   "HOME_": str(Path.home())}
    for name in names:
        environment |= VARIABLES.get(name, {})
    environment = {key: value for key, value in environment.items() if value is not None}
    command = [sys.executable, "-c", CODE, *words]
    steps = [MOUNTS[name] for name in names if name in MOUNTS]
    if steps:
        script = "; ".join(["set -e", *steps, 'cd "$HERE"', f"exec {shlex.join(command)}"])
        command = ["unshare", "-m", "sh", "-c", f"PATH={os.environ['PATH']}; {script}"]
        command[0] = shutil.which("unshare") or "unshare"
    return subprocess.run(command, cwd=here, env=environment, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)


@pytest.mark.parametrize("told_of", [False, True])
@pytest.mark.parametrize(("free", "kept"), [
    ({"search", "games"}, False), ({"search"}, True), ({"numba"}, False), (set(), True)])
def test_numba_is_told_of_a_folder_where_it_has_none(
    monkeypatch: pytest.MonkeyPatch, free: set[str], kept: bool, told_of: bool
) -> None:
    import numba

    def writable(folder: Path) -> bool:
        return bool(free & {folder.name, folder.parent.name})

    monkeypatch.setattr(machine, "_writable", writable)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "x")  # so that it is as it was afterwards
    if not told_of:
        monkeypatch.delenv("NUMBA_CACHE_DIR")
    machine.keep_compiled.__wrapped__()
    told = os.environ.get("NUMBA_CACHE_DIR", "x")
    told = "" if told == "x" else told
    assert bool(told) == kept and told == numba.config.CACHE_DIR
    assert not kept or Path(told).stat().st_mode & 0o777 == 0o700


def test_without_any_folder_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_folder(prefix: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(machine, "_writable", lambda folder: False)
    monkeypatch.setattr("tempfile.mkdtemp", no_folder)
    with pytest.raises(UserError, match="name one with TMPDIR"):
        machine.keep_compiled.__wrapped__()
