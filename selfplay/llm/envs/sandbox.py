"""Python that a model has written, in a process that can do nothing but compute.

Before the code runs, the process gives up what it could do harm with: it is nobody where it was
root, it may open no file, socket or pipe (not one descriptor more), start no process, write no byte
to a disk, and use no more processor time and memory than it is given. Modules that are to be used
are therefore imported before. These are limits of the kernel (setrlimit), not a virtual machine:
they hold against what a model writes, not against an attack on the kernel itself. Needs a POSIX
system.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

LONGEST = 4000  #: characters of what is said
#: Runs in the new process: its arguments are seconds, bytes of memory, and modules.
_CODE = """
import os, resource, sys
seconds, memory, *names = sys.argv[1:]
for name in names:
    globals()[name] = __import__(name)
code = sys.stdin.read()
os.chdir("/")
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for limit, most in (("CPU", int(seconds)), ("AS", int(memory)), ("FSIZE", 0), ("NPROC", 0),
                    ("CORE", 0), ("NOFILE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most))
space = {name: globals()[name] for name in names}
del os, resource, sys.modules["resource"]
try:
    try:
        print(eval(compile(code, "tool", "eval"), space))
    except SyntaxError:
        exec(compile(code, "tool", "exec"), space)
except BaseException as error:
    print(type(error).__name__ + ": " + str(error)[:200])
sys.stdout.flush()
"""


def sandboxed(
    code: str, seconds: int = 2, memory_mb: int = 256, modules: Sequence[str] = ("math",)
) -> str:
    """What Python code prints, or the value of an expression, or its error in a line; at most
    LONGEST characters. What takes too long or too much says so.

    seconds: of processor time; twice that may pass. modules: names that the code may use.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CODE, str(seconds), str(memory_mb << 20), *modules],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={},
        start_new_session=True)
    try:
        return _read(process, code, time.monotonic() + 2 * seconds + 5)
    finally:
        if process.poll() is None:  # else its number may be another's by now
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _read(process: subprocess.Popen[bytes], code: str, end: float) -> str:
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):
        process.stdin.write(code.encode("utf-8", "replace"))
        process.stdin.close()
    said = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while len(said) <= 4 * LONGEST:
            if not waiting.select(max(end - time.monotonic(), 0.0)):
                return "error: it took too long"
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            said += chunk
    text = said.decode("utf-8", "replace").strip()
    if not text and process.wait() != 0:
        return "error: it took too much time or memory"
    return text[:LONGEST]
