"""Files that are whole at any time: after a kill, a crash or a full disk the old one or the new."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from selfplay.common import ranks
from selfplay.common.errors import DiskError, UserError
from selfplay.common.words import clip, disk_remedy


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by ``data``: bytes, or a function that writes to the open file.

    The bytes go to a temporary file in the same folder, which is flushed to the disk (fsync) and
    renamed last. Missing parent folders are made. Of a run's processes only the first one writes.

    Raises UserError where the system refuses (disk full, no permission); ``path`` is then
    unchanged and the temporary file deleted.
    """
    if not ranks.leads():
        return
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
    return DiskError(f"{path}: cannot be written: {disk_remedy(error)}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes for the block; a process that dies frees its lock.
    Of a run's processes the first one locks it for all.

    A missing folder is made. Temporary files that a kill has left in it (``.NAME.PID.tmp``) are
    deleted. Where the system has no such locks (Windows), nothing is locked.

    Raises UserError if another process has the folder, DiskError if it cannot be made.
    """
    if not ranks.leads():
        yield
        return
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
    from filelock import lock_descriptor  # which takes folders, read-only ones too, as they are

    if os.name == "nt":  # opens no folder
        yield
        return
    lock, kind = path, os.O_RDONLY
    if not path.is_dir():
        lock, kind = path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT
    descriptor, free = os.open(lock, kind), True
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            free = lock_descriptor(descriptor, blocking=False)
        if not free or not os.fstat(descriptor).st_nlink:  # who had it has just deleted it
            raise UserError(f"{path}: another process is at work on it; wait for it, stop it, or "
                            f"give {option} another name")
        try:
            yield
        finally:
            if lock != path:
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


#: What reading JSON raises, and asking what was read for a shape that it may not have.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
KINDS: dict[type, str] = {dict: "an object", list: "a list"}
AGAIN = "delete it and run the same command again"
SUM = "crc32"  #: key of a JSON object's own sum
SUMS = "sums.json"  #: the sums of a folder's files, as a flipped bit leaves numbers that look well


def parse_json(data: bytes | str) -> Any:
    """What a JSON text says. Raises ValueError for anything else, be it nested too deep or a number
    of thousands of digits."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError where it cannot be read, or is a device, a pipe or a
    socket, whose bytes may never end."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # of a folder the system says what it is
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return path.read_bytes()


def read_json(path: Path, kind: type = object, remedy: str = AGAIN) -> Any:
    """What a JSON file says, an object where ``kind`` is dict, a list where it is list; without
    its SUM.

    Raises UserError naming the file if it is missing, is not JSON, of another kind, or not what
    ``write_state`` has written.
    """
    try:
        found = parse_json(read_file(path))
        if not isinstance(found, kind):
            raise ValueError(f"{clipped(found)} where {KINDS[kind]} is wanted")
        if isinstance(found, dict) and found.pop(SUM, None) not in (None, _sum(found)):
            raise ValueError(f"{SUM} does not fit the rest; if that was changed by hand, delete "
                             f"the line of {SUM}")
        return found
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 200)}); {remedy}") from None


def clipped(value: Any, most: int = 60) -> str:
    """A value as JSON has it, short enough for a line."""
    return clip(json.dumps(value, ensure_ascii=False, default=str), most)


def text_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """(number from 1, line) of a UTF-8 file's lines that are not blank; a byte order mark is none
    of its text, and only a line feed ends a line: JSON may hold the other separators.

    Raises UserError that says ``what`` the file is wanted as.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(f"{path}: cannot be read as {what} "
                        f"({'no such file' if missing else error})") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())


def write_state(path: Path, data: Mapping[str, Any]) -> None:
    """A JSON object that something goes on from, with its SUM, so that ``read_json`` finds damage
    which leaves it JSON."""
    write_json(path, {SUM: _sum(data), **data})  # first, so that its line can be deleted


def _sum(data: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def file_sum(path: Path) -> int:
    """The CRC-32 of a file's bytes."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return found


def write_sums(folder: Path) -> None:
    """What ``must_be_as_saved`` reads."""
    write_json(folder / SUMS, {file.name: file_sum(file) for file in sorted(folder.iterdir())
                               if file.is_file()})


def must_be_as_saved(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError where the bytes of these files of a checkpoint are not those of when its
    sums were written; it may be an older one, without sums."""
    sums = read_json(folder / SUMS, dict, without(folder)) if (folder / SUMS).is_file() else {}
    for name in names:
        try:
            same = name not in sums or sums[name] == file_sum(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: damaged ({error}); {without(folder)}") from None
        if not same:
            raise UserError(f"{folder / name}: damaged (not as it was saved); {without(folder)}")


def without(folder: Path) -> str:
    """What to do about a damaged checkpoint: a run's has older ones beside it; a folder of another
    name may hold anything."""
    if folder.name.startswith("ckpt-"):
        return f"delete {folder}, then an older checkpoint is used"
    return "name another, such as runs/NAME/rl/ckpt-000010"
