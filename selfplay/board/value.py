"""AlphaGo's value net: it learns the result of the RL policy's games against itself, from one
position a game, and is judged on positions of other games.

Overfitting shows in the difference of two errors: mean (v - z)^2
over positions that it has learnt from, and over those held out (Silver et al. 2016 report both).
v and z are in [-1, 1]; a quarter of it is the error of a probability to win.

Games for the value net: one position of each, as AlphaGo made them.

Silver et al. 2016, "Reinforcement learning of value networks": a turn U is drawn uniformly; the
moves before it are the SFT policy's, move U is any legal one, drawn uniformly, and from there on
the RL policy plays against itself. The position after move U and the game's result are a row, the
only one of that game, as positions of one game are too alike.

Game g draws from its own streams, of (seed, g), and policies from no others: what is played
depends neither on the number of threads nor on which games are played with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from selfplay.arena.spec import VALUE_METRIC
from selfplay.board.alphago_config import ValueConfig
from selfplay.board.data import Columns, concat, pack, unpack
from selfplay.board.evaluate import evaluate_columns
from selfplay.board.lessons import count_rows, endless_batches, evenly
from selfplay.board.policy import BoardPolicy, Turn
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers, ahead
from selfplay.games.base import Game, put, side, take
from selfplay.learn.optimizer import Trainer
from selfplay.learn.plateau import Lesson
from selfplay.models import NetSpec, flops
from selfplay.search import random as rng
from selfplay.search.random import fingerprint

ROW_SALT = 0x5A2  #: tells positions held out, and batches, from others of the seed


def positions(game: Game, columns: Columns) -> NDArray[np.uint64]:
    """uint64 [n]: equal for equal positions and for those that a symmetry of the board turns into
    each other, else different but by accident."""
    planes = unpack(columns.obs, game.obs_shape).reshape(len(columns.obs), game.obs_shape[0], -1)
    found = [fingerprint((np.ascontiguousarray(planes[:, :, cells]),), ROW_SALT)
             for cells in game.symmetries().cells]
    return np.min(found, axis=0)


def split_rows(
    game: Game, columns: Columns, held_out: float, seed: int
) -> tuple[Columns, Columns]:
    """(to learn from, held out), by position: one that is held out is not learnt from in any game.

    Which side a position is on does not depend on what other games there are.
    Raises UserError where either side would be empty.
    """
    key = fingerprint((positions(game, columns),), seed)
    held = (key >> np.uint64(11)).astype(np.float64) * 2.0**-53 < held_out
    if held.all() or not held.any():
        raise UserError(f"value net: {len(held)} positions, {int(held.sum())} of them held out; "
                        "give it more games (value.games) and some to be held out (value.held_out)")
    return columns.rows(~held), columns.rows(held)


def value_lesson(
    game: Game, net: nn.Module, spec: NetSpec, columns: Columns, config: ValueConfig, *,
    device: str = "cpu", seed: int = 0, before: Mapping[str, float] | None = None,
) -> tuple[Trainer, Lesson]:
    """``net`` and what it learns, the results of ``columns``, for ``plateau.until_flat``.

    before: compute spent so far. Rows have value_mse, which must fall, and value_accuracy of
    held-out positions, train_mse of as many that were learnt from.
    """
    train, held = split_rows(game, columns, config.held_out, seed)
    trainer = board_trainer(net.train(), TrainConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, warmup=100, policy_weight=0.0, value_weight=1.0,
        ownership_weight=0.0, score_weight=0.0,
    ), device)
    look = _held_out_errors(game, evenly(train, len(held.value)), held, device)
    return trainer, Lesson(
        batches=lambda step: ahead(
            endless_batches(game, train, config.batch_size, [seed, ROW_SALT], step)),
        look=lambda: look(trainer.inference_net()), look_at=look,
        metric=VALUE_METRIC, rows=len(train.value),
        size=count_rows, flops=3 * flops(spec), before=before or {})


def _held_out_errors(
    game: Game, learnt: Columns, held: Columns, device: str
) -> Callable[[nn.Module], dict[str, float]]:
    def look(net: nn.Module) -> dict[str, float]:
        seen = evaluate_columns(net, game, held, device)
        return {VALUE_METRIC: seen[VALUE_METRIC], "value_accuracy": seen["value_accuracy"],
                "train_mse": evaluate_columns(net, game, learnt, device)[VALUE_METRIC]}

    return look


GROUP_GAMES = 128  #: in step with each other, the work of one thread
SHARD_GAMES = 512  #: of one file; a kill loses those of the file under way
SALT = 0x5A1  #: tells the draws of turns and random moves from others of the seed


class Policies(NamedTuple):
    """Who plays before the random move and who after it; both frozen (``BoardPolicy.frozen``)."""

    before: BoardPolicy
    after: BoardPolicy
    rules: Any = None  #: settings by which the game varies them (``Game.vary``); None: it does not


class Games(NamedTuple):
    """n finished games, of which m lasted beyond their random move.

    columns: m rows, of policy weight 0; actions, ends, values: these m games as ``data.Shard`` has
    them; evaluations: of the policies.
    """

    columns: Columns
    actions: NDArray[np.int16]
    ends: NDArray[np.int64]
    values: NDArray[np.float32]
    evaluations: int


def turns(seed: int, numbers: range, latest: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(U int64 [n], from 1 to ``latest``; a draw in [0, 1) for the random move, float64 [n])."""
    draws = [np.random.default_rng([seed, SALT, number]) for number in numbers]
    return (np.array([d.integers(1, latest + 1) for d in draws], np.int64),
            np.array([d.random() for d in draws]))


