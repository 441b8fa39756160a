"""What a caller gives, checked before anything begins."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import nn

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import Game, make
from selfplay.games.base import GameError
from selfplay.run.start import device_of


def must_be_whole(call: str, least: int = 0, most: int = 2**31 - 1, **numbers: Any) -> None:
    """Raises UserError naming the first argument of ``call`` that is no whole number from ``least``
    to ``most``."""
    for name, value in numbers.items():
        try:
            fine = not isinstance(value, bool) and least <= operator.index(value) <= most
        except TypeError:
            fine = False
        if not fine:
            raise UserError(f"{call}: {name}={clip(repr(value), 60)}: a whole number, {least} or "
                            "more, wanted" if most == 2**31 - 1 else
                            f"{call}: {name}={clip(repr(value), 60)}: a whole number from {least} "
                            f"to {most} wanted")


def must_be_plies(call: str, opening: Any) -> None:
    """Raises UserError where ``opening`` is no pair of whole numbers in order."""
    try:
        low, high = opening
    except (TypeError, ValueError):
        raise UserError(f"{call}: opening={clip(repr(opening), 60)}: fewest and most random plies "
                        "wanted, as (2, 6)") from None
    must_be_whole(call, **{"opening[0]": low, "opening[1]": high})
    if low > high:
        raise UserError(f"{call}: opening={opening}: fewest and most random plies in order wanted")


def usable_device(call: str, name: str) -> str:
    """"cpu" or "cuda" for ``name``, which may be "auto". Raises UserError."""
    return device_of(name, f"{call}: device")


def must_be_states(call: str, game: Game, states: Any) -> None:
    """Raises UserError where ``states`` are not of ``game``: of another kind, or another size."""
    wanted = game.new(1)
    if type(states) is not type(wanted) or any(
            np.shape(given)[1:] != np.shape(field)[1:]
            for given, field in zip(states, wanted, strict=True)):
        raise UserError(f"{call}: states of {game.name} wanted (game.new(1)), not "
                        f"{type(states).__name__} of another game or size")


def must_suit(call: str, game: Game, net: nn.Module) -> None:
    """Raises UserError where ``net`` is for another game than ``game``, or does not answer a
    position of it with logits [1, A] and a value [1]."""
    name = vars(net).get("game")  # ours know theirs
    if name not in (None, game.name) and (game.kin is None or _kin(name) != game.kin):
        raise UserError(f"{call}: the net is for {name}, not for {game.name}")
    where = next(net.parameters(), torch.zeros(0)).device
    try:
        with torch.no_grad():
            out = net(torch.zeros((1, *game.obs_shape), device=where))
        shapes = tuple(out.policy.shape), tuple(out.value.shape)
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{call}: the net does not take positions of {game.name}, float "
                        f"{[1, *game.obs_shape]}: {clip(str(error), 160)}") from None
    if shapes != ((1, game.num_actions), (1,)):
        raise UserError(f"{call}: of a position the net says policy {list(shapes[0])} and value "
                        f"{list(shapes[1])}; {game.name} wants [1, {game.num_actions}] and [1]")


def _kin(name: str) -> str | None:
    try:
        return make(name).kin
    except GameError:
        return None
