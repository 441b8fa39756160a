"""Every algorithm is what its name says: against its neighbour, by hand, and against TRL's loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_policy_gradient import evaluated, loss_of, rollout, trl_loss
from test_update import T, chooser, sample, weights
from torch import Tensor

from selfplay.common.errors import UserError
from selfplay.learn import advantages
from selfplay.learn import policy_gradient as pg
from selfplay.learn.config import INFINITE, PGConfig, algorithm, sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout

WIDE = {"clip_low": 0.2, "clip_high": 0.2}

#: (algorithm, neighbour, what makes the one the other, what of it alone differs)
NEIGHBOURS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("rloo", "reinforce", {"estimator": "mean"}, {}),
    ("grpo", "rloo", {"estimator": "leave_one_out", "average": "token"}, {"average": "token"}),
    ("dr_grpo", "grpo", {"normalise_std": True, "average": "sequence"}, {"normalise_std": True}),
    ("gspo", "grpo", {"ratio": "token", **WIDE, "minibatches": 1}, {"ratio": "token"}),
    ("dapo", "grpo", {"average": "sequence", **WIDE, "signal_only": False, "overlong": 0.0,
                      "minibatches": 1}, {"overlong": 0.0}),
    ("dapo", "grpo", {"average": "sequence", **WIDE, "signal_only": False, "overlong": 0.0,
                      "minibatches": 1}, {"signal_only": False}),
    ("dapo", "grpo", {"average": "sequence", **WIDE, "signal_only": False, "overlong": 0.0,
                      "minibatches": 1}, {"clip_high": 0.2}),
    ("cispo", "dapo", {"bounds": "step", "clip_low": 0.2, "clip_high": 0.28}, {}),
    ("maxrl", "grpo", {"estimator": "group", "average": "sequence"}, {"estimator": "group"}),
]


def learnt(config: PGConfig, batches: int = 3) -> Tensor:
    policy, reference = chooser(), chooser()
    optimizer, rng = PolicyOptimizer(policy, sized(config, T)), np.random.default_rng(0)
    for k in range(batches):
        optimizer(outcome(sample(policy, reference, k)), rng)
    return weights(policy)


def outcome(r: Rollout) -> Rollout:
    """Trajectories of different lengths in a group, worth 1 where most choices were right."""
    mask = r.mask & (torch.arange(T) < 3 + torch.arange(len(r))[:, None] % 3)
    right = advantages.scores(r.reward, mask) > mask.sum(1) / 2
    return replace(r, mask=mask, reward=advantages.on_last_step(right.float(), mask))


@pytest.mark.parametrize(("name", "other", "back", "alone"), NEIGHBOURS)
def test_an_algorithm_differs_from_its_neighbour_by_what_it_is_named_for(
    name: str, other: str, back: dict[str, Any], alone: dict[str, Any]
) -> None:
    """Weights after three batches: not the neighbour's, nor those without the one feature; and the
    neighbour's to the bit where all that the name stands for is taken back."""
    rate = {"learning_rate": 5e-2}
    mine, theirs = learnt(algorithm(name, **rate)), learnt(algorithm(other, **rate))
    assert (mine - theirs).abs().max() > 1e-3
    assert torch.equal(learnt(algorithm(name, **rate, **back)), theirs)
    if alone:
        assert (mine - learnt(algorithm(name, **rate, **alone))).abs().max() > 1e-4


def test_the_sequence_ratio_of_gspo_binds() -> None:
    """Of its four minibatches all but the first meet a ratio off 1, and the clip cuts."""
    policy, reference = chooser(), chooser()
    optimizer = PolicyOptimizer(policy, algorithm("gspo", learning_rate=1e-2))
    row = optimizer(sample(policy, reference, 0), np.random.default_rng(0))
    assert row["updates"] == 4 and row["clip_fraction"] > 0.1
    single = PolicyOptimizer(chooser(), algorithm("gspo", learning_rate=1e-2, minibatches=1))
    assert single(sample(chooser(), reference, 0), np.random.default_rng(0))["clip_fraction"] == 0


# ------------------------------------------------------------------------------- by hand: terms


def test_cispo_keeps_the_gradient_of_a_clipped_step() -> None:
    """Ratios 8, 2 and 1/8 with clips at 5 from above and none from below: weights 5, 2 and 1/8."""
    logp = torch.tensor([math.log(8.0), math.log(2.0), -math.log(8.0)], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 2.0])
    loss, cut = pg.clipped_weight(logp.exp(), logp, advantage, INFINITE, 4.0)
    torch.testing.assert_close(
        loss, torch.tensor([-5 * math.log(8), 2 * math.log(2), 0.25 * math.log(8)]))
    assert cut.tolist() == [True, False, False]
    loss.sum().backward()
    torch.testing.assert_close(logp.grad, torch.tensor([-5.0, 2.0, -0.25]))
    logp.grad = None
    pg.clipped_surrogate(logp.exp(), advantage, 0.2, 0.2)[0].sum().backward()
    assert logp.grad[0] == 0, "a step beyond PPO's clip has none"


