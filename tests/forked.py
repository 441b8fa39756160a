"""Programs in processes of their own, forked from one that has the large libraries loaded, and the
kernels of tic-tac-toe and of search.

Starting Python and loading torch with all that it loads later takes longer than most of what the
tests start. What drives the kernels is imported in the new process, as for a user.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Others' libraries that commands load; what is not installed is passed over.
LIBRARIES = ["numba", "torch", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot",
             "matplotlib.backends.backend_agg", "pyspiel", "rich.progress", "safetensors.torch",
             "sgfmill.sgf"]
KERNELS = "kernels"  #: the module beside this one that loads them
#: macOS's own libraries do not bear a fork.
POSSIBLE = sys.platform == "linux"


class Forked:
    """``program`` (a script, or "selfplay") with ``words``: what a test needs of a Popen."""

    def __init__(self, program: str, words: tuple[str, ...], cwd: Path,
                 environment: dict[str, str]) -> None:
        self.args = [program, *words]
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("out", "err")]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, KERNELS])
        self._process = context.Process(
            target=_run, daemon=True,  # a test that fails leaves none behind
            args=(self.args, str(cwd), environment, list(map(str, self._said)),
                  os.fsync is unwaited))
        with _finding_modules_here():
            self._process.start()

    @property
    def returncode(self) -> Any:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid or 0, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self._said)
        self._folder.cleanup()
        return out, err


def unwaited(file: Any) -> None:
    """``os.fsync`` where nobody cuts the power: asked for as ever, of an open file, and done when
    the system likes. What a process that is killed leaves behind is the same."""
    os.fstat(file if isinstance(file, int) else file.fileno())


@contextmanager
def _finding_modules_here() -> Iterator[None]:
    """The server, which the first process starts, has its path from the environment alone."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [before])])
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _run(words: list[str], cwd: str, environment: dict[str, str], said: list[str],
         in_a_hurry: bool) -> None:
    """In the new process."""
    if in_a_hurry:
        os.fsync = unwaited
    for number, path in zip((1, 2), said, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    if words[0] == "selfplay":
        from selfplay.cli import main

        main()
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
