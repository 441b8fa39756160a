"""Losses against numbers worked by hand and against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from selfplay.learn import losses


def test_policy_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])  # p = (1/4, 3/4) and (1/2, 1/2)
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = [-(math.log(0.25) + math.log(0.75)) / 2, math.log(2.0)]
    assert losses.policy_loss(logits, target).tolist() == pytest.approx(expected)


def test_policy_loss_is_torchs_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(7, 11), torch.rand(7, 11).softmax(-1)
    expected = F.cross_entropy(logits, target, reduction="none")
    assert torch.allclose(losses.policy_loss(logits, target), expected, atol=1e-6)
    hard = torch.randint(0, 11, (7,))
    one_hot = F.one_hot(hard, 11).float()
    assert torch.allclose(losses.policy_loss(logits, one_hot), -losses.gather_logp(logits, hard))


def test_policy_loss_ignores_forbidden_actions_of_target_zero() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]], requires_grad=True)
    loss = losses.policy_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    assert loss.item() == pytest.approx(math.log(2.0))
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("z", "v", "expected"), [
    (0.0, 1.0, math.log(2.0)),
    (0.0, 0.0, math.log(2.0)),
    (0.5 * math.log(3.0), 1.0, -math.log(0.75)),  # sigmoid(log 3) = 3/4
    (0.5 * math.log(3.0), -1.0, -math.log(0.25)),
    (0.5 * math.log(3.0), 0.0, -(math.log(0.75) + math.log(0.25)) / 2),
])
def test_value_loss_by_hand(z: float, v: float, expected: float) -> None:
    assert losses.value_loss(torch.tensor([z]), torch.tensor([v])).item() == pytest.approx(expected)


@given(st.floats(-3, 3), st.floats(-0.99, 0.99))
@settings(max_examples=50, deadline=None)
def test_value_loss_is_least_where_tanh_z_is_the_target(z: float, v: float) -> None:
    target = torch.tensor([v])
    best = losses.value_loss(torch.atanh(target), target)
    assert losses.value_loss(torch.tensor([z]), target) >= best - 1e-6


def test_value_gradient_is_the_error() -> None:
    """d/dz of the loss is tanh z - v (twice the error in winning probability)."""
    z = torch.tensor([-2.0, 0.3, 1.7], requires_grad=True)
    v = torch.tensor([1.0, 0.0, -1.0])
    losses.value_loss(z, v).sum().backward()
    assert torch.allclose(z.grad, torch.tanh(z.detach()) - v, atol=1e-6)


def test_ownership_loss_is_the_mean_over_points() -> None:
    z = torch.tensor([[0.0, 0.5 * math.log(3.0)]])
    target = torch.tensor([[1.0, 1.0]])
    expected = (math.log(2.0) - math.log(0.75)) / 2
    assert losses.ownership_loss(z, target).item() == pytest.approx(expected)


@pytest.mark.parametrize(("error", "expected"), [(0, 0), (2, 2), (-12, 72), (20, 168), (-20, 168)])
def test_score_loss_by_hand(error: float, expected: float) -> None:
    loss = losses.score_loss(torch.tensor([5.0 + error]), torch.tensor([5.0]))
    assert loss.item() == pytest.approx(expected)


def test_gather_logp_of_boards_and_of_sequences() -> None:
    torch.manual_seed(1)
    logits, actions = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    got = losses.gather_logp(logits, actions)
    for n in range(2):
        for t in range(3):
            expected = torch.distributions.Categorical(logits=logits[n, t]).log_prob(actions[n, t])
            assert got[n, t].item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.equal(losses.gather_logp(logits[:, 0], actions[:, 0]), got[:, 0])


def test_masked_logp_renormalises() -> None:
    logits = torch.tensor([[1.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    assert losses.gather_logp(logits, torch.tensor([1]), mask).item() == pytest.approx(
        math.log(0.5))


def test_entropy_by_hand_and_with_a_mask() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    assert losses.entropy(logits).item() == pytest.approx(math.log(4.0))
    mask = torch.tensor([[True, False, True, False]])
    assert losses.entropy(logits, mask).item() == pytest.approx(math.log(2.0))
    single = torch.tensor([[False, False, False, True]])
    assert losses.entropy(logits, single).item() == pytest.approx(0.0, abs=1e-7)


def test_masked_entropy_has_a_finite_gradient() -> None:
    logits = torch.randn(3, 6, requires_grad=True)
    mask = torch.tensor([[True] * 3 + [False] * 3] * 3)
    losses.entropy(logits, mask).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 3:] == 0).all() and (logits.grad[:, :3] != 0).any()


def test_masked_mean_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert losses.masked_mean(values, torch.tensor([1.0, 0.0, 3.0])).item() == pytest.approx(19 / 4)
    assert losses.masked_mean(values, torch.zeros(3)).item() == 0
    odd = torch.tensor([1.0, torch.nan])
    assert losses.masked_mean(odd, torch.tensor([2.0, 0.0])).item() == 1


def test_low_precision_logits_give_full_precision_losses() -> None:
    logits, target = torch.randn(4, 9).bfloat16(), torch.rand(4, 9).softmax(-1)
    assert losses.policy_loss(logits, target).dtype == torch.float32
    assert losses.value_loss(logits[:, 0], target[:, 0]).dtype == torch.float32


@pytest.mark.parametrize("call", [
    lambda: losses.policy_loss(torch.zeros(4, 3), torch.zeros(4, 2)),
    lambda: losses.value_loss(torch.zeros(4), torch.zeros(4, 1)),
    lambda: losses.score_loss(torch.zeros(4, 1), torch.zeros(4)),
    lambda: losses.masked_mean(torch.zeros(4), torch.zeros(4, 1)),
    lambda: losses.gather_logp(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
    lambda: losses.entropy(torch.zeros(4, 3), torch.ones(3, dtype=torch.bool)),
])
def test_shapes_that_would_broadcast_are_refused(call: Callable[[], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        call()