def test_cispo_is_trls() -> None:
    r, config = rollout(), PGConfig(estimator="group", bounds="weight", clip_low=INFINITE,
                                    clip_high=0.5, kl_weight=0.04)
    now = evaluated(r)
    ours, figures = loss_of(r, now, config)
    advantage = advantages.group_relative((r.reward * r.mask).sum(1), r.group)
    theirs = trl_loss("cispo", "token", replace(config, clip_high=1.5), r, now, advantage)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours, now.logp)[0],
                               torch.autograd.grad(theirs, now.logp)[0], atol=1e-5, rtol=0)
    assert 0 < float(figures["clip_fraction"]) < 1


def test_maxrl_by_hand() -> None:
    """One right of four gets (4 - 1) / 1 = 3, the others -1; three right 1/3 each; none 0."""
    group = torch.arange(3).repeat_interleave(4)
    score = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0])
    found = advantages.likelihood_relative(score, group)
    third = 1 / 3
    torch.testing.assert_close(
        found, torch.tensor([3.0, -1, -1, -1, third, third, third, -1, 0, 0, 0, 0]))
    games = advantages.likelihood_relative(2 * score - 1, group, 1.0)  # won 1, lost -1
    torch.testing.assert_close(games, found)
    with pytest.raises(UserError, match=r"pg\.worst=0: there is a reward of -1.* to 1 or more"):
        advantages.likelihood_relative(2 * score - 1, group)


def test_maxrl_estimates_the_likelihoods_expansion() -> None:
    """Of all draws of n = 4 from a coin of p, in expectation: the gradient of the sum over k up to
    3 of -(1 - p)^k / k, by p's logit."""
    logit = torch.tensor(-0.7, requires_grad=True)
    p, n = torch.sigmoid(logit), 4
    wanted, = torch.autograd.grad(-sum((1 - p) ** k / k for k in range(1, n)), logit)
    p, total = float(p.detach()), 0.0
    for draw in np.ndindex(*[2] * n):
        score = torch.tensor(draw, dtype=torch.float32)
        advantage = advantages.likelihood_relative(score, torch.zeros(n, dtype=torch.long))
        slope = score - p  # of log p(draw) by the logit
        total += float(p ** sum(draw) * (1 - p) ** (n - sum(draw)) * (advantage * slope).mean())
    assert total == pytest.approx(float(wanted), abs=1e-6)


def test_overlong_shaping_by_hand() -> None:
    """DAPO's numbers: 16,384 steps and a buffer of 4,096."""
    length = torch.tensor([100, 16_384, 18_432, 20_480])
    torch.testing.assert_close(advantages.overlong(length, 20_480, 0.2),
                               torch.tensor([0.0, 0.0, -0.5, -1.0]))
    mask = torch.arange(10)[None] < torch.tensor([[10], [9], [8]])
    r = Rollout({}, torch.zeros(3, 10, dtype=torch.long), mask, torch.zeros(3, 10),
                advantages.on_last_step(torch.ones(3), mask), torch.zeros(3, dtype=torch.long))
    shaped = advantages.shaped(r, PGConfig(overlong=0.2, constant_length=10))
    assert advantages.scores(shaped, mask).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="constant_length"):
        advantages.overlong(length, 0, 0.2)


