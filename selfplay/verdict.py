"""The judgement: did RL pass the SFT ceiling, and the sentences that say so.

Pure functions of an evaluation, the plain dict that report.py describes. chart.py and report.py
show what is decided here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from selfplay.compute import FLOPS, TIMES, Record, amount_text, finite

STAGES = ("sft", "rl", "value")  # in the order of training
NAMES = {"sft": "SFT", "rl": "RL", "value": "AlphaGo"}
KEPT = ("player", "step", "flops", "seconds", "positions", "elo", "low", "high", "games")
LEVEL = 150  # Elo: a wider interval of the difference says nothing about who is level
PATIENT = 0.8  # of the steps: where the held-out curve must have had its best to count as flat


class Ceiling(NamedTuple):
    """SFT's best point of one mode, and whether the curve had stopped rising."""

    sims: int
    best: Record
    start: Record  # where the flat stretch begins; the best point itself where none was seen
    flat: bool


def judge(evaluation: Record) -> list[Record]:
    """For each mode (raw policy, each number of simulations): did RL pass SFT's best?

    What follows SFT is the stage `later`: RL, or in a mode that the search with the value net has,
    that one; its figures stand under "rl" all the same. Both stages' best points are those of
    ``best``. `passed` is "yes", "no" or "undecided" and rests on two looks: do the 95% Elo
    intervals overlap, and does the 95% interval of the direct match exclude 50%. One that is
    undecided leaves the other to decide; a contradiction is undecided. `decided_by` says which.
    """
    found = []
    for sims in modes(rated(evaluation)):
        stage = later(evaluation, sims)
        sft, rl = best(evaluation, "sft", sims), best(evaluation, stage, sims)
        match = deciding_match(evaluation, sft, rl, sims) if sft and rl else None
        passed, decided_by = "undecided", "nothing to compare"
        if sft and rl:
            passed, decided_by = combine(by_match(match), by_intervals(sft, rl))
        ceiling = ceiling_of(evaluation, sims)
        found.append(
            {
                "mode": f"search@{sims}" if sims else "raw",
                "sims": sims,
                "stage": stage,
                "sft": keep(sft),
                "rl": keep(rl),
                "sft_flat": ceiling.flat if ceiling else None,
                "sft_flat_from_flops": ceiling.start.get("flops") if ceiling else None,
                "passed": passed,
                "decided_by": decided_by,
                "match": match,
            }
        )
    return found


def later(evaluation: Record, sims: int) -> str:
    """The stage whose points are to pass SFT's in this mode: the last that has any."""
    found = {p["stage"] for p in rated(evaluation) if p.get("sims", 0) == sims}
    return "value" if "value" in found else "rl"


def modes(points: Sequence[Record]) -> list[int]:
    """The numbers of simulations that occur, raw (0) first."""
    return sorted({int(point.get("sims", 0)) for point in points})


def rated(evaluation: Record) -> list[Record]:
    """The points that have an Elo."""
    return [point for point in evaluation.get("points", []) if finite(point.get("elo"))]


def best(evaluation: Record, stage: str, sims: int) -> Record | None:
    """The stage's point of this mode whose Elo is surely the highest: by the lower end of its
    interval, as a point of few games is easily lucky; the earlier one of two equals."""
    points = [p for p in rated(evaluation) if p["stage"] == stage and p.get("sims", 0) == sims]
    return max(points, key=lambda p: (p["low"] if finite(p.get("low")) else -math.inf, p["elo"]),
               default=None)


def keep(point: Record | None) -> Record | None:
    return {key: point.get(key) for key in KEPT} if point else None


def by_intervals(sft: Record, rl: Record) -> str:
    """ "yes" or "no" where the two Elo intervals do not overlap."""
    if finite(rl.get("low")) and finite(sft.get("high")) and rl["low"] > sft["high"]:
        return "yes"
    if finite(rl.get("high")) and finite(sft.get("low")) and rl["high"] < sft["low"]:
        return "no"
    return "undecided"


def by_match(match: Record | None) -> str:
    """ "yes" or "no" where the 95% interval of RL's score excludes 50%."""
    if match is None or not (finite(match.get("low")) and finite(match.get("high"))):
        return "undecided"
    return "yes" if match["low"] > 0.5 else "no" if match["high"] < 0.5 else "undecided"


def combine(match: str, intervals: str) -> tuple[str, str]:
    """(passed, decided_by) of the two looks."""
    if match == intervals:
        both = "neither" if match == "undecided" else "direct match and Elo intervals"
        return match, both
    if "undecided" not in (match, intervals):
        return "undecided", "direct match and Elo intervals contradict each other"
    return (intervals, "Elo intervals") if match == "undecided" else (match, "direct match")


