"""Rows of the benchmark with a net in them: self-play, learning, the first move.

The raw limits may be had both ways, with torch's own threads on one batch and with a batch to each
thread, and by several batches; the best of all is chosen first and timed then.
On a GPU one thread feeds them.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay.bench.search import GIVEN, free_net, free_search
from selfplay.bench.timing import Rate, repeat, row
from selfplay.board.config import RLConfig
from selfplay.board.data import Batch, Columns, Window, batch, pack
from selfplay.board.selfplay import Actor, SelfPlay, search_config
from selfplay.board.trainer import TrainConfig, board_trainer, loss_parts, to_tensors
from selfplay.common.threads import Workers, ahead
from selfplay.games.base import Game
from selfplay.inference import precision
from selfplay.inference.actors import group_sizes
from selfplay.inference.evaluator import Dtype, Evaluator, load_all
from selfplay.learn.optimizer import Trainer
from selfplay.models import NetSpec, build, choose_dtype, placed, seeded
from selfplay.run.config import preset
from selfplay.search.search import Search, SearchConfig

BATCHES: dict[str, tuple[int, ...]] = {
    "cpu": (32, 64, 128, 256, 512), "cuda": (256, 1024, 4096, 16_384)}
INT8_BATCHES = (16, 64, 256)  #: a net is compiled for each
#: Batches of the learner's limit.
LEARNT: dict[str, tuple[int, ...]] = {"cpu": (64, 128, 256), "cuda": (256, 1024, 4096)}
CALIBRATED = 512  #: positions that int8 takes its ranges from
LOOKS = 3  #: at each way to a limit before one is chosen
DRAWN = 2048  #: different positions in a batch at most
SIMS, PLAY_GAMES = 32, 256  #: of self-play; every search is a full one
WINDOW = 20_000  #: rows that the learner samples from
TREE_GAMES, TREE_SIMS = 256, 200

Row = dict[str, Any]


def net_rows(game: Game, spec: NetSpec, device: str, pairs: int) -> Sequence[Callable[[], Row]]:
    """What makes each row, in order."""
    net, raw = Nets(game, spec, device), "the same net alone, best of batches and ways to thread"
    usual = "the same net alone on torch's own threads, best of batches"
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    ours = f"{SIMS} simulations a move"
    made: list[Callable[[], Row]] = [
        lambda: _bookkeeping(game, pairs),
        lambda: row("selfplay_over_raw", "evaluations/s", net.selfplay("auto"),
                    f"{raw}, {spec.size}, {dtype}; ours: {ours}", net.alone("auto"), pairs),
        lambda: row("selfplay_over_usual", "evaluations/s", net.selfplay("auto"),
                    f"{usual}, {spec.size}, {dtype}; ours: {ours}", net.alone("auto", True),
                    pairs),
        lambda: row("selfplay_evals", "evaluations/s", net.selfplay("auto"),
                    f"the same net alone in float32, {spec.size}; ours: {ours}",
                    net.alone("float32"), pairs),
    ]
    if "int8" in precision.candidates(device):
        made += [
            lambda: row("selfplay_int8_over_raw", "evaluations/s", net.selfplay("int8"),
                        f"{raw}, {spec.size}, int8; ours: {ours}", net.alone("int8"), pairs),
            lambda: row("selfplay_int8", "evaluations/s", net.selfplay("int8"),
                        f"self-play in {dtype}; both: {ours}", net.selfplay("auto"), pairs),
        ]
    made += [
        lambda: row("learner", "positions/s", learner(game, spec, device),
                    "forward and backward alone, best of batches and ways to thread",
                    backward(game, spec, device), pairs),
        lambda: _first_move(game, spec, device, pairs),
        lambda: _tree_memory(game),
    ]
    return made


def _play_config(game: Game) -> RLConfig:
    """Self-play as the game's preset has it, but every search full and no evaluation remembered."""
    return replace(preset(game.name).rl, sims=SIMS, full_share=1.0, cache_mb=0)


def _bookkeeping(game: Game, pairs: int) -> Row:
    """All that self-play does but wait for a net: search, moves, the book, packing, harvest."""
    config = replace(_play_config(game), games=PLAY_GAMES)
    actor = Actor(game, free_net(game, PLAY_GAMES), config, 0)
    while actor.wave() is None:
        pass  # games end from now on
    return row("selfplay_us_free_net", "us", lambda: repeat(partial(one_move, actor)),
               f"the search alone; both: {PLAY_GAMES} games x {SIMS} simulations; ours: games "
               f"from their beginnings to their ends; reference: {GIVEN}",
               free_search(game, search_config(config), PLAY_GAMES, SIMS), pairs,
               per=lambda rate: 1e6 / rate)


