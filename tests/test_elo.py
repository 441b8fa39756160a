from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from selfplay.arena.elo import PRIOR, fit, informative
from selfplay.common.errors import UserError


def test_two_players_closed_form() -> None:
    """30 wins, 4 draws, 6 losses and the prior's draw: 32.5 points of 41."""
    rating = fit([("a", "b", 30, 4, 6)], anchor="b")["a"]
    p = 32.5 / 41
    assert rating.elo == pytest.approx(400 * math.log10(p / (1 - p)), abs=1e-6)
    spread = 1.959964 * 400 / math.log(10) / math.sqrt(41 * p * (1 - p))
    assert rating.high - rating.elo == pytest.approx(spread, rel=1e-6)
    assert rating.elo - rating.low == pytest.approx(spread, rel=1e-6)


def test_a_difference_of_400_is_ten_to_one() -> None:
    assert fit([("a", "b", 1000, 0, 100)], anchor="b", prior=0)["a"].elo == pytest.approx(400)


def test_the_anchor_is_zero_and_orientation_is_free() -> None:
    one = fit([("a", "b", 7, 2, 1), ("b", "c", 3, 3, 4)], anchor="c")
    other = fit([("b", "a", 1, 2, 7), ("c", "b", 4, 3, 3)], anchor="c")
    assert one["c"] == (0.0, 0.0, 0.0)
    for name in "abc":
        assert one[name] == pytest.approx(other[name], abs=1e-6)
    moved = fit([("a", "b", 7, 2, 1), ("b", "c", 3, 3, 4)], anchor="a")
    assert moved["c"].elo == pytest.approx(-one["a"].elo, abs=1e-6)


def test_a_clean_sweep_stays_finite_and_wide() -> None:
    rating = fit([("a", "b", 60, 0, 0)], anchor="b")["a"]
    assert rating.elo == pytest.approx(400 * math.log10(60.5 / 0.5), abs=1e-4)
    assert math.isfinite(rating.low) and rating.high - rating.low > 500
    with pytest.raises(UserError, match="prior"):
        fit([("a", "b", 60, 0, 0)], anchor="b", prior=0)


@pytest.mark.parametrize(("rungs", "won", "lost"), [(11, 20, 0), (15, 95, 5), (60, 20, 0)])
def test_a_long_ladder_adds_up_its_rungs(rungs: int, won: int, lost: int) -> None:
    """A chain has no circle, so that every rung is as high as it would be alone."""
    chain = [(f"{k + 1}", f"{k}", won, 0, lost) for k in range(rungs)]
    rung = 400 * math.log10((won + 0.5) / (lost + 0.5))
    top = fit(chain, anchor="0")[f"{rungs}"]
    assert top.elo == pytest.approx(rungs * rung, rel=1e-6)
    alone = fit(chain[:1], anchor="0")["1"]
    assert top.high - top.elo == pytest.approx(
        math.sqrt(rungs) * (alone.high - alone.elo), rel=1e-4)


def test_players_without_a_chain_to_the_anchor_are_left_out() -> None:
    ratings = fit([("a", "b", 3, 0, 2), ("c", "d", 3, 0, 2), ("e", "b", 0, 0, 0)], anchor="b")
    assert set(ratings) == {"a", "b"}
    assert fit([], anchor="x") == {"x": (0.0, 0.0, 0.0)}


results = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 30), st.integers(0, 10),
              st.integers(0, 30)).filter(lambda r: r[0] != r[1]),
    min_size=1, max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(results)
def test_it_maximises_the_likelihood(rows: list[tuple[int, int, int, int, int]]) -> None:
    named = [(f"p{a}", f"p{b}", w, d, ls) for a, b, w, d, ls in rows]
    ratings = fit(named, anchor="p0")
    names = [name for name in ratings if name != "p0"]
    if not names:
        return
    counted = [r for r in named if r[0] in ratings and r[2] + r[3] + r[4]]
    pairs = {frozenset(r[:2]) for r in counted}

    def loss(free: np.ndarray) -> float:
        theta = {"p0": 0.0, **dict(zip(names, free, strict=True))}
        total = 0.0
        for a, b, wins, draws, losses in counted:
            p = 1 / (1 + 10 ** ((theta[b] - theta[a]) / 400))
            total -= (wins + draws / 2) * math.log(p) + (losses + draws / 2) * math.log(1 - p)
        for a, b in map(sorted, pairs):
            p = 1 / (1 + 10 ** ((theta[b] - theta[a]) / 400))
            total -= PRIOR / 2 * (math.log(p) + math.log(1 - p))
        return total

    found = np.array([ratings[name].elo for name in names])
    best = minimize(loss, found, method="BFGS", options={"gtol": 1e-7})
    assert loss(found) <= best.fun + 1e-6


