"""A training step against its formulas, and what held-out rows are measured by."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.board.data import Batch, Columns, pack
from selfplay.board.evaluate import evaluate_columns
from selfplay.board.trainer import TrainConfig, board_trainer, loss_parts, to_tensors
from selfplay.common.errors import UserError
from selfplay.learn.optimizer import Trainer
from selfplay.models import NetOutput, NetSpec, build, seeded

SPEC = NetSpec("2x16", (2, 4, 4), 17, True)


def rows(seed: int = 0, count: int = 16) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        obs=rng.integers(0, 2, (count, 2, 4, 4)).astype(np.uint8),
        policy=rng.dirichlet(np.full(17, 0.3), count).astype(np.float32),
        policy_weight=np.ones(count, np.float32),
        value=rng.choice([-1, 1], count).astype(np.float32),
        ownership=rng.choice([-1, 1], (count, 16)).astype(np.float32),
        score=rng.normal(0, 5, count).astype(np.float32),
        aux_weight=np.ones(count, np.float32),
    )


def trainer(spec: NetSpec = SPEC, seed: int = 0, **settings: Any) -> Trainer:
    return board_trainer(seeded(seed, lambda: build(spec)), TrainConfig(**settings))


@pytest.mark.learns
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_batch_is_learnt_by_heart(dtype: Any, learn_seed: int) -> None:
    """The policy loss falls to the targets' own entropy, the others towards 0."""
    some = trainer(seed=learn_seed, learning_rate=4e-3, warmup=10, weight_decay=0.0, dtype=dtype)
    data = rows(learn_seed)
    best = np.eye(17, dtype=np.float32)[data.policy.argmax(1)]
    data = data._replace(policy=(data.policy + best) / 2)  # no near ties
    first = some.step(data)
    for _ in range(150):
        last = some.step(data)
    p = data.policy
    floor = float(-(p * np.log(np.maximum(p, 1e-12))).sum(1).mean())
    assert first["policy_loss"] > floor + 0.7
    assert last["policy_loss"] < floor + 0.1
    assert last["value_loss"] < 0.05 < first["value_loss"]
    assert last["ownership_loss"] < 0.1 < first["ownership_loss"]
    assert last["score_loss"] < first["score_loss"] / 4
    assert last["top1"] == 1
    assert last["entropy"] == pytest.approx(floor, abs=0.2)


def test_the_average_by_hand() -> None:
    """average += (1 - d)(weights - average) with d = (1 + t) / (10 + t), at most ema_decay."""
    some = trainer(ema_decay=0.25, warmup=1)
    expected = {k: v.clone() for k, v in some.net.state_dict().items()}
    for t in (1, 2, 3):
        some.step(rows(t))
        decay = min(0.25, (1 + t) / (10 + t))  # 2/11, 3/12, then 0.25 for good
        for key, value in some.net.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
            else:
                expected[key] = value.clone()
    for key, value in some.inference_net().state_dict().items():
        assert torch.allclose(value.double(), expected[key].double(), atol=1e-6), key
    assert int(some.inference_net().state_dict()["stem.norm.num_batches_tracked"]) == 3


def test_without_averaging_the_weights_themselves_act() -> None:
    some = trainer(ema_decay=0.0)
    some.step(rows())
    raw = some.net.state_dict()
    averaged = some.inference_net().state_dict()
    assert all(torch.equal(value, raw[key]) for key, value in averaged.items())
    assert not some.inference_net().training and not any(p.requires_grad
                                                  for p in some.inference_net().parameters())


def test_one_step_of_adamw_by_hand() -> None:
    """The first step moves a weight by rate * sign(gradient), after decay (weights only)."""
    net = nn.Linear(2, 1)
    net.weight.data = torch.tensor([[2.0, -4.0]])
    net.bias.data = torch.tensor([3.0])

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, obs: torch.Tensor) -> NetOutput:
            value = self.inner(obs.flatten(1)).squeeze(1)
            return NetOutput(obs.new_zeros(len(obs), 3), value, None, None)

    some = board_trainer(Wrapped(), TrainConfig(learning_rate=0.1, weight_decay=0.5, warmup=1,
                                          grad_clip=1e9, dtype="float32"))
    data = Batch(np.ones((1, 1, 1, 2), np.float32), np.eye(3, dtype=np.float32)[:1],
                 *(np.ones(1, np.float32) for _ in range(2)), np.zeros((1, 2), np.float32),
                 np.zeros(1, np.float32), np.zeros(1, np.float32))
    some.step(data)  # z = 1, v = 1: the gradient is negative, weights go up
    assert torch.allclose(net.weight, torch.tensor([[2 * 0.95 + 0.1, -4 * 0.95 + 0.1]]), atol=1e-5)
    assert net.bias.item() == pytest.approx(3.1, abs=1e-5)


