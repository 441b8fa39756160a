"""A word to the user while Numba compiles: a first start is not a hang."""

from __future__ import annotations

from typing import Any

from rich.console import Console

_heard: list[Any] = []


def announce() -> None:
    """Say so, once and on stderr, if this process has to compile; what is cached says nothing."""
    from numba.core import event

    class Listener(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said:
                self.said = True
                Console(stderr=True, soft_wrap=True).print(
                    "compiling (kept for the next time; half a minute of a free core)")

        def on_end(self, event: Any) -> None:
            pass

    if not _heard:
        _heard.append(Listener())
        event.register("numba:compile", _heard[0])
