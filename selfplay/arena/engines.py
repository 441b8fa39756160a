"""Other people's programs as players: GTP engines, and OpenSpiel's bot.

``players`` has the protocol. These two keep a board of their own for each slot, so they are told
of every move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfplay.arena import gtp
from selfplay.arena.contest.clock import GameClock, to_gtp
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.games.base import Game, GameError
from selfplay.games.go import Go

RESIGN = -1  #: what ``act`` returns to give the game up
NO_MOVE = -3  #: ... by a player of words whose words are no move at all; it loses
TAKE_BACK = -2  #: ... to have its last move taken back, and what was answered
IN_A_ROW = 20  #: faults without a move between them, after which an engine is given up

CLEAN_UP = "kgs-genmove_cleanup"

Ints = NDArray[np.int64]
T = TypeVar("T")


class FaultError(Exception):
    """The engine failed in some rows of ``act``: these games are lost by it.

    actions: int64 [n], as ``act`` returns them; reasons: row -> why it has none.
    """

    def __init__(self, actions: Ints, reasons: dict[int, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.actions, self.reasons = actions, reasons


class Named:
    """A player shows itself by its name."""

    name = ""

    def __repr__(self) -> str:
        return f"<player {self.name or type(self).__name__}>"


class GtpPlayer(Named):
    """An outside engine, one process a slot; those of a batch think at the same time.

    When the engine passes and knows ``kgs-genmove_cleanup`` and ``undo``, its pass is taken back
    and a clean-up move is asked for instead, so that dead stones get captured and the board can be
    counted as it lies.

    An engine that fails in a game (it quits, is silent, or answers with what is no move) loses that
    game by it and is started again. Only one that never plays, or fails IN_A_ROW times without a
    move in between, is an error.
    """

    def __init__(self, name: str, command: str, game: Go, timeout: float = gtp.TIMEOUT) -> None:
        self.name, self.command, self.game, self.timeout = name, command, game, timeout
        self._engines: dict[int, gtp.GtpEngine] = {}
        self._failed: dict[int, UserError] = {}  #: slots whose engine failed as its game began
        self._untold: dict[int, list[tuple[int, int]]] = {}  # slot -> (ply, action) to be played
        self._plies: dict[int, int] = {}
        self._own: dict[int, int] = {}  # slot -> ply of the engine's own move, which it knows
        self._seeds: dict[int, int | None] = {}
        self._clocks: dict[int, GameClock] = {}  # of games played on one, until the next move
        self._set_up: set[int] = set()  # slots whose engine knows the time control
        self._known: frozenset[str] | None = None
        self._moves, self._faults = 0, 0  #: made in all; failures since the last one
        self._setup = (f"boardsize {game.size}", "clear_board", f"komi {game.komi:g}")

    def start(self, slots: Ints, seeds: Ints) -> None:
        """Raises UserError where an engine fails that has not made a move yet; one that has loses
        the game at its first turn."""
        self._failed = {slot: error for slot, error in self._failed.items() if slot not in slots}
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._untold[slot], self._plies[slot], self._own[slot] = [], 0, -1
            self._seeds[slot] = seed
            self._set_up.discard(slot)
            self._try(self._failed, slot, self._begin, slot)
        for slot in slots.tolist():
            if slot not in self._failed:
                self._try(self._failed, slot, self._answer, slot, len(self._setup))
        well = [slot for slot in slots.tolist() if slot not in self._failed]
        if self._known is None and well:
            self._try(self._failed, well[0], self._list_commands, well[0])
        for slot in slots.tolist():
            if slot in self._failed:
                self._end(slot)
        if self._failed and not self._moves:
            raise next(iter(self._failed.values()))

    def _end(self, slot: int) -> None:
        """End the engine of a slot that has one; ``start`` makes it anew."""
        if (engine := self._engines.pop(slot, None)) is not None:
            engine.close()

    def _begin(self, slot: int) -> None:
        if slot in self._engines and not self._engines[slot].running():
            self._end(slot)  # it has quit after its last game
        if slot not in self._engines:
            self._engines[slot] = gtp.GtpEngine(self.command, self.timeout)
        for command in self._setup:
            self._engines[slot].send(command)

    def _list_commands(self, slot: int) -> None:
        listing = self._engines[slot].ask("list_commands")
        self._known = frozenset(listing.text.split()) if listing.ok else frozenset()
        if CLEAN_UP in self._known and "undo" not in self._known:
            say(f"{self.name}: knows {CLEAN_UP}, but no undo, so its pass stands and dead "
                "stones stay on the board")

    def moved(self, slots: Ints, actions: Ints) -> None:
        for slot, action in zip(slots.tolist(), actions.tolist(), strict=True):
            if slot in self._engines and self._own[slot] != self._plies[slot]:
                self._untold[slot].append((self._plies[slot], action))
            self._plies[slot] += 1

    def timed(self, states: Any, slots: Ints, clock: GameClock) -> None:
        self._clocks = dict.fromkeys(slots.tolist(), clock)

    def act(self, states: Any, slots: Ints) -> Ints:
        """Raises FaultError where the engine fails in some games, UserError if in all."""
        errors: dict[int, UserError] = {}
        rows = list(enumerate(slots.tolist()))
        counts = {row: count for row, slot in rows
                  if (count := self._try(errors, row, self._ask_move, states, row, slot))}
        texts = {row: text for row, slot in rows if row in counts
                 if (text := self._try(errors, row, self._answer, slot, counts[row])) is not None}
        if {CLEAN_UP, "undo"} <= (self._known or frozenset()):
            self._clean_up(errors, states, slots, texts)
        actions = np.full(len(rows), RESIGN, np.int64)
        for row, slot in rows:
            if row in texts and row not in errors:
                action = self._try(errors, row, self._action, states, row, slot, texts[row])
                actions[row] = RESIGN if action is None else action
            self._own[slot] = self._plies[slot]
        self._note(errors, slots)
        if errors:
            raise FaultError(actions, {row: str(error) for row, error in errors.items()})
        return actions

    def _try(self, errors: dict[int, UserError], place: int, ask: Callable[..., T], *words: Any
             ) -> T | None:
        """``ask(*words)``; None where it fails, with the error noted under ``place``."""
        try:
            return ask(*words)
        except UserError as error:
            errors[place] = error
            return None

    def _note(self, errors: dict[int, UserError], slots: Ints) -> None:
        """Count moves and failures; end the engines that have failed, which ``start`` makes anew.

        Raises UserError where there is no hope of another move.
        """
        made = len(slots) - len(errors)
        self._moves += made
        self._faults = len(errors) + (0 if made else self._faults)
        for row in errors:
            self._end(int(slots[row]))
        if errors and (not self._moves or self._faults >= IN_A_ROW):
            raise next(iter(errors.values()))

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _ask_move(self, states: Any, row: int, slot: int) -> int:
        """Send the slot's engine the moves that it has missed and ask for one; returns how many
        answers to expect."""
        if slot in self._failed:
            raise self._failed[slot]
        engine, untold = self._engines[slot], self._untold[slot]
        for ply, action in untold:
            text = self.game.action_to_text(states, row, action)
            engine.send(f"play {gtp.COLOURS[ply % 2]} {text}")
        count = len(untold) + 1
        untold.clear()
        # after the opening, so that the seed is for the engine's own decisions
        if self._seeds[slot] is not None and "set_random_seed" in (self._known or ()):
            engine.send(f"set_random_seed {self._seeds[slot]}")
            count += 1
        self._seeds[slot] = None
        for command in self._times(states, row, slot):
            engine.send(command)
            count += 1
        engine.send(f"genmove {self._colour(states, row)}")
        return count

    def _times(self, states: Any, row: int, slot: int) -> Iterator[str]:
        """The commands that tell the slot's engine what time it has, where it has a clock."""
        clock = self._clocks.pop(slot, None)
        if clock is None:
            return
        known = self._known or frozenset()
        if slot not in self._set_up:
            self._set_up.add(slot)
            if command := to_gtp(clock.control, known):
                yield command
        if "time_left" in known:
            side = int(states.to_play[row])
            for player in (side, 1 - side):
                seconds, stones = clock.left(player)
                yield f"time_left {gtp.COLOURS[player]} {int(seconds)} {stones}"

    def _answer(self, slot: int, count: int) -> str:
        return [self._engines[slot].expect() for _ in range(count)][-1].lower()

    def _clean_up(
        self, errors: dict[int, UserError], states: Any, slots: Ints, texts: dict[int, str]
    ) -> None:
        passed = [row for row, text in texts.items() if text == "pass"]
        for row in passed:
            self._try(errors, row, self._take_back, states, row, int(slots[row]))
        for row in passed:
            if row not in errors:
                text = self._try(errors, row, self._answer, int(slots[row]), 2)
                texts[row] = text or ""

    def _take_back(self, states: Any, row: int, slot: int) -> None:
        self._engines[slot].send("undo")
        self._engines[slot].send(f"{CLEAN_UP} {self._colour(states, row)}")

    def _colour(self, states: Any, row: int) -> str:
        return gtp.COLOURS[int(states.to_play[row])]

    def _action(self, states: Any, row: int, slot: int, text: str) -> int:
        if text == "resign":
            return RESIGN
        try:
            return self.game.text_to_action(states, row, text)
        except GameError:
            raise self._engines[slot].failure(f"{text[:40]!r} is no move") from None