def deciding_match(evaluation: Record, sft: Record, rl: Record, sims: int) -> Record | None:
    """The direct match of the two stages in this mode, seen from RL's side; None without one.

    Of the matches between checkpoints that are not significantly below their stage's best, the
    one with most games (of equals, of the later RL, then SFT checkpoint). The choice must not look
    at who won: picking the best by Elo would pick the luckiest, and its own match with it.
    """
    sides: dict[str, dict[str, Record]] = {"sft": {}, "rl": {}}
    for point in rated(evaluation):
        side, top = ("sft", sft) if point["stage"] == "sft" else ("rl", rl)
        mine = point.get("sims", 0) == sims and point["stage"] in ("sft", later(evaluation, sims))
        if mine and not significantly_below(point, top):
            sides[side][point["player"]] = point
    found = []
    for match in evaluation.get("matches", []):
        for side, other in (("a", "b"), ("b", "a")):
            rl_point, sft_point = sides["rl"].get(match[side]), sides["sft"].get(match[other])
            if rl_point and sft_point:
                rank = (match.get("games", 0), rl_point.get("step", 0), sft_point.get("step", 0))
                found.append((rank, seen_by(match, side)))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def seen_by(match: Record, side: str) -> Record:
    """The match as RL's: score and interval of RL, which sat at `side`."""
    turned = side == "b"
    score, low, high = match.get("score"), match.get("low"), match.get("high")
    if turned:
        score, low, high = (1 - x if finite(x) else None for x in (score, high, low))
    return {
        "rl": match[side],
        "sft": match["a" if turned else "b"],
        "games": match.get("games", 0),
        "wins": match.get("losses" if turned else "wins"),
        "draws": match.get("draws"),
        "losses": match.get("wins" if turned else "losses"),
        "score": score,
        "low": low,
        "high": high,
        "command": match.get("command"),
    }


def ceilings(evaluation: Record) -> list[Ceiling]:
    """SFT's best of each mode that has SFT points."""
    found = [ceiling_of(evaluation, sims) for sims in modes(rated(evaluation))]
    return [ceiling for ceiling in found if ceiling]


def ceiling_of(evaluation: Record, sims: int) -> Ceiling | None:
    """SFT's best, and whether the curve was flat: a ceiling, not just the last point measured.

    Flat by Elo: a point at no more than half of SFT's compute is level with the best, so the second
    half of the training brought nothing that could be measured. Flat by the held-out
    curve: it stopped improving (see held_out_stop), and the points reach as far; or the stage has
    ended by itself, as even its lowest learning rate gained no more.
    """
    top = best(evaluation, "sft", sims)
    if top is None:
        return None
    series = [p for p in rated(evaluation) if p["stage"] == "sft" and p.get("sims", 0) == sims]
    key = "flops" if all(finite(p.get("flops")) for p in series) else "step"
    series.sort(key=lambda p: p.get(key) or 0)
    half = (series[-1].get(key) or 0) / 2
    for point in (p for p in series if 0 < (p.get(key) or 0) <= half):
        if well_known(point, top) and not significantly_below(point, top):
            return Ceiling(sims, top, point, True)
    stop = held_out_stop(evaluation)
    reached = stop is not None and series[-1].get("step", 0) >= PATIENT * stop["step"]
    return Ceiling(sims, top, top, reached or bool(evaluation.get("sft_flat")))


def held_out_stop(evaluation: Record) -> Record | None:
    """The row of SFT's lowest held-out policy loss, if a fifth of the steps followed in vain."""
    rows = [r for r in evaluation.get("sft_history") or [] if finite(r.get("policy_loss"))]
    if not rows:
        return None
    lowest = min(rows, key=lambda row: row["policy_loss"])
    return lowest if lowest["step"] <= PATIENT * max(row["step"] for row in rows) else None


def significantly_below(point: Record, top: Record) -> bool:
    """Is the gap wider than both half-widths in quadrature? False where one is unknown."""
    if not (finite(point.get("high")) and finite(top.get("low"))):
        return False
    up, down = point["high"] - point["elo"], top["elo"] - top["low"]
    return top["elo"] - point["elo"] > math.hypot(up, down)


def well_known(a: Record, b: Record) -> bool:
    """Do both have games enough to be called level where no difference is seen? See LEVEL."""
    widths = [record["high"] - record["low"] for record in (a, b)
              if finite(record.get("high")) and finite(record.get("low"))]
    return len(widths) == 2 and math.hypot(*widths) / 2 <= LEVEL


# ----------------------------------------------------------------------------------------- words


def headlines(evaluation: Record) -> list[str]:
    """Sentences computed from the data: each mode's verdict, SFT's flat stretch, the expert."""
    found = judge(evaluation)
    sentences = [verdict_text(mode) for mode in found] or ["No checkpoint has been rated."]
    sentences += value_texts(evaluation) + flat_texts(evaluation, found)
    return sentences + expert_texts(evaluation, found)


