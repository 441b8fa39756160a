"""Checks of what a game does: attributes, moves, ends, signs, states that do not mix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..base import Game, put, take
from .play import copy, fields, last_mover, middle, play_random

Complaints = Iterator[str]  #: one line each
CONTEXT = 20  #: decisive games that a sign is judged by, at least


def attributes(game: Game, batch: int, seed: int) -> Complaints:
    kinds = {"name": str, "rules": str, "num_actions": int, "max_moves": int, "pass_action": int,
             "obs_binary": bool, "has_ownership": bool}
    for name, kind in kinds.items():
        value = getattr(game, name)
        if not isinstance(value, (kind, np.bool_ if kind is bool else kind)):
            yield f"{name} is {value!r}; a {kind.__name__} wanted"
    if not game.rules or "\n" in game.rules:
        yield "rules: one line wanted"
    if len(game.obs_shape) != 3 or tuple(game.obs_shape[1:]) != tuple(game.board_shape):
        yield (f"obs_shape is {game.obs_shape}; (C, H, W) wanted, with (H, W) the board_shape "
               f"{game.board_shape}")
    if game.num_actions < 2 or game.max_moves < 1:
        yield f"num_actions is {game.num_actions} and max_moves {game.max_moves}; more wanted"
    if not -1 <= game.pass_action < game.num_actions:
        yield f"pass_action is {game.pass_action}; -1, or one of {game.num_actions} actions, wanted"


def fresh(game: Game, batch: int, seed: int) -> Complaints:
    states = game.new(3)
    missing = {"to_play", "ply"} - set(getattr(states, "_fields", ()))
    if missing:
        yield f"states are a NamedTuple of arrays with to_play and ply; no {' and '.join(missing)}"
        return
    for name, field in states._asdict().items():
        if not isinstance(field, np.ndarray) or len(field) != 3:
            yield f"new(3): {name} is no array with an axis of 3 games in front"
        elif len(getattr(game.new(0), name)):
            yield f"new(0): {name} is not empty"
    if states.to_play.dtype != np.int8 or states.ply.dtype != np.int32:
        yield f"to_play is {states.to_play.dtype} and ply {states.ply.dtype}; int8 and int32 wanted"
    if states.to_play.any() or states.ply.any():
        yield "a fresh game begins with to_play 0 and ply 0"
    said = game.result(states)
    if not (isinstance(said, tuple) and len(said) == 2
            and all(isinstance(x, np.ndarray) and x.shape == (3,) for x in said)):
        yield (f"result(new(3)) gives {_kind(said)}; two arrays wanted, (done bool [B], value "
               "float32 [B])")
        return
    done, value = said
    if done.dtype != np.bool_ or value.dtype != np.float32:
        yield f"result gives {done.dtype} and {value.dtype}; bool and float32 wanted"
    if done.any() or value.any():
        yield "result: a fresh game is over, or has a value already"
    states, other = game.new(3), game.new(3)
    other.ply[0] = 7
    if states.ply[0]:
        yield "new: hands out the same arrays twice; make new ones"


def _kind(said: object) -> str:
    """What somebody has returned, in words."""
    if isinstance(said, np.ndarray):
        return f"one array, {said.dtype} {list(said.shape)}"
    if isinstance(said, tuple):
        return f"({', '.join(map(_kind, said))})"
    return type(said).__name__


def masks(game: Game, batch: int, seed: int) -> Complaints:
    states, rng = game.new(batch), np.random.default_rng(seed)
    for ply in range(game.max_moves + 1):
        legal, (done, value) = game.legal(states), game.result(states)
        if legal.shape != (batch, game.num_actions) or legal.dtype != np.bool_:
            yield (f"legal gives {legal.dtype} {list(legal.shape)}; bool "
                   f"[{batch}, {game.num_actions}] wanted")
            return
        if (legal.any(1) & done).any():
            yield f"legal: moves are allowed in a game that is over (after {ply} moves)"
            return
        if (~legal.any(1) & ~done).any():
            yield (f"legal: no move, but result says that the game is not over (after {ply} "
                   "moves); let it end, or add a pass")
            return
        if value[~done].any():
            yield "result: a value before the game is over; 0 wanted"
        if not (np.abs(value) <= 1).all():
            yield "result: a value outside [-1, 1]"
        if not np.isin(states.to_play, [0, 1]).all():
            yield "to_play is neither 0 nor 1"
        if (states.ply[~done] != ply).any() or (states.ply > ply).any():
            yield f"step: ply does not count the moves ({ply} were made)"
            return
        if done.all():
            return
        actions = (legal + rng.random(legal.shape)).argmax(1)
        game.step(states, np.where(done, -1, actions))
    yield f"a game is not over after max_moves={game.max_moves} moves"


def sign(game: Game, batch: int, seed: int) -> Complaints:
    states, actions = play_random(game, 4 * batch, seed)
    mover = last_mover(game, actions)
    value = game.result(states)[1]
    decided = value != 0
    signs, movers = np.sign(value[decided]), mover[decided]
    if decided.sum() < CONTEXT:
        return
    if len(set(signs)) == 1 and len(set(movers)) == 2:
        yield (f"result: all of {len(signs)} games end {signs[0]:+.0f}, whoever made the last "
               "move; the value is that of player 0, not of the side that moved or is to move")


def winner(game: Game, batch: int, seed: int) -> Complaints:
    states, actions = play_random(game, 4 * batch, seed)
    value, mover = game.result(states)[1], last_mover(game, actions)
    decided = value != 0
    won = value[decided] * (1 - 2 * mover[decided])
    if decided.sum() >= CONTEXT and (won < 0).all():
        yield (f"result: who makes the last move loses every one of {len(won)} games; right for a "
               "game that is lost by it, else the sign is turned round (+1 is player 0's win)")


def absorbing(game: Game, batch: int, seed: int) -> Complaints:
    states = play_random(game, batch, seed).states
    before = fields(copy(states))
    for action in sorted({0, game.num_actions // 2, game.num_actions - 1}):
        game.step(states, np.full(batch, action))
        game.replay(states, np.full((batch, 2), action))
    if fields(states) != before:
        yield "step: changes a game that is over; it must leave it alone"


def waiting(game: Game, batch: int, seed: int) -> Complaints:
    states = play_random(game, batch, seed, plies=min(2, game.max_moves)).states
    moved, rows = copy(states), np.arange(batch)
    live = ~game.result(states)[0]
    game.step(moved, np.where(rows % 2, game.legal(states).argmax(1), -1))
    if (moved.ply != states.ply + (rows % 2) * live).any():
        yield "step: ply must grow by 1 where a move was made, and not where the action is -1"
    if fields(take(moved, rows % 2 == 0)) != fields(take(states, rows % 2 == 0)):
        yield "step: changes a row whose action is -1"


def replaying(game: Game, batch: int, seed: int) -> Complaints:
    stepped, actions = play_random(game, batch, seed)
    padded = np.full((batch, 2 * actions.shape[1]), -1)
    padded[:, ::2] = actions
    for moves, words in ((actions, "the same moves"), (padded, "moves with -1 between them")):
        states = game.new(batch)
        game.replay(states, moves)
        if fields(states) != fields(stepped):
            yield (f"replay: {words} do not end where step ended; replay is step repeated, and "
                   "a game without chance ends the same every time")
            return


def alone(game: Game, batch: int, seed: int) -> Complaints:
    states, actions = play_random(game, batch, seed)
    backward = np.arange(batch)[::-1]
    for rows in ([0], [1], [batch - 1], backward[: batch // 2], backward[::3]):
        some = game.new(len(rows))
        game.replay(some, actions[rows])
        if fields(some) != fields(take(states, rows)):
            yield "step: a game ends otherwise among other games, or alone; rows must not mix"
            return


def copies(game: Game, batch: int, seed: int) -> Complaints:
    states, moves = middle(game, batch, seed)
    before, rows = fields(states), np.array([4, 1])
    some = take(states, rows)
    legal = game.legal(some)
    game.step(some, np.where(legal.any(1), legal.argmax(1), -1))
    if fields(states) != before:
        yield "step: moving a copy moves the original as well; states share memory"
    for what in ("legal", "observe", "result", "opening_moves", "keys"):
        getattr(game, what)(states)
        if fields(states) != before:
            yield f"{what}: changes the states it looks at"
            return
    put(states, rows, some)
    others = np.setdiff1d(np.arange(batch), rows)
    again = game.new(batch)
    game.replay(again, moves)
    if fields(take(states, others)) != fields(take(again, others)):
        yield "put: writing some rows changes others; states share memory"


def branching(game: Game, batch: int, seed: int) -> Complaints:
    actions = play_random(game, batch, seed).actions
    length = (actions >= 0).sum(1)
    cut = np.maximum(0, length - 1 - np.arange(batch) % 9)
    roots = game.new(batch)
    game.replay(roots, np.where(np.arange(actions.shape[1]) < cut[:, None], actions, -1))
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(batch), 2))
    moves = np.full((len(rows), 5), -1)
    for i, row in enumerate(rows):
        own = actions[row, cut[row] : min(length[row], cut[row] + i % 6)][:5]
        moves[i, : len(own)] = own
    plain, out = take(roots, rows), take(middle(game, batch, seed)[0], np.arange(2 * batch) % batch)
    game.replay(plain, moves)
    place, legal = game.branch(roots, rows, moves, out)
    done, value = game.result(plain)
    if sorted(place.tolist()) != list(range(len(rows))) or (
            (place >= len(legal)) != done).any():
        yield "branch: place must number all states, those that are not over first"
        return
    found = take(out, place)
    same = [(legal[place[~done]] == game.legal(plain)[~done]).all(),
            (game.result(found)[0] == done).all(), (game.result(found)[1] == value).all(),
            (game.observe(found) == game.observe(plain)).all(),
            (found.ply == plain.ply).all(), (found.to_play == plain.to_play).all()]
    if not all(same):
        yield "branch: its states are not those that replay makes"


def keyed(game: Game, batch: int, seed: int) -> Complaints:
    states, moves = middle(game, batch, seed)
    again = game.new(batch)
    game.replay(again, moves)
    keys = game.keys(states)
    if keys.dtype != np.uint64 or (keys != game.keys(again)).any():
        yield "keys: uint64 wanted, equal for equal positions"
    words = [game.render(states, row) for row in range(batch)]
    if len(set(keys.tolist())) < len(set(words)) // 2:
        yield "keys: many different positions have the same key"
