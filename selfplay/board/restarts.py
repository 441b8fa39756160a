"""Self-play that begins where it was wrong: at positions of earlier games whose searches foresaw
another result.

After Regret-Guided Search Control (2026, arXiv:2602.20809), with the search's own value in place of
a net that ranks positions by regret. The regret of position t of a game with result z is the mean
of (v_i - z)^2 over its positions i >= t, v the search's value; of each game the position with the
largest goes into a buffer of those with the largest regret so far. A game begins at one of them
with a probability that grows with it, and what comes out moves its regret half way to the new one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.rules import Rules, put

KEPT = 256  #: positions, at most


class Restarts:
    """A buffer of positions to begin from. One thread at a time."""

    def __init__(self, game: Rules, share: float) -> None:
        """share: of games that begin at a position of the buffer; in Go all at the usual komi."""
        self.game, self.share = game, share
        self.komi = game.new(1).komi[0] if game.komi_planes else None
        self.moves: list[NDArray[np.int16]] = []  #: from the first position to each
        self.regret = np.zeros(0)

    def begin(self, states: Any, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """Let some of the new games ``states`` begin at positions of the buffer: their moves
        [B, T], -1 pads; None while it is empty."""
        chosen = np.flatnonzero(rng.random(len(states.ply)) < self.share)
        if not len(self.moves) or not len(chosen):
            return None
        chance = self.regret + 1e-6  # where nothing was wrong all are alike
        which = rng.choice(len(self.moves), len(chosen), p=chance / chance.sum())
        out = np.full((len(states.ply), max(len(self.moves[k]) for k in which)), -1, np.int64)
        for row, k in zip(chosen, which, strict=True):
            out[row, : len(self.moves[k])] = self.moves[k]
        fresh = self.game.new(len(chosen))
        self.game.replay(fresh, out[chosen])
        put(states, chosen, fresh)
        return out

    def ended(
        self, moves: NDArray[np.int16], value: NDArray[np.float32], result: float, first: int,
        final: Any = None,
    ) -> None:
        """Take in a game: its moves, int16 [T], the searches' values for player 0, float32 [T],
        from ply ``first`` on, its result for player 0, and its last position [1], which tells the
        komi."""
        if self.komi is not None and final.komi[0] != self.komi:
            return
        wrong = (value[first : len(moves)].astype(float) - result) ** 2
        if not len(wrong):
            return
        left = np.arange(len(wrong), 0, -1)
        regret = np.cumsum(wrong[::-1])[::-1] / left
        again = [k for k, known in enumerate(self.moves) if np.array_equal(known, moves[:first])]
        for k in again[:1]:
            self.regret[k] = (self.regret[k] + regret[0]) / 2
        worst = int(regret.argmax())
        start = moves[: first + worst].copy()
        if (worst == 0 and again) or not len(start):
            return
        if len(self.moves) < KEPT:
            self.moves.append(start)
            self.regret = np.append(self.regret, regret[worst])
        elif regret[worst] > self.regret.min():
            least = int(self.regret.argmin())
            self.moves[least], self.regret[least] = start, regret[worst]
