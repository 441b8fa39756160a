"""Writing files so that a kill, a crash or a full disk leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from selfplay.errors import UserError


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by ``data``: bytes, or a function that writes to the open file.

    The bytes go to a temporary file in the same folder, to the disk (fsync), and take the name
    last. Missing parent folders are made.

    Raises UserError where the system refuses (disk full, no permission); ``path`` is then what it
    was and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            try:
                _write(file, data)
                os.replace(temporary, path)
            except BaseException:  # Ctrl-C included
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def _write(file: BinaryIO, data: bytes | Callable[[BinaryIO], object]) -> None:
    if isinstance(data, bytes):
        file.write(data)
    else:
        data(file)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(path: Path, error: OSError) -> UserError:
    """The user's error for a write that the system refused."""
    return UserError(f"{path}: cannot be written ({error.strerror or error}); "
                     "free disk space or mend the permissions, then run the same command again")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` for the block; the lock dies with its process.

    What a kill has left half written in there (``.NAME.PID.tmp``) is deleted. Where the system
    knows no such locks (Windows) nothing is kept out.

    Raises UserError if another process has the folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is at work on it; wait for it, stop it, "
                            "or give --run another name") from None
        except OSError:  # a file system without locks
            pass
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
