"""All kinds of players, behind one protocol.

A spec says who: ``random``, ``mcts:1000``, ``net:PATH``, ``net:PATH@64``, ``policy:PATH``,
``alphago:RUN@64``, ``llm:RUN@8``, ``gtp:COMMAND``, ``openspiel-mcts:1000``, ``human``,
``path.py:NAME``. A player holds many games at once, one a slot; ``play`` tells it of every start
and every move, and asks it for moves in batches. torch and pyspiel are imported only where a player
needs them.

``mcts:1000x8`` and ``net:PATH@64x8`` have 8 leaves of a tree under way at once (``mcts``), which
is up to six times as fast where a game is played alone, as by GTP or against a human; a match of
many games fills its batches without. It is a different search, so that it is for the spec to say,
not for the number of games in flight.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from selfplay.arena import gtp
from selfplay.arena.alphago import Evaluate, Mixed, load_alphago
from selfplay.arena.contest.clock import GameClock, to_come
from selfplay.arena.engines import RESIGN, GtpPlayer, Named, OpenSpielPlayer, pyspiel_name
from selfplay.arena.human import HumanPlayer
from selfplay.arena.spec import (
    ABOVE,
    LEAVES,
    Budget,
    budget,
    checkpoint_of,
    full_name,
    net_parts,
    parse_alphago,
)
from selfplay.common.errors import UserError
from selfplay.common.words import nearest
from selfplay.games import own
from selfplay.games.base import Game, side, take
from selfplay.games.go import Go
from selfplay.games.rules import Rules

if TYPE_CHECKING:
    from selfplay.search.search import SearchConfig


TREE_BYTES = 2**30  #: of memory for the trees of one player; with more games they take turns

__all__ = ["FORMS", "PLAYERS", "RESIGN", "Player", "Setup", "missing_engine", "parse_player",
           "pyspiel_name"]

Slots = NDArray[np.int64]
Actions = NDArray[np.int64]


class Player(Protocol):
    """Plays any number of games side by side; a slot is a game's seat number."""

    name: str

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        """New games in ``slots`` int64 [n]; all randomness in them comes from ``seeds`` [n]."""

    def moved(self, slots: Slots, actions: Actions) -> None:
        """Called for every move in its slots: of the opening, the opponent's and its own."""

    def timed(self, states: Any, slots: Slots, clock: GameClock) -> None:
        """Called before ``act`` in a game with clocks, the only one then."""

    def act(self, states: Any, slots: Slots) -> Actions:
        """A move (or RESIGN) int64 [n] for each of the n rows of ``states``."""

    def close(self) -> None:
        """Stop the processes that were started."""


class NetEvaluator(Protocol):
    """``inference.evaluator.Evaluator``, or anything like it."""

    game: Rules

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class Setup(NamedTuple):
    """What a constructor of PLAYERS gets beside the text after the colon."""

    spec: str
    game: Game
    seed: int
    device: str
    slots: int
    nets: dict[Path, Any] | None = None  #: evaluators of checkpoints, kept for further players


HINT = 1000  #: rollouts behind a hint to a human


class SlotPlayer(Named):
    """A player that needs to be told nothing; the base of players of your own, which write
    ``act``. A player in a file is made by ``NAME(game, seed=..., device=..., slots=...)``, as far
    as it has these parameters.

    act(states, slots int64 [n]) -> int64 [n]: a legal move for each of the n rows of ``states``.

    >>> import selfplay as sp
    >>> class Lowest(sp.SlotPlayer):
    ...     def act(self, states, slots):
    ...         return sp.make("tictactoe").legal(states).argmax(1)
    >>> sp.match("tictactoe", Lowest(), Lowest(), games=2).games
    2
    """

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None: ...

    def moved(self, slots: Slots, actions: Actions) -> None: ...

    def timed(self, states: Any, slots: Slots, clock: GameClock) -> None: ...

    def act(self, states: Any, slots: Slots) -> Actions:
        raise UserError(f"player {type(self).__name__}: has no method act(states, slots)")

    def close(self) -> None: ...


