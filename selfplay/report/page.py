"""What a run showed: chart.png, report.html and summary.json from one evaluation.

An evaluation is a plain dict (the JSON of runs/NAME/evaluation.json):

    game, rules, anchor, hardware, run, seed, commands
    measure      "elo", or "accuracy" (in percent, of a language model): see ``axis``. With it
                 `elo` and `games` below are `accuracy` and `questions`, there are no matches,
                 and `sims` is the number of answers whose majority counts (0: one answer)
    points       player, stage (of style.STAGES), sims (0 = raw policy), step, flops,
                 seconds, positions, elo, low, high, games; flops and seconds cumulate over stages;
                 look: measured in passing, drawn but no stage's best where others were measured
    baselines    player, elo (None where it was not played, with a note), low, high, games, expert
    matches      a, b, games, wins, draws, losses, score (of a), low, high, command, folder
    sft_history  step, flops, seconds, top1, top5, policy_loss, value_mse
    rl_history   step, flops, seconds, policy_loss, value_loss; optional expert_top1
    value_history   step, flops, seconds, value_mse, train_mse, value_accuracy
    curves       optional: the fitted curves and their ceilings, see ``ceilings.ceilings``
    search       optional: player, stage, sims, elo, low, high, games: one net by its simulations
    exchange     optional: what search is worth beside training, see ``ceilings.exchange``
    samples      optional: stage, k, majority, low, high, pass: accuracy against answers drawn;
                 best, best_low, best_high where a reward model has picked the best of k
    budgets      optional: stage, mode (cut or forced), budget, tokens, accuracy, low, high:
                 accuracy against the tokens of the chain of thought
    also         optional: as samples, with task: questions of other tasks
    completions  optional: stage, prompt, completion, wanted: some answers to read, with marks
                 behind the steps that are wrong (✗) and behind dead ends (↩)
    pictures     optional: title, file of a PNG to show as well
    config       optional: anything JSON, shown as it is
    remedies     optional: by stage, or verdict.POINTS or SIGNAL, the command that brings what is
                 missing

Lists may be missing or empty. Intervals are 95%; Elo is anchored at `anchor` = 0.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from selfplay.common.files import write_atomic
from selfplay.report.axis import FLOPS, TIMES, Metric, Record, amount_text, finite, metric_of
from selfplay.report.chart import draw_chart
from selfplay.report.style import STAGES
from selfplay.report.text import headlines, note_of, score_text
from selfplay.report.verdict import Mode, Verdict, verdict_of, with_value

Row = list[str]

NUMERIC = {1, 3, 4, 5, 6, 7, 8}
MATCH_HEAD = ["A", "B", "games", "A wins", "draws", "losses", "A's score (95%)", "command"]
CEILING_HEAD = ["stage", "mode", "points", "ceiling", "low", "high", "10× compute", "low", "high",
                "scatter", "no ceiling because"]
SEARCH_HEAD = ["stage", "simulations", "Elo", "low", "high", "games", "player"]
SAMPLE_HEAD = ["stage", "answers drawn", "majority (%)", "low", "high", "pass@k (%)"]
BEST_HEAD = ["best by reward (%)", "low", "high"]
BUDGET_HEAD = ["stage", "thought", "tokens at most", "tokens", "accuracy (%)", "low", "high"]
ANSWER_HEAD = ["stage", "question", "completion", "wanted"]


def write_report(folder: Path, evaluation: Record) -> Verdict:
    """Write chart.png, report.html and summary.json into `folder` (made if absent); what they say.

    Raises UserError where a file cannot be written.
    """
    verdict = verdict_of(evaluation)
    picture = draw_chart(verdict)
    summary = json.dumps(json_ready(summarise(verdict)), indent=2, allow_nan=False)
    write_atomic(folder / "chart.png", picture)
    write_atomic(folder / "report.html", page(verdict, picture).encode())
    write_atomic(folder / "summary.json", f"{summary}\n".encode())
    return verdict


def summarise(verdict: Verdict) -> Record:
    """The headline numbers, as summary.json holds them."""
    evaluation, metric = verdict.evaluation, verdict.metric
    about = ("game", "rules", "anchor", "hardware", "run", "seed")
    return {
        **{key: evaluation.get(key) for key in about},
        "measure": metric.key,
        metric.counted: metric.total(evaluation),
        "modes": {metric.mode_key(mode.sims): mode_summary(mode, metric) for mode in verdict.modes},
        "missing": verdict.missing,
        "baselines": evaluation.get("baselines", []),
        "curves": evaluation.get("curves", []),
        "search": evaluation.get("search", []),
        "exchange": evaluation.get("exchange", {}),
        **{key: evaluation.get(key, []) for key in ("samples", "budgets", "also")},
        "headlines": headlines(verdict),
    }


def mode_summary(mode: Mode, metric: Metric) -> Record:
    keys = ("player", "step", "flops", "seconds", "positions", "low", "high", metric.key,
            metric.counted)
    sft, rl = ({key: best.get(key) for key in keys} if best else None
               for best in (mode.sft, mode.rl))
    return {"mode": metric.mode_key(mode.sims), "sims": mode.sims, "first": mode.first,
            "stage": mode.stage, "sft": sft, "rl": rl, "sft_flat": mode.flat if sft else None,
            "sft_flat_from_flops": (mode.flat_from or {}).get("flops"), "passed": mode.passed,
            "decided_by": mode.decided_by, "match": mode.match}


def text_summary(verdict: Verdict) -> str:
    """The report for a terminal: headlines, then one aligned row a player."""
    about = [str(verdict.evaluation[k]) for k in ("game", "rules") if verdict.evaluation.get(k)]
    head, rows, numeric = player_table(verdict.evaluation, verdict.metric)
    return "\n".join(["  ".join(about), "", *headlines(verdict), "",
                      aligned([head, *rows], numeric)])


def template(name: str) -> Template:
    """A page's template; what is put into it is escaped."""
    return Environment(
        loader=PackageLoader("selfplay.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True).get_template(name)


def page(verdict: Verdict, picture: bytes) -> str:
    """report.html: one self-contained file, everything that came from outside escaped."""
    evaluation, metric = verdict.evaluation, verdict.metric
    keys = ("game", "rules", "anchor", "run", "seed", "hardware", "config")
    shown = {key: evaluation[key] for key in keys if key in evaluation}
    return template("page.html.j2").render(
        game=evaluation.get("game", ""), metric=metric, headlines=headlines(verdict),
        about=[evaluation[key] for key in ("rules", "hardware") if evaluation.get(key)],
        chart=b64encode(picture).decode(),
        pictures=[(found["title"], b64encode(Path(found["file"]).read_bytes()).decode())
                  for found in evaluation.get("pictures") or []],
        explained=metric.explained.format(evaluation.get("anchor", "random")),
        points=player_table(evaluation, metric), tables=more_tables(evaluation),
        commands=evaluation.get("commands", []), matches_of=matches_of(evaluation),
        config=json.dumps(json_ready(shown), indent=2, ensure_ascii=False))


# -------------------------------------------------------------------------------------- tables


def player_table(evaluation: Record, metric: Metric) -> tuple[Row, list[Row], set[int]]:
    """(head, rows, numeric columns) of all points, then of the baselines."""
    rows = point_rows(evaluation.get("points", []), metric)
    rows += baseline_rows(with_value(evaluation, "baselines"), metric)
    return point_head(metric), rows, NUMERIC


def point_head(metric: Metric) -> Row:
    name = f"{metric.name} {metric.sign}".strip()
    return ["stage", "step", "mode", name, "low", "high", metric.counted, "compute", "time",
            "player"]


def point_rows(points: Sequence[Record], metric: Metric) -> list[Row]:
    """Cells of every point, in the order of stage, mode and compute."""
    order = list(STAGES)
    ordered = sorted(points, key=lambda p: (order.index(p["stage"]), p.get("sims", 0),
                                            p.get("flops") or 0, p.get("step", 0)))
    return [[STAGES[point["stage"]].name, str(point.get("step", "-")),
             metric.mode(point.get("sims", 0)), *strength_cells(point, metric),
             amount_text(point.get("flops"), FLOPS), amount_text(point.get("seconds"), TIMES),
             str(point["player"])] for point in ordered]


def baseline_rows(baselines: Sequence[Record], metric: Metric) -> list[Row]:
    """Cells of the baselines under the same head, strongest last; a note where not played."""
    rows = []
    for base in sorted(baselines, key=lambda b: b["value"] if finite(b["value"]) else -math.inf):
        note = "" if finite(base["value"]) else f" (not played: {note_of(base, metric)})"
        kind = "expert" if base.get("expert") else "baseline"
        rows.append([kind, "", "", *strength_cells(base, metric), "", "",
                     f"{base['player']}{note}"])
    return rows


def strength_cells(record: Record, metric: Metric) -> Row:
    """Strength, its interval, and how much it rests on."""
    values = [number(record.get(key), metric.form) for key in (metric.key, "low", "high")]
    return [*values, number(record.get(metric.counted))]


def more_tables(evaluation: Record) -> list[tuple[str, Row, list[Row], set[int]]]:
    """(title, head, rows, numeric columns) of what else the evaluation has: matches, test-time
    compute, answers to read."""
    matches = [[str(match["a"]), str(match["b"]),
                *(str(match.get(key, "-")) for key in ("games", "wins", "draws", "losses")),
                score_text(match), str(match.get("command", ""))]
               for match in evaluation.get("matches", [])]
    order = list(STAGES)

    samples, others = evaluation.get("samples") or [], evaluation.get("also") or []
    judged = any("best" in row for row in [*samples, *others])
    head = SAMPLE_HEAD + BEST_HEAD * judged
    shown = ("majority", "low", "high", "pass") + ("best", "best_low", "best_high") * judged

    def drawn(rows: list[Record]) -> list[Row]:
        return [[STAGES[row["stage"]].name, str(row["k"]),
                 *(number(row.get(key), ".1f") for key in shown)]
                for row in sorted(rows, key=lambda row: (order.index(row["stage"]), row["k"]))]

    also = [[task, *row] for task in dict.fromkeys(row["task"] for row in others)
            for row in drawn([row for row in others if row["task"] == task])]
    budgets = [[STAGES[row["stage"]].name, row["mode"], str(row["budget"]),
                *(number(row[key], ".1f") for key in ("tokens", "accuracy", "low", "high"))]
               for row in evaluation.get("budgets") or []]
    answers = [[STAGES[row["stage"]].name,
                *(str(row[key]) for key in ("prompt", "completion", "wanted"))]
               for row in evaluation.get("completions") or []]
    searched = [[STAGES[row["stage"]].name, str(row["sims"]),
                 *(number(row[key]) for key in ("elo", "low", "high", "games")), row["player"]]
                for row in evaluation.get("search") or []]
    tables = [("Ceilings", CEILING_HEAD, ceiling_rows(evaluation), {2, 3, 4, 5, 6, 7, 8, 9}),
              ("Matches", MATCH_HEAD, matches, {2, 3, 4, 5, 6}),
              ("Simulations", SEARCH_HEAD, searched, {1, 2, 3, 4, 5}),
              ("Test-time compute", head, drawn(samples), {*range(1, len(head))}),
              ("Budgets of thought", BUDGET_HEAD, budgets, {2, 3, 4, 5, 6}),
              ("Other tasks", ["task", *head], also, {*range(2, len(head) + 1)}),
              ("Some answers", ANSWER_HEAD, answers, set[int]())]
    return [table for table in tables if table[2]]


def ceiling_rows(evaluation: Record) -> list[Row]:
    """Cells of the fitted curves; behind them why one has no ceiling."""
    metric, keys = metric_of(evaluation), ("value", "low", "high")
    return [[STAGES[row["stage"]].name, metric.mode(row["sims"]), str(row["points"]),
             *(number(row.get(key), metric.form) for key in keys),
             *(number(row.get("ahead", {}).get(key), metric.form) for key in keys),
             number(row.get("misfit"), ".1f"), row["refused"]]
            for row in evaluation.get("curves") or []]


def matches_of(evaluation: Record) -> dict[str, list[str]]:
    """For each player the commands of the matches that its rating rests on."""
    found: dict[str, list[str]] = {}
    for match in evaluation.get("matches", []):
        for name in dict.fromkeys((match["a"], match["b"])) if match.get("command") else ():
            found.setdefault(name, []).append(match["command"])
    players = [*evaluation.get("points", []), *evaluation.get("baselines", [])]
    return {p["player"]: found[p["player"]] for p in players if p["player"] in found}


def number(value: Any, form: str = ".0f") -> str:
    return f"{value:{form}}" if finite(value) else "-"


def aligned(rows: Sequence[Row], right: set[int]) -> str:
    """Columns padded to their widest cell; those in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def pad(column: int, cell: str) -> str:
        return cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])

    return "\n".join("  ".join(pad(i, c) for i, c in enumerate(row)).rstrip() for row in rows)


def json_ready(value: Any) -> Any:
    """The value with NaN and infinities turned into None, as strict JSON wants."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
