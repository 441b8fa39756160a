"""A GTP 2 client: one outside engine in a process of its own.

``send`` and ``receive`` are separate, so that many engines can think at the same time: send to
all of them, then read all of them. Anything that goes wrong with an engine is a ``UserError``
that names its command line, the last command sent and the last line it wrote to stderr.

Source: Farneback, "Specification of the Go Text Protocol, version 2, draft 2" (2002).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from selfplay.common import interrupt
from selfplay.common.errors import UserError
from selfplay.common.words import clip

TIMEOUT = 600.0  #: seconds an engine may take for one answer
HANGING = 10.0  #: seconds that an answer may wait for the empty line that ends it
GRACE = 2.0  #: seconds from "quit" to the end of an engine
MOST_BYTES = 1 << 20  #: of one answer
MOST_ERRORS = 1 << 12  #: bytes kept of what an engine last wrote to stderr
SWEEPS = 50  #: times that the processes are looked through for what an engine has left
MARK = "SELFPLAY_ENGINE"  #: in the environment of an engine and of all that it starts
_REPLY = re.compile(r"([=?])(\d*)[ \t]*(.*)", re.DOTALL)
_EXTRA_FOLDERS = ("/usr/games", "/usr/local/games")  # where Debian puts gnugo, off many a PATH
COLOURS = "bw"  #: what GTP calls players 0 and 1


def colour_of(word: str) -> int | None:
    """0 for b or black, 1 for w or white, in capitals or not; None for another word."""
    return {"b": 0, "black": 0, "w": 1, "white": 1}.get(word.lower())


class Reply(NamedTuple):
    """One answer: ``ok`` for ``=``, else ``?``; ``text`` without the status and the id."""

    ok: bool
    text: str


def parse_reply(text: str, number: int) -> Reply | None:
    """One reply, its lines joined; None unless it is an answer to command ``number``."""
    match = _REPLY.fullmatch(text)
    if match is None or match[2] not in ("", str(number)):
        return None
    return Reply(match[1] == "=", match[3].strip())


def find_executable(command: str) -> list[str]:
    """The argument list of a command line, its program looked up as a full path.

    Raises UserError when the line cannot be read or the program does not exist.
    """
    try:
        arguments = shlex.split(command.replace("\0", " "))
    except ValueError as error:
        raise UserError(f"engine command {command!r}: {error}; check its quotes") from None
    if not arguments:
        raise UserError("engine command is empty: write it after gtp:, e.g. gtp:gnugo --mode gtp")
    program = arguments[0]
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *_EXTRA_FOLDERS])
    found = shutil.which(program, path=search)
    if found is None:
        named = os.path.basename(program) == program
        hint = "install it, or give its path" if named else "check the path"
        if program == "gnugo":
            hint = "apt install gnugo, or give its path"
        raise UserError(f"{program} not found: {hint}")
    if os.path.basename(program) == "gnugo" and not any("gtp" in word for word in arguments[1:]):
        raise UserError(f"{command!r}: GNU Go speaks GTP with --mode gtp only; add that")
    return [found, *arguments[1:]]


class GtpEngine:
    """A running engine. Commands queue up in the engine; answers come in the order of sending."""

    def __init__(self, command: str, timeout: float = TIMEOUT) -> None:
        """command: a shell-like line; timeout: seconds to wait for any one answer.

        Raises UserError when the program is not found or does not start.
        """
        self.command, self.timeout = command, timeout
        self._last = "(nothing yet)"
        self._pending: deque[tuple[int, str]] = deque()
        self._id = 0
        self._mark = f"{os.getpid()}-{id(self)}-{time.monotonic_ns()}"
        self._buffer, self._lines = b"", deque[bytes]()
        self._answered = False
        self._errors = b""
        try:
            self._process = subprocess.Popen(
                find_executable(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that Ctrl-C reaches us alone, and close() the children
                env={**os.environ, MARK: self._mark},
                bufsize=0,
            )
        except OSError as error:
            raise UserError(f"{command}: cannot be started ({error.strerror})") from None
        interrupt.GROUPS.add(self._process.pid)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)  # it may never read
        # Without a reader, a talkative engine would fill the pipe and hang.
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()

    def send(self, command: str) -> None:
        """Hand one command to the engine without waiting for the answer."""
        self._id += 1
        self._pending.append((self._id, command))
        self._last = command
        try:
            self._write(f"{self._id} {command}\n".encode())
        except OSError:
            raise self._failure("the engine has quit") from None

    def receive(self) -> Reply:
        """The answer to the oldest unanswered command. Raises UserError (see the module)."""
        number, self._last = self._pending.popleft()
        text = self._read_reply()
        reply = parse_reply(text, number)
        if reply is None:
            raise self._failure(f"answer {text[:60]!r} is not GTP")
        self._answered = True
        return reply

    def ask(self, command: str) -> Reply:
        """``send`` and ``receive``."""
        self.send(command)
        return self.receive()

    def expect(self) -> str:
        """``receive`` where a refusal is a failure: the text of a ``=`` answer.

        Raises UserError with the engine's words if it refuses.
        """
        reply = self.receive()
        if not reply.ok:
            raise self._failure(f"the engine refuses: {reply.text or 'no reason given'}")
        return reply.text

    def failure(self, what: str) -> UserError:
        """The error that says ``what`` about the last command answered."""
        return self._failure(what)

    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ask the engine to quit; end it if it does not within GRACE, and what it has started."""
        assert self._process.stdin is not None and self._process.stdout is not None
        started = _descendants(self._process.pid, _processes())
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), b"quit\n")
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        _end_all(self._process.pid, f"{MARK}={self._mark}".encode(), started)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # where there is no /proc
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that we may not kill
            self._process.wait(GRACE)
        interrupt.GROUPS.discard(self._process.pid)
        self._drain.join(1.0)
        self._process.stdout.close()

    def __enter__(self) -> GtpEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        """All of ``data``. Raises UserError where the engine does not read, OSError where it has
        closed its input."""
        assert self._process.stdin is not None
        pipe, deadline = self._process.stdin.fileno(), time.monotonic() + self.timeout
        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        while data:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise self._failure(f"it has read nothing for {self.timeout:g} s")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(pipe, data):]

    def _read_reply(self) -> str:
        """One reply: the lines up to an empty one, control characters and blank lines dropped."""
        began = time.monotonic()
        lines: list[str] = []
        size = 0
        while True:
            line = self._read_line(began, size, lines)
            size += len(line) + 1
            if line.strip():
                lines.append(line)
            elif lines:
                return "\n".join(lines)

    def _read_line(self, began: float, size: int, lines: list[str]) -> str:
        """The next line of an answer of which ``lines`` (``size`` characters) are there."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        while not self._lines:
            if size + len(self._buffer) > MOST_BYTES:
                raise self._failure(f"an answer of more than {MOST_BYTES >> 20} MB")
            left = began + self.timeout - time.monotonic()
            if lines and not self._buffer:
                left = min(left, HANGING)
            if left <= 0 or not poll.poll(left * 1000):
                if lines and time.monotonic() - began < self.timeout:
                    raise self._failure(f"the answer {lines[0][:60]!r} is not ended by an empty "
                                        "line, as GTP wants it")
                raise self._failure(f"no answer within {self.timeout:g} s{self._hint()}")
            chunk = os.read(pipe, 65536)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)  # it closes its output a moment before it exits
                raise self._failure(f"the engine has quit{self._hint()}")
            *lines_read, self._buffer = (self._buffer + chunk).split(b"\n")
            self._lines.extend(lines_read)
        text = self._lines.popleft().decode("utf-8", "replace").replace("\t", " ")
        return "".join(c for c in text if c >= " ").rstrip()

    def _hint(self) -> str:
        return "" if self._answered else "; does its command start GTP?"

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                self._errors = (self._errors + chunk)[-MOST_ERRORS:]

    def _failure(self, what: str) -> UserError:
        if self._process.poll() is not None:
            self._drain.join(1.0)  # wait for the last lines
        said = self._errors.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")
        words = f"; its last line: {clip(last, 200)}" if last else ""
        return UserError(f"engine {clip(self.command, 300)!r}: {clip(what, 300)} "
                         f"(after {clip(self._last, 100)!r}{words})")


class _Process(NamedTuple):
    """A process that runs. since: when it began, so that a number used again is another one."""

    number: int
    parent: int
    session: int
    since: int


def _end_all(engine: int, mark: bytes, started: set[_Process]) -> None:
    """End an engine and what it has started, even outside its process group: the processes of its
    session, those ``started`` while it ran, those with ``mark`` in their environment, and theirs.
    Nothing where the system shows none (no /proc).

    A process that has left its session, its parents and its environment all together is not found.
    """
    known, mine = {(process.number, process.since) for process in started}, set[_Process]()
    for _ in range(SWEEPS):  # one may start another while we look, until all are stopped
        running = _processes()
        new = {process for process in running if process.session == engine
               or (process.number, process.since) in known or _has(process, mark)}
        new |= {child for parent in new for child in _descendants(parent.number, running)}
        if new <= mine:
            break
        _signal(new - mine, signal.SIGSTOP)
        mine |= new
    _signal(mine, signal.SIGKILL)


def _signal(processes: set[_Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.number, number)


def _has(process: _Process, mark: bytes) -> bool:
    """Whether ``mark`` is in the environment of a process."""
    with contextlib.suppress(OSError):
        return mark in Path(f"/proc/{process.number}/environ").read_bytes().split(b"\0")
    return False


def _descendants(ancestor: int, running: list[_Process]) -> set[_Process]:
    """Those of ``running`` that ``ancestor`` has started, and these in turn."""
    found, new = set[_Process](), {ancestor}
    while new:
        young = {process for process in running if process.parent in new} - found
        found |= young
        new = {process.number for process in young}
    return found


def _processes() -> list[_Process]:
    """All that run; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            words = entry.read_text().rpartition(")")[2].split()
            if words[0] not in "ZX":  # not ended
                found.append(_Process(int(entry.parent.name), int(words[1]), int(words[3]),
                                      int(words[19])))
    return found
