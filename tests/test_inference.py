"""The evaluator against the net as it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import take
from selfplay.inference import openvino
from selfplay.inference.evaluator import Evaluator, torch_run
from selfplay.inference.spread import Symmetric, spread
from selfplay.models import build, has_fast_bfloat16, padded_rows, seeded, spec_for

GAMES = ["tictactoe", "connect4", "go5x5"]


def net_for(game: Any, size: str = "4x32", seed: int = 0) -> nn.Module:
    """A net with the statistics and the spread of a trained one."""
    spec = spec_for(game, size)
    net = seeded(seed, lambda: build(spec))
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return net.eval()


def positions(game: Any, play_random: Any, count: int = 40) -> Any:
    states, _ = play_random(game, count, 3, 6)
    return take(states, np.flatnonzero(~game.result(states)[0]))


def straight(net: nn.Module, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = net(torch.from_numpy(obs).float())
    return out.policy.numpy(), out.value.tanh().numpy()


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("max_batch", [None, 7])
def test_float32_agrees_with_the_net(name: str, max_batch: int | None, play_random: Any) -> None:
    game = make(name)
    net = net_for(game)
    states = positions(game, play_random)
    evaluate = Evaluator(net, game, dtype="float32", max_batch=max_batch)
    logits, value = evaluate(states, game.legal(states))
    expected_logits, expected_value = straight(net, game.observe(states))
    assert logits.dtype == value.dtype == np.float32
    assert logits.shape == (len(states.ply), game.num_actions) and value.shape == states.ply.shape
    scale = max(1.0, np.abs(expected_logits).max())
    assert np.abs(logits - expected_logits).max() < 1e-4 * scale
    assert np.abs(value - expected_value).max() < 1e-4
    assert evaluate.evaluations == len(states.ply)


@pytest.mark.parametrize("size", ["4x32", "6x64"])
def test_bfloat16_chooses_the_same_moves(size: str, play_random: Any) -> None:
    """Over five random nets, whose flat policies are harder than a trained one's; where the
    choice differs, the two moves were all but equal to the float32 net."""
    game = make("go5x5")
    obs = game.observe(positions(game, play_random, 200))
    same, divergences, lost = [], [], []
    for seed in range(5):
        net = net_for(game, size, seed)
        logits, value = Evaluator(net, game, dtype="bfloat16").forward(obs)
        expected, expected_value = straight(net, obs)
        logp = torch.from_numpy(logits).log_softmax(1)
        expected_logp = torch.from_numpy(expected).log_softmax(1)
        divergences.append(float((expected_logp.exp() * (expected_logp - logp)).sum(1).mean()))
        chosen = np.take_along_axis(expected, logits.argmax(1)[:, None], 1)[:, 0]
        lost.append(expected.max(1) - chosen)
        same.append(logits.argmax(1) == expected.argmax(1))
        assert np.abs(value - expected_value).mean() < 0.02
    assert np.mean(same) >= 0.97
    assert np.mean(divergences) < 1e-3
    assert np.max(lost) < 0.25


def test_auto_takes_what_the_machine_multiplies() -> None:
    game = make("tictactoe")
    expected = "bfloat16" if has_fast_bfloat16("cpu") else "float32"
    assert Evaluator(net_for(game), game).dtype_name == expected


def test_no_rows(play_random: Any) -> None:
    game = make("tictactoe")
    none = take(game.new(2), slice(0, 0))
    evaluate = Evaluator(net_for(game), game)
    logits, value = evaluate(none, game.legal(none))
    assert logits.shape == (0, 9) and value.shape == (0,) and evaluate.evaluations == 0


def test_a_position_means_the_same_in_any_batch(play_random: Any) -> None:
    game = make("connect4")
    obs = game.observe(positions(game, play_random, 35))
    evaluate = Evaluator(net_for(game), game, dtype="float32")
    logits, value = evaluate.forward(obs)
    for count in (1, 15, 16, 17):
        part, part_value = evaluate.forward(obs[:count])
        assert np.allclose(part, logits[:count], atol=1e-4)
        assert np.allclose(part_value, value[:count], atol=1e-4)


def test_planes_of_numbers(play_random: Any) -> None:
    game = make("tictactoe")
    obs = np.random.default_rng(0).random((5, *game.obs_shape)).astype(np.float32)
    net = net_for(game)
    logits, _ = Evaluator(net, game, dtype="float32").forward(obs)
    assert np.allclose(logits, straight(net, obs)[0], atol=1e-4)


def test_the_evaluator_keeps_its_weights_until_it_loads() -> None:
    game = make("tictactoe")
    old, new = net_for(game, "2x16", 1), net_for(game, "2x16", 2)
    states = game.new(3)
    evaluate = Evaluator(old, game, dtype="float32")
    before, _ = evaluate(states, game.legal(states))
    expected, _ = straight(new, game.observe(states))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.mul_(2)  # training goes on
    assert np.array_equal(evaluate(states, game.legal(states))[0], before)
    evaluate.load(new)
    assert np.allclose(evaluate(states, game.legal(states))[0], expected, atol=1e-4)
    third = net_for(game, "2x16", 3)
    evaluate.load(third)
    assert np.allclose(evaluate(states, game.legal(states))[0],
                       straight(third, game.observe(states))[0], atol=1e-4)
    assert np.allclose(straight(new, game.observe(states))[0], expected)  # not written into


def test_a_net_in_training_stays_in_training() -> None:
    game = make("tictactoe")
    net = net_for(game).train()
    Evaluator(net, game)
    assert all(module.training for module in net.modules())


def test_unknown_dtype_and_missing_device() -> None:
    game = make("tictactoe")
    with pytest.raises(UserError, match=r"float16.*bfloat16, int8 wanted"):
        Evaluator(net_for(game), game, dtype="float16")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            Evaluator(net_for(game), game, "cuda")


def test_a_call_spread_over_threads_gives_the_same_to_the_last_bit() -> None:
    game = make("connect4")
    net, obs = net_for(game), game.observe(game.new(100))
    obs = np.random.default_rng(0).integers(0, 2, obs.shape).astype(np.uint8)
    seen = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        evaluator = spread(net, game)
        assert evaluator.max_batch < 50 and evaluator.workers.threads == threads
        seen.append(evaluator.forward(obs))
        assert evaluator.evaluations == 100
    torch.set_num_threads(1)
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)
    whole = Evaluator(net, game).forward(obs)
    np.testing.assert_allclose(seen[0][1], whole[1], atol=0.02)


@pytest.mark.parametrize(("name", "moves"), [("connect4", [0, 0, 1, 6, 2]),
                                             ("go5x5", [0, 7, 8, 11, 3])])
def test_of_all_its_symmetries_a_position_looks_the_same_from_every_side(
    name: str, moves: list[int]
) -> None:
    """And beforehand not: by a game and the same game turned, which are played, not looked at."""
    game = make(name)
    net, turns = net_for(game), game.symmetries().actions
    states = game.new(len(turns))
    # the planes of a turned position are obs[:, cells[s]], its move a lies where actions[s] has a
    game.replay(states, np.stack([np.argsort(turn)[moves] for turn in turns]))
    legal = game.legal(states)
    evaluate = Evaluator(net, game, dtype="float32")
    apart, _ = evaluate(states, legal)
    assert np.abs(apart[0] - apart[1][np.argsort(turns[1])]).max() > 0.05
    for asked in (len(turns), 99):  # 99: more than there are
        logits, value = Symmetric(evaluate, asked)(states, legal)
        for turn, row in zip(turns, logits, strict=True):
            np.testing.assert_allclose(row[np.argsort(turn)], logits[0], atol=1e-4)
        np.testing.assert_allclose(value, value[0], atol=1e-5)
    two = Symmetric(evaluate, 2)(states, legal)[0][0]
    by_hand = (apart[0] + apart[1][np.argsort(turns[1])]) / 2
    np.testing.assert_allclose(two, by_hand, atol=1e-4)


@pytest.mark.skipif(not openvino.available(), reason=f"openvino is missing: {openvino.INSTALL}")
@pytest.mark.parametrize("count", [0, 1, 16, 17, 48, 49, 64, 130])
def test_int8_gives_each_row_its_own_outputs_whatever_the_batch(count: int) -> None:
    game = make("connect4")
    net = net_for(game)
    obs = np.random.default_rng(0).integers(0, 2, (130, *game.obs_shape)).astype(np.uint8)
    evaluate = Evaluator(net, game, dtype="int8", calibration=obs)
    logits, value = evaluate.forward(obs[:count])
    assert logits.shape == (count, game.num_actions) and value.shape == (count,)
    for row in range(0, count, 7):
        alone = evaluate.forward(obs[row : row + 1])
        assert np.array_equal(alone[0][0], logits[row]) and alone[1][0] == value[row]
    if count:
        exact = Evaluator(net, game, dtype="float32").forward(obs[:count])
        assert 0 < np.abs(logits - exact[0]).mean() < 0.1
        assert np.abs(value - exact[1]).mean() < 0.05


def test_few_rows_wait_for_few() -> None:
    """The rows of a forward pass: none too many where a game is played alone."""
    assert [padded_rows(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 32, 33, 128)] == [
        1, 1, 2, 4, 4, 8, 8, 16, 16, 16, 32, 32, 48, 128]
    seen = []

    class Counting(nn.Module):
        def forward(self, planes: Any) -> Any:
            seen.append(len(planes))
            return net(planes)

    game = make("tictactoe")
    net = net_for(game, "1x8").eval()
    run = torch_run(Counting(), torch.device("cpu"), torch.float32)
    obs = game.observe(game.new(20))
    wanted = run(obs)
    for rows in (1, 3, 8, 20):
        policy, value = run(obs[:rows])
        assert policy.shape == (rows, 9) and value.shape == (rows,)
        assert np.allclose(policy, wanted[0][:rows], atol=1e-5)
        assert np.allclose(value, wanted[1][:rows], atol=1e-5)
        again = run(obs[:rows])
        assert (again[0] == policy).all() and (again[1] == value).all()
    assert seen == [32, 1, 1, 4, 4, 8, 8, 32, 32]
