"""The boards of one game that one net learns at once."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Game, GameError


def boards(game: Game, sizes: Sequence[int]) -> list[Game]:
    """A game for each of ``sizes``, rows of its board; one that is named twice is there twice.
    Those of ``game``'s own size are it, and come first; without ``sizes`` it is alone.

    Raises GameError where a size is not of the game's kin, or its own is not among them.
    """
    own = game.board_shape[0]
    if not sizes:
        return [game]
    named = ",".join(map(str, sizes))
    if own not in sizes:
        raise GameError(f"sizes {named}: {game.name}'s own, {own}, is not among them; it is the "
                        f"board of the matches: take {own},{named}")
    made = {size: game.sized(size) for size in dict.fromkeys([own, *sizes])}
    for other in made.values():
        if other.kin != game.kin:
            raise GameError(f"sizes {named}: one net plays {game.kin}, not {other.name} too")
    return [made[size] for size in made for _ in range(list(sizes).count(size))]
