"""What goes into scripts/scale.py, measured here: bytes, Ray's store, what one driver takes.

    python scripts/bench_ingest.py --bytes [--shards runs/NAME/rl/records]  # positions, the store
    python scripts/bench_ingest.py --takes 20 [--chart docs/ingest.png]     # 1 to 64 actors
    python scripts/bench_ingest.py --store 30                               # its memory, in minutes

Takes: actors that do nothing but sleep as long as an H100 would play a shard, all on this machine;
64 are 8 processes of 8 threads. Store: 8 actors with a shard of the same size a second each, so
that the load is low, and a version of the weights every 5 seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_ray import patient, room
from scale import BOARD, with_gpu

if TYPE_CHECKING:
    from selfplay.cluster.farm import Farm

PLACES = (1, 2, 8, 64)
GPU = with_gpu(BOARD)
MB = 1e6


def shard_figures(folder: Path) -> dict[str, float]:
    """Bytes of a position in the shards of ``folder``: as arrays, and on disk."""
    rows = raw = disk = 0
    for path in sorted(folder.glob("*.npz"))[-8:]:
        with np.load(path) as shard:
            rows += len(shard["value"])
            raw += sum(shard[name].nbytes for name in shard.files)
        disk += path.stat().st_size
    return {"rows": rows, "bytes": raw / max(rows, 1), "bytes_on_disk": disk / max(rows, 1)}


def fresh_shard(game: str, sims: int = 4) -> dict[str, float]:
    """The same of self-play that begins now, by a net that knows nothing."""
    from selfplay.board.config import RLConfig
    from selfplay.board.selfplay import SelfPlay
    from selfplay.games import make
    from selfplay.inference.evaluator import Evaluator
    from selfplay.models import build, seeded, spec_for
    from selfplay.run.shards import save_shard

    board = make(game)
    config = RLConfig(games=32, sims=sims, cheap_sims=sims)
    net = seeded(0, lambda: build(spec_for(board, "1x8")))
    harvest = SelfPlay(board, [Evaluator(net, board)], config, seed=0, threads=1).play(1500)
    assert harvest is not None, "nothing has stopped it"
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        save_shard(Path(folder) / "0.npz", *harvest)
        spent = time.process_time() - began
        return {**shard_figures(Path(folder)), "saved_per_second": 1500 / spent}


def store_figures() -> dict[str, dict[str, float]]:
    """Seconds of putting and getting arrays of some sizes in a Ray of this machine's own, of the
    best of five."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
             object_store_memory=600 << 20)

    @ray.remote
    def fetch(refs: list[Any]) -> tuple[float, int]:
        began = time.perf_counter()
        found = ray.get(refs[0])
        copied = found.copy()  # as an actor does
        return time.perf_counter() - began, int(copied[0])

    found = {}
    try:
        for size in (10_000, 1_000_000, 10_000_000, 100_000_000):
            data, put, got, back = np.ones(size, np.uint8), [], [], []
            for _ in range(5):
                began = time.perf_counter()
                ref = ray.put(data)
                put.append(time.perf_counter() - began)
                got.append(ray.get(fetch.remote([ref]))[0])
                began = time.perf_counter()
                np.array(ray.get(ref))
                back.append(time.perf_counter() - began)
            found[str(size)] = {"put": min(put), "get_and_copy": min(got), "take_back": min(back)}
    finally:
        ray.shutdown()
    return found


@contextmanager
def sleepers() -> Iterator[tuple[Farm, Callable[[], int]]]:
    """(a farm of 8 actors of 8 threads that have begun, what tells the bytes in their store)."""
    from ray._private.internal_api import node_stats
    from ray.cluster_utils import Cluster

    from selfplay.bench.ingest import broadcast
    from selfplay.cluster.farm import Farm
    from selfplay.run.config import RayConfig

    patient()
    cluster: Any = Cluster(initialize_head=True, head_node_args=room(
        num_cpus=64, include_dashboard=False, object_store_memory=1 << 30))
    farm = Farm(cluster.address, RayConfig(cpus=8.0), actors=8)

    def store() -> int:
        (node,) = farm.ray.nodes()
        found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
        return int(found.store_stats.object_store_bytes_used)

    try:
        while farm.alive < 8:
            farm.poll(0.5)
        broadcast(farm, int(GPU.weights), 64, 1)  # all have begun
        yield farm, store
    finally:
        farm.close()
        cluster.shutdown()


