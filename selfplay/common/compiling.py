"""Numba's compilation: said once, and timed, so that nobody's time budget is charged for it."""

from __future__ import annotations

import sys
import threading
import time
from importlib.util import find_spec
from types import ModuleType

_started = False
_announced = False
_lock = threading.Lock()
_depth, _since, _total = 0, 0.0, 0.0


def announce() -> None:
    """From now on, print one line to stderr the first time this process compiles a kernel."""
    global _announced
    _announced = True
    watch()


def seconds() -> float:
    """Wall-clock seconds, since ``watch``, in which some thread compiled a kernel or loaded one
    from Numba's cache."""
    with _lock:
        return _total + (time.monotonic() - _since if _depth else 0.0)


def working_seconds() -> float:
    """Seconds on a clock that stands still while Numba compiles."""
    return time.monotonic() - seconds()


def import_numba() -> None:
    """Import Numba without SciPy's linear algebra, which it would import, a tenth of a start's
    time, only to see that it is there. A kernel that multiplies matrices brings it in when it is
    compiled or called, as ever."""
    from numba.np import linalg

    wanted = linalg.ensure_blas

    def perhaps() -> None:
        if find_spec("scipy") is None:
            raise ImportError("no SciPy")

    linalg.ensure_blas = perhaps
    try:
        import numba.np.arraymath  # noqa: F401  asks, once
    finally:
        linalg.ensure_blas = wanted


def import_torch() -> None:
    """Import torch without its rules for tensors that have no data, a sixth of a start's time, for
    a process that only plays: what trains, compiles, exports or counts a net's work needs them, and
    must import the module of this name first."""
    name = "torch._meta_registrations"
    if "torch" in sys.modules:
        return
    sys.modules[name] = ModuleType(name)
    try:
        import torch  # noqa: F401  asks for it at its end
    finally:
        del sys.modules[name]


def watch() -> None:
    """Start to count ``seconds``; further calls do nothing."""
    global _started
    if _started:
        return
    _started = True
    import_numba()
    from numba.core import event

    class Compiling(event.Listener):
        said = False

        def on_start(self, event: event.Event) -> None:
            if _announced and not self.said:
                self.said = True
                print("compiling (half a minute of a free core, once: it is kept for the next "
                      "time, and no budget counts it)", file=sys.stderr, flush=True)

        def on_end(self, event: event.Event) -> None:
            pass

    class Locked(event.Listener):
        """Numba takes this lock to compile and to load; a thread that waits for it does neither."""

        def on_start(self, event: event.Event) -> None:
            global _depth, _since
            with _lock:
                if not _depth:
                    _since = time.monotonic()
                _depth += 1

        def on_end(self, event: event.Event) -> None:
            global _depth, _total
            with _lock:
                _depth = max(_depth - 1, 0)
                if not _depth:
                    _total += time.monotonic() - _since

    event.register("numba:compile", Compiling())
    event.register("numba:compiler_lock", Locked())
