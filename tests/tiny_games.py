"""Games small enough to work out by hand, for the tests of the search."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import blunders, branch, wins


def drawn_from(planes: NDArray[Any]) -> np.random.Generator:
    """Random numbers that depend on the bytes of ``planes`` alone: as ``default_rng`` of a list of
    the bytes, which NumPy looks at one by one."""
    return np.random.default_rng(np.frombuffer(planes.tobytes(), np.uint8).astype(np.uint32))


class PileStates(NamedTuple):
    """left: int64 [B] stones; to_play: int8 [B]; ply: int32 [B]."""

    left: NDArray[np.int64]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]


class Pile:
    """Take 1 to 3 stones; who takes the last wins; who leaves a multiple of 5 moves again."""

    num_actions, board_shape, obs_shape = 3, (1, 1), (2, 1, 1)
    has_ownership, pass_action, obs_binary = False, -1, False
    quick_wins = False

    def __init__(self, stones: int) -> None:
        self.name, self.rules, self.max_moves = "pile", "test", stones
        self.stones = stones

    def new(self, batch: int) -> PileStates:
        return PileStates(np.full(batch, self.stones, np.int64), np.zeros(batch, np.int8),
                          np.zeros(batch, np.int32))

    def step(self, states: PileStates, actions: NDArray[np.int64]) -> None:
        for b, action in enumerate(np.asarray(actions).tolist()):
            if action >= 0 and states.left[b] > 0:
                states.left[b] -= action + 1
                states.ply[b] += 1
                if states.left[b] % 5:
                    states.to_play[b] ^= 1

    def replay(self, states: PileStates, actions: NDArray[np.int64]) -> None:
        for column in np.asarray(actions).T:
            self.step(states, column)

    def branch(self, *arguments: Any) -> Any:
        return branch(self, *arguments)

    def wins(self, *arguments: Any) -> Any:
        return wins(self, *arguments)

    def blunders(self, *arguments: Any) -> Any:
        return blunders(self, *arguments)

    def legal(self, states: PileStates) -> NDArray[np.bool_]:
        return states.left[:, None] >= np.arange(1, 4)

    def observe(self, states: PileStates) -> NDArray[np.float32]:
        both = np.stack([states.left, states.to_play], 1).astype(np.float32)
        return both.reshape(-1, 2, 1, 1)

    def result(self, states: PileStates) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        done = states.left == 0
        return done, np.where(done, 1.0 - 2.0 * states.to_play, 0.0).astype(np.float32)

    def rollout(self, states: PileStates, rng: Any) -> NDArray[np.float32]:
        raise NotImplementedError


@cache
def pile_value(left: int) -> int:
    """+1 if the side to move wins with perfect play, else -1."""
    after = [left - taken for taken in (1, 2, 3) if taken <= left]
    return max(1 if rest == 0 else pile_value(rest) * (1 if rest % 5 == 0 else -1)
               for rest in after)


def pile(stones: int) -> Any:
    """A game of ``Pile``, which leaves out what the search does not ask for."""
    return Pile(stones)
