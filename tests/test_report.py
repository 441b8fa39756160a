"""The report: verdicts on hand-made cases, the chart's ink, escaping, and missing parts."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selfplay.report import axis as compute
from selfplay.report import chart, panels, style, verdict
from selfplay.report import page as report
from selfplay.report import text as sentences
from selfplay.report.verdict import verdict_of


def point(stage: str, step: int, elo: float, sims: int = 0, half: float = 40, **more: Any) -> dict:
    player = f"net:runs/x/{stage}/ckpt-{step:06d}" + (f"@{sims}" if sims else "")
    known = {
        "player": player, "stage": stage, "sims": sims, "step": step, "flops": step * 1e12,
        "seconds": step * 2.0, "positions": step * 256, "elo": elo, "low": elo - half,
        "high": elo + half, "games": 100,
    }  # fmt: skip
    return {**known, **more}


def match(a: dict, b: dict, score: float, half: float, games: int = 200) -> dict:
    wins = round(score * games)
    return {
        "a": a["player"], "b": b["player"], "games": games, "wins": wins, "draws": 0,
        "losses": games - wins, "score": score, "low": score - half, "high": score + half,
        "command": f"selfplay match {a['player']} {b['player']} --games {games} --seed 1",
        "folder": "runs/x/matches/1",
    }  # fmt: skip


SFT = [point("sft", 10, 500), point("sft", 40, 805), point("sft", 100, 812)]
RL = [point("rl", 200, 900), point("rl", 400, 1011, half=45)]


def evaluation(**more: Any) -> dict:
    known = {
        "game": "go9x9", "rules": "area scoring, komi 7", "anchor": "random",
        "hardware": "2 cores", "run": "x", "seed": 1, "commands": ["selfplay train --game go9x9"],
        "points": SFT + RL, "matches": [],
        "baselines": [
            {"player": "random", "elo": 0.0, "low": 0.0, "high": 0.0, "games": 90, "expert": False},
            {"player": "gtp:gnugo --level 1", "elo": 1090.0, "low": 1040.0, "high": 1140.0,
             "games": 80, "expert": True},
        ],
        "sft_history": [
            {"step": s, "flops": s * 1e12, "seconds": s * 2.0, "top1": 0.5 - 4 / (s + 8),
             "top5": 0.8, "policy_loss": 2 + 5 / s, "value_mse": 0.9}
            for s in range(1, 101)
        ],
        "rl_history": [
            {"step": s, "flops": s * 1e12, "seconds": s * 2.0, "policy_loss": 1.9 - s / 1000,
             "value_loss": 0.6, "mean_length": 60.0, "positions": s}
            for s in range(110, 401, 10)
        ],
    }  # fmt: skip
    return {**known, **more}


def judged(case: dict) -> dict[str, dict]:
    """Each mode as summary.json has it."""
    return report.summarise(verdict_of(case))["modes"]


def raw_mode(**more: Any) -> dict:
    return judged(evaluation(**more))["raw"]


def headlines(case: dict) -> list[str]:
    return sentences.headlines(verdict_of(case))


def ceiling_of(case: dict, sims: int) -> verdict.Mode | None:
    """The mode, where it has an SFT best."""
    return next((m for m in verdict_of(case).modes if m.sims == sims and m.sft), None)


def image(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


# -------------------------------------------------------------------------------------- verdicts


def test_intervals_apart_decide():
    mode = raw_mode()
    assert (mode["passed"], mode["decided_by"]) == ("yes", "Elo intervals")
    assert (mode["sft"]["elo"], mode["rl"]["elo"]) == (812, 1011)
    sentence = headlines(evaluation())[0]
    assert "1011 ± 45" in sentence and "812 ± 40" in sentence
    assert "do not overlap" in sentence


def test_rl_below_is_no():
    assert raw_mode(points=[*SFT, point("rl", 200, 700)])["passed"] == "no"


def test_overlap_is_undecided_until_a_direct_match_decides():
    close = point("rl", 200, 850)
    points = [*SFT, close]
    assert (raw_mode(points=points)["passed"], raw_mode(points=points)["match"]) == (
        "undecided",
        None,
    )
    won = raw_mode(points=points, matches=[match(close, SFT[-1], 0.60, 0.07)])
    assert (won["passed"], won["decided_by"]) == ("yes", "direct match")
    level = raw_mode(points=points, matches=[match(close, SFT[-1], 0.55, 0.07)])
    assert (level["passed"], level["decided_by"]) == ("undecided", "neither")


def test_a_match_written_from_sfts_side_is_turned():
    close = point("rl", 200, 850)
    mode = raw_mode(points=[*SFT, close], matches=[match(SFT[-1], close, 0.38, 0.07)])
    seen = mode["match"]
    assert mode["passed"] == "yes"
    assert (seen["score"], seen["low"], seen["high"]) == pytest.approx((0.62, 0.55, 0.69))
    assert (seen["wins"], seen["losses"]) == (124, 76)


def test_contradiction_is_undecided():
    mode = raw_mode(matches=[match(RL[-1], SFT[-1], 0.30, 0.07)])
    assert mode["passed"] == "undecided" and "contradict" in mode["decided_by"]


def test_a_match_against_a_weak_sft_checkpoint_decides_nothing():
    close = point("rl", 200, 850)
    mode = raw_mode(points=[*SFT, close], matches=[match(close, SFT[0], 0.95, 0.03)])
    assert (mode["passed"], mode["match"]) == ("undecided", None)


def test_the_match_with_most_games_decides_whoever_won():
    early, late = point("rl", 200, 870), point("rl", 400, 850)
    lucky = match(early, SFT[-1], 0.70, 0.10, games=40)
    long = match(late, SFT[1], 0.52, 0.05, games=400)
    mode = raw_mode(points=[*SFT, early, late], matches=[lucky, long])
    assert mode["match"]["games"] == 400
    assert mode["passed"] == "undecided"


def test_modes_are_judged_apart():
    searched = [point("sft", 100, 1100, sims=32), point("rl", 400, 1120, sims=32)]
    wrong_mode = match(searched[1], SFT[-1], 0.99, 0.01)
    modes = judged(evaluation(points=SFT + RL + searched, matches=[wrong_mode]))
    assert list(modes) == ["raw", "search@32"]
    assert modes["raw"]["passed"] == "yes"
    assert (modes["search@32"]["passed"], modes["search@32"]["match"]) == ("undecided", None)


def test_unknown_interval_is_never_a_verdict():
    bare = point("rl", 200, 3000, low=None, high=float("inf"))
    assert raw_mode(points=[*SFT, bare])["passed"] == "undecided"


def test_ceiling_is_flat_by_elo_or_by_the_held_out_curve():
    flat = ceiling_of(evaluation(), 0)
    assert flat is not None and flat.flat and flat.flat_from["step"] == 40
    rising = [point("sft", 10, 300), point("sft", 50, 500), point("sft", 100, 800)]
    ceiling = ceiling_of(evaluation(points=rising), 0)
    assert ceiling is not None and not ceiling.flat
    stuck = [{"step": s, "policy_loss": 2 + abs(s - 100) / 100} for s in range(10, 201, 10)]
    ceiling = ceiling_of(evaluation(points=rising, sft_history=stuck), 0)
    assert ceiling is not None and ceiling.flat
    ceiling = ceiling_of(evaluation(points=rising[:2], sft_history=stuck), 0)
    assert ceiling is not None and not ceiling.flat  # measured only on the way up


def test_few_games_show_no_ceiling():
    """400 +- 150 and 590 +- 150 may be level, or 400 Elo apart."""
    points = [point("sft", 40, 400, low=250, high=550), point("sft", 100, 590, low=440, high=740)]
    ceiling = ceiling_of(evaluation(points=points), 0)
    assert ceiling is not None and not ceiling.flat
    told = headlines(evaluation(points=points))
    assert any("may be no ceiling" in line for line in told)


def test_ceiling_is_flat_where_the_stage_ended_by_itself():
    rising = [point("sft", 10, 300), point("sft", 50, 500), point("sft", 100, 800)]
    ceiling = ceiling_of(evaluation(points=rising, sft_flat=True), 0)
    assert ceiling is not None and ceiling.flat
    assert any("flat at its lowest" in line
               for line in headlines(evaluation(points=rising, sft_flat=True)))


def test_expert_sentences():
    assert "RL raw policy is level with it" in headlines(evaluation())[-1]
    wide = evaluation()
    for baseline in wide["baselines"]:
        if baseline.get("expert"):
            baseline.update(low=baseline["elo"] - 300, high=baseline["elo"] + 300)
    assert "RL raw policy cannot be told from it" in headlines(wide)[-1]
    absent = {"player": "gtp:gnugo", "expert": True, "elo": None, "note": "gnugo not installed"}
    assert "gnugo not installed" in headlines(evaluation(baselines=[absent]))[-1]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (772, 852, "812 ± 40"),
        (700, 900, "812 (700 to 900)"),
        (None, 900, "812 (up to 900)"),
        (700, float("inf"), "812 (700 or more)"),
        (None, None, "812"),
    ],
)
def test_strength_text(low, high, text):
    assert sentences.strength_text({"elo": 812.0, "low": low, "high": high}, compute.ELO) == text


def test_amounts_use_the_unit_that_fits():
    shown = [compute.amount_text(x, compute.FLOPS) for x in (0, 4.2e5, 1.25e15, 3e30, None)]
    assert shown == ["0 FLOP", "420 kFLOP", "1.25 PFLOP", "3e+09 ZFLOP", "-"]
    assert compute.amount_text(5400, compute.TIMES) == "1.5 h"


# ------------------------------------------------------------------------------ what is missing

REMEDIES = {"points": "play", "signal": "longer", "sft": "teach", "rl": "improve", "value": "judge",
            "own": "of no stage that a verdict needs"}


@pytest.mark.parametrize(("more", "missing", "first"), [
    ({"points": []}, ["points"], "No checkpoint has been rated: play"),
    ({"points": SFT}, ["rl", "value"], "No RL checkpoint has been rated: improve"),
    ({"points": RL, "remedies": {"sft": "teach"}}, ["sft"],
     "No SFT checkpoint has been rated: teach"),
    ({"points": SFT, "remedies": {}}, [], "Raw policy: SFT's best 812 ± 40 Elo; no RL point"),
    ({"points": SFT + RL, "remedies": {"sft": "", "rl": ""}}, [], "Raw policy: RL passed"),
])
def test_what_is_missing_comes_first_with_its_command(tmp_path, more, missing, first):
    case = evaluation(**{"remedies": REMEDIES, **more})
    found = verdict_of(case)
    assert list(found.missing) == missing
    assert headlines(case)[0].startswith(first)
    assert sentences.header_lines(found)[0][0].startswith(first)
    report.write_report(tmp_path, case)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["missing"] == missing
    wanted = ["yes" if first.endswith("passed") else "missing"] * bool(more["points"])
    assert [mode["passed"] for mode in summary["modes"].values()] == wanted


def test_no_right_answer_is_no_verdict():
    """Nothing is right, with intervals that overlap: there is nothing that could be undecided."""
    points = [{**p, "accuracy": 0.0, "low": 0.0, "high": 0.7} for p in ANSWERS["points"]]
    case = {**ANSWERS, "points": points, "remedies": REMEDIES}
    told = headlines(case)
    assert told[0] == ("No question has been answered rightly yet, so there is nothing to compare: "
                       "longer")
    assert not any("undecided" in line for line in told)
    assert {mode["passed"] for mode in judged(case).values()} == {"missing"}
    points[0] = {**points[0], "accuracy": 0.2, "high": 1.0}
    assert judged({**case, "points": points})["raw"]["passed"] == "undecided"


def test_a_run_is_judged_once(tmp_path, monkeypatch):
    """What chart, page, summary and terminal say is of one verdict."""
    made = []
    monkeypatch.setattr(report, "verdict_of",
                        lambda case: made.append(verdict_of(case)) or made[-1])
    found = report.write_report(tmp_path, evaluation())
    report.text_summary(found)
    assert made == [found]
    with pytest.raises(AttributeError):
        found.first = "rl"


# --------------------------------------------------------------------------------- axis and margin


def test_short_sft_gets_a_log_axis_and_a_long_one_a_linear_axis():
    sft = [point("sft", s, 0) for s in (1, 2, 4, 8)]
    assert compute.x_axis([*sft, point("rl", 100, 0), point("rl", 1000, 0)]).log
    assert not compute.x_axis([*sft, point("rl", 10, 0), point("rl", 16, 0)]).log


def test_axis_falls_back_to_what_is_there():
    assert compute.x_axis([point("sft", 7, 0, flops=0.0)]).key == "seconds"
    assert compute.x_axis([point("sft", 7, 0, flops=None, seconds=None)]).key == "step"
    assert compute.x_axis([]).limits[1] > 0


def test_divider_only_where_rl_follows_sft():
    axis = compute.x_axis(SFT + RL)
    assert compute.divider(SFT + RL, axis) == pytest.approx(100e12 / axis.unit)
    assert compute.divider([*SFT, point("rl", 0, 0)], axis) is None
    assert compute.divider(RL, axis) is None


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted),
    st.floats(0.1, 20),
)
def test_spread_labels_keep_order_and_gap_within_the_panel(wanted, gap):
    placed = np.array(style.spaced(wanted, gap, 0, 100))
    fitting = min(gap, 100 / max(len(wanted) - 1, 1))
    assert placed.min() >= -1e-6 and placed.max() <= 100 + 1e-6
    assert (np.diff(placed) >= fitting - 1e-6).all()
    if (np.diff(wanted) >= fitting).all():
        assert placed == pytest.approx(np.array(wanted), abs=1e-6)


# ------------------------------------------------------------------------------------------ files


def answered(stage: str, step: int, accuracy: float, sims: int = 0, half: float = 4, **more: Any):
    known = {**point(stage, step, accuracy, sims, half), "accuracy": accuracy, "questions": 512}
    return {**{key: known[key] for key in known if key not in ("elo", "games")}, **more}


ANSWERS = {
    "game": "chain_sum", "measure": "accuracy", "hardware": "2 cores", "run": "runs/x", "seed": 0,
    "points": [
        answered("sft", 10, 20, look=True), answered("sft", 40, 41, look=True),
        answered("sft", 100, 40), answered("sft", 100, 43, sims=16),
        answered("rl", 200, 97, look=True), answered("rl", 400, 92), answered("rl", 400, 93, 16)],
    "baselines": [{"player": "the teacher", "accuracy": 43.5, "low": 40.4, "high": 46.6,
                   "questions": 1000, "expert": True}],
    "sft_history": [{"step": s, "flops": s * 1e12, "seconds": s * 2.0, "policy_loss": 1 + 5 / s}
                    for s in range(1, 101)],
    "rl_history": [{"step": s, "flops": s * 1e12, "seconds": s * 2.0, "entropy": 0.1,
                    "clip_fraction": 0.0, "length": 12.0} for s in range(110, 401, 10)],
    "samples": [{"stage": stage, "k": k, "majority": low + k, "low": low, "high": low + 20,
                 "pass": low + 2 * k} for stage, low in (("sft", 30), ("rl", 60)) for k in (1, 4)],
    "completions": [{"stage": "rl", "prompt": "1+2", "completion": "<b>3</b>", "wanted": "3"}],
}  # fmt: skip


def test_accuracy_is_judged_by_what_was_measured_not_by_a_lucky_look():
    modes = judged(ANSWERS)
    assert list(modes) == ["raw", "majority@16"]
    raw = modes["raw"]
    assert (raw["passed"], raw["decided_by"]) == ("yes", "accuracy intervals")
    assert (raw["sft"]["accuracy"], raw["rl"]["accuracy"]) == (40, 92)  # not 41, not 97
    looks = {**ANSWERS, "points": [p for p in ANSWERS["points"] if p.get("look")]}
    assert judged(looks)["raw"]["rl"]["accuracy"] == 97
    told = headlines(ANSWERS)
    assert told[0].startswith("One answer: RL passed SFT's best: 92.0% ± 4.0 against 40.0% ± 4.0")
    assert told[1].startswith("Majority of 16 answers: RL passed")
    assert "The teacher stands at 43.5% ± 3.1: SFT one answer is level with it" in told[-1]


def test_the_report_of_answers_shows_samples_and_escapes_completions(tmp_path):
    report.write_report(tmp_path, ANSWERS)
    page = Collector()
    page.feed((tmp_path / "report.html").read_text())
    assert "b" not in page.tags and "<b>3</b>" in page.text
    for word in ("Elo", "Matches", "games"):
        assert word not in page.text
    assert "majority of 16 answers" in page.text and "512" in page.text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["measure"] == "accuracy" and summary["questions"] == 512


def test_the_best_by_reward_is_a_dotted_line_with_a_name():
    from matplotlib.figure import Figure

    judged = [{**row, "best": row["low"] + 3, "best_low": row["low"], "best_high": row["high"]}
              if row["stage"] == "rl" else row for row in ANSWERS["samples"]]

    def drawn(rows):
        axes = Figure(figsize=(10, 4)).add_axes((0.1, 0.1, 0.5, 0.8))
        panels.draw_samples(axes, rows)
        return ([list(line.get_ydata()) for line in axes.lines if line.get_marker() != "None"],
                [text.get_text() for text in axes.texts])

    lines, names = drawn(judged)
    plain, fewer = drawn(ANSWERS["samples"])
    assert [line for line in lines if line not in plain] == [[63, 63]]
    assert len(names) == len(fewer) + 1 and any("best of k" in name for name in names)
    tables = {title: rows for title, _, rows, _ in report.more_tables(
        {**ANSWERS, "samples": judged})}
    assert [row[-3:] for row in tables["Test-time compute"]] == [
        ["-"] * 3, ["-"] * 3, ["63.0", "60.0", "80.0"], ["63.0", "60.0", "80.0"]]


def test_samples_and_policy_gradients_get_their_panels():
    labels = [p.label for p in panels.panels_of(
        {"sft": ANSWERS["sft_history"], "rl": ANSWERS["rl_history"]})]
    assert labels == ["held-out loss\n(nats a token)", "entropy\n(nats)", "tokens an\nanswer"]
    clipping = [{**row, "clip_fraction": 0.03} for row in ANSWERS["rl_history"]]
    labels = [p.label for p in panels.panels_of({"sft": [], "rl": clipping})]
    assert labels == ["entropy\n(nats)", "clipped (%)", "tokens an\nanswer"]
    known = evaluation()
    labels = [p.label for p in panels.panels_of(
        {"sft": known["sft_history"], "rl": known["rl_history"]})]
    assert labels == ["held-out\ntop-1 (%)", "RL losses"]

    def tall(case):
        return image(chart.draw_chart(verdict_of(case))).shape[0]

    assert tall(ANSWERS) - tall({**ANSWERS, "samples": []}) == pytest.approx(
        (panels.SAMPLES_HEIGHT + panels.SAMPLES_GAP) * style.DPI, abs=2)


def test_budgets_and_other_tasks_have_panels_and_tables(tmp_path):
    budgets = [{"stage": "rl", "mode": mode, "budget": b, "tokens": b - 0.5, "accuracy": 40 + b,
                "low": 30, "high": 80} for mode in ("cut", "forced") for b in (8, 16)]
    also = [{"task": "harder", **row} for row in ANSWERS["samples"]]
    found = {**ANSWERS, "budgets": budgets, "also": also}
    report.write_report(tmp_path / "both", found)
    report.write_report(tmp_path / "none", ANSWERS)
    drawn = [image((tmp_path / name / "chart.png").read_bytes()) for name in ("both", "none")]
    tall = round((panels.SAMPLES_HEIGHT + panels.SAMPLES_GAP) * style.DPI)
    assert drawn[0].shape[0] - drawn[1].shape[0] == pytest.approx(2 * tall, abs=2)
    for place in (slice(-tall, None), slice(-2 * tall, -tall)):  # one below the other
        assert (drawn[0][place].min(axis=2) < 200).mean() > 0.002
    page = Collector()
    page.feed((tmp_path / "both/report.html").read_text())
    assert "Budgets of thought" in page.text and "forced" in page.text and "harder" in page.text
    summary = json.loads((tmp_path / "both/summary.json").read_text())
    assert summary["budgets"] == budgets and summary["also"] == also


HOSTILE = "$x^$ <script>alert('x')</script>\n\x07&amp;\"" + "y" * 200
NO_EXPERT = {"player": "gtp:gnugo", "expert": True, "elo": None, "note": "gnugo not installed"}
CASES = {
    "full": evaluation(),
    "one point": evaluation(points=SFT[:1], rl_history=[], matches=[]),
    "no rl": evaluation(points=SFT, rl_history=[]),
    "no sft": evaluation(points=[point("rl", 0, 0), *RL], sft_history=[]),
    "log axis from zero": evaluation(
        points=[point("rl", s, 10.0 * s) for s in (0, 1, 2, 1000)], sft_history=[], rl_history=[]
    ),
    "no baselines": evaluation(baselines=[]),
    "expert absent": evaluation(baselines=[NO_EXPERT]),
    "tiny compute": evaluation(points=[{**p, "flops": p["step"] * 1e-3} for p in SFT + RL]),
    "no compute": evaluation(points=[{**p, "flops": 0, "seconds": 0, "step": 0} for p in SFT]),
    "open intervals": evaluation(points=[{**p, "low": float("-inf"), "high": None} for p in SFT]),
    "unrated point": evaluation(points=[*SFT, {**RL[0], "elo": None, "low": None, "high": None}]),
    "nothing": {"game": "connect4"},
    "accuracy": ANSWERS,
    "accuracy of a base, by time": {
        **ANSWERS, "points": [{**p, "flops": None, "stage": "base" if p["stage"] == "sft" else "rl"}
                              for p in ANSWERS["points"]]},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_is_drawn_and_told(tmp_path, case):
    report.write_report(tmp_path, case)
    pixels = image((tmp_path / "chart.png").read_bytes())
    assert pixels.shape[1] == 2000
    assert 0.002 < (pixels.min(axis=2) < 200).mean() < 0.5
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["headlines"] == headlines(case)
    assert summary["headlines"][0] in report.text_summary(verdict_of(case))
    assert "<table>" in (tmp_path / "report.html").read_text() or case == CASES["nothing"]


def share(pixels: np.ndarray, colour: str) -> float:
    """Of the picture that is in this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(pixels - rgb).max(axis=2) < 12).mean())


