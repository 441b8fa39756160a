"""Boards and moves as text.

A board is written as its side to move sees it, cell by cell, the top row first, and then who is to
move; X are its own stones, O the other's:

    a3. b3O c3.
    a2. b2X c2.
    a1. b1. c1.
    first

A completion is a move, or a line of moves that is expected, how it ends, and then the move:

    c1
    c1 a3 a1 wins # c1
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game, GameError, take
from selfplay.llm.embedded import TEMPLATE
from selfplay.llm.models import render
from selfplay.llm.rewards import Format

MARK = "#"  #: stands before the move where there is a thought before it
OUTCOMES = ("loses", "draws", "wins")
CONTENTS = (".", "X", "O")
DRAWN = ("cells", "go", "hex", "columns")  #: boards whose planes 0 and 1 are stones
EVEN = 0.33  #: a value between minus this and this is written as a draw


def said_move(completion: str) -> str:
    """What stands behind the last mark; without one, all of it."""
    return completion.rpartition(MARK)[2].strip()


FORMAT = Format("move", open=MARK, find=said_move)


class Notation:
    """How a game is written."""

    def __init__(self, game: Game) -> None:
        self.game, self.drawn = game, game.board_style in DRAWN
        height, width = game.board_shape
        files = string.ascii_lowercase
        names = [f"{files[col]}{row + 1}" if width <= 26 else f"{row + 1}.{col + 1}"
                 for row in range(height) for col in range(width)]
        #: [H*W][3], what is written of a cell; the order in which cells are written
        self.cells = [[name + content for content in CONTENTS] for name in names]
        self.order = [row * width + col for row in reversed(range(height)) for col in range(width)]
        self._table: tuple[Any, NDArray[np.int64]] | None = None

    def words(self) -> list[str]:
        """Every word that a text of this game may have; for a game whose board is drawn as it
        likes, those of its moves."""
        start = self.game.new(1)
        moves = [self.game.action_to_text(start, 0, a) for a in range(self.game.num_actions)]
        cells = [word for cell in self.cells for word in cell] if self.drawn else []
        return list(dict.fromkeys([*cells, *self.game.sides, *moves, *OUTCOMES, MARK]))

    def contents(self, states: Any) -> NDArray[np.int64]:
        """int64 [B, H*W] in the order of writing: 0 empty, 1 own, 2 the other's."""
        planes = self.game.observe(states)[:, :2].reshape(len(states.ply), 2, -1)
        return (planes[:, 0] + 2 * planes[:, 1]).astype(np.int64)[:, self.order]

    def boards(self, states: Any) -> list[str]:
        """The text of each position."""
        sides = [self.game.sides[int(side)] for side in states.to_play]
        if not self.drawn:
            return [f"{self.game.render(states, row)}\n{side}" for row, side in enumerate(sides)]
        width, found = self.game.board_shape[1], []
        for row, side in zip(self.contents(states), sides, strict=True):
            words = [self.cells[cell][kind] for cell, kind in zip(self.order, row, strict=True)]
            lines = [" ".join(words[i:i + width]) for i in range(0, len(words), width)]
            found.append("\n".join([*lines, side]))
        return found

    def prompts(self, states: Any, tokenizer: Any) -> list[list[int]]:
        """The tokens of each position as a model is asked about it: ``models.render`` of its text.
        The embedded model's are looked up in a table, as they are wanted by the thousand."""
        if not self.drawn or tokenizer.chat_template != TEMPLATE or not self._by_word(tokenizer):
            return [render(tokenizer, text) for text in self.boards(states)]
        if self._table is None or self._table[0] is not tokenizer:
            ids = tokenizer.convert_tokens_to_ids
            self._table = tokenizer, np.array([ids(self.cells[cell]) for cell in self.order])
        cells = self._table[1][np.arange(len(self.order)), self.contents(states)]
        sides = np.array(tokenizer.convert_tokens_to_ids(list(self.game.sides)))
        rows: list[list[int]] = np.hstack([cells, sides[states.to_play][:, None]]).tolist()
        return rows

    def _by_word(self, tokenizer: Any) -> bool:
        return tokenizer.convert_tokens_to_ids(self.cells[0][0]) != tokenizer.unk_token_id

    def move(self, states: Any, row: int, completion: str) -> int | None:
        """The action that a completion names in a position, legal or not; None for none."""
        try:
            return self.game.text_to_action(states, row, said_move(completion))
        except GameError:
            return None

    def legal(self, states: Any, row: int) -> list[str]:
        """The legal moves of a position as text."""
        legal = np.flatnonzero(self.game.legal(take(states, [row]))[0])
        return [self.game.action_to_text(states, row, int(action)) for action in legal]

    def line(self, states: Any, row: int, actions: list[int], value: float) -> str:
        """The completion that thinks a line through and plays its first move. value: in [-1, 1],
        what the side to move expects."""
        now, moves = take(states, [row]), []
        for action in actions:
            moves.append(self.game.action_to_text(now, 0, action))
            self.game.step(now, np.array([action], np.int64))
        outcome = OUTCOMES[1 + int(value > EVEN) - int(value < -EVEN)]
        return f"{' '.join(moves)} {outcome} {MARK} {moves[0]}"
