"""Nets compiled by OpenVINO against the same nets in torch."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import take
from selfplay.inference import openvino
from selfplay.inference.precision import agree
from selfplay.models import NetSpec, build, folded, has_fast_bfloat16, seeded, spec_for
from selfplay.models.resnet import ConvNorm

GAMES = ["tictactoe", "connect4", "go5x5"]  # no pass; flat heads; a pass and score heads

needs_openvino = pytest.mark.skipif(
    not openvino.available(), reason=f"openvino is not installed: {openvino.INSTALL}")


def net_for(game: Any, size: str = "4x32", seed: int = 0, fresh: bool = False) -> nn.Module:
    """A folded net with the statistics and the spread of a trained one, or as it is born."""
    spec = spec_for(game, size)
    net = seeded(seed, lambda: build(spec))
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not fresh:
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return folded(net.eval())


def positions(game: Any, play_random: Any, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """(observations, legal)"""
    states, _ = play_random(game, count, 3, 6)
    states = take(states, np.flatnonzero(~game.result(states)[0]))
    if game.komi_planes:
        states.komi[:] = np.arange(len(states.ply)) % 31 - 8
    return game.observe(states), game.legal(states)


def straight(net: nn.Module, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = net(torch.from_numpy(obs).float())
    return out.policy.numpy(), out.value.numpy()


def ranges(net: nn.Module, game: Any, obs: np.ndarray) -> Any:
    return openvino.find_ranges(net, game.obs_shape, obs)


def assert_close(outputs: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < tolerance * max(1.0, np.abs(theirs).max())


@needs_openvino
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("size", ["1x8", "4x32"])
def test_float32_is_the_net(name: str, size: str, play_random: Any) -> None:
    game = make(name)
    net, (obs, _) = net_for(game, size), positions(game, play_random)
    compiled = openvino.compile_net(net, game.obs_shape, len(obs), "float32")
    assert_close(compiled(obs), straight(net, obs), 1e-5)


@needs_openvino
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precisions_agree(name: str, precision: Any, play_random: Any) -> None:
    """Over five random nets; and they are not float32 under another name."""
    if precision == "bfloat16" and not has_fast_bfloat16("cpu"):
        pytest.skip("this CPU does not multiply bfloat16")
    game = make(name)
    obs, legal = positions(game, play_random, 100)
    found = []
    for seed in range(5):
        net = net_for(game, seed=seed)
        compiled = openvino.compile_net(net, game.obs_shape, len(obs), precision,
                                        ranges(net, game, obs[:50]))
        outputs = [(policy, np.tanh(value)) for policy, value in (straight(net, obs),
                                                                  compiled(obs))]
        found.append(astuple(agree(*outputs, legal)))
    same, divergence, value = np.mean(found, axis=0)
    assert same >= 0.9
    assert 1e-7 < divergence < 3e-3
    assert value < 0.02


@needs_openvino
def test_a_net_of_fewer_planes_is_shown_these_alone(play_random: Any) -> None:
    game = make("go5x5")
    obs, _ = positions(game, play_random)
    net = folded(seeded(0, lambda: build(NetSpec("2x16", (16, 5, 5), 26, True))).eval())
    compiled = openvino.compile_net(net, game.obs_shape, len(obs), "float32")
    assert_close(compiled(obs), straight(net, obs[:, :16]), 1e-5)


class Quantised(nn.Module):
    """A convolution on 8-bit whole numbers times scales, in torch."""

    def __init__(self, conv: nn.Conv2d, top: float) -> None:
        super().__init__()
        self.conv, self.step = copy.deepcopy(conv), top / 255
        scale = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
        self.conv.weight.data = (conv.weight.detach() / scale).round() * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x / self.step).round().clamp(0, 255) * self.step)


@needs_openvino
@pytest.mark.parametrize("name", GAMES)
def test_int8_rounds_as_it_should(
    name: str, play_random: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against torch with the blocks' convolutions rounded; much nearer than the net as it is."""
    monkeypatch.setattr(openvino, "has_fast_bfloat16", lambda device: False)
    game = make(name)
    net, (obs, _) = net_for(game), positions(game, play_random, 60)
    compiled = openvino.compile_net(net, game.obs_shape, len(obs), "int8",
                                    ranges(net, game, obs[:30]))

    tops: dict[nn.Module, float] = {}
    layers = [m for m in net.get_submodule("blocks").modules() if isinstance(m, ConvNorm)]
    hooks = [layer.register_forward_pre_hook(
        lambda module, args: tops.__setitem__(module, float(args[0].max()))) for layer in layers]
    straight(net, obs[:30])
    for hook in hooks:
        hook.remove()
    plain = straight(net, obs)[0]
    for layer in layers:
        layer.conv = Quantised(layer.conv, 1.1 * tops[layer])
    expected = straight(net, obs)[0]
    ours = compiled(obs)[0]
    assert np.abs(ours - expected).mean() < 0.1 * np.abs(ours - plain).mean()


