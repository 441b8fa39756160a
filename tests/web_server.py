"""The web board's server in this process, on a port of its own, for tests that talk to it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import save_net
from websockets.sync.client import ClientConnection, connect

from selfplay.serve.web import minds, server

NETS = {"first/sft/ckpt-000001": "tictactoe", "first/rl/ckpt-000002": "tictactoe",
        "small/rl/ckpt-000001": "go5x5"}

ALONG = minds._along  #: while a server runs, none came along


@contextlib.contextmanager
def running(folder: Path, game: str = "tictactoe") -> Iterator[int]:
    """The port of a server whose runs lie in ``folder``."""
    for name, of in NETS.items():
        if not (folder / name).exists():
            save_net(folder / name, of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minds, "RUNS", folder)
        patch.setattr(minds, "_along", lambda game: [])
        listening = server.listen(None)
        program = server.program(game, None)
        program.install_signal_handlers = lambda: None
        thread = threading.Thread(target=program.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            program.should_exit = True
            thread.join(20)
            listening.close()


class Page:
    """What a page says and hears, without a page."""

    def __init__(self, port: int, **hello: Any) -> None:
        self._opened = connect(f"ws://127.0.0.1:{port}/ws", max_size=2**24)
        self.socket: ClientConnection = self._opened.__enter__()
        self.say("hello", **hello)
        self.state = self.hear("state")

    def say(self, do: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"do": do, **fields}))

    def hear(self, kind: str, seconds: float = 240, **wanted: Any) -> dict[str, Any]:
        """The next message of a kind with these values; the others are passed over."""
        end = time.monotonic() + seconds
        while True:
            said = json.loads(self.socket.recv(timeout=max(0.01, end - time.monotonic())))
            if said["is"] == "state":
                self.state = said
            if said["is"] == kind and all(said[key] == value for key, value in wanted.items()):
                return said

    def all_said(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a kind that have been said by the time that what was done is done."""
        self.say("save")
        found: list[dict[str, Any]] = []
        while (said := json.loads(self.socket.recv(timeout=240)))["is"] != "file":
            found += [said] * (said["is"] == kind)
        return found

    def play(self, text: str) -> dict[str, Any]:
        """Make a move by its text; the state after it."""
        action = next(m[0] for m in self.state["position"]["moves"] if m[1] == text)
        before = self.state["node"]
        self.say("play", action=action, at=before)
        while self.hear("state")["node"] == before:
            pass
        return self.state

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(None, None, None)
