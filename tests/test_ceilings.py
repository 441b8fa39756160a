"""Fitted ceilings, against numbers worked by hand, scipy, and simulated runs of a known ceiling."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from scipy.optimize import minimize
from script import load

from selfplay.arena.elo import fit, outcomes
from selfplay.common.curves import (
    binomial,
    climb,
    fit_curve,
    fit_line,
    line,
    middle,
    sigmoid,
    stretch_of,
)
from selfplay.report.ceilings import ceilings, exchange, foreseen
from selfplay.report.chart import draw_chart
from selfplay.report.page import write_report
from selfplay.report.text import ceiling_texts, search_texts
from selfplay.report.verdict import verdict_of

FORESEE = load("foresee")
SIMULATED = load("ceiling_sim")
TRUE = {"sft": (100.0, 800.0, 0.3), "rl": (750.0, 1300.0, 1.0)}  #: floor, ceiling, middle; slope 1
SPENT = {"sft": np.geomspace(0.03, 6, 7), "rl": np.geomspace(0.1, 20, 8)}


def truth(stage: str) -> np.ndarray:
    floor, ceiling, middle = TRUE[stage]
    return floor + (ceiling - floor) / (1 + middle / SPENT[stage])


def played(elo: dict[str, float], pairs: list[tuple[str, str]], games: int, seed: int) -> list[Any]:
    rng, found = np.random.default_rng(seed), []
    for a, b in pairs:
        won = int(rng.binomial(games, 1 / (1 + 10 ** ((elo[b] - elo[a]) / 400))))
        found.append((a, b, won, 0, games - won))
    return found


def board_run(games: int = 400, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """An evaluation of simulated games, and these: SFT of 6 minutes, then RL of 20."""
    elo, points, pairs = {"random": 0.0, "mcts:9": 600.0}, [], [("mcts:9", "random")]
    for stage, start in (("sft", 0.0), ("rl", 6.0)):
        for step, (spent, value) in enumerate(zip(SPENT[stage], truth(stage), strict=True)):
            name = f"net:x/{stage}/ckpt-{step:06d}"
            elo[name] = value
            pairs.append((name, "mcts:9"))
            pairs += [(points[-1]["player"], name)] if points else []
            points.append({"player": name, "stage": stage, "sims": 0, "step": step, "games": 9,
                           "flops": (start + spent) * 1e12, "seconds": (start + spent) * 60})
    pairs += [(p["player"], "net:x/sft/ckpt-000006") for p in points if p["stage"] == "rl"]
    return rated_run(points, played(elo, pairs, games, seed))


def rated_run(points: list[Any], results: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    ratings = fit(results, "random", centre=[point["player"] for point in points])
    points = [{**point, **ratings[point["player"]]._asdict()} for point in points]
    matches = [{"a": a, "b": b, "games": w + d + ls, "wins": w, "draws": d, "losses": ls,
                "score": None} for a, b, w, d, ls in results]
    return {"game": "simulated", "anchor": "random", "points": points, "matches": matches}, results


def told(case: dict[str, Any]) -> str:
    return "\n".join(ceiling_texts(verdict_of(case)))


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    case, results = board_run()
    return {**case, "curves": ceilings(case, *outcomes(results, "random"), draws=80)}


# ------------------------------------------------------------------------------------- likelihoods


def test_the_likelihood_of_games_is_worked_by_hand() -> None:
    """3 wins, 1 draw, 2 losses and the prior's draw are 4 points to 3; b has 200 Elo, a 100."""
    names, seen = outcomes([("b", "a", 2, 1, 3), ("random", "b", 1, 0, 0)], "random")
    assert names == ["b", "a"]
    p = 1 / (1 + 10 ** (100 / 400))
    lost = 1 / (1 + 10 ** (-200 / 400))  # by random, with 1.5 of 2 points for it
    by_hand = 4 * math.log(p) + 3 * math.log(1 - p) + 1.5 * math.log(1 - lost) + 0.5 * math.log(
        lost)
    flat = climb(seen, lambda at, x: (np.array([200.0, 100.0]), np.zeros((2, 1))),
                 np.array([0, 1]), np.zeros(2), np.zeros(1), np.zeros(2))
    assert flat.likelihood == pytest.approx(by_hand, rel=1e-9)