class RandomPlayer(SlotPlayer):
    """Uniform over the legal moves."""

    def __init__(self, name: str, game: Game) -> None:
        self.name, self.game = name, game
        self._rngs: dict[int, np.random.Generator] = {}

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._rngs[slot] = np.random.default_rng(seed)

    def act(self, states: Any, slots: Slots) -> Actions:
        legal = self.game.legal(states)
        return np.array([self._rngs[slot].choice(np.flatnonzero(row))
                         for slot, row in zip(slots.tolist(), legal, strict=True)], np.int64)


#: values at which a net is taken to hold its game for lost, for won
LOST, WON = -0.9, 0.9


class RawPlayer(SlotPlayer):
    """A net without search: its most probable legal move.

    But where that is a pass with which, as the board lies, it would lose by another pass (Go: dead
    stones have not been taken), while its own value does not say so, the best move beside it. The
    same where another pass would make a draw of what its value calls won.
    """

    def __init__(self, name: str, evaluator: NetEvaluator) -> None:
        self.name, self.evaluator = name, evaluator

    def act(self, states: Any, slots: Slots) -> Actions:
        game = self.evaluator.game
        legal = game.legal(states)
        logits, value = self.evaluator(states, legal)
        actions = np.where(legal, logits, -np.inf).argmax(1).astype(np.int64)
        if game.pass_action >= 0 and game.has_ownership:
            passing = np.flatnonzero((actions == game.pass_action) & (value > LOST))
            lead = game.score(take(states, passing)) * side(take(states, passing))
            worse = (lead < 0) | ((lead == 0) & (value[passing] > WON))
            rows = passing[worse & (legal[passing].sum(1) > 1)]
            others = legal[rows]
            others[:, game.pass_action] = False
            actions[rows] = np.where(others, logits[rows], -np.inf).argmax(1)
        return actions


class SamplingPlayer(SlotPlayer):
    """A net without search that draws its moves from its policy, as AlphaGo's policy networks did
    when they were compared (Silver et al. 2016). A draw depends on the game's seed and the ply."""

    def __init__(self, name: str, evaluator: NetEvaluator, slots: int) -> None:
        self.name, self.evaluator = name, evaluator
        self._seeds = np.zeros(slots, np.int64)

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        self._seeds[slots] = seeds

    def act(self, states: Any, slots: Slots) -> Actions:
        legal = self.evaluator.game.legal(states)
        logits, _ = self.evaluator(states, legal)
        noise = np.stack([np.random.default_rng([seed, ply]).gumbel(size=legal.shape[1])
                          for seed, ply in zip(self._seeds[slots], states.ply, strict=True)])
        return np.where(legal, logits + noise, -np.inf).argmax(1).astype(np.int64)