class OpenSpielPlayer(Named):
    """OpenSpiel's own MCTS bot with random rollouts, on an OpenSpiel state beside ours."""

    def __init__(self, name: str, game: Game, spiel_name: str, sims: int) -> None:
        import pyspiel

        self.name, self.game, self.sims = name, game, sims
        self._pyspiel = pyspiel
        self._spiel = pyspiel.load_game(spiel_name)
        self._states: dict[int, Any] = {}
        self._bots: dict[int, Any] = {}

    def start(self, slots: Ints, seeds: Ints) -> None:
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            rollouts = self._pyspiel.RandomRolloutEvaluator(1, seed)
            self._states[slot] = self._spiel.new_initial_state()
            self._bots[slot] = self._pyspiel.MCTSBot(
                self._spiel, rollouts, 2.0, self.sims, 1000, True, seed, False
            )

    def moved(self, slots: Ints, actions: Ints) -> None:
        for slot, action in zip(slots.tolist(), actions.tolist(), strict=True):
            self._states[slot].apply_action(action)

    def timed(self, states: Any, slots: Ints, clock: GameClock) -> None: ...

    def act(self, states: Any, slots: Ints) -> Ints:
        legal = self.game.legal(states)
        return np.array([self._choose(slot, legal[row])
                         for row, slot in enumerate(slots.tolist())], np.int64)

    def close(self) -> None:
        self._states.clear()
        self._bots.clear()

    def _choose(self, slot: int, legal: NDArray[np.bool_]) -> int:
        root = self._bots[slot].mcts_search(self._states[slot])
        best = int(root.best_child().action)
        if legal[best]:
            return best
        # OpenSpiel's Go allows a repeated board (and calls it a draw); ours does not.
        visits = {int(c.action): int(c.explore_count) for c in root.children if legal[c.action]}
        return max(visits, key=lambda action: visits[action])


def pyspiel_name(game: Game) -> str | None:
    """OpenSpiel's name of the same game with the same action numbers, or None.

    OpenSpiel's Go forbids suicide and ends a game in a draw where a board is repeated.
    """
    if game.name.startswith("openspiel:"):
        return game.name.removeprefix("openspiel:")
    if isinstance(game, Go) and not game.suicide:
        return f"go(board_size={game.size},komi={game.komi})"
    options = game.name.partition("(")[2].rstrip(")")
    if game.name.startswith("hex"):
        return f"hex(board_size={game.board_shape[0]}{',' * bool(options)}{options})"
    if game.name.startswith("gomoku") and not options:  # which knows longer rows as wins alone
        return f"gomoku(size={game.board_shape[0]})"
    if game.name.startswith("dotsandboxes"):
        return (f"dots_and_boxes(num_rows={game.board_shape[0] // 2},"
                f"num_cols={game.board_shape[1] // 2})")
    return {"tictactoe": "tic_tac_toe", "connect4": "connect_four",
            "othello8x8": "othello"}.get(game.name)
