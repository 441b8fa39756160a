"""Lines from another program, read by a thread, so that nobody waits who has work to do."""

from __future__ import annotations

import queue
import threading
from typing import IO

LONGEST = 1 << 24  #: bytes of a line, unless told otherwise
TOO_LONG = "\N{REPLACEMENT CHARACTER}"  #: comes before the beginning of a line that is longer


class LineReader:
    """The lines of a stream of bytes, with their ends cut off."""

    def __init__(self, stream: IO[bytes], longest: int = LONGEST) -> None:
        self._stream, self._longest = stream, longest
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
        while True:
            try:
                data = self._stream.readline(self._longest)
            except (OSError, ValueError):  # closed
                data = b""
            if not data:
                return self._queue.put(None)
            text, whole = data.decode("utf-8", "replace").rstrip("\r\n"), True
            while len(data) == self._longest and not data.endswith(b"\n"):
                data, whole = self._stream.readline(self._longest), False
            self._queue.put(text if whole else TOO_LONG + text[:99])