def test_being_shorter_by_hand() -> None:
    length, group = torch.tensor([10.0, 20, 30, 30, 7, 7]), torch.tensor([0, 0, 0, 0, 1, 1])
    score = torch.tensor([1.0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(advantages.shorter(length, score, group),
                               torch.tensor([0.5, 0, -0.5, -0.5, 0, 0]))
    torch.testing.assert_close(  # wrong ones gain nothing by being short
        advantages.shorter(length, 1 - score, group), torch.tensor([0.0, 0, -0.5, -0.5, 0, 0]))
    r = rollout()
    plain = advantages.shaped(r, PGConfig())
    assert torch.equal(plain, r.reward.masked_fill(~r.mask, 0))
    assert not torch.equal(advantages.shaped(r, PGConfig(length_weight=0.1)), plain)


def test_samplers_that_differ_by_hand() -> None:
    """Ratios 4 and 1/2 of a first trajectory, 1/2 of a second one; at most 1.5."""
    mask = torch.tensor([[True, True], [True, False]])
    logp = torch.tensor([[math.log(4.0), -math.log(2.0)], [-math.log(2.0), math.nan]])
    told = [advantages.sampler_weights(logp, torch.zeros(2, 2), mask, kind, 1.5)
            for kind in ("truncate", "mask")]
    torch.testing.assert_close(told[0], torch.tensor([[1.5, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(told[1], torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    r = rollout()
    plain = PGConfig(estimator="group")
    for kind in ("truncate", "mask"):
        config = replace(plain, mismatch=kind)
        with pytest.raises(ValueError, match="sampled"):
            pg.columns(r, config, 0.0)
        same = pg.columns(replace(r, sampled=r.logp), config, 0.0)
        torch.testing.assert_close(same.advantage, pg.columns(r, plain, 0.0).advantage)


@pytest.mark.parametrize(("kind", "mode"), [("truncate", "token_truncate"),
                                            ("mask", "sequence_mask")])
def test_the_correction_is_trls(kind: str, mode: str) -> None:
    """TRL weighs the loss of a step, we its advantage."""
    r, now = rollout(), evaluated(rollout())
    sampled = r.logp + 0.4 * torch.randn(r.logp.shape, generator=torch.Generator().manual_seed(9))
    config = PGConfig(estimator="group", average="sequence", mismatch=kind, mismatch_most=1.1)
    ours, _ = loss_of(replace(r, sampled=sampled), now, config)
    change = (r.logp - sampled) * r.mask
    weight = change.exp().clamp(max=1.1)
    if mode == "sequence_mask":
        weight = change.sum(1, keepdim=True).exp()
        weight = weight.masked_fill(weight > 1.1, 0.0)
        assert 0 < int((weight == 0).sum()) < len(weight)
    score = advantages.group_relative((r.reward * r.mask).sum(1), r.group)
    theirs = trl_loss("grpo", "token", config, r, now, score, weight)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)


def test_only_groups_with_a_signal() -> None:
    """Groups of two: alike, different, alike."""
    r = rollout(n=6)
    end = advantages.on_last_step(torch.tensor([1.0, 1, 0, 1, 0, 0]), r.mask)
    r = replace(r, reward=end)
    assert advantages.has_signal(r).tolist() == [False, False, True, True, False, False]
    policy = chooser()
    optimizer = PolicyOptimizer(policy, algorithm("dapo", constant_length=T))
    dull = sample(policy, policy, 0)
    before = weights(policy)
    row = optimizer(replace(dull, reward=torch.zeros_like(dull.reward)), np.random.default_rng(0))
    assert row["updates"] == 0 and torch.equal(weights(policy), before)


# ----------------------------------------------------------------------------------- found faults


def right_ones(kl: list[float]) -> Rollout:
    """Equally right answers of one step whose log-probability is ``kl`` above the reference's."""
    n = len(kl)
    return Rollout({}, torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1, dtype=torch.bool),
                   torch.zeros(n, 1), torch.ones(n, 1), torch.zeros(n, dtype=torch.long),
                   ref_logp=-torch.tensor(kl)[:, None])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "maxrl"])
def test_the_kl_of_equal_answers_stays_small(name: str) -> None:
    """Four right ones, 0.1 to 0.4 nats from the reference: -0.05 (kl - 0.25), whatever divides."""
    config = algorithm(name, kl_in="reward", kl_weight=0.05, constant_length=1)
    found = pg.columns(right_ones([0.1, 0.2, 0.3, 0.4]), config, 0.05).advantage[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.0075, 0.0025, -0.0025, -0.0075]))


def test_the_kl_in_the_reward_is_k1_unless_told_otherwise() -> None:
    assert PGConfig(kl_in="reward").kl_kind == "k1" and PGConfig().kl_kind == "k3"
    assert PGConfig(kl_in="reward", kl_estimator="k3").kl_kind == "k3"
    r = right_ones([-0.5, 0.5])
    assert pg.columns(r, PGConfig(estimator="return", kl_in="reward", kl_weight=0.1),
                      0.1).advantage[:, 0].tolist() == pytest.approx([1.05, 0.95])


def drifted(gaps: Tensor, config: PGConfig) -> dict[str, float]:
    """One update of a rollout whose steps the reference finds likelier by ``gaps`` [N, T] nats."""
    policy = chooser()
    r = sample(policy, policy, 0)
    r = replace(r, ref_logp=r.logp + gaps)
    return PolicyOptimizer(policy, config)(r, np.random.default_rng(0))


def test_one_step_does_not_end_a_run() -> None:
    """A step 9.5 nats below the reference makes k3 some 13,000 / 200 = 70 in the mean; one in four
    of them is a policy gone astray."""
    config = algorithm("grpo", kl_weight=1e-9)
    gaps = torch.zeros(64, T)
    gaps[0, 0] = 9.5
    row = drifted(gaps, config)
    assert row["ref_kl"] > 5 * 5 and "ref_drift" not in row
    gaps[0, 0] = 200.0  # e^200 is no float32: neither the figure nor the loss is infinite
    drifted(gaps, config)
    with pytest.raises(UserError, match="divergence ref_kl"):
        drifted(torch.full((64, T), 9.5) * (torch.arange(64) % 4 == 0)[:, None], config)
    for few in (1, 2):  # of a handful of steps one is still not enough
        mask = torch.arange(4)[None] < 4
        gaps = torch.zeros(1, 4)
        gaps[0, :few] = 9.5
        batch = pg.LossColumns(mask, *[torch.zeros(1, 4)] * 7)
        batch = pg.weighted(batch, config)
        far = float(pg._drift(pg.kl_estimate(torch.zeros(1, 4), gaps), batch, 5.0))
        assert far == pytest.approx(2.5 * few)


# ------------------------------------------------------------------------------------ rates


def test_the_rate_rises_and_comes_down() -> None:
    config = algorithm("grpo", learning_rate=1.0, warmup=4, decay="linear", decay_steps=10)
    trainer = PolicyOptimizer(chooser(), config).trainer
    rates = []
    for trainer.steps in (0, 1, 3, 5, 10, 99):
        rates.append(trainer.rate())
    assert rates == pytest.approx([0.25, 0.5 * 0.91, 0.73, 0.55, 0.1, 0.1])
    cosine = PolicyOptimizer(chooser(), replace(config, decay="cosine", warmup=0)).trainer
    cosine.steps = 5
    assert cosine.rate() == pytest.approx(0.55)


def test_the_critic_has_a_rate_of_its_own() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.policy(x), self.value(x)], -1)

    moved = {}
    for rate in (0.0, 1e-5):
        torch.manual_seed(0)
        policy = chooser()
        policy.net = Two()
        before = [p.detach().clone() for p in policy.net.parameters()]
        config = algorithm("ppo", learning_rate=1e-2, critic_rate=rate, epochs=1, minibatches=1)
        PolicyOptimizer(policy, config)(sample(policy, policy, 0), np.random.default_rng(0))
        moved[rate] = [float((p - b).detach().abs().max())
                       for p, b in zip(policy.net.parameters(), before, strict=True)]
    assert moved[0.0][0] == moved[1e-5][0] == pytest.approx(1e-2, rel=1e-2)
    assert moved[0.0][2] == pytest.approx(1e-2, rel=1e-2)
    assert moved[1e-5][2] == pytest.approx(1e-5, rel=1e-2)


