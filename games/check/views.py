"""Checks of how a game is seen: by nets, by playouts, by people; and turned round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Game, GameError, put, take
from .play import copy, fields, middle, play_random

Complaints = Iterator[str]  #: one line each


def tables(game: Game, batch: int, seed: int) -> Complaints:
    cells, actions = game.symmetries()
    if cells.dtype != np.int64 or actions.dtype != np.int64 or len(cells) != len(actions):
        yield "symmetries: two tables int64 of as many rows wanted"
        return
    for what, table, size in (("cells", cells, game.cells), ("actions", actions,
                                                             game.num_actions)):
        if table.shape[1] != size or (np.sort(table, 1) != np.arange(size)).any():
            yield f"symmetries: {what} has a row that is no reordering of 0 to {size - 1}"
        elif (table[0] != np.arange(size)).any():
            yield f"symmetries: row 0 of {what} is not the identity"
    both = np.concatenate([cells, actions], axis=1)
    if len(np.unique(both, axis=0)) != len(cells):
        yield "symmetries: two rows are the same"


def turned(game: Game, batch: int, seed: int) -> Complaints:
    plain, actions = play_random(game, batch, seed, plies=min(30, game.max_moves))
    seen = game.observe(plain).reshape(batch, game.obs_shape[0], -1)
    for number, (cells, table) in enumerate(zip(*game.symmetries(), strict=True)):
        turned = game.new(batch)
        game.replay(turned, np.append(np.argsort(table), -1)[actions])  # -1 stays what it is
        same = {
            "observe does not show the turned board (cells does not fit actions)":
                (game.observe(turned).reshape(seen.shape) == seen[:, :, cells]).all(),
            "legal does not allow the turned moves":
                (game.legal(turned) == game.legal(plain)[:, table]).all(),
            "result is another": all((a == b).all() for a, b in
                                     zip(game.result(plain), game.result(turned), strict=True)),
        }
        for words, fine in same.items():
            if not fine:
                yield f"symmetries: the game played turned by row {number}: {words}"
                return


def observed(game: Game, batch: int, seed: int) -> Complaints:
    states, _ = middle(game, batch, seed)
    seen, kind = game.observe(states), np.uint8 if game.obs_binary else np.float32
    if seen.shape != (batch, *game.obs_shape):
        yield f"observe gives {list(seen.shape)}; {[batch, *game.obs_shape]} wanted"
        return
    if seen.dtype != kind:
        yield (f"observe gives {seen.dtype}; {np.dtype(kind)} wanted, as obs_binary is "
               f"{game.obs_binary}")
    if not np.isfinite(seen).all():
        yield "observe: not finite"
    if game.obs_binary and seen.max() > 1:
        yield "observe: entries other than 0 and 1; set obs_binary = False"
    after = game.observe(play_random(game, batch, seed, plies=1).states)
    if (after == game.observe(game.new(batch))).all():
        yield "observe: the first move changes nothing that a net could see"


def viewed(game: Game, batch: int, seed: int) -> Complaints:
    seen, turned = _both_views(game, batch, seed)
    if (turned == seen).all():
        yield ("observe: the same whoever is to move; right where both sides own everything alike "
               "(Nim), else a net cannot tell its own stones")


def owned(game: Game, batch: int, seed: int) -> Complaints:
    if game.board_style == "text":
        return
    seen, turned = _both_views(game, batch, seed)
    if not seen[:, :2].any():
        yield "observe: no stones in planes 0 and 1 after some moves; else board_style is text"
    elif (turned[:, [1, 0]] != seen[:, :2]).any():
        yield ("observe: planes 0 and 1 must be the stones of the side to move and the other's, "
               "by to_play alone (not by ply: a side may move again); else board_style is text")


def _both_views(game: Game, batch: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations of positions, and of the same with the other side to move."""
    states = play_random(game, batch, seed, plies=min(5, game.max_moves - 1)).states
    other = copy(states)
    other.to_play[:] ^= 1
    return game.observe(states), game.observe(other)


