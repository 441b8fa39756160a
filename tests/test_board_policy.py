"""A board's policy: what it draws, what it says afterwards, against sums written out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfplay.board.policy import BoardPolicy, Turn, freeze_unused, inputs_of
from selfplay.games import make
from selfplay.learn import losses
from selfplay.learn.rollout import Rollout
from selfplay.models import build, seeded, spec_for
from selfplay.search import random as rng

GAME = make("tictactoe")


def policy(game: Any = GAME, size: str = "2x8", dtype: str = "float32") -> BoardPolicy:
    spec = spec_for(game, size)
    net = seeded(0, lambda: build(spec)).eval()
    with torch.no_grad():  # BatchNorms whose statistics are not those of a batch, nor 0 and 1
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return BoardPolicy(net, game.obs_shape, game.num_actions, dtype=dtype)


def positions(game: Any, count: int, plies: int, seed: int = 0) -> Any:
    states, draw = game.new(count), np.random.default_rng(seed)
    for _ in range(plies):
        legal = game.legal(states)
        game.step(states, np.where(legal.any(1), (legal + draw.random(legal.shape)).argmax(1), -1))
    return states


def rollout_of(game: Any, mask: np.ndarray, seed: int = 0) -> Rollout:
    """A position after t plies at [n, t], and a legal action in it; what is not real is noise."""
    n, t = mask.shape
    draw = np.random.default_rng(seed)
    columns = []
    for ply in range(t):
        states = positions(game, n, ply, seed)
        legal = game.legal(states)
        action = (legal + draw.random(legal.shape)).argmax(1)
        columns.append((*inputs_of(game, game.observe(states), legal), action))
    obs, legal, action = (np.stack(parts, 1) for parts in zip(*columns, strict=True))
    obs[~mask], legal[~mask], action[~mask] = 255, 0, -7
    ground = torch.zeros(n, t)
    return Rollout({"obs": torch.from_numpy(obs), "legal": torch.from_numpy(legal)},
                   torch.from_numpy(action), torch.from_numpy(mask), ground, ground,
                   torch.zeros(n, dtype=torch.int64))


def expected(policy: BoardPolicy, game: Any, states: Any) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities float64 [n, A], values [n]) by the net itself, one position at a time."""
    legal = game.legal(states)
    probabilities, values = np.zeros(legal.shape), []
    for row, obs in enumerate(game.observe(states)):
        with torch.no_grad():
            out = policy.net(torch.from_numpy(obs)[None].float())
        weights = np.exp(out.policy[0].double().numpy()) * legal[row]
        probabilities[row] = weights / weights.sum()
        values.append(np.tanh(float(out.value[0])))
    return probabilities, np.array(values)


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5", "openspiel:hex(board_size=3)"])
def test_evaluate_is_the_net_at_real_steps(name: str) -> None:
    game = make(name)
    p, mask = policy(game), np.random.default_rng(1).random((7, 4)) < 0.6
    mask[2] = False
    rollout = rollout_of(game, mask)
    with torch.no_grad():
        seen = p.evaluate(rollout)
    for t in range(mask.shape[1]):
        probabilities, values = expected(p, game, positions(game, 7, t))
        for n in range(7):
            if not mask[n, t]:
                assert (seen.logp[n, t], seen.entropy[n, t], seen.value[n, t]) == (0, 0, 0)
                continue
            chances = probabilities[n][probabilities[n] > 0]
            action = int(rollout.action[n, t])
            assert float(seen.logp[n, t]) == pytest.approx(np.log(probabilities[n, action]),
                                                           abs=1e-4)
            assert float(seen.entropy[n, t]) == pytest.approx(-(chances * np.log(chances)).sum(),
                                                              abs=1e-4)
            assert float(seen.value[n, t]) == pytest.approx(values[n], abs=1e-4)


def test_moves_are_drawn_by_the_masked_probabilities() -> None:
    """20,000 draws of one position: each share within 5 standard errors of its probability."""
    p, count = policy(), 20_000
    one = positions(GAME, 1, 3)
    states = type(one)(*(np.repeat(field, count, 0) for field in one))
    legal = GAME.legal(states)
    acted = p.act(Turn(GAME.observe(states), legal, rng.streams(3, np.arange(count)),
                       np.arange(count)))
    (probabilities, *_), _ = expected(p, GAME, one)
    action = acted.action[:, 0].numpy()
    shares = np.bincount(action, minlength=9) / count
    error = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(shares - probabilities) <= 5 * error).all()
    assert (probabilities[legal[0]] > 0.01).all() and (shares[~legal[0]] == 0).all()
    np.testing.assert_allclose(acted.logp[:, 0], np.log(probabilities[action]), atol=1e-4)


