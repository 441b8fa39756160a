"""Speed, each figure beside a reference measured in the same run.

Ours and the reference run in turn, ``pairs`` times; ``ratio`` is the median of the pairs' ratios
and says how many times better ours is, ``spread`` is its (lowest, highest).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from selfplay.actor import Actor
from selfplay.config import preset
from selfplay.console import say
from selfplay.games.base import Game, side
from selfplay.inference import Evaluator
from selfplay.models import NetSpec, build, seeded
from selfplay.players import pyspiel_name
from selfplay.search import Search, SearchConfig

SECONDS = 2.0  #: of work behind one side of one pair
BATCHES = (32, 64, 128, 256, 512)
SEARCH_GAMES, SEARCH_SIMS = 256, 200

Rate = Callable[[], float]  #: does some work, returns units per second


def run_bench(
    game: Game, *, net: str | None = None, pairs: int = 5, device: str = "cpu", quiet: bool = False
) -> list[dict[str, Any]]:
    """One dict per row: name, unit, value, reference, reference_value, ratio, spread."""
    spec = NetSpec(net or preset(game.name).net, game.obs_shape, game.num_actions,
                   game.has_ownership)
    rows = []
    for make_row in (_playouts, _search, _selfplay_over_raw, _selfplay_evals):
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


def _row(
    name: str, unit: str, ours: Rate, reference: str, theirs: Rate, pairs: int,
    per: Callable[[float], float] = lambda rate: rate,
) -> dict[str, Any]:
    """Run the pairs. ``per`` turns a rate into the unit shown; the ratio is of rates."""
    ours(), theirs()  # compile and warm up
    taken = [(ours(), theirs()) for _ in range(pairs)]
    ratios = [a / b for a, b in taken]
    return {"name": name, "unit": unit, "value": per(median(a for a, _ in taken)),
            "reference": reference, "reference_value": per(median(b for _, b in taken)),
            "ratio": median(ratios), "spread": [min(ratios), max(ratios)]}


def _repeat(work: Callable[[], int], share: float = 1.0) -> float:
    """Units per second of ``work``, which returns how many units it did, over SECONDS * share."""
    start, units = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < SECONDS * share:
        units += work()
    return units / (now - start)


def _playouts(game: Game, spec: NetSpec, device: str, pairs: int) -> dict[str, Any] | None:
    """Random playouts from the first position, one core each."""
    name = pyspiel_name(game)
    if name is None:
        return None
    import pyspiel

    states, rng = game.new(256), np.arange(1, 257, dtype=np.uint64)
    other = pyspiel.load_game(name)
    root = other.new_initial_state()
    # one simulation of 200 rollouts: the only way from Python to the C++ playout loop
    rollouts = pyspiel.MCTSBot(other, pyspiel.RandomRolloutEvaluator(200, 1), 2.0, 1, 100, False,
                               1, False)

    def ours() -> int:
        game.rollout(states, rng)
        return 256

    def theirs() -> int:
        rollouts.mcts_search(root)
        return 200

    return _row("playouts", "playouts/s", lambda: _repeat(ours), "OpenSpiel C++ random rollouts",
                lambda: _repeat(theirs), pairs)


def _free_net(game: Game) -> Callable[..., Any]:
    """An evaluate that costs next to nothing but draws the features a real net would read."""
    logits = np.zeros((SEARCH_GAMES, game.num_actions), np.float32)
    values = np.zeros(SEARCH_GAMES, np.float32)

    def evaluate(states: Any, legal: Any) -> Any:
        game.observe(states)
        n = len(legal)
        return logits[:n], values[:n] * side(states)

    return evaluate


def _search(game: Game, spec: NetSpec, device: str, pairs: int) -> dict[str, Any] | None:
    """Tree search with a free net beside OpenSpiel's C++ MCTSBot, a playout in each simulation."""
    name = pyspiel_name(game)
    if name is None:
        return None
    import pyspiel

    search = Search(game, SearchConfig(rule="puct"), SEARCH_GAMES, SEARCH_SIMS, 0)
    states, evaluate = game.new(SEARCH_GAMES), _free_net(game)
    other = pyspiel.load_game(name)
    root = other.new_initial_state()
    bot = pyspiel.MCTSBot(other, pyspiel.RandomRolloutEvaluator(1, 1), 2.0, SEARCH_SIMS, 1000,
                          False, 1, False)

    def ours() -> int:
        search.run(states, SEARCH_SIMS, evaluate)
        return SEARCH_GAMES * SEARCH_SIMS

    def theirs() -> int:
        bot.mcts_search(root)
        return SEARCH_SIMS

    reference = (f"OpenSpiel C++ MCTSBot with playouts; ours: {SEARCH_GAMES} games x "
                 f"{SEARCH_SIMS} simulations, free net")
    return _row("search_us_per_simulation", "us", lambda: _repeat(ours), reference,
                lambda: _repeat(theirs), pairs, per=lambda rate: 1e6 / rate)


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
