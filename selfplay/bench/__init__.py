"""Speed, each figure beside a reference measured in the same run.

Ours and the reference run in turn, ``pairs`` times; ``ratio`` is the median of the pairs' ratios
and says how many times better ours is, ``spread`` is its (lowest, highest).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from selfplay.bench.net import net_rows
from selfplay.bench.search import search_rows
from selfplay.games.base import Game
from selfplay.models import spec_for
from selfplay.run.config import preset


def run_bench(
    game: Game, *, net: str | None = None, pairs: int = 5, device: str = "cpu",
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """One dict per row: name, unit, value, reference, reference_value, ratio, spread.

    ``each`` is told of a row as soon as it is measured.
    """
    spec = spec_for(game, net or preset(game.name).net)
    makers: list[Callable[[], dict[str, Any] | None]] = [
        *(partial(make_row, game, spec, device, pairs) for make_row in search_rows()),
        *net_rows(game, spec, device, pairs)]
    rows = []
    for make_row in makers:
        row = make_row()
        if row is not None:
            rows.append(row)
            each(row)
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