class SearchPlayer(SlotPlayer):
    """Monte Carlo tree search, a fresh tree for each move, many trees' leaves evaluated together.

    A move depends on the game's seed, the position and the evaluations, not on the other games. On
    a clock it ends early where its share of the time is used up; ``sims`` is the most then.
    """

    def __init__(self, name: str, game: Game, config: SearchConfig, evaluate: Evaluate,
                 sims: int, slots: int) -> None:
        from selfplay.search.search import Search
        from selfplay.search.tree import node_bytes

        self.name, self.evaluate, self.sims = name, evaluate, sims
        self._trees = max(1, min(slots, TREE_BYTES // (node_bytes(game.num_actions) * (sims + 1))))
        self._search = Search(game, config, self._trees, sims, seed=0)
        self._seeds = np.zeros(slots, np.int64)
        self._seconds: float | None = None  # for the next move

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        self._seeds[slots] = seeds

    def timed(self, states: Any, slots: Slots, clock: GameClock) -> None:
        made = int(states.ply[0]) // 2
        self._seconds = clock.seconds(int(states.to_play[0]), to_come(self._search.game, made))

    def act(self, states: Any, slots: Slots) -> Actions:
        parts = [np.arange(start, min(start + self._trees, len(slots)))
                 for start in range(0, len(slots), self._trees)]
        return np.concatenate([self._think(take(states, part), slots[part]) for part in parts])

    def _think(self, states: Any, slots: Slots) -> Actions:
        rows, left, began = np.arange(len(slots)), len(slots), time.monotonic()
        self._search.seed(rows, self._seeds[slots] * 2**20 + states.ply)
        self._search.begin(rows, states, self.sims, False)
        while left:
            left -= len(self._search.wave(self.evaluate))
            if self._seconds is not None and time.monotonic() - began > self._seconds:
                break
        found = self._search.result(rows).action
        self._search.forget(rows)
        return found


def _sims_and_leaves(text: str, setup: Setup) -> Budget:
    found = budget(text)
    if found is None:
        name = setup.spec.split(":")[0]
        raise UserError(f"player {setup.spec!r}: a number of simulations from 1 is needed, e.g. "
                        f"{name}:1000, or {name}:1000x8 with 1 to {LEAVES} leaves at once")
    return found


def _no_words(text: str, setup: Setup) -> None:
    if text:
        raise UserError(f"player {setup.spec!r}: nothing goes after the colon; write "
                        f"{setup.spec.split(':')[0]}")


def _random(text: str, setup: Setup) -> Player:
    _no_words(text, setup)
    return RandomPlayer(setup.spec, setup.game)


def _human(text: str, setup: Setup) -> Player:
    _no_words(text, setup)
    return HumanPlayer(setup.spec, setup.game, lambda states: int(
        _mcts(f"{HINT}", setup._replace(spec=f"mcts:{HINT}", slots=1)).act(
            states, np.zeros(1, np.int64))[0]))


def _mcts(text: str, setup: Setup) -> Player:
    sims, leaves = _sims_and_leaves(text, setup)
    from selfplay.search.rollouts import rollout_evaluate
    from selfplay.search.search import SearchConfig

    return SearchPlayer(setup.spec, setup.game, SearchConfig(rule="uct", leaves=leaves),
                        rollout_evaluate(setup.game, setup.seed), sims, setup.slots)


def _gtp(text: str, setup: Setup) -> Player:
    if not isinstance(setup.game, Go):
        raise UserError(f"player {setup.spec!r}: GTP engines play Go, not {setup.game.name}")
    gtp.find_executable(text)  # fail now rather than in the first game
    return GtpPlayer(setup.spec, text, setup.game)


def _openspiel_mcts(text: str, setup: Setup) -> Player:
    (sims, leaves), name = _sims_and_leaves(text, setup), pyspiel_name(setup.game)
    if leaves > 1:
        raise UserError(f"player {setup.spec!r}: OpenSpiel's bot takes one leaf at a time; write "
                        f"openspiel-mcts:{sims}")
    if name is None:
        raise UserError(f"player {setup.spec!r}: OpenSpiel has no game like {setup.game.name}; "
                        "take mcts:N")
    return OpenSpielPlayer(setup.spec, setup.game, name, sims)


def _net(text: str, setup: Setup) -> Player:
    folder, thought = checkpoint_of(text, setup.spec)
    sims, leaves = thought or (0, 1)
    return player_of(full_name(setup.spec), setup.game, _evaluator(folder, setup, sims), sims,
                     leaves, setup.slots)


def _evaluator(folder: Path, setup: Setup, sims: int = 0) -> NetEvaluator:
    """Of the checkpoint ``folder``, the one that is kept if there is one. Without search, by as
    many views of the board as its card says."""
    from selfplay.inference.spread import Symmetric, spread
    from selfplay.learn.checkpoint import load_net, read_meta, symmetries_of

    nets = {} if setup.nets is None else setup.nets
    if folder not in nets:
        nets[folder] = spread(load_net(folder, setup.game, setup.device)[0], setup.game,
                              setup.device)
    views = 1 if sims else symmetries_of(read_meta(folder))
    found: NetEvaluator = nets[folder] if views == 1 else Symmetric(nets[folder], views)
    return found


def player_of(name: str, game: Game, evaluate: NetEvaluator, sims: int, leaves: int,
              slots: int) -> Player:
    """A net that plays: with ``sims`` simulations a move, or with 0 its most probable move."""
    from selfplay.search.search import SearchConfig

    if not sims:
        return RawPlayer(name, evaluate)
    return SearchPlayer(name, game, SearchConfig(rule="puct", leaves=leaves), evaluate, sims, slots)


def _player_of_file(spec: str, setup: Setup) -> Player:
    """The player of a file."""
    maker = own.object_of(spec, "a player", UserError)
    if not callable(maker):
        raise UserError(f"player {spec!r}: a class or a function that makes a player wanted")
    given = {"game": setup.game, "seed": setup.seed, "device": setup.device, "slots": setup.slots}
    takes = inspect.signature(maker).parameters
    words = own.keywords(spec.partition("(")[0], own.arguments_of(spec), maker, given, UserError)
    made = maker(**{key: value for key, value in given.items() if key in takes}, **words)
    if not isinstance(made, SlotPlayer):
        raise UserError(f"player {spec!r}: makes {type(made).__name__}, which is no subclass of "
                        "selfplay.SlotPlayer")
    made.name = own.identity(spec)
    return made


def _policy(text: str, setup: Setup) -> Player:
    folder, thought = checkpoint_of(text, setup.spec)
    if thought is not None:
        raise UserError(f"player {setup.spec!r}: draws from the raw policy, without search; write "
                        f"policy:{net_parts(text)[0]}, or net:{text}")
    return SamplingPlayer(full_name(setup.spec), _evaluator(folder, setup), setup.slots)


def _alphago(text: str, setup: Setup) -> Player:
    from selfplay.inference.spread import spread
    from selfplay.search.rollouts import rollout_evaluate
    from selfplay.search.search import SearchConfig

    words = parse_alphago(text)
    prior, value = load_alphago(words, setup.game, setup.device)
    evaluate = Mixed(
        spread(prior, setup.game, setup.device), spread(value, setup.game, setup.device),
        rollout_evaluate(setup.game, setup.seed), words.weight)
    return SearchPlayer(f"alphago:{words}", setup.game,
                        SearchConfig(rule="puct", leaves=words.budget.leaves), evaluate,
                        words.budget.sims, setup.slots)


#: prefix -> constructor, given the text after the colon
PLAYERS: dict[str, Callable[[str, Setup], Player]] = {
    "random": _random,
    "mcts": _mcts,
    "net": _net,
    "policy": _policy,
    "alphago": _alphago,
    "gtp": _gtp,
    "openspiel-mcts": _openspiel_mcts,
    "human": _human,
}

FORMS = ("random, mcts:1000 (or 1000x8), net:PATH, net:PATH@64 (or 64x8), policy:PATH, "
         "alphago:RUN@64, llm:RUN, llm:RUN@8, gtp:COMMAND, openspiel-mcts:1000, human, "
         "path.py:NAME")


def parse_player(
    spec: str, game: Game, *, seed: int = 0, device: str = "cpu", slots: int = 1,
    nets: dict[Path, Any] | None = None,
) -> Player:
    """The player of a spec (see the module), for games in ``slots`` slots.

    seed: of whatever a player draws outside the games' own seeds. nets: keeps the nets of players
    for others, of the same game and device, that play by turns. Raises UserError.
    """
    prefix, _, text = spec.strip().partition(":")
    if own.is_own(spec):
        return _player_of_file(spec.strip(), Setup(spec.strip(), game, seed, device, slots))
    setup = Setup(spec.strip(), game, seed, device, slots, nets)
    if prefix in ABOVE:
        found: Player = import_module(ABOVE[prefix]).language_player(text.strip(), setup)
        return found
    if prefix not in PLAYERS:
        near = nearest(prefix, [*PLAYERS, *ABOVE])
        hint = f"did you mean {near}{spec.strip()[len(prefix):]}? Forms: " if near else "forms: "
        raise UserError(f"unknown player {spec!r}: {hint}{FORMS}")
    return PLAYERS[prefix](text.strip(), setup)


def missing_engine(spec: str) -> str | None:
    """Why a ``gtp:`` player cannot be started here, or None if it can."""
    if not spec.startswith("gtp:"):
        return None
    try:
        gtp.find_executable(spec.removeprefix("gtp:"))
    except UserError as error:
        return str(error)
    return None
