"""Sequential tests: the formulas beside other programs' figures, error rates, and matches that end
when they are decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom
from script import load

from selfplay.arena.contest.sprt import H0, H1, Sprt, Trial, parse_sprt
from selfplay.arena.match import play_match
from selfplay.arena.records import GameRecord
from selfplay.common.errors import UserError
from selfplay.games import make

#: Bounds, model, counts from the worst outcome on, the ratio, as fastchess publishes them (its own
#: tests, and the last one its pull request 783).
PUBLISHED = [
    (0, 2, "normalized", [36027, 68692, 36433], 0.92),
    (-1.75, 0.25, "normalized", [10650, 20431, 10871], 2.30),
    (0.5, 2.5, "logistic", [21184, 40708, 21404], -1.57),
    (0, 2, "logistic", [57030, 106593, 57433], -2.59),
    (0, 2, "normalized", [365, 16618, 36229, 16974, 390], 2.25),
    (-1.75, 0.25, "normalized", [127, 4883, 10712, 5150, 104], 3.01),
    (0.5, 2.5, "logistic", [223, 9863, 21279, 10037, 246], -3.07),
    (0, 2, "logistic", [871, 26175, 55983, 26678, 821], -4.98),
    (0, 2, "normalized", [379, 10170, 21828, 10640, 343], 2.946),
]


@pytest.mark.parametrize(("elo0", "elo1", "model", "counts", "llr"), PUBLISHED)
def test_the_ratio_is_fastchess_s(elo0: float, elo1: float, model: str, counts: list[int],
                                  llr: float) -> None:
    found = Sprt(elo0, elo1, model=model, outcomes=len(counts)).llr(counts)
    assert found == pytest.approx(llr, abs=0.011)


def slow_llr(test: Sprt, counts: list[float]) -> float:
    """By a general optimiser: the likeliest distributions with the mean of each hypothesis."""
    seen = np.array([count or 1e-3 for count in counts])
    scores = np.linspace(0, 1, len(seen))

    def loss(p: np.ndarray) -> float:
        return float(-(seen / seen.sum() * np.log(p)).sum())

    def gap(p: np.ndarray, elo: float) -> float:
        mean = float(p @ scores)
        if test.model == "logistic":
            return mean - 1 / (1 + 10 ** (-elo / 400))
        one_game = np.sqrt(p @ (scores - mean) ** 2 * (len(seen) // 2))  # of independent games
        return (mean - 0.5) / one_game - elo * np.log(10) / 800

    def best(elo: float) -> float:
        return float(min(
            (minimize(loss, start, bounds=[(1e-12, 1)] * len(seen), method="SLSQP",
                      options={"ftol": 1e-15, "maxiter": 2000},
                      constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1},
                                   {"type": "eq", "fun": gap, "args": (elo,)}])
             for start in (seen / seen.sum(), np.full(len(seen), 1 / len(seen)))),
            key=lambda found: found.fun if found.success else np.inf).fun)

    return float(seen.sum() * (best(test.elo0) - best(test.elo1)))


@pytest.mark.parametrize("model", ["logistic", "normalized"])
@pytest.mark.parametrize("counts", [[4, 3, 9], [0, 2, 5], [1, 3, 6, 4, 2], [0, 1, 4, 6, 3],
                                    [30, 5, 80, 40, 60]])
def test_the_ratio_is_that_of_the_likeliest_distributions(model: str, counts: list[int]) -> None:
    test = Sprt(-10, 35, model=model, outcomes=len(counts))
    assert test.llr(counts) == pytest.approx(slow_llr(test, counts), abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_ratings_far_from_what_is_seen_have_a_ratio() -> None:
    for counts in ([0, 0, 30], [1, 0, 0, 3, 30], [0, 30, 0], [0, 0, 0, 0, 30], [30, 4, 0, 0, 0]):
        far, near = (Sprt(elo0, elo1, model="normalized", outcomes=len(counts))
                     for elo0, elo1 in ((0, 3999), (300, 700)))
        assert np.isfinite(far.llr(counts)) and np.isfinite(near.llr(counts))
        if counts == [1, 0, 0, 3, 30]:  # where the optimiser is soon there
            assert near.llr(counts) == pytest.approx(slow_llr(near, counts), abs=1e-3)


@pytest.mark.parametrize(("model", "outcomes", "runs", "elo"), [
    ("logistic", 3, 400, 100), ("logistic", 5, 400, 100), ("normalized", 5, 200, 100)])
def test_wrong_ends_are_as_rare_as_promised(model: str, outcomes: int, runs: int, elo: int) -> None:
    """At either bound; the number of wrong ends is binomial."""
    script = load("sprt_sim")
    test = Sprt(0, elo, alpha=0.05, beta=0.1, model=model, outcomes=outcomes)
    share = next(share for made, share in script.cases(0.3) if made.outcomes == outcomes)
    at0 = script.simulated(test, script.tilted(share, 0, model), runs)
    at1 = script.simulated(test, script.tilted(share, elo, model), runs, seed=1)
    assert at0.h1 <= binom.ppf(0.999, runs, 0.05)
    assert runs - at1.h1 <= binom.ppf(0.999, runs, 0.1)
    assert at0.h1 + runs - at1.h1 > binom.ppf(0.001, runs, 0.05)  # nor far rarer, at more games
    above = script.simulated(test, script.tilted(share, 2.5 * elo, model), 100)
    assert above.h1 == 100 and above.games.mean() < 0.6 * at1.games.mean()


@pytest.mark.parametrize("model", ["logistic", "normalized"])
def test_the_quick_ratio_changes_no_run(model: str) -> None:
    """The script asks the test's ratio near the bounds only; here also at every look."""
    script = load("sprt_sim")
    test, pair = Sprt(0, 40, model=model), np.array([0.12, 0.21, 0.34, 0.21, 0.12])
    share = script.tilted(pair, 40, model)
    quick, slow = (script.simulated(test, share, 60, **{**script.QUICK, "near": near})
                   for near in (script.QUICK["near"], np.inf))
    assert quick.h1 == slow.h1 and quick.games.tolist() == slow.games.tolist()


