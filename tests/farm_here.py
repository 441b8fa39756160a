"""A cluster's stand-in in one process: what a ``Farm`` does, without Ray's processes."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from selfplay.cluster.actor import Key, Maker, Order, Output, RayActor
from selfplay.cluster.farm import Delivery


class Here:
    """A farm in this process: pieces come in any order, some twice, some only when asked again."""

    device, threads = "cpu", 1
    alive = able = expected = 2
    restarts = moved = 0
    wait_seconds = 0.0

    def __init__(self, seed: int, late: bool = False) -> None:
        self.rng, self.late = random.Random(seed), late
        self.nodes: dict[str, Any] = {}
        self.job: Order | None = None
        self.puts = 0
        self.actors = [RayActor("cpu") for _ in range(3)]
        self.waiting: dict[Key, int] = {}
        self.versions: dict[int, Any] = {}
        self.made: list[Delivery] = []

    def begin(self, job: Order) -> None:
        self.job = job

    def publish(self, version: int, weights: Any) -> None:
        self.versions[version] = weights
        self.version = version

    def put(self, thing: Any) -> Any:
        self.puts += 1
        return thing

    def ask(self, key: Key) -> None:
        self.waiting.setdefault(key, self.version)

    @property
    def asked(self) -> int:
        return len(self.waiting)

    def poll(self, seconds: float) -> list[Delivery]:
        if not self.waiting or (self.late and self.rng.random() < 0.5):
            return []
        key = self.rng.choice(list(self.waiting))
        version = self.waiting.pop(key)
        actor = self.rng.choice(self.actors)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ray.get", lambda ref: ref)
            made = Output(*actor.make(self.job, version, [self.versions[version]], key))
        self.made.append(Delivery(key, version, made))
        return [self.made[-1]] * self.rng.choice([1, 2])

    def close(self) -> None:
        """Nothing is to be ended."""


class FullDisk(Maker):
    """On actors of Ray: the machine that is asked first has no room. folder: where it says so."""

    def __init__(self, folder: str, device: str) -> None:
        self.first = Path(folder) / "first"

    def load(self, weights: Any) -> None:
        """There are none."""

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        import ray

        me = ray.get_runtime_context().get_actor_id()
        with suppress(FileExistsError), self.first.open("x") as file:
            file.write(me)
        if self.first.read_text() == me:
            raise ray.exceptions.OutOfDiskError("Local disk is full")
        return me, {}


def commands_get(farm: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--ray`` of commands in this process mean ``farm``."""
    monkeypatch.setattr("selfplay.cluster.farm.Farm", lambda address, config, actors: farm)