@needs_openvino
@pytest.mark.filterwarnings("error")
def test_a_net_as_it_is_born(play_random: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks are the identity: a convolution of zeros has no scale of its own."""
    monkeypatch.setattr(openvino, "has_fast_bfloat16", lambda device: False)
    game = make("go5x5")
    net, (obs, _) = net_for(game, fresh=True), positions(game, play_random)
    compiled = openvino.compile_net(net, game.obs_shape, len(obs), "int8",
                                    ranges(net, game, obs))
    assert_close(compiled(obs), straight(net, obs), 1e-5)


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_same_bits_always(precision: Any, play_random: Any) -> None:
    """Compiled twice, with other threads, in other batches, beside another net at work."""
    game = make("go5x5")
    obs, _ = positions(game, play_random, 60)
    net, other = net_for(game, seed=1), net_for(game, seed=2)

    def compiled(net: nn.Module, batch: int, threads: int = 1) -> openvino.CompiledNet:
        return openvino.compile_net(net, game.obs_shape, batch, precision,
                                    ranges(net, game, obs[:20]), threads)

    first, beside = compiled(net, 60), compiled(other, 60)
    expected, expected_beside = first(obs), beside(obs)

    def equal(outputs: Any, wanted: Any) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(outputs, wanted, strict=True))

    assert not equal(expected, expected_beside)
    assert equal(compiled(net, 60)(obs), expected)
    assert equal(compiled(net, 60, threads=2)(obs), expected)
    small = compiled(net, 16)
    for rows in (slice(5, 21), slice(40, 47), slice(59, 60), slice(7, 7)):
        assert equal(small(obs[rows]), [output[rows] for output in expected])
    with ThreadPoolExecutor(2) as pool:
        again = pool.submit(lambda: [first(obs) for _ in range(10)])
        again_beside = pool.submit(lambda: [beside(obs) for _ in range(10)])
        assert all(equal(outputs, expected) for outputs in again.result())
        assert all(equal(outputs, expected_beside) for outputs in again_beside.result())


@needs_openvino
def test_weights_are_copied_and_outputs_are_the_callers(play_random: Any) -> None:
    game = make("tictactoe")
    net, (obs, _) = net_for(game), positions(game, play_random)
    compiled = openvino.compile_net(net, game.obs_shape, 40, "float32")
    kept = compiled(obs)
    before = [output.copy() for output in kept]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    assert np.array_equal(compiled(obs)[0], before[0])
    compiled(1 - obs)
    assert np.array_equal(kept[0], before[0]) and np.array_equal(kept[1], before[1])


@needs_openvino
def test_planes_of_numbers() -> None:
    game = make("tictactoe")
    obs = np.random.default_rng(0).random((30, *game.obs_shape)).astype(np.float32)
    net = net_for(game)
    compiled = openvino.compile_net(net, game.obs_shape, 30, "float32", binary=False)
    assert_close(compiled(obs), straight(net, obs), 1e-5)
    rounded = openvino.compile_net(net, game.obs_shape, 30, "int8", ranges(net, game, obs),
                                   binary=False)
    assert_close(rounded(obs), straight(net, obs), 0.1)


@needs_openvino
def test_wrong_use_is_refused(play_random: Any) -> None:
    game = make("tictactoe")
    net, (obs, _) = net_for(game), positions(game, play_random)
    with pytest.raises(ValueError, match="calibrate"):
        openvino.compile_net(net, game.obs_shape, 8, "int8")
    with pytest.raises(ValueError, match="calibrate"):
        openvino.find_ranges(net, game.obs_shape, None)
    spec = NetSpec("1x8", game.obs_shape, game.num_actions)
    with pytest.raises(ValueError, match="folded"):
        openvino.compile_net(build(spec).eval(), game.obs_shape, 8, "float32")
    with pytest.raises(UserError, match=r"Linear: .*another backend"):
        openvino.compile_net(nn.Linear(2, 2), game.obs_shape, 8, "float32")
    compiled = openvino.compile_net(net, game.obs_shape, 8, "float32")
    for wrong in (obs[:9], obs[:4, 1:], obs[:4].astype(np.float32)):
        with pytest.raises(ValueError, match="wanted"):
            compiled(wrong)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # import now raises ImportError
    assert not openvino.available()
    game = make("tictactoe")
    with pytest.raises(UserError, match=r"pip install .* openvino"):
        openvino.compile_net(net_for(game), game.obs_shape, 8, "float32")
