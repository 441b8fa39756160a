"""The two processes of ``bench_pgx.py``: each answers the parent's JSON lines, one a request.

``bench_pgx_side.py ours`` needs selfplay, ``bench_pgx_side.py theirs`` jax, pgx, mctx and
dm-haiku; nothing of either is imported before the parent says "start", so that starts can be timed.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

RAW_BATCHES = (16, 32, 64, 128, 256)
TUNE_SECONDS = 1.0  #: for each candidate before the pairs
FORMATS = ("float32", "bfloat16")


def busy_seconds(cores: set[int]) -> float:
    """Seconds that ``cores`` have spent on anything since boot (Linux; elsewhere NaN)."""
    try:
        with open("/proc/stat") as file:
            lines = [line.split() for line in file if line.startswith("cpu")]
    except OSError:
        return float("nan")
    # user nice system idle iowait irq softirq steal; guest times are already in user
    ticks = sum(int(t) for line in lines if line[0][3:].isdigit() and int(line[0][3:]) in cores
                for k, t in enumerate(line[1:9]) if k not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK")


def my_cores() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def timed(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``work`` counted, with its seconds: wall, cpu, and the cores' share that others had."""
    cores = my_cores()
    wall, cpu, busy = time.perf_counter(), time.process_time(), busy_seconds(cores)
    counted = work()
    busy = busy_seconds(cores) - busy
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    others = max(busy - cpu, 0.0) / (wall * len(cores))
    return {**counted, "wall": wall, "cpu": cpu, "others": others if others == others else 0.0}


def fastest(rates: dict[Any, float]) -> Any:
    return max(rates, key=lambda key: rates[key])


def rate_of(step: Callable[[], int], seconds: float) -> float:
    """Units per second of processor time; each step returns how many units it did."""
    step()  # warm up
    start, cpu, units = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        units += step()
    # not by wall time: whoever else is here for a second must not pick the batch ...
    spent = time.process_time() - cpu if len(my_cores()) == 1 else time.perf_counter() - start
    return units / spent  # ... but idle cores are the batch's own fault


def require(*modules: str) -> dict[str, Any]:
    """An answer; raises ImportError for the first of ``modules`` that is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"no module named {module!r}")
    return {}


def until(seconds: float, step: Callable[[], int]) -> int:
    start, units = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        units += step()
    return units


def serve(side: Any) -> None:
    """Answer the parent's JSON lines until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not become an answer
    rested, slept = time.process_time(), time.perf_counter()
    for line in sys.stdin:
        waited = {"cpu": time.process_time() - rested, "wall": time.perf_counter() - slept}
        request = json.loads(line)
        try:
            reply = getattr(side, request.pop("do"))(**request)
        except ImportError as error:
            reply = {"missing": str(error)}
        print(json.dumps({**reply, "waited": waited}), file=answers, flush=True)
        rested, slept = time.process_time(), time.perf_counter()


# ---- ours ----------------------------------------------------------------------------------------


def our_evaluators(game: Any, net: str, dtype: Any, count: int) -> list[Any]:
    from selfplay.inference import openvino  # noqa: F401 - brings int8
    from selfplay.inference.evaluator import Evaluator, load_all
    from selfplay.inference.precision import random_positions
    from selfplay.models import build, seeded, spec_for

    spec = spec_for(game, net)
    made = [Evaluator(None, game, dtype=dtype) for _ in range(count)]
    load_all(made, seeded(0, lambda: build(spec)).eval(), random_positions(game))
    return made


def our_selfplay(game: Any, net: str, dtype: str, simulations: int, games: int) -> Any:
    """A full search of the same size for every move, and no evaluation that a cache saves."""
    from dataclasses import replace

    import torch

    from selfplay.board.selfplay import SelfPlay
    from selfplay.inference.actors import group_sizes
    from selfplay.run.config import preset

    config = replace(preset(game.name).rl, sims=simulations, full_share=1.0, cache_mb=0,
                     games=games)
    evaluators = our_evaluators(game, net, dtype, len(group_sizes(games, "cpu")))
    return SelfPlay(game, evaluators, config, seed=0, threads=torch.get_num_threads())


