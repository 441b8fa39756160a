"""What a run showed: chart.png, report.html and summary.json from one evaluation.

The last stop of the flow: arena and loop measure, elo rates, this file judges and tells. An
evaluation is a plain dict (the JSON of runs/NAME/evaluation.json):

    game, rules, anchor, hardware, run, seed, commands
    measure      "elo", or "accuracy" (in percent, of a language model): see measure.py. With it
                 `elo` and `games` below are `accuracy` and `questions`, there are no matches,
                 and `sims` is the number of answers whose majority counts (0: one answer)
    points       player, stage (of measure.STAGES), sims (0 = raw policy), step, flops,
                 seconds, positions, elo, low, high, games; flops and seconds cumulate over stages;
                 look: measured in passing, drawn but no stage's best where others were measured
    baselines    player, elo (None where it was not played, with a note), low, high, games, expert
    matches      a, b, games, wins, draws, losses, score (of a), low, high, command, folder
    sft_history  step, flops, seconds, top1, top5, policy_loss, value_mse
    rl_history   step, flops, seconds, policy_loss, value_loss; optional expert_top1
    value_history   step, flops, seconds, value_mse, train_mse, value_accuracy
    samples      optional: stage, k, majority, low, high, pass: accuracy against answers drawn
    completions  optional: stage, prompt, completion, wanted: some answers to read
    pictures     optional: title, file of a PNG to show as well
    config       optional: anything JSON, shown as it is

Lists may be missing or empty. Intervals are 95%; Elo is anchored at `anchor` = 0.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from selfplay.common.files import write_atomic
from selfplay.report import chart
from selfplay.report.axis import FLOPS, TIMES, Record, amount_text, finite
from selfplay.report.text import counted, headlines, score_text
from selfplay.report.verdict import NAMES, STAGES, Metric, judge, levels, metric_of


def write_report(folder: Path, evaluation: Record) -> None:
    """Write chart.png, report.html and summary.json into `folder` (made if absent).

    Raises UserError where a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = chart.draw(evaluation)
    summary = json.dumps(plain(summarise(evaluation)), indent=2, allow_nan=False)
    write_atomic(folder / "chart.png", picture)
    write_atomic(folder / "report.html", page(evaluation, picture).encode())
    write_atomic(folder / "summary.json", f"{summary}\n".encode())


def summarise(evaluation: Record) -> Record:
    """The headline numbers, as summary.json holds them."""
    about = ("game", "rules", "anchor", "hardware", "run", "seed")
    measure = metric_of(evaluation)
    return {
        **{key: evaluation.get(key) for key in about},
        "measure": measure.key,
        measure.counted: counted(evaluation),
        "modes": {mode["mode"]: mode for mode in judge(evaluation)},
        "baselines": evaluation.get("baselines", []),
        "samples": evaluation.get("samples", []),
        "headlines": headlines(evaluation),
    }


def text_summary(evaluation: Record) -> str:
    """The report for a terminal: headlines, then one aligned row a player."""
    title = "  ".join(str(evaluation[key]) for key in ("game", "rules") if evaluation.get(key))
    body = point_rows(evaluation) + baseline_rows(evaluation)
    table = aligned([point_head(metric_of(evaluation)), *body], NUMERIC)
    return "\n".join([title, "", *headlines(evaluation), "", table])


# ------------------------------------------------------------------------------------ table cells

NUMERIC = {1, 3, 4, 5, 6, 7, 8}
MATCH_HEAD = ["A", "B", "games", "A wins", "draws", "losses", "A's score (95%)", "command"]


def point_head(measure: Metric) -> list[str]:
    name = f"{measure.name} {measure.sign}".strip()
    return ["stage", "step", "mode", name, "low", "high", measure.counted, "compute", "time",
            "player"]


