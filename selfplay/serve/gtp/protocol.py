"""The engine's side of GTP: lines in, answers out. What the commands do is in ``commands``.

A thread reads lines all the time, as any line, even an empty one, ends a live analysis. Nothing
but GTP is written to the output.

Source: Farneback, "Specification of the Go Text Protocol, version 2, draft 2" (2002); the commands
of Leela Zero, KataGo and KGS as their documents have them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from selfplay.common.words import clip
from selfplay.serve.lines import TOO_LONG, LineReader

LONGEST = 1 << 16  #: bytes of a line; a longer one is an error, and is read to its end
_COMMAND = re.compile(r"(\d{1,10}(?=\s|$))?\s*(\S*)\s*(.*)", re.DOTALL)


class GtpError(Exception):
    """An answer that begins with a question mark."""


def number(text: str, kind: type = float) -> float:
    """A finite number, a whole one where ``kind`` is int. Raises GtpError."""
    try:
        found = float(kind(text))
    except (ValueError, OverflowError):
        raise GtpError(f"syntax error: {text[:40]!r} is no number") from None
    if not math.isfinite(found):
        raise GtpError("syntax error: no finite number")
    return found


class Answer:
    """The answer to one command, which may come line by line."""

    def __init__(self, number: str, write: Callable[[str], None]) -> None:
        self.number, self._write = number, write
        self.begun, self.stays_open = False, False

    def line(self, text: str) -> None:
        """Part of an answer that goes on."""
        self._write(("" if self.begun else f"={self.number}\n") + text + "\n")
        self.begun = True

    def stay_open(self) -> None:
        """Lines follow until the next command comes."""
        if not self.begun:
            self._write(f"={self.number}\n")
        self.begun = self.stays_open = True

    def end(self, text: str = "") -> None:
        lines = [line for line in text.splitlines() if line.strip()]
        body = "\n" * text.startswith("\n") + "\n".join(lines)
        if self.begun:
            self._write(body + "\n" * (bool(lines) + 1))
        else:
            self._write(f"={self.number} {body}\n\n")

    def fail(self, reason: str) -> None:
        if self.begun:  # there is no way to take back an answer
            self._write("\n")
        else:
            self._write(f"?{self.number} {clip(reason, 200)}\n\n")


#: (command, words, answer) -> text of the answer; None where it quits. Raises GtpError.
Perform = Callable[[str, list[str], Answer], "str | None"]


def serve(perform: Perform, halt: Callable[[], None], stdin: IO[bytes],
          stdout: IO[bytes]) -> None:
    """Answer commands until ``quit`` or the end of the input.

    perform: see there; it gets the words behind the command as they stand. halt: ends what goes
    on behind an answer that stays open, and waits for its end.
    """
    lock = threading.Lock()

    def write(text: str) -> None:
        with lock:
            stdout.write(text.encode())
            stdout.flush()

    lines = LineReader(stdin, LONGEST)
    open_answer: Answer | None = None
    try:
        while True:
            line = lines.next()
            if open_answer is not None:
                halt()
                open_answer.end()
                open_answer = None
            if line is None:
                return
            number, command, words = parse(line.removeprefix(TOO_LONG))
            if line.startswith(TOO_LONG):
                command, words = "line-too-long", []
            if not command and not number:
                continue
            answer = Answer(number, write)
            try:
                text = perform(command, words, answer)
            except GtpError as error:
                answer.fail(str(error))
                continue
            if answer.stays_open:
                open_answer = answer
                continue
            answer.end(text or "")
            if text is None:
                return
    except BrokenPipeError:
        return  # nobody listens any more
    finally:
        halt()


def parse(line: str) -> tuple[str, str, list[str]]:
    """(id or "", command, words) of a line without its end; a comment is none.

    >>> parse("12 play b D4  # the point")
    ('12', 'play', ['b', 'D4'])
    """
    plain = "".join(c for c in line.replace("\t", " ") if c >= " " and c != "\x7f")
    found = _COMMAND.fullmatch(plain.partition("#")[0].strip())
    assert found is not None
    return found[1] or "", found[2], found[3].split()


@contextlib.contextmanager
def own_stdout() -> Iterator[IO[bytes]]:
    """The standard output, for one protocol alone: what else is printed within the block, by
    libraries too, goes to stderr."""
    sys.stdout.flush()
    kept, before = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with os.fdopen(os.dup(kept), "wb") as stream:
            yield stream
    except BrokenPipeError:
        pass  # nobody listens any more
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
