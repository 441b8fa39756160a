"""Lines from another program, read by a thread, so that nobody waits who has work to do."""

from __future__ import annotations

import io
import queue
import threading
from typing import IO

LONGEST = 1 << 24  #: bytes of a line, unless told otherwise
CHUNK = 1 << 16  #: bytes, at most, that are read at once
TOO_LONG = "\N{REPLACEMENT CHARACTER}"  #: comes before the beginning of a line that is longer


class LineReader:
    """The lines of a stream of bytes, with their ends cut off."""

    def __init__(self, stream: IO[bytes], longest: int = LONGEST) -> None:
        # A buffer is locked while it waits, and a Python that ends cannot close it then.
        self._stream = stream.raw if isinstance(stream, io.BufferedReader) else stream
        self._longest = longest
        self._queue: queue.Queue[str | None] = queue.Queue(1000)
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> str | None:
        """The next line, waited for; None at the end."""
        return self._queue.get()

    def take(self, wait: bool) -> list[str] | None:
        """The lines that have come, at least one where ``wait``; None at the end."""
        found: list[str] = []
        try:
            while True:
                line = self._queue.get(block=wait and not found)
                if line is None:
                    if found:
                        self._queue.put(None)  # told the next time
                        return found
                    return None
                found.append(line)
        except queue.Empty:
            return found

    def _read(self) -> None:
        line, size = bytearray(), 0  # what is kept of a line, and all of its bytes
        while data := self._chunk():
            for number, part in enumerate(data.split(b"\n")):
                if number:
                    self._put(line, size)
                    line, size = bytearray(), 0
                line += part[: self._longest - len(line)]
                size += len(part)
        if size:
            self._put(line, size)
        self._queue.put(None)

    def _chunk(self) -> bytes:
        try:
            return self._stream.read(CHUNK) or b""
        except (OSError, ValueError):  # closed
            return b""

    def _put(self, line: bytearray, size: int) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self._queue.put(text if size < self._longest else TOO_LONG + text[:99])
