"""The objective against hand-worked numbers, TRL's GRPO loss, and textbook gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from selfplay.learn import policy_gradient as pg
from selfplay.learn.config import ALGORITHMS, PGConfig, algorithm, sized
from selfplay.learn.rollout import Evaluated, Rollout

T, F = True, False


def rollout(seed: int = 0, n: int = 6, steps: int = 5) -> Rollout:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(n, steps, generator=generator)

    lengths = torch.randint(1, steps + 1, (n, 1), generator=generator)
    return Rollout({}, torch.zeros(n, steps, dtype=torch.long),
                   torch.arange(steps)[None] < lengths, normal() * 0.3 - 1, normal(),
                   torch.arange(n) // 2, normal(), normal() * 0.3 - 1)


def evaluated(r: Rollout, seed: int = 1, value: bool = True) -> Evaluated:
    generator = torch.Generator().manual_seed(seed)
    logp = (r.logp + 0.6 * torch.randn(r.logp.shape, generator=generator)).requires_grad_()
    return Evaluated(logp, torch.rand(r.logp.shape, generator=generator),
                     torch.randn(r.logp.shape, generator=generator) if value else None)


def loss_of(r: Rollout, now: Evaluated, config: PGConfig) -> tuple[Tensor, dict[str, Tensor]]:
    batch = pg.weighted(pg.columns(r, config, config.kl_weight), config)
    return pg.objective(batch, now, config, config.kl_weight)


def test_kl_estimators_by_hand() -> None:
    logp, ref = torch.tensor(math.log(0.5)), torch.tensor(math.log(0.25))
    r = math.log(0.5)
    assert float(pg.kl_estimate(logp, ref, "k1")) == pytest.approx(-r)
    assert float(pg.kl_estimate(logp, ref, "k2")) == pytest.approx(r * r / 2)
    assert float(pg.kl_estimate(logp, ref, "k3")) == pytest.approx(0.5 - 1 - r)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_estimators_are_unbiased(kind: str) -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    expected = (p * pg.kl_estimate(p.log(), q.log(), kind)).sum()
    torch.testing.assert_close(expected, (p * (p / q).log()).sum())


def test_k2_has_the_gradient_of_the_divergence() -> None:
    """In expectation over samples of p; k1's gradient vanishes there."""
    logits, q = torch.tensor([0.4, -0.2, 0.1], requires_grad=True), torch.tensor([0.2, 0.3, 0.5])

    def gradient(of: Tensor) -> Tensor:
        return torch.autograd.grad(of, logits)[0]

    logp = torch.log_softmax(logits, 0)
    wanted = gradient((logp.exp() * (logp - q.log())).sum())
    logp = torch.log_softmax(logits, 0)
    p = logp.detach().exp()
    torch.testing.assert_close(gradient((p * pg.kl_estimate(logp, q.log(), "k2")).sum()), wanted)
    logp = torch.log_softmax(logits, 0)
    assert gradient((p * pg.kl_estimate(logp, q.log(), "k1")).sum()).abs().max() < 1e-6


def test_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.26])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0, 1.0])
    loss, cut = pg.clipped_surrogate(ratio, advantage, 0.2, 0.28)
    torch.testing.assert_close(loss, torch.tensor([-2.56, 3.0, -1.0, 1.6, -2.2, -1.26]))
    assert cut.tolist() == [T, F, F, T, F, F]


def test_value_loss_by_hand() -> None:
    """0.9 is held at 0.7: (0.9 - 1)^2 < (0.7 - 1)^2; 0.6 moved the wrong way counts as it is."""
    value, old, returns = torch.tensor([0.9, 0.2]), torch.tensor([0.5, 0.5]), torch.ones(2)
    torch.testing.assert_close(pg.clipped_value_loss(value, old, returns, 0.2),
                               torch.tensor([0.045, 0.32]))
    torch.testing.assert_close(pg.clipped_value_loss(value, old, returns),
                               torch.tensor([0.005, 0.32]))


