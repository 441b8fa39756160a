"""Speed, each figure beside a reference measured in the same run.

Ours and the reference run in turn, ``pairs`` times; ``ratio`` is the median of the pairs' ratios
and says how many times better ours is, ``spread`` is its (lowest, highest).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from selfplay.actor import Actor
from selfplay.bench_search import SEARCH_ROWS, SECONDS, _repeat, _row
from selfplay.config import preset
from selfplay.console import say
from selfplay.games.base import Game
from selfplay.inference import Evaluator
from selfplay.models import NetSpec, build, seeded

BATCHES = (32, 64, 128, 256, 512)


def run_bench(
    game: Game, *, net: str | None = None, pairs: int = 5, device: str = "cpu", quiet: bool = False
) -> list[dict[str, Any]]:
    """One dict per row: name, unit, value, reference, reference_value, ratio, spread."""
    spec = NetSpec(net or preset(game.name).net, game.obs_shape, game.num_actions,
                   game.has_ownership)
    rows = []
    for make_row in (*SEARCH_ROWS, _selfplay_over_raw, _selfplay_evals):
        row = make_row(game, spec, device, pairs)
        if row is not None:
            rows.append(row)
            if not quiet:
                say(f"  {row['name']}: {row['ratio']:.2f} x {row['reference']}")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [f"{'what':<26}{'ours':>12} {'unit':<14}{'reference':>12}  {'ratio':>7}  spread"]
    for row in rows:
        low, high = row["spread"]
        lines.append(f"{row['name']:<26}{row['value']:>12,.1f} {row['unit']:<14}"
                     f"{row['reference_value']:>12,.1f}  {row['ratio']:>7.2f}  "
                     f"{low:.2f}-{high:.2f}  ({row['reference']})")
    return "\n".join(lines)


def _evaluator(game: Game, spec: NetSpec, device: str, dtype: str = "auto") -> Evaluator:
    return Evaluator(seeded(0, lambda: build(spec)), game, device, dtype=dtype)


def _positions(game: Game, count: int) -> Any:
    """States some plies into random games."""
    states, rng = game.new(count), np.random.default_rng(0)
    for _ in range(min(20, game.max_moves // 3)):
        mask = game.legal(states)
        moves = np.where(mask.any(1), (mask * rng.random(mask.shape)).argmax(1), -1)
        game.step(states, moves)
    return states


def _raw_rate(game: Game, evaluator: Evaluator) -> float:
    """Evaluations per second at the best of BATCHES, features included in neither clock's favour:
    the planes are drawn once."""
    rates = []
    for batch in BATCHES:
        states = _positions(game, batch)
        planes = game.observe(states)

        def work(planes: Any = planes) -> int:
            evaluator.forward(planes)
            return len(planes)

        work()
        rates.append(_repeat(work, 1 / len(BATCHES)))
    return max(rates)


class _SelfPlay:
    """Self-play kept in flight between the pairs."""

    def __init__(self, game: Game, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        config = preset(game.name).rl
        self.actor = Actor(game, evaluator, config, seed=0)

    def rate(self) -> float:
        start, before = time.perf_counter(), self.evaluator.evaluations
        self.actor.play(1 << 30, stop=lambda: time.perf_counter() - start > 2 * SECONDS)
        return (self.evaluator.evaluations - before) / (time.perf_counter() - start)


def _selfplay_over_raw(game: Game, spec: NetSpec, device: str, pairs: int) -> dict[str, Any]:
    evaluator = _evaluator(game, spec, device)
    player = _SelfPlay(game, evaluator)
    return _row("selfplay_over_raw", "evaluations/s", player.rate,
                f"the same net {spec.size} alone, best batch of {BATCHES}, {evaluator.dtype_name}",
                lambda: _raw_rate(game, evaluator), pairs)


def _selfplay_evals(game: Game, spec: NetSpec, device: str, pairs: int) -> dict[str, Any]:
    plain = _evaluator(game, spec, device, dtype="float32")
    player = _SelfPlay(game, _evaluator(game, spec, device))
    return _row("selfplay_evals", "evaluations/s", player.rate,
                f"net {spec.size} alone in float32, best batch", lambda: _raw_rate(game, plain),
                pairs)