def test_pairs_that_depend_on_each_other_need_fewer_games() -> None:
    """Games from an unfair opening: who has the better side wins, so that pairs are mostly even."""
    script = load("sprt_sim")
    pair = np.array([0.02, 0.08, 0.8, 0.08, 0.02])
    game = np.array([0.44, 0.12, 0.44])  # what single games of such pairs are
    few = script.simulated(Sprt(0, 80), script.tilted(pair, 80, "logistic"), 100)
    many = script.simulated(Sprt(0, 80, outcomes=3), script.tilted(game, 80, "logistic"), 100)
    assert few.games.mean() < many.games.mean() / 2


def record(index: int, value: float, *actions: int) -> GameRecord:
    return GameRecord(index, 0, ("x", "y"), (index, *actions), 0, value, None, "win")


def test_a_trial_looks_at_games_in_their_order() -> None:
    test = Sprt(0, 400)
    games = [record(k, 1 if k % 2 == 0 else -1) for k in range(40)]  # A wins them all
    one = Trial(test)
    one.add(games)
    other = Trial(test)
    for game in reversed(games[1:]):
        other.add([game])
    assert (other.games, other.llr, other.decision) == (0, 0.0, "")
    other.add(games[:1])
    assert one.decision == H1 and 0 < one.games < 40
    assert (other.games, other.llr, other.decision) == (one.games, one.llr, H1)
    assert one.counts.tolist() == [0, 0, 0, 0, one.games / 2]
    lost = Trial(test)
    lost.add(record(k, -1 if k % 2 == 0 else 1) for k in range(40))
    assert lost.decision == H0 and "H0 accepted" in lost.summary()


def test_repeated_games_are_no_evidence() -> None:
    test = Sprt(0, 100)
    fresh, stale = Trial(test), Trial(test)
    fresh.add(record(k, 1 if k % 2 == 0 else -1) for k in range(8))
    stale.add(GameRecord(k, 0, ("x", "y"), (k % 2,), 0, 1 if k % 2 == 0 else -1, None, "win")
              for k in range(400))
    assert stale.decision == "" and stale.llr < fresh.llr
    assert "open after 400 games" in stale.summary()


def test_the_way_to_a_bound_is_told() -> None:
    trial = Trial(Sprt(0, 400))
    assert trial.share == 0 and trial.in_flight() == 8
    trial.add(record(k, 1 if k % 2 == 0 else -1) for k in range(2))
    assert trial.share == pytest.approx(trial.llr / 2.944, abs=1e-3) and 0 < trial.share < 1
    trial.add(record(k, 1 if k % 2 == 0 else -1) for k in range(2, 40))
    assert trial.share == 1 and trial.in_flight() == trial.games > 8


def test_a_decision_stops_a_match_of_many_slots_early() -> None:
    """64 games at once would all be played; what is decided does not depend on the slots."""
    game, trials = make("tictactoe"), (Trial(Sprt(0, 200)), Trial(Sprt(0, 200)))
    ended: list[GameRecord] = []
    many = play_match(game, "mcts:30", "random", games=1000, slots=64, trial=trials[0],
                      ended=ended.append)
    few = play_match(game, "mcts:30", "random", games=1000, slots=4, trial=trials[1])
    assert trials[0].decision == H1 and many.games == few.games < 40
    assert len(ended) <= many.games + 16 and trials[0].llr == trials[1].llr


def test_words_of_a_test() -> None:
    assert parse_sprt("0,10") == Sprt(0, 10, 0.05, 0.05, "logistic", 5)
    assert parse_sprt("-3, 1, trinomial, normalized", 0.1, 0.2) == Sprt(
        -3, 1, 0.1, 0.2, "normalized", 3)
    assert Sprt(0, 10).bounds == pytest.approx((-2.944, 2.944), abs=1e-3)
    for wrong, words in (("5", "ELO0,ELO1"), ("5,5", "the lower first"), ("0,x", "ELO0,ELO1"),
                         ("0,nan", "between -4000"), ("0,5,penta", "did you mean pentanomial")):
        with pytest.raises(UserError, match=words):
            parse_sprt(wrong)
    with pytest.raises(UserError, match="add up to less than 1"):
        parse_sprt("0,5", 0.6, 0.6)