def point_rows(evaluation: Record) -> list[list[str]]:
    """Cells of every point, in the order of stage, mode and compute."""
    measure = metric_of(evaluation)
    points = sorted(
        evaluation.get("points", []),
        key=lambda p: (
            STAGES.index(p["stage"]),
            p.get("sims", 0),
            p.get("flops") or 0,
            p.get("step", 0),
        ),
    )
    return [
        [
            NAMES[point["stage"]],
            str(point.get("step", "-")),
            measure.mode(point.get("sims", 0)),
            *strength_cells(point, measure),
            amount_text(point.get("flops"), FLOPS),
            amount_text(point.get("seconds"), TIMES),
            str(point["player"]),
        ]
        for point in points
    ]


def baseline_rows(evaluation: Record) -> list[list[str]]:
    """Cells of the baselines under the same head, strongest last; a note where not played."""
    rows, measure = [], metric_of(evaluation)
    for base in sorted(levels(evaluation), key=strength):
        reason = base.get("note", f"no {measure.name}")
        note = "" if finite(base["value"]) else f" (not played: {reason})"
        cells = strength_cells(base, measure)
        kind = "expert" if base.get("expert") else "baseline"
        rows.append([kind, "", "", *cells, "", "", f"{base['player']}{note}"])
    return rows


def strength(record: Record) -> float:
    """What to sort by; what was not measured comes first."""
    return record["value"] if finite(record["value"]) else -math.inf


def strength_cells(record: Record, measure: Metric) -> list[str]:
    """Strength, its interval, and how much it rests on."""
    values = [number(record.get(key), measure.form) for key in (measure.key, "low", "high")]
    return [*values, number(record.get(measure.counted))]


def match_rows(evaluation: Record) -> list[list[str]]:
    """Cells of every match, as it was played (the score is A's)."""
    return [
        [
            str(match["a"]),
            str(match["b"]),
            *(str(match.get(key, "-")) for key in ("games", "wins", "draws", "losses")),
            score_text(match),
            str(match.get("command", "")),
        ]
        for match in evaluation.get("matches", [])
    ]


def number(value: Any, form: str = ".0f") -> str:
    return f"{value:{form}}" if finite(value) else "-"


def aligned(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns padded to their widest cell; those in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def pad(column: int, cell: str) -> str:
        return cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])

    return "\n".join("  ".join(pad(i, c) for i, c in enumerate(row)).rstrip() for row in rows)


def plain(value: Any) -> Any:
    """The value with NaN and infinities turned into None, as strict JSON wants."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------------------------------- HTML

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --back: #fff; --soft: #666; --line: #ddd;
  --box: #f5f5f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --back: #16181b; --soft: #9aa0a6;
  --line: #34383d; --box: #202327; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.about { color: var(--soft); margin: .1rem 0; } ul.headlines { padding-left: 1.2rem; }
img { width: 100%; height: auto; background: #fff; border-radius: 6px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: .82rem/1.5 ui-monospace, monospace; } pre { background: var(--box);
  padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; }
details { margin: .3rem 0; } summary { cursor: pointer; }
"""