def one_move(actor: Actor) -> int:
    """A move in every game, where all searches are full and begin anew; how many simulations."""
    for _ in range(actor.config.sims + 1):  # the root's evaluation is none of them
        actor.wave()
    return actor.config.games * actor.config.sims


class Nets:
    """Self-play in flight and nets alone, made once for a dtype. graphs: whether a GPU replays
    recordings (``inference.graphs``)."""

    def __init__(self, game: Game, spec: NetSpec, device: str, graphs: bool = True) -> None:
        self.game, self.device, self.graphs = game, device, graphs
        self.config = _play_config(game)
        self.net = seeded(0, lambda: build(spec)).eval()
        self.batches = BATCHES[torch.device(device).type]
        self.obs = _observations(game, max(self.batches + INT8_BATCHES))
        self._rates: dict[tuple[str, str], Rate] = {}

    def evaluators(
        self, dtype: Dtype, count: int, max_batch: int | None = None
    ) -> list[Evaluator]:
        made = [Evaluator(None, self.game, self.device, dtype, max_batch) for _ in range(count)]
        for evaluator in made:
            evaluator.graphs &= self.graphs
        load_all(made, self.net, self.obs[:CALIBRATED])
        return made

    def selfplay(self, dtype: Dtype) -> Rate:
        """Evaluations/s of self-play; games go on between calls."""
        if ("selfplay", dtype) not in self._rates:
            evaluators = self.evaluators(dtype, len(group_sizes(self.config.games, self.device)))
            selfplay = SelfPlay(self.game, evaluators, self.config, seed=0,
                        threads=torch.get_num_threads())

            def done() -> int:
                before = sum(e.evaluations for e in evaluators)
                asked = iter((False, True))
                selfplay.play(1 << 30, stop=lambda: next(asked))
                return sum(e.evaluations for e in evaluators) - before

            self._rates["selfplay", dtype] = lambda: repeat(done, 2.0)
        return self._rates["selfplay", dtype]

    def alone(self, dtype: Dtype, usual: bool = False) -> Rate:
        """Evaluations/s of the net with nothing around it; usual: one batch at a time."""
        kind = "usual" if usual else "alone"
        if (kind, dtype) not in self._rates:
            def work(evaluator: Evaluator, size: int) -> int:
                evaluator.run(self.obs[:size])
                return size

            count = 1 if usual else _threads(self.device)
            self._rates[kind, dtype] = _best([
                [partial(work, evaluator, size)
                 for evaluator in self.evaluators(dtype, count, size)]
                for size in (INT8_BATCHES if dtype == "int8" else self.batches)])
        return self._rates[kind, dtype]


def _best(works: Sequence[Sequence[Callable[[], int]]]) -> Rate:
    """The best of several sizes and of two ways to thread: alone, or as many at once as there are.

    works: for each size the same work as many times as there are threads. The first call chooses,
    by the medians of LOOKS short looks at each: the highest of single looks would be luck.
    """
    workers, chosen = Workers(len(works[0])), list[Callable[[float], float]]()

    def together(each: Sequence[Callable[[], int]], share: float) -> float:
        return sum(workers.map(lambda work: repeat(work, share), each))

    ways = [partial(repeat, each[0]) for each in works]
    ways += [partial(together, each) for each in works if len(each) > 1]

    def rate() -> float:
        if not chosen:
            looks = [[way(1 / len(ways)) for way in ways] for _ in range(LOOKS)]
            chosen.append(ways[int(np.median(looks, axis=0).argmax())])
        return chosen[0](1.0)

    return rate