def test_a_move_depends_on_its_own_stream_alone() -> None:
    p, states = policy(), positions(GAME, 40, 2)
    obs, legal = GAME.observe(states), GAME.legal(states)
    whole = p.act(Turn(obs, legal, rng.streams(1, np.arange(40)), np.arange(40))).action
    fields, some = rng.streams(1, np.arange(40)), np.arange(5, 23)
    part = p.act(Turn(obs[some], legal[some], fields, some)).action
    assert torch.equal(part, whole[5:23])
    again = p.act(Turn(obs[some], legal[some], fields, some)).action
    assert not torch.equal(again, part)  # the streams have gone on


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 99))
def test_company_changes_nothing(rows: list[int], seed: int) -> None:
    """A step's probability does not depend on what else is evaluated, as BatchNorms stay in eval
    mode, so that the ratio of a minibatch starts at 1."""
    mask = np.random.default_rng(seed).random((7, 3)) < 0.7
    p, rollout = policy(), rollout_of(GAME, mask)
    whole, part = p.evaluate(rollout), p.evaluate(rollout.rows(torch.tensor(rows)))
    steps = part.logp.shape[1]
    assert torch.allclose(part.logp, whole.logp[rows][:, :steps], atol=1e-5)


@pytest.mark.parametrize("name", ["connect4", "go5x5"])
def test_what_acts_says_what_learns_says(name: str) -> None:
    """Folded BatchNorms are the same function; in bfloat16 to its three digits."""
    game = make(name)
    mask = np.ones((6, 4), bool)
    rollout = rollout_of(game, mask)
    p = policy(game)
    exact = p.evaluate(rollout).logp.detach()
    assert torch.allclose(p.frozen().evaluate(rollout).logp, exact, atol=1e-4)
    low = replace(p, dtype="bfloat16")
    for other in (low, low.frozen()):
        assert 0 < (other.evaluate(rollout).logp - exact).abs().max() < 0.1


def test_a_frozen_policy_stays_as_it_was() -> None:
    p, rollout = policy(), rollout_of(GAME, np.ones((3, 3), bool))
    frozen = p.frozen()
    before = frozen.evaluate(rollout).logp
    with torch.no_grad():
        for parameter in p.net.parameters():
            parameter.add_(1.0)
    assert torch.equal(frozen.evaluate(rollout).logp, before)
    assert not torch.allclose(p.evaluate(rollout).logp, before)


def test_heads_that_nothing_depends_on_are_left_alone() -> None:
    game = make("go5x5")
    trained = []
    for critic in (True, False):
        p = policy(game)
        freeze_unused(p, critic)
        trained.append({n for n, q in p.net.named_parameters() if q.requires_grad})
    names = {name for name, _ in p.net.named_parameters()}
    heads = {name for name in names if name.startswith("value.")}
    unused = {name for name in heads if name.split(".")[1] in ("owner", "score")}
    assert len(unused) == 4
    assert trained == [names - unused, names - heads]


class Hand(nn.Module):
    """logits = W x, value = tanh(v x) of an observation x of 2 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.3, -0.2], [0.1, 0.5], [-0.4, 0.2]]))
        self.v = nn.Parameter(torch.tensor([0.7, -0.1]))

    def forward(self, x: torch.Tensor) -> Any:
        flat = x.flatten(1)
        return SimpleNamespace(policy=flat @ self.w.T, value=flat @ self.v)


def test_the_gradient_of_a_step_by_hand() -> None:
    """d log p(a) / dW = (onehot(a) - p) x^T over the legal actions; the value is tanh(v x), and its
    squared error's gradient that of the cross-entropy of ``losses.value_loss``."""
    p = BoardPolicy(Hand(), (2, 1, 1), 3, dtype="float32")
    x, may, action = np.array([2.0, 1.0]), np.array([True, False, True]), 2
    rollout = Rollout(
        {"obs": torch.tensor(x, dtype=torch.float16)[None, None],
         "legal": torch.from_numpy(np.packbits(may))[None, None]},
        torch.tensor([[action]]), torch.tensor([[True]]), torch.zeros(1, 1), torch.zeros(1, 1),
        torch.zeros(1, dtype=torch.int64))
    seen = p.evaluate(rollout)
    (seen.logp.sum() + (seen.value - 0.5).square().sum() / 2).backward()
    w, v = p.net.w.detach().numpy(), p.net.v.detach().numpy()
    weights = np.exp(w @ x) * may
    chances = weights / weights.sum()
    np.testing.assert_allclose(p.net.w.grad, np.outer(np.eye(3)[action] - chances, x), atol=1e-6)
    assert float(seen.value.detach()) == pytest.approx(np.tanh(v @ x), abs=1e-6)
    z = torch.tensor(float(v @ x), requires_grad=True)
    losses.value_loss(z[None], torch.tensor([0.5])).sum().backward()
    np.testing.assert_allclose(p.net.v.grad, float(z.grad) * x, atol=1e-6)
