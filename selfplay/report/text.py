"""What a verdict says: the sentences of the chart's head, the report and the terminal."""

from __future__ import annotations

import textwrap

from selfplay.common.words import counted
from selfplay.report.axis import FLOPS, TIMES, Metric, Record, amount_text, finite, shorten
from selfplay.report.style import STAGES
from selfplay.report.verdict import (
    POINTS,
    SIGNAL,
    Mode,
    Verdict,
    by_intervals,
    verdict_of,
    well_known,
)

MISSING = {
    POINTS: "No checkpoint has been rated",
    SIGNAL: "No question has been answered rightly yet, so there is nothing to compare",
}

SURELY = 0.975  #: of a bootstrap's draws


def headlines(verdict: Verdict) -> list[str]:
    """What is missing, each mode's verdict, the fitted ceilings, what search is worth, the value
    net, SFT's flat stretch, the expert."""
    return [*verdict_texts(verdict), *ceiling_texts(verdict), *search_texts(verdict),
            *value_texts(verdict), *flat_texts(verdict), *expert_texts(verdict)]


def verdict_texts(verdict: Verdict) -> list[str]:
    """What there would have to be, with the command that brings it; then each mode's verdict."""
    remedies = verdict.evaluation.get("remedies") or {}
    outlook, sentences = verdict.evaluation.get("outlook") or {}, []
    for what in verdict.missing:
        text = MISSING.get(what) or f"No {STAGES[what].name} checkpoint has been rated"
        text += f". {outlook[what]}" if outlook.get(what) else ""
        sentences.append(f"{text}: {remedies[what]}" if what in remedies else f"{text}.")
    return sentences + [verdict_text(mode, verdict.metric) for mode in verdict.modes]


def verdict_text(mode: Mode, metric: Metric) -> str:
    """One mode's sentence: both bests, the intervals, the direct match, the verdict."""
    name = metric.mode(mode.sims)
    name = name[0].upper() + name[1:]
    sft, rl, who, before = mode.sft, mode.rl, STAGES[mode.stage].name, STAGES[mode.first].name
    if not (sft and rl):
        stage, only, other = (before, sft, who) if sft else (who, rl, before)
        shown = strength_text(only or {}, metric)
        lacks = "" if mode.first == "student" else f"; no {other} point to compare with"
        return f"{name}: {stage}'s best {shown}{metric.unit}{lacks}."
    both = f"{strength_text(rl, metric)} against {strength_text(sft, metric)}{metric.unit}"
    decided = {
        "yes": f"{who} passed {before}'s best",
        "no": f"{who} stayed below {before}'s best",
        "undecided": f"undecided whether {who} passed {before}'s best",
        "missing": f"{who} and {before} cannot be compared",
    }[mode.passed]
    overlap = "overlap" if by_intervals(sft, rl) == "undecided" else "do not overlap"
    return f"{name}: {decided}: {both} (intervals {overlap}){match_text(mode, sft, rl)}."


def match_text(mode: Mode, sft: Record, rl: Record) -> str:
    match = mode.match
    if match is None or not finite(match["score"]):
        return ""
    bests = (match["rl"], match["sft"]) == (rl["player"], sft["player"])
    whose = "" if bests else " of checkpoints level with these"
    return f"; direct match{whose} {score_text(match)} of {counted(match['games'], 'game')}"


def score_text(match: Record) -> str:
    """`61.5% (54.6 to 68.0)`."""
    if not finite(match.get("score")):
        return "-"
    text = f"{100 * match['score']:.1f}%"
    if finite(match.get("low")) and finite(match.get("high")):
        text += f" ({100 * match['low']:.1f} to {100 * match['high']:.1f})"
    return text


def value_texts(verdict: Verdict) -> list[str]:
    """How well the value net knows results, and how much of that is learnt by heart."""
    rows = [r for r in verdict.evaluation.get("value_history") or [] if finite(r.get("value_mse"))]
    if not rows:
        return []
    row = min(rows, key=lambda row: row["value_mse"])
    return [f"Value net: mean squared error {row['value_mse']:.3f} on held-out positions, "
            f"{row['train_mse']:.3f} on those learnt from (results in -1 to 1)."]