def takes(seconds: float, path: Path | None) -> None:
    """Print a table of what a driver takes from 1 to 64 actors that sleep as long as an H100 plays;
    draw it at ``path``."""
    from selfplay.bench.ingest import Sleep, broadcast, ingest

    shard, found = Sleep(int(GPU.shard), int(GPU.size), GPU.shard / GPU.rate), []
    print(f"shards of {shard.rows:,} positions, {shard.rows * shard.size / MB:.2f} MB, "
          f"{shard.seconds:.3f} s each; a version of {GPU.weights / MB:g} MB every 5 s\n\n"
          "| actors | positions/s wanted | taken | actors wait | driver's share of a core | "
          "store at most | a version has reached all |\n|---|---|---|---|---|---|---|")
    with sleepers() as (farm, store):
        for places in PLACES:
            one = ingest(farm, shard, int(GPU.weights), places, seconds, store)
            found.append((places, one.positions, one.waiting))
            print(f"| {places} | {places * GPU.rate:,.0f} | {one.positions:,.0f} | "
                  f"{one.waiting:.0%} | {one.driver:.0%} | {one.store / MB:.1f} MB | "
                  f"{broadcast(farm, int(GPU.weights), places):.3f} s |", flush=True)
    if path is not None:
        chart(path, found)


def flat(minutes: float) -> None:
    """Print what the store holds at most, a minute a line, and the driver's own memory."""
    from selfplay.bench.ingest import Sleep, ingest
    from selfplay.common.machine import rss_mb

    shard, most, taken = Sleep(int(GPU.shard), int(GPU.size), 1.0), [], 0.0
    with sleepers() as (farm, store):
        for k in range(max(round(minutes), 1)):
            one = ingest(farm, shard, int(GPU.weights), 8, 60.0, store)
            most.append(one.store / MB)
            taken += one.positions * one.seconds
            print(f"minute {k + 1}: at most {most[-1]:.1f} MB in the store, {one.positions:,.0f} "
                  f"positions/s, the driver has {rss_mb():.0f} MB", flush=True)
    fives = [f"{max(most[k:k + 5]):.1f}" for k in range(0, len(most), 5)]
    print(f"{taken:,.0f} positions, {taken * shard.size / 1e9:.1f} GB in {len(most)} minutes; at "
          f"most, every 5 minutes: {', '.join(fives)} MB")


def chart(path: Path, found: list[tuple[int, float, float]]) -> None:
    """found: (actors, positions/s taken, share of time waited)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [places for places, _, _ in found]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    left.plot(counts, [positions for _, positions, _ in found], "o-", label="taken by the driver")
    left.plot(counts, [GPU.rate * count for count in counts], ":",
              label="what the actors could make")
    right.plot(counts, [100 * waiting for _, _, waiting in found], "o-")
    left.set(xscale="log", yscale="log", xlabel="actors", ylabel="positions/s")
    right.set(xscale="log", xlabel="actors", ylabel="% of the actors' time spent waiting")
    left.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", action="store_true", help="of positions, and the store's speed")
    parser.add_argument("--shards", type=Path, help="with --bytes: a run's records, as well")
    parser.add_argument("--takes", type=float, default=0.0, metavar="SECONDS",
                        help="what one driver takes from sleeping actors, for so long each")
    parser.add_argument("--chart", type=Path, help="with --takes: draw it there")
    parser.add_argument("--store", type=float, default=0.0, metavar="MINUTES",
                        help="the object store's memory over so many of them")
    words = parser.parse_args()
    if words.bytes:
        found: dict[str, Any] = {"go9x9": fresh_shard("go9x9"), "go19x19": fresh_shard("go19x19")}
        if words.shards:
            found[str(words.shards)] = shard_figures(words.shards)
        print(json.dumps({**found, "store": store_figures()}, indent=1))
    if words.takes:
        takes(words.takes, words.chart)
    if words.store:
        flat(words.store)


if __name__ == "__main__":
    main()