def page(evaluation: Record, picture: bytes) -> str:
    """report.html: one self-contained file, everything that came from outside escaped."""
    game = escape(str(evaluation.get("game", "")))
    image = base64.b64encode(picture).decode()
    lines = [evaluation.get("rules"), evaluation.get("hardware")]
    about = "".join(f'<p class="about">{escape(str(line))}</p>' for line in lines if line)
    items = "".join(f"<li>{escape(text)}</li>" for text in headlines(evaluation))
    players = point_rows(evaluation) + baseline_rows(evaluation)
    measure = metric_of(evaluation)
    parts = [
        f"<h1>{measure.title} against training compute: {game}</h1>{about}",
        f'<ul class="headlines">{items}</ul>',
        f'<img alt="{measure.name} against training compute, SFT and RL" '
        f'src="data:image/png;base64,{image}">',
        *(image_of(picture) for picture in evaluation.get("pictures") or []),
        "<h2>Every point</h2>",
        f"<p>{escape(how_rated(evaluation))}</p>",
        html_table(point_head(measure), players, NUMERIC),
        *(answer_parts(evaluation) if measure.key == "accuracy" else [
            "<h2>Matches</h2>",
            html_table(MATCH_HEAD, match_rows(evaluation), {2, 3, 4, 5, 6})]),
        "<h2>How to repeat it</h2>",
        "<p>From the folder it was started in; where the run's folder is there, its command "
        "continues it.</p>",
        html_commands(evaluation),
        "<h2>Configuration</h2>",
        f"<pre>{escape(config_text(evaluation))}</pre>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>selfplay: {game}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def image_of(picture: Record) -> str:
    data = base64.b64encode(Path(picture["file"]).read_bytes()).decode()
    title = escape(str(picture["title"]))
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'


def how_rated(evaluation: Record) -> str:
    """What the numbers mean and what they do not."""
    if metric_of(evaluation).key == "accuracy":
        return (
            "Accuracy is the share of held-out questions answered rightly, one answer drawn at the "
            "run's temperature unless the mode says otherwise; low and high bound its 95% interval "
            "over questions (Wilson). The questions are the same for all stages, so that their "
            "differences are known better than the intervals say. Compute is an estimate: 2 "
            "operations a parameter and token read, 6 a token learnt; compute and time cumulate "
            "over the stages. A stage's best is the point of the highest lower end, hence a "
            "little flattered by luck."
        )
    return (
        f"Elo is anchored at {evaluation.get('anchor', 'random')} = 0; low and high bound the 95% "
        "interval of the difference to the mean of this run's nets, which says how they compare; "
        "how far all of them are above the anchor is known as well as the anchor's own interval "
        "says. Compute and time are cumulative training cost, SFT included where RL continued "
        "from it. A stage's best is the point of the highest lower end, hence a little "
        "flattered by luck; the direct match is the one with most games, whoever won it. Its "
        "games count in the Elo as well, so the two looks are not independent."
    )


SAMPLE_HEAD = ["stage", "answers drawn", "majority (%)", "low", "high", "pass@k (%)"]
ANSWER_HEAD = ["stage", "question", "completion", "wanted"]
ANSWER_KEYS = ("prompt", "completion", "wanted")


def answer_parts(evaluation: Record) -> list[str]:
    """What report.html has of language models: test-time compute, and answers to read."""
    rows = sorted(evaluation.get("samples") or [],
                  key=lambda row: (STAGES.index(row["stage"]), row["k"]))
    samples = [[NAMES[row["stage"]], str(row["k"]),
                *(number(row.get(key), ".1f") for key in ("majority", "low", "high", "pass"))]
               for row in rows]
    answers = [[NAMES[row["stage"]], *(str(row[key]) for key in ANSWER_KEYS)]
               for row in evaluation.get("completions") or []]
    return ["<h2>Test-time compute</h2>", html_table(SAMPLE_HEAD, samples, {1, 2, 3, 4, 5}),
            "<h2>Some answers</h2>", html_table(ANSWER_HEAD, answers, set())]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[int]) -> str:
    """A table, or a line saying that there is nothing to show."""
    if not rows:
        return "<p>None.</p>"

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if index in numeric else "" for index in range(len(cells))]
        pairs = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(c)}</{tag}>' for kind, c in pairs)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>\n{row(head, "th")}\n{body}\n</table></div>'


def html_commands(evaluation: Record) -> str:
    """The run's commands, then, folded, for each player the matches that its Elo rests on."""
    commands = [str(command) for command in evaluation.get("commands", [])]
    parts = [f"<pre>{escape(chr(10).join(commands))}</pre>"] if commands else []
    for player in [*evaluation.get("points", []), *evaluation.get("baselines", [])]:
        name = player["player"]
        played = [m for m in evaluation.get("matches", []) if name in (m["a"], m["b"])]
        lines = "\n".join(str(m["command"]) for m in played if m.get("command"))
        if lines:
            title = f"<code>{escape(str(name))}</code>"
            parts.append(f"<details><summary>{title}</summary><pre>{escape(lines)}</pre></details>")
    return "\n".join(parts) or "<p>No commands were recorded.</p>"


def config_text(evaluation: Record) -> str:
    """What was run, as indented JSON."""
    keys = ("game", "rules", "anchor", "run", "seed", "hardware", "config")
    shown = {key: evaluation[key] for key in keys if key in evaluation}
    return json.dumps(plain(shown), indent=2, ensure_ascii=False)
