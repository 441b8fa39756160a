"""A small server that speaks as much of the Hugging Face hub's HTTP as an upload needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OTHERS = "of-others"  #: an organisation that lets nobody in


class Hub(ThreadingHTTPServer):
    """files: path -> bytes of what was committed; made: what repositories were asked for; tokens:
    that requests to the API came with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()

    def committed(self, lines: bytes) -> None:
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]


class Asked(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_PUT(self) -> None:
        body = self._body()
        name = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == name
        self.server.large[name] = body
        self._say({})

    def do_GET(self) -> None:
        self._say({}, 404 if OTHERS in self.path else 200)

    def do_POST(self) -> None:
        hub, body = self.server, self._body()
        hub.tokens.add(self.headers["authorization"])
        if self.path.endswith("/repos/create"):
            wanted = json.loads(body)
            hub.made.append(wanted)
            if wanted["organization"] == OTHERS:
                return self._say({"error": "Forbidden:\nyou are none of them"}, 403)
            return self._say({"url": f"{hub.url}/{wanted['organization']}/{wanted['name']}"})
        if "/preupload/" in self.path:
            return self._say({"files": [
                {"path": file["path"], "shouldIgnore": False, "uploadMode":
                 "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]]})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._say({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{hub.url}/put/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]})
        assert "/commit/" in self.path, self.path
        hub.committed(body)
        name = self.path.partition("/models/")[2].partition("/commit/")[0]
        self._say({"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1"})

    def _body(self) -> bytes:
        if self.headers["transfer-encoding"] != "chunked":
            return self.rfile.read(int(self.headers["content-length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _say(self, answer: Any, code: int = 200) -> None:
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def hub_server() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