def test_free_players_get_the_ratings_of_the_plain_fit() -> None:
    _, results = board_run(games=30)
    names, seen = outcomes(results, "random")
    ratings = fit(results, "random")
    found = climb(seen, line, np.array([0, 1]), np.array([0.0, 1.0]), np.zeros(2),
                  np.zeros(len(names)))  # a line through two points leaves both free
    assert found.values == pytest.approx([ratings[name].elo for name in names], abs=0.05)


def test_what_is_drawn_anew_lies_about_what_was_seen() -> None:
    """Of 8 games won and none lost the prior makes 8.5 points of 9, in the mean of draws too."""
    _, seen = outcomes([("a", "random", 8, 0, 0)], "random")
    rng = np.random.default_rng(0)
    drawn = np.array([np.ravel(seen.resampled(rng).points()) for _ in range(2000)])
    assert np.ravel(seen.points()) == pytest.approx([8.5, 0.5])
    assert drawn.sum(1) == pytest.approx(9) and drawn[:, 1].min() > 0
    assert drawn[:, 0].mean() == pytest.approx(8.5, abs=0.05)  # by a second prior 8.06
    _, scaled = outcomes([("a", "random", 1 / 3 * 4, 0, 2 / 3 * 4 - 1e-9)], "random")  # 4 distinct
    assert np.sum(scaled.resampled(rng).points()) == pytest.approx(5)


def test_games_that_repeat_others_tell_foresee_nothing() -> None:
    match = {"games": 10, "distinct": 5, "wins": 6, "draws": 2, "losses": 2}
    assert list(FORESEE._of_distinct(match)) == [3, 1, 1]
    del match["distinct"]  # of an earlier version
    assert list(FORESEE._of_distinct(match)) == [6, 2, 2]


def test_the_most_likely_curve_is_scipys() -> None:
    x, asked = np.log(np.geomspace(1, 300, 7)), np.full(7, 400)
    wanted = sigmoid(np.array([5.0, 70.0, 2.5, 0.1]), x)[0]
    right = np.round(wanted * 4 + [3, -5, 4, -2, 6, -4, 1])

    def loss(at: np.ndarray) -> float:
        p = np.clip(sigmoid(at, x)[0] / 100, 1e-4, 1 - 1e-4)
        return -float((right * np.log(p) + (asked - right) * np.log(1 - p)).sum())

    other = minimize(loss, [8.0, 60.0, 2.0, 0.3], method="Nelder-Mead",
                     options={"maxiter": 4000, "xatol": 1e-8, "fatol": 1e-10})
    curve = fit_curve(binomial(right, asked), wanted, np.arange(7), x, draws=2)
    assert loss(curve.parameters) == pytest.approx(other.fun, abs=1e-4)
    assert curve.parameters == pytest.approx(other.x, abs=0.05)
    apart = -loss_apart(right, asked)
    assert curve.misfit == pytest.approx(max(1.0, 2 * (apart + other.fun) / 3), abs=1e-3)


def loss_apart(right: np.ndarray, asked: np.ndarray) -> float:
    p = right / asked
    return -float((right * np.log(p) + (asked - right) * np.log(1 - p)).sum())


def test_draws_are_of_as_many_outcomes_and_repeat() -> None:
    seen = binomial([3, 9, 10], [10, 10, 10])
    one, same = (seen.resampled(np.random.default_rng(4)) for _ in range(2))
    assert (one.won + one.lost == 10).all() and (one.won == same.won).all()
    _, games = outcomes([("a", "random", 20, 0, 0)], "random")
    rng = np.random.default_rng(0)
    lost = [games.resampled(rng).lost[0] for _ in range(400)]
    assert np.mean(lost) == pytest.approx(20 * 0.5 / 21, rel=0.25)  # a sweep may be luck
    sweep = binomial([20], [20])
    wrong = [sweep.resampled(rng).lost[0] for _ in range(400)]
    assert np.mean(wrong) == pytest.approx(20 * 0.5 / 21, rel=0.25)
    assert sweep.points()[1] == 0  # the most likely accuracy is the one that was seen


# ---------------------------------------------------------------------------------------- coverage


