"""Expert games to rows, rows to a net, and where the training stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from command import drop_sums
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.arena.sgf import ExpertGame
from selfplay.arena.spec import full_name
from selfplay.board.alphago_config import SFTConfig
from selfplay.board.data import Columns, unpack
from selfplay.board.evaluate import evaluate_columns
from selfplay.board.supervised import split, to_columns
from selfplay.common.errors import UserError
from selfplay.common.files import read_json, write_json
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.models import NetSpec
from selfplay.run.boards import best_sft, train_sft

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
FAST = SFTConfig(batch_size=32, evaluate_every=10, patience=1, drops=2, learning_rate=1e-2,
                 max_steps=2000)


def expert(actions: tuple[int, ...], value: float, opening: int = 0) -> ExpertGame:
    return ExpertGame(actions, value, None, ("a", "b"), "here", opening)


# ------------------------------------------------------------------------------- rows

def test_rows_of_a_hand_made_game() -> None:
    rows = to_columns(GAME, [expert((4, 0), 0.0), expert((0, 3, 1, 4, 2), 1.0, opening=2)])
    assert rows.value.tolist() == [0, 0, 1, -1, 1, -1, 1]
    assert rows.policy.argmax(1).tolist() == [4, 0, 0, 3, 1, 4, 2]
    assert (rows.policy.sum(1) == 1).all()
    assert rows.policy_weight.tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert not rows.aux_weight.any()
    own, other, _ = unpack(rows.obs, GAME.obs_shape)[6].reshape(3, 9)  # before the winning move
    assert np.flatnonzero(own).tolist() == [0, 1]
    assert np.flatnonzero(other).tolist() == [3, 4]


PASS = 25


@pytest.mark.parametrize(("actions", "recorded", "margin", "known"), [
    ((12, PASS, PASS), 1.0, 18.0, 1.0),  # black owns the board: 25 - 7 komi
    ((12, PASS, PASS), 1.0, 12.0, 0.0),  # the record counts another board: dead stones were off
    ((12, PASS, PASS), 1.0, None, 0.0),  # no points on record
    ((12, PASS, PASS), -1.0, -3.0, 0.0),  # another winner
    ((12, 11), 1.0, 18.0, 0.0),  # not played out
])
def test_ownership_counts_where_board_and_record_agree(
    actions: tuple[int, ...], recorded: float, margin: float | None, known: float
) -> None:
    rows = to_columns(make("go5x5"), [replace(expert(actions, recorded), margin=margin)])
    assert rows.value.tolist() == [recorded, -recorded, recorded][: len(actions)]
    assert rows.aux_weight.tolist() == [known] * len(actions)
    if known:
        assert rows.score.tolist() == [18, -18, 18]
        assert rows.ownership[:, 0].tolist() == [1, -1, 1]
        assert (np.abs(rows.ownership) == 1).all()


def test_white_to_move_sees_its_own_ownership() -> None:
    black, white = 11, 13  # c3's neighbours: a wall on either side
    rows = to_columns(make("go5x5"), [replace(expert(
        (1, 3, 6, 8, black, white, 16, 18, 21, 23, PASS, PASS), -1.0), margin=-7.0)])
    left, right, middle = 0, 4, 12  # a1, e1, c3
    assert rows.aux_weight.all()
    assert rows.ownership[0, [left, right, middle]].tolist() == [1, -1, 0]
    assert rows.ownership[1, [left, right, middle]].tolist() == [-1, 1, 0]
    assert rows.score[:2].tolist() == [-7, 7]


# ------------------------------------------------------------------------------ split

@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40),
       st.floats(0, 1), st.integers(0, 2**31))
def test_no_game_is_on_both_sides(
    moves: list[tuple[int, int]], held_out: float, seed: int
) -> None:
    games = [expert(m, 0.0) for m in moves]
    if len(set(moves)) < 2:
        with pytest.raises(UserError, match="at least 2"):
            split(games, held_out, seed)
        return
    learned, held = split(games, held_out, seed)
    assert learned and held
    assert sorted(g.actions for g in learned + held) == sorted(moves)
    assert not {g.actions for g in learned} & {g.actions for g in held}
    assert (learned, held) == split(games, held_out, seed)


def test_the_split_has_its_share_and_depends_on_the_seed() -> None:
    games = [expert((a, b, c), 0.0) for a in range(9) for b in range(9) for c in range(5)]
    splits = [split(games, 0.1, seed)[1] for seed in range(3)]
    assert [len(held) for held in splits] == [40, 40, 40]
    assert splits[0] != splits[1] != splits[2]


# --------------------------------------------------------------------------- training

def opposite_games(count: int, seed: int) -> Columns:
    """Games of an expert that moves opposite the one stone that has no stone opposite, but one time
    in five anywhere: more than four moves in five can be foretold, turned or mirrored."""
    rng, games = np.random.default_rng(seed), []
    for _ in range(count):
        cells = rng.permutation([0, 1, 2, 3, 5, 6, 7, 8]).tolist()
        first, alone = cells[0], next(cell for cell in cells[1:] if cell != 8 - cells[0])
        taken = (first, 8 - first, alone)
        free = [cell for cell in range(9) if cell not in taken]
        answer = 8 - alone if rng.random() < 0.8 else int(rng.choice(free))
        games.append(expert((*taken, answer), 0.0, opening=3))
    return to_columns(GAME, games)


@pytest.mark.learns
def test_it_learns_until_flat_and_names_the_best(tmp_path: Path, learn_seed: int) -> None:
    config = SFTConfig(**{**vars(FAST), "patience": 2, "evaluate_every": 20})
    train, held = (opposite_games(count, 1000 * learn_seed + count) for count in (400, 200))
    found = train_sft(GAME, SPEC, train, held, config, tmp_path, device="cpu", seed=learn_seed)
    rows = read_history(tmp_path / "history.jsonl")
    assert rows[-1]["step"] < FAST.max_steps
    assert read_json(tmp_path / "best.json")["flat"] is True
    losses = [row["policy_loss"] for row in rows]
    top = next(row for row in rows if f"ckpt-{row['step']:06d}" == found.name)
    assert top["policy_loss"] == pytest.approx(min(losses), abs=1e-4)
    assert top["top1"] > 0.6 > rows[0]["top1"] + 0.1
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert set(rates) == {FAST.learning_rate * 0.3**drop for drop in range(FAST.drops + 1)}
    for at, (before, after) in enumerate(pairwise(rows), 1):
        if after["learning_rate"] < before["learning_rate"]:  # only where little was gained
            assert min(losses[:at]) > (1 - config.gain) * min(losses[: at - config.patience])
    flops = [row["flops"] / row["step"] for row in rows]
    assert min(flops) == max(flops) > 0


def noise(seed: int) -> Columns:
    """Labels that mean nothing."""
    real = opposite_games(40, seed)
    labels = np.random.default_rng(seed).integers(0, 9, len(real.value))
    return real._replace(policy=np.eye(9, dtype=np.float16)[labels],
                         policy_weight=np.ones(len(labels), np.float32))


@pytest.mark.learns
def test_noise_is_flat_at_once(tmp_path: Path, learn_seed: int) -> None:
    train, held = noise(2 * learn_seed + 1), noise(2 * learn_seed + 2)
    train_sft(GAME, SPEC, train, held, FAST, tmp_path, device="cpu", seed=learn_seed)
    assert read_history(tmp_path / "history.jsonl")[-1]["step"] <= 200
    assert read_json(tmp_path / "best.json")["flat"] is True


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_net(path, GAME.name)[0].state_dict()


def learn_noise(folder: Path, steps: int) -> Path:
    config = SFTConfig(**{**vars(FAST), "max_steps": steps, "drops": 9})
    train, held = noise(1), noise(2)  # so that the rate drops on the way
    return train_sft(GAME, SPEC, train, held, config, folder, device="cpu", seed=5)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that is best."""
    return learn_noise(tmp_path_factory.mktemp("whole"), 90)