def test_step_weights_by_hand() -> None:
    mask = torch.tensor([[T, T, T, F], [T, F, F, F]])
    assert pg.step_weights(mask, "token")[mask].tolist() == [0.25] * 4
    torch.testing.assert_close(pg.step_weights(mask, "sequence")[mask],
                               torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    assert pg.step_weights(mask, "constant", 10)[mask].tolist() == [pytest.approx(1 / 20)] * 4
    for how in ("token", "sequence", "constant"):
        assert not pg.step_weights(mask, how, 10)[~mask].any()
    with pytest.raises(ValueError, match="constant_length 0"):
        pg.step_weights(mask, "constant")


def test_a_step_of_dr_grpo_counts_the_same_beside_any_length() -> None:
    whole, config = rollout(n=6, steps=9), sized(algorithm("dr_grpo"), 12)
    lengths = whole.mask.sum(1)
    assert len(set(lengths.tolist())) > 2
    found = []
    for rows in torch.argsort(lengths).split(3):  # a minibatch of short ones, one of long ones
        part = whole.rows(rows)
        columns = pg.columns(whole, config, 0.0).rows(rows, part.mask.shape[1])
        found.append(pg.weighted(columns, config).weight)
    assert found[0].shape[1] < found[1].shape[1]
    for weight in found:
        torch.testing.assert_close(weight[weight > 0].unique(), torch.tensor([1 / (3 * 12)]))
    assert sized(algorithm("dr_grpo", constant_length=7), 12).constant_length == 7
    assert sized(algorithm("grpo"), 12) == algorithm("grpo")


def test_sequence_ratio_is_the_geometric_mean() -> None:
    mask = torch.tensor([[T, T, F]])
    old, new = torch.zeros(1, 3), torch.tensor([[math.log(4.0), 0.0, math.nan]])
    torch.testing.assert_close(pg.importance_ratio(new, old, mask, "sequence"),
                               torch.tensor([[2.0, 2.0, 1.0]]))
    torch.testing.assert_close(pg.importance_ratio(new, old, mask), torch.tensor([[4.0, 1.0, 1.0]]))


TRL = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}


