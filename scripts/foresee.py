"""Whether the curves that ceilings are told from foresee what comes: they are fitted to the first
half of a run's points and held against the second half.

    python scripts/foresee.py runs/connect4
    python scripts/foresee.py runs/sums        (a run of texts)

A stage and mode takes part that has ten points or more on the chart; for more of them there is
``selfplay compare RUN --set eval.rl_points=16 --minutes 20``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfplay.arena.elo import outcomes
from selfplay.common.curves import Outcomes
from selfplay.common.errors import UserError
from selfplay.common.files import read_json
from selfplay.report.axis import metric_of
from selfplay.report.ceilings import LEAST, foreseen
from selfplay.report.style import STAGES


def rows_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """(the evaluation of a run, the rows of ``foreseen``, what it left out). Raises UserError
    without one."""
    path = folder / "summary.json"
    if not path.exists():
        raise UserError(f"{path}: missing; make it with selfplay compare {folder}, or selfplay llm "
                        "eval of a run of texts")
    found = read_json(folder / "evaluation.json", dict)
    if "points" not in found:  # of texts
        from selfplay.llm.folder import open_text_run, stored_text_config
        from selfplay.llm.summary import run_record

        config = stored_text_config(folder)
        if config is None:
            raise UserError(f"{folder}: no run")
        found = run_record(open_text_run(folder, config), found.get("stages", {}), "cpu")
        return found, *foreseen(found)

    def without(players: set[str]) -> tuple[Sequence[str], Outcomes]:
        kept = [m for m in found["matches"] if not {m["a"], m["b"]} & players]
        return outcomes([(m["a"], m["b"], *_of_distinct(m)) for m in kept], found["anchor"])

    return found, *foreseen(found, without)


def _of_distinct(match: dict[str, Any]) -> Iterator[float]:
    """Wins, draws and losses as ratings count them: a game that repeats another tells nothing."""
    share = match.get("distinct", match["games"]) / match["games"]
    return (share * match[key] for key in ("wins", "draws", "losses"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    try:
        evaluation, rows, left = rows_of(parser.parse_args().run)
    except UserError as error:
        sys.exit(f"foresee: {error}")
    metric = metric_of(evaluation)
    print(*left, sep="\n", end="\n" if left else "")
    if not rows and left:
        sys.exit("foresee: too few points are left")
    if not rows:
        sys.exit(f"foresee: no stage has {2 * LEAST} points with a strength; see --help")
    print(f"{'stage':<6}{'mode':<18}{'step':>7}  {'predicted':>24}  {'measured':>24}  as predicted")
    for row in rows:
        cells = [f"{row[key]:.0f} ({row[low]:.0f} to {row[high]:.0f})" for key, low, high in (
            ("value", "low", "high"), ("measured", "measured_low", "measured_high"))]
        print(f"{STAGES[row['stage']].name:<6}{metric.mode_short(row['sims']):<18}"
              f"{row['step']:>7}  {cells[0]:>24}  {cells[1]:>24}  "
              f"{'yes' if row['inside'] else 'no'}")
    print(f"{sum(row['inside'] for row in rows)} of {len(rows)} later points are as predicted: the "
          "95% interval of measured less predicted,\nof the band and the point's error together, "
          "holds 0 (about 95% of points would, were the curve right)")


if __name__ == "__main__":
    main()
