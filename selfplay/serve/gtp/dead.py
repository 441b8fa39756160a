"""Which stones of Go are dead: random playouts, who owns the points at their end, and what the
net says of that.

The playouts fill no eye of their own side. They see what has two eyes and what has none, the net
sees shapes that it has learnt; both together are better than either (RESULTS.md). All of it is
for a board where both sides have passed; in the middle of a fight it tells little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.go import Go
from selfplay.serve.line import stones_of

PLAYOUTS = 200
#: A chain is dead where its side owns less of its points, in [-1, 1]: by playouts alone, and where
#: a net has NET_SHARE of the say; its games count what stands at the end as alive.
LEAST, LEAST_WITH_NET, NET_SHARE = -0.2, 0.2, 0.4

Flags = NDArray[np.bool_]
View = NDArray[np.float64]  #: [H*W] in [-1, 1], who owns each point, +1 player 0


def owners(game: Go, states: Any, playouts: int = PLAYOUTS, seed: int = 0) -> View:
    """Who owns each point on average over playouts, from one row of states where the game goes
    on."""
    rng = np.random.default_rng(seed)
    ends = type(states)(*(np.repeat(field[:1], playouts, axis=0) for field in states))
    for _ in range(game.max_moves):
        done = game.result(ends)[0]
        if done.all():
            break
        moves = game.legal(ends)
        moves[:, :-1] &= ~_eyes(stones_of(game, ends), ends.to_play, game.size)
        moves[:, -1] = ~moves[:, :-1].any(1)
        drawn = np.where(moves, rng.random(moves.shape), -1.0).argmax(1)
        game.step(ends, np.where(done, -1, drawn))
    return game.ownership(ends).mean(0, dtype=np.float64)


def _eyes(stones: NDArray[np.int8], to_play: NDArray[np.int8], size: int) -> Flags:
    """bool [B, N*N]: empty points with stones of the side to move, or the edge, on every side, and
    no more than one enemy diagonal (none at the edge)."""
    own = (1 - 2 * to_play)[:, None, None]
    board = np.full((len(stones), size + 2, size + 2), 2, np.int8)
    board[:, 1:-1, 1:-1] = stones.reshape(-1, size, size) * own

    def at(rows: int, columns: int) -> NDArray[np.int8]:
        return board[:, 1 + rows : size + 1 + rows, 1 + columns : size + 1 + columns]

    shut = at(0, 0) == 0
    for rows, columns in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        shut = shut & (at(rows, columns) >= 1)
    corners = [at(rows, columns) for rows in (-1, 1) for columns in (-1, 1)]
    enemies = sum((corner == -1).astype(np.int8) for corner in corners)
    edge = np.any([corner == 2 for corner in corners], axis=0)
    return (shut & (enemies + edge < 2)).reshape(len(stones), -1)


def chains(stones: NDArray[np.int8], size: int) -> list[list[int]]:
    """The cells of every chain of a board int8 [N*N]."""
    found: list[list[int]] = []
    left = set(np.flatnonzero(stones).tolist())
    while left:
        chain = [left.pop()]
        for cell in chain:
            for near in _adjacent(cell, size):
                if near in left and stones[near] == stones[cell]:
                    left.remove(near)
                    chain.append(near)
        found.append(sorted(chain))
    return sorted(found)


def dead(game: Go, states: Any, net: View | None = None) -> list[list[int]]:
    """The dead chains of a position, one row where the game goes on, each as cells.

    net: what a net says of who will own the points, where there is one.
    """
    stones = stones_of(game, states)[0]
    owned, least = owners(game, states), LEAST
    if net is not None:
        owned, least = (1 - NET_SHARE) * owned + NET_SHARE * net, LEAST_WITH_NET
    return [chain for chain in chains(stones, game.size)
            if (owned * stones)[chain].mean() < least]


def score(game: Go, states: Any, net: View | None = None) -> float:
    """Player 0's lead with the dead stones taken off, komi included. net: as for ``dead``."""
    stones = stones_of(game, states)[0].copy()
    for chain in dead(game, states, net):
        stones[chain] = 0
    return float(area_lead(stones, game.size) - game.komi)


def area_lead(stones: NDArray[np.int8], size: int) -> int:
    """Player 0's lead in area: stones, and empty points that reach stones of one colour alone."""
    lead = int(stones.sum())
    for region in chains((stones == 0).astype(np.int8), size):
        near = {int(stones[point]) for cell in region for point in _adjacent(cell, size)} - {0}
        if len(near) == 1:
            lead += near.pop() * len(region)
    return lead


def _adjacent(cell: int, size: int) -> list[int]:
    row, column = divmod(cell, size)
    return [r * size + c for r, c in ((row + 1, column), (row - 1, column), (row, column + 1),
                                      (row, column - 1)) if 0 <= r < size and 0 <= c < size]
