"""Programs in processes of their own, forked from one that has the large libraries loaded, and the
kernels of tic-tac-toe and of search.

Starting Python and loading torch with all that it loads later takes longer than most of what the
tests start. What drives the kernels is imported in the new process, as for a user.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

#: Others' libraries that commands load; what is not installed is passed over.
LIBRARIES = ["numba", "torch", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot",
             "matplotlib.backends.backend_agg", "pyspiel", "rich.progress", "safetensors.torch",
             "sgfmill.sgf"]
KERNELS = "kernels"  #: the module beside this one that loads them
#: A test run in the background ignores SIGINT, and its children would as well.
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
#: macOS's own libraries do not bear a fork.
POSSIBLE = sys.platform == "linux"


class Way(NamedTuple):
    """How a program is run."""

    words: list[str]  #: "selfplay", a script, or "-c" and code, and what is said to it
    cwd: str
    environment: dict[str, str]
    unwaited: bool  #: whether ``fsync`` is as here
    hears: str = ""  #: on standard input
    anew: bool = False  #: the package is imported anew, from the environment's PYTHONPATH
    largest: int | None = None  #: bytes of a file that it may write


class Forked:
    """``program`` (a script, "selfplay", or "-c" before code) with ``words``: what a test needs of
    a Popen. ``more`` is of ``Way``."""

    def __init__(self, program: str, words: tuple[str, ...], cwd: Path,
                 environment: dict[str, str], **more: Any) -> None:
        self.args = [program, *words]
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, KERNELS])
        way = Way(self.args, str(cwd), environment, os.fsync is unwaited, **more)
        self._process = context.Process(
            target=_run, daemon=True,  # a test that fails leaves none behind
            args=(way, list(map(str, self._said))))
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
        out, err = (path.read_text() if path.exists() else "" for path in self._said[1:])
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


def _run(way: Way, said: list[str]) -> None:
    """In the new process."""
    if way.unwaited:
        os.fsync = unwaited
    Path(said[0]).write_text(way.hears)
    for number, path in enumerate(said):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(way.environment)
    os.chdir(way.cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if way.largest is not None:
        _limit(way.largest)
    if way.anew:
        for name in [name for name in sys.modules if name.partition(".")[0] == "selfplay"]:
            del sys.modules[name]
        sys.path[:0] = ["", *way.environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = way.words
    if way.words[0] == "-c":
        sys.argv = ["-c", *way.words[2:]]
        exec(compile(way.words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif way.words[0] == "selfplay":
        from selfplay.cli import main

        main()
    else:
        sys.path.insert(0, str(Path(way.words[0]).parent))
        runpy.run_path(way.words[0], run_name="__main__")


def new_process(program: str, words: tuple[str, ...], cwd: Path, environment: dict[str, str],
                hears: str = "", anew: bool = True, largest: int | None = None,
                ) -> subprocess.Popen[str]:
    """As ``Forked``, by a Python of its own."""
    if program == "selfplay":
        program, words = "-c", (HEARS_CTRL_C + "from selfplay.cli import main; main()", *words)
    with tempfile.TemporaryFile() as heard:
        heard.write(hears.encode())
        heard.seek(0)
        return subprocess.Popen(
            [sys.executable, program, *words], cwd=cwd, env=environment, text=True, stdin=heard,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=None if largest is None else lambda: _limit(largest))


def _limit(largest: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def ran(program: str, *words: str, cwd: Path, environment: dict[str, str] | None = None,
        **more: Any) -> subprocess.CompletedProcess[str]:
    """``Forked``, where that is possible, waited for."""
    environment = dict(os.environ) if environment is None else environment
    process = (Forked if POSSIBLE else new_process)(program, words, cwd, environment, **more)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess([program, *words], process.returncode, out, err)


def python(code: str, *words: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """``python -c CODE WORDS`` with the package imported anew, as in a new process whose libraries
    are loaded."""
    return ran("-c", code, *words, cwd=cwd, anew=True, **more)
