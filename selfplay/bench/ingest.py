"""What a learner can take in from a cluster: actors that do nothing but sleep as long as a GPU
would work, and hand over as many bytes as it would make."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Farm

VERSION = 5.0  #: seconds between two versions of the weights


class Sleep(NamedTuple):
    """A shard: its rows, bytes of each, seconds that an actor takes for it."""

    rows: int
    size: int
    seconds: float


class SleepMaker(Maker):
    """Makes shards of nothing; see ``actor.Maker``."""

    def __init__(self, rows: int, size: int, seconds: float, device: str) -> None:
        self.about = Sleep(rows, size, seconds)

    def load(self, weights: Any) -> None:
        """Weights are copied, as those of a net are."""
        self.weights = np.array(weights)

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        time.sleep(self.about.seconds)
        return np.full((self.about.rows, self.about.size), key[0] % 256, np.uint8), {"games": 1}


class Ingest(NamedTuple):
    """Of some seconds in which so many shards were under way at once."""

    places: int
    positions: float  #: a second, that the driver took
    waiting: float  #: share of the places' time in which they did not sleep
    driver: float  #: share of a core that the driver used
    store: int  #: bytes in the object store at most
    seconds: float


def ingest(
    farm: Farm, shard: Sleep, weights: int, places: int, seconds: float,
    store: Callable[[], int] = lambda: 0,
) -> Ingest:
    """Keep ``places`` shards under way for so long. weights: bytes of a version. store: asked for
    the bytes in the object store."""
    _set_to_work(farm, shard)
    version, number, came, most = -1, 0, 0, 0
    began, spent, looked = time.monotonic(), time.process_time(), -1.0
    while (now := time.monotonic() - began) < seconds:
        if now >= VERSION * (version + 1):
            version += 1
            farm.publish(version, np.full(weights, version % 256, np.uint8))
        while farm.asked < places:
            farm.ask((number,))
            number += 1
        for found in farm.poll(0.1):
            came += len(np.array(found.output.piece))
        if now - looked >= 0.5:
            looked, most = now, max(most, store())
    wall = time.monotonic() - began
    slept = came / shard.rows * shard.seconds
    return Ingest(places, came / wall, max(1 - slept / (places * wall), 0.0),
                  (time.process_time() - spent) / wall, most, wall)


def broadcast(farm: Farm, weights: int, places: int, rounds: int = 5) -> float:
    """Seconds until a version is with all of ``places``: asking them once with new weights, less
    asking them with those they have; of the fastest rounds."""
    _set_to_work(farm, Sleep(1, 1, 0.0))
    taken: dict[bool, list[float]] = {True: [], False: []}
    number = 0
    for k in range(2 * rounds):
        fresh = k % 2 == 0
        began = time.monotonic()
        if fresh:
            farm.publish(k, np.full(weights, k % 256, np.uint8))
        for _ in range(places):
            farm.ask((number,))
            number += 1
        while farm.asked:
            farm.poll(0.1)
        taken[fresh].append(time.monotonic() - began)
    return max(min(taken[True]) - min(taken[False]), 0.0)


def _set_to_work(farm: Farm, shard: Sleep) -> None:
    farm.begin(Order(f"{__name__}:{SleepMaker.__name__}", shard._asdict()))
