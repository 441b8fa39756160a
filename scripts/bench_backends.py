"""How fast each CPU backend evaluates a run's net, and how far it agrees with torch in float32.

    .venv/bin/python scripts/bench_backends.py --run runs/go9x9

Positions are drawn from the run's self-play games, those for the calibration of int8 from games
of random moves. Each net works on one thread; the backends run in turn, ``--rounds`` times; a
ratio is the median over rounds (lowest-highest) of evaluations a second over those of torch in
float32 at the same batch. ``ready`` is the time from weights to the first evaluation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selfplay.bench import timing
from selfplay.bench.arguments import duration, positive
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import Game, GameError, take
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.openvino import INSTALL, available, compile_net, find_ranges
from selfplay.inference.precision import agree, random_positions
from selfplay.learn.checkpoint import load_net, newest
from selfplay.models import folded, has_fast_bfloat16
from selfplay.run.shards import load_shard

#: planes [n, C, H, W] -> (policy logits [n, A], value [n])
Forward = Callable[[NDArray[Any]], tuple[NDArray[np.float32], NDArray[np.float32]]]
REFERENCE = "torch float32"


class Subject(NamedTuple):
    """What is measured, and on what."""

    game: Game
    net: nn.Module
    obs: NDArray[Any]  #: [n, C, H, W]
    legal: NDArray[np.bool_]  #: [n, A]
    calibration: NDArray[Any]  #: [arithmetic.POSITIONS, C, H, W]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder with self-play")
    parser.add_argument("--batches", type=positive, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--positions", type=positive, default=4096, help="to compare outputs on")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=duration, default=0.5, help="of one backend in one round")
    parser.add_argument("--workers", type=positive, default=1, help="nets at work side by side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load(options.run, max(options.positions, *options.batches))
    print(f"{options.run}: {subject.game.name}, {len(subject.obs)} positions, "
          f"{options.workers} worker(s) of one thread")
    if not available():
        print(f"without OpenVINO: {INSTALL}")
    print(f"{'backend':<20}{'best move':>10}{'KL, nats':>11}{'|d value|':>11}{'ready, s':>10}")
    for line in agreements(subject, options.positions):
        print(line, flush=True)
    print(f"{'backend':<20}{'batch':>6}{'evals/s':>9}{'ratio':>7}  spread")
    for batch in options.batches:
        for line in speeds(subject, batch, options):
            print(line, flush=True)


def load(run: Path, count: int) -> Subject:
    """The newest net of the run's self-play and positions from its newest games."""
    path = newest(run / "rl")
    shards = sorted((run / "rl" / "records").glob("*.npz"))[-4:]
    if path is None or not shards:
        raise UserError(f"{run}: no checkpoint or no self-play games in {run / 'rl'}; name a run "
                        "that has been through rl")
    net, meta = load_net(path)
    game, rng = make(meta["game"]), np.random.default_rng(0)
    games = [moves for shard in map(load_shard, shards)
             for moves in np.split(shard.actions, shard.ends[:-1])]
    chosen = [games[i] for i in rng.integers(0, len(games), count)]
    obs, legal = positions(game, chosen, rng)
    while len(obs) < count:  # of a game of few positions
        obs, legal = np.concatenate([obs, obs]), np.concatenate([legal, legal])
    return Subject(game, net, obs, legal, random_positions(game))


def positions(
    game: Game, games: list[NDArray[np.int16]], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(observations, legal) at a random ply of each game."""
    moves = np.full((len(games), max(map(len, games))), -1, np.int64)
    for row, actions in enumerate(games):
        plies = rng.integers(0, len(actions))
        moves[row, :plies] = actions[:plies]
    states = game.new(len(games))
    game.replay(states, moves)
    states = take(states, np.flatnonzero(game.legal(states).any(1)))
    return game.observe(states), game.legal(states)


def backends(subject: Subject) -> dict[str, Callable[[int], Forward]]:
    """By name: a function that makes it ready for a batch. torch's values are tanh of logits."""
    game, net = subject.game, subject.net

    def torch_(dtype: Any) -> Callable[[int], Forward]:
        return lambda batch: Evaluator(net, game, dtype=dtype, max_batch=batch).forward

    def openvino_(precision: Any) -> Callable[[int], Forward]:
        def prepare(batch: int) -> Forward:
            plain = folded(net)
            ranges = (find_ranges(plain, game.obs_shape, subject.calibration)
                      if precision == "int8" else None)
            return compile_net(plain, game.obs_shape, batch, precision, ranges,
                               binary=game.obs_binary)

        return prepare

    made = {REFERENCE: torch_("float32")}
    if has_fast_bfloat16("cpu"):
        made["torch bfloat16"] = torch_("bfloat16")
    if available():
        made |= {f"openvino {name}": openvino_(name) for name in ("float32", "bfloat16", "int8")}
    return made


def agreements(subject: Subject, count: int) -> list[str]:
    """A line for each backend."""
    batch, lines = 64, []
    obs, legal = subject.obs[:count], subject.legal[:count]
    reference = None
    for name, prepare in backends(subject).items():
        start = time.perf_counter()
        forward = prepare(batch)
        forward(obs[:batch])
        ready = time.perf_counter() - start
        parts = [forward(obs[i:i + batch]) for i in range(0, len(obs), batch)]
        policy, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        if name.startswith("openvino"):
            value = np.tanh(value)
        reference = reference or (policy, value)
        found = agree(reference, (policy, value), legal)
        lines.append(f"{name:<20}{found.same:>10.2%}{found.kl:>11.1e}{found.value:>11.4f}"
                     f"{ready:>10.2f}")
    return lines


def speeds(subject: Subject, batch: int, options: argparse.Namespace) -> list[str]:
    """A line for each backend at one batch."""
    planes, workers = subject.obs[:batch], options.workers
    nets = {name: [prepare(batch) for _ in range(workers)]
            for name, prepare in backends(subject).items()}
    taken: dict[str, list[float]] = {name: [] for name in nets}

    def work(forward: Forward) -> float:
        return timing.repeat(lambda: len(forward(planes)[1]), options.seconds / timing.SECONDS)

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for turn in range(options.rounds + 1):
            for name, forwards in nets.items():
                rate = sum(pool.map(work, forwards))
                if turn:  # the first is to warm up
                    taken[name].append(rate)
    lines = []
    for name, rates in taken.items():
        ratios = [ours / plain for ours, plain in zip(rates, taken[REFERENCE], strict=True)]
        lines.append(f"{name:<20}{batch:>6}{median(rates):>9,.0f}{median(ratios):>7.2f}  "
                     f"{min(ratios):.2f}-{max(ratios):.2f}")
    return lines


if __name__ == "__main__":
    try:
        main()
    except (UserError, GameError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
