"""Programs in processes of their own, forked from one that has the large libraries loaded.

Starting Python and loading torch with all that it loads later takes longer than most of what the
tests start. The package itself is imported in the new process, as for a user.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Others' libraries that commands load; what is not installed is passed over.
LIBRARIES = ["numba", "torch", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot",
             "matplotlib.backends.backend_agg", "pyspiel", "rich.progress", "safetensors.torch",
             "sgfmill.sgf"]
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
        context.set_forkserver_preload(LIBRARIES)
        self._process = context.Process(
            target=_run, args=(self.args, str(cwd), environment, list(map(str, self._said))),
            daemon=True)  # a test that fails leaves none behind
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


def _run(words: list[str], cwd: str, environment: dict[str, str], said: list[str]) -> None:
    """In the new process."""
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