def verdict_text(mode: Record) -> str:
    """One mode's sentence: both bests, the intervals, the direct match, the verdict."""
    name = mode_text(mode["sims"])
    name = name[0].upper() + name[1:]
    sft, rl, who = mode["sft"], mode["rl"], NAMES[mode["stage"]]
    if not (sft and rl):
        stage, only = ("SFT", sft) if sft else (who, rl)
        other = who if sft else "SFT"
        return f"{name}: {stage}'s best {elo_text(only)} Elo; no {other} point to compare with."
    verdict = {
        "yes": f"{who} passed SFT's best",
        "no": f"{who} stayed below SFT's best",
        "undecided": f"undecided whether {who} passed SFT's best",
    }[mode["passed"]]
    overlap = "overlap" if by_intervals(sft, rl) == "undecided" else "do not overlap"
    elos = f"{elo_text(rl)} against {elo_text(sft)} Elo"
    return f"{name}: {verdict}: {elos} (intervals {overlap}){match_text(mode)}."


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
    """Where SFT stopped gaining, by Elo for each mode and by its held-out curve."""
    stop, sentences = held_out_stop(evaluation), []
    for mode in (mode for mode in found if mode["sft"]):
        since, name = mode["sft_flat_from_flops"], mode_text(mode["sims"])
        if since != mode["sft"]["flops"]:
            since = amount_text(since, FLOPS)
            sentences.append(f"SFT, {name}: no measurable gain in Elo after {since}.")
        elif not mode["sft_flat"]:
            sentences.append(f"SFT, {name}: no flat stretch measured; its best may be no ceiling.")
    if stop:
        since = amount_text(stop.get("flops"), FLOPS)
        sentences.append(f"SFT's held-out policy loss stopped improving at {since}.")
    elif evaluation.get("sft_flat"):
        sentences.append("SFT's held-out policy loss was flat at its lowest learning rate.")
    return sentences


def expert_texts(evaluation: Record, found: Sequence[Record]) -> list[str]:
    """Where each expert stands against the best of each stage and mode."""
    sentences = []
    for expert in (b for b in evaluation.get("baselines", []) if b.get("expert")):
        if not finite(expert.get("elo")):
            note = expert.get("note", "no Elo")
            sentences.append(f"The expert {expert['player']} was not played: {note}.")
            continue
        relations = [
            f"{NAMES[stage]} {mode_text(mode['sims'])} {relation(mode[key], expert)}"
            for mode in found
            for key, stage in (("sft", "sft"), ("rl", mode["stage"]))
            if mode[key]
        ]
        text = f"The expert {expert['player']} stands at {elo_text(expert)} Elo"
        sentences.append(f"{text}: {', '.join(relations)}." if relations else f"{text}.")
    return sentences


def relation(point: Record, expert: Record) -> str:
    found = by_intervals(expert, point)
    if found != "undecided":
        return "is above it" if found == "yes" else "is below it"
    if not well_known(expert, point):
        return "cannot be told from it (too few games)"
    return "is level with it (intervals overlap)"


def header_lines(evaluation: Record) -> list[tuple[str, bool]]:
    """(text, whether it is a verdict) lines of the chart: verdicts, rules, games, hardware."""
    games = sum(match.get("games", 0) for match in evaluation.get("matches", []))
    longest = max([p["seconds"] for p in rated(evaluation) if finite(p.get("seconds"))], default=0)
    facts = [
        f"{games:,} games" if games else "",
        f"{amount_text(longest, TIMES)} of training" if longest else "",
        f"Elo with 95% intervals, {evaluation.get('anchor', 'random')} = 0",
        shorten(evaluation.get("hardware") or "", 90),
    ]
    plain = [f"Rules: {shorten(evaluation['rules'], 280)}" if evaluation.get("rules") else ""]
    plain.append("  ·  ".join(fact for fact in facts if fact))
    absent = [
        f"{shorten(b['player'], 40)} not played ({shorten(b.get('note', 'no Elo'), 80)})"
        for b in evaluation.get("baselines", [])
        if not finite(b.get("elo"))
    ]
    plain += absent
    wrapped = [line for text in plain if text for line in textwrap.wrap(text, 148)[:2]]
    bold = [line for mode in judge(evaluation) for line in textwrap.wrap(verdict_text(mode), 148)]
    return [(line, True) for line in bold] + [(line, False) for line in wrapped]


# ------------------------------------------------------------------------------ names and numbers


def elo_text(record: Record) -> str:
    """`812 ± 40`; `812 (780 to 900)` where the interval is lopsided; `812` where it is unknown."""
    elo, low, high = record.get("elo"), record.get("low"), record.get("high")
    if not finite(elo):
        return "not measured"
    if not finite(low) and not finite(high):
        return f"{elo:.0f}"
    if not finite(low):
        return f"{elo:.0f} (up to {high:.0f})"
    if not finite(high):
        return f"{elo:.0f} ({low:.0f} or more)"
    down, up = elo - low, high - elo
    if abs(up - down) > 0.1 * (up + down) + 1:
        return f"{elo:.0f} ({low:.0f} to {high:.0f})"
    return f"{elo:.0f} ± {(down + up) / 2:.0f}"


def mode_text(sims: int) -> str:
    """What a mode is called: the policy alone, or a search of so many simulations a move."""
    return f"{sims} simulations" if sims else "raw policy"


def shorten(text: str, width: int) -> str:
    """One printable line of at most `width` characters, an ellipsis in its middle if cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(line) <= width:
        return line
    head = (width - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (width - 1 - head) :]}"