def playouts(game: Game, batch: int, seed: int) -> Complaints:
    states, _ = middle(game, batch, seed)
    before, (done, value) = fields(states), game.result(states)
    rng = np.arange(batch, dtype=np.uint64)
    ends = game.rollout(states, rng)
    if ends.shape != done.shape or ends.dtype != np.float32 or not (np.abs(ends) <= 1).all():
        yield "rollout: float32 [B] in [-1, 1] wanted"
        return
    if (ends[done] != value[done]).any():
        yield "rollout: a game that is over must keep its result"
    if fields(states) != before:
        yield "rollout: changes the states; play out a copy"
    if (rng == np.arange(batch))[~done].any():
        yield "rollout: does not advance its generators"
    seeds = np.random.default_rng(seed).integers(2**64, size=batch, dtype=np.uint64)
    together = seeds.copy()
    ends = game.rollout(states, together)
    for row in (0, 1, batch - 1):
        alone = seeds[row : row + 1].copy()
        if game.rollout(take(states, [row]), alone)[0] != ends[row] or alone[0] != together[row]:
            yield "rollout: a row's playout depends on the other rows"
            return
    if len(np.unique(game.rollout(game.new(60), np.arange(60, dtype=np.uint64)))) < 2:
        yield "rollout: 60 playouts from the start end alike; is it random?"


def openings(game: Game, batch: int, seed: int) -> Complaints:
    states = play_random(game, batch, seed, plies=min(3, game.max_moves - 1)).states
    moves, legal = game.opening_moves(states), game.legal(states)
    if moves.dtype != np.bool_ or (moves & ~legal).any():
        yield "opening_moves: bool wanted, and legal moves only"
    if not game.opening_moves(game.new(1)).any():
        yield "opening_moves: none at the start"
    if game.pass_action >= 0 and moves[:, game.pass_action].any():
        yield "opening_moves: a pass is no opening"


def texts(game: Game, batch: int, seed: int) -> Complaints:
    states = play_random(game, 2, seed, plies=min(3, game.max_moves - 1)).states
    legal = np.flatnonzero(game.legal(states)[1])
    texts = [game.action_to_text(states, 1, int(a)) for a in legal]
    for action, text in zip(legal, texts, strict=True):
        for spelt in (text, f" {text}\n"):
            try:
                found = game.text_to_action(states, 1, spelt)
            except GameError as error:
                yield f"text_to_action: does not know {spelt!r}, its own text of a move ({error})"
                return
            if found != action:
                yield (f"text_to_action: {spelt!r} comes back as move {found}, not {action}"
                       + ("; two moves have this text" * (texts.count(text) > 1)))
                return
    try:
        game.text_to_action(states, 1, "no such move")
    except GameError:
        return
    yield "text_to_action: takes nonsense for a move; raise GameError"


def drawn(game: Game, batch: int, seed: int) -> Complaints:
    states = play_random(game, 2, seed, plies=min(3, game.max_moves - 1)).states
    fresh = game.new(1)
    if game.render(states, 1) == game.render(fresh, 0):
        yield "render: a board with moves on it looks like an empty one"
    put(states, np.array([0]), fresh)
    if game.render(states, 0) != game.render(fresh, 0):
        yield "render: does not draw the row that was asked for"


def points(game: Game, batch: int, seed: int) -> Complaints:
    states, _ = middle(game, batch, seed)
    if not game.has_ownership:
        for function in (game.ownership, game.score):
            try:
                function(states)
            except GameError:
                continue
            yield f"{function.__name__}: has_ownership is False; raise GameError"
        return
    owner, score = game.ownership(states), game.score(states)
    if owner.dtype != np.int8 or owner.shape != (batch, game.cells) or score.dtype != np.float32:
        yield "ownership: int8 [B, H*W] wanted; score: float32 [B]"
        return
    if len(np.unique(score - owner.sum(1))) > 1:
        yield "score: is not the points owned, less the same komi everywhere"
    done, value = game.result(states)
    if (np.sign(score)[done] != value[done]).any():
        yield "score: its sign is not the result's"
