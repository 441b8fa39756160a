"""Komi: of each game of a batch, seen by nets, varied in self-play, taken from records; and one net
on boards of several sizes."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harvesting import played
from numpy.typing import NDArray

from selfplay.arena.match import play_match
from selfplay.arena.players import parse_player
from selfplay.arena.sgf import ExpertGame
from selfplay.board.alphazero import Learner
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns, batch, concat, pack, unpack
from selfplay.board.league_games import deal_groups
from selfplay.board.policy import BoardPolicy
from selfplay.board.selfplay import Actor
from selfplay.board.supervised import recounted, to_columns
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.board.value import Policies, play_group
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import side, take
from selfplay.games.go import Go
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded, spec_for
from selfplay.models.resnet import KOMI_SCALE, komi_inputs
from selfplay.run.config import preset
from selfplay.run.folder import Run, net_spec
from selfplay.search.rollouts import rollout_evaluate

HALVES = np.arange(-128, 128)
POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, -128])


def komi_seen(game: Go, obs: NDArray[Any]) -> NDArray[np.int64]:
    """Half points, as the planes spell them; the planes must be the same all over the board."""
    bits = obs[:, -8:].reshape(len(obs), 8, -1).astype(np.int64)
    assert (bits == bits[:, :, :1]).all()
    return (bits[:, :, 0] * POWERS.numpy()).sum(1)


# ------------------------------------------------------------------------------- the game


@pytest.mark.parametrize("size", [5, 11])  # sets of points; chains
def test_a_batch_of_games_with_different_komi_is_as_each_alone(size: int, play_random: Any) -> None:
    game, komis = Go(size), [7, 6.5, 0, -3.5, size**2, 7.5]
    states, actions = play_random(game, len(komis), 3)
    states.komi[:] = [2 * k for k in komis]
    for row, komi in enumerate(komis):
        alone = Go(size, komi=komi)
        one = alone.new(1)
        alone.replay(one, actions[row : row + 1])
        mine = take(states, [row])
        for function in ("result", "score", "observe", "ownership"):
            for ours, theirs in zip(np.atleast_1d(getattr(game, function)(mine)),
                                    np.atleast_1d(getattr(alone, function)(one)), strict=True):
                assert np.array_equal(ours, theirs), (function, komi)
        begun = [g.new(1) for g in (game, alone)]
        begun[0].komi[:] = 2 * komi
        ends = [g.rollout(s, np.arange(1, dtype=np.uint64))[0]
                for g, s in zip((game, alone), begun, strict=True)]
        assert ends[0] == ends[1]
    leads = game.score(states) + states.komi / 2
    assert (game.result(states)[1] == np.sign(2 * leads - states.komi)).all()


@pytest.mark.parametrize("size", [9, 13])
def test_komi_goes_along_with_a_search(size: int) -> None:
    game = Go(size)
    roots, out = game.new(3), game.new(5)
    roots.komi[:] = [1, 2, 3]
    rows, moves = np.array([0, 1, 2, 1, 0]), np.full((5, 2), game.pass_action)
    moves[::2, 1] = -1  # rows 0, 2 and 4 are not over
    place, _ = game.branch(roots, rows, moves, out)
    assert out.komi[place].tolist() == [1, 2, 3, 2, 1]


def test_the_mover_sees_the_komi_that_it_receives() -> None:
    states = Go(9).new(4)
    states.komi[:] = [14, -13, 1, 162]
    assert komi_seen(Go(9), Go(9).observe(states)).tolist() == [-14, 13, -1, -128]
    Go(9).step(states, np.array([40, 40, 81, 3]))
    assert komi_seen(Go(9), Go(9).observe(states)).tolist() == [14, -13, 1, 127]


def test_positions_of_different_komi_have_different_keys() -> None:
    game, other = Go(9), Go(9, komi=6.5)
    states = game.new(3)
    states.komi[:] = [14, 13, 14]
    keys = game.keys(states)
    assert keys[0] == keys[2] != keys[1]
    assert game.keys(game.new(1))[0] == other.keys(other.new(1))[0]  # as it was before


def test_varied_komi_has_its_shares() -> None:
    game, config = Go(9, komi=6.5), RLConfig(komi_share=0.4, komi_range=1.0, komi_wild=0.2)
    states = game.new(20_000)
    game.vary(states, config, np.random.default_rng(0))
    counts = Counter(states.komi.tolist())
    near = [counts[half] / 20_000 for half in (11, 12, 13, 14, 15)]
    wild = 1 - sum(near)
    assert 0.17 < wild < 0.2 and all(0.07 < n < 0.1 for n in near[:2] + near[3:])
    assert 0.47 < near[2] < 0.51  # own 0.4, near 0.08, wild about 0.004
    assert min(counts) < -20 and max(counts) > 45 and abs(states.komi).max() <= 162
    again = game.new(20_000)
    game.vary(again, config, np.random.default_rng(0))
    assert (again.komi == states.komi).all()


def test_nothing_is_drawn_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    Go(9).vary(Go(9).new(3), RLConfig(komi_share=0, komi_wild=0), rng)
    make("tictactoe").vary(make("tictactoe").new(3), RLConfig(), rng)
    assert rng.random() == np.random.default_rng(0).random()


# ------------------------------------------------------------------------------- rows


def test_self_play_varies_komi_and_its_rows_keep_to_it() -> None:
    game = Go(5)
    config = RLConfig(sims=4, cheap_sims=2, full_share=1.0, games=16, opening=(0, 0),
                      komi_share=0.6, komi_wild=0.2)
    harvest = played(Actor(game, rollout_evaluate(game, 1), config, 3), 600)
    columns, start = harvest.columns, 0
    seen = unpack(columns.obs, game.obs_shape)
    white = seen[:, 14, 0, 0].astype(bool)
    komi = np.where(white, 1, -1) * komi_seen(game, seen) / 2
    found: Counter[float] = Counter()
    for actions, value in zip(np.split(harvest.actions, harvest.ends[:-1]), harvest.values,
                              strict=True):
        rows = slice(start, start + len(actions))
        assert len(set(komi[rows])) == 1  # the same throughout a game
        states = game.new(1)
        states.komi[:] = 2 * komi[start]
        for row, action in zip(range(start, start + len(actions)), actions, strict=True):
            assert columns.score[row] == pytest.approx(
                columns.ownership[row].sum() - komi[row] * side(states)[0])
            game.step(states, np.array([action]))
        assert game.result(states) == (True, value)
        found[komi[start]] += 1
        start += len(actions)
    assert start == len(columns.value)
    assert found[7.0] > 3 and len(found) > 5 and {6.5, 7.5} & set(found)


def test_an_expert_s_komi_is_that_of_its_record() -> None:
    game = Go(5)
    games = [ExpertGame((12, 25, 25), 1.0, komi, ("", ""), "", margin=margin)
             for komi, margin in ((24.5, 0.5), (7.0, 18.0), (None, 18.0), (3.75, None),
                                  (1e30, None), (25.0, 0.0))]
    rows = to_columns(game, games)
    obs = unpack(rows.obs, game.obs_shape)[::3]  # black's first moves
    assert komi_seen(game, obs).tolist() == [-49, -14, -14, -14, -14, -50]
    assert rows.score[::3].tolist() == [0.5, 18, 18, 18, 18, 0]
    assert rows.aux_weight[::3].tolist() == [1, 1, 1, 0, 0, 1]  # board and record agree


def test_games_by_policy_gradient_vary_komi_by_group() -> None:
    game, config = Go(5), RLConfig(komi_share=1.0)
    plain = deal_groups(game, range(3, 23), 4, (1, 3), seed=4)
    deals = deal_groups(game, range(3, 23), 4, (1, 3), seed=4, rules=config)
    assert (plain.states.komi == 14).all()
    assert all((a == b).all() for name, a, b in zip(
        plain.states._fields, plain.states, deals.states, strict=True) if name != "komi")
    komi = deals.states.komi.reshape(20, 4)
    assert (komi == komi[:, :1]).all() and len(set(komi[:, 0])) > 4
    later = deal_groups(game, range(13, 23), 4, (1, 3), seed=4, rules=config)
    assert (later.states.komi.reshape(10, 4) == komi[10:]).all()


def test_the_value_net_s_games_vary_komi() -> None:
    game, spec = Go(5), spec_for(Go(5), "1x8")
    policy = BoardPolicy(shaken(spec), game.obs_shape, game.num_actions).frozen()
    played = [play_group(game, Policies(policy, policy, rules), range(60), 20, 7)
              for rules in (None, RLConfig(komi_share=1.0))]
    (fixed, _), (komi, states) = ((_komi_of(game, one), one) for one in played)
    assert set(fixed) == {7.0} and len(set(komi)) > 4
    for row, actions in enumerate(np.split(states.actions, states.ends[:-1])):
        one = game.new(1)
        one.komi[:] = 2 * komi[row]
        game.replay(one, actions[None].astype(np.int64))
        assert game.result(one) == (True, states.values[row])


def _komi_of(game: Go, played: Any) -> NDArray[np.float64]:
    obs = unpack(played.columns.obs, game.obs_shape)
    return np.where(obs[:, 14, 0, 0] == 1, 1, -1) * komi_seen(game, obs) / 2


def test_counted_games_are_counted_by_other_komi_too() -> None:
    game = Go(9)
    games = [ExpertGame((k,), 1.0, 7.0, ("", ""), str(k), margin=margin)
             for k in range(2000) for margin in (3.0, None)]
    found = recounted(game, games, 0.25, 5)
    assert found == recounted(game, games, 0.25, 5) != recounted(game, games, 0.25, 6)
    assert recounted(game, games, 0.0, 5) == games
    changed = [g for g, before in zip(found, games, strict=True) if g != before]
    assert 400 < len(changed) < 560 and all(g.margin is not None for g in changed)
    for g in changed:
        assert g.margin == 10 - g.komi and g.value == np.sign(10 - g.komi)
    assert {g.value for g in changed} == {-1, 0, 1}
    assert {5.5, 6, 6.5, 7.5, 8, 8.5} < {g.komi for g in changed}
    others = [ExpertGame((4,), 1.0, None, ("", ""), "", margin=None)]
    assert recounted(make("tictactoe"), others, 1.0, 5) == others
    strange = [ExpertGame((4,), -1.0, komi, ("", ""), "", margin=-3.5)  # hundredths, and no number
               for komi in (375.0, 650.0, 7.25, math.inf, math.nan)]
    assert recounted(game, strange, 1.0, 5) == strange


# ------------------------------------------------------------------------------- nets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_inputs_are_exact(dtype: torch.dtype) -> None:
    bits = torch.from_numpy((HALVES[:, None] >> np.arange(8)) & 1).to(dtype)
    inputs, komi = komi_inputs(bits, POWERS, odd=True)
    assert komi.dtype is dtype and (2 * komi == torch.from_numpy(HALVES)).all()
    assert torch.allclose(inputs[:, 0].float(), torch.from_numpy(HALVES / 20).float(), rtol=4e-3)
    # on an odd board all komi between two odd ones decide alike: what both say is then the same
    says = (komi.float() + inputs[:, 1].float()).numpy()
    leads = np.arange(-65, 66, 2)
    decided = np.sign(leads[None] + HALVES[:, None] / 2)
    for a, b in zip(range(len(HALVES) - 1), range(1, len(HALVES)), strict=True):
        assert (says[a] == says[b]) == (decided[a] == decided[b]).all()
    even, _ = komi_inputs(bits, POWERS, odd=False)
    assert (even[:, 1] == -inputs[:, 1]).all() and KOMI_SCALE == 10


def shaken(spec: NetSpec, seed: int = 0) -> torch.nn.Module:
    """A net all of whose parts matter."""
    net = seeded(seed, lambda: build(spec))
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return net.eval()


def outputs(net: torch.nn.Module, obs: NDArray[Any]) -> Any:
    with torch.no_grad():
        return net(torch.from_numpy(obs).float())


def test_policy_and_value_hear_of_the_komi_and_the_score_has_it(play_random: Any) -> None:
    game = Go(9)
    net = shaken(spec_for(game, "2x16"))
    states, _ = play_random(game, 6, 1, 9)
    before = outputs(net, game.observe(states))
    states.komi[:] += 20
    after = outputs(net, game.observe(states))
    assert ((before.policy - after.policy).abs().amax(1) > 1e-4).all()
    assert ((before.value - after.value).abs() > 1e-4).all()
    net.value.score.weight.data.zero_()
    net.value.score.bias.data.zero_()
    assert outputs(net, game.observe(states)).score.tolist() == [
        k / 2 if mover else -k / 2 for k, mover in zip(states.komi, states.to_play, strict=True)]


def saved(path: Path, game: Go, spec: NetSpec) -> Path:
    net = shaken(spec)
    checkpoint.save_net(path, net, spec, {**checkpoint.naming(game, spec), "step": 1, "compute": {
        "seconds": 1.0, "flops": 1.0, "positions": 1.0}})
    return path


def test_a_net_of_one_board_plays_others_with_any_komi(tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt-000001", Go(9), spec_for(Go(9), "2x16"))
    assert checkpoint.read_meta(path)["plays"] == "go, 7x7 to 13x13, any komi"
    for name in ("go9x9", "go9x9(komi=6.5)", "go7x7", "go13x13(komi=-0.5)"):
        game = make(name)
        net, meta = checkpoint.load_net(path, game)
        assert checkpoint.spec_of(meta) == spec_for(game, "2x16")
        assert outputs(net, game.observe(game.new(2))).policy.shape == (2, game.num_actions)
    result = play_match(make("go13x13(komi=5.5)"), f"net:{path}@2", f"net:{path}", games=2, seed=0,
                        opening=(1, 1))
    assert result.games == 2
    for name in ("go19x19", "go5x5", "go9x9(suicide=True)", "tictactoe"):
        words = rf"a net for go, 7x7 to 13x13, any komi, not for {name}".replace("(", r"\(")
        with pytest.raises(UserError, match=words.replace(")", r"\)")):
            parse_player(f"net:{path}", make(name))


def test_the_symmetries_of_another_board_are_its_own(tmp_path: Path, play_random: Any) -> None:
    """Pooled heads see no place: mean logits over all turned boards turn with the board."""
    path = saved(tmp_path / "ckpt-000001", Go(7), spec_for(Go(7), "2x16"))
    game = Go(11)
    net, _ = checkpoint.load_net(path, game)
    obs = game.observe(play_random(game, 1, 5, 20)[0])
    cells, actions = game.symmetries()

    def mean(planes: NDArray[Any]) -> NDArray[np.float32]:
        flat = planes.reshape(1, planes.shape[1], -1)
        turned = np.concatenate([flat[:, :, c] for c in cells]).reshape(-1, *game.obs_shape)
        out = outputs(net, turned).policy.numpy()
        return np.mean([row[np.argsort(a)] for row, a in zip(out, actions, strict=True)], axis=0)

    turned = obs.reshape(1, game.obs_shape[0], -1)[:, :, cells[5]].reshape(obs.shape)
    np.testing.assert_allclose(mean(turned), mean(obs)[actions[5]], atol=1e-4)


# ------------------------------------------------------------------------------- older nets

OLD = NetSpec("2x16", (16, 9, 9), 82, True)


def test_an_older_net_plays_its_exact_game(tmp_path: Path, play_random: Any) -> None:
    path = saved(tmp_path / "ckpt-000001", Go(9), OLD)
    meta = json.loads((path / "meta.json").read_text())
    assert "plays" not in meta
    del meta["net"]["komi"]  # which no older checkpoint has
    checkpoint.write_meta(path, meta)
    (path / "sums.json").unlink()  # nor these
    game = Go(9)
    net, _ = checkpoint.load_net(path, game)
    obs = game.observe(play_random(game, 4, 5, 20)[0])
    for ours, theirs in zip(outputs(net, obs), outputs(shaken(OLD), obs[:, :16]), strict=True):
        assert torch.equal(ours, theirs)
    play_match(game, f"net:{path}@2", "random", games=2, seed=0, opening=(1, 1))
    with pytest.raises(UserError, match=r"a net for go9x9, not for go9x9\(komi=6.5\)"):
        checkpoint.load_net(path, make("go9x9(komi=6.5)"))
    with pytest.raises(UserError, match="a net for go9x9, not for go13x13"):
        checkpoint.load_net(path, Go(13))


def test_an_older_net_goes_on_learning_by_its_own_komi() -> None:
    game = Go(9)
    learner = Learner(game, OLD, RLConfig(games=2, sims=2, cheap_sims=2, cache_mb=0))
    assert (learner.config.komi_share, learner.config.komi_wild) == (0, 0)
    assert Learner(game, spec_for(game, "1x8"), RLConfig(games=2)).config.komi_share == 0.5


def test_rows_of_fewer_planes_are_joined_with_newer_ones(play_random: Any) -> None:
    game = Go(9)
    obs = game.observe(play_random(game, 3, 5, 20)[0])
    none = np.zeros(3, np.float32)

    def rows(planes: NDArray[Any]) -> Columns:
        return Columns(pack(planes, True), np.zeros((3, 82), np.float16), none, none,
                       np.zeros((3, 81), np.int8), none, none)

    joined = concat([rows(obs[:, :16]), rows(obs)])
    found = unpack(joined.obs, game.obs_shape)
    assert np.array_equal(found[3:], obs) and np.array_equal(found[:3, :16], obs[:, :16])
    assert not found[:3, 16:].any()
    assert np.array_equal(unpack(rows(obs[:, :16]).obs, game.obs_shape)[:, :16], obs[:, :16])


def test_an_earlier_run_goes_on_with_its_kind_of_net(tmp_path: Path) -> None:
    run = Run(tmp_path, preset("go9x9"), Go(9))
    assert net_spec(run) == spec_for(Go(9), "6x64")
    saved(tmp_path / "sft" / "ckpt-000001", Go(9), OLD)
    assert net_spec(run) == OLD


# ------------------------------------------------------------------------------- learning


def finished(game: Go, count: int, seed: int) -> Any:
    """Boards cut in two by a crooked wall of each colour, two stones thick, with some more stones
    behind it; nobody has passed yet, and either side may be to move."""
    rng, states = np.random.default_rng(seed), game.new(count)
    table = np.full((count, 2 * game.cells), -1, np.int64)
    for row in range(count):
        column, stones = int(rng.integers(1, game.size - 2)), ([], [])
        for line in range(game.size):
            column = int(np.clip(column + rng.integers(-1, 2), 1, game.size - 3))
            for colour in range(2):
                own = range(column + 1) if colour == 0 else range(column + 1, game.size)
                wall = (column - 1, column) if colour == 0 else (column + 1, column + 2)
                stones[colour].extend(line * game.size + c for c in own
                                      if c in wall or rng.random() < 0.2)
        moves = [[*rng.permutation(s), game.pass_action] for s in stones]
        order = [moves[k % 2][k // 2] if k // 2 < len(moves[k % 2]) else game.pass_action
                 for k in range(2 * min(map(len, moves)) - 2)]
        rest = moves[0][len(order) // 2 : -1] or moves[1][len(order) // 2 : -1]
        first = len(moves[0]) > len(moves[1])
        for stone in rest:  # the other colour waits
            order += [stone, game.pass_action] if first else [game.pass_action, stone]
        table[row, : len(order)] = order
    game.replay(states, table)
    states.recent[:] = game.pass_action - 1  # the past tells nothing
    states.to_play[:] = rng.integers(0, 2, count)
    assert not states.done.any()
    return states


@pytest.mark.learns
def test_a_net_learns_that_komi_decides(learn_seed: int) -> None:
    game = Go(7)
    rng = np.random.default_rng(learn_seed)

    def rows(states: Any) -> Columns:
        lead = game.score(states) * side(states)
        count = len(lead)
        return Columns(
            pack(game.observe(states), True),
            np.full((count, game.num_actions), 1 / game.num_actions, np.float16),
            np.zeros(count, np.float32), np.sign(lead).astype(np.float32),
            (game.ownership(states) * side(states)[:, None]).astype(np.int8),
            lead.astype(np.float32), np.ones(count, np.float32))

    train = finished(game, 3000, learn_seed)
    train.komi[:] = rng.integers(-60, 61, len(train.komi))
    columns = rows(train)
    trainer = board_trainer(seeded(learn_seed, lambda: build(spec_for(game, "2x16"))), TrainConfig(
        learning_rate=5e-3, warmup=20, ema_decay=0.97))
    for _ in range(250):
        trainer.step(batch(columns, rng.integers(0, 3000, 128), game, game.symmetries(), rng))
    net = trainer.inference_net()
    held = finished(game, 200, learn_seed + 1000)
    lead = game.score(held) + held.komi / 2
    values = []
    for off in (-20, -6, 6, 20):  # half points that White gets beyond Black's lead
        held.komi[:] = 2 * lead + off
        values.append(outputs(net, game.observe(held)).value.tanh().numpy() * side(held))
        right = np.sign(values[-1]) == np.sign(-off)
        assert right.mean() > (0.9 if abs(off) == 20 else 0.8), (off, right.mean())
    assert (np.diff(np.stack(values), axis=0) < 0).mean() > 0.99
