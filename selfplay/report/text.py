"""What a verdict says: the sentences of the chart's head, the report and the terminal.

Pure functions of an evaluation (report.py describes it) and of what verdict.py decides of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from selfplay.report.axis import FLOPS, TIMES, Record, amount_text, finite, shorten
from selfplay.report.verdict import (
    NAMES,
    Metric,
    by_intervals,
    held_out_stop,
    judge,
    levels,
    metric_of,
    rated,
    well_known,
)


def headlines(evaluation: Record) -> list[str]:
    """Sentences computed from the data: each mode's verdict, SFT's flat stretch, the expert."""
    found, measure = judge(evaluation), metric_of(evaluation)
    sentences = [verdict_text(mode, measure) for mode in found]
    sentences = sentences or ["No checkpoint has been rated."]
    sentences += value_texts(evaluation) + flat_texts(evaluation, found)
    return sentences + expert_texts(evaluation, found)


def verdict_text(mode: Record, measure: Metric) -> str:
    """One mode's sentence: both bests, the intervals, the direct match, the verdict."""
    name = measure.mode(mode["sims"])
    name = name[0].upper() + name[1:]
    sft, rl, who, before = mode["sft"], mode["rl"], NAMES[mode["stage"]], NAMES[mode["first"]]
    if not (sft and rl):
        stage, only = (before, sft) if sft else (who, rl)
        told = strength_text(only, measure)
        other = who if sft else before
        return f"{name}: {stage}'s best {told}{measure.unit}; no {other} point to compare with."
    verdict = {
        "yes": f"{who} passed {before}'s best",
        "no": f"{who} stayed below {before}'s best",
        "undecided": f"undecided whether {who} passed {before}'s best",
    }[mode["passed"]]
    overlap = "overlap" if by_intervals(sft, rl) == "undecided" else "do not overlap"
    both = f"{strength_text(rl, measure)} against {strength_text(sft, measure)}{measure.unit}"
    return f"{name}: {verdict}: {both} (intervals {overlap}){match_text(mode)}."


def match_text(mode: Record) -> str:
    match = mode["match"]
    if match is None or not finite(match["score"]):
        return ""
    bests = (mode["rl"]["player"], mode["sft"]["player"])
    whose = "" if (match["rl"], match["sft"]) == bests else " of checkpoints level with these"
    return f"; direct match{whose} {score_text(match)} of {match['games']} games"


def score_text(match: Record) -> str:
    """`61.5% (54.6 to 68.0)`."""
    if not finite(match.get("score")):
        return "-"
    text = f"{100 * match['score']:.1f}%"
    if finite(match.get("low")) and finite(match.get("high")):
        text += f" ({100 * match['low']:.1f} to {100 * match['high']:.1f})"
    return text


def value_texts(evaluation: Record) -> list[str]:
    """How well the value net knows results, and how much of that is learnt by heart."""
    rows = [r for r in evaluation.get("value_history") or [] if finite(r.get("value_mse"))]
    if not rows:
        return []
    row = min(rows, key=lambda row: row["value_mse"])
    return [f"Value net: mean squared error {row['value_mse']:.3f} on held-out positions, "
            f"{row['train_mse']:.3f} on those learnt from (results in -1 to 1)."]


def flat_texts(evaluation: Record, found: Sequence[Record]) -> list[str]:
    """Where SFT stopped gaining, by strength for each mode and by its held-out curve."""
    stop, sentences, measure = held_out_stop(evaluation), [], metric_of(evaluation)
    who = NAMES[found[0]["first"]] if found else "SFT"
    for mode in (mode for mode in found if mode["sft"]):
        since, name = mode["sft_flat_from_flops"], measure.mode(mode["sims"])
        if since != mode["sft"]["flops"]:
            since = amount_text(since, FLOPS)
            sentences.append(f"{who}, {name}: no measurable gain in {measure.name} after {since}.")
        elif not mode["sft_flat"]:
            sentences.append(
                f"{who}, {name}: no flat stretch measured; its best may be no ceiling.")
    if stop:
        since = amount_text(stop.get("flops"), FLOPS)
        sentences.append(f"{who}'s held-out policy loss stopped improving at {since}.")
    elif evaluation.get("sft_flat"):
        sentences.append(f"{who}'s held-out policy loss was flat at its lowest learning rate.")
    return sentences