def ceiling_texts(verdict: Verdict) -> list[str]:
    """The ceilings of the fitted curves (``ceilings.ceilings``), then why others have none."""
    rows, metric = verdict.evaluation.get("curves") or [], verdict.metric
    sentences = []
    for row in rows:
        if row["refused"]:
            continue
        text = (f"{STAGES[row['stage']].name}'s ceiling, {metric.mode(row['sims'])}: "
                f"{figure_text(row, metric)}{metric.unit}, by a curve through {row['points']} "
                "points")
        text += "".join(f"; {passing_text(STAGES[other['stage']].name, other['passes'])}"
                        for other in rows if other["sims"] == row["sims"]
                        and (other.get("passes") or {}).get("stage") == row["stage"])
        ahead = row["ahead"]
        sentences.append(f"{text}; predicted for {ahead['times']}× the compute: "
                         f"{figure_text(ahead, metric)}.")
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row["refused"]:
            name = f"{STAGES[row['stage']].name}, {metric.mode_short(row['sims'])}"
            refused.setdefault(row["refused"], []).append(name)
    for row in rows:
        if gain := row.get("gain"):
            sentences.append(
                f"{STAGES[row['stage']].name}, {metric.mode(row['sims'])}: on a straight line "
                f"{gain['times']}× the compute brings {figure_text(gain, metric)}{metric.unit}.")
    if refused:
        whose = "; ".join(f"{' and '.join(names)}: {why}" for why, names in refused.items())
        sentences.append(f"No ceiling can be told of {whose}.")
    return sentences


def figure_text(row: Record, metric: Metric) -> str:
    """`1,262 (1,214 to 1,318)`."""
    value, low, high = (f"{row[key]:,{metric.form}}" for key in ("value", "low", "high"))
    return f"{value}{metric.sign} ({low} to {high})"


def passing_text(who: str, passes: Record) -> str:
    """When, or how surely, a stage passes the ceiling of the one that it follows."""
    if passes["share"] >= SURELY:
        low, high = (amount_text(passes[end], TIMES) for end in ("low", "high"))
        return f"{who} passes it after {amount_text(passes['seconds'], TIMES)} ({low} to {high})"
    if passes["share"] <= 1 - SURELY:
        return f"{who} has not reached it"
    return f"{who} is above it at its last point in {passes['share']:.0%} of the draws"


def compute_texts(evaluation: Record) -> list[str]:
    """What more compute brings, in training and on a move."""
    verdict = verdict_of(evaluation)
    return [*ceiling_texts(verdict), *search_texts(verdict)]


def search_texts(verdict: Verdict) -> list[str]:
    """What more simulations bring, or what else the evaluation "spends" on a move, and what
    training is worth beside them."""
    found, unit = verdict.evaluation.get("exchange") or {}, verdict.metric.unit
    spends = verdict.evaluation.get("spends", "simulations")
    if not found:
        return []
    times = f"{found['times']}×"
    gains = [f"{STAGES[stage].name}'s net {figure_text(gain, verdict.metric)}{unit}"
             for stage, gain in found["gains"].items()]
    sentences = [f"Test-time compute: {times} the {spends} bring {', '.join(gains)}."]
    if by := found.get("training"):
        text = (f"Training: {times} the compute of RL brought {figure_text(by, verdict.metric)}"
                f"{unit} at {verdict.metric.mode(by['sims'])}")
        worth = found.get("worth")
        sentences.append(f"{text}, as {worth['value']:.3g}× the {spends} do "
                         f"({worth['low']:.3g} to {worth['high']:.3g})." if worth else
                         f"{text}; how many {spends} that is worth is not known yet.")
    return sentences