def our_moves(loop: Any, seconds: float) -> int:
    """Moves made in ``seconds`` or a little more: until the next moves have been made.

    Every move is a training row here, in the book while its game lasts and then in the harvest.
    """
    def booked() -> int:
        return sum(int(actor.book.rows.sum()) for actor in loop.actors)

    start, before = time.perf_counter(), booked()
    seen = before

    def stop() -> bool:
        nonlocal seen
        landed, seen = seen, booked()
        return seen != landed and time.perf_counter() - start >= seconds

    harvest = loop.play(1 << 40, stop=stop)
    finished = 0 if harvest is None else len(harvest.columns.value)
    return booked() - before + finished


class Ours:
    """Requests of the parent, each a method that returns plain JSON."""

    def check(self, dtype: str) -> dict[str, Any]:
        return require("selfplay", "torch", *["openvino"] * (dtype == "int8"))

    def start(self, net: str, simulations: int, dtype: str, games: int) -> dict[str, Any]:
        """Set up and make the first moves."""
        began = time.perf_counter()
        import torch

        from selfplay.games import make
        from selfplay.models import flops, spec_for

        imported = time.perf_counter()
        self.game, self.net, self.dtype = make("go9x9"), net, dtype
        self.loop = our_selfplay(self.game, net, dtype, simulations, games)
        built = time.perf_counter()
        our_moves(self.loop, 0.0)
        moved = time.perf_counter()
        spec = spec_for(self.game, net)
        return {"parts": f"import {imported - began:.1f}, set up {built - imported:.1f}, "
                         f"compile and first moves {moved - built:.1f}",
                "mflop": flops(spec) / 1e6,
                "about": f"{games} games, torch {torch.__version__}, "
                         f"{self.loop.actors[0].evaluate.dtype_name}, "
                         f"{torch.get_num_threads()} thread(s)"}

    def _forward(self, batch: int) -> int:
        """A batch on each thread."""
        self.workers.map(lambda evaluator: evaluator.run(self.planes[:batch]), self.alone)
        return batch * len(self.alone)

    def tune(self) -> dict[str, Any]:
        """Set up the raw net, one a thread, and find its batch."""
        import numpy as np
        import torch

        from selfplay.common.threads import Workers

        self.alone = our_evaluators(self.game, self.net, self.dtype, torch.get_num_threads())
        self.workers = Workers(len(self.alone))
        planes = np.random.default_rng(0).random((max(RAW_BATCHES), *self.game.obs_shape)) < 0.3
        self.planes = planes.astype(np.uint8)
        rates = {b: rate_of(partial(self._forward, b), TUNE_SECONDS) for b in RAW_BATCHES}
        self.raw_batch = fastest(rates)
        return {"raw": f"batch {self.raw_batch}"}

    def selfplay(self, seconds: float) -> dict[str, float]:
        def work() -> dict[str, float]:
            before = self._evaluations()
            moves = our_moves(self.loop, seconds)
            return {"evaluations": self._evaluations() - before, "moves": moves}

        return timed(work)

    def _evaluations(self) -> int:
        return sum(actor.evaluate.evaluations for actor in self.loop.actors)

    def raw(self, seconds: float) -> dict[str, float]:
        return timed(lambda: {"evaluations": until(seconds, lambda: self._forward(self.raw_batch))})


# ---- theirs --------------------------------------------------------------------------------------


def spread_evenly(batches: Iterable[int], devices: int) -> list[int]:
    """``batches`` down to multiples of ``devices``; those below it are left out, but for one."""
    return sorted({b - b % devices for b in batches if b >= devices}) or [devices]


