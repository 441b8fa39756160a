"""A GTP engine that plays well for a while and then misbehaves.

Usage: hostile_gtp.py HOW AFTER SEED

AFTER: commands answered before it does. HOW: a name of WAYS. SEED: of its moves and its garbage.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

CHILD = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
SIZE = 9


def out(data: bytes) -> None:
    while data:
        data = data[os.write(1, data):]


def forever(data: bytes, to: int = 1) -> None:
    while True:
        os.write(to, data)


def sleep() -> None:
    time.sleep(600)


def child(**options: object) -> None:
    subprocess.Popen(CHILD, **options)


def daemon() -> None:
    """Leave the session, and the parent as well."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execv(CHILD[0], CHILD)


def many_children() -> None:
    for _ in range(5):
        if os.fork() == 0:
            os.setpgid(0, 0)
            for _ in range(3):
                child()
            sleep()


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    sleep()


def drip(data: bytes) -> None:
    for byte in data:
        os.write(1, bytes([byte]))
        time.sleep(0.02)


def stubborn() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sleep()


def words(rng: random.Random) -> bytes:
    """Text that is nearly a move."""
    return "".join(rng.choice("abjzQ019-+ ,;=?#\t²٣ß\u200b\0é\U0001f600") for _ in range(
        rng.choice((1, 2, 3, 9, 5000)))).encode()


def ways(number: str, rng: random.Random) -> dict[str, Callable[[], object]]:
    """Name -> what it does in place of an answer; after some of them it answers as well."""
    i, noise = number.encode(), rng.randbytes(rng.choice((1, 40, 3000, 100_000)))
    return {
        "endless line": lambda: forever(b"x" * 65536),
        "endless lines": lambda: forever(b"= x\n" * 9999),
        "endless blank lines": lambda: forever(b"\n" * 65536),
        "endless answers": lambda: forever(b"= a1\n\n" * 9999),
        "endless answer": lambda: forever(b"=" + i + b" a1\n" * 9999),
        "endless small writes": lambda: forever(b"x"),
        "a GB and the end": lambda: [out(b"=" + i + b" "), *(out(b"y" * (1 << 20))
                                                          for _ in range(1024)), out(b"\n\n")],
        "2 MB": lambda: out(b"=" + i + b" " + b"z" * (2 << 20) + b"\n\n"),
        "half a MB": lambda: out(b"=" + i + b" " + b"z" * (1 << 19) + b"\n\n"),
        "half a MB of refusal": lambda: out(b"?" + i + b" " + b"no! " * (1 << 17) + b"\n\n"),
        "many lines": lambda: out(b"=" + i + b" a\n" + b"b\n" * 100_000 + b"\n"),
        "output closed": lambda: close(1),
        "input closed": lambda: close(0),
        "errors closed": lambda: [os.close(2), out(b"=" + i + b" \n\n")],
        "all closed": lambda: close(0, 1, 2),
        "exit": lambda: os._exit(rng.randrange(256)),
        "killed": lambda: os.kill(os.getpid(), rng.choice((signal.SIGKILL, signal.SIGSEGV,
                                                           signal.SIGTERM))),
        "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "silent": sleep,
        "stubborn": stubborn,
        "child": lambda: [child(), out(b"=" + i + b"\n\n")],
        "child in a session": lambda: [child(start_new_session=True), out(b"=" + i + b"\n\n")],
        "child without environment": lambda: [child(start_new_session=True, env={}), sleep()],
        "child and exit": lambda: [child(start_new_session=True), os._exit(0)],
        "child with closed pipes": lambda: [child(
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL), out(b"=" + i + b"\n\n")],
        "daemon": lambda: [daemon(), out(b"=" + i + b"\n\n")],
        "daemon and exit": lambda: [daemon(), os._exit(1)],
        "many children": lambda: [many_children(), sleep()],
        "noise": lambda: out(noise),
        "noise as an answer": lambda: out(b"=" + i + b" " + noise + b"\n\n"),
        "nearly a move": lambda: out(b"=" + i + b" " + words(rng) + b"\n\n"),
        "nearly a status": lambda: out(words(rng) + i + b" a1\n\n"),
        "no status": lambda: out(i + b" a1\n\n"),
        "no id": lambda: out(b"= " + rng.choice((b"", b"a1", b"pass", b"resign")) + b"\n\n"),
        "another id": lambda: out(b"=%d a1\n\n" % rng.choice((0, 1, 77, 10**30))),
        "a long id": lambda: out(b"=" + b"9" * 100_000 + b" a1\n\n"),
        "a foreign id": lambda: out("=٣٤ a1\n\n".encode()),
        "a negative id": lambda: out(b"=-1 a1\n\n"),
        "refusal": lambda: out(b"?" + i + b" " + words(rng) + b"\n\n"),
        "empty": lambda: out(b"\n\n\n"),
        "a letter too few": lambda: out(b"=" + i + b" a1\n"),
        "half a line": lambda: [out(b"=" + i + b" a"), sleep()],
        "half a line and exit": lambda: [out(b"=" + i + b" a"), os._exit(0)],
        "a line and exit": lambda: [out(b"=" + i + b" a1\n"), os._exit(0)],
        "returns alone": lambda: out(b"=" + i + b" a1\r\r"),
        "returns and line feeds": lambda: out(b"=" + i + b" pass\r\n\r\n"),
        "UTF-16": lambda: out(f"={number} pass\n\n".encode("utf-16")),
        "a byte order mark": lambda: out(b"\xef\xbb\xbf=" + i + b" pass\n\n"),
        "colours": lambda: out(b"\x1b[31m=" + i + b" pass\x1b[0m\n\n"),
        "drip": lambda: drip(b"=" + i + b" " + b"a" * 200 + b"\n\n"),
        "two answers": lambda: out(b"=" + i + b" pass\n\n=" + i + b" pass\n\n"),
        "answers ahead": lambda: out(b"".join(b"=%d pass\n\n" % (int(i) + k) for k in range(50))),
        "late": lambda: [time.sleep(rng.uniform(0.1, 0.6)), out(b"=" + i + b" pass\n\n")],
        "a stone on a stone": lambda: out(b"=" + i + b" a1\n\n"),
        "far outside": lambda: out(b"=" + i + b" t%d\n\n" % 10**rng.randrange(2, 5000)),
        "passes": lambda: out(b"=" + i + b" pass\n\n"),
        "endless errors": lambda: forever(b"e" * 65536, 2),
        "endless lines of errors": lambda: forever(b"error\n" * 9999, 2),
        "noise as errors": lambda: [os.write(2, noise), os._exit(3)],
        "never reads": lambda: [out(b"=" + i + b" pass\n\n" * 5), sleep()],
    }


WAYS = list(ways("1", random.Random(0)))


def answer(name: str, rng: random.Random) -> str:
    if name == "list_commands":
        return "play\ngenmove\nundo\nkgs-genmove_cleanup\nset_random_seed"
    if "genmove" in name:
        return f"{rng.choice('ABCDEFGHJ'[:SIZE])}{rng.randint(1, SIZE)}"
    return ""


def main() -> None:
    how, after, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    rng = random.Random(seed)
    for count, line in enumerate(iter(sys.stdin.buffer.readline, b"")):
        number, name, *_ = [*line.decode().split(), "", ""]
        if count >= after:
            ways(number, rng)[how]()
        else:
            out(f"={number} {answer(name, rng)}\n\n".encode())
        if name == "quit" or number == "quit":
            return


if __name__ == "__main__":
    main()
