"""One game in play and somebody who thinks about it.

The search goes on in slices, so that it can be watched and stopped; what is still true of its tree
after a move is kept. ``think`` blocks; ``start`` thinks on a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.search.search import Search
from selfplay.search.tree import Tree, node_bytes
from selfplay.serve.analysis import Analysis, analysis_of, of_end, restrict
from selfplay.serve.line import Line
from selfplay.serve.mind import Mind, Views

TREE_BYTES = 2**28  #: of memory for the tree of one game
MOST_NODES = 200_000


@dataclass(frozen=True)
class Limits:
    """When to stop thinking: at whichever comes first. With none, when told to, or when the tree
    is full.

    sims: new simulations. visits: of the root, kept ones included. seconds: of time.
    """

    sims: int | None = None
    visits: int | None = None
    seconds: float | None = None


Report = Callable[[Analysis], None]


class Thought:
    """A thought on a thread of its own."""

    def __init__(self, think: Callable[[threading.Event], Analysis]) -> None:
        self._stop, self._think = threading.Event(), think
        self._result: Analysis | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._think(self._stop)
        except BaseException as error:  # told to whoever waits
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ask it to end; it does so within a wave of the search."""
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    def wait(self, seconds: float | None = None) -> Analysis | None:
        """What was found; None if it still thinks after ``seconds``. Raises what it raised."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise self._error
        return self._result


class Thinker:
    """A game in play with a mind. Moves and thoughts may come from different threads: a move stops
    the thought under way, and waits for its end.

    >>> import selfplay as sp
    >>> from selfplay.serve.mind import mind_of
    >>> thinker = Thinker(mind_of("tictactoe@200"))
    >>> for text in ("a1", "a2", "b1", "b2"):
    ...     thinker.play(thinker.line.game.text_to_action(thinker.line.states, 0, text))
    >>> found = thinker.think(Limits(sims=200))
    >>> found.best.text, found.best.proven, found.to_play
    ('c1', 1.0, 0)
    """

    def __init__(self, mind: Mind, seed: int = 0) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._thought: Thought | None = None
        self.change(mind)
        self.line = Line(mind.game)

    def change(self, mind: Mind) -> None:
        """Let another mind think from now on; of another game only where ``clear`` follows."""
        self.halt()
        self.mind = mind
        nodes = min(MOST_NODES, TREE_BYTES // node_bytes(mind.game.num_actions))
        with self._lock:
            self._search = Search(mind.game, mind.config, 1, nodes // 2, self.seed)

    @property
    def tree(self) -> Tree:
        """What has been searched, in row 0: to be looked at, and while nothing is thought about."""
        return self._search.tree

    # --------------------------------------------------------------------------- the game

    def play(self, action: int, colour: int | None = None) -> None:
        """See ``Line.play``."""
        self.halt()
        with self._lock:
            if self.line.play(action, colour):
                self._search.advance([0], [action])
            else:
                self._search.forget([0])

    def undo(self, count: int = 1) -> None:
        """See ``Line.undo``."""
        self._anew(lambda line: line.undo(count))

    def clear(self) -> None:
        """The first position; of the mind's game."""
        self.halt()
        with self._lock:
            self._search.forget([0])
            self.line = Line(self.mind.game)

    def begin(self, actions: Sequence[int]) -> None:
        """See ``Line.begin``."""
        self._anew(lambda line: line.begin(actions))

    def setup(self, stones: ArrayLike, to_play: int) -> None:
        """See ``Line.setup``."""
        self._anew(lambda line: line.setup(stones, to_play))

    def go_to(self, actions: Sequence[int]) -> None:
        """Have made just these moves since the start; what is kept of the tree if they go on from
        where the game is. GameError at the first illegal one, those before it are made."""
        there = [move.action for move in self.line.moves]
        common = 0
        while common < min(len(there), len(actions)) and there[common] == actions[common]:
            common += 1
        if common < len(there):
            self.undo(len(there) - common)
        for action in actions[common:]:
            self.play(action)

    def turn(self, colour: int) -> None:
        """Let ``colour`` (0 or 1) be to move. GameError where that cannot be (``Line.turn``)."""
        if not self.line.over and self.line.to_play == colour:
            return
        self._anew(lambda line: line.skip(colour))

    def _anew(self, change: Callable[[Line], None]) -> None:
        self.halt()
        with self._lock:
            change(self.line)
            self._search.forget([0])

    # ------------------------------------------------------------------------ the thought

    def think(
        self, limits: Limits, report: Report | None = None, every: float = 0.5,
        only: NDArray[np.bool_] | None = None, heads: bool = True,
    ) -> Analysis:
        """Search until a limit is reached; at least the net's own evaluation is made. A thought
        under way is stopped first.

        report: called on the thinking thread after every ``every`` seconds and at the end; it may
        not move. only: bool [A], the moves to think about; the others are not in what is found.
        heads: ask the net for ownership and score too. Raises ValueError where ``only`` leaves no
        legal move.
        """
        self.halt()
        return self._think(threading.Event(), limits, report, every, only, heads)

    def start(
        self, limits: Limits, report: Report | None = None, every: float = 0.5,
        only: NDArray[np.bool_] | None = None,
    ) -> Thought:
        """``think`` on a thread of its own, until ``Thought.stop``, ``halt`` or a move."""
        self.halt()
        self._thought = Thought(
            lambda stop: self._think(stop, limits, report, every, only, True))
        return self._thought

    def halt(self) -> None:
        """Stop the thought under way and wait for its end."""
        thought = self._thought
        if thought is not None:
            thought.stop()
            thought.join()
            self._thought = None

    def _think(self, stop: threading.Event, limits: Limits, report: Report | None, every: float,
               only: NDArray[np.bool_] | None, heads: bool) -> Analysis:
        with self._lock:
            if self.line.over:
                looks = iter([of_end(self.mind.game, self.line.states)])
            else:
                looks = self._search_on(stop, limits, every if report else None, only, heads)
            for found in looks:
                if report is not None:
                    report(found)
            return found

    def _search_on(self, stop: threading.Event, limits: Limits, every: float | None,
                   only: NDArray[np.bool_] | None, heads: bool) -> Iterator[Analysis]:
        """What is known after every ``every`` seconds, and at the end."""
        states, search = self.line.states, self._search
        began, before, longest = time.monotonic(), self.mind.evaluations, 0.0
        if only is not None:
            search.forget([0])
        self._evaluate_root(states, only)
        views = Views.of([states], self.mind)[0] if heads else None

        def look() -> Analysis:
            found = analysis_of(self.mind.game, states, search)
            found = found if views is None else views.add(found)
            return replace(found, seconds=time.monotonic() - began,
                           evaluations=self.mind.evaluations - before)

        left = self._budget(limits)
        if left > 0:
            search.begin([0], states, left, False, fresh=False)
        now = told = time.monotonic()
        while left > 0 and not stop.is_set():
            if limits.seconds is not None and now + longest - began >= limits.seconds:
                break
            if every is not None and now - told >= every:
                yield look()
                now = told = time.monotonic()
            left -= left * len(search.wave(self.mind))
            then = time.monotonic()
            longest, now = max(0.9 * longest, then - now), then
        while every is not None and limits == Limits() and not stop.wait(0.05):
            pass  # the tree is full; who asked for no end is told when they stop
        result = look()
        if only is not None:
            search.forget([0])  # it knows nothing of the other moves
        yield result

    def _evaluate_root(self, states: Any, only: NDArray[np.bool_] | None) -> None:
        """Have a root, with the moves of ``only`` alone."""
        search = self._search
        if not search.tree.size[0]:
            search.begin([0], states, 1, False)
            search.wave(self.mind)
        if only is not None:
            restrict(search, 0, only)

    def _budget(self, limits: Limits) -> int:
        """Simulations to do at most."""
        room = min(self._search.capacity - int(self._search.tree.size[0]), self._search.max_sims)
        if limits.visits is not None:
            room = min(room, limits.visits - int(self._search.tree.visits[0, 0]))
        return room if limits.sims is None else min(room, limits.sims)
