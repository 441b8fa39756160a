"""Random games, and positions from all over them, for the checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..base import Game, take


class RandomGames(NamedTuple):
    """Random games from their beginning: where they ended, and by what moves (-1 pads)."""

    states: Any
    actions: NDArray[np.int64]  # [B, T]


def play_random(game: Game, batch: int, seed: int, plies: int | None = None) -> RandomGames:
    rng, states, columns = np.random.default_rng(seed), game.new(batch), []
    for _ in range(game.max_moves if plies is None else plies):
        legal = game.legal(states)
        if not legal.any():
            break
        drawn = (legal + rng.random(legal.shape)).argmax(1)
        columns.append(np.where(legal.any(1), drawn, -1))
        game.step(states, columns[-1])
    return RandomGames(states, np.stack(columns, 1) if columns else np.full((batch, 0), -1))


def copy(states: Any) -> Any:
    return take(states, np.arange(len(states.ply)))


def fields(states: Any) -> list[Any]:
    """Every field as something comparable."""
    return [[str(item) for item in field] if field.dtype == object else field.tolist()
            for field in states]


def middle(game: Game, batch: int, seed: int) -> tuple[Any, NDArray[np.int64]]:
    """Positions from all over random games, finished ones among them, and the moves to them."""
    actions = play_random(game, batch, seed).actions
    cut = np.random.default_rng(seed).integers(0, actions.shape[1] + 1, batch)
    cut[0] = actions.shape[1]
    moves = np.where(np.arange(actions.shape[1]) < cut[:, None], actions, -1)
    states = game.new(batch)
    game.replay(states, moves)
    return states, moves


def last_mover(game: Game, actions: NDArray[np.int64]) -> NDArray[np.int8]:
    """int8 [B]: who made the last move."""
    states = game.new(len(actions))
    mover = states.to_play.copy()
    for column in actions.T:
        live = column >= 0
        mover[live] = states.to_play[live]
        game.step(states, column)
    return mover
