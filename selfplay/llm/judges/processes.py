"""Processes that run the user's code, each with a line to ask and a line to answer."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from typing import Any

from selfplay.common.errors import UserError

START = 60.0  #: seconds in which a process must be ready: the user's file may import much
GRACE = 3.0  #: seconds beyond a call's limit before its process is ended


class Lost(Exception):
    """The process has ended, or has not answered in time and was ended."""


class Talk:
    """A process that runs ``serve``, a function of ``judges.worker`` or another module, and has
    been told ``first``. It is started when it is needed and again after it was lost."""

    def __init__(self, serve: str, first: dict[str, Any]) -> None:
        self.serve, self.first = serve, first
        self.process: subprocess.Popen[bytes] | None = None
        self.hello: Any = None  #: what it answered to ``first``

    def start(self) -> None:
        """Raises UserError where the user's file cannot be used."""
        if self.process is not None:
            return
        module, _, name = self.serve.rpartition(".")
        code = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import {name}; {name}()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True)  # Ctrl-C does not reach it
        weakref.finalize(self, _kill, self.process)
        self.buffer = b""
        try:
            self.send(self.first)
            self.hello = self.receive(START)
        except Lost as lost:
            raise UserError(f"{self.first['words']}: {lost}") from None
        if "refused" in self.hello:
            self.stop()
            raise UserError(self.hello["refused"])

    def send(self, line: Any) -> None:
        """Ask. Raises Lost."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.stop()
            raise Lost("its process has ended") from None

    def receive(self, seconds: float) -> Any:
        """The answer. Raises Lost where there is none within ``seconds``."""
        assert self.process is not None and self.process.stdout is not None
        end, source = time.monotonic() + seconds, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([source], [], [], max(end - time.monotonic(), 0.0))
            chunk = os.read(source, 1 << 16) if ready else b""
            if not chunk:
                self.stop()
                raise Lost("its process has ended" if ready else
                           f"no value within {seconds - GRACE:g} s")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def stop(self) -> None:
        """End the process and all that it has started."""
        if self.process is not None:
            _kill(self.process)
            self.process = None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its number may be another's by now
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()
