"""A game with its variations, and how it is written down: SGF for Go, a move a line for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sgfmill import sgf

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import GameError, make
from selfplay.games.base import Game, take
from selfplay.serve.line import moves_to, stones_of

HEAD = "selfplay game: "  #: first line of a game that is no SGF
MOST_NODES = 20_000  #: of a game that is read


@dataclass
class Node:
    """A position and the move that led to it. states: one row. side: who made the move. value,
    score: what a search has said of it, for player 0."""

    number: int
    parent: int
    action: int
    text: str
    side: int
    states: Any
    children: list[int] = field(default_factory=list)
    value: float | None = None
    score: float | None = None
    visits: int = 0


class VariationTree:
    """Positions as a tree; node 0 is the first, ``prefix`` the moves that lead to it (for a
    position that was set up)."""

    def __init__(self, game: Game, prefix: list[int] | None = None) -> None:
        self.game, self.prefix = game, prefix or []
        states = game.new(1)
        for action in self.prefix:
            game.step(states, np.array([action], np.int64))
        self.nodes = [Node(0, -1, -1, "", -1, states)]

    def add(self, parent: int, action: int) -> int:
        """The node after a move, a new one where it has not been made there yet.

        Raises GameError for an illegal move.
        """
        node = self.nodes[parent]
        for child in node.children:
            if self.nodes[child].action == action:
                return child
        if not 0 <= action < self.game.num_actions or not self.game.legal(node.states)[0, action]:
            over = self.game.result(node.states)[0][0]
            raise GameError("the game is over" if over else self._illegal(node.states, action))
        states, side = take(node.states, [0]), int(node.states.to_play[0])
        text = self.game.action_to_text(states, 0, action)
        self.game.step(states, np.array([action], np.int64))
        self.nodes.append(Node(len(self.nodes), parent, action, text, side, states))
        node.children.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _illegal(self, states: Any, action: int) -> str:
        known = 0 <= action < self.game.num_actions and not self.game.name.startswith("openspiel:")
        return f"{self.game.action_to_text(states, 0, action) if known else 'that move'} is illegal"

    def path(self, number: int) -> list[int]:
        """Node numbers from the first position to this one."""
        found = [number]
        while self.nodes[found[-1]].parent >= 0:
            found.append(self.nodes[found[-1]].parent)
        return found[::-1]

    def actions(self, number: int) -> list[int]:
        """All moves that lead to a node, those of the set-up included."""
        return self.prefix + [self.nodes[n].action for n in self.path(number)[1:]]

    def end(self, number: int) -> int:
        """The last node of the line that goes on from this one by first moves."""
        while self.nodes[number].children:
            number = self.nodes[number].children[0]
        return number


def comment(game: Game, node: Node) -> str:
    if node.value is None:
        return ""
    said = f"{game.sides[0]} {(node.value + 1) / 2:.0%}"
    if node.score is not None:
        said += f", lead {node.score:+.1f}"
    return f"{said}, {node.visits} visits"


# ------------------------------------------------------------------------------------ writing

def record_text(record: VariationTree, names: tuple[str, str]) -> tuple[str, str]:
    """(a file's name, its text)."""
    game = record.game
    plain = "".join(c if c.isalnum() else "-" for c in game.name).strip("-")
    if game.has_sgf:
        return f"{plain}.sgf", _to_sgf(record, names)
    moves = [game.action_to_text(states, 0, action) for states, action in _main_moves(record)]
    return f"{plain}.txt", "\n".join([HEAD + game.name, *moves, ""])


def _main_moves(record: VariationTree) -> list[tuple[Any, int]]:
    """(position, move) of the main line from the game's first position on."""
    states, found = record.game.new(1), []
    for action in record.actions(record.end(0)):
        found.append((take(states, [0]), action))
        record.game.step(states, np.array([action], np.int64))
    return found


def _to_sgf(record: VariationTree, names: tuple[str, str]) -> str:
    game: Any = record.game
    out = sgf.Sgf_game(game.size)
    root, first = out.get_root(), record.nodes[0]
    root.set("KM", game.komi)
    root.set("RU", game.ruleset)
    root.set("GC", game.rules)
    for key, name in zip(("PB", "PW"), names, strict=True):
        root.set(key, name)
    if record.prefix:
        stones = stones_of(game, first.states)[0]
        sides = [{divmod(k, game.size) for k in np.flatnonzero(stones == sign).tolist()}
                 for sign in (1, -1)]
        root.set_setup_stones(*sides)
        to_play = int(first.states.to_play[0])
        root.set("PL", "bw"[to_play])
        if to_play and len(sides[0]) > 1 and not sides[1]:
            root.set("HA", len(sides[0]))
    made = {0: root}
    for node in record.nodes[1:]:
        made[node.number] = made[node.parent].new_child()
        colour = "bw"[int(record.nodes[node.parent].states.to_play[0])]
        point = None if node.action == game.pass_action else divmod(node.action, game.size)
        made[node.number].set_move(colour, point)
        if said := comment(game, node):
            made[node.number].set("C", said)
    done, value = (field[0] for field in game.result(record.nodes[record.end(0)].states))
    if done:
        lead = abs(float(game.score(record.nodes[record.end(0)].states)[0]))
        root.set("RE", "0" if value == 0 else f"{'B' if value > 0 else 'W'}+{lead:g}")
    return out.serialise().decode("utf-8")


# ------------------------------------------------------------------------------------ reading

def read_text(text: str, current: Game) -> tuple[VariationTree, list[str]]:
    """(the game of a text, what there is to say about it). current: the game on the board, which
    stays where the file's fits it.

    Raises UserError for a text that is no game.
    """
    if text.lstrip("\ufeff \r\n\t").startswith("("):
        return _of_sgf(text, current)
    if text.startswith(HEAD):
        return _of_lines(text)
    raise UserError("this file is no game: an SGF, or a game saved here, is wanted")


def _of_lines(text: str) -> tuple[VariationTree, list[str]]:
    name, *lines = text.splitlines()
    record = VariationTree(make(name.removeprefix(HEAD)))
    return record, _add_line(record, lines, lambda states, word: record.game.text_to_action(
        states, 0, word))


def _add_line(record: VariationTree, words: list[str], read_move: Callable[[Any, str], int]
              ) -> list[str]:
    at = 0
    for number, word in enumerate((word for word in words if word.strip()), 1):
        try:
            at = record.add(at, read_move(record.nodes[at].states, word))
        except GameError as error:
            return [f"move {number}, {clip(word, 40)}: {error}; the game is shown up to there"]
    return []


def _of_sgf(text: str, current: Game) -> tuple[VariationTree, list[str]]:
    try:
        found = sgf.Sgf_game.from_string(text.lstrip("\ufeff \r\n\t"))
        root = found.get_root()
        kind = root.get("GM") if root.has_property("GM") else 1
        size, komi = found.get_size(), float(found.get_komi())
        setup = root.get_setup_stones() if root.has_setup_stones() else (set(), set(), set())
        turn = root.get("PL") if root.has_property("PL") else None
    except ValueError as error:
        why = clip(str(error), 200) or "a property that is none of SGF's"
        raise UserError(f"this SGF cannot be read: {why}") from None
    if kind != 1:
        raise UserError(f"this SGF is not of Go (GM[{kind}])")
    komi = komi if root.has_property("KM") else getattr(current, "komi", komi)
    game, said = _board(size, komi)
    record = VariationTree(game, _prefix(game, setup, turn))
    return record, said + _add_nodes(record, root)


def _board(size: int, komi: float) -> tuple[Any, list[str]]:
    """(the game of this size and komi, what there is to say about it). Raises UserError."""
    try:
        return make(f"go{size}x{size}(komi={komi:g})"), []
    except GameError as error:
        wrong = error
    try:
        game: Any = make(f"go{size}x{size}")
    except GameError:
        raise UserError(f"this SGF cannot be shown: {wrong}") from None
    return game, [f"{wrong}; {game.komi:g} is played here"]


def _prefix(game: Any, setup: Any, turn: str | None) -> list[int]:
    black, white, _ = setup
    if not black and not white:
        return []
    stones = np.zeros(game.size * game.size, np.int8)
    for points, sign in ((black, 1), (white, -1)):
        for row, column in points:
            stones[row * game.size + column] = sign
    to_play = "bw".index(turn) if turn in ("b", "w") else int(bool(black) and not white)
    try:
        return moves_to(game, stones, to_play)
    except GameError as error:
        raise UserError(f"this SGF's first position cannot be shown: {error}") from None


def _add_nodes(record: VariationTree, root: Any) -> list[str]:
    """Every variation, as far as its moves are legal; what was left out, in words."""
    game: Any = record.game
    left_out: list[str] = []
    stack = [(child, 0) for child in reversed(root)]
    while stack and len(record.nodes) < MOST_NODES:
        node, parent = stack.pop()
        try:
            colour, point = node.get_move()
            at = parent
            if colour is not None:
                side = "bw".index(colour)
                if int(record.nodes[at].states.to_play[0]) != side:  # two in a row: a pass between
                    at = record.add(at, game.pass_action)
                action = game.pass_action if point is None else point[0] * game.size + point[1]
                at = record.add(at, action)
            elif node.has_setup_stones():
                raise GameError("stones are set up in the middle of the game")
        except (GameError, ValueError) as error:
            number = len(record.path(parent))
            left_out.append(f"move {number}: {clip(str(error), 80)}")
            continue
        stack += [(child, at) for child in reversed(node)]
    if not left_out:
        return []
    more = f", and {len(left_out) - 1} more like it" if len(left_out) > 1 else ""
    return [f"{left_out[0]}; the game is shown up to there{more}"]