def test_an_optimizer_that_begins_anew_goes_on_from_its_state() -> None:
    """Three batches, moments forgotten after the second: saved there and loaded, to the bit."""
    def run(stop: bool) -> Tensor:
        policy, reference = chooser(), chooser()
        optimizer = PolicyOptimizer(policy, algorithm("grpo", learning_rate=1e-2))
        for k in range(4):
            if k == 2:
                optimizer.trainer.forget()
            optimizer(sample(policy, reference, k), np.random.default_rng(k))
            if stop and k == 2:
                tensors, numbers = optimizer.state()
                tensors = {key: value.clone() for key, value in tensors.items()}
                policy = chooser(5)
                optimizer = PolicyOptimizer(policy, algorithm("grpo", learning_rate=1e-2))
                optimizer.load_state(tensors, numbers)
        return weights(policy)

    assert torch.equal(run(True), run(False))
    plain = learnt(algorithm("grpo", learning_rate=1e-2), 4)
    assert not torch.equal(run(False), plain)


def test_a_term_of_ones_own_is_added_to_the_loss() -> None:
    """The entropy bonus, written as such a term, is the entropy bonus."""
    found = []
    for weight, term in ((0.1, None), (0.0, lambda columns, now: -0.1 * (
            torch.where(columns.mask, now.entropy, 0.0) * columns.share).sum())):
        policy, reference = chooser(), chooser()
        made = PolicyOptimizer(policy, algorithm("grpo", entropy_weight=weight), extra=term)
        row = made(sample(policy, reference, 0), np.random.default_rng(0))
        assert ("extra_loss" in row) is (term is not None)
        found.append((weights(policy), row["loss"]))
    torch.testing.assert_close(*(one[0] for one in found))
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)
