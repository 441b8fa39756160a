"""Ctrl-C and SIGTERM, heard once and never lost.

An exception raised by a signal handler can land where Python has nobody to hand it to: in a
callback from C while Numba loads its cache, say, or in a finalizer. Python then reports it as
ignored, and the program runs on. So the handler also writes the request down, and loops ask for it
with ``raise_if_asked``. Stages of a run use ``gently``: there the first signal raises nothing, and
the stage stops at its next step. Whoever does not ask within PATIENCE seconds is interrupted after
all, and a second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from selfplay.common.errors import UserError

PATIENCE = 5.0  #: seconds that a step may take before the signal interrupts it anyway
EXIT_CODE = 130  #: of a process that was asked to stop
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MAIN = threading.main_thread().ident or 0
#: Leaders of the process groups that were started and must not live on; whoever starts one adds it.
GROUPS: set[int] = set()


class _Request:
    """What has been asked of this process so far."""

    def __init__(self) -> None:
        self.made = False
        self.number = signal.SIGINT  #: of the first signal that came
        self.repeated_by_us = False  #: the handler is called by ``_insist``, not by a new signal
        self.gentle = 0  #: depth of ``gently`` blocks
        self.heard = threading.Event()  #: no need to insist any longer


_request = _Request()
_farewell = "stopped at once"


def raise_if_asked() -> None:
    """Raise KeyboardInterrupt if the process has been asked to stop."""
    if _request.made:
        _request.heard.set()
        raise KeyboardInterrupt


@contextmanager
def gently() -> Iterator[None]:
    """In this block a first signal interrupts nothing: what runs in it calls ``raise_if_asked``
    often. The block itself checks once at its end."""
    _request.gentle += 1
    try:
        yield
    except KeyboardInterrupt:
        _request.heard.set()
        raise
    finally:
        _request.gentle -= 1
    raise_if_asked()


@contextmanager
def listening(farewell: str = "stopped at once") -> Iterator[None]:
    """Handle SIGINT and SIGTERM as described above, and restore the old handlers afterwards.

    Signals that the process was started to ignore (by nohup, say) stay ignored. Outside the main
    thread, where Python allows no handlers, this does nothing. farewell: what a second signal's
    end says.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    global _request, _farewell
    _request, _farewell = _Request(), farewell
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    try:
        yield
    finally:
        _request.heard.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        _request = _Request()


def leave_on_signals() -> None:
    """A signal ends the process at once wherever it is not ``listening``: before and after the
    command's work there is nothing to finish, and nobody to catch an exception."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: _leave())


@contextmanager
def alarm(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise ``error`` in the block where it takes longer. For the main thread, whose Python code
    alone can be interrupted, on a system with signals; inside a call of C it goes on."""
    def over(number: int, frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """``alarm`` with UserError(message) where there is one; elsewhere the block goes on."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    with alarm(seconds, UserError(message)):
        yield


def _handle(number: int, frame: object) -> None:
    request = _request
    if request.made and not request.repeated_by_us:
        _leave()
    if not request.made:
        request.made, request.number = True, signal.Signals(number)
        threading.Thread(target=_insist, args=(request,), daemon=True).start()
        if request.gentle:
            return
    request.repeated_by_us = False
    raise KeyboardInterrupt


def _insist(request: _Request) -> None:
    # A real signal, as only that ends a sleep or a wait for a socket. One at a time: a second one
    # on its way would be taken for the user's.
    while not request.heard.wait(PATIENCE):
        if not request.repeated_by_us:
            request.repeated_by_us = True
            signal.pthread_kill(MAIN, request.number)


def _leave() -> None:
    """End the process now: what is on disk is whole at every instant."""
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")  # a live bar has hidden the cursor
    os.write(2, f"{_farewell}\n".encode())
    for leader in tuple(GROUPS):
        with suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
    os._exit(EXIT_CODE)
