"""One net that learns several board sizes at once: groups, rows, gradients, runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sgf import sgf

import selfplay as sp
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns, batches, concat, pack, unpack
from selfplay.board.selfplay import SelfPlay
from selfplay.board.trainer import TrainConfig, board_trainer, loss_parts, to_tensors
from selfplay.cluster.selfplay import ShardMaker, packed
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.games.go import Go
from selfplay.inference.actors import group_sizes, groups_of
from selfplay.inference.evaluator import Evaluator
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, flops, seeded, spec_for
from selfplay.run.boards import KeptLearner, train_rl
from selfplay.run.config import override, preset
from selfplay.run.folder import Run, open_run
from selfplay.run.shards import load_shard, save_shard
from selfplay.run.teacher import expert_columns

SEVEN, NINE = Go(7), Go(9)
BOARDS = [(board, board.symmetries()) for board in (SEVEN, NINE)]
SPEC = spec_for(SEVEN, "1x8")
SMALL = RLConfig(cache_mb=1, sims=2, cheap_sims=1, full_share=0.5, games=6, positions=60, reuse=2,
                 window_min=200, window_max=400, batch_size=32, iterations=2, dtype="float32",
                 sizes=(7, 9), pass_from=0.1)

pytestmark = pytest.mark.usefixtures("one_thread")


def net_of() -> torch.nn.Module:
    return seeded(1, lambda: build(SPEC)).eval()


@pytest.fixture
def rows(play_random: Any) -> dict[int, Columns]:
    """Positions of each board with a random policy, value, ownership."""
    found, rng = {}, np.random.default_rng(5)
    for game, count in ((SEVEN, 5), (NINE, 11)):
        states, _ = play_random(game, count, 1, 20)
        policy = rng.random((count, game.num_actions))
        found[game.size] = Columns(
            pack(game.observe(states), True), (policy / policy.sum(1)[:, None]).astype(np.float16),
            rng.random(count).astype(np.float32), rng.choice([-1.0, 1.0], count).astype(np.float32),
            rng.integers(-1, 2, (count, game.cells)).astype(np.int8),
            rng.normal(0, 9, count).astype(np.float32),
            (rng.random(count) < 0.7).astype(np.float32),
            np.full(count, game.size, np.int8))
    return found


def equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_games_own_board_comes_first_and_shares_follow_the_names() -> None:
    assert [b.name for b in make("go9x9(komi=6.5)").boards((7, 9, 9, 11))] == [
        "go9x9(komi=6.5)", "go9x9(komi=6.5)", "go7x7(komi=6.5)", "go11x11(komi=6.5)"]
    assert NINE.boards(()) == [NINE]
    groups = groups_of(NINE, 100, "cpu", (7, 9, 9, 11))
    assert [(board.name, count) for board, count in groups] == [
        ("go9x9", 25), ("go9x9", 25), ("go7x7", 25), ("go11x11", 25)]
    assert groups[0][0] is NINE
    assert [count for _, count in groups_of(NINE, 300, "cpu")] == group_sizes(300, "cpu")
    assert sum(count for _, count in groups_of(NINE, 1001, "cpu", (7, 9, 13))) == 1001


@pytest.mark.parametrize(("game", "sizes", "words"), [
    ("go9x9", (7, 11), "go9x9's own, 9, is not among them.*take 9,7,11"),
    ("go9x9", (9, 19), "one net plays go, 7x7 to 13x13, any komi, not go19x19 too"),
    ("go9x9", (9, 40), "board_size=40 is not a whole number"),
    ("connect4", (6, 7), "connect4: a net plays this board alone")])
def test_boards_that_no_one_net_plays(game: str, sizes: tuple[int, ...], words: str) -> None:
    with pytest.raises(GameError, match=words):
        make(game).boards(sizes)
    with pytest.raises(GameError, match="1 games at once for 2 board sizes"):
        groups_of(NINE, 1, "cpu", (7, 9))


@pytest.mark.parametrize(("words", "said"), [
    (["rl.sizes=7,9", "rl.algorithm=ppo"], r"rl.sizes: for self-play with search"),
    (["rl.handicap=0.5", "rl.algorithm=ppo"], r"rl.handicap: for self-play with search"),
    (["rl.sizes=9,7", "rl.games=1"], "1 games at once for 2 board sizes"),
    (["rl.sizes=7,nine"], "int wanted")])
def test_settings_that_make_no_sense(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises((UserError, GameError), match=said):
        open_run(tmp_path / "run", override(preset("go9x9"), words))
    with pytest.raises(UserError, match=r"rl\.handicap: there is none in connect4"):
        open_run(tmp_path / "run", override(preset("connect4"), ["rl.handicap=0.5"]))


def test_rows_of_two_sizes_come_back_as_they_were(tmp_path: Path, rows: dict[int, Columns]) -> None:
    mixed = concat([rows[7], rows[9], rows[7]])
    assert mixed.size is not None and mixed.size.tolist() == [7] * 5 + [9] * 11 + [7] * 5
    for game in (SEVEN, NINE):
        some, one = mixed.rows(mixed.size == game.size), rows[game.size]
        one = concat([one, one]) if game is SEVEN else one
        for name in ("policy_weight", "value", "score", "aux_weight"):
            assert np.array_equal(getattr(some, name), getattr(one, name))
        assert np.array_equal(unpack(some.obs, game.obs_shape), unpack(one.obs, game.obs_shape))
        for wide, own in ((some.policy, one.policy), (some.ownership, one.ownership)):
            assert np.array_equal(wide[:, : own.shape[1]], own) and not wide[:, own.shape[1]:].any()
    path = tmp_path / "000001.npz"
    games = (np.arange(9, dtype=np.int16), np.array([4, 9]), np.zeros(2, np.float32))
    save_shard(path, mixed, *games, np.array([7, 9], np.int8))
    found = load_shard(path)
    assert equal(found.columns, mixed) and found.sizes is not None
    assert found.sizes.tolist() == [7, 9]
    save_shard(path, mixed, *games)
    with pytest.raises(UserError, match="damaged shard"):
        load_shard(path)


def test_a_position_is_the_same_beside_others_of_other_sizes(rows: dict[int, Columns]) -> None:
    """What the net says of each row of a mixed batch, against the row alone."""
    mixed, net = concat([rows[9], rows[7]]), net_of()
    parts = batches(mixed, np.arange(len(mixed.value))[::-1], BOARDS, np.random.default_rng(2))
    assert [part.obs.shape for part in parts] == [(5, 24, 7, 7), (11, 24, 9, 9)]
    whole = {p.obs.shape[3]: net(torch.from_numpy(p.obs).float()) for p in parts}
    for game, part in zip((SEVEN, NINE), parts, strict=True):
        for k in range(len(part.obs)):
            alone = net(torch.from_numpy(part.obs[k : k + 1]).float())
            for ours, theirs in zip(alone, whole[game.size], strict=True):
                torch.testing.assert_close(ours[0], theirs[k], atol=1e-5, rtol=1e-5)
        value = rows[game.size].value[::-1]
        assert part.value.tolist() == value.tolist()
        np.testing.assert_allclose(part.policy.sum(1), 1, atol=2e-3)
        assert part.policy.shape[1] == game.num_actions  # the pass is the board's own, not moved
        passes = rows[game.size].policy[::-1, -1].astype(np.float32)
        assert part.policy[:, -1].tolist() == passes.tolist()


def test_a_step_descends_the_mean_over_all_rows(rows: dict[int, Columns]) -> None:
    """Against the sum over both boards, each part of the loss weighted by its rows."""
    mixed = concat([rows[7], rows[9]])
    parts = batches(mixed, np.arange(16), BOARDS, np.random.default_rng(2))
    trainer = board_trainer(net_of(), TrainConfig(dtype="float32"))
    figures = trainer.gradient(parts)
    by_hand, net = {"policy": 0.0, "value": 0.0, "ownership": 0.0, "score": 0.0}, net_of().train()
    for part in parts:
        tensors = to_tensors(part, "cpu")
        weight = {"policy": part.policy_weight.sum() / mixed.policy_weight.sum(),
                  "value": len(part.value) / 16}
        known = part.aux_weight.sum() / mixed.aux_weight.sum()
        for name, loss in loss_parts(net(tensors.obs), tensors).items():
            by_hand[name] += loss.item() * float(weight.get(name, known))
    for name, loss in by_hand.items():
        assert figures[f"{name}_loss"] == pytest.approx(loss, rel=1e-4), name


def test_threads_do_not_change_mixed_games() -> None:
    net = net_of()
    harvests = [SelfPlay(SEVEN, [Evaluator(net, board, cache_mb=0.1) for board in (SEVEN, NINE)],
                         SMALL, seed=5, threads=threads).play(40) for threads in (1, 2)]
    one, two = harvests
    assert equal((*one.columns, *one[1:]), (*two.columns, *two[1:]))
    assert set(one.columns.size.tolist()) == {7, 9}
    ends = np.split(one.actions, one.ends[:-1])
    for size, moves in zip(one.sizes.tolist(), ends, strict=True):
        game = Go(size)
        states = game.new(1)
        for move in moves.tolist():
            assert game.legal(states)[0, move]
            game.step(states, np.array([move]))
        assert states.done[0]


def learner(folder: Path, config: RLConfig = SMALL) -> KeptLearner:
    return KeptLearner(SEVEN, SPEC, config, folder, init=None, device="cpu", seed=1)


def test_a_run_of_two_sizes_goes_on_and_is_the_same_again(tmp_path: Path) -> None:
    def weights(name: str) -> bytes:
        return (tmp_path / name / "ckpt-000002/weights.safetensors").read_bytes()

    train_rl(learner(tmp_path / "a"))
    train_rl(learner(tmp_path / "b", replace(SMALL, iterations=1)))
    again = learner(tmp_path / "b")
    assert again.iteration == 1 and set(np.unique(again.window.newest().size)) == {7, 9}
    (tmp_path / "b/records/000002.npz").write_bytes(  # a start plays other games
        (tmp_path / "a/records/000002.npz").read_bytes())
    (tmp_path / "b/records/000002.json").write_bytes(
        (tmp_path / "a/records/000002.json").read_bytes())
    train_rl(again)
    assert weights("a") == weights("b")
    assert equal(load_shard(tmp_path / "a/records/000001.npz").columns,
                 load_shard(tmp_path / "b/records/000001.npz").columns)
    both = [flops(spec_for(game, "1x8")) for game in (SEVEN, NINE)]
    assert again.flops == pytest.approx(sum(both) / 2, rel=0.01)
    for game in (SEVEN, NINE):
        checkpoint.load_net(tmp_path / "a/ckpt-000002", game)
    with pytest.raises(UserError, match="this net is for one board"):
        next(sp.alphazero("go7x7", old_net(), sizes=(7, 9), games=2))


def old_net() -> torch.nn.Module:
    """One that does not see the komi."""
    net = build(NetSpec("1x8", (16, 7, 7), 50, True))
    net.spec = NetSpec("1x8", (16, 7, 7), 50, True)
    return net


def test_shards_of_a_cluster_take_the_boards_in_turn(tmp_path: Path) -> None:
    maker = ShardMaker("go7x7", "1x8", SPEC, replace(SMALL, opening=(0, 2)), 3, 2, "cpu")
    maker.load(packed(learner(tmp_path), "cpu"))
    for number, (size, games) in enumerate([(9, 1), (7, 2)]):
        (columns, *_, sizes), figures = maker.make((1, number))
        assert set(columns[-1].tolist()) == {size} and sizes.tolist() == [size] * games
        assert figures["games"] == games


def test_records_of_several_sizes_are_learnt_from(tmp_path: Path) -> None:
    """Games of other boards join those of the run's own, of which some are held out."""
    for k in range(4):
        for size in (7, 9):
            letters = "abcdefg"[k]
            (tmp_path / f"{size}-{k}.sgf").write_text(
                sgf(f";B[c{letters}];W[e{letters}];B[dd]", SZ=str(size)))
    (tmp_path / "odd.sgf").write_text(sgf(SZ="13"))
    words = [f"expert.games={tmp_path}", "rl.sizes=9,7", "expert.held_out=0.25"]
    config = override(preset("go9x9"), words)
    (tmp_path / "run").mkdir()
    found = expert_columns(Run(tmp_path / "run", config, NINE))
    assert np.bincount(found.learnt.size)[[7, 9]].tolist() == [4 * 3, 3 * 3]
    assert found.held.size is None and len(found.held.value) == 3
    skipped = (tmp_path / "run/skipped.txt").read_text()
    assert len(skipped.splitlines()) == 1 and "odd.sgf" in skipped
    alone = expert_columns(Run(tmp_path / "run", replace(
        config, rl=replace(config.rl, sizes=())), NINE))
    assert equal(alone.learnt.value, found.learnt.value[found.learnt.size == 9])
    assert equal(alone.held, found.held)