def play_group(
    game: Game, policies: Policies, numbers: range, latest: int, seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Games | None:
    """Games ``numbers``, in step with each other; None where ``stop()`` came first."""
    count = len(numbers)
    turn, draw = turns(seed, numbers, latest)
    streams = rng.streams(seed, np.arange(numbers.start, numbers.stop))
    states, table = game.new(count), np.full((count, game.max_moves), -1, np.int16)
    if policies.rules is not None:
        for row, number in enumerate(numbers):
            one = game.new(1)
            game.vary(one, policies.rules, np.random.default_rng([seed, SALT, number, 1]))
            put(states, [row], one)
    live = ~game.result(states)[0]
    obs = np.empty((count, *pack(game.observe(states), game.obs_binary).shape[1:]),
                   pack(game.observe(states), game.obs_binary).dtype)
    sign, evaluations = np.zeros(count, np.float32), 0  # 0: there is no position of that game
    while live.any():
        if stop():
            return None
        rows = np.flatnonzero(live)
        ply = states.ply[rows]
        actions = np.full(count, -1, np.int64)
        for policy, mine in ((policies.before, rows[ply + 1 < turn[rows]]),
                             (policies.after, rows[ply + 1 > turn[rows]])):
            if len(mine):
                actions[mine] = _sampled(game, policy, take(states, mine), streams, mine)
                evaluations += len(mine)
        chance = rows[ply + 1 == turn[rows]]
        legal = game.legal(take(states, chance))
        actions[chance] = _uniform_moves(legal, draw[chance])
        table[rows, ply] = actions[rows]
        game.step(states, actions)
        live = ~game.result(states)[0]
        born = chance[live[chance]]
        if len(born):
            now = take(states, born)
            obs[born], sign[born] = pack(game.observe(now), game.obs_binary), side(now)
    return _games(game, states, table, obs, sign, evaluations)


def _sampled(
    game: Game, policy: BoardPolicy, states: Any, streams: NDArray[np.uint64],
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """A move of each of ``states`` by the policy's probabilities, from the streams of ``rows``."""
    turn = Turn(game.observe(states), game.legal(states), streams, rows)
    return policy.act(turn).action[:, 0].numpy()


def _uniform_moves(legal: NDArray[np.bool_], draw: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of each row's legal moves the one that ``draw`` in [0, 1) falls on, int64 [n]."""
    wanted = (draw * legal.sum(1)).astype(np.int64) + 1
    return (legal.cumsum(1) == wanted[:, None]).argmax(1)


def _games(
    game: Game, states: Any, table: NDArray[np.int16], obs: NDArray[Any],
    sign: NDArray[np.float32], evaluations: int,
) -> Games:
    found = sign != 0
    value, cells = game.result(states)[1], game.board_shape[0] * game.board_shape[1]
    count, played = int(found.sum()), table[found]
    none = np.zeros(count, np.float32)
    columns = Columns(
        obs=obs[found], policy=np.zeros((count, game.num_actions), np.float16), policy_weight=none,
        value=(value * sign)[found], ownership=np.zeros((count, cells), np.int8), score=none,
        aux_weight=none)
    return Games(columns, played[played >= 0], (played >= 0).sum(1).cumsum(), value[found],
                 evaluations)


def play_shard(
    game: Game, policies: Policies, number: int, latest: int, seed: int, workers: Workers,
    stop: Callable[[], bool] = lambda: False,
) -> Games | None:
    """Shard ``number``: its groups in order, each a thread's work; None where ``stop()`` came."""
    first = number * SHARD_GAMES
    groups = [range(start, start + GROUP_GAMES)
              for start in range(first, first + SHARD_GAMES, GROUP_GAMES)]
    done = workers.map(
        lambda group: play_group(game, policies, group, latest, seed, stop), groups)
    parts = [part for part in done if part is not None]
    if len(parts) < len(groups):
        return None
    starts = np.cumsum([0, *(len(part.actions) for part in parts[:-1])])
    return Games(
        concat([part.columns for part in parts]),
        np.concatenate([part.actions for part in parts]),
        np.concatenate([part.ends + s for part, s in zip(parts, starts, strict=True)]),
        np.concatenate([part.values for part in parts]), sum(part.evaluations for part in parts))
