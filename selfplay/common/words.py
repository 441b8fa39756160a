"""The words of messages: short texts, near names, commands, what a disk refuses."""

from __future__ import annotations

import difflib
import errno
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST = 500  #: characters of a message
#: What a disk refuses, a matter of the user's folders and not of the program, and what to do.
REFUSED = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "mend the permissions or choose another folder"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
                    "a file and a folder want the same name: choose another"),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def clip(text: str, most: int = LONGEST) -> str:
    """``text`` in one line of at most ``most`` printable characters; what is left out is in its
    middle, as a message begins with the place and ends with the remedy."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
                   for c in " ".join(text.split()))
    left_out = f" … ({len(line):,} characters) … "
    if len(line) <= most:
        return line
    head = max(most - len(left_out), 0) * 3 // 5
    return line[:head] + left_out + line[len(line) - (most - head - len(left_out)):]


def counted(number: float, noun: str) -> str:
    """1 -> "1 minute", 2.5 -> "2.5 minutes", 2000 -> "2,000 minutes"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'s' * (number != 1)}"


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of ``names`` that ``word`` is most like, in capitals or not; None if none is."""
    lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word[:99].lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def one_of(names: Sequence[str], word: object) -> str:
    """What is wanted in place of ``word``, in words."""
    near = nearest(str(word), names)
    return f"one of {', '.join(names)} wanted" + (f"; did you mean {near}?" if near else "")


def command(*words: object) -> str:
    """A command to be typed as it stands: quoted, no path in it looks like an option, and whole
    numbers without a point."""
    whole = (int(word) if isinstance(word, float) and word.is_integer() else word for word in words)
    return shlex.join(f"./{word}" if isinstance(word, Path) and str(word).startswith("-")
                      else str(word) for word in whole)


def disk_remedy(error: OSError) -> str:
    """What is wrong, in the system's words, and what to do about it."""
    return (f"{error.strerror or error}; {REFUSED.get(error.errno or 0, 'mend the disk')}, "
            "then run the same command again")
