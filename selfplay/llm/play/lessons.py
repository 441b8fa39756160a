"""Expert games written out: positions as questions, with the expert's moves as demonstrations.

A tenth of the positions, told by their text alone, is held out. A held-out answer is right where an
exact solver says that the move keeps the position's value; of games without a solver, where it is
the expert's. They are kept in the run's folder, in positions.jsonl, beside the games.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.arena.expert import generate, read_expert, unfinished
from selfplay.arena.players import parse_player
from selfplay.arena.sgf import ExpertGame
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic, write_json
from selfplay.common.history import read_figures, read_history
from selfplay.games import make
from selfplay.games.base import Game, take
from selfplay.games.solve import KEEPS_VALUE, SOLVERS, plies, solver
from selfplay.llm.config import TextConfig
from selfplay.llm.play.words import FORMAT, Notation, said_move
from selfplay.llm.rewards import Example
from selfplay.llm.stage_config import PREFIX, SELF, PlayConfig
from selfplay.llm.tasks.task import HELD_OUT, Task, held_out_share
from selfplay.search.line import expected_line
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search, SearchConfig

EXPERT, POSITIONS = "expert.jsonl.gz", "positions.jsonl"
TIME = "expert-time.json"  #: seconds that the expert's games have had, where more were wanted
AT_ONCE = 256  #: positions searched or solved at once
FEWEST = 64  #: games of the expert that are begun however short the time is

Row = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """The positions of a run: read from its folder, or written there when they are first wanted."""

    game: Game
    config: PlayConfig
    folder: Path
    seed: int

    @cached_property
    def rows(self) -> list[Row]:
        """Each with prompt, answer, demonstration, right and legal (moves), held and graded."""
        if not (self.folder / POSITIONS).exists():
            self.make()
        return read_history(self.folder / POSITIONS)

    def make(self, seconds: float = math.inf) -> None:
        """Write the positions, of games of which none begins after so many seconds (but FEWEST); at
        a later call with more seconds, those of the games that were still wanted as well."""
        path, files = self.folder / POSITIONS, self.config.files
        had = read_figures(self.folder / TIME, {"seconds": 0.0})["seconds"]
        if path.exists() and (files or seconds <= had or not unfinished(self.folder / EXPERT)):
            return
        games = (read_expert(map(Path, files), self.game)[0] if files else
                 expert_games(self.game, self.config, self.folder, self.seed, seconds - had))
        if not files and unfinished(self.folder / EXPERT):
            write_json(self.folder / TIME, {"seconds": seconds})
        rows = list(written_out(self.game, self.config, games, self.seed))
        say(f"{len(rows):,} positions of {len(games):,} games written out: {path}")
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def part(self, held: bool) -> Part:
        return Part(self, held)


@dataclass(frozen=True)
class Part:
    """The positions that are learnt, or those held out; a ``tasks.Source``."""

    written: Written
    held: bool

    @cached_property
    def examples(self) -> list[Example]:
        return [Example(row["prompt"], row["answer"], "move", {
                    "right": row["right"], "legal": row["legal"]}, row["demonstration"], FORMAT)
                for row in self.written.rows
                if row["held"] == self.held and (row["graded"] or not self.held)]

    @property
    def count(self) -> int:
        return len(self.examples)

    def item(self, index: int) -> Example:
        return self.examples[index]


@dataclass(frozen=True)
class GameTask(Task):
    """Positions of a game to learn moves in."""

    game: Game = field(default_factory=Game)
    play: PlayConfig = field(default_factory=PlayConfig)

    def texts(self, count: int = 200) -> list[str]:
        return [*super().texts(count), *Notation(self.game).words()]

    def make(self, seconds: float) -> None:
        """See ``Written.make``."""
        assert isinstance(self.source, Part)
        self.source.written.make(seconds)

    def must_be_playable(self) -> None:
        """Raises UserError for a player of the settings that is none, or a human, for files without
        a game, and for a game without a move."""
        if not self.game.legal(self.game.new(1)).any():
            raise UserError(f"{self.game.name}: nobody can move; name a larger board")
        if self.play.files:
            read_expert(map(Path, self.play.files), self.game)
        opponents = [name for name in self.play.opponents if name != SELF]
        for name in dict.fromkeys([self.play.expert, self.play.rival, *opponents]):
            if name == "human":
                raise UserError("human: nobody types the moves of thousands of games; name another "
                                "player, such as mcts:100")
            parse_player(name, self.game).close()


def game_task(config: TextConfig, folder: Path) -> GameTask:
    """The task of a run whose task is ``game:NAME``. Raises UserError for a game that is not
    there."""
    game = make(config.task.removeprefix(PREFIX))
    written = Written(game, config.play, folder, config.seed)
    held: Any = written.part(True)  # as much of a ``Lines`` as is asked of it
    return GameTask(config.task, written.part(False), config.seed, test=held, judge=said_legally,
                    game=game, play=config.play)


def said_legally(
    texts: list[str], examples: list[Example], parts: list[dict[str, float]]
) -> list[dict[str, float]]:
    """legal: 1 where the completion names a legal move, before its end."""
    return [{"legal": float(said_move(text) in example.metadata["legal"] and part["ended"] >= 1)}
            for text, example, part in zip(texts, examples, parts, strict=True)]


# ----------------------------------------------------------------------------------- the games


def expert_games(
    game: Game, config: PlayConfig, folder: Path, seed: int, seconds: float
) -> list[ExpertGame]:
    """The expert's games, which are played now; see ``Written.make``."""
    path, played, end = folder / EXPERT, [0], time.monotonic() + seconds
    say(f"{config.expert} plays {config.games:,} games of {game.name} against itself: {path}")
    made = generate(game, config.expert, config.games, path, seed=seed, opening=config.opening,
                    stop=lambda: played[0] >= FEWEST and time.monotonic() > end,
                    progress=lambda done: played.__setitem__(0, done))
    if made.wanted:
        say(f"{config.games - made.wanted:,} of {config.games:,} games made in the time that they "
            "have; the same command with more --minutes plays the others")
    return read_expert([path], game)[0]


