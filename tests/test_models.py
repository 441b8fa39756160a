"""Nets: shapes, pooling by hand, folding, operation counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.models import NETS, NetError, NetSpec, build, flops, folded, seeded
from selfplay.models.growing import grown
from selfplay.models.resnet import ConvNorm, pool

SHAPES = [
    pytest.param((3, 3, 3), 9, False, id="tictactoe: a point an action"),
    pytest.param((3, 6, 7), 7, False, id="connect4: actions are no points"),
    pytest.param((18, 9, 9), 82, True, id="go: points and a pass"),
    pytest.param((4, 1, 12), 3, False, id="a board of one row"),
]


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with random BatchNorms, as if trained; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return net.eval()


@pytest.mark.parametrize("family", NETS)
@pytest.mark.parametrize(("obs_shape", "num_actions", "ownership"), SHAPES)
def test_output_shapes(family: str, obs_shape: tuple[int, int, int], num_actions: int,
                       ownership: bool) -> None:
    net = build(NetSpec(f"{family}:3x16", obs_shape, num_actions, ownership)).eval()
    out = net(torch.rand(5, *obs_shape))
    assert out.policy.shape == (5, num_actions)
    assert out.value.shape == (5,)
    if ownership:
        assert out.ownership.shape == (5, obs_shape[1] * obs_shape[2])
        assert out.score.shape == (5,)
    else:
        assert out.ownership is None and out.score is None


@pytest.mark.parametrize(("obs_shape", "num_actions", "ownership"), SHAPES)
def test_every_parameter_learns(obs_shape: tuple[int, int, int], num_actions: int,
                                ownership: bool) -> None:
    torch.manual_seed(0)
    net = shaken(build(NetSpec("4x16", obs_shape, num_actions, ownership)))
    out = net(torch.rand(8, *obs_shape))
    sum(part.square().sum() for part in out if part is not None).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_rows_do_not_see_each_other() -> None:
    net = shaken(build(NetSpec("4x16", (4, 5, 5), 26, True)))
    obs = torch.rand(6, 4, 5, 5)
    for whole, single in zip(net(obs), net(obs[2:3]), strict=True):
        assert torch.allclose(whole[2:3], single, atol=1e-5)


def test_pool_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-1.0, -1.0], [-1.0, -5.0]]]])
    # means 3 and -2; times (2 - 14) / 10 = -1.2; maxima 6 and -1
    assert torch.allclose(pool(x), torch.tensor([[3.0, -2.0, -3.6, 2.4, 6.0, -1.0]]))


def test_pooling_carries_news_across_the_board() -> None:
    """Two 3x3 blocks see 5 points far (with the stem); the pooled bias reaches the other edge."""
    net = shaken(build(NetSpec("2x16", (1, 1, 30), 30, False)))
    obs = torch.zeros(1, 1, 1, 30)
    before = net.blocks(net.stem(obs))[0, :, 0, 29]
    obs[0, 0, 0, 0] = 5
    assert (net.blocks(net.stem(obs))[0, :, 0, 29] - before).abs().max() > 1e-4


def test_a_new_block_is_the_identity() -> None:
    net = build(NetSpec("4x16", (4, 5, 5), 26, True)).eval()
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(net.blocks(x), x)


@pytest.mark.parametrize("sizes", [("1x8", "3x8"), ("4x16", "4x48"), ("3x16", "6x20")])
@pytest.mark.parametrize(("obs_shape", "num_actions", "ownership", "komi"), [
    *(pytest.param(*shape.values, 0, id=shape.id) for shape in SHAPES),
    pytest.param((24, 9, 9), 82, True, 8, id="go with a komi"),
])
def test_a_grown_net_says_what_it_said_and_all_of_it_learns(
    obs_shape: tuple[int, int, int], num_actions: int, ownership: bool, komi: int,
    sizes: tuple[str, str],
) -> None:
    spec = NetSpec(sizes[0], obs_shape, num_actions, ownership, komi)
    net = seeded(1, lambda: shaken(build(spec)))
    larger = seeded(2, lambda: grown(net, spec, sizes[1]))
    assert not larger.training
    fresh = build(NetSpec(sizes[1], obs_shape, num_actions, ownership, komi)).state_dict()
    assert {k: v.shape for k, v in larger.state_dict().items()} == {
        k: v.shape for k, v in fresh.items()}
    obs = torch.randint(0, 2, (16, *obs_shape), generator=torch.Generator().manual_seed(3)).float()
    with torch.no_grad():
        for before, after in zip(net(obs), larger(obs), strict=True):
            assert (before is None and after is None) or (
                (before - after).abs().max() < 1e-5 * max(1.0, float(before.abs().max())))
    learner = torch.optim.Adam(larger.train().parameters())
    first = {name: tensor.detach().clone() for name, tensor in larger.named_parameters()}
    for _ in range(4):  # what is new listens after one step and is listened to after another
        learner.zero_grad()
        sum(part.square().mean() for part in larger(obs) if part is not None).backward()
        learner.step()
    for name, tensor in larger.named_parameters():
        rows = (tensor != first[name]).flatten(1) if tensor.ndim > 1 else tensor != first[name]
        moved = rows.any(1) if rows.ndim > 1 else rows
        assert moved.float().mean() > 0.5, name  # some of so few channels are off everywhere


def test_a_net_of_its_own_size_is_itself() -> None:
    spec = NetSpec("2x16", (3, 3, 3), 9)
    net = build(spec)
    assert grown(net, spec, "2x16") is net


@pytest.mark.parametrize("size", ["1x16", "2x8", "2x15", "nets.py:build"])
def test_a_net_does_not_shrink(size: str) -> None:
    spec = NetSpec("2x16", (3, 3, 3), 9)
    with pytest.raises(NetError, match="leave --net out"):
        grown(build(spec), spec, size)


@pytest.mark.parametrize(("obs_shape", "num_actions", "ownership"), SHAPES)
def test_folding_changes_nothing(obs_shape: tuple[int, int, int], num_actions: int,
                                 ownership: bool) -> None:
    net = shaken(build(NetSpec("4x32", obs_shape, num_actions, ownership)))
    obs = torch.randint(0, 2, (16, *obs_shape)).float()
    fold = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fold.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())  # a copy
    with torch.no_grad():
        for a, b in zip(net(obs), fold(obs), strict=True):
            if a is not None:
                assert float((a - b).abs().max()) < 1e-4 * max(1.0, float(a.abs().max()))


def test_folding_by_hand() -> None:
    """One 1x1 convolution of weight 3, BatchNorm (x - 1) / sqrt(4) * 5 + 7."""
    layer = ConvNorm(1, 1, 1).eval()
    assert isinstance(layer.norm, nn.BatchNorm2d)
    layer.norm.eps = 0.0
    for tensor, number in ((layer.conv.weight.data, 3), (layer.norm.running_mean, 1),
                           (layer.norm.running_var, 4), (layer.norm.weight.data, 5),
                           (layer.norm.bias.data, 7)):
        tensor.fill_(number)
    fold = folded(layer)
    assert fold.conv.weight.item() == pytest.approx(7.5)
    assert fold.conv.bias.item() == pytest.approx(4.5)


def test_flops_by_hand() -> None:
    """2x32 on a 9x9 board with 18 planes: multiply-adds, layer by layer, times two."""
    cells = 81
    stem = 18 * 32 * 9 * cells
    block = 2 * 32 * 32 * 9 * cells
    pool_block = 32 * 32 * 9 * cells + 3 * 8 * 24 + 24 * 32 * 9 * cells
    policy = 32 * 64 * cells + 3 * 32 * 32 + 32 * cells + 3 * 32  # head, bias, points, pass
    value = 32 * 32 * cells + 3 * 32 * 64 + 64 + 32 * cells + 64  # ..., owner, score
    expected = 2 * (stem + block + pool_block + policy + value)
    assert flops(NetSpec("2x32", (18, 9, 9), 82, True)) == expected


def test_flops_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    flops(NetSpec("3x24", (2, 4, 4), 16, False))
    assert torch.equal(torch.rand(4), expected)


def test_seeded_repeats_and_puts_the_generator_back() -> None:
    spec = NetSpec("2x16", (3, 3, 3), 9)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two, other = (seeded(seed, lambda: build(spec)) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one.stem.conv.weight, other.stem.conv.weight)


@pytest.mark.parametrize("size", ["", "6", "x64", "6x", "6x64x2", "0x64", "6x4", "-1x64", "big",
                                  "transformer:2x32", "6x64 "])
def test_a_wrong_size_is_named(size: str) -> None:
    with pytest.raises(NetError, match="BLOCKSxCHANNELS"):
        NetSpec(size, (3, 3, 3), 9)


def test_a_spec_survives_json() -> None:
    import dataclasses
    import json

    spec = NetSpec("2x16", (3, 6, 7), 7, False)
    assert NetSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_outputs_start_small() -> None:
    """A new net's policy is near uniform and its value near a draw: search starts unbiased."""
    net = seeded(0, lambda: build(NetSpec("6x64", (18, 9, 9), 82, True)))
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (64, 18, 9, 9))).float()
    net.train()
    net(obs)
    with torch.no_grad():
        out = net(obs)
    assert float(out.policy.std(1).mean()) < 1.5
    assert float(out.value.abs().mean()) < 1.0
