"""Supervised learning (SFT): from expert games to rows, from rows to a net.

Training ends when the held-out curve is flat (``learn.plateau``): that is the SFT ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from selfplay.arena.sgf import ExpertGame
from selfplay.board.alphago_config import SFTConfig
from selfplay.board.config import RLConfig
from selfplay.board.data import Columns, concat, pack
from selfplay.board.evaluate import evaluate_columns
from selfplay.board.lessons import count_rows, endless_batches
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.common.threads import ahead
from selfplay.games.base import Game, take
from selfplay.learn.optimizer import Trainer
from selfplay.learn.plateau import Lesson
from selfplay.models import NetSpec, build, flops, seeded

ANY_KOMI = RLConfig(komi_share=0.5, komi_wild=0.5)  #: how ``recounted`` draws it
QUICK = 10_000  #: rows; a look at so many takes little time beside the steps between two looks


def to_columns(game: Game, games: Sequence[ExpertGame]) -> Columns:
    """One row per move of the experts.

    Moves of a random opening keep their value target but are no policy target. The value is the
    result on record. Ownership and score count only where both players passed and the board as
    it lies gives the recorded result: on servers that take dead stones off it does not.
    """
    states = game.new(len(games))
    if game.komi_planes:
        states.komi[:] = _half_points(game, games)
    lengths = np.array([len(g.actions) for g in games])
    table = np.full((len(games), lengths.max(initial=0)), -1, np.int64)
    for row, g in enumerate(games):
        table[row, : len(g.actions)] = g.actions
    opening = np.array([g.opening for g in games])
    parts: list[tuple[Any, ...]] = []
    for ply in range(table.shape[1]):
        live = np.flatnonzero(lengths > ply)
        now = take(states, live)
        parts.append((live, pack(game.observe(now), game.obs_binary), 1 - 2 * now.to_play,
                      table[live, ply], opening[live] <= ply))
        game.step(states, table[:, ply])
    rows = np.concatenate([p[0] for p in parts])
    sign = np.concatenate([p[2] for p in parts])
    moves = np.concatenate([p[3] for p in parts])
    policy = np.zeros((len(rows), game.num_actions), np.float16)
    policy[np.arange(len(rows)), moves] = 1
    owner, score, known = _final(game, states, games)
    order = np.argsort(rows, kind="stable")  # whole games side by side
    return Columns(
        obs=np.concatenate([p[1] for p in parts]),
        policy=policy,
        policy_weight=np.concatenate([p[4] for p in parts]).astype(np.float32),
        value=(np.array([g.value for g in games])[rows] * sign).astype(np.float32),
        ownership=(owner[rows] * sign[:, None]).astype(np.int8),
        score=(score[rows] * sign).astype(np.float32),
        aux_weight=known[rows],
    ).rows(order)


def mixed_columns(boards: Sequence[tuple[Game, Sequence[ExpertGame]]]) -> Columns:
    """``to_columns`` of games on boards of several sizes, at least one."""
    parts = [(game.board_shape[0], to_columns(game, games)) for game, games in boards if games]
    return concat([part._replace(size=np.full(len(part.value), size, np.int8))
                   for size, part in parts])


def recounted(
    game: Game, games: Sequence[ExpertGame], share: float, seed: int
) -> list[ExpertGame]:
    """``games``, a ``share`` of those that were counted with another komi, near or far, and the
    result that their count gives by it. Records have few komi, from which a net would not learn
    what komi does."""
    if not game.komi_planes:
        return list(games)
    rng, states = np.random.default_rng([seed, 0x7A]), game.new(len(games))
    game.vary(states, ANY_KOMI, rng)
    chosen = rng.random(len(games)) < share
    out = []
    for g, komi, change in zip(games, (states.komi / 2).tolist(), chosen, strict=True):
        if change and g.margin is not None and g.komi is not None and _is_komi(game, g.komi):
            margin = g.margin + g.komi - komi
            g = replace(g, komi=komi, margin=margin, value=float(np.sign(margin)))
        out.append(g)
    return out


def _half_points(game: Game, games: Sequence[ExpertGame]) -> NDArray[np.int16]:
    """int16 [n], in half points: the komi on record; the game's own where there is none, or none
    that our rules know."""
    own = game.new(1).komi[0]
    komi = [own if g.komi is None or not _is_komi(game, g.komi) else 2 * g.komi for g in games]
    return np.array(komi, np.int16)


def _is_komi(game: Game, komi: float) -> bool:
    """Whether our rules know it: some servers write hundredths of points."""
    return abs(komi) <= game.cells and float(2 * komi).is_integer()


def _final(
    game: Game, states: Any, games: Sequence[ExpertGame]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """(ownership, score, weight) of the games' last boards, for player 0."""
    cells = game.board_shape[0] * game.board_shape[1]
    if not game.has_ownership:
        none = np.zeros(len(games), np.float32)
        return np.zeros((len(games), cells), np.int8), none, none
    score = game.score(states)
    margin = np.array([np.nan if g.margin is None else g.margin for g in games])
    agrees = score == margin  # servers that take dead stones off count another board
    return game.ownership(states), score, (game.result(states)[0] & agrees).astype(np.float32)


def split(games: Sequence[ExpertGame], held_out: float, seed: int) -> tuple[list, list]:
    """(training games, held-out games): whole games, drawn by ``seed``; at least one of each.

    Games of the same moves, as collections often have them, stay on one side.
    Raises UserError with fewer than two different games.
    """
    distinct = list(dict.fromkeys(g.actions for g in games))
    if len(distinct) < 2:
        raise UserError(f"{len(distinct)} expert game: at least 2 are needed, one of them held out")
    order = np.random.default_rng([seed, 0x5F7]).permutation(len(distinct))
    count = min(max(1, round(len(distinct) * held_out)), len(distinct) - 1)
    held = {distinct[i] for i in order[:count]}
    return [g for g in games if g.actions not in held], [g for g in games if g.actions in held]


def sft_lesson(
    game: Game, spec: NetSpec, train: Columns, held: Columns, config: SFTConfig, *,
    device: str = "cpu", seed: int = 0,
) -> tuple[Trainer, Lesson]:
    """A new net and what it learns, the experts' moves and results, for ``plateau.until_flat``.

    Rows have top1, top5, policy_loss (which must fall), value_mse, value_accuracy of held-out
    rows.
    """
    trainer = board_trainer(seeded(seed, lambda: build(spec)), TrainConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, value_weight=config.value_weight, warmup=100,
    ), device)

    def look(net: nn.Module) -> dict[str, float]:
        return evaluate_columns(net, game, held, device)

    return trainer, Lesson(
        batches=lambda step: ahead(
            endless_batches(game, train, config.batch_size, [seed, 0x5F], step)),
        look=lambda: look(trainer.inference_net()), look_at=look,
        metric="policy_loss", rows=len(train.value), size=count_rows,
        flops=3 * flops(spec), steep=len(held.value) <= QUICK)