def test_the_rate_by_hand() -> None:
    some = trainer(learning_rate=0.4, warmup=4)
    rates = []
    for some.steps in range(6):
        rates.append(some.rate())
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    some.learning_rate = 0.2
    assert some.rate() == pytest.approx(0.2)

    cosine = trainer(learning_rate=1.0, warmup=1, schedule="cosine", total_steps=100)
    rates = []
    for cosine.steps in (0, 50, 100, 1000):
        rates.append(cosine.rate())
    assert rates == pytest.approx([1.0, 0.55, 0.1, 0.1])
    with pytest.raises(UserError, match="total_steps"):
        trainer(schedule="cosine")


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    weights = {"policy": 2.0, "value": 0.5, "ownership": 3.0, "score": 0.25}
    metrics = trainer(**{f"{k}_weight": v for k, v in weights.items()}).step(rows())
    assert metrics["loss"] == pytest.approx(
        sum(w * metrics[f"{name}_loss"] for name, w in weights.items()), rel=1e-5)


def test_rows_without_weight_teach_nothing() -> None:
    """Their policy, ownership and score targets may be anything at all."""
    data = rows()
    off = np.arange(16) < 8
    weight = np.where(off, 0, 1).astype(np.float32)
    data = data._replace(policy_weight=weight, aux_weight=weight)
    other = data._replace(
        policy=np.where(off[:, None], np.roll(data.policy, 1, 1), data.policy),
        ownership=np.where(off[:, None], -data.ownership, data.ownership),
        score=np.where(off, 1e9, data.score).astype(np.float32))
    one, two, three = trainer(), trainer(), trainer()
    assert one.step(data)["loss"] == two.step(other)["loss"]
    assert all(map(torch.equal, one.net.parameters(), two.net.parameters()))
    counted = other._replace(policy_weight=np.ones(16, np.float32))
    three.step(counted)
    assert not all(map(torch.equal, one.net.parameters(), three.net.parameters()))


def test_parts_by_hand() -> None:
    """Two rows of a board of one point and one action more: weights 1 and 3 for the policy."""
    out = NetOutput(torch.zeros(2, 2), torch.tensor([0.0, 0.0]), torch.zeros(2, 1),
                    torch.tensor([1.0, 50.0]))
    data = SimpleNamespace(
        policy=torch.tensor([[1.0, 0.0], [0.5, 0.5]]), policy_weight=torch.tensor([1.0, 3.0]),
        value=torch.tensor([1.0, -1.0]), ownership=torch.tensor([[1.0], [1.0]]),
        score=torch.tensor([4.0, 0.0]), aux_weight=torch.tensor([1.0, 0.0]))
    parts = loss_parts(out, data)
    log2 = float(np.log(2))
    assert {k: float(v) for k, v in parts.items()} == pytest.approx(
        {"policy": log2, "value": log2, "ownership": log2, "score": 4.5})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights(bad: float) -> None:
    some = trainer()
    some.step(rows())
    before = copy.deepcopy([p.detach() for p in some.net.parameters()])
    data = rows(1)
    with pytest.raises(UserError, match=r"training step 2: the loss is .*lower learning rate"):
        some.step(data._replace(score=np.full_like(data.score, bad)))
    assert all(map(torch.equal, before, some.net.parameters()))
    assert some.steps == 1


def test_large_gradients_are_clipped() -> None:
    some = trainer(grad_clip=0.01, warmup=1)
    assert some.step(rows())["grad_norm"] > 0.01  # as it was before
    total = sum(float(p.grad.square().sum()) for p in some.net.parameters()) ** 0.5
    assert total == pytest.approx(0.01, rel=1e-3)


def test_a_state_of_another_net() -> None:
    tensors, numbers = trainer().state()
    other = trainer(NetSpec("3x16", (2, 4, 4), 17, True))
    with pytest.raises(UserError, match="does not fit this net"):
        other.load_state(tensors, numbers)


# --- held-out rows ----------------------------------------------------------------------------


class Fixed(nn.Module):
    """Logits and value straight from the planes: what the net 'thinks' is in the test."""

    def forward(self, obs: torch.Tensor) -> NetOutput:
        flat = obs.flatten(1)
        return NetOutput(flat[:, :6], flat[:, 6], None, None)


BOARD: Any = SimpleNamespace(obs_shape=(1, 1, 8), symmetries=lambda: SimpleNamespace(
    cells=np.arange(8)[None], actions=np.arange(6)[None]))


