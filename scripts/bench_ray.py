"""Self-play on Ray, on this machine alone: what dies loses nothing, and what it costs in speed.

    .venv/bin/python scripts/bench_ray.py --kills 12     # at random instants of tiny runs
    .venv/bin/python scripts/bench_ray.py --speed 5      # pairs: one actor beside no Ray

Kills: a cluster of a head and two nodes, runs of tic-tac-toe that take turns with learning. In turn
an actor, a node (another joins), Ray's head (its GCS stands still for 10 seconds, as without a
network) and the driver (started again) are killed, ``--each`` of them in a run, at instants drawn
from its iterations and the parts of a second behind. Every run's games and weights are compared
with those of an undisturbed run.

Speed: evaluations a second of self-play in one process of one thread, and of one actor that the
driver asks for shards, in turn; both warm, of the same net, the time of games only.
"""

from __future__ import annotations

import argparse
import inspect
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ITERATIONS = 4
TINY = ["--init", "random", "--minutes", "60", *(word for setting in (
    "net=1x8", f"rl.iterations={ITERATIONS}", "rl.positions=120", "rl.games=8", "rl.sims=8",
    "rl.cheap_sims=4", "rl.batch_size=32", "rl.reuse=2", "rl.cache_mb=1", "rl.dtype=float32",
    "ray.games=8") for word in ("--set", setting))]
STANDS = 10.0  #: seconds that the head's GCS stands still


def command(run: Path, address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from selfplay.cli import main; main()", "rl", "--game", "tictactoe",
         "--run", str(run), "--ray", address, *TINY],
        stdout=(run.parent / f"{run.name}.out").open("ab"), stderr=subprocess.STDOUT)


def begun(run: Path) -> bool:
    """Whether a shard has come."""
    return any(run.glob("rl/records/*.parts/shard-*.npz")) or any(run.glob("rl/records/*.npz"))


def progress(run: Path) -> float:
    """Iterations whose games are there, and about the part of the next one."""
    records = run / "rl/records"
    shards = len([*records.glob("*.parts/shard-*.npz")])
    return len([*records.glob("*.npz")]) + min(shards / 8, 0.99)