def _threads(device: str) -> int:
    """That a limit is taken with."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def _observations(game: Game, count: int) -> NDArray[Any]:
    """Observations [count, C, H, W]; after DRAWN of them the same again."""
    drawn = precision.random_positions(game, 0, min(count, DRAWN))
    return np.resize(drawn, (count, *drawn.shape[1:]))


def random_columns(game: Game, count: int) -> Columns:
    """Rows whose targets mean nothing."""
    rng = np.random.default_rng(0)
    cells = game.board_shape[0] * game.board_shape[1]
    ones = np.ones(count, np.float32)
    policy = np.zeros((count, game.num_actions), np.float16)
    policy[np.arange(count), rng.integers(0, game.num_actions, count)] = 1
    return Columns(
        obs=pack(precision.random_positions(game, 0, count), game.obs_binary), policy=policy,
        policy_weight=ones, value=ones, ownership=np.ones((count, cells), np.int8), score=ones,
        aux_weight=ones)


def _trainer(spec: NetSpec, device: str, size: int) -> Trainer:
    return board_trainer(seeded(0, lambda: build(spec)), TrainConfig(batch_size=size), device)


def learner(game: Game, spec: NetSpec, device: str) -> Rate:
    """Positions/s from the replay window to new weights."""
    size = preset(game.name).rl.batch_size
    trainer, window, rng = _trainer(spec, device, size), Window(1, 1.0, WINDOW), \
        np.random.default_rng(0)
    window.add(random_columns(game, WINDOW))
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


def backward(game: Game, spec: NetSpec, device: str) -> Rate:
    """Positions/s of forward and backward passes on rows that lie ready."""
    kind, sizes = torch.device(device).type, LEARNT[torch.device(device).type]
    nets = [placed(seeded(0, lambda: build(spec)), device).train()
            for _ in range(_threads(device))]
    low = choose_dtype("auto", device) is torch.bfloat16
    columns, symmetries = random_columns(game, max(sizes)), game.symmetries()
    ready = {size: to_tensors(batch(columns, np.arange(size), game, symmetries, None), device)
             for size in sizes}

    def work(net: torch.nn.Module, size: int) -> int:
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            out = net(ready[size].obs)
        torch.stack(list(loss_parts(out, ready[size]).values())).sum().backward()
        for parameter in net.parameters():
            parameter.grad = None
        if kind == "cuda":
            torch.cuda.synchronize()
        return size

    return _best([[partial(work, net, size) for net in nets] for size in sizes])


FIRST_MOVE = """
import sys
from selfplay.board.selfplay import SelfPlay
from selfplay.games import make
from selfplay.inference.actors import group_sizes
from selfplay.inference.evaluator import Evaluator
from selfplay.models import build, seeded, spec_for
from selfplay.run.config import preset
game, size, device = make(sys.argv[1]), *sys.argv[2:]
config = preset(game.name).rl
net = seeded(0, lambda: build(spec_for(game, size)))
evaluators = [Evaluator(net, game, device) for _ in group_sizes(config.games, device)]
actor = SelfPlay(game, evaluators, config, seed=0, threads=1).actors[0]
start = actor.states.ply.sum()
while actor.states.ply.sum() == start:
    actor.wave()
"""  #: arguments: game, net, device
IMPORTS = "import torch, numba"  #: what it is compared with


def _first_move(game: Game, spec: NetSpec, device: str, pairs: int) -> Row:
    """From the start of a process to the first move of self-play, kernels compiled before."""
    def process(*command: str) -> Rate:
        def work() -> int:
            # away from the terminal, whose Ctrl-C is this process's alone: it ends the other
            subprocess.run([sys.executable, "-c", *command], check=True, start_new_session=True)
            return 1

        return lambda: repeat(work)

    return row("first_move", "s", process(FIRST_MOVE, game.name, spec.size, device),
               "importing torch and numba alone; ours: all imports, making the net, its evaluators "
               f"and the games, search up to the first move, {spec.size}, kernels compiled before",
               process(IMPORTS), pairs, per=lambda r: 1 / r)


def _tree_memory(game: Game) -> Row:
    """All that a Search holds: trees, walks, roots, leaves."""
    Search(game, SearchConfig(), 1, 1, 0)  # what the first one loads and compiles is not its
    tracemalloc.start()  # numpy tells it of every array
    before = tracemalloc.get_traced_memory()[0]
    search = Search(game, SearchConfig(), TREE_GAMES, TREE_SIMS, 0)
    size = (tracemalloc.get_traced_memory()[0] - before) / 2**20
    tracemalloc.stop()
    del search
    ratio = 1024 / size
    return {"name": "tree_memory", "unit": "MB", "value": size, "reference_value": 1024.0,
            "reference": f"1 GB; ours: {TREE_GAMES} games x {TREE_SIMS} simulations, "
                         "trees, walks, roots and leaves",
            "ratio": ratio, "spread": [ratio, ratio]}