def trl_loss(kind: str, level: str, config: PGConfig, r: Rollout, now: Evaluated,
             advantage: Tensor, correction: Tensor | None = None) -> Tensor:
    """TRL's own method, on a trainer of which only what it reads has been set. correction: the
    weights of steps whose sampler differs from the trainer."""
    GRPOTrainer = pytest.importorskip("trl", reason="TRL is a test dependency").GRPOTrainer
    room = 12
    trainer: Any = object.__new__(GRPOTrainer)
    alike = SimpleNamespace(reduce=lambda x, reduction: x, gather=lambda x: x, num_processes=1,
                            sync_gradients=True)
    settings = dict(
        _get_per_token_logps_and_entropies=lambda *a, **k: (now.logp, now.entropy, None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=config.kl_weight, loss_type=kind,
        use_vllm=correction is not None, vllm_importance_sampling_correction=True,
        epsilon_low=config.clip_low, epsilon_high=config.clip_high, max_completion_length=room,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        accelerator=alike, _entropy_bonus_enabled=config.entropy_weight > 0,
        use_adaptive_entropy=False, entropy_coef=config.entropy_weight,
        _metrics={"train": defaultdict(list)})
    for key, value in settings.items():
        object.__setattr__(trainer, key, value)
    mask = r.mask.float()
    tokens = torch.zeros(len(r), 2, dtype=torch.long)
    return trainer._compute_loss(None, {
        "prompt_ids": tokens, "prompt_mask": torch.ones_like(tokens), "completion_ids": r.action,
        "completion_mask": mask, "advantages": advantage, "old_per_token_logps": r.logp,
        "ref_per_token_logps": r.ref_logp, "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": correction})


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", TRL)
@pytest.mark.parametrize(("high", "kl", "bonus"), [(0.2, 0.0, 0.0), (0.28, 0.04, 0.0),
                                                   (0.2, 0.0, 0.01), (0.28, 0.1, 0.02)])
def test_loss_and_gradient_are_trls(
    kind: str, level: str, high: float, kl: float, bonus: float
) -> None:
    r, config = rollout(), PGConfig(
        estimator="group", average=TRL[kind], ratio=level, clip_high=high, kl_weight=kl,
        entropy_weight=bonus, constant_length=12)
    now = evaluated(r)
    ours, figures = loss_of(r, now, config)
    score = (r.reward * r.mask).sum(1).view(-1, 2)  # groups of two, as TRL lays them out
    advantage = ((score - score.mean(1, keepdim=True))
                 / (score.std(1, keepdim=True) + 1e-4)).flatten()
    theirs = trl_loss(kind, level, config, r, now, advantage)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    mine, = torch.autograd.grad(ours, now.logp)
    other, = torch.autograd.grad(theirs, now.logp)
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    assert float(figures["clip_fraction"]) > 0  # else the clip has not been compared


def test_parts_of_a_minibatch_add_up() -> None:
    r = rollout()
    for name in ALGORITHMS:
        config = sized(algorithm(name, kl_weight=0.1, entropy_weight=0.01, worst=9), 5)
        batch = pg.weighted(pg.columns(r, config, 0.1), config)
        now = evaluated(r)
        whole, figures = pg.objective(batch, now, config, 0.1)
        parts = []
        for rows in (slice(0, 2), slice(2, 6)):
            some = Evaluated(*(None if f is None else f[rows] for f in now))
            parts.append(pg.objective(batch.rows(rows, 5), some, config, 0.1))
        torch.testing.assert_close(sum(part[0] for part in parts), whole)
        for key, figure in figures.items():
            torch.testing.assert_close(sum(part[1][key] for part in parts), figure)


def test_reinforce_is_the_score_function_gradient() -> None:
    """At the sampling policy: -mean over steps of (G - mean G) grad log p, clip or no clip."""
    r = rollout()
    now = evaluated(r)._replace(logp=r.logp.clone().requires_grad_())
    loss, _ = loss_of(r, now, algorithm("reinforce"))
    gradient, = torch.autograd.grad(loss, now.logp)
    reward = (r.reward * r.mask)
    to_come = reward.flip(1).cumsum(1).flip(1)
    baseline = to_come[r.mask].mean()
    wanted = -(to_come - baseline) * r.mask / r.mask.sum()
    torch.testing.assert_close(gradient, wanted)


def test_reinforce_never_clips() -> None:
    r = rollout()
    far = evaluated(r)._replace(logp=r.logp + 3.0)
    assert float(loss_of(r, far, algorithm("reinforce"))[1]["clip_fraction"]) == 0
    assert float(loss_of(r, far, algorithm("ppo"))[1]["clip_fraction"]) > 0


def test_rloo_and_ppo_take_their_estimators() -> None:
    r = rollout()
    score = (r.reward * r.mask).sum(1)
    other = score.view(-1, 2).flip(1).flatten()
    found = pg.columns(r, algorithm("rloo"), 0.0).advantage
    torch.testing.assert_close(found, (score - other)[:, None] * r.mask)
    ppo = pg.columns(r, algorithm("ppo", whiten=False), 0.0)
    torch.testing.assert_close((ppo.returns - r.value)[r.mask], ppo.advantage[r.mask])
    white = pg.columns(r, algorithm("ppo"), 0.0)
    torch.testing.assert_close(white.returns, ppo.returns)  # the critic learns unwhitened returns


def test_kl_in_the_reward_comes_off_every_step() -> None:
    r = rollout()
    plain = pg.columns(r, PGConfig(estimator="return"), 0.0).advantage
    config = PGConfig(estimator="return", kl_weight=0.5, kl_in="reward", kl_estimator="k1")
    found = pg.columns(r, config, 0.5).advantage
    penalty = (0.5 * (r.logp - r.ref_logp) * r.mask).flip(1).cumsum(1).flip(1) * r.mask
    torch.testing.assert_close(found, plain - penalty)
    loss, figures = loss_of(r, evaluated(r), config)
    assert loss.item() == pytest.approx(figures["policy_loss"].item())  # not once more in the loss


def test_steps_that_are_not_real_change_nothing() -> None:
    """Not even NaN there, neither the loss nor its gradient."""
    r = rollout()
    dirty = replace(r, **{name: getattr(r, name).masked_fill(~r.mask, math.nan)
                          for name in ("logp", "reward", "value", "ref_logp")})
    for name in ALGORITHMS:
        config = sized(algorithm(name, kl_weight=0.1, worst=9), 5)
        now = evaluated(r)
        worse = Evaluated(*(f.detach().masked_fill(~r.mask, math.nan) for f in now))
        worse = worse._replace(logp=worse.logp.requires_grad_())
        loss, bad = loss_of(r, now, config)[0], loss_of(dirty, worse, config)[0]
        torch.testing.assert_close(loss, bad)
        found = torch.autograd.grad(bad, worse.logp)[0][r.mask]
        torch.testing.assert_close(torch.autograd.grad(loss, now.logp)[0][r.mask], found)


def test_a_missing_critic_or_reference_is_named() -> None:
    r = rollout()
    with pytest.raises(ValueError, match="value"):
        pg.columns(replace(r, value=None), algorithm("ppo"), 0.0)
    with pytest.raises(ValueError, match="ref_logp"):
        pg.columns(replace(r, ref_logp=None), algorithm("grpo", kl_weight=0.1), 0.1)
    with pytest.raises(ValueError, match="critic"):
        loss_of(r, evaluated(r, value=False), algorithm("ppo"))


def test_kl_weight_adapts_towards_its_target() -> None:
    config = PGConfig(kl_target=0.1, kl_horizon=1000)
    assert pg.adapted(0.2, 0.11, config, 100) == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    assert pg.adapted(0.2, 9.0, config, 100) == pytest.approx(0.2 * (1 + 0.2 * 0.1))
    assert pg.adapted(0.2, 0.0, config, 100) == pytest.approx(0.2 * (1 - 0.2 * 0.1))
    assert pg.adapted(0.2, 9.0, PGConfig(), 100) == 0.2