@pytest.mark.parametrize("interrupted_at", [20, 40, 70])
def test_going_on_gives_the_same_weights(
    tmp_path: Path, uninterrupted: Path, interrupted_at: int
) -> None:
    learn_noise(tmp_path, interrupted_at)
    parts = learn_noise(tmp_path, 90)
    assert parts.name == uninterrupted.name
    for path in checkpoint.listing(uninterrupted.parent):
        ours = weights(tmp_path / path.name)
        assert all(torch.equal(ours[key], value) for key, value in weights(path).items())
    a, b = (read_history(folder / "history.jsonl") for folder in (uninterrupted.parent, tmp_path))
    keys = ("step", "learning_rate", "policy_loss", "top1", "flops")
    assert [[row[key] for key in keys] for row in a] == [[row[key] for key in keys] for row in b]
    assert len({row["learning_rate"] for row in a}) > 1


def test_the_clock_ends_it_with_a_checkpoint(tmp_path: Path) -> None:
    train, held = opposite_games(20, 1), opposite_games(10, 2)
    for steps in range(11, 18):  # wherever between two looks the time is up
        left = iter([1.0] * steps)  # asked at the start and after every step
        folder = tmp_path / str(steps)
        found = train_sft(GAME, SPEC, train, held, FAST, folder, device="cpu", seed=0,
                          left=lambda left=left: next(left, 0.0))
        assert found.is_dir()
        assert [row["step"] for row in read_history(folder / "history.jsonl")] == [10, steps]


