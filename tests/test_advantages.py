"""Returns and advantages against hand-worked numbers, definitions written out, and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.learn import advantages

T, F = True, False


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_returns_by_hand() -> None:
    reward, mask = table([1, 2, 4, 9], [3, 9, 9, 9]), torch.tensor([[T, T, T, F], [T, F, F, F]])
    assert advantages.returns(reward, mask, 0.5).tolist() == [[3, 4, 4, 0], [3, 0, 0, 0]]


def test_gae_by_hand() -> None:
    """gamma 0.5, lam 0.5: deltas 1 + .5*4 - 2 = 1 and 2 - 4 = -2; A_0 = 1 + .25 * -2."""
    reward, value = table([1, 2, 7]), table([2, 4, 7])
    mask = torch.tensor([[T, T, F]])
    assert advantages.gae(reward, value, mask, 0.5, 0.5).tolist() == [[0.5, -2.0, 0.0]]
    # cut off where the critic still expects 6: delta_1 = 2 + .5*6 - 4 = 1, A_0 = 1 + .25
    cut = advantages.gae(reward, value, mask, 0.5, 0.5, bootstrap=torch.tensor([6.0]))
    assert cut.tolist() == [[1.25, 1.0, 0.0]]


numbers = st.floats(-3, 3, width=32)


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, t = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def array(entry: st.SearchStrategy) -> np.ndarray:
        rows = st.lists(st.lists(entry, min_size=t, max_size=t), min_size=n, max_size=n)
        return np.array(draw(rows))

    return array(numbers), array(numbers), array(st.booleans())


@settings(deadline=None)
@given(trajectories(), st.floats(0.1, 1), st.floats(0, 1))
def test_gae_is_the_sum_over_the_real_steps(
    data: tuple[np.ndarray, ...], gamma: float, lam: float
) -> None:
    """Eq. 16 as a sum, over each trajectory's real steps as if there were no others."""
    reward, value, mask = data
    found = advantages.gae(*(torch.tensor(a) for a in (reward, value, mask)), gamma, lam)
    for row in range(len(mask)):
        real = np.flatnonzero(mask[row])
        r, v = reward[row, real], np.append(value[row, real], 0.0)
        deltas = r + gamma * v[1:] - v[:-1]
        wanted = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(real)))
                  for t in range(len(real))]
        np.testing.assert_allclose(found[row, real], wanted, atol=1e-4)
        assert not found[row, ~mask[row]].any()


def test_what_stands_at_other_steps_is_never_looked_at() -> None:
    mask = torch.tensor([[T, F, T]])
    clean, dirty = table([1, 0, 2]), table([1, math.nan, 2])
    for of in (lambda x: advantages.returns(x, mask), lambda x: advantages.gae(x, x, mask),
               lambda x: advantages.whiten(x, mask), lambda x: advantages.scores(x, mask)):
        assert torch.equal(of(clean), of(dirty))


def test_gae_at_lambda_one_is_the_return_less_the_value() -> None:
    torch.manual_seed(0)
    reward, value = torch.randn(3, 5), torch.randn(3, 5)
    mask = torch.arange(5)[None] < torch.tensor([[5], [2], [1]])
    wanted = (advantages.returns(reward, mask, 0.9) - value).masked_fill(~mask, 0)
    torch.testing.assert_close(advantages.gae(reward, value, mask, 0.9, 1.0), wanted)


def test_group_relative_by_hand() -> None:
    """(1, 0, 0): mean 1/3, deviation sqrt(1/3); the group of one and the unanimous one get 0."""
    score, group = torch.tensor([1.0, 5, 0, 2, 0, 2]), torch.tensor([7, 3, 7, 4, 7, 4])
    found = advantages.group_relative(score, group)
    high, low = (2 / 3) / (math.sqrt(1 / 3) + 1e-4), (-1 / 3) / (math.sqrt(1 / 3) + 1e-4)
    torch.testing.assert_close(found, torch.tensor([high, 0, low, 0, low, 0]))
    plain = advantages.group_relative(score, group, normalise_std=False)
    torch.testing.assert_close(plain, torch.tensor([2 / 3, 0, -1 / 3, 0, -1 / 3, 0]))
    assert advantages.signal(score, group).tolist() == [False, False, True]


def test_leave_one_out_is_the_score_less_the_others_mean() -> None:
    score, group = torch.tensor([1.0, 4.0, 0.0, 9.0]), torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(advantages.leave_one_out(score, group),
                               torch.tensor([1 - 2, 4 - 0.5, 0 - 2.5, 0]))


@pytest.mark.parametrize("value", [0.05, 0.1, 1 / 3, -0.7])
@pytest.mark.parametrize("size", [3, 7, 11])
def test_a_group_in_which_all_fare_alike_gets_nothing(value: float, size: int) -> None:
    """To the last bit: the mean of seven times 0.05 is not 0.05 in float32."""
    score = torch.tensor([value] * size + [1.0, 2.0, 4.0])
    group = torch.tensor([4] * size + [2] * 3)
    for found in (advantages.group_relative(score, group),
                  advantages.group_relative(score, group, normalise_std=False),
                  advantages.leave_one_out(score, group)):
        assert found[:size].tolist() == [0.0] * size
        assert (found[size:] != 0).all()


def test_groups_and_scores_must_match() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        advantages.group_relative(torch.zeros(3), torch.zeros(3, 1))


def test_whitened_over_the_real_steps() -> None:
    mask = torch.tensor([[T, T, F], [T, T, T]])
    out = advantages.whiten(table([1, 2, 99], [3, 4, 5]), mask)
    assert float(out[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(out[mask].std()) == pytest.approx(1, abs=1e-5)
    assert float(out[0, 2]) == 0
