"""The optimizer of policies, on a task whose best policy is known: name the larger of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.learn.config import ALGORITHMS, PGConfig, algorithm, sized
from selfplay.learn.losses import entropy, gather_logp
from selfplay.learn.policy_gradient import PARTS, PolicyOptimizer, policy_gradient
from selfplay.learn.rollout import Acted, Evaluated, Rollout, parts_of

N, T = 64, 5


@dataclass
class Chooser:
    """Sees two numbers a step; two actions and a value."""

    net: nn.Module

    def act(self, batch: Tensor) -> Acted:
        logits = self.net(batch)[..., :2]
        action = torch.distributions.Categorical(logits=logits).sample()
        return Acted(action, gather_logp(logits, action), torch.ones_like(action, dtype=torch.bool))

    def evaluate(self, rollout: Rollout) -> Evaluated:
        out = self.net(rollout.inputs["x"][:, : rollout.mask.shape[1]])
        logits = out[..., :2]
        return Evaluated(gather_logp(logits, rollout.action), entropy(logits), out[..., 2])


def chooser(seed: int = 0) -> Chooser:
    torch.manual_seed(seed)
    return Chooser(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)))


@torch.no_grad()
def sample(policy: Chooser, reference: Chooser, seed: int) -> Rollout:
    torch.manual_seed(seed)
    x = torch.randn(N // 4, T, 2).repeat_interleave(4, 0)  # four trajectories a prompt
    mask = torch.arange(T)[None] < torch.randint(1, T + 1, (N // 4, 1)).repeat_interleave(4, 0)
    acted = policy.act(x)
    right = acted.action == x.argmax(-1)
    rollout = Rollout({"x": x}, acted.action, mask, acted.logp, right.float(),
                      torch.arange(N) // 4)
    return replace(rollout, value=policy.evaluate(rollout).value,
                   ref_logp=reference.evaluate(rollout).logp)


def trained(
    config: PGConfig, batches: int, seed: int = 0
) -> tuple[Chooser, list[dict[str, float]]]:
    policy, reference = chooser(seed), chooser(seed)
    optimizer, rng = PolicyOptimizer(policy, config), np.random.default_rng(seed)
    first = 100 * seed
    return policy, [optimizer(sample(policy, reference, first + k), rng) for k in range(batches)]


def accuracy(policy: Chooser) -> float:
    rollout = sample(policy, policy, 10_000)
    return float(rollout.reward[rollout.mask].mean())


@pytest.mark.learns
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns(name: str, learn_seed: int) -> None:
    before = accuracy(chooser(learn_seed))
    batches = 20 if name == "ppo" else 60  # of several epochs
    policy, _ = trained(sized(algorithm(name, learning_rate=2e-2), T), batches, learn_seed)
    assert accuracy(policy) > before + 0.25


def weights(policy: Chooser) -> Tensor:
    return torch.cat([p.detach().flatten() for p in policy.net.parameters()])


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_weights_do_not_depend_on_the_number_of_threads(name: str) -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(weights(trained(algorithm(name, kl_weight=0.1), 3)[0]))
    assert torch.equal(*found)


def test_shards_give_the_gradient_of_the_whole() -> None:
    """Against one plain backward of the whole minibatch."""
    from selfplay.learn import policy_gradient as pg

    config = algorithm("grpo", kl_weight=0.1)
    policy = chooser()
    rollout = sample(policy, chooser(), 0)
    optimizer = PolicyOptimizer(policy, config)
    with torch.no_grad():
        policy.net[0].weight.add_(0.05)  # off the sampling policy
    batch = pg.weighted(pg.columns(rollout, config, 0.1), config)
    figures = optimizer.trainer.gradient(pg._Minibatch(rollout, batch))
    found = [p.grad.clone() for p in policy.net.parameters()]
    policy.net.zero_grad()
    loss, _ = pg.objective(batch, policy.evaluate(rollout), config, 0.1)
    loss.backward()
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-6)
    for mine, parameter in zip(found, policy.net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_every_trajectory_is_in_one_shard() -> None:
    mask = torch.arange(T)[None] < torch.randint(0, T + 1, (37, 1))
    parts = parts_of(mask, PARTS["cpu"], 8192)
    assert sorted(torch.cat(parts).tolist()) == list(range(37))
    assert len(parts) == PARTS["cpu"]
    assert len(parts_of(mask, 1, 10)) >= int(mask.sum()) // 10
    assert sum(map(len, parts_of(torch.zeros(3, T, dtype=torch.bool), 4, 8192))) == 3


def test_a_group_of_much_longer_trajectories_is_cut() -> None:
    """One of 32 groups has nearly all steps: together they would be in one part."""
    group = torch.arange(256) // 8
    for longest in (60, 400):
        lengths = torch.where(group == 0, longest, 1)
        mask = torch.arange(longest)[None] < lengths[:, None]
        parts = parts_of(mask, 2, 512, group)
        assert sorted(torch.cat(parts).tolist()) == list(range(256))
        assert max(int(mask[rows].sum()) for rows in parts) <= 2 * 512
        apart = sum(0 in group[rows] for rows in parts)
        assert (apart == 1) == (longest == 60)


@pytest.mark.learns
def test_epochs_and_minibatches_count(learn_seed: int) -> None:
    _, (row,) = trained(PGConfig(estimator="group", epochs=3, minibatches=4), 1, learn_seed)
    assert row["updates"] == 12
    _, (row,) = trained(PGConfig(estimator="group", epochs=3, minibatches=4, learning_rate=0.3,
                                 stop_kl=1e-4), 1, learn_seed)
    assert row["updates"] < 12


@pytest.mark.learns
def test_a_divergence_ends_the_run_and_keeps_the_weights(learn_seed: int) -> None:
    policy, reference = chooser(learn_seed), chooser(learn_seed)
    optimizer = PolicyOptimizer(policy, PGConfig(estimator="group", learning_rate=5.0, epochs=9,
                                                 max_kl=0.5))
    with pytest.raises(UserError, match=r"sample_kl.*lower learning rate"):
        optimizer(sample(policy, reference, learn_seed), np.random.default_rng(0))
    before, rollout = weights(policy), sample(policy, reference, 0)
    broken = replace(rollout, reward=rollout.reward * float("nan"))
    with pytest.raises(UserError, match="the loss is nan"):
        optimizer(broken, np.random.default_rng(0))
    assert torch.equal(weights(policy), before)


@pytest.mark.learns
def test_the_penalty_pulls_towards_the_reference(learn_seed: int) -> None:
    free = trained(algorithm("grpo", learning_rate=2e-2), 1)[1][-1]
    far = {"learning_rate": 2e-2, "max_kl": 1e9}
    held = trained(algorithm("grpo", kl_weight=2.0, **far), 40, learn_seed)[1][-1]
    assert "ref_kl" not in free
    rows = trained(algorithm("grpo", kl_weight=1e-6, **far), 40, learn_seed)[1]
    assert held["ref_kl"] < rows[-1]["ref_kl"] / 3
    adapted = trained(PGConfig(estimator="group", learning_rate=2e-2, kl_weight=1e-2,
                               kl_target=1e-3, kl_horizon=200), 40, learn_seed)[1]
    assert adapted[-1]["kl_weight"] > adapted[0]["kl_weight"]


def test_training_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    config = algorithm("ppo", kl_weight=0.01, kl_target=0.01)
    whole, _ = trained(config, 4)
    policy, reference = chooser(), chooser()
    optimizer, rng = PolicyOptimizer(policy, config), np.random.default_rng(0)
    for k in range(2):
        optimizer(sample(policy, reference, k), rng)
    tensors, numbers = optimizer.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    again = Chooser(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)))
    resumed = PolicyOptimizer(again, config)
    resumed.load_state(tensors, numbers)
    for k in range(2, 4):
        resumed(sample(again, reference, k), rng)
    assert torch.equal(weights(again), weights(whole))
    with pytest.raises(UserError, match="another net"):
        PolicyOptimizer(Chooser(nn.Linear(2, 3)), config).load_state(tensors, numbers)


def test_only_what_wants_a_gradient_is_trained() -> None:
    policy, reference = chooser(), chooser()
    policy.net[0].requires_grad_(False)
    frozen = policy.net[0].weight.clone()
    PolicyOptimizer(policy, algorithm("grpo", learning_rate=1e-2))(
        sample(policy, reference, 0), np.random.default_rng(0))
    assert torch.equal(policy.net[0].weight, frozen)
    assert not torch.equal(policy.net[2].weight, reference.net[2].weight)


def test_rows_come_one_at_a_time_and_the_net_is_trained_when_they_do() -> None:
    policy, reference = chooser(), chooser()
    asked = []

    def rollouts() -> Iterator[Rollout]:
        for k in range(4):
            asked.append(weights(policy))
            yield sample(policy, reference, k)

    rows = policy_gradient(policy, rollouts(), "grpo", seed=3)
    first = next(rows)
    assert len(asked) == 1 and first["step"] == 1 and not torch.equal(weights(policy), asked[0])
    assert [row["step"] for row in rows] == [2, 3, 4]
    other = chooser()
    optimizer = PolicyOptimizer(other, algorithm("grpo"))
    for k in range(4):
        optimizer(sample(other, reference, k), np.random.default_rng([3, k]))
    assert torch.equal(weights(policy), weights(other))
    with pytest.raises(KeyError):
        next(policy_gradient(policy, [], "grpoo"))