def wait_until(what: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not what():
        time.sleep(0.01)


def games(run: Path) -> list[tuple[str, bytes]]:
    """Every record's arrays, in order."""
    found = []
    for path in sorted((run / "rl/records").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found += [(f"{path.name}/{name}", file[name].tobytes()) for name in sorted(file.files)]
    return found


def weights(run: Path) -> bytes:
    return (max((run / "rl").glob("ckpt-*")) / "weights.safetensors").read_bytes()


def children(name: bytes, of: set[int]) -> list[int]:
    """Processes whose command begins with or holds ``name``, below those ``of``."""
    parents, named = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            if name in (path / "cmdline").read_bytes():
                named.append(int(path.name))
        except OSError:
            continue
        parents[int(path.name)] = int(stat[1])
    found = []
    for pid in named:
        at = pid
        while at in parents and at not in of:
            at = parents[at]
        found += [pid] if at in of else []
    return sorted(found)


def patient() -> None:
    """Nodes that this process starts may take minutes for it, where others keep the cores busy; Ray
    gives them half of one, and an agent 15 seconds to say which port it has: ``room`` gives it."""
    from ray._private import services

    os.environ.update({"RAY_agent_register_timeout_ms": "600000"})
    found, begun = services.get_node, services.start_raylet
    words_of = inspect.signature(begun)

    def told(*words: Any, **more: Any) -> Any:
        given, name = words_of.bind(*words, **more).arguments, "dashboard_agent_listen_port"
        if port := given.get(name):
            Path(given["session_dir"], f"{name}_{given['node_id']}").write_text(str(port))
        return begun(*words, **more)

    def waited_for(*words: Any) -> Any:
        until = time.monotonic() + 600
        while True:
            try:
                return found(*words)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    services.get_node, services.start_raylet = waited_for, told


def room(**more: Any) -> dict[str, Any]:
    """A node with room for one actor. Its ports are given: Ray's own search for free ones ends
    the node where the machine is too busy."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
             "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **ports, **more}


class Machines:
    """The cluster, and what can happen to it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        patient()
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=room(
            num_cpus=0, include_dashboard=False))
        self.nodes = [self.cluster.add_node(**room()) for _ in range(2)]

    def processes(self) -> set[int]:
        return {info.process.pid for node in (self.cluster.head_node, *self.nodes)
                for kind in node.all_processes.values() for info in kind}

    def actor(self, rng: random.Random) -> None:
        found = children(b"ray::RayActor", self.processes())
        if found:
            os.kill(rng.choice(found), signal.SIGKILL)

    def node(self, rng: random.Random) -> None:
        self.cluster.remove_node(self.nodes.pop(rng.randrange(len(self.nodes))),
                                 allow_graceful=False)
        time.sleep(rng.uniform(0, 2))
        self.nodes.append(self.cluster.add_node(wait=False, **room()))

    def head(self, rng: random.Random) -> None:
        (info,) = self.cluster.head_node.all_processes["gcs_server"]
        os.kill(info.process.pid, signal.SIGSTOP)
        time.sleep(STANDS)
        os.kill(info.process.pid, signal.SIGCONT)


KINDS = ("actor", "node", "head", "driver")


def kills(count: int, each: int, seed: int, keep: Path | None) -> int:
    """Returns how many runs were not as the undisturbed one."""
    rng, bad, tally = random.Random(seed), 0, Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="bench-ray-", dir=keep))
    os.environ.update({"RAY_worker_niceness": "0"})  # no less than this program has
    machines = Machines()
    address = machines.cluster.address
    try:
        process = command(folder / "undisturbed", address)
        wait_until(lambda: begun(folder / "undisturbed"), process)
        since = time.monotonic()
        if process.wait():
            raise SystemExit((folder / "undisturbed.out").read_text())
        seconds = time.monotonic() - since
        expected = games(folder / "undisturbed"), weights(folder / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s after the first shard", flush=True)
        for first in range(0, count, each):
            kinds = [KINDS[k % 4] for k in range(first, min(first + each, count))]
            rng.shuffle(kinds)
            run, began = folder / f"run{first // each}", time.monotonic()
            process, told = command(run, address), []
            wait_until(lambda run=run: begun(run), process)  # type: ignore[misc]
            since = time.monotonic()
            for kind, at in zip(kinds, sorted(rng.uniform(0, ITERATIONS - 0.2) for _ in kinds),
                                strict=True):
                wait_until(lambda at=at, run=run: progress(run) >= at,  # type: ignore[misc]
                           process)
                time.sleep(rng.uniform(0, 0.5))
                early = process.poll() is None
                tally[kind] += early
                late = "" if early else " (too late)"
                told.append(f"{kind} {time.monotonic() - since:.1f} s{late}")
                if kind != "driver":
                    getattr(machines, kind)(rng)
                elif early:
                    process.kill()
                    process.wait()
                    process = command(run, address)
            code = process.wait(timeout=1200)
            same = code == 0 and (games(run), weights(run)) == expected
            bad += not same
            print(f"{', '.join(told)}: "
                  f"{'the same games and weights' if same else f'DIFFERENT (code {code})'}, "
                  f"{time.monotonic() - began:.0f} s in all", flush=True)
        print("killed in mid-run: " + ", ".join(f"{n} {kind}" for kind, n in tally.items())
              + f"; {bad} of {-(-count // each)} runs differ")
    finally:
        machines.cluster.shutdown()
        if not bad:
            shutil.rmtree(folder, ignore_errors=True)
    return bad


def speed(pairs: int, name: str, size: str, sims: int, whole: int) -> None:
    """Print evaluations a second of both, and the ratio of each pair."""
    import torch

    from selfplay.board.alphazero import Learner
    from selfplay.board.config import RLConfig
    from selfplay.cluster.farm import Farm
    from selfplay.cluster.selfplay import SpreadGames
    from selfplay.games import make
    from selfplay.models import flops, spec_for
    from selfplay.run.config import RayConfig, preset

    torch.set_num_threads(1)
    game = make(name)
    spec = spec_for(game, size)
    config: RLConfig = preset(name).rl
    config = replace(config, sims=sims, dtype="float32", games=whole or config.games,
                     positions=16 * whole or config.positions)
    farm = Farm("local", RayConfig(games=whole), actors=1)
    ratios = []
    try:
        for k in range(pairs + 1):  # the first pair warms up
            alone = Learner(game, spec, config, seed=k)
            began = time.monotonic()
            alone.play(config.positions, lambda: False, lambda n: None)
            rate = alone.evaluated()["evaluations"] / (time.monotonic() - began)
            asks = Learner(game, spec, config, seed=k)
            with tempfile.TemporaryDirectory() as folder:
                spread = SpreadGames(Path(folder), farm, asks, name, size, whole)
                began = time.monotonic()
                found = spread(asks, lambda: False, lambda n: None)
                seconds = time.monotonic() - began
            assert found is not None
            on_ray = found[1]["evaluations"] / seconds
            if k:
                ratios.append(on_ray / rate)
                print(f"{rate:9,.0f} alone, {on_ray:9,.0f} on Ray: {ratios[-1]:.3f}", flush=True)
    finally:
        farm.close()
    print(f"{name} {size}, {flops(spec) / 1e6:.0f} MFLOP, {sims} simulations, shards of "
          f"{whole or 128} games: ratio {np.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}) of {pairs} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="kills in all")
    parser.add_argument("--each", type=int, default=4, help="kills in a run")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    parser.add_argument("--speed", type=int, default=0, help="pairs of measurements")
    parser.add_argument("--game", default="go9x9")
    parser.add_argument("--net", default="6x64")
    parser.add_argument("--sims", type=int, default=32)
    parser.add_argument("--games", type=int, default=0, 
                        help="of a shard, and side by side without Ray [those of a group]")
    words = parser.parse_args()
    if words.speed:
        speed(words.speed, words.game, words.net, words.sims, words.games)
    if words.kills and kills(words.kills, words.each, words.seed, words.keep):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
