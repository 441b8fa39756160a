"""Any suitable OpenSpiel game through the Game protocol.

Suitable: sequential, deterministic, of perfect information, zero-sum, for two players. States are
pyspiel objects that are never changed once they are in a batch (``step`` clones before it
applies), so copies of a batch may share them. Every function loops in Python: this is for
reaching many games, not for speed.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyspiel
from numpy.typing import NDArray

from .base import Game, GameError

_Type = pyspiel.GameType
_MASK64 = (1 << 64) - 1


class OpenSpielStates(NamedTuple):
    """nodes: object [B] of pyspiel.State, never mutated; to_play: int8 [B]; ply: int32 [B]."""

    nodes: NDArray[np.object_]
    to_play: NDArray[np.int8]
    ply: NDArray[np.int32]


def playable() -> list[str]:
    """Names of the registered OpenSpiel games that this adapter takes with default parameters."""
    return sorted(
        kind.short_name
        for kind in pyspiel.registered_games()
        if kind.default_loadable and not _missing(kind, 2) and _tensor_of(kind)
        if kind.min_num_players <= 2 <= kind.max_num_players
    )


class OpenSpielGame(Game):
    """The OpenSpiel game of a game string such as ``hex(board_size=5)``.

    Planes: OpenSpiel's observation tensor for the side to move (the information state tensor
    where there is none), and a further plane that is 1 where player 1 is to move, because many
    tensors are the same for both players. Three axes are read as [C, H, W], two as [1, H, W], one
    as [C, 1, 1].

    Raises GameError for a game that OpenSpiel does not know or that is not suitable.
    """

    board_style = "text"
    obs_binary = False  # OpenSpiel does not say what its tensors hold

    def __init__(self, game_string: str) -> None:
        self.game, self._start = _load(game_string)
        self.name = "openspiel:" + str(self.game).removesuffix("()")
        kind = self.game.get_type()
        missing = _missing(kind, self.game.num_players())
        if missing:
            raise GameError(
                f"{self.name} is not {' and not '.join(missing)}; only sequential, deterministic "
                "two-player zero-sum games of perfect information can be played"
            )
        self._tensor = _tensor_of(kind)
        if not self._tensor:
            raise GameError(f"{self.name} has no observation tensor, so no net can see it")
        self.rules = f"{kind.long_name}, rules of OpenSpiel {pyspiel.__version__}"
        self.num_actions = int(self.game.num_distinct_actions())
        self.max_moves = int(self.game.max_game_length())
        self._planes = self._plane_shape()
        channels, height, width = self._planes
        self.obs_shape = (channels + 1, height, width)
        self.board_shape = (height, width)
        self._scale = max(abs(self.game.max_utility()), abs(self.game.min_utility()))
        if min(self.num_actions, self.max_moves, channels, height, width) < 1:
            raise GameError(f"{self.name}: the board is empty")
        if not math.isfinite(self._scale) or self._scale <= 0:
            raise GameError(f"{self.name}: its results have no bounds to scale them by")
        if self._start.is_terminal():
            raise GameError(f"{self.name}: the game is over before it begins")
        if not _first_moves(self._start):
            raise GameError(f"{self.name}: there is no legal move to begin with")

    def _plane_shape(self) -> tuple[int, int, int]:
        shape = [int(n) for n in getattr(self.game, f"{self._tensor}_shape")()]
        if len(shape) == 1:
            return shape[0], 1, 1
        return math.prod(shape[:-2]), shape[-2], shape[-1]

    def new(self, batch: int) -> OpenSpielStates:
        nodes = np.empty(batch, object)
        nodes.fill(self._start)
        to_play = np.full(batch, self._start.current_player(), np.int8)
        return OpenSpielStates(nodes, to_play, np.zeros(batch, np.int32))

    def step(self, states: OpenSpielStates, actions: NDArray[np.int64]) -> None:
        self.replay(states, np.asarray(actions)[:, None])

    def replay(self, states: OpenSpielStates, actions: NDArray[np.int64]) -> None:
        for row, moves in enumerate(np.asarray(actions).tolist()):
            moves = [move for move in moves if move >= 0]
            if not moves or states.nodes[row].is_terminal():
                continue
            node = states.nodes[row].clone()
            for move in moves:
                states.to_play[row] = node.current_player()
                node.apply_action(move)
                states.ply[row] += 1
                if node.is_terminal():
                    break
            else:
                states.to_play[row] = node.current_player()
            states.nodes[row] = node

    def legal(self, states: OpenSpielStates) -> NDArray[np.bool_]:
        out = np.zeros((len(states.ply), self.num_actions), np.bool_)
        for row, node in enumerate(states.nodes):
            if not node.is_terminal():
                out[row, self._moves(node)] = True
        return out

    def _moves(self, node: Any) -> list[int]:
        """Of a game that goes on. Raises GameError where OpenSpiel has none: a fault of its own, as
        in hex(board_size=1)."""
        moves = node.legal_actions()
        if not moves:
            raise GameError(f"{self.name}: OpenSpiel says that the game goes on after "
                            f"{len(node.history())} moves, but knows no legal one")
        return moves

    def observe(self, states: OpenSpielStates) -> NDArray[np.float32]:
        out = np.empty((len(states.ply), *self.obs_shape), np.float32)
        for row, (node, player) in enumerate(
            zip(states.nodes, states.to_play.tolist(), strict=True)
        ):
            tensor = getattr(node, self._tensor)(player)
            out[row, :-1] = np.asarray(tensor, np.float32).reshape(self._planes)
        out[:, -1] = states.to_play[:, None, None]
        return out

    def result(self, states: OpenSpielStates) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        done = np.array([node.is_terminal() for node in states.nodes], np.bool_)
        value = np.zeros(len(states.ply), np.float32)
        for row in np.flatnonzero(done):
            value[row] = self._value(states.nodes[row])
        return done, value

    def _value(self, node: Any) -> float:
        return node.returns()[0] / self._scale

    def rollout(self, states: OpenSpielStates, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        out = np.empty(len(states.ply), np.float32)
        for row, node in enumerate(states.nodes):
            if not node.is_terminal():
                node, seed = node.clone(), int(rng[row])
                while not node.is_terminal():
                    moves = self._moves(node)
                    seed, drawn = _next_draw(seed, len(moves))
                    node.apply_action(moves[drawn])
                rng[row] = seed
            out[row] = self._value(node)
        return out

    def action_to_text(self, states: OpenSpielStates, row: int, action: int) -> str:
        return states.nodes[row].action_to_string(int(states.to_play[row]), int(action))

    def text_to_action(self, states: OpenSpielStates, row: int, text: str) -> int:
        """As in the protocol, but only for legal moves: OpenSpiel spells moves by position."""
        node, wanted = states.nodes[row], text.strip()
        moves = {self.action_to_text(states, row, move): move for move in node.legal_actions()}
        if wanted in moves:
            return moves[wanted]
        near = difflib.get_close_matches(wanted, moves, n=1, cutoff=0) or ["none: the game is over"]
        raise GameError(f"{self.name}: {text!r} is no move here; the nearest is {near[0]}")

    def render(self, states: OpenSpielStates, row: int) -> str:
        return str(states.nodes[row]).rstrip()


def _load(game_string: str) -> tuple[Any, Any]:
    """(pyspiel.Game, its initial state), with one-line errors.

    Names and parameters are looked up first: OpenSpiel prints long lists to stderr as it raises.
    """
    text = game_string.strip()
    found = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
    if not found or text.count("(") != text.count(")"):
        raise GameError(f"game 'openspiel:{text}': write openspiel:name(key=value,...)")
    kinds = {kind.short_name: kind for kind in pyspiel.registered_games()}
    if found[1] not in kinds:
        near = difflib.get_close_matches(found[1], playable(), n=1)
        hint = f"did you mean 'openspiel:{near[0]}'?" if near else "selfplay games lists them all"
        raise GameError(f"unknown game 'openspiel:{found[1]}': {hint}")
    try:
        known = sorted(kinds[found[1]].parameter_specification)
        for key in pyspiel.game_parameters_from_string(text):
            if key not in (*known, "name"):
                takes = ", ".join(known) or "none"
                raise GameError(f"openspiel:{text}: no parameter {key!r}; it takes {takes}")
        with _quiet():
            game = pyspiel.load_game(text)
            return game, game.new_initial_state()
    except pyspiel.SpielError as error:
        raise GameError(f"openspiel:{text}: {str(error).splitlines()[0]}") from error


def _first_moves(state: Any) -> list[int]:
    """The legal moves of a first state; none where OpenSpiel fails on a board that is too small."""
    try:
        with _quiet():
            return state.legal_actions()
    except pyspiel.SpielError:
        return []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what OpenSpiel writes to stderr when it raises the same error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _missing(kind: Any, players: int) -> list[str]:
    """The properties that a game lacks to be playable here; ``kind`` is a pyspiel.GameType."""
    have = {
        "sequential": kind.dynamics == _Type.Dynamics.SEQUENTIAL,
        "deterministic": kind.chance_mode == _Type.ChanceMode.DETERMINISTIC,
        "of perfect information": kind.information == _Type.Information.PERFECT_INFORMATION,
        "zero-sum": kind.utility == _Type.Utility.ZERO_SUM,
        "for two players": players == 2,
    }
    return [what for what, present in have.items() if not present]


def _tensor_of(kind: Any) -> str:
    """The name of the tensor that a net can see, or "" where there is none."""
    if kind.provides_observation_tensor:
        return "observation_tensor"
    return "information_state_tensor" if kind.provides_information_state_tensor else ""


def _next_draw(seed: int, n: int) -> tuple[int, int]:
    """(next splitmix64 state, a number below n)."""
    seed = (seed + 0x9E3779B97F4A7C15) & _MASK64
    z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return seed, ((z ^ (z >> 31)) >> 32) * n >> 32