def test_simulated_players_are_recovered_and_covered() -> None:
    """True ratings lie in the 95% intervals about 95% of the time."""
    truth = {"r": 0.0, "s": 120.0, "t": 300.0, "u": 450.0}
    pairs = [("s", "r"), ("t", "s"), ("u", "t"), ("t", "r")]
    rng = np.random.default_rng(1)
    inside, total, found = 0, 0, []
    for _ in range(150):
        rows = []
        for a, b in pairs:
            wins = rng.binomial(200, 1 / (1 + 10 ** ((truth[b] - truth[a]) / 400)))
            rows.append((a, b, wins, 0, 200 - wins))
        ratings = fit(rows, anchor="r")
        found.append([ratings[name].elo for name in "stu"])
        for name in "stu":
            inside += ratings[name].low <= truth[name] <= ratings[name].high
            total += 1
    assert 0.92 < inside / total < 0.98
    np.testing.assert_allclose(np.mean(found, 0), [120, 300, 450], atol=8)


def test_intervals_from_the_mean_of_some() -> None:
    """Of one player: as if it were the anchor. Of two: half of their difference's interval."""
    results = [("a", "r", 60, 0, 0), ("b", "r", 59, 0, 1), ("a", "b", 60, 10, 40),
               ("c", "b", 30, 0, 20)]
    plain, other = fit(results, anchor="r"), fit(results, anchor="b")
    moved = fit(results, anchor="r", centre=["b", "nobody"])
    for name in "rabc":
        assert moved[name].elo == pytest.approx(plain[name].elo)
        assert moved[name].high - moved[name].low == pytest.approx(
            other[name].high - other[name].low, abs=1e-6)
    pair = fit(results, anchor="r", centre=["a", "b"])
    for name in "ab":
        assert pair[name].high - pair[name].low == pytest.approx(
            (other["a"].high - other["a"].low) / 2)
        assert plain[name].high - plain[name].low > 3 * (pair[name].high - pair[name].low)


def test_what_more_games_would_tell_is_what_they_tell() -> None:
    """The foretold shrinking of the variance, beside fits with the games that are expected."""
    rows = [("a", "b", 30, 0, 20), ("b", "c", 12, 6, 10), ("c", "random", 15, 0, 5)]
    nets = ["a", "b", "c"]

    def variance(results: list[tuple[str, str, float, float, float]]) -> float:
        found = fit(results, "random", centre=nets)
        return sum(((found[name].high - found[name].low) / 2 / 1.959964) ** 2 for name in nets)

    ratings = fit(rows, "random")
    candidates = [("a", "b", 40), ("a", "c", 40), ("c", "random", 40), ("b", "nobody", 40)]
    gains = informative(rows, "random", candidates, nets)
    assert gains[3] == 0 and gains[2] == pytest.approx(0, abs=1e-9)  # tells nothing about nets
    for (a, b, games), gain in zip(candidates[:2], gains, strict=False):
        score = 1 / (1 + 10 ** ((ratings[b].elo - ratings[a].elo) / 400))
        won = games * score  # as expected, so that the ratings stay
        more = [(a, b, won, 0, games - won)]
        prior = (a, b) not in [(r[0], r[1]) for r in rows]  # new: gets a virtual draw
        told = variance(rows) - variance(rows + more)
        assert gain == pytest.approx(told, rel=0.03 if prior else 1e-6)
    assert gains[1] > gains[0]  # the pair that is known least
    assert informative([], "random", candidates, nets) == [0, 0, 0, 0]
