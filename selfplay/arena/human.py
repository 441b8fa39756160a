"""Somebody at the terminal as a player."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.contest.clock import GameClock
from selfplay.arena.engines import RESIGN, TAKE_BACK, Named
from selfplay.arena.records import GameRecord
from selfplay.common.console import clock_text
from selfplay.common.errors import UserError
from selfplay.games.base import Game, GameError, take

COMMANDS = """  help     this list            undo     take back your last move and the answer
  hint     what a search plays  resign   give the game up
  quit     stop; the game under way is not kept, those that have ended are"""


@dataclass
class _Board:
    """What one seat has seen of its game."""

    states: Any
    last: str = ""  #: the last move, as it is written
    moves: int = 0
    greeted: bool = False


class HumanPlayer(Named):
    """Asks for moves at the terminal. hint: a move for one position, None where there is none."""

    def __init__(
        self, name: str, game: Game, hint: Callable[[Any], int] | None = None
    ) -> None:
        self.name, self.game, self._hint = name, game, hint
        self._boards: dict[int, _Board] = {}
        self._taking_back = False

    def start(self, slots: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        for slot in slots.tolist():  # a game is set up anew where a move is taken back
            self._boards[slot] = _Board(self.game.new(1), greeted=self._taking_back)

    def moved(self, slots: NDArray[np.int64], actions: NDArray[np.int64]) -> None:
        for slot, action in zip(slots.tolist(), actions.tolist(), strict=True):
            board = self._boards[slot]
            board.last = self.game.action_to_text(board.states, 0, action)
            self.game.step(board.states, np.array([action]))
            board.moves += 1

    def timed(self, states: Any, slots: NDArray[np.int64], clock: GameClock) -> None:
        print(f"your clock: {clock_text(clock.most(int(states.to_play[0])))}")

    def act(self, states: Any, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Raises UserError where the input ends, KeyboardInterrupt where ``quit`` is typed."""
        self._taking_back = False
        return np.array([self._ask(take(states, [row]), self._boards.get(slot) or _Board(None))
                         for row, slot in enumerate(slots.tolist())], np.int64)

    def close(self) -> None: ...

    def _ask(self, states: Any, board: _Board) -> int:
        legal = self.game.legal(states)[0]
        if not board.greeted:
            print(self._greeting(states, board))
            board.greeted = True
        print(self.game.render(states, 0))
        if board.last:
            print(f"the last move was {board.last}")
        example = self.game.action_to_text(states, 0, int(np.flatnonzero(legal)[0]))
        while True:
            text = _typed(f"your move (such as {example}, or help): ")
            action = self._answer(text, states, legal)
            if action is not None:
                return action

    def _greeting(self, states: Any, board: _Board) -> str:
        number = int(states.to_play[0])
        side = f"{self.game.sides[number]} ({'XO'[number]})"
        made = "" if not board.moves else (
            f"; {board.moves} moves are on the board, the first of them random "
            "(--opening 0 for none)")
        return f"\na new game of {self.game.name}: you are {side}{made}"

    def _answer(self, text: str, states: Any, legal: NDArray[np.bool_]) -> int | None:
        """The action that is typed; None, with a word to the user, where it is none."""
        word = text.lower()
        if word == "quit":
            raise KeyboardInterrupt
        if word == "resign":
            return RESIGN
        if word == "undo":
            self._taking_back = True
            return TAKE_BACK
        if word in ("help", "?"):
            print(COMMANDS)
        elif word == "hint":
            print("no hint here" if self._hint is None else
                  f"a search plays {self.game.action_to_text(states, 0, self._hint(states))}")
        else:
            return self._move(text, states, legal)
        return None

    def _move(self, text: str, states: Any, legal: NDArray[np.bool_]) -> int | None:
        try:
            action = self.game.text_to_action(states, 0, text)
        except GameError as error:
            print(error)
            return None
        if not legal[action]:
            print(f"{text} is illegal here")
            return None
        return action


def _typed(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        raise UserError("the input ended in the middle of a game; it is not kept") from None


def final_words(game: Game, record: GameRecord, name: str) -> str:
    """The board at the end of a game and who has won, for the player ``name``."""
    states, last = game.new(1), "none"
    for action in record.actions:
        last = game.action_to_text(states, 0, action)
        game.step(states, np.array([action]))
    mine = record.value if record.players[0] == name else -record.value
    how = f"{record.result}, {record.end}" if record.score is not None else record.end
    said = "you have won" if mine > 0 else "you have lost" if mine < 0 else "a draw"
    return f"{game.render(states, 0)}\nthe last move was {last}\n{said} ({how})"
