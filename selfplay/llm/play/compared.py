"""A language model's run beside those of board nets: ``run.compare_runs`` rates them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.common.stats import spread_out
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.llm.folder import stored_text_config
from selfplay.llm.stage_config import PREFIX
from selfplay.report.ceilings import LEAST
from selfplay.run.compare import Point
from selfplay.run.compare_runs import TextRuns
from selfplay.run.config import EvalConfig, override, preset
from selfplay.run.folder import Run

SIMS = (1, 4, 16, 64)  #: simulations of the last net, beside a language model
VOTES = (2, 4, 8, 16)  #: answers that vote, of the last model; its likeliest is played anyway
EARLIER = ("base", "sft")  #: stages whose compute RL's begins with
RATE = {"flops": "total_flops", "seconds": "total_seconds"}


def texts_beside(
    folders: Sequence[Path], other: Run | None, assignments: Sequence[str] = (),
    mask: bool = False, sims: Sequence[int] = (),
) -> tuple[dict[Path, Run], TextRuns]:
    """Runs of texts, judged as the run ``other`` of a board's net, by folder, and what
    ``compare_runs`` wants to know of them. Raises UserError."""
    judged = None if other is None else other.config.eval
    runs = {folder: run_of_texts(folder, judged, assignments) for folder in folders}
    points = {folder: points_of_texts(run, mask) for folder, run in runs.items()}
    return runs, TextRuns(points, mask, tuple(sims) or SIMS, VOTES)


def run_of_texts(folder: Path, judged: EvalConfig | None, assignments: Sequence[str] = ()) -> Run:
    """The run of texts in ``folder`` as one that can be rated, by the settings ``judged`` of
    another one (None: those of its game). Raises UserError."""
    config = stored_text_config(folder)
    assert config is not None
    game = make(config.task.removeprefix(PREFIX))
    # SFT learns the expert's games, so it is the teacher
    rated = override(preset(game.name), [f"expert.player={config.play.expert}", *(
        [] if judged else assignments)])
    return Run(folder, replace(rated, eval=judged or rated.eval), game)


def points_of_texts(run: Run, mask: bool = False) -> list[Point]:
    """The models on the chart: those of SFT up to its best; of RL past selves and the newest, which
    are what is kept. Compute counts from the first stage on. mask: they play legal moves only.

    Raises UserError where there is no model yet.
    """
    spent, found = dict.fromkeys(RATE, 0.0), list[Point]()
    for stage in EARLIER:
        best = checkpoint.chosen(run.folder / stage)
        if best is None:
            continue
        if stage == "sft":
            until = [path for path in checkpoint.listing(run.folder / stage) if path <= best]
            some = spread_out(until, run.config.eval.sft_points, log=True)
            found += [_model_at(stage, path, _added(
                spent, checkpoint.read_meta(path)["compute"]), mask) for path in some]
        spent = _added(spent, checkpoint.read_meta(best)["compute"])
    rl = run.folder / "rl"
    rows = {row["step"]: row for row in read_history(rl / "history.jsonl")}
    kept = [*(rl / "pool").glob("ckpt-*"), *checkpoint.listing(rl)]
    there = {_number_of(path): path for path in kept}
    learnt = [there[step] for step in sorted(there) if step in rows]
    found += [_model_at("rl", path, _added(spent, {
        key: rows[_number_of(path)][name] for key, name in RATE.items()}), mask)
        for path in spread_out(learnt, max(run.config.eval.rl_points, LEAST + 1), log=False)]
    if not found:
        raise UserError(f"{run.folder}: no model there yet; go on with selfplay llm train --run "
                        f"{run.folder}")
    return found


def _model_at(stage: str, path: Path, compute: dict[str, float], mask: bool) -> Point:
    return Point(stage, path, _number_of(path), compute, "llm", ",mask" * mask)


def _number_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _added(spent: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    return {key: value + float(more.get(key, 0.0)) for key, value in spent.items()}