def flat_texts(verdict: Verdict) -> list[str]:
    """Where SFT stopped gaining, by strength for each mode and by its held-out curve."""
    sentences, metric, who = [], verdict.metric, STAGES[verdict.first].name
    for mode in verdict.modes:
        if not (mode.sft and mode.flat_from):
            continue
        since, name = mode.flat_from.get("flops"), metric.mode(mode.sims)
        if since != mode.sft.get("flops"):
            after = amount_text(since, FLOPS)
            sentences.append(f"{who}, {name}: no measurable gain in {metric.name} after {after}.")
        elif not mode.flat:
            sentences.append(
                f"{who}, {name}: no flat stretch measured; its best may be no ceiling.")
    if verdict.stop:
        since = amount_text(verdict.stop.get("flops"), FLOPS)
        sentences.append(f"{who}'s held-out policy loss stopped improving at {since}.")
    elif verdict.evaluation.get("sft_flat") and verdict.evaluation.get("recipe") != "rl":
        sentences.append(f"{who}'s held-out policy loss was flat at its lowest learning rate.")
    return sentences


def expert_texts(verdict: Verdict) -> list[str]:
    """Where each expert stands against the best of each stage and mode."""
    sentences, metric = [], verdict.metric
    for expert in (b for b in verdict.baselines if b.get("expert")):
        who = metric.expert.format(expert["player"])
        who = who[0].upper() + who[1:]
        if not finite(expert["value"]):
            sentences.append(f"{who} was not played: {note_of(expert, metric)}.")
            continue
        relations = [
            f"{STAGES[stage].name} {metric.mode(mode.sims)} {relation(point, expert, metric)}"
            for mode in verdict.modes
            for point, stage in ((mode.sft, mode.first), (mode.rl, mode.stage)) if point
        ]
        text = f"{who} stands at {strength_text(expert, metric)}{metric.unit}"
        sentences.append(f"{text}: {', '.join(relations)}." if relations else f"{text}.")
    return sentences


def relation(point: Record, expert: Record, metric: Metric) -> str:
    found = by_intervals(expert, point)
    if found != "undecided":
        return "is above it" if found == "yes" else "is below it"
    if not well_known(expert, point, metric):
        return f"cannot be told from it (too few {metric.counted})"
    return "is level with it (intervals overlap)"


def header_lines(verdict: Verdict) -> list[tuple[str, bool]]:
    """(text, whether it is a verdict) lines of the chart: verdicts, rules, games, hardware."""
    evaluation, metric = verdict.evaluation, verdict.metric
    count, rules = metric.total(evaluation), evaluation.get("rules")
    longest = max([p["seconds"] for p in verdict.points if finite(p.get("seconds"))], default=0)
    facts = [
        f"{count:,} {metric.counted}" if count else "",
        f"{amount_text(longest, TIMES)} of training" if longest else "",
        ", ".join(filter(None, [f"{metric.name} with 95% intervals", anchor_text(verdict)])),
        shorten(evaluation.get("hardware") or "", 90),
    ]
    plain = [f"{metric.about}: {shorten(rules, 280)}" if rules else "",
             "  ·  ".join(filter(None, facts))]
    plain += [f"{shorten(b['player'], 40)} not played ({shorten(note_of(b, metric), 80)})"
              for b in verdict.baselines if not finite(b["value"])]
    return [(line, bold) for texts, bold, most in ((verdict_texts(verdict), True, None),
                                                   (plain, False, 2))
            for text in texts for line in textwrap.wrap(text, 148)[:most]]


# ------------------------------------------------------------------------------ names and numbers


def note_of(baseline: Record, metric: Metric) -> str:
    """Why a baseline was not played."""
    return str(baseline.get("note", f"no {metric.name}"))


def anchor_text(verdict: Verdict) -> str:
    """`random = 0`; empty where nothing is anchored."""
    return verdict.metric.anchored.format(verdict.evaluation.get("anchor", "random"))


def strength_text(record: Record, metric: Metric) -> str:
    """`812 ± 40`; `812 (780 to 900)` where the interval is lopsided; `812` where it is unknown."""
    value, low, high = record.get(metric.key), record.get("low"), record.get("high")
    form = metric.form
    if not finite(value):
        return "not measured"
    shown = f"{value:{form}}{metric.sign}"
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
