"""The kinds of failure that a user caused and can mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class DiskError(UserError):
    """The system refuses to write: nothing further could be kept."""


class Breakdown(UserError):
    """A loss, gradient or divergence that is not sound; nothing of it has been learnt or saved."""


@contextmanager
def advise_on_breakdown(newest: Callable[[], Path | None], option: str, setting: str, rate: float
             ) -> Iterator[None]:
    """Add to a Breakdown in the block what goes on from the newest checkpoint: another run, as a
    run keeps its settings. option: what gives it a checkpoint to start from; nothing
    where nothing does. setting: name of the
    learning rate, which is ``rate``."""
    try:
        yield
    except Breakdown as error:
        path, less = newest(), f"--run NEW --set {setting}={rate / 3:.2g}"
        none = "there is no checkpoint yet, " if option else ""
        raise UserError(f"{error}; " + (
            f"the last good checkpoint is kept, go on from it with {option} {path} {less}"
            if path and option else f"{none}begin again with {less}")) from None
