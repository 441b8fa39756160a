"""What scripts/trial.py tells of its matches, against numbers worked by hand."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script import load

from selfplay.arena.elo import Rating
from selfplay.arena.match import MatchResult, Tally

TRIAL = load("trial")


def match_of(wins: int, draws: int, losses: int) -> MatchResult:
    return MatchResult("g", "r", "a", "b", Tally(wins, draws, losses), Tally(), ends={},
                       mean_length=9.0, distinct=wins + draws + losses, seconds=0.0)


def test_elo_by_games_and_by_seeds() -> None:
    """Each of four pairs of seeds: 100 games. Seeds of the first variant have 75% and 50%."""
    wins = {(0, 0): 75, (0, 1): 75, (1, 0): 50, (1, 1): 50}
    matches = {pair: match_of(won, 0, 100 - won) for pair, won in wins.items()}
    found = TRIAL.rating([*matches.values()])
    assert found.elo == pytest.approx(400 * math.log10(250.5 / 150.5), abs=0.1)
    low, high = TRIAL.by_seeds(matches)
    assert high - found.elo == pytest.approx(found.elo - low)
    gap = 400 * math.log10(150.5 / 50.5)  # between the seeds of the one; those of the other agree
    assert high - low == pytest.approx(2 * 4.303 * gap / 2, rel=0.01)


def test_the_half_is_made_nearest_half_the_time() -> None:
    assert TRIAL.halfway([10, 44, 70, 100]) == 1
    assert TRIAL.halfway([10, 20, 30, 100]) == 2
    assert TRIAL.halfway([90, 100]) == 0  # never the last itself


#: Points and losses of these sum to 99.5 and 9.5: with half a point for each side from the prior
#: 100 to 10, which is 400 Elo.
OF_TWO = [(50, 0, 5), (49, 1, 4)]
OF_FOUR = [(25, 0, 2), (25, 0, 2), (25, 0, 2), (24, 1, 3)]


def test_elo_an_hour_and_a_doubling_and_the_factor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 Elo in 300 and 100 seconds, of two doublings and one: 7,200 an hour, 266.7 a doubling.
    Another 400 are one and a half of these."""
    played: list[tuple[str, str]] = []
    halves, others = iter(OF_TWO * 2), iter(OF_FOUR)

    def play(game: str, a: str, b: str, **settings: Any) -> MatchResult:
        played.append((Path(a).name, Path(b).name))
        return match_of(*next(halves if "half" in b else others))

    monkeypatch.setattr(TRIAL, "play_match", play)
    runs = [TRIAL.Trained(variant, seed, tmp_path / f"{variant}{seed}half",
                          tmp_path / f"{variant}{seed}last", (100.0, 400.0 - 200 * seed))
            for variant in (0, 1) for seed in (0, 1)]
    options = Namespace(games=200, seeds=2, variant=["", "x"], sims=[0], out=tmp_path)
    like = Namespace(game=None, config=Namespace(eval=Namespace(opening=(0, 1))))
    plain, other = TRIAL.compared(options, runs, like)
    assert played == [("00last", "00half"), ("01last", "01half"), ("10last", "10half"),
                      ("11last", "11half"), ("10last", "00last"), ("10last", "01last"),
                      ("11last", "00last"), ("11last", "01last")]
    assert plain["elo_an_hour"][0] == pytest.approx(7200)
    assert plain["doubling"][0] == pytest.approx(400 / 1.5)
    assert (plain["doubling"][2] - plain["doubling"][0]) * 1.5 * 18 == pytest.approx(
        plain["elo_an_hour"][2] - 7200)
    assert other["elo"][0] == pytest.approx(400)
    assert other["times"][0] == pytest.approx(math.sqrt(8))
    assert "7200 (" in TRIAL.words(plain) and ", +267 (" in TRIAL.words(plain)
    assert "worth 2.83 (" in TRIAL.words(other) and ") times the time" in TRIAL.words(other)


def test_the_factors_interval_by_hand() -> None:
    """4 (0 to 8) by 5 (2 to 8): (4 - 5 x)**2 = 16 + 9 x**2 where x is 0 or 2.5."""
    assert TRIAL.times_worth(Rating(4, 0, 8), Rating(5, 2, 8)) == pytest.approx(
        [2**0.8, 1, 2**2.5])
    low, high = TRIAL.times_worth(Rating(4, 0, 8), Rating(5, 5 - 1e-9, 5 + 1e-9))[1:]
    assert (low, high) == pytest.approx((1, 2**1.6))  # of a doubling that is known
    assert math.isfinite(TRIAL.times_worth(Rating(900, 800, 1000), Rating(9, 0.01, 17.99))[2])


def test_the_factors_interval_holds_the_truth_in_95_of_100() -> None:
    """Of 20,000 trials in which a variant wins 60 Elo and a doubling 50, each with an error of 10:
    without the doubling's own error it would be 79 of 100."""
    draws = np.random.default_rng(0).normal((60, 50), 10, (20_000, 2))
    half = 1.959964 * 10
    found = [TRIAL.times_worth(*(Rating(x, x - half, x + half) for x in pair)) for pair in draws]
    held = [one[1] <= 2**1.2 <= one[2] for one in found if one is not None]
    assert len(held) > 19_900
    assert np.mean(held) == pytest.approx(0.95, abs=0.006)  # 4 standard errors


@pytest.mark.parametrize(("doubling", "why"), [
    (Rating(10.0, -20.0, 40.0), "is not told apart from nothing"),
    (Rating(-10.0, -40.0, 20.0), "is not told apart from nothing"),
    (Rating(-50.0, -80.0, -20.0), "does not pay")])
def test_a_doubling_that_brings_nothing_gives_words(doubling: Rating, why: str) -> None:
    assert TRIAL.times_worth(Rating(30.0, 10.0, 50.0), doubling) is None
    said = TRIAL.words({
        "sims": 0, "variant": "x", "elo_an_hour": [1.0, 0.0, 2.0], "elo": [30.0, 10.0, 50.0],
        "by_seeds": [0.0, 60.0], "games": 400, "points": {"0-0": 0.5}, "times": None,
        "doubling": list(doubling)})
    assert f"a doubling of the time {why}, so" in said
    assert "nan" not in said and "times the time" not in said
