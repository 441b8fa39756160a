"""Go, 5x5 to 19x19: positional superko, area scoring. The rules themselves are in ``small`` up to
9x9 and in ``large`` above."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Game, GameError, Symmetries, board_symmetries, put, take
from . import handicap, large, planes, playouts, small
from .planes import KOMI_PLANES, PLANES
from .states import BLACK, EDGE, EMPTY, LEGAL, MOVES, SETS, WHITE, BitStates, GoStates

SMALLEST, LARGEST = 5, 19
COLUMNS = "ABCDEFGHJKLMNOPQRST"  # GTP leaves out I
ZOBRIST_SEED = 20160127
States = GoStates | BitStates  #: up to 9x9 the latter
SHARED = range(7, 14)  #: board sizes that one net plays
#: any odd numbers
KEY_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


class Go(Game):
    """Tromp-Taylor Go (https://tromp.github.io/go.html) as a batched ``Game``.

    Actions are ``row * N + col`` with row 0 the line that GTP calls 1, then the pass, N * N.
    Black is player 0. A board may not repeat any earlier board of the game, the empty one
    included (positional superko); passes are exempt. Two passes in a row end a game, and so does
    move 2 * N * N; either way every stone on the board counts as alive.

    ``komi`` is that of new games; each game has its own in ``states.komi``, in half points, and
    may be given another while it is fresh.

    Observation planes (C = 24), for the side to move: 0 own stones, 1 enemy stones, 2 ones;
    3-5 own chains with 1, 2, 3 or more liberties; 6-8 enemy chains likewise; 9-12 the last,
    second, third and fourth last move (empty for a pass); 13 points that the superko rule alone
    forbids; 14 all ones where white is to move; 15 all ones after a pass;
    16-23 the komi that the side to move receives, in half points (at most 63.5 points either
    way), as a binary number, its lowest bit first, in two's complement: ones where the bit is set.
    """

    has_ownership = True
    komi_planes = KOMI_PLANES
    pass_from = 0  #: ply before which ``legal`` holds passes back (see ``passing_late``)
    has_sgf = True
    sides = ("black", "white")
    board_style = "go"
    quick_wins = True

    def __init__(self, board_size: int = 9, komi: float = 7.0, suicide: bool = False) -> None:
        """Raises GameError unless size is 5..19, komi whole or half with |komi| <= size ** 2."""
        check_parameters(board_size, komi, suicide)
        size = self.size = board_size
        self.komi = float(komi)
        self.suicide = suicide
        self.num_actions = size * size + 1
        self.pass_action = size * size
        self.board_shape = (size, size)
        self.obs_shape = (PLANES + KOMI_PLANES, size, size)
        self.max_moves = 2 * size * size
        options = [f"komi={self.komi:g}"] * (self.komi != 7.0) + ["suicide=True"] * suicide
        self.name = f"go{size}x{size}" + (f"({','.join(options)})" if options else "")
        self.rules = (
            "Tromp-Taylor area scoring, positional superko, "
            f"suicide {'allowed' if suicide else 'forbidden'}, komi {self.komi:g}"
        )
        #: as RU has it in SGF, by the names that other programs use
        self.ruleset = "Tromp-Taylor" if suicide else "Chinese"
        boards = f"{SHARED[0]}x{SHARED[0]} to {SHARED[-1]}x{SHARED[-1]}"
        self.kin = (f"go, {boards if size in SHARED else f'{size}x{size}'}, any komi"
                    + ", suicide allowed" * suicide)
        points = (size + 2) * (size + 1) + 1
        #: uint64 [2, P]: the key of a black and of a white stone on each point of the padded board
        self.zobrist = np.random.default_rng(ZOBRIST_SEED).integers(
            2**64, size=(2, points), dtype=np.uint64
        )
        cells = np.arange(size * size)
        #: int64 [N * N]: the point of the padded board where each cell lies
        self.points = (cells // size + 1) * (size + 1) + cells % size + 1
        self._in_sets = size <= playouts.LARGEST
        self._bits = playouts.lookup_tables(min(size, playouts.LARGEST))
        bits = self.points - 1
        self._cells = (bits % 64).astype(np.uint64), int((bits < 64).sum())
        self._start = self._empty_board()
        self._opening_points = np.ones(self.num_actions, np.bool_)
        self._opening_points[-1] = False
        if size >= 7:
            rows, cols = cells // size, cells % size
            self._opening_points[:-1] = (np.minimum(rows, cols) > 0) & (
                np.maximum(rows, cols) < size - 1
            )

    def _empty_board(self) -> States:
        """One initial state."""
        # 4 bits a move, rounded up to a power of two: at most a quarter of them get set
        words = 1 << max(0, (4 * self.max_moves - 1).bit_length() - 6)
        seen = np.zeros((1, words), np.uint64)
        seen[0, 0] = 1  # the empty board, whose hash is 0
        common: dict[str, Any] = {
            "to_play": np.zeros(1, np.int8),
            "ply": np.zeros(1, np.int32),
            "done": np.zeros(1, np.bool_),
            "ko": np.zeros(1, np.int16),
            "komi": np.full(1, 2 * self.komi, np.int16),
            "recent": np.full((1, 4), -1, np.int16),
            "history": np.zeros((1, self.max_moves + 1), np.uint64),
            "seen": seen,
        }
        if self._in_sets:
            sets = np.zeros((1, SETS, 2), np.uint64)
            sets[0, MOVES] = self._bits[-1]
            return BitStates(**common, sets=sets)
        points = self.zobrist.shape[1]
        stones = np.full(points, EDGE, np.int8)
        stones[self.points] = EMPTY
        alone = np.arange(points, dtype=np.uint16)
        liberties = np.zeros(points, np.int64)
        packed = np.array([large.liberty(p) for p in self.points], np.int64)
        for step in (-self.size - 1, -1, 1, self.size + 1):
            np.add.at(liberties, self.points + step, packed)
        return GoStates(**common, stones=stones[None], chain=alone[None], following=alone[None],
                        liberties=liberties[None], lost=np.zeros((1, points), np.int8))

    def new(self, batch: int) -> States:
        return type(self._start)._make(np.repeat(field, batch, axis=0) for field in self._start)

    def boards(self, sizes: Sequence[int]) -> list[Game]:
        """The own one first."""
        named = ",".join(map(str, sizes))
        if sizes and self.size not in sizes:
            raise GameError(f"sizes {named}: {self.name}'s own, {self.size}, is not among them; it "
                            f"is the board of the matches: take {self.size},{named}")
        made = {size: self if size == self.size else Go(size, self.komi, self.suicide)
                for size in dict.fromkeys([self.size, *sizes])}
        for other in made.values():
            if other.kin != self.kin:
                raise GameError(f"sizes {named}: one net plays {self.kin}, not {other.name} too; "
                                f"boards from {SHARED[0]} to {SHARED[-1]} can share a net")
        return [made[size] for size in made for _ in range(max(list(sizes).count(size), not sizes))]

    def passing_late(self, share: float) -> Game:
        """Under area scoring a move that keeps one's eyes costs nothing, but a game that is over
        before dead stones have been taken gives its result to the wrong side."""
        game = copy.copy(self)
        game.pass_from = int(share * self.cells)
        return game

    def _held_back(
        self, states: States, legal: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """``legal`` without the passes that come too early; changes it. On sets kernels do it."""
        if self.pass_from:
            early = (states.ply[: len(legal)] < self.pass_from) & legal[:, :-1].any(1)
            legal[early, self.pass_action] = False
        return legal

    def vary(
        self, states: States, config: Any, rng: np.random.Generator, evaluate: Any = None
    ) -> NDArray[np.int64] | None:
        """Draw each game's komi: the own one; or one up to ``komi_range`` points from it, whole and
        half ones alike (of the share ``komi_share``); or, as if there were handicap, any, normal
        with the board's width as its deviation (``komi_wild``). Draws nothing where both are 0.
        Of the share ``handicap`` begin with stones (see ``handicap``)."""
        self._vary_komi(states, config, rng)
        if evaluate is None or not config.handicap:
            return None
        low, high = config.handicap_stones
        stones = np.minimum(rng.integers(low, high + 1, len(states.ply)), self.cells // 4)
        rows = np.flatnonzero((rng.random(len(stones)) < config.handicap) & (stones > 0))
        if not len(rows):
            return None
        some = self.new(len(rows))
        moves = handicap.begin(self, some, stones[rows], states.komi[rows], evaluate, rng)
        put(states, rows, some)
        every = np.full((len(stones), moves.shape[1]), -1)
        every[rows] = moves
        return every

    def _vary_komi(self, states: States, config: Any, rng: np.random.Generator) -> None:
        if config.komi_share + config.komi_wild == 0:
            return
        count, reach = len(states.ply), int(2 * config.komi_range)
        kind, near = rng.random(count), rng.integers(-reach, reach + 1, count)
        wild = np.rint(rng.normal(0.0, 2.0 * self.size, count))
        far = (kind >= config.komi_share) & (kind < config.komi_share + config.komi_wild)
        off = np.where(far, wild, np.where(kind < config.komi_share, near, 0))
        most = 2 * self.size**2
        states.komi[:] = np.clip(2 * self.komi + off, -most, most)

    def step(self, states: States, actions: NDArray[np.int64]) -> None:
        self.replay(states, np.asarray(actions, np.int64)[:, None])

    def replay(self, states: States, actions: NDArray[np.int64]) -> None:
        moves = np.ascontiguousarray(actions, np.int64)
        if self._in_sets:
            small.play(states, moves, self.size, self.suicide, self.max_moves, *self._bits,
                         self.zobrist)
        else:
            large.play(states, self.zobrist, moves, self.size, self.max_moves,
                          *self._scratch()[:1])

    def branch(
        self, roots: States, rows: NDArray[np.int64], moves: NDArray[np.int64], out: States
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        place = np.empty(len(rows), np.int64)
        legal = np.empty((len(rows), self.num_actions), np.bool_)
        moves = np.ascontiguousarray(moves)  # else kernels are compiled for both layouts
        if self._in_sets:
            live = small.branch(roots, rows, moves, self.size, self.suicide, self.max_moves,
                                  *self._bits, self.zobrist, *self._cells, self.pass_from, out,
                                  place, legal)
            return place, legal[:live]
        live = large.branch(roots, rows, moves, self.zobrist, self.size, self.suicide,
                               self.max_moves, *self._scratch(), out, place, legal)
        return place, self._held_back(out, legal[:live])

    def _scratch(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Scratch arrays of the kernels, for one board at a time, an entry a point."""
        points = self.zobrist.shape[1]
        return np.empty(points, np.int16), np.empty(points, np.uint8)

    def _legality(self, states: States) -> NDArray[np.uint8]:
        out = np.zeros((len(states.ply), self.num_actions), np.uint8)
        large.legality(states, self.zobrist, self.size, self.suicide, self._scratch()[1], out)
        return out

    def legal(self, states: States) -> NDArray[np.bool_]:
        if not self._in_sets:
            return self._held_back(states, self._legality(states) == LEGAL)
        out = np.empty((len(states.ply), self.num_actions), np.bool_)
        small.moves(states, *self._cells, self.pass_from, out)
        return out

    def wins(self, states: States, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A second pass wins for who leads."""
        found, late = np.zeros(legal.shape, np.bool_), True
        if isinstance(states, BitStates):
            late = playouts.won_by_passing(states, self.size, self._bits[-1], self.max_moves - 1,
                                           found)
        else:
            self._by_passing(found, states, states.recent[:, 0] == self.pass_action, 1)
        if late:
            self._near_the_end(found, super().wins, states, legal, 1)
        return found

    def blunders(self, states: States, legal: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A pass loses for who is behind, whether it is the second or the opponent passes too."""
        found = np.zeros(legal.shape, np.bool_)
        self._by_passing(found, states, np.ones(len(legal), np.bool_), -1)
        self._near_the_end(found, super().blunders, states, legal, 2)
        return found

    def _by_passing(
        self, found: NDArray[np.bool_], states: States, asked: NDArray[np.bool_], sign: int
    ) -> None:
        """Mark the pass, of the games ``asked``, where the board, counted now, is worth ``sign`` to
        the side to move."""
        rows = np.flatnonzero(asked)
        lead = self._leads(states, asked)[rows] - states.komi[rows] / 2
        found[rows, -1] = np.sign(lead) * (1 - 2 * states.to_play[rows]) == sign

    def _near_the_end(
        self, found: NDArray[np.bool_], ask: Callable[..., NDArray[np.bool_]], states: States,
        legal: NDArray[np.bool_], moves: int,
    ) -> None:
        """Where so few moves are left, any of them may be the last: try them all."""
        rows = np.flatnonzero(states.ply + moves >= self.max_moves)
        if len(rows):
            found[rows] = ask(take(states, rows), legal[rows])

    def observe(self, states: States) -> NDArray[np.uint8]:
        out = np.empty((len(states.ply), self.obs_shape[0], self.size * self.size), np.uint8)
        codes = np.empty((2, self.zobrist.shape[1]), np.uint8)
        if self._in_sets:
            planes.observe_sets(states, *self._cells, codes[0], out)
        else:
            planes.observe(states, self._legality(states), self.size, codes, out)
        return out.reshape(-1, *self.obs_shape)

    def _leads(self, states: States, wanted: NDArray[np.bool_]) -> NDArray[np.int32]:
        """int32 [B]: Black's lead in the games that are ``wanted``, 0 in the others."""
        leads = np.zeros(len(wanted), np.int32)
        if self._in_sets:
            playouts.leads_of(states, wanted, self.size, self._bits[-1], leads)
        else:
            planes.areas(states.stones, wanted, self.size, np.empty((0, 0), np.int8), leads)
        return leads

    def result(self, states: States) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        done = states.done.copy()
        lead = self._leads(states, done) - states.komi / 2
        return done, (np.sign(lead) * done).astype(np.float32)

    def ownership(self, states: States) -> NDArray[np.int8]:
        batch = len(states.ply)
        out = np.zeros((batch, self.size * self.size), np.int8)
        leads = np.zeros(batch, np.int32)
        planes.areas(states.stones, np.ones(batch, np.bool_), self.size, out, leads)
        return out

    def score(self, states: States) -> NDArray[np.float32]:
        wanted = np.ones(len(states.ply), np.bool_)
        return (self._leads(states, wanted) - states.komi / 2).astype(np.float32)

    def keys(self, states: States) -> NDArray[np.uint64]:
        """As in the protocol; only the last four moves of a past count."""
        board = states.history[np.arange(len(states.ply)), states.ply]
        moves = states.recent.view(np.uint64)[:, 0]
        other = states.komi.astype(np.int64) - int(2 * self.komi)
        return (board ^ (moves * KEY_FACTORS[0]) ^ (states.ply.astype(np.uint64) * KEY_FACTORS[1])
                ^ (other.view(np.uint64) * KEY_FACTORS[2]))

    def rollout(self, states: States, rng: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Random playouts that leave own one-point eyes alone and know simple ko, not superko.

        They end with two passes or 2 * N * N moves of their own, whatever the game's ply: a
        board cut off in the middle of a fight says little.
        """
        leads = np.zeros(len(states.ply), np.int32)
        if self.size <= playouts.LARGEST:
            playouts.play_out(states, self.size, *self._bits, rng, leads,
                              np.empty((0, 0), np.int16))
        else:
            finals = states.stones.copy()
            large.rollout(states.to_play, states.done, states.recent, states.ko, self.size, rng,
                             finals)
            planes.areas(finals, np.ones(len(finals), np.bool_), self.size,
                           np.empty((0, 0), np.int8), leads)
        return np.sign(leads - states.komi / 2).astype(np.float32)

    def opening_moves(self, states: States) -> NDArray[np.bool_]:
        """Legal points off the first line (any legal point below 7x7); none on a full board."""
        return self.legal(states) & self._opening_points

    def symmetries(self) -> Symmetries:
        return board_symmetries(self.board_shape, more=1)

    def action_to_text(self, states: States, row: int, action: int) -> str:
        if action == self.pass_action:
            return "pass"
        return f"{COLUMNS[action % self.size]}{action // self.size + 1}"

    def text_to_action(self, states: States, row: int, text: str) -> int:
        word = text.strip().upper()
        if word == "PASS":
            return self.pass_action
        columns = COLUMNS[: self.size]
        vertex = re.fullmatch(rf"([{columns}])(0?[1-9]|1[0-9])", word, re.ASCII)
        if vertex is None or int(vertex[2]) > self.size:
            last = f"{columns[-1]}{self.size}"
            raise GameError(f"{text!r} is no vertex of {self.name}; play A1 to {last} or pass")
        return (int(vertex[2]) - 1) * self.size + columns.index(vertex[1])

    def last_move(self, states: States) -> NDArray[np.int64]:
        return states.recent[:, 0].astype(np.int64)

    def render(self, states: States, row: int) -> str:
        """Black X, white O, the last move in brackets; row N on top."""
        signs = {EMPTY: ".", BLACK: "X", WHITE: "O"}
        cells = [signs[int(stone)] for stone in states.stones[row, self.points]]
        last = int(states.recent[row, 0])
        letters = "   " + "".join(f" {c} " for c in COLUMNS[: self.size])
        lines = [letters]
        for r in reversed(range(self.size)):
            spots = range(r * self.size, (r + 1) * self.size)
            text = "".join(f"({cells[k]})" if k == last else f" {cells[k]} " for k in spots)
            lines.append(f"{r + 1:2} {text} {r + 1}")
        colour = "black" if states.to_play[row] == 0 else "white"
        said = " after a pass" if last == self.pass_action else ""
        over = "over" if states.done[row] else f"{colour} to move{said}"
        return "\n".join([*lines, letters, f"move {int(states.ply[row])}, {over}"])


def check_parameters(board_size: Any, komi: Any, suicide: Any) -> None:
    """Raises GameError with the remedy where a parameter of ``Go`` makes no sense."""
    if type(board_size) is not int or not SMALLEST <= board_size <= LARGEST:
        raise GameError(
            f"go: board_size={board_size!r} is not a whole number from {SMALLEST} to {LARGEST}"
        )
    fine = type(komi) in (int, float) and math.isfinite(komi) and 2 * komi == round(2 * komi)
    if not fine or abs(komi) > board_size**2:
        limit = board_size**2
        raise GameError(f"go: komi={komi!r} is not a whole or half number within +-{limit}")
    if type(suicide) is not bool:
        raise GameError(f"go: suicide={suicide!r} is neither True nor False")
