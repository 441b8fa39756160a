"""The gradient of a batch in shards against the gradient of the whole, and against itself on
other numbers of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.board import trainer as gradient
from selfplay.board.data import Batch
from selfplay.board.trainer import TrainConfig, board_trainer, loss_parts, to_tensors
from selfplay.learn.optimizer import Trainer
from selfplay.models import NetSpec, build, folded, seeded

SPEC = NetSpec("2x16", (2, 4, 4), 17, True)
WEIGHTS = {"policy": 1.0, "value": 0.5, "ownership": 1.5, "score": 0.1}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gradient, "SHARD_ROWS", {"cpu": 8})


def rows(seed: int = 0, count: int = 30) -> Batch:
    """Some rows have no policy target, some no known final board."""
    rng = np.random.default_rng(seed)
    return Batch(
        obs=rng.integers(0, 2, (count, 2, 4, 4)).astype(np.uint8),
        policy=rng.dirichlet(np.full(17, 0.3), count).astype(np.float32),
        policy_weight=(rng.random(count) < 0.7).astype(np.float32),
        value=rng.choice([-1, 1], count).astype(np.float32),
        ownership=rng.choice([-1, 1], (count, 16)).astype(np.float32),
        score=rng.normal(0, 5, count).astype(np.float32),
        aux_weight=(np.arange(count) // 9 % 2 == 0).astype(np.float32),
    )


def sharded(net: nn.Module) -> Trainer:
    """Its ``gradient`` is what is looked at."""
    weights = {f"{name}_weight": weight for name, weight in WEIGHTS.items()}
    return board_trainer(net, TrainConfig(dtype="float32", **weights))  # type: ignore[arg-type]


def test_shards_add_up_to_the_gradient_of_the_whole() -> None:
    """Of a net without BatchNorms; shards differ in how much their rows weigh."""
    net = folded(seeded(0, lambda: build(SPEC)).eval()).requires_grad_(True)
    data = rows()
    tensors = to_tensors(data, "cpu")
    out = net(tensors.obs)
    parts = loss_parts(out, tensors)
    loss = sum(WEIGHTS[name] * part for name, part in parts.items())
    loss.backward()
    expected = [p.grad.clone() for p in net.parameters()]

    torch.set_num_threads(2)
    metrics = sharded(net).gradient(data)
    assert max(float(g.abs().max()) for g in expected) > 0.01
    for found, want in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(found.grad, want, atol=1e-6), (found.grad - want).abs().max()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, part in parts.items():
        assert metrics[f"{name}_loss"] == pytest.approx(part.item(), rel=1e-5)
    right = out.policy.argmax(1) == tensors.policy.argmax(1)
    assert metrics["top1"] == pytest.approx(float(right[tensors.policy_weight > 0].float().mean()))
    p = out.policy.softmax(1)
    assert metrics["entropy"] == pytest.approx(-(p * p.log()).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_do_not_change_the_weights(dtype: str) -> None:
    states = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        net = seeded(0, lambda: build(SPEC))
        trainer = board_trainer(net, TrainConfig(warmup=1, dtype=dtype))  # type: ignore[arg-type]
        for step in range(5):
            trainer.step(rows(step))
        assert torch.get_num_threads() == threads
        states.append(trainer.state()[0])
    for other in states[1:]:
        for name, tensor in states[0].items():
            assert torch.equal(tensor, other[name]), name


def test_running_statistics_are_the_mean_over_shards() -> None:
    net = seeded(0, lambda: build(SPEC))
    data = rows(count=16)
    want = []
    for half in (slice(0, 8), slice(8, 16)):
        alone = seeded(0, lambda: build(SPEC)).train()
        alone(to_tensors(Batch(*(f[half] for f in data)), "cpu").obs)
        want.append(alone.stem.norm.running_mean)
    sharded(net).gradient(data)
    assert torch.allclose(net.stem.norm.running_mean, (want[0] + want[1]) / 2, atol=1e-6)
    assert not torch.allclose(want[0], want[1], atol=1e-4)
    assert int(net.stem.norm.num_batches_tracked) == 1


def test_what_changes_between_steps_reaches_every_shard() -> None:
    """Weights loaded into the net, as after a restart, are those of all its replicas."""
    net, other = (seeded(seed, lambda: build(SPEC)) for seed in (0, 1))
    mine, theirs = (sharded(n).gradient for n in (net, other))
    mine(rows(1))
    net.load_state_dict(other.state_dict())
    mine(rows(2)), theirs(rows(2))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(net.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(net.stem.norm, nn.BatchNorm2d)
