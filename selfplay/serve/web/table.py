"""A table: one game on the board, who plays it, who thinks about it, and who looks on.

All of a table happens on the server's event loop; what takes time happens on threads. Whatever
changes the game or who thinks stops the searches under way and lets those begin that are wanted
now (``Table.stir``).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import GameError, make
from selfplay.games.base import Game
from selfplay.serve.analysis import Analysis
from selfplay.serve.line import moves_to
from selfplay.serve.thinker import Limits
from selfplay.serve.web import minds, variations
from selfplay.serve.web.boards import GameBoard

PAUSE = 0.35  #: seconds between two moves of engines, so that they can be followed
LOOK = 16  #: simulations of a position of the curve that nobody has looked at
ENDLESS = 50_000  #: visits of an analysis without an end

Send = Callable[[dict[str, Any]], None]
Seat = dict[str, Any]
HUMAN: Seat = {"who": "human"}


class Table:
    """One game, with those who sit there (``viewers``: what sends them a message)."""

    def __init__(self, game: Game, net: str | None = None) -> None:
        self.name = secrets.token_urlsafe(6)
        self.viewers: dict[object, Send] = {}
        self.turn = asyncio.Lock()  #: one thing is done at a time
        self._given, self.begun = net, 0
        self._stop, self._rng = threading.Event(), np.random.default_rng()
        self._task: asyncio.Task[None] | None = None
        self._begin(variations.VariationTree(game))
        net = net or self.nets[0].words
        self.analysis: dict[str, Any] = {"on": False, "net": net, "sims": 400, "beside": ""}
        self.seats: list[Seat] = [dict(HUMAN), self.engine(net)]
        self.seats = self.seats[:: 1 - 2 * self._first]

    @staticmethod
    def engine(net: str) -> Seat:
        return {"who": "net", "net": net, "sims": 200 if net != minds.MCTS else 1000, "strength": 5}

    def _begin(self, found: variations.VariationTree) -> None:
        """Put another game on the table."""
        self.begun += 1
        self.record, self.board, self.at = found, GameBoard(found.game), 0
        self.game = found.game
        self.nets = minds.choices(self.game, self._given)
        self.running, self.thinking, self.resigned = False, -1, -1
        self._heads: dict[tuple[str, str], minds.Head] = {}
        self._targets: dict[int, Any] = {}
        self._owned: dict[int, list[float] | None] = {}
        self._first = int(found.nodes[0].states.to_play[0])
        self.reports: dict[int, dict[str, Any]] = {}

    # ------------------------------------------------------------------------ what is done

    def new(self, game: str, seats: list[Seat]) -> None:
        """A seat's net that does not play the game gives way to the first that does."""
        self._begin(variations.VariationTree(make(game)))
        self.seats = seats
        self._fit()
        self.running = True

    def play(self, action: int, at: int) -> None:
        if at != self.at:
            raise UserError("somebody else has moved at this table; look at the board again")
        self.at, self.resigned = self.record.add(self.at, action), -1
        self.running = True

    def goto(self, node: int) -> None:
        if node >= len(self.record.nodes):
            raise UserError(f"there is no position {node} in this game")
        self.at, self.running = node, False

    def undo(self) -> None:
        """Back before the last move of a human: an engine's answer goes with it."""
        node, seats = self.record.nodes[self.at], self.seats
        if node.parent < 0:
            raise UserError("there is no move to take back")
        self.at, self.resigned = node.parent, -1
        mover = int(self.record.nodes[self.at].states.to_play[0])
        if seats[mover]["who"] == "net" and seats[1 - mover]["who"] == "human" and (
                self.record.nodes[self.at].parent >= 0):
            self.at = self.record.nodes[self.at].parent
        self.running = False

    def resign(self) -> None:
        if self.over:
            raise UserError("the game is over already")
        self.resigned, self.running = int(self.states.to_play[0]), False

    def sit(self, seats: list[Seat], run: bool) -> None:
        self._sit(seats)
        self.running = run

    def _sit(self, seats: list[Seat]) -> None:
        for seat in seats:
            if seat["who"] == "net":
                minds.mind(seat["net"], self.game.name, 1)  # raises for a net of another game
        self.seats = seats

    def analyse(self, on: bool, net: str, sims: int, beside: str) -> None:
        for words in filter(None, (net, beside)):
            minds.mind(words, self.game.name, 1)
        self.analysis = {"on": on, "net": net, "sims": sims, "beside": beside}
        self.reports.clear()

    def setup(self, stones: list[int], to_play: int) -> None:
        try:
            prefix = moves_to(self.game, np.array(stones, np.int8), to_play)
        except GameError as error:
            raise UserError(f"this position cannot be set up: {error}") from None
        self._begin(variations.VariationTree(self.game, prefix))
        if self.over:
            self._begin(variations.VariationTree(self.game))
            raise UserError("this position cannot be set up: the game would be over")

    def load(self, text: str) -> list[str]:
        """What there is to say about a game that has been loaded."""
        found, said = variations.read_text(text, self.game)
        self._begin(found)
        self._fit()
        self.at = found.end(0)
        return said

    def _fit(self) -> None:
        """Nets that play the game that is on the table now."""
        words = [choice.words for choice in self.nets]
        if self.analysis["net"] not in words:
            self.analysis["net"] = words[0]
        if self.analysis["beside"] not in words:
            self.analysis["beside"] = ""
        self.seats = [seat if seat["who"] == "human" or seat["net"] in words
                      else self.engine(words[0]) for seat in self.seats]

    # ------------------------------------------------------------------------ what is shown

    @property
    def states(self) -> Any:
        return self.record.nodes[self.at].states

    @property
    def over(self) -> bool:
        return self.resigned >= 0 or bool(self.game.result(self.states)[0][0])

    def _result(self) -> str:
        done, value = (field[0] for field in self.game.result(self.states))
        if self.resigned >= 0:
            winner, loser = self.board.sides[1 - self.resigned], self.board.sides[self.resigned]
            return f"{winner} wins: {loser} has resigned"
        if not done:
            return ""
        if value == 0:
            return "a draw"
        lead = ""
        if self.game.has_ownership:
            lead = f" by {abs(float(self.game.score(self.states)[0])):g}"
        return f"{self.board.sides[0 if value > 0 else 1]} wins{lead}"

    def position(self) -> dict[str, Any]:
        """The board and what can be done."""
        states, over = self.states, self.over
        if self.at not in self._targets:
            self._targets[self.at] = [
                [action, self.game.action_to_text(states, 0, action), target.to, target.start]
                for action, target in self.board.targets(states).items()]
        node = self.record.nodes[self.at]
        last = []
        if node.parent >= 0:
            before = {row[0]: row for row in self._targets.get(node.parent, ())}
            last = [cell for cell in before.get(node.action, [0, "", -1, -1])[2:] if cell >= 0]
            if not last and node.action < len(self.board.layout.places) and (
                    self.board.layout.shape in ("go", "square")):
                last = [node.action] if self.game.board_style != "text" else []
        text = self.game.render(states, 0) if self.board.layout.shape == "text" else ""
        return {
            "pieces": self.board.pieces(states), "text": text,
            "to_play": int(states.to_play[0]), "over": over, "result": self._result(),
            "moves": [] if over else self._targets[self.at], "last": last,
            "score": float(self.game.score(states)[0]) if self.game.has_ownership else None}

    def state(self) -> dict[str, Any]:
        game, layout = self.game, self.board.layout
        return {
            "is": "state", "table": self.name, "begun": self.begun, "node": self.at,
            "game": {"name": game.name, "rules": game.rules, "sides": list(self.board.sides),
                     "pass": game.pass_action, "first": self._first, "sgf": game.has_sgf,
                     "ownership": game.has_ownership, "shape": layout.shape,
                     "places": layout.places, "labels": layout.labels,
                     "setup": game.board_style != "text"},
            "nets": [[choice.words, choice.label] for choice in self.nets],
            "nodes": [[n.number, n.parent, n.text, n.value, n.score, n.visits, n.side]
                      for n in self.record.nodes],
            "position": self.position(), "seats": self.seats, "run": self.running,
            "thinking": self.thinking, "analysis": self.analysis}

    def file(self) -> dict[str, Any]:
        labels = {choice.words: choice.label for choice in self.nets}
        names = [labels.get(seat.get("net", ""), "human") for seat in self.seats]
        name, text = variations.record_text(self.record, (names[0], names[1]))
        return {"is": "file", "name": name, "text": text}

    def tell(self, message: dict[str, Any]) -> None:
        for send in list(self.viewers.values()):
            send(message)

    # ------------------------------------------------------------------------ who thinks

    def halt(self) -> None:
        """Stop the searches under way; they end within a wave."""
        self._stop.set()
        self.thinking = -1
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def stir(self) -> None:
        """Let those think who should now; nobody where nobody looks on."""
        self.halt()
        if self.viewers:
            self._stop = threading.Event()
            self._task = asyncio.get_running_loop().create_task(self._go_on(self._stop))

    async def _go_on(self, stop: threading.Event) -> None:
        try:
            while self.running and not self.over and self._mover()["who"] == "net":
                await self._engine_moves(stop)
            if self.analysis["on"]:
                nets = [self.analysis["net"], self.analysis["beside"]]
                await asyncio.gather(*(self._analyse(side, net, stop)
                                       for side, net in enumerate(nets) if net))
                await self._fill_curve(stop)
        except Exception as error:  # also a fault of ours must not leave the page waiting
            if not isinstance(error, (UserError, GameError, FloatingPointError)):
                traceback.print_exc()
            self.running, self.thinking = False, -1
            self.tell(self.state())
            self.tell({"is": "error", "of": "think", "text": clip(str(error) or repr(error))})

    def _mover(self) -> Seat:
        return self.seats[int(self.states.to_play[0])]

    async def _engine_moves(self, stop: threading.Event) -> None:
        seat, side = self._mover(), int(self.states.to_play[0])
        self.thinking = side
        self.tell(self.state())
        found = await self._think(f"seat {side}", seat["net"], Limits(sims=seat["sims"]),
                                  seat["sims"], 0, stop)
        if found is None or found.best is None:
            return
        action = minds.move_of_strength(found, seat["strength"], self.game.pass_action, self._rng)
        self.at, self.thinking = self.record.add(self.at, action), -1
        self.tell(self.state())
        if self.seats[1 - side]["who"] == "net":
            await asyncio.sleep(PAUSE)

    async def _analyse(self, side: int, net: str, stop: threading.Event) -> None:
        sims = self.analysis["sims"] or ENDLESS
        await self._think("analysis", net, Limits(visits=sims + 1), sims, side, stop)

    async def _fill_curve(self, stop: threading.Event) -> None:
        """A short look at every position of the line that has no value yet."""
        net, last = self.analysis["net"], self.record.end(self.at)
        for node in map(self.record.nodes.__getitem__, self.record.path(last)):
            if node.visits or stop.is_set():
                continue
            actions, limits = self.record.actions(node.number), Limits(sims=LOOK)
            found = await asyncio.to_thread(self._head("curve", net, LOOK).think, actions, limits,
                                            stop)
            if found is not None and not stop.is_set():
                sign = 1 - 2 * found.to_play
                node.value, node.visits = round(found.value * sign, 4), LOOK
                node.score = None if found.score is None else round(found.score * sign, 2)
                self.tell({"is": "value", "node": node.number, "value": node.value,
                           "score": node.score, "visits": node.visits})

    def _head(self, use: str, net: str, sims: int) -> minds.Head:
        """Of this table, for one use. Loads a net where it is new, so that it may take a moment."""
        if (use, net) not in self._heads:
            self._heads[use, net] = minds.Head(net, self.game, sims)
        return self._heads[use, net]

    async def _think(self, use: str, net: str, limits: Limits, sims: int, side: int,
                     stop: threading.Event) -> Analysis | None:
        """What a net finds about the position that is shown; reports come as it goes on."""
        loop, node, actions = asyncio.get_running_loop(), self.at, self.record.actions(self.at)
        game, states = self.game, self.states

        def work() -> Analysis | None:
            head = self._head(use, net, sims)
            has_own = head.thinker.mind.heads(states) is not None
            if game.has_ownership and not has_own and node not in self._owned:
                self._owned[node] = minds.ownership_of(game, states)
            owned = None if has_own else self._owned.get(node)
            return head.think(actions, limits, stop, lambda found: loop.call_soon_threadsafe(
                self._report, side, node, found, owned, False, stop))

        found = await asyncio.to_thread(work)
        if stop.is_set() or found is None:
            return None
        self._report(side, node, found, self._owned.get(node), True, stop)
        return found

    def _report(self, side: int, node: int, found: Analysis, owned: list[float] | None,
                ended: bool, stop: threading.Event) -> None:
        if stop.is_set() or node != self.at:
            return
        message = minds.told(found, side, node, ended, owned)
        self.reports[side] = message
        kept = self.record.nodes[node]
        if side == 0 and message["visits"] >= kept.visits:
            kept.value, kept.score = message["value"], message["score"]
            kept.visits = message["visits"]
        self.tell(message)

    def tree(self, path: list[int], side: int) -> dict[str, Any]:
        head = self._heads.get(("analysis", self.analysis["beside" if side else "net"]))
        if head is None:
            raise UserError("nothing has been searched here yet: turn the analysis on")
        return {"is": "tree", "side": side, "path": path,
                **minds.explored(head, path, self.board.pieces)}