def expert_texts(evaluation: Record, found: Sequence[Record]) -> list[str]:
    """Where each expert stands against the best of each stage and mode."""
    sentences, measure = [], metric_of(evaluation)
    for expert in (b for b in levels(evaluation) if b.get("expert")):
        who = measure.expert.format(expert["player"])
        who = who[0].upper() + who[1:]
        if not finite(expert["value"]):
            note = expert.get("note", f"no {measure.name}")
            sentences.append(f"{who} was not played: {note}.")
            continue
        relations = [
            f"{NAMES[stage]} {measure.mode(mode['sims'])} {relation(mode[key], expert, measure)}"
            for mode in found
            for key, stage in (("sft", mode["first"]), ("rl", mode["stage"]))
            if mode[key]
        ]
        stands = f"stands at {strength_text(expert, measure)}{measure.unit}"
        text = f"{who} {stands}"
        sentences.append(f"{text}: {', '.join(relations)}." if relations else f"{text}.")
    return sentences


def relation(point: Record, expert: Record, measure: Metric) -> str:
    found = by_intervals(expert, point)
    if found != "undecided":
        return "is above it" if found == "yes" else "is below it"
    if not well_known(expert, point, measure):
        return f"cannot be told from it (too few {measure.counted})"
    return "is level with it (intervals overlap)"


def header_lines(evaluation: Record) -> list[tuple[str, bool]]:
    """(text, whether it is a verdict) lines of the chart: verdicts, rules, games, hardware."""
    measure, count = metric_of(evaluation), counted(evaluation)
    longest = max([p["seconds"] for p in rated(evaluation) if finite(p.get("seconds"))], default=0)
    facts = [
        f"{count:,} {measure.counted}" if count else "",
        f"{amount_text(longest, TIMES)} of training" if longest else "",
        f"{measure.name} with 95% intervals{anchor_text(evaluation, ', ')}",
        shorten(evaluation.get("hardware") or "", 90),
    ]
    rules = evaluation.get("rules")
    plain = [f"{measure.about}: {shorten(rules, 280)}" if rules else ""]
    plain.append("  ·  ".join(fact for fact in facts if fact))
    absent = [
        f"{shorten(b['player'], 40)} not played "
        f"({shorten(b.get('note', f'no {measure.name}'), 80)})"
        for b in levels(evaluation)
        if not finite(b["value"])
    ]
    plain += absent
    wrapped = [line for text in plain if text for line in textwrap.wrap(text, 148)[:2]]
    verdicts = [verdict_text(mode, measure) for mode in judge(evaluation)]
    bold = [line for text in verdicts for line in textwrap.wrap(text, 148)]
    return [(line, True) for line in bold] + [(line, False) for line in wrapped]


# ------------------------------------------------------------------------------ names and numbers


def counted(evaluation: Record) -> int:
    """What all of it rests on: games, or the questions that all were asked."""
    if metric_of(evaluation).counted == "games":
        return sum(match.get("games", 0) for match in evaluation.get("matches", []))
    return max([p.get("questions") or 0 for p in rated(evaluation)], default=0)


def anchor_text(evaluation: Record, before: str = "") -> str:
    """`random = 0`, behind ``before``; empty where nothing is anchored."""
    anchored = metric_of(evaluation).zero
    return f"{before}{evaluation.get('anchor', 'random')} = 0" if anchored else ""


def strength_text(record: Record, measure: Metric) -> str:
    """`812 ± 40`; `812 (780 to 900)` where the interval is lopsided; `812` where it is unknown."""
    value, low, high = record.get(measure.key), record.get("low"), record.get("high")
    form, shown = measure.form, f"{value:{measure.form}}{measure.sign}" if finite(value) else ""
    if not finite(value):
        return "not measured"
    if not finite(low) and not finite(high):
        return shown
    if not finite(low):
        return f"{shown} (up to {high:{form}})"
    if not finite(high):
        return f"{shown} ({low:{form}} or more)"
    down, up = value - low, high - value
    if abs(up - down) > 0.1 * (up + down) + 10.0 ** -int(form[1]):  # more than rounding
        return f"{shown} ({low:{form}} to {high:{form}})"
    return f"{shown} ± {(down + up) / 2:{form}}"
