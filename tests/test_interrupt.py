"""Signals are never lost, and nothing is interrupted where it cannot be."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from forked import HEARS_CTRL_C

from selfplay.common import compiling, interrupt
from selfplay.common.console import Bar

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handlers as the command line installs them; a test run in the background ignores SIGINT."""
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    with interrupt.listening():
        yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, outside)


@BOTH
def test_in_a_stage_the_signal_waits_for_a_look(number: int) -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), interrupt.gently():
        signal.raise_signal(number)
        seen.append("the step ends")
        interrupt.raise_if_asked()
        seen.append("never")
    assert seen == ["the step ends"]


@BOTH
def test_the_end_of_a_stage_is_a_look(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interrupt.gently():
        signal.raise_signal(number)


@BOTH
def test_elsewhere_it_interrupts_at_once(number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_one_that_python_swallows_is_heard_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Numba's cache load: the exception is raised in a callback of C code."""
    ignored: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: ignored.append(found.exc_type))
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    callback()
    assert ignored == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        Bar("work", 10, "games").at(1)


def test_who_does_not_look_is_interrupted_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "PATIENCE", 0.5)
    with pytest.raises(KeyboardInterrupt), interrupt.gently():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)


@BOTH
def test_a_second_one_ends_the_process_at_once(number: int) -> None:
    code = (
        f"{HEARS_CTRL_C}\nfrom selfplay.common import interrupt\n"
        "with interrupt.listening(), interrupt.gently():\n"
        f"    signal.raise_signal({int(number)})\n    print('on', flush=True)\n"
        f"    signal.raise_signal({int(number)})\n    print('never', flush=True)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "on\n", "stopped at once\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    code = ("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "from selfplay.common import interrupt\n"
            "with interrupt.listening():\n    signal.raise_signal(signal.SIGINT)\nprint('on')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_time_in_numbas_compiler_is_counted_once_for_all_threads() -> None:
    from numba.core.compiler_lock import global_compiler_lock

    compiling.watch()
    before = compiling.seconds()

    def load() -> None:
        with global_compiler_lock, global_compiler_lock:
            time.sleep(0.1)

    threads = [threading.Thread(target=load) for _ in range(3)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted, wall = compiling.seconds() - before, time.monotonic() - start
    assert 0.3 <= counted <= wall
    time.sleep(0.05)
    assert compiling.seconds() - before == counted


#: The command, and where in its last steps it gets a signal that is not its first one.
ENDING = {
    "as it says that it stops": "mistakes._say_once = lambda *said: again()",
    "as it returns": "mistakes.run_command = returns",
    "as the threads end": "sys.exit = lambda code: again()",
}


@pytest.mark.parametrize("where", ENDING)
@BOTH
def test_another_one_while_the_command_ends_stops_at_once(number: int, where: str) -> None:
    """Between the handlers of its work and those of its end there is no instant without any."""
    code = (
        f"{HEARS_CTRL_C}\nimport sys\nfrom selfplay import cli\nfrom selfplay.cli import mistakes\n"
        "class Commands:\n"
        "    def __call__(self, **options):\n"
        f"        signal.raise_signal({int(number)})\n"
        f"def again():\n    signal.raise_signal({int(number)})\n    print('never')\n"
        "work = mistakes.run_command\n"
        "def returns(commands):\n    work(commands)\n    again()\n"
        "sys.argv = ['selfplay', 'train']\ncli.cli = Commands()\n"
        f"{ENDING[where]}\ncli.main()\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    at_once = "stopped at once; the same command continues\n"
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr in (at_once, f"stopped; the same command continues\n{at_once}")


def test_before_the_command_listens_a_signal_is_one_line_and_nohup_is_heeded() -> None:
    for ignored, expected in ((False, (130, "", "stopped at once\n")), (True, (0, "on\n", ""))):
        code = (f"{HEARS_CTRL_C}\nfrom selfplay.common import interrupt\n"
                f"if {ignored}: signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                "interrupt.leave_on_signals()\nsignal.raise_signal(signal.SIGINT)\nprint('on')")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=False)
        assert (done.returncode, done.stdout, done.stderr) == expected


def test_a_second_signal_takes_the_engines_along() -> None:
    """The process ends at once, and the groups that it has started with it."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "from selfplay.common import interrupt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with interrupt.listening(), interrupt.gently():\n"
        "    engine = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    interrupt.GROUPS.add(engine.pid)\n"
        "    print(engine.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == interrupt.EXIT_CODE, done.stderr
    for _ in range(100):  # the kernel needs a moment, and somebody to reap it
        listed = subprocess.run(["ps", "-o", "stat=", "-p", done.stdout.strip()],
                                capture_output=True, text=True, check=False)
        found = listed.stdout.strip()
        if not found or found.startswith("Z"):
            return
        time.sleep(0.05)
    raise AssertionError(f"the engine lives on: {found}")