def text_curve(seed: int, ceiling: float = 70.0, scatter: float = 0.0, draws: int = 40) -> Any:
    rng = np.random.default_rng(seed)
    x, asked = np.log(np.geomspace(1, 300, 7)), np.full(7, 300)
    true = sigmoid(np.array([5.0, ceiling, 2.5, 0.0]), x)[0] + rng.normal(0, scatter, 7)
    right = rng.binomial(asked, np.clip(true / 100, 0, 1))
    return fit_curve(binomial(right, asked), right / 3, np.arange(7), x, draws=draws, seed=seed)


def test_the_interval_covers_a_known_ceiling() -> None:
    """Of 24 runs 95% would be 22.8; 19 or fewer has a chance of 3 in 100 there."""
    spans = [middle(text_curve(seed).ceilings()) for seed in range(24)]
    assert sum(low <= 70 <= high for low, high in spans) >= 20
    assert np.median([high - low for low, high in spans]) < 25  # and says something


def test_points_that_scatter_more_than_their_outcomes_widen_it() -> None:
    """By Student's t, as the scatter is told from 3 degrees of freedom."""
    wide = text_curve(1, scatter=6.0)
    assert wide.misfit > 2 and text_curve(1).misfit < 2
    drawn = np.ptp(middle(wide.draws[:, 1]))
    times = wide.misfit**0.5 * stats.t.ppf(0.975, 3) / 1.96
    assert np.ptp(middle(wide.ceilings())) == pytest.approx(drawn * times, rel=0.1)


@pytest.mark.parametrize("freedom", [1, 2, 5, 8, 9, 12, 40])
def test_an_estimated_scatter_counts_by_students_t(freedom: int) -> None:
    t = stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    assert stretch_of(4.0 * freedom, freedom) == pytest.approx(2 * t, rel=2e-3)
    assert stretch_of(0.9 * freedom, freedom) == pytest.approx(max(1, 0.9**0.5 * t), rel=2e-3)
    assert stretch_of(0.0, freedom) == 1  # never less than what the outcomes alone say


def test_five_points_that_scatter_cover_the_ceiling_too() -> None:
    """With a scatter of 3 points of percent that 1 degree of freedom tells: of 24 runs 95% would be
    22.8. Stretched by the root of the misfit alone they covered 85% of 60."""
    x, asked = np.log(np.geomspace(1, 300, 5)), np.full(5, 300)
    covered = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        true = sigmoid(np.array([5.0, 70.0, np.log(12), 0.0]), x)[0] + rng.normal(0, 3, 5)
        right = rng.binomial(asked, np.clip(true / 100, 0, 1))
        curve = fit_curve(binomial(right, asked), right / 3, np.arange(5), x, draws=30, seed=seed)
        low, high = middle(curve.ceilings())
        covered += low <= 70 <= high
    assert covered >= 23