def test_stages_show_in_their_colours():
    pictures = {name: image(chart.draw_chart(verdict_of(CASES[name])))
                for name in ("full", "no rl", "no sft")}
    seen = {
        name: [share(pixels, style.STAGES[stage].colour) > 1e-4 for stage in ("sft", "rl")]
        for name, pixels in pictures.items()
    }
    assert seen == {"full": [True, True], "no rl": [True, False], "no sft": [False, True]}


TWO_RUNS = {
    **{key: evaluation()[key] for key in ("game", "anchor", "baselines")},
    "matches": [match(RL[-1], SFT[-1], 0.7, 0.1)],
    "runs": [{"label": "one", "points": [*SFT, *RL, point("rl", 400, 1300, sims=32)]},
             {"label": HOSTILE, "points": [point("sft", 20, 300), point("value", 300, 1500, 32)]}],
}


def test_several_runs_show_in_colours_of_their_own():
    pixels = image(chart.draw_runs(TWO_RUNS))
    assert pixels.shape[1] == 2000
    assert [share(pixels, colour) > 1e-4 for colour in chart.RUNS[:3]] == [True, True, False]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each figure drawn hereafter: do texts reach over its edge, as the Agg renderer measures
    them? (Ticks beyond the limits of their axis are not drawn, hence not measured.)"""
    from matplotlib.figure import Figure

    found, save = [], Figure.savefig

    def savefig(figure: Figure, *words: Any, **options: Any) -> None:
        save(figure, *words, **options)
        box = figure.get_tightbbox(figure.canvas.get_renderer())  # in inches
        width, height = figure.get_size_inches()
        found.append(box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


def long_ticks(digits: float) -> dict:
    """Answers whose entropy needs ticks of many digits."""
    rows = [{**row, "entropy": digits + 1e-5 * i} for i, row in enumerate(ANSWERS["rl_history"])]
    return {**ANSWERS, "rl_history": rows}


@pytest.mark.parametrize("case", [
    *CASES.values(), long_ticks(0.1), long_ticks(12345.0),
    evaluation(game=HOSTILE, rules="W" * 300, hardware="W" * 300,
               baselines=[{**NO_EXPERT, "player": "W" * 99, "note": "W" * 99},
                          {"player": "W" * 99, "elo": 5.0, "low": 1.0, "high": 9.0, "games": 1}]),
], ids=[*CASES, "long ticks", "longer ticks", "wide names"])
def test_no_label_is_cut(case, cut):
    chart.draw_chart(verdict_of(case))
    assert cut == [False]


def test_no_label_of_several_runs_is_cut(cut):
    chart.draw_runs(TWO_RUNS, "seconds")
    assert cut == [False]


def test_grey_keeps_the_stages_apart():
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert abs(luminance(style.STAGES["sft"].colour) - luminance(style.STAGES["rl"].colour)) > 60


def test_summary_json(tmp_path):
    deciding = match(RL[-1], SFT[-1], 0.75, 0.06)
    report.write_report(tmp_path, evaluation(matches=[deciding]))
    raw = json.loads((tmp_path / "summary.json").read_text())["modes"]["raw"]
    assert raw["passed"] == "yes"
    assert raw["decided_by"] == "direct match and Elo intervals"
    assert (raw["rl"]["elo"], raw["rl"]["low"], raw["rl"]["high"]) == (1011, 966, 1056)
    assert raw["match"]["command"] == deciding["command"]


class Collector(HTMLParser):
    """Tags seen and text read, as a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_escapes_hostile_names_and_stands_alone(tmp_path):
    rival = {**point("rl", 400, 1011), "player": HOSTILE}
    hostile = evaluation(
        game=HOSTILE, rules=HOSTILE, hardware=HOSTILE, commands=[HOSTILE], config={HOSTILE: 1},
        points=[*SFT, rival], matches=[{**match(rival, SFT[-1], 0.7, 0.06), "command": HOSTILE}],
        baselines=[{**NO_EXPERT, "player": HOSTILE, "note": HOSTILE},
                   {"player": HOSTILE, "elo": 5.0, "low": 1.0, "high": 9.0, "games": 1}],
    )  # fmt: skip
    report.write_report(tmp_path, hostile)
    text = (tmp_path / "report.html").read_text()
    page = Collector()
    page.feed(text)
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    embedded = base64.b64decode(page.links[0].split(",", 1)[1])
    assert embedded == (tmp_path / "chart.png").read_bytes()


def test_html_holds_every_number_and_the_commands_to_repeat_it(tmp_path):
    played = match(RL[-1], SFT[-1], 0.75, 0.06)
    report.write_report(tmp_path, evaluation(matches=[played]))
    page = Collector()
    page.feed((tmp_path / "report.html").read_text())
    for entry in SFT + RL:
        assert entry["player"] in page.text and f"{entry['elo']:.0f}" in page.text
    # in the match table, and under each of the two players
    assert page.text.count(played["command"]) == 3
    assert "selfplay train --game go9x9" in page.text


def test_text_summary_is_aligned():
    lines = report.text_summary(verdict_of(evaluation())).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    column = lines[head].index("player")
    rows = lines[head + 1 :]
    assert len(rows) == 7
    assert all(row[column - 1] == " " and row[column] != " " for row in rows)


def test_importing_the_report_imports_no_matplotlib():
    root = Path(__file__).resolve().parent.parent
    code = "import sys, selfplay.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
