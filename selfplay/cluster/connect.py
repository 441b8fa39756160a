"""The way to a cluster: what can be wrong with it is said in one line, with the remedy."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.words import clip

SECONDS = 5.0  #: to wait for an answer at an address
ANSWERED = 30.0  #: seconds that an answer may then take, of a machine under load
#: A client of HTTP/2 begins so (RFC 9113, 3.4): gRPC, which Ray speaks, answers with its settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
INSTALL = "pip install 'selfplay-lab[ray]'"


def connected(address: str) -> tuple[Any, str]:
    """(the module ``ray`` of a process that belongs to the cluster at ``address``, where its
    dashboard is). address: HOST:PORT, auto (the cluster that this machine is of) or local (a new
    one, which ends with this process).

    Raises UserError where Ray is not installed, where none answers, and where the cluster has
    another version of Ray or Python.
    """
    try:
        import ray
    except ImportError:
        raise UserError(f"--ray: Ray is not installed; {INSTALL}, or leave --ray out") from None
    if ray.is_initialized():
        return ray, ""
    _must_answer(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        with _own_signals():
            found = ray.init(address=address, log_to_driver=False,
                             logging_level=logging.CRITICAL,
                             include_dashboard=False if address == "local" else None)
    except ConnectionError:
        raise _nobody(address) from None
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise _refused(address, error) from None
        said = clip(str(error).replace("Version mismatch:", ""), 300)
        raise UserError(f"--ray {address}: the cluster has another version of Ray or Python "
                        f"({said}); install the same on all machines") from None
    except (ValueError, OSError, AssertionError) as error:
        raise _refused(address, error) from None
    return ray, str(found.dashboard_url or "")


def _must_answer(address: str) -> None:
    """Raises UserError where nobody listens, or another program, such as Ray's dashboard: Ray would
    take minutes to find out."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UserError(f"--ray {clip(address, 80)}: auto, local or HOST:PORT wanted, on a machine "
                        "of the cluster (ray start --address=HOST:PORT makes it one)")
    try:
        with socket.create_connection((host, int(port)), SECONDS) as line:
            if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):  # else nothing is said in clear
                line.settimeout(ANSWERED)
                line.sendall(PREFACE)
                if line.recv(4, socket.MSG_WAITALL)[3:] != b"\4":  # the type of a frame: settings
                    raise _nobody(address)
    except (OSError, UnicodeError):  # the latter of a name that no machine can have
        raise _nobody(address) from None


def _nobody(address: str) -> UserError:
    start = "ray start --head" if address == "auto" else (
        f"ray start --head --port={address.rpartition(':')[2]} there, then ray start "
        f"--address={address} here")
    return UserError(f"--ray {address}: no Ray answers; start it with {start}, or take --ray local "
                     "for this machine alone")


def _refused(address: str, error: BaseException) -> UserError:
    return UserError(f"--ray {address}: {clip(str(error), 300)}; is this machine one of the "
                     f"cluster's (ray start --address={address})?")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; afterwards it is heard as before."""
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # of a handler that Python has not set
                signal.signal(number, handler)