def test_the_rate_drops_while_there_is_time_for_it(tmp_path: Path) -> None:
    """At 0.4 and 0.4 ** 2 of the time, however well it still learns."""
    train, held = opposite_games(300, 1), opposite_games(60, 2)

    def learn(folder: Path, until: int, left: Callable[[], float]) -> list[int]:
        config = SFTConfig(**{**vars(FAST), "patience": 99, "max_steps": until})
        train_sft(GAME, SPEC, train, held, config, folder, device="cpu", seed=0, left=left)
        assert read_json(folder / "best.json")["flat"] is False  # nobody has seen it stop
        rows = [row for row in read_history(folder / "history.jsonl")
                if row["step"] % FAST.evaluate_every == 0]
        rates = [FAST.learning_rate * 0.3**drops for drops in range(3)]
        return [rates.index(pytest.approx(row["learning_rate"])) for row in rows]

    clock = iter(range(100, -1, -1))
    assert learn(tmp_path / "a", 100, lambda: next(clock)) == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]
    clock = iter(range(100, -1, -1))
    assert learn(tmp_path / "b", 70, lambda: next(clock)) == [0, 0, 0, 0, 0, 0, 1]
    # a later start, with all the time in the world, finds the drop in the history
    assert learn(tmp_path / "b", 90, lambda: math.inf) == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_the_first_steps_have_looks_of_their_own(tmp_path: Path) -> None:
    """Most is learnt in them, and a curve through its points needs some there."""
    train, held = opposite_games(60, 1), opposite_games(20, 2)
    learnt, steps = {}, {}
    for every in (60, 120):
        config = replace(FAST, evaluate_every=every, max_steps=120, patience=99)
        folder = tmp_path / str(every)
        train_sft(GAME, SPEC, train, held, config, folder, device="cpu", seed=0)
        steps[every] = [row["step"] for row in read_history(folder / "history.jsonl")]
        learnt[every] = (folder / "ckpt-000120" / "weights.safetensors").read_bytes()
    assert steps == {60: [25, 50, 60, 100, 120], 120: [25, 50, 100, 120]}
    assert learnt[60] == learnt[120]  # a look changes nothing


def test_no_time_at_all_still_gives_a_net(tmp_path: Path) -> None:
    found = train_sft(GAME, SPEC, opposite_games(20, 1), opposite_games(10, 2), FAST,
                      tmp_path, device="cpu", seed=0, left=lambda: 0.0)
    assert [row["step"] for row in read_history(tmp_path / "history.jsonl")] == [1]
    assert found == tmp_path / "ckpt-000001"


def test_an_early_look_with_more_games_does_not_replace_a_better_net(tmp_path: Path) -> None:
    train, held = opposite_games(60, 1), opposite_games(20, 2)
    more, all_held = opposite_games(90, 1), opposite_games(40, 2)
    config = replace(FAST, max_steps=120)
    best = train_sft(GAME, SPEC, train, held, config, tmp_path, device="cpu", seed=0)
    steps = checkpoint.read_meta(checkpoint.newest(tmp_path))["step"]
    wrong = more._replace(policy=np.roll(more.policy, 1, axis=1))
    few = replace(FAST, evaluate_every=200, max_steps=steps + 120)

    def loss(path: Path) -> float:
        return evaluate_columns(checkpoint.load_net(path)[0], GAME, all_held)["policy_loss"]

    assert train_sft(GAME, SPEC, wrong, all_held, few, tmp_path, device="cpu", seed=0) == best
    newest = checkpoint.newest(tmp_path)
    assert newest != best and loss(newest) > loss(best)
    assert read_json(tmp_path / "best.json")["checkpoint"] == best.name
    longer = replace(FAST, max_steps=steps + 300, evaluate_every=60, patience=99)
    found = train_sft(GAME, SPEC, more, all_held, longer, tmp_path, device="cpu", seed=0)
    assert loss(found) == min(map(loss, checkpoint.listing(tmp_path)))


def test_best_of_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no SFT checkpoint yet"):
        best_sft(tmp_path)


def test_only_the_newest_two_checkpoints_keep_what_training_needs(tmp_path: Path) -> None:
    config = SFTConfig(**{**vars(FAST), "max_steps": 24, "drops": 9})
    folder = tmp_path / "sft"
    train_sft(GAME, SPEC, opposite_games(20, 1), opposite_games(10, 2), config, folder,
              device="cpu", seed=0)
    oldest, *newer = checkpoint.listing(folder)
    assert len(newer) == 2
    for path in newer:
        checkpoint.load_training(path)
    assert not (oldest / "train.safetensors").exists()
    noted = best_sft(folder)
    assert noted.is_dir()
    (folder / "best.json").unlink()
    assert best_sft(folder) == noted
    meta = read_json(oldest / "meta.json")
    drop_sums(oldest)
    write_json(oldest / "meta.json", {**meta, "metrics": {"policy_loss": 0.0}})
    assert best_sft(folder) == oldest
    assert full_name(f"net:{tmp_path}") == f"net:{oldest}"  # who plays is who RL starts from


def test_a_breakdown_names_what_there_is(tmp_path: Path) -> None:
    """SFT has no option to go on from a checkpoint: it begins again."""
    config = SFTConfig(**{**vars(FAST), "learning_rate": 1e9, "evaluate_every": 1})
    with pytest.raises(UserError, match=r"^training step \d+: the (loss|gradient) is .*begin again "
                                        r"with --run NEW --set sft\.learning_rate=3\.3e\+08$"):
        train_sft(GAME, SPEC, opposite_games(20, 1), opposite_games(10, 2), config,
                  tmp_path, device="cpu", seed=0)
