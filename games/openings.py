"""How games begin: openings and seeds that depend on a number alone.

Opening j of seed s is drawn from ``np.random.default_rng([s, j])``; the same stream then gives the
players' seeds. Openings of a book come in an order drawn from the seed, all of them before any
comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .base import Game, take


class Deal(NamedTuple):
    """How a game begins."""

    actions: tuple[int, ...]  #: the opening
    seeds: tuple[int, int]  #: for the players of sides 0 and 1


def deal(game: Game, seed: int, number: int, opening: tuple[int, int], swapped: bool,
         book: Sequence[tuple[int, ...]] = ()) -> Deal:
    """Opening ``number`` of ``seed``: low to high (inclusive) plies of ``game.opening_moves``, or
    a line of ``book``.

    The order of draws is fixed: the number of plies, each ply's move, then four engine seeds
    (two for the first game of a pair, two for the second, which is ``swapped``). An opening that
    would end the game stops before its last move.
    """
    rng = np.random.default_rng([seed, number])
    actions = _of_book(book, seed, number) if book else _drawn(game, rng, opening)
    seeds = [int(rng.integers(2**31 - 1)) for _ in range(4)]
    return Deal(actions, (seeds[2], seeds[3]) if swapped else (seeds[0], seeds[1]))


def _of_book(book: Sequence[tuple[int, ...]], seed: int, number: int) -> tuple[int, ...]:
    again, place = divmod(number, len(book))
    return book[np.random.default_rng([seed, again, 1]).permutation(len(book))[place]]


def _drawn(game: Game, rng: np.random.Generator, opening: tuple[int, int]) -> tuple[int, ...]:
    plies = int(rng.integers(opening[0], opening[1] + 1))
    states = game.new(1)
    actions: list[int] = []
    for _ in range(plies):
        legal = np.flatnonzero(game.opening_moves(states)[0])
        if not len(legal):
            break
        action = int(legal[rng.integers(len(legal))])
        after = take(states, slice(0, 1))
        game.step(after, np.array([action]))
        if game.result(after)[0][0]:
            break
        states = after
        actions.append(action)
    return tuple(actions)