def test_simulated_runs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth is 70, and at 3,000 times the first compute 69.7 (5 + 65 / (1 + 12 / 3000))."""
    case = SIMULATED.CASES["plain"]
    asked, spans = [], iter([(69.0, 71.0, 68.0, 69.6), (60.0, 69.9, 69.0, 69.8), None,
                             (70.1, 75.0, 69.0, 71.0), (70.0, 80.0, 69.8, 71.0)])

    def told(evaluation: dict[str, Any], draws: int) -> list[dict[str, Any]]:
        asked.append([point["accuracy"] for point in evaluation["points"]])
        span = next(spans)
        return [{"refused": "why"} if span is None else {
            "refused": "", "low": span[0], "high": span[1],
            "ahead": {"low": span[2], "high": span[3]}}]

    monkeypatch.setattr(SIMULATED, "ceilings", told)
    assert SIMULATED.count(case, 5, draws=10) == (4, 2, 2, 1)
    assert len({tuple(points) for points in asked}) == 5
    first = np.mean([points[0] for points in asked])
    assert first == pytest.approx(10, abs=2)  # 5 + 65 / 13


# ------------------------------------------------------------------------------------------ boards


def test_a_run_of_known_ceilings_is_told(board: dict[str, Any]) -> None:
    sft, rl = board["curves"]
    assert (sft["stage"], rl["stage"]) == ("sft", "rl") and not sft["refused"]
    assert sft["low"] < 800 < sft["high"] and sft["high"] - sft["low"] < 250
    ahead = 100 + 700 / (1 + 0.3 / 60)
    assert sft["ahead"]["low"] < ahead < sft["ahead"]["high"]
    assert rl["start"] == 6e12  # RL's compute counts from where SFT ended
    # 750 + 550 / (1 + 1 / t) is 800 at t = 0.1 minutes
    assert rl["passes"]["low"] <= 6.0 <= rl["passes"]["high"] < 60 and rl["passes"]["share"] == 1
    text = told(board)
    assert f"SFT's ceiling, raw policy: {sft['value']:,.0f} ({sft['low']:,.0f} to " in text
    assert "by a curve through 7 points; RL passes it after " in text
    assert f"predicted for 10× the compute: {sft['ahead']['value']:,.0f} (" in text


def test_it_is_drawn_and_kept(board: dict[str, Any], tmp_path: Path) -> None:
    plain, drawn = (np.asarray(Image.open(io.BytesIO(draw_chart(verdict_of(case)))).convert("RGB"))
                    for case in ({**board, "curves": []}, board))
    assert plain.shape == drawn.shape and (plain != drawn).any(-1).mean() > 0.005
    write_report(tmp_path, board)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["curves"][0]["value"] == pytest.approx(board["curves"][0]["value"])
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Ceilings</h2>" in page and "predicted for 10× the compute" in page


def test_the_same_code_tells_ceilings_of_texts() -> None:
    rng = np.random.default_rng(0)
    points = []
    for step, spent in enumerate(np.geomspace(1, 100, 8)):
        p = 5 + 75 / (1 + 4 / spent)
        right = rng.binomial(500, p / 100) / 5
        points.append({"player": f"sft/{step}", "stage": "sft", "sims": 0, "step": step,
                       "flops": spent * 1e9, "seconds": spent, "questions": 500, "look": True,
                       "accuracy": right, "low": right - 4, "high": right + 4})
    case = {"game": "sums", "measure": "accuracy", "points": points}
    case["curves"] = ceilings(case, draws=60)
    assert not case["curves"][0]["refused"]
    assert case["curves"][0]["low"] < 80 < case["curves"][0]["high"] <= 100
    assert "SFT's ceiling, one answer: " in told(case) and "% (" in told(case)


def answered(right: list[float], asked: int) -> dict[str, Any]:
    """An evaluation of a stage of texts: percent right, at compute that rises 200-fold."""
    points = [{"player": f"rl/{step}", "stage": "rl", "sims": 0, "step": step, "flops": spent,
               "seconds": spent, "questions": asked, "accuracy": value, "low": value - 2,
               "high": value + 2}
              for step, (spent, value) in enumerate(zip(np.geomspace(1, 200, len(right)), right,
                                                        strict=True))]
    return {"game": "sums", "measure": "accuracy", "points": points}


def test_all_questions_answered_leave_room_below() -> None:
    """Three times 100 of 100: Jeffreys' interval of 300 of 300 ends at 99.2, the exact one's at
    98.8, and that of 100 of 100 at 96.4."""
    found = ceilings(answered([20, 35, 55, 80, 95, 100, 100, 100], 100), draws=80)[0]
    assert found["value"] == pytest.approx(100, abs=0.1) and found["high"] > 99.9
    exact = 100 * stats.beta.ppf(0.025, 100, 1)
    assert exact < found["low"] < 100 * stats.beta.ppf(0.1, 300.5, 0.5)


def test_a_jump_is_no_curve() -> None:
    case = answered([0, 0, 0, 100, 100, 100, 100], 200)
    case["curves"] = ceilings(case, draws=10)
    why = "its points lie farther from any such curve than chance explains"
    assert case["curves"][0]["refused"].startswith(why) and "value" not in case["curves"][0]
    assert why in told(case)


def straight(k: int, gain: float, half: float = 25.0) -> dict[str, Any]:
    points = [{"player": f"net:{n}", "stage": "rl", "sims": 0, "step": n, "flops": 4.0**n,
               "seconds": 4.0**n, "elo": gain * n, "low": gain * n - half, "high": gain * n + half}
              for n in range(k)]
    return {"game": "x", "anchor": "random", "points": points}


@pytest.mark.parametrize(("k", "gain", "why"), [
    (4, 150.0, "4 of the 5 points that it needs"),
    (8, 150.0, "a straight line over the logarithm of compute fits as well"),
    (8, 0.0, "its points do not surely rise"),
])
def test_what_the_games_cannot_bear_is_refused_in_words(k: int, gain: float, why: str) -> None:
    case = straight(k, gain)
    elo = {"random": 0.0} | {f"net:{n}": gain * n for n in range(k)}
    pairs = [(f"net:{n}", f"net:{n - 1}") for n in range(1, k)] + [("net:0", "random")]
    pairs += [(f"net:{n}", f"net:{n - 2}") for n in range(2, k)]
    case["curves"] = ceilings(case, *outcomes(played(elo, pairs, 400, 3), "random"), draws=40)
    assert case["curves"][0]["refused"].startswith(why)
    assert f"No ceiling can be told of RL, raw: {why}" in told(case)
    assert "value" not in case["curves"][0]
    if gain and k >= 5:  # 10 times the compute is log 10 / log 4 steps
        found, true = case["curves"][0]["gain"], gain * math.log(10) / math.log(4)
        assert found["low"] < true < found["high"] < 1.3 * true
        assert "on a straight line 10× the compute brings " in told(case)


def test_one_that_is_hardly_known_is_refused() -> None:
    case, results = board_run(games=8)
    found = ceilings(case, *outcomes(results, "random"), draws=40)
    assert all(row["refused"] for row in found)


# ----------------------------------------------------------------------------- what comes later


def going_on(back: int) -> tuple[list[Any], list[Any]]:
    """(points of RL, games): each of 12 nets has met ``back`` before it, the first ones `random`;
    of ``back`` 0 only the last has met `random`, and each the one before it."""
    elo, points = {"random": 0.0}, []
    for step, spent in enumerate(np.linspace(1, 12, 12)):
        name = f"net:rl/{step}"
        elo[name] = 200 + 600 / (1 + (1.5 / spent) ** 2)
        points.append({"player": name, "stage": "rl", "sims": 0, "step": step, "flops": spent,
                       "seconds": spent})
    names = list(elo)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[max(0, i - back):i]]
    if not back:
        pairs = [*zip(names[2:], names[1:-1], strict=True), (names[-1], "random")]
    return points, played(elo, pairs, 200, 1)


def without_of(games: list[Any]) -> Any:
    return lambda gone: outcomes([r for r in games if not {r[0], r[1]} & gone], "random")


def foresee_on(folder: Path, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evaluation.json").write_text(json.dumps({**case, "measure": "elo"}))
    monkeypatch.setattr(sys, "argv", ["foresee", str(folder)])
    FORESEE.main()


def test_the_first_half_of_a_run_foresees_the_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, games = going_on(3)
    case, _ = rated_run(points, games)
    with pytest.raises(SystemExit, match=r"summary\.json: missing; make it with selfplay compare"):
        foresee_on(tmp_path, case, monkeypatch)
    (tmp_path / "summary.json").write_text("{}")
    foresee_on(tmp_path, case, monkeypatch)
    assert "6 of 6 later points are as predicted: the 95% interval" in capsys.readouterr().out
    # a run that goes up again after its first half is not foreseen
    turned = [(a, b, 200, 0, 0) if b != "random" and int(a.rpartition("/")[2]) >= 9
              and int(b.rpartition("/")[2]) < 9 else (a, b, *counts) for a, b, *counts in games]
    rows, left = foreseen(rated_run(points, turned)[0], without_of(turned), draws=40)
    assert not all(row["inside"] for row in rows) and not left


def test_points_that_only_later_ones_tie_to_the_anchor_are_left_out_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, games = going_on(0)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(SystemExit, match="too few points are left"):
        foresee_on(tmp_path, rated_run(points, games)[0], monkeypatch)
    said = capsys.readouterr().out
    assert said.startswith("RL, raw policy: 6 of the 6 earlier points left out, tied to the ")
    assert "net:rl/0, net:rl/1, " in said and "a curve needs 5, so nothing is predicted" in said
    # one of six is left out, and the others predict
    points, games = going_on(3)
    games = [game for game in games if "net:rl/2" not in game[:2]]
    games.append(("net:rl/2", "net:rl/9", 30, 0, 170))
    rows, left = foreseen(rated_run(points, games)[0], without_of(games), draws=10)
    assert len(rows) == 6 and len(left) == 1 and "1 of the 6" in left[0] and "net:rl/2)" in left[0]


def test_a_later_point_counts_by_the_interval_of_its_difference() -> None:
    """Of two intervals as wide as each other the ends may be 0.71 of both halves apart; those that
    overlap for a seventh less are no prediction that came true."""
    case = answered([5, 11, 20, 30, 38, *[40] * 5], 400)
    at = foreseen(case, draws=40)[0][0]
    half = at["value"] - at["low"]
    for share, inside in ((1.3, True), (1.5, False), (1.9, False)):
        value = at["value"] - share * half
        case["points"][5] |= {"accuracy": value, "low": value - half, "high": value + half}
        assert foreseen(case, draws=40)[0][0]["inside"] is inside, share


# ------------------------------------------------------------------------------ test-time compute


def searching(games: int) -> tuple[dict[str, Any], list[Any]]:
    """RL gains 300 Elo for ten times the training; its net 200 for ten times the simulations."""
    elo, points, search, pairs = {"random": 0.0}, [], [], []
    for step in range(4):
        name = f"net:rl/{step}@32"
        elo[name] = 500 + 150 * step
        points.append({"player": name, "stage": "rl", "sims": 32, "step": step,
                       "flops": 10 ** (step / 2), "seconds": 10 ** (step / 2)})
        pairs.append((name, f"net:rl/{step - 1}@32" if step else "random"))
    for sims in (2, 8, 32, 128):
        name = f"net:rl/3@{sims}"
        elo[name] = 950 + 200 * math.log10(sims / 32)
        search.append({"player": name, "stage": "rl", "sims": sims, "games": games})
        pairs += [(name, "net:rl/3@32")] if sims != 32 else []
    case, results = rated_run(points, played(elo, pairs, games, 0))
    ratings = fit(results, "random")
    case["search"] = [{**row, **ratings[row["player"]]._asdict()} for row in search]
    return case, results


def test_the_exchange_rate_of_training_and_search() -> None:
    case, results = searching(4000)
    found = exchange(case, *outcomes(results, "random"), draws=40)
    assert found["gains"]["rl"]["value"] == pytest.approx(200, abs=25)
    assert found["training"]["value"] == pytest.approx(300, abs=25)
    assert found["worth"]["low"] < 10**1.5 < found["worth"]["high"]
    text = "\n".join(search_texts(verdict_of({**case, "exchange": found})))
    assert "10× the simulations bring RL's net " in text and "at 32 simulations, as " in text
    assert search_texts(verdict_of(case)) == []
    assert exchange({**case, "search": []}, *outcomes(results, "random")) == {}


def test_what_few_games_cannot_tell_is_not_told() -> None:
    case, results = searching(12)
    found = exchange(case, *outcomes(results, "random"), draws=40)
    assert "worth" not in found
    assert "is not known yet" in "\n".join(search_texts(verdict_of({**case, "exchange": found}))
                                           ) or found["training"]["low"] <= 0
    plain, drawn = (np.asarray(Image.open(io.BytesIO(draw_chart(verdict_of(one)))))
                    for one in ({**case, "search": []}, case))
    assert drawn.shape[0] > plain.shape[0] + 400  # a panel more


def test_a_line_gains_what_it_gains() -> None:
    gain, drawn = fit_line(binomial([100, 200, 300], [1000] * 3), np.array([10.0, 20.0, 30.0]),
                           np.arange(3), np.array([0.0, 1.0, 2.0]), draws=40)
    assert gain == pytest.approx(10, abs=1e-3)
    assert drawn.std() == pytest.approx(math.sqrt((0.09 + 0.21) * 10 / 4), rel=0.4)


def test_a_line_that_points_scatter_about_widens_its_gain() -> None:
    """By least squares: the slope's error, the root of Pearson's chi-squared per degree of freedom,
    and Student's t of these 2."""
    x, asked = np.arange(4.0), 1000
    p = 0.2 + 0.1 * x
    right = asked * (p + 0.03 * np.array([1, -1, -1, 1]))
    _, drawn = fit_line(binomial(right, [asked] * 4), right / 10, np.arange(4), x, draws=150)
    weight = asked / (p * (1 - p)) / 1e4  # of a percent
    sides = np.stack([np.ones(4), x], 1)
    covariance = np.linalg.inv(sides.T @ (weight[:, None] * sides))
    away = right / 10 - sides @ (covariance @ sides.T @ (weight * right / 10))
    misfit = (weight * away**2).sum() / 2
    assert misfit > 5
    wanted = np.sqrt(covariance[1, 1] * misfit) * stats.t.ppf(0.975, 2) / 1.96
    assert drawn.std() == pytest.approx(wanted, rel=0.2)