def written_out(
    game: Game, config: PlayConfig, games: Sequence[ExpertGame], seed: int
) -> Iterator[Row]:
    """A row for every move of the games behind their openings; with a thought, one for every
    different position, whose move is that of the search."""
    notation, seen = Notation(game), set[str]()
    for states, moves in _plies(game, turned_games(game, games) if config.symmetries else games):
        prompts = notation.boards(states)
        if config.thought == "line":
            first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
            fresh = sorted(i for prompt, i in first.items() if prompt not in seen)
            states, prompts = take(states, fresh), [prompts[i] for i in fresh]
            said = list(_search_lines(notation, states, config, seed)) if fresh else []
        else:
            said = [game.action_to_text(states, i, move) for i, move in enumerate(moves)]
        held = [held_out_share(prompt) < HELD_OUT for prompt in prompts]
        right = _right_moves(notation, states, held)
        for i, (prompt, text) in enumerate(zip(prompts, said, strict=True)):
            if held[i] and prompt in seen:
                continue  # is measured once
            seen.add(prompt)
            move = said_move(text)
            yield {"prompt": prompt, "answer": move, "demonstration": text,
                   "right": [move] if right[i] is None else right[i],
                   "graded": right[i] is not None or game.name not in SOLVERS,
                   "legal": notation.legal(states, i), "held": held[i]}


def turned_games(game: Game, games: Sequence[ExpertGame]) -> list[ExpertGame]:
    """The games, and each of them as it is with the board turned or mirrored."""
    tables = [np.argsort(table) for table in game.symmetries().actions]  # old action -> new
    return [replace(one, actions=tuple(table[list(one.actions)].tolist()))
            for table in tables for one in games]


def _plies(game: Game, games: Sequence[ExpertGame]) -> Iterator[tuple[Any, list[int]]]:
    """(positions, the moves made in them) of one ply of all games after another."""
    states = game.new(len(games))
    for ply in range(max(len(one.actions) for one in games)):
        rows = [i for i, one in enumerate(games) if one.opening <= ply < len(one.actions)]
        if rows:
            yield take(states, rows), [games[i].actions[ply] for i in rows]
        moves = [one.actions[ply] if ply < len(one.actions) else -1 for one in games]
        game.step(states, np.array(moves, np.int64))


def _right_moves(notation: Notation, states: Any, held: Sequence[bool]) -> list[list[str] | None]:
    """The moves of each position that keep its value, by an exact solver; None where there is none
    or it would take long: only what is held out is solved, unless the game is a small one, and of
    large games only what is worth solving."""
    game, found = notation.game, list[list[str] | None]([None] * len(held))
    if game.name not in SOLVERS:
        return found
    small = game.name == "tictactoe"
    low, high = (0, game.max_moves) if small else plies(game)
    rows = [i for i, apart in enumerate(held) if (apart or small) and low <= states.ply[i] <= high]
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start:start + AT_ONCE]
        for i, grades in zip(some, _solver(game).grades(take(states, some)), strict=True):
            found[i] = [game.action_to_text(states, i, int(action))
                        for action in np.flatnonzero(grades >= KEEPS_VALUE)]
    return found


_SOLVERS: dict[str, Any] = {}


def _solver(game: Game) -> Any:
    """One is kept: it may have played out the whole game."""
    if game.name not in _SOLVERS:
        _SOLVERS[game.name] = solver(game)
    return _SOLVERS[game.name]


def _search_lines(notation: Notation, states: Any, config: PlayConfig, seed: int) -> Iterator[str]:
    """For each position what a search expects, and its move."""
    game, count = notation.game, len(states.ply)
    search = Search(game, SearchConfig(rule="uct"), min(count, AT_ONCE), config.sims, seed=seed)
    evaluate = rollout_evaluate(game, seed)
    for start in range(0, count, AT_ONCE):
        now = take(states, np.arange(start, min(start + AT_ONCE, count)))
        rows = np.arange(len(now.ply))
        search.seed(rows, rows + start)
        search.begin(rows, now, config.sims, False)
        left = len(rows)
        while left:
            left -= len(search.wave(evaluate))
        found = search.result(rows)
        for row in rows.tolist():
            line = _first(search, row, int(found.action[row]), config.plies)
            yield notation.line(now, row, line, float(found.value[row]))
        search.forget(rows)


def _first(search: Search, row: int, action: int, most: int) -> list[int]:
    """``action``, and what is expected behind it."""
    tree = search.tree
    first = int(tree.first[row, 0])
    edges = range(first, first + int(tree.degree[row, 0]))
    child = next((int(tree.child[row, e]) for e in edges if tree.move[row, e] == action), -1)
    behind = expected_line(tree, row, child, most - 1)[0] if child > 0 else []
    return [action, *behind]