class Theirs:
    """Requests of the parent. Arrays carry a leading axis of devices, as pmap wants."""

    def check(self) -> dict[str, Any]:
        return require("jax", "pgx", "mctx", "haiku", "jmp")

    def start(
        self, net: str, simulations: int, batch: int, dtype: str, devices: int
    ) -> dict[str, Any]:
        """Set up, compile and make the first moves; batch 0: set up alone."""
        began = time.perf_counter()
        import jax
        import mctx
        import pgx

        blocks, channels = (int(part) for part in net.split("x"))
        imported = time.perf_counter()
        self.simulations, self.devices = simulations, devices
        self.env = pgx.make("go_9x9")
        self.size = (self.env.num_actions, channels, blocks, True)
        self.model = self._weights()
        built = time.perf_counter()
        parts = f"import {imported - began:.1f}, set up {built - imported:.1f}"
        if batch:
            self._begin(batch, dtype)
            compiled = time.perf_counter()
            self._step()
            parts += (f", compile {compiled - built:.1f}, "
                      f"first moves {time.perf_counter() - compiled:.1f}")
        weights = [module["w"][0] for module in self.model[0].values() if "w" in module]
        # a convolution's kernel meets every point of the board, a matrix its input once
        work = sum(2 * w.size * (81 if w.ndim == 4 else 1) for w in weights)
        return {"parts": parts, "mflop": work / 1e6, "about":
                f"jax {jax.__version__}, pgx {pgx.__version__}, mctx {mctx.__version__}"}

    def _transform(self, dtype: str, training: bool) -> Any:
        """(init, apply) of pgx's own AZNet, in haiku's mixed precision for bfloat16."""
        import haiku as hk
        import jax.numpy as jnp
        import jmp
        from pgx._src.baseline import _create_az_model_v0 as az_net

        half = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
        exact = jnp.float32  # weights and statistics stay float32, as haiku's documentation advises
        for module, compute in ((hk.Conv2D, half), (hk.Linear, half), (hk.BatchNorm, exact)):
            hk.mixed_precision.set_policy(module, jmp.Policy(
                param_dtype=exact, compute_dtype=compute, output_dtype=half))
        return hk.without_apply_rng(hk.transform_with_state(
            lambda x: az_net(*self.size)(x, is_training=training, test_local_stats=False)))

    def _weights(self) -> Any:
        import jax
        import jax.numpy as jnp

        init = self._transform("float32", training=True).init
        blank = jnp.zeros((2, 9, 9, 17), jnp.bool_)
        return jax.pmap(lambda _: init(jax.random.PRNGKey(0), blank))(jnp.arange(self.devices))

    def _net(self, dtype: str) -> Callable[..., Any]:
        """(model, observations) -> float32 logits and values."""
        import jax.numpy as jnp

        def net(model: Any, observations: Any) -> Any:
            params, statistics = model
            outputs, _ = self._transform(dtype, training=False).apply(
                params, statistics, observations)
            return tuple(output.astype(jnp.float32) for output in outputs)

        return net

    def _mover(self, dtype: str) -> Callable[..., Any]:
        """(model, states, key) -> next states, and the training data of the step."""
        import jax
        import jax.numpy as jnp
        import mctx
        from pgx.experimental import auto_reset

        env, net, simulations = self.env, self._net(dtype), self.simulations

        def simulate(model: Any, key: Any, actions: Any, states: Any) -> Any:
            mover = states.current_player
            states = jax.vmap(env.step)(states, actions)
            logits, values = net(model, states.observation)
            over = states.terminated
            illegal = jnp.finfo(logits.dtype).min
            return mctx.RecurrentFnOutput(
                reward=jax.vmap(lambda rewards, player: rewards[player])(states.rewards, mover),
                discount=jnp.where(over, 0.0, -1.0),
                prior_logits=jnp.where(states.legal_action_mask, logits, illegal),
                value=jnp.where(over, 0.0, values)), states

        def move(model: Any, states: Any, key: Any) -> Any:
            search_key, reset_key = jax.random.split(key)
            logits, values = net(model, states.observation)
            root = mctx.RootFnOutput(prior_logits=logits, value=values, embedding=states)
            found = mctx.gumbel_muzero_policy(
                model, search_key, root, simulate, simulations,
                invalid_actions=~states.legal_action_mask)
            keys = jax.random.split(reset_key, len(values))
            after = jax.vmap(auto_reset(env.step, env.init))(states, found.action, keys)
            return after, (states.observation, found.action_weights, after.rewards,
                           after.terminated)

        return move

    def _begin(self, batch: int, dtype: str) -> None:
        """Compile for ``batch`` games, a multiple of the devices, at their beginning."""
        import jax

        self.batch, each = batch, self._each(batch)
        keys = jax.random.split(jax.random.PRNGKey(1), self.devices)
        self.states = jax.pmap(
            lambda key: jax.vmap(self.env.init)(jax.random.split(key, each)))(keys)
        self.compiled = jax.pmap(self._mover(dtype), donate_argnums=1).lower(
            self.model, self.states, keys).compile()
        self.keys = (jax.random.split(jax.random.PRNGKey(seed), self.devices)
                     for seed in itertools.count())

    def _each(self, batch: int) -> int:
        """Rows of a device; only what is evaluated may be counted."""
        each, rest = divmod(batch, self.devices)
        if rest or not each:
            raise ValueError(f"batch {batch} is no multiple of {self.devices} devices")
        return each

    def _step(self) -> int:
        """One move in every game."""
        import jax

        self.states, data = self.compiled(self.model, self.states, next(self.keys))
        jax.block_until_ready((self.states, data))
        return self.batch

    def _forward(self, dtype: str, batch: int) -> Callable[[], int]:
        import jax

        shape = (self.devices, self._each(batch), 9, 9, 17)
        planes = jax.pmap(lambda x: x)(jax.random.bernoulli(jax.random.PRNGKey(2), 0.3, shape))
        net = jax.pmap(self._net(dtype)).lower(self.model, planes).compile()

        def step() -> int:
            jax.block_until_ready(net(self.model, planes))
            return batch

        return step

    def tune(self, batches: list[int]) -> dict[str, Any]:
        """Find the raw net's format and batch, then self-play's batch in that format."""
        rates = {(dtype, b): rate_of(self._forward(dtype, b), TUNE_SECONDS)
                 for dtype in FORMATS for b in spread_evenly(RAW_BATCHES, self.devices)}
        best = fastest(rates)
        self.raw_step = self._forward(*best)
        played = {}
        for batch in spread_evenly(batches, self.devices):
            self._begin(batch, best[0])
            played[batch] = rate_of(self._step, 2 * TUNE_SECONDS)
        batch = fastest(played)
        self._begin(batch, best[0])
        self._step()
        per_format = {dtype: max(rate for (d, _), rate in rates.items() if d == dtype)
                      for dtype in FORMATS}
        return {"batch": batch, "dtype": best[0], "rate": played[batch],
                "raw": f"batch {best[1]}, {best[0]}",
                "notes": f"net alone {_figures(per_format)} evaluations/s; "
                         f"self-play by batch {_figures(played)} moves/s"}

    def selfplay(self, seconds: float) -> dict[str, float]:
        def work() -> dict[str, float]:
            moves = until(seconds, self._step)
            return {"evaluations": moves * (self.simulations + 1), "moves": moves}

        return timed(work)

    def raw(self, seconds: float) -> dict[str, float]:
        return timed(lambda: {"evaluations": until(seconds, self.raw_step)})


def _figures(rates: dict[Any, float]) -> str:
    return ", ".join(f"{key}: {rate:,.1f}" for key, rate in rates.items())


if __name__ == "__main__":
    serve({"ours": Ours, "theirs": Theirs}[sys.argv[1]]())
