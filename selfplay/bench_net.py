"""Rows of the benchmark with a net in them: self-play, learning, the first move.

The raw limits are taken both ways, with torch's own threads on one batch and with a batch to each
thread, over several batches, and the best of all counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from selfplay import arithmetic
from selfplay.config import preset
from selfplay.crew import Crew, group_sizes
from selfplay.data import Batch, Columns, Window, batch, pack
from selfplay.games.base import Game
from selfplay.gradient import loss_parts, to_tensors
from selfplay.inference import Dtype, Evaluator, load_all
from selfplay.models import NetSpec, build, choose_dtype, seeded
from selfplay.search import Search, SearchConfig
from selfplay.threads import Workers, ahead
from selfplay.timing import repeat, row
from selfplay.train import TrainConfig, Trainer

BATCHES = (32, 64, 128, 256, 512)
LEARNT = (64, 128, 256)  #: batches of the learner's limit
WINDOW = 20_000  #: rows that the learner samples from
TREE_GAMES, TREE_SIMS = 256, 200

Row = dict[str, Any]


def net_rows(game: Game, spec: NetSpec, device: str, pairs: int) -> Sequence[Callable[[], Row]]:
    """What makes each row, in order."""
    net, raw = _Nets(game, spec, device), "the same net alone, best of batches and ways to thread"
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    made: list[Callable[[], Row]] = [
        lambda: row("selfplay_over_raw", "evaluations/s", net.selfplay("auto"),
                    f"{raw}, {spec.size}, {dtype}", net.alone("auto"), pairs),
        lambda: row("selfplay_evals", "evaluations/s", net.selfplay("auto"),
                    f"the same net alone in float32, {spec.size}", net.alone("float32"), pairs),
    ]
    if "int8" in arithmetic.candidates(device):
        made += [
            lambda: row("selfplay_int8_over_raw", "evaluations/s", net.selfplay("int8"),
                        f"{raw}, {spec.size}, int8", net.alone("int8"), pairs),
            lambda: row("selfplay_int8", "evaluations/s", net.selfplay("int8"),
                        f"self-play in {dtype}", net.selfplay("auto"), pairs),
        ]
    made += [
        lambda: row("learner", "positions/s", _learner(game, spec, device),
                    "forward and backward alone, best of batches and ways to thread",
                    _backward(game, spec, device), pairs),
        lambda: _first_move(game, pairs),
        lambda: _tree_memory(game),
    ]
    return made


class _Nets:
    """Self-play in flight and nets alone, made once for a dtype."""

    def __init__(self, game: Game, spec: NetSpec, device: str) -> None:
        self.game, self.device = game, device
        self.config = preset(game.name).rl
        self.net = seeded(0, lambda: build(spec)).eval()
        self.obs = arithmetic.random_positions(game, 0, max(BATCHES))
        self._rates: dict[tuple[str, str], Callable[[], float]] = {}

    def _evaluators(
        self, dtype: Dtype, count: int, max_batch: int | None = None
    ) -> list[Evaluator]:
        made = [Evaluator(None, self.game, self.device, dtype, max_batch) for _ in range(count)]
        load_all(made, self.net, self.obs)
        return made

    def selfplay(self, dtype: Dtype) -> Callable[[], float]:
        """Evaluations/s of self-play, no evaluation remembered; games go on between calls."""
        if ("selfplay", dtype) not in self._rates:
            evaluators = self._evaluators(dtype, len(group_sizes(self.config.games, self.device)))
            crew = Crew(self.game, evaluators, self.config, seed=0, threads=_threads(self.device))

            def rate() -> float:
                def done() -> int:
                    before = sum(e.evaluations for e in evaluators)
                    asked = iter((False, True))
                    crew.play(1 << 30, stop=lambda: next(asked))
                    return sum(e.evaluations for e in evaluators) - before

                return repeat(done, 2.0)

            self._rates["selfplay", dtype] = rate
        return self._rates["selfplay", dtype]

    def alone(self, dtype: Dtype) -> Callable[[], float]:
        """Evaluations/s of the net with nothing around it."""
        if ("alone", dtype) not in self._rates:
            threads = _threads(self.device)
            evaluators = self._evaluators(dtype, threads, max(BATCHES) if dtype != "int8" else None)
            workers = Workers(threads)
            sizes = BATCHES if dtype != "int8" else (evaluators[0].max_batch,)  # its largest
            share = 1 / (2 * len(sizes))

            def rate() -> float:
                rates = []
                for size in sizes:
                    def work(evaluator: Evaluator, size: int = size) -> int:
                        evaluator.run(self.obs[:size])
                        return size

                    work(evaluators[0])
                    rates.append(repeat(lambda work=work: work(evaluators[0]), share))
                    rates.append(sum(workers.map(
                        lambda e, work=work: repeat(lambda: work(e), share), evaluators)))
                return max(rates)

            self._rates["alone", dtype] = rate
        return self._rates["alone", dtype]


def _threads(device: str) -> int:
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def _columns(game: Game, count: int) -> Columns:
    """Rows whose targets mean nothing."""
    rng = np.random.default_rng(0)
    cells = game.board_shape[0] * game.board_shape[1]
    ones = np.ones(count, np.float32)
    policy = np.zeros((count, game.num_actions), np.float16)
    policy[np.arange(count), rng.integers(0, game.num_actions, count)] = 1
    return Columns(
        obs=pack(arithmetic.random_positions(game, 0, count), game.obs_binary), policy=policy,
        policy_weight=ones, value=ones, ownership=np.ones((count, cells), np.int8), score=ones,
        aux_weight=ones)


def _trainer(spec: NetSpec, device: str, size: int) -> Trainer:
    return Trainer(seeded(0, lambda: build(spec)), TrainConfig(batch_size=size), device)


def _learner(game: Game, spec: NetSpec, device: str) -> Callable[[], float]:
    """Positions/s from the replay window to new weights."""
    size = preset(game.name).rl.batch_size
    trainer, window, rng = _trainer(spec, device, size), Window(1, 1.0, WINDOW), \
        np.random.default_rng(0)
    window.add(_columns(game, WINDOW))
    symmetries = game.symmetries()

    def drawn() -> Iterator[Batch]:
        while True:
            columns, picked = window.sample(size, rng)
            yield batch(columns, picked, game, symmetries, rng)

    batches = ahead(drawn())

    def step() -> int:
        trainer.step(next(batches))
        return size

    return lambda: repeat(step)


def _backward(game: Game, spec: NetSpec, device: str) -> Callable[[], float]:
    """Positions/s of forward and backward passes on rows that lie ready."""
    threads = _threads(device)
    nets = [seeded(0, lambda: build(spec)).to(device, memory_format=torch.channels_last).train()
            for _ in range(threads)]
    workers = Workers(threads)
    low = choose_dtype("auto", device) is torch.bfloat16
    columns, symmetries = _columns(game, max(LEARNT)), game.symmetries()
    ready: dict[int, Any] = {}
    for size in LEARNT:
        rows: Batch = batch(columns, np.arange(size), game, symmetries, None)
        ready[size] = to_tensors(rows, device)

    def work(net: torch.nn.Module, size: int) -> int:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
            out = net(ready[size].obs)
        torch.stack(list(loss_parts(out, ready[size]).values())).sum().backward()
        for parameter in net.parameters():
            parameter.grad = None
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        return size

    def rate() -> float:
        share, rates = 1 / (2 * len(LEARNT)), []
        for size in LEARNT:
            rates.append(repeat(lambda size=size: work(nets[0], size), share))
            rates.append(sum(workers.map(
                lambda net, size=size: repeat(lambda: work(net, size), share), nets)))
        return max(rates)

    return rate


FIRST_MOVE = """
import sys
from selfplay.config import preset
from selfplay.crew import Crew, group_sizes
from selfplay.games import make
from selfplay.inference import Evaluator
from selfplay.models import NetSpec, build, seeded
game = make(sys.argv[1])
config = preset(game.name)
net = seeded(0, lambda: build(NetSpec(config.net, game.obs_shape, game.num_actions,
                                      game.has_ownership)))
evaluators = [Evaluator(net, game) for _ in group_sizes(config.rl.games, "cpu")]
crew = Crew(game, evaluators, config.rl, seed=0, threads=1)
start = [actor.states.ply.sum() for actor in crew.actors]
while all(a.states.ply.sum() == n for a, n in zip(crew.actors, start)):
    crew.actors[0].wave()
"""


def _first_move(game: Game, pairs: int) -> Row:
    """From the start of a process to the first move of self-play, kernels compiled before."""
    def rate(*command: str) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", *command], check=True)
            return 1 / (time.perf_counter() - start)

        return once

    return row("first_move", "s", rate(FIRST_MOVE, game.name), "importing torch and numba alone",
               rate("import torch, numba"), pairs, per=lambda r: 1 / r)


def _tree_memory(game: Game) -> Row:
    search = Search(game, SearchConfig(), TREE_GAMES, TREE_SIMS, 0)
    size = sum(field.nbytes for field in search.tree) / 2**20
    ratio = 1024 / size
    return {"name": "tree_memory", "unit": "MB", "value": size, "reference_value": 1024.0,
            "reference": f"1 GB; ours: {TREE_GAMES} games x {TREE_SIMS} simulations",
            "ratio": ratio, "spread": [ratio, ratio]}
