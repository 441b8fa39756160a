"""The wheel: built from the tree, unpacked, and used from a folder full of traps."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out),
         str(_copy(out / "source"))],
        check=True, capture_output=True, text=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "unpacked")
    _share_kernels(out / "unpacked")
    return out / "unpacked"


def _share_kernels(unpacked: Path) -> None:
    """What has been compiled for the same source is not compiled again."""
    for name in sources():
        source, file = sources()[name], unpacked / name
        if not file.exists() or file.read_bytes() != source.read_bytes():
            continue
        compiled = [kept for kind in ("nbi", "nbc")
                    for kept in source.parent.glob(f"__pycache__/{source.stem}.*.{kind}")]
        if compiled:
            shutil.copystat(source, file)  # Numba knows a source by its time and size
            (file.parent / "__pycache__").mkdir(exist_ok=True)
        for kept in compiled:
            shutil.copy(kept, file.parent / "__pycache__")


@functools.cache
def sources() -> dict[str, Path]:
    """Each module's file in the wheel, and in the tree."""
    return {f"selfplay/{path.relative_to(base)}": path
            for base, folder in ((ROOT / "selfplay", "selfplay"), (ROOT, "games"), (ROOT, "models"))
            for path in (ROOT / folder).rglob("*.py")}


def _copy(to: Path) -> Path:
    """The sources alone: no build folder is left in the tree, none in it is picked up."""
    to.mkdir()
    for name in ("pyproject.toml", "README.md", "games", "models", "selfplay"):
        (to / name).symlink_to(ROOT / name)
    return to


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A working folder whose modules are not ours."""
    for name in ("models", "games", "selfplay_games", "errors"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    return tmp_path


def python(code: str, *words: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    # the working folder comes first on the path, as it does for a user
    return forked.python(code, *words, cwd=cwd, environment={
        **os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"})


def test_it_holds_the_package_and_nothing_else(unpacked: Path) -> None:
    assert {p.name for p in unpacked.iterdir() if p.suffix != ".dist-info"} == {"selfplay"}
    packed = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*.py")}
    assert packed == set(sources())
    templates = {p.relative_to(ROOT) for p in (ROOT / "selfplay").rglob("*.j2")}
    assert {p.relative_to(unpacked) for p in unpacked.rglob("*.j2")} == templates != set()
    games = {p.name for p in (ROOT / "selfplay/expert_games").glob("*.sgf.gz")}
    assert {p.name for p in (unpacked / "selfplay/expert_games").iterdir()} == games != set()
    page = {p.name for p in (ROOT / "selfplay/serve/web/static").iterdir()}
    assert {p.name for p in (unpacked / "selfplay/serve/web/static").iterdir()} == page != set()


def test_every_module_is_the_wheels_own(unpacked: Path, traps: Path) -> None:
    modules = sorted(
        ".".join(p.relative_to(unpacked).with_suffix("").parts).removesuffix(".__init__")
        for p in unpacked.rglob("*.py"))
    assert {"selfplay.games.go", "selfplay.models.resnet", "selfplay.cli"} <= set(modules)
    code = ("import importlib, sys\n"
            f"for name in {modules!r}:\n"
            "    print(importlib.import_module(name).__file__)\n")
    done = python(code, cwd=traps, path=unpacked)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(modules)
    assert all(line.startswith(str(unpacked)) for line in done.stdout.splitlines())


def test_the_embedded_expert_games_can_be_read(unpacked: Path, traps: Path) -> None:
    code = ("from selfplay.run.config import preset\nfrom selfplay.games import make\n"
            "from selfplay.arena.expert import read_expert\n"
            "from selfplay.run.teacher import expert_files\n"
            "from selfplay.run.folder import Run\nfrom pathlib import Path\n"
            "run = Run(Path('r'), preset('go9x9'), make('go9x9'))\n"
            "games, skipped = read_expert(expert_files(run), run.game)\n"
            "print(len(games), len(skipped), *expert_files(run))")
    done = python(code, cwd=traps, path=unpacked)
    assert done.returncode == 0, done.stderr
    games, skipped, file = done.stdout.split()
    assert int(games) > 100 and int(skipped) == 0
    assert file.startswith(str(unpacked))


def test_a_report_is_written_from_it(unpacked: Path, traps: Path) -> None:
    code = ("from pathlib import Path\nfrom selfplay.report.page import write_report\n"
            "write_report(Path('out'), {'game': '<chess>'})")
    done = python(code, cwd=traps, path=unpacked)
    assert done.returncode == 0, done.stderr
    assert "&lt;chess&gt;" in (traps / "out/report.html").read_text()


def test_a_match_runs_from_it(unpacked: Path, traps: Path) -> None:
    done = python("from selfplay.cli import main; main()", "match", "random", "random",
                  "--game", "tictactoe", "--games", "2", cwd=traps, path=unpacked)
    assert done.returncode == 0, done.stderr
    assert "of 2 games" in done.stdout
    version = python("from selfplay.cli import main; main()", "--version", cwd=traps,
                     path=unpacked)
    assert version.stdout.startswith("selfplay, version ")
