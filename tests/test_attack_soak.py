"""A soak: self-play, learning, matches and charts again and again in one process.

Memory is flat, and no descriptor, thread or child is left.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shlex
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from attacking import Attack
from command import TINY, Command

import selfplay as sp
from selfplay.common.machine import rss_mb

FAKE = Path(__file__).with_name("fake_gtp.py")
WARM = 0.3  #: share of the time after which nothing may grow
MORE_MB = 40  #: that may be used at the end over what was used then


class Reading(NamedTuple):
    """What the process holds after a round."""

    memory: float
    descriptors: int
    children: int
    threads: int


def reading() -> Reading:
    """Now, without what is freed and kept for the next time."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    return Reading(rss_mb(), len(os.listdir("/proc/self/fd")), children(),
                   threading.active_count())


def children() -> int:
    """Processes that this one has started, those that were never waited for included."""
    found = 0
    for task in Path("/proc/self/task").glob("*/children"):
        found += len(task.read_text().split())
    return found


#: What makes a round of the suite short: all that is done is done, less often.
FEW = ("expert.count=12", "sft.max_steps=10", "rl.positions=48", "rl.games=8", "eval.games=2",
       "eval.decisive_games=2", "eval.baseline_games=2", "eval.sft_points=1", "eval.rl_points=1")


def a_round(run: Command, number: int, full: bool) -> None:
    """Games and learning in memory and in a folder, matches with engines, a chart."""
    for row in sp.alphazero("go5x5", sp.net("go5x5", "1x8", seed=number), sims=4, cheap_sims=2,
                            games=8, positions=64, batch_size=16, window_min=64, window_max=128,
                            iterations=2, seed=number):
        assert row["policy_loss"] > 0
    settings = (f"rl.iterations={3 + number // 2}", "rl.window_min=64", "rl.window_max=256",
                "rl.keep=3", *(() if full else FEW))
    said = run("train", "--game", "tictactoe", "--run", f"runs/{number % 2}", *TINY,
               *(word for setting in settings for word in ("--set", setting)))
    assert said.code == 0, said.err
    engine = "gtp:" + shlex.join([sys.executable, str(FAKE), "good", "moves=4"])
    said = run("match", engine, "mcts:4", "--game", "go5x5", "--games", "4", "--seed", str(number),
               "--out", f"match{number}")
    assert said.code == 0, said.err
    said = run("match", "net:runs/0@4", "mcts:8", "--game", "tictactoe", "--games", "4", "--seed",
               str(number), "--out", f"net{number}")
    assert said.code == 0, said.err


@pytest.mark.attack
def test_soak(attack: Attack, run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    before, began = reading(), time.monotonic()
    seconds = 60 * attack.minutes if attack.full else 1.0
    readings: list[Reading] = []
    while time.monotonic() - began < seconds or len(readings) < 3:
        a_round(run, len(readings), attack.full)
        attack.came["held"] += 1
        readings.append(reading())
        if attack.full:
            with capsys.disabled():
                print(f"{time.monotonic() - began:6.0f} s  {readings[-1]}", flush=True)
    first, last = readings[int(len(readings) * WARM)], readings[-1]
    attack.figures |= {
        "rounds": len(readings),
        "MB": f"{readings[0].memory:.0f} after the first, {first.memory:.0f} after "
              f"{WARM:.0%}, {last.memory:.0f} at the end",
        "descriptors": f"{first.descriptors} and {last.descriptors}",
        "children": f"{first.children} and {last.children}",
        "threads": f"{first.threads} and {last.threads}"}
    if last.memory > first.memory + MORE_MB:
        attack.fell("memory", f"{first} to {last}")
    for what in ("descriptors", "children", "threads"):
        if getattr(last, what) > getattr(first, what):
            attack.fell(what, f"{first} to {last}")
    if last.children > before.children:
        attack.fell("children", f"{before} to {last}")
    attack.must_have_held()
