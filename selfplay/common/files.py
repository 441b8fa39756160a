"""Files that are whole at any time: after a kill, a crash or a full disk the old one or the new."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from selfplay.common.errors import DiskError, UserError


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by ``data``: bytes, or a function that writes to the open file.

    The bytes go to a temporary file in the same folder, which is flushed to the disk (fsync) and
    renamed last. Missing parent folders are made.

    Raises UserError where the system refuses (disk full, no permission); ``path`` is then
    unchanged and the temporary file deleted.
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
    """Flush the folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(path: Path, error: OSError) -> DiskError:
    """The user's error for a write that the system refused."""
    return DiskError(f"{path}: cannot be written ({error.strerror or error}); "
                     "free disk space or mend the permissions, then run the same command again")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes for the block; a process that dies frees its lock.

    A missing folder is made. Temporary files that a kill has left in it (``.NAME.PID.tmp``) are
    deleted. Where the system has no such locks (Windows), nothing is locked.

    Raises UserError if another process has the folder, DiskError if it cannot be made.
    """
    make_folder(folder)
    with in_use(folder, "--run"):
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield


def make_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing; DiskError if the system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error


@contextlib.contextmanager
def in_use(path: Path, option: str) -> Iterator[None]:
    """Lock a folder without deleting anything in it, or a file that does not exist yet.

    A file is locked by ``FILE.lock`` beside it, which is deleted at the end of the block. option:
    the option by which the user names ``path``. Raises UserError if another process has it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock, kind = path, os.O_RDONLY
    if not path.is_dir():
        lock, kind = path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT
    descriptor = os.open(lock, kind)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _at_work(path, option) from None
        if not os.fstat(descriptor).st_nlink:  # its last owner has just deleted it
            raise _at_work(path, option)
        try:
            yield
        finally:
            if lock != path:
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _at_work(path: Path, option: str) -> UserError:
    return UserError(f"{path}: another process is at work on it; wait for it, stop it, or give "
                     f"{option} another name")


def read_json(path: Path) -> Any:
    """Raises UserError naming the file if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it and run the same command again"
        ) from None


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())


def read_history(path: Path) -> list[dict[str, Any]]:
    """Rows of a history.jsonl; UserError naming the first damaged line."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(f"{path}, line {number}: damaged; delete that line and run the same "
                            "command again") from None
    return rows


def write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