def test_evaluate_columns_by_hand() -> None:
    half = 0.5 * np.log(3.0)  # tanh = 0.5
    thoughts = np.array([
        [5, 4, 3, 2, 1, 0, half, 0],  # target 0: first of all
        [5, 4, 3, 2, 1, 0, half, 0],  # target 4: fifth
        [5, 4, 3, 2, 1, 0, -half, 0],  # target 5: last
        [5, 4, 3, 2, 1, 0, half, 0],  # no policy weight
    ], np.float32).reshape(4, 1, 1, 8)
    targets = [0, 4, 5, 0]
    data = Columns(
        obs=pack(thoughts, False), policy=np.eye(6, dtype=np.float16)[targets],
        policy_weight=np.array([1, 1, 1, 0], np.float32),
        value=np.array([1, -1, -1, 0], np.float32),
        ownership=np.zeros((4, 8), np.int8), score=np.zeros(4, np.float32),
        aux_weight=np.zeros(4, np.float32))
    seen = evaluate_columns(Fixed(), BOARD, data, dtype="float32")
    logp = torch.arange(5, -1, -1.0).log_softmax(0)
    assert seen == pytest.approx({
        "top1": 1 / 3, "top5": 2 / 3, "policy_loss": -float(logp[[0, 4, 5]].mean()),
        "value_mse": (0.25 + 2.25 + 0.25 + 0.25) / 4, "value_accuracy": 2 / 3}, abs=1e-3)


def test_evaluate_columns_in_batches_counts_every_row_once() -> None:
    rng = np.random.default_rng(0)
    count = 700  # no multiple of the batch
    data = Columns(
        obs=pack(rng.normal(size=(count, 1, 1, 8)).astype(np.float32), False),
        policy=rng.dirichlet(np.ones(6), count).astype(np.float16),
        policy_weight=rng.integers(0, 2, count).astype(np.float32),
        value=rng.choice([-1, 0, 1], count).astype(np.float32),
        ownership=np.zeros((count, 8), np.int8), score=np.zeros(count, np.float32),
        aux_weight=np.zeros(count, np.float32))
    seen = evaluate_columns(Fixed(), BOARD, data, dtype="float32")
    planes = data.obs.astype(np.float32)
    logits, value = planes[:, :6], np.tanh(planes[:, 6])
    hit = logits.argmax(1) == data.policy.argmax(1)
    assert seen["top1"] == pytest.approx(hit[data.policy_weight > 0].mean())
    assert seen["value_mse"] == pytest.approx(((value - data.value) ** 2).mean(), rel=1e-5)
    won = data.value != 0
    assert seen["value_accuracy"] == pytest.approx(
        (np.sign(value) == data.value)[won].mean())


def test_evaluate_columns_sees_what_training_learns() -> None:
    """The same rows through the trainer and through the columns: the same policy loss."""
    data = rows(count=32)
    some = trainer(ema_decay=0.0, dtype="float32")
    some.step(data)
    columns = Columns(pack(data.obs, True), data.policy.astype(np.float16), data.policy_weight,
                      data.value, data.ownership.astype(np.int8), data.score, data.aux_weight)
    game: Any = SimpleNamespace(obs_shape=(2, 4, 4), symmetries=lambda: SimpleNamespace(
        cells=np.arange(16)[None], actions=np.arange(17)[None]))
    with torch.no_grad():
        tensors = to_tensors(data, "cpu")
        expected = loss_parts(some.inference_net()(tensors.obs), tensors)
    seen = evaluate_columns(some.inference_net(), game, columns, dtype="float32")
    assert seen["policy_loss"] == pytest.approx(float(expected["policy"]), abs=2e-3)


def test_no_rows_to_look_at() -> None:
    none = Columns(*(np.zeros((0, 8)) if k in (0, 1, 4) else np.zeros(0) for k in range(7)))
    with pytest.raises(UserError, match="no held-out rows"):
        evaluate_columns(Fixed(), BOARD, none)


def test_looks_on_several_threads_see_the_same() -> None:
    data = rows(count=600)
    columns = Columns(pack(data.obs, True), data.policy.astype(np.float16), data.policy_weight,
                      data.value, data.ownership.astype(np.int8), data.score, data.aux_weight)
    game: Any = SimpleNamespace(obs_shape=(2, 4, 4), symmetries=lambda: SimpleNamespace(
        cells=np.arange(16)[None], actions=np.arange(17)[None]))
    net = trainer().inference_net()
    seen = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(evaluate_columns(net, game, columns))
    assert seen[0] == seen[1] == seen[2]
