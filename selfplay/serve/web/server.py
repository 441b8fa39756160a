"""The server of the web board: files, one websocket a page, and a table a game.

It listens on this machine alone, and answers only pages that it has served itself: another
site's page in the same browser may reach 127.0.0.1 as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import GAMES, GameError, make
from selfplay.games.openspiel import playable
from selfplay.models import NetError
from selfplay.serve.thinker import Limits
from selfplay.serve.web import minds, protocol
from selfplay.serve.web.table import Table

STATIC = Path(__file__).parent / "static"
HOST = "127.0.0.1"
PORT = 8117
TRIED = 50  #: ports from PORT on
MOST_TABLES = 200  #: the oldest at which nobody sits goes first
#: What no other page may do with ours, and whence ours may load: from this server alone.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
                               "img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer"}


class Hall:
    """All tables of a server."""

    def __init__(self, game: str, net: str | None) -> None:
        self.game, self.net = game, net
        self.tables: dict[str, Table] = {}
        self.lock = asyncio.Lock()

    async def seat(self, wanted: str | None, game: str | None, net: str | None) -> Table:
        """The table of that name, or a new one. Raises UserError or GameError."""
        if wanted in self.tables:
            return self.tables[wanted]
        same = game is None or game == self.game
        table = await asyncio.to_thread(
            lambda: Table(make(game or self.game), net or (self.net if same else None)))
        for name in list(self.tables)[: max(0, len(self.tables) + 1 - MOST_TABLES)]:
            if not self.tables[name].viewers:
                del self.tables[name]
        self.tables[table.name] = table
        return table

    def halt(self) -> None:
        for table in self.tables.values():
            table.halt()


def app(game: str = "go9x9", net: str | None = None) -> Starlette:
    """The whole server. game, net: what a new table begins with."""
    hall = Hall(game, net)

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=HEADERS)

    async def talk(socket: WebSocket) -> None:
        if not _ours(socket):
            return await socket.close(1008)
        await socket.accept()
        await _Guest(hall, socket).stay()

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        threading.Thread(target=warm, args=(game, net), daemon=True).start()
        yield
        hall.halt()

    return Starlette(
        routes=[Route("/", page), WebSocketRoute("/ws", talk),
                Mount("/static", _Files(directory=STATIC))],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        lifespan=life)


def warm(game: str, net: str | None) -> None:
    """Think once, so that kernels are compiled and the net is loaded by the time of the first
    move; what goes wrong is told when somebody thinks."""
    with contextlib.suppress(Exception):
        made = make(game)
        words = net or minds.choices(made)[0].words
        minds.Head(words, made, 8).think([], Limits(sims=8), threading.Event())


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def _ours(socket: WebSocket) -> bool:
    """Whether a page of this server asks; programs other than browsers name no origin."""
    origin = socket.headers.get("origin")
    return origin is None or origin == f"http://{socket.headers.get('host')}"


class _Guest:
    """One page that is connected."""

    def __init__(self, hall: Hall, socket: WebSocket) -> None:
        self.hall, self.socket = hall, socket
        self.table: Table | None = None
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def stay(self) -> None:
        """Until the page is closed."""
        sender = asyncio.create_task(self._send_all())
        try:
            await self._send(catalogue())
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                await self._hear(message.get("text") or message.get("bytes") or "")
        except WebSocketDisconnect:
            pass
        finally:
            sender.cancel()
            self._leave()

    async def _send(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message, separators=(",", ":")))

    async def _send_all(self) -> None:
        """What the table says; of thoughts and states that wait, only the last matters."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                waiting = [await self._out.get()]
                while not self._out.empty():
                    waiting.append(self._out.get_nowait())
                for number, message in enumerate(waiting):
                    kind = message["is"], message.get("side")
                    later = any((m["is"], m.get("side")) == kind for m in waiting[number + 1:])
                    if not (later and message["is"] in ("state", "report")):
                        await self._send(message)

    async def _hear(self, text: str | bytes) -> None:
        done = ""
        try:
            said = protocol.message_of(text)
            done = said.pop("do")
            if done == "hello":
                await self._sit(**said)
            elif self.table is None:
                raise UserError("say hello first")
            else:
                await self._do(self.table, done, said)
        except (UserError, GameError, NetError) as error:
            self._out.put_nowait({"is": "error", "of": done, "text": clip(str(error))})

    async def _sit(self, table: str | None, game: str | None, net: str | None) -> None:
        found = await self.hall.seat(table, game, net)
        self._leave()
        self.table = found
        found.viewers[self] = self._out.put_nowait
        self._out.put_nowait(await asyncio.to_thread(found.state))
        if len(found.viewers) == 1:
            found.stir()
        for report in found.reports.values():
            self._out.put_nowait(report)

    def _leave(self) -> None:
        if self.table is not None:
            self.table.viewers.pop(self, None)
            if not self.table.viewers:
                self.table.halt()

    async def _do(self, table: Table, done: str, said: dict[str, Any]) -> None:
        """One thing at a time at a table; what may take long (to load a net), on a thread."""
        if done == "save":
            return self._out.put_nowait(table.file())
        if done == "tree":
            return self._out.put_nowait(await asyncio.to_thread(table.tree, **said))
        async with table.turn:
            table.halt()
            try:
                notices = await asyncio.to_thread(DEEDS[done], table, **said)
                for text in notices or ():
                    table.tell({"is": "notice", "text": text})
            finally:
                table.tell(await asyncio.to_thread(table.state))
                table.stir()


DEEDS: dict[str, Any] = {
    "new": Table.new, "play": Table.play, "goto": Table.goto, "undo": Table.undo,
    "resign": Table.resign, "seats": Table.sit, "analyse": Table.analyse, "setup": Table.setup,
    "load": Table.load}


def catalogue() -> dict[str, Any]:
    """What can be played, and by which version."""
    try:
        number = version("selfplay-lab")
    except PackageNotFoundError:
        number = ""
    sized = {re.sub(r"\d+x\d+$", "", name) for name in GAMES if re.search(r"\d+x\d+$", name)}
    native = [name for name in GAMES if name not in sized]  # "go" is go9x9
    return {"is": "games", "version": number, "native": native,
            "openspiel": [f"openspiel:{name}" for name in playable()]}


# ------------------------------------------------------------------------------------ running

def listen(port: int | None) -> socket.socket:
    """A socket on this machine: of ``port``, or where that is None of the first free one from PORT
    on. Raises UserError where there is none."""
    for number in range(PORT, PORT + TRIED) if port is None else [port]:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, number))
            made.listen(64)
            return made
        except OSError as error:
            made.close()
            if port is not None or error.errno != errno.EADDRINUSE:
                raise UserError(f"port {number} of {HOST}: {error.strerror}; give another --port, "
                                "or none for the first that is free") from None
    raise UserError(f"ports {PORT} to {PORT + TRIED - 1} of {HOST} are all in use; give --port")


def program(game: str, net: str | None, alone: bool = False) -> Any:
    """The server as uvicorn runs it: ``run(sockets=[...])`` answers until Ctrl-C. alone: the
    process ends with it, at once. Threads may be compiling or inside a net then: nothing waits for
    them, and the end of the interpreter, which would cut them off within C++, is not run."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.force_exit |= alone
            await super().shutdown(sockets)
            if alone:
                sys.stdout.flush()
                os._exit(0)

    return Server(uvicorn.Config(
        app(game, net), log_level="warning", ws="websockets-sansio",
        ws_max_size=protocol.MOST_BYTES, timeout_graceful_shutdown=1, lifespan="on"))
