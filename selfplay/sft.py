"""Supervised learning: expert games to rows, rows to a net, and where the curve goes flat.

The learning rate drops when the held-out policy loss hardly improves any more, or when so little
time is left that it has to; where it stops improving after the last drop the curve is flat, and
that is the SFT ceiling.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay import checkpoint
from selfplay.config import SFTConfig
from selfplay.curve import DROP, LATEST, Curve
from selfplay.data import Batch, Columns, batch, pack
from selfplay.errors import UserError
from selfplay.games.base import Game, take
from selfplay.models import NetSpec, build, flops
from selfplay.runs import read_history, read_json, write_history, write_json
from selfplay.sgf import ExpertGame
from selfplay.threads import ahead
from selfplay.train import TrainConfig, Trainer, evaluate_columns


def to_columns(game: Game, games: Sequence[ExpertGame]) -> Columns:
    """One row per move of the experts.

    Moves of a random opening keep their value target but are no policy target. The value is the
    result on record. Ownership and score count only where both players passed and the board as
    it lies gives the recorded result: on servers that take dead stones off it does not.
    """
    states = game.new(len(games))
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
    return Columns(*(column[order] for column in Columns(
        obs=np.concatenate([p[1] for p in parts]),
        policy=policy,
        policy_weight=np.concatenate([p[4] for p in parts]).astype(np.float32),
        value=(np.array([g.value for g in games])[rows] * sign).astype(np.float32),
        ownership=(owner[rows] * sign[:, None]).astype(np.int8),
        score=(score[rows] * sign).astype(np.float32),
        aux_weight=known[rows],
    )))


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


def train_sft(
    game: Game,
    spec: NetSpec,
    train: Columns,
    held: Columns,
    config: SFTConfig,
    folder: Path,
    *,
    device: str,
    seed: int,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[int, dict[str, Any]], None] = lambda step, row: None,
) -> Path:
    """Train until the held-out curve is flat, ``max_steps``, or ``left()`` seconds are used up,
    but for one look at the held-out games at least.

    Every look at the held-out games saves a checkpoint ``ckpt-STEP`` and a row of
    ``history.jsonl`` (top1, top5, policy_loss, value_mse, learning_rate, seconds, flops); a later
    call in the same folder goes on from the newest. Returns the best checkpoint by held-out
    policy loss, which ``best.json`` names as well. Batch k depends on (seed, k) alone, so that an
    interrupted run and an uninterrupted one see the same batches.
    """
    from selfplay.models import seeded

    net = seeded(seed, lambda: build(spec))
    trainer = Trainer(net, TrainConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, value_weight=config.value_weight, warmup=100,
    ), device)
    history: list[dict[str, Any]] = []
    curve, step, spent = Curve(), 0, 0.0
    newest = checkpoint.newest(folder)
    if newest is not None:
        trainer.load_state(*checkpoint.load_training(newest))
        step = trainer.steps
        found = read_history(folder / "history.jsonl")
        history = [row for row in found if row["step"] <= step]
        curve = _replay(history, config)
        spent = history[-1]["seconds"] if history else 0.0
        _note_best(folder, curve, config)  # a kill may have come just before it
    started = time.monotonic()
    batches = ahead(_batches(game, train, config.batch_size, seed, step))
    per_step = 3 * flops(spec) * config.batch_size
    remaining = left()
    time_in_all = spent + remaining
    over = bool(history) and remaining <= 0  # without one look the run could not go on
    while curve.drops <= config.drops and step < config.max_steps and not over:
        if curve.drops < config.drops and remaining < time_in_all * LATEST ** (curve.drops + 1):
            curve.drop()
        trainer.learning_rate = config.learning_rate * DROP**curve.drops
        metrics = trainer.step(next(batches))
        step += 1
        progress(step, metrics)
        remaining = left()
        over = remaining <= 0
        if step % config.evaluate_every and step < config.max_steps and not over:
            continue
        row = {"step": step, "seconds": spent + time.monotonic() - started,
               "flops": step * per_step, "positions": step * config.batch_size,
               "learning_rate": trainer.learning_rate, "train": metrics,
               **evaluate_columns(trainer.acting(), game, held, device)}
        history.append(row)
        write_history(folder / "history.jsonl", history)  # first: a row too many is left out later
        _save(folder, trainer, game, spec, row)
        for path in checkpoint.listing(folder)[-4:-2]:  # the last two: one may get damaged
            checkpoint.drop_training(path)
        curve.look(step, row["policy_loss"], config.gain, config.patience)
        _note_best(folder, curve, config)
        log(row)
    return best(folder)


def _batches(
    game: Game, train: Columns, size: int, seed: int, step: int
) -> Iterator[Batch]:
    """Batches from number ``step`` on, without end."""
    symmetries = game.symmetries()
    for k in itertools.count(step):
        rng = np.random.default_rng([seed, 0x5F, k])
        rows = rng.integers(0, len(train.value), size)
        yield batch(train, rows, game, symmetries, rng)


def _replay(history: list[dict[str, Any]], config: SFTConfig) -> Curve:
    curve = Curve()
    for row in history:
        drops = round(math.log(row["learning_rate"] / config.learning_rate, DROP))
        if drops != curve.drops:  # the time had asked for it, or the settings have changed
            curve.drop()
            curve.drops = drops
        curve.look(row["step"], row["policy_loss"], config.gain, config.patience)
    return curve


def _note_best(folder: Path, curve: Curve, config: SFTConfig) -> None:
    write_json(folder / "best.json", {"checkpoint": f"ckpt-{curve.best_step:06d}",
                                      "flat": curve.drops > config.drops})


def _save(
    folder: Path, trainer: Trainer, game: Game, spec: NetSpec, row: dict[str, Any]
) -> None:
    meta = {"game": game.name, "kind": "sft", "step": row["step"],
            "compute": {k: row[k] for k in ("seconds", "flops", "positions")},
            "metrics": {k: row[k] for k in ("top1", "top5", "policy_loss", "value_mse")}}
    checkpoint.save(folder / f"ckpt-{row['step']:06d}", trainer, spec, meta)


def best(folder: Path) -> Path:
    """The checkpoint with the best held-out policy loss; UserError if none has been saved yet."""
    note = folder / "best.json"
    if note.exists():
        return folder / str(read_json(note)["checkpoint"])
    found = checkpoint.lowest_loss(folder)  # the note was damaged and deleted
    if found is None:
        raise UserError(f"{folder}: no SFT checkpoint yet; make one with selfplay sft, or start "
                        "self-play from nothing with --init random")
    return found
