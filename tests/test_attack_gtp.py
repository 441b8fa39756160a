"""Hostile GTP engines: never a traceback, nor memory or time without bound, nor a child left."""

from __future__ import annotations

import os
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from attacking import LONGEST, Attack
from hostile_gtp import CHILD, WAYS

from selfplay.arena import gtp
from selfplay.arena.engines import GtpPlayer
from selfplay.arena.play import play_games
from selfplay.arena.players import Player, parse_player
from selfplay.games import make
from selfplay.games.go import Go

ENGINE = Path(__file__).with_name("hostile_gtp.py")
TALK = ("boardsize 9", "clear_board", "komi 7", "list_commands", "genmove b", "play w C3",
        "genmove b")
TIMEOUT, SECONDS, MEGABYTES = 0.4, 20.0, 200  #: of an answer; a variant may take; may grow
BESIDE = 4  #: variants at a time: most of them wait


def processes() -> set[int]:
    """The engines of this test, and their children, that run."""
    marks = [str(ENGINE).encode(), CHILD[-1].encode()]
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if any(mark in entry.read_bytes() for mark in marks):
                found.add(int(entry.parent.name))
        except OSError:
            continue
    return found


def megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def talk(command: str) -> None:
    """Ask by hand, and the more for what has been refused."""
    with gtp.GtpEngine(command, TIMEOUT) as engine:
        for line in TALK:
            engine.ask(line)


def play(engine: Player, game: Go, seed: int) -> None:
    """Four games against a random player."""
    with closing(engine):
        other = parse_player("random", game, seed=seed, slots=2)
        for record in play_games(game, engine, other, games=4, seed=seed, opening=(0, 4), slots=2):
            assert len(record.end) < LONGEST and record.end.isprintable(), record.end


@pytest.mark.attack
def test_hostile_engines(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gtp, "HANGING", 0.1)
    monkeypatch.setattr(gtp, "GRACE", 0.1)
    game = make("go9x9")
    assert isinstance(game, Go)
    play(parse_player("random", game, seed=1, slots=2), game, 0)  # compiled from here on
    before, memory = processes(), megabytes()
    longest = [0.0]

    def one(number: int) -> None:
        rng = attack.rng(number)
        how, after = WAYS[number % len(WAYS)], rng.choice((0, 1, 3, 4, 4, 4, 5, 6, 7, 9, 14))
        words = [sys.executable, "-I", "-S", str(ENGINE), how, str(after), str(rng.random())]
        what = f"{how} after {after}, variant {number}"
        began = time.monotonic()
        with attack.variant(what):
            command = shlex.join(words)
            if rng.random() < 0.5:
                talk(command)
            else:
                play(GtpPlayer("gtp:hostile", command, game, TIMEOUT), game, number)
        took = time.monotonic() - began
        longest[0] = max(longest[0], took)
        if took > SECONDS:
            attack.fell(what, f"took {took:.0f} s")
        if megabytes() > memory + MEGABYTES:
            attack.fell(what, f"{megabytes() - memory:.0f} MB more")

    with ThreadPoolExecutor(BESIDE) as pool:
        list(pool.map(one, range(attack.count(len(WAYS) // 2, 1200))))
    left = processes() - before
    for _ in range(100):  # the kernel needs a moment to end what was killed
        if not left:
            break
        time.sleep(0.1)
        left = processes() - before
    if left:
        attack.fell("all", f"{len(left)} processes are left")
    attack.figures |= {"longest": f"{longest[0]:.1f} s",
                       "memory": f"{megabytes() - memory:+.0f} MB", "left": len(left)}
    attack.must_have_held()
