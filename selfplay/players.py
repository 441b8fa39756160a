"""Everybody who can play a match, behind one protocol.

A spec says who: ``random``, ``mcts:1000``, ``net:PATH``, ``net:PATH@64``, ``policy:PATH``,
``alphago:RUN@64``, ``gtp:COMMAND``, ``openspiel-mcts:1000``, ``human``. A player holds many games
at once, one a slot; ``play`` tells it of every start and every move, and asks it for moves in
batches. torch and pyspiel are imported only where a player needs them.

``mcts:1000x8`` and ``net:PATH@64x8`` have 8 leaves of a tree under way at once (``mcts``), which
is up to six times as fast where a game is played alone, as by GTP or against a human; a match of
many games fills its batches without. It is a different search, so that it is for the spec to say,
not for the number of games in flight.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from selfplay import alphago, gtp
from selfplay.budget import LEAVES, Budget, budget
from selfplay.engines import RESIGN, GtpPlayer, OpenSpielPlayer, pyspiel_name
from selfplay.errors import UserError
from selfplay.games.base import Game, GameError, take
from selfplay.games.go import Go
from selfplay.records import read_settings

if TYPE_CHECKING:
    from selfplay.search import SearchConfig

TREE_BYTES = 2**30  #: of memory for the trees of one player; with more games they take turns

__all__ = ["FORMS", "PLAYERS", "RESIGN", "Player", "Setup", "missing_engine", "parse_player",
           "pyspiel_name"]

Slots = NDArray[np.int64]
Actions = NDArray[np.int64]
Evaluate = Callable[[Any, NDArray[np.bool_]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class Player(Protocol):
    """Plays any number of games side by side; a slot is a game's seat number."""

    name: str

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        """New games in ``slots`` int64 [n]; all randomness in them comes from ``seeds`` [n]."""

    def moved(self, slots: Slots, actions: Actions) -> None:
        """Told of every move made in its slots: openings', opponents' and its own."""

    def act(self, states: Any, slots: Slots) -> Actions:
        """A move (or RESIGN) int64 [n] for each of the n rows of ``states``."""

    def close(self) -> None:
        """End what was started."""


class NetEvaluator(Protocol):
    """``inference.Evaluator``, or anything like it."""

    game: Game

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


class _Silent:
    """A player that needs to be told nothing."""

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None: ...

    def moved(self, slots: Slots, actions: Actions) -> None: ...

    def close(self) -> None: ...


class RandomPlayer(_Silent):
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


class RawPlayer(_Silent):
    """A net without search: its most probable legal move."""

    def __init__(self, name: str, evaluator: NetEvaluator) -> None:
        self.name, self.evaluator = name, evaluator

    def act(self, states: Any, slots: Slots) -> Actions:
        legal = self.evaluator.game.legal(states)
        logits, _ = self.evaluator(states, legal)
        return np.where(legal, logits, -np.inf).argmax(1).astype(np.int64)


class SamplingPlayer(_Silent):
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


class SearchPlayer(_Silent):
    """Monte Carlo tree search, a fresh tree for each move, many trees' leaves evaluated together.

    A move depends on the game's seed, the position and the evaluations, not on the other games.
    """

    def __init__(self, name: str, game: Game, config: SearchConfig, evaluate: Evaluate,
                 sims: int, slots: int) -> None:
        from selfplay.search import Search
        from selfplay.tree import node_bytes

        self.name, self.evaluate, self.sims = name, evaluate, sims
        self._trees = max(1, min(slots, TREE_BYTES // (node_bytes(game.num_actions) * (sims + 1))))
        self._search = Search(game, config, self._trees, sims, seed=0)
        self._seeds = np.zeros(slots, np.int64)

    def start(self, slots: Slots, seeds: NDArray[np.int64]) -> None:
        self._seeds[slots] = seeds

    def act(self, states: Any, slots: Slots) -> Actions:
        parts = [np.arange(start, min(start + self._trees, len(slots)))
                 for start in range(0, len(slots), self._trees)]
        return np.concatenate([self._think(take(states, part), slots[part]) for part in parts])

    def _think(self, states: Any, slots: Slots) -> Actions:
        rows, left = np.arange(len(slots)), len(slots)
        self._search.seed(rows, self._seeds[slots] * 2**20 + states.ply)
        self._search.begin(rows, states, self.sims, False)
        while left:
            left -= len(self._search.wave(self.evaluate))
        return self._search.result(rows).action


class HumanPlayer(_Silent):
    """Somebody at the terminal."""

    def __init__(self, name: str, game: Game) -> None:
        self.name, self.game = name, game

    def act(self, states: Any, slots: Slots) -> Actions:
        return np.array([self._ask(take(states, [row])) for row in range(len(slots))], np.int64)

    def _ask(self, states: Any) -> int:
        legal = self.game.legal(states)[0]
        example = self.game.action_to_text(states, 0, int(np.flatnonzero(legal)[0]))
        print(self.game.render(states, 0))
        while True:
            try:
                text = input(f"your move (such as {example}, or resign): ").strip()
            except EOFError:
                raise UserError("the input ended in the middle of a game; it is not kept") from None
            if text.lower() == "resign":
                return RESIGN
            try:
                action = self.game.text_to_action(states, 0, text)
            except GameError as error:
                print(error)
                continue
            if legal[action]:
                return action
            print(f"{text} is illegal here")


def _count(text: str, setup: Setup) -> Budget:
    found = budget(text)
    if found is None:
        name = setup.spec.split(":")[0]
        raise UserError(f"player {setup.spec!r}: a number of simulations from 1 is needed, e.g. "
                        f"{name}:1000, or {name}:1000x8 with 1 to {LEAVES} leaves at once")
    return found


def _nothing(text: str, setup: Setup) -> None:
    if text:
        raise UserError(f"player {setup.spec!r}: nothing goes after the colon; write "
                        f"{setup.spec.split(':')[0]}")


def _random(text: str, setup: Setup) -> Player:
    _nothing(text, setup)
    return RandomPlayer(setup.spec, setup.game)


def _human(text: str, setup: Setup) -> Player:
    _nothing(text, setup)
    return HumanPlayer(setup.spec, setup.game)


def _mcts(text: str, setup: Setup) -> Player:
    sims, leaves = _count(text, setup)
    from selfplay.search import SearchConfig, rollout_evaluate

    return SearchPlayer(setup.spec, setup.game, SearchConfig(rule="uct", leaves=leaves),
                        rollout_evaluate(setup.game, setup.seed), sims, setup.slots)


def _gtp(text: str, setup: Setup) -> Player:
    if not isinstance(setup.game, Go):
        raise UserError(f"player {setup.spec!r}: GTP engines play Go, not {setup.game.name}")
    gtp.find_executable(text)  # complain now rather than at the first game
    return GtpPlayer(setup.spec, text, setup.game)


def _openspiel_mcts(text: str, setup: Setup) -> Player:
    (sims, leaves), name = _count(text, setup), pyspiel_name(setup.game)
    if leaves > 1:
        raise UserError(f"player {setup.spec!r}: OpenSpiel's bot takes one leaf at a time; write "
                        f"openspiel-mcts:{sims}")
    if name is None:
        raise UserError(f"player {setup.spec!r}: OpenSpiel has no game like {setup.game.name}; "
                        "take mcts:N")
    return OpenSpielPlayer(setup.spec, setup.game, name, sims)


def _net(text: str, setup: Setup) -> Player:
    from selfplay.checkpoint import load_net
    from selfplay.inference import spread
    from selfplay.search import SearchConfig

    folder, thought = _checkpoint(text, setup.spec)
    net, _ = load_net(folder, setup.game.name, setup.device)
    evaluate, name = spread(net, setup.game, setup.device), full_name(setup.spec)
    if thought is None:
        return RawPlayer(name, evaluate)
    config = SearchConfig(rule="puct", leaves=thought.leaves)
    return SearchPlayer(name, setup.game, config, evaluate, thought.sims, setup.slots)


def _policy(text: str, setup: Setup) -> Player:
    from selfplay.checkpoint import load_net
    from selfplay.inference import spread

    folder, thought = _checkpoint(text, setup.spec)
    if thought is not None:
        raise UserError(f"player {setup.spec!r}: draws from the raw policy, without search; write "
                        f"policy:{net_parts(text)[0]}, or net:{text}")
    net, _ = load_net(folder, setup.game.name, setup.device)
    return SamplingPlayer(full_name(setup.spec), spread(net, setup.game, setup.device),
                          setup.slots)


def _alphago(text: str, setup: Setup) -> Player:
    from selfplay.inference import spread
    from selfplay.search import SearchConfig, rollout_evaluate

    words = alphago.parse(text)
    prior, value = alphago.load(words, setup.game.name, setup.device)
    evaluate = alphago.Mixed(
        spread(prior, setup.game, setup.device), spread(value, setup.game, setup.device),
        rollout_evaluate(setup.game, setup.seed), words.weight)
    return SearchPlayer(f"alphago:{words}", setup.game,
                        SearchConfig(rule="puct", leaves=words.budget.leaves), evaluate,
                        words.budget.sims, setup.slots)


def full_name(spec: str) -> str:
    """``spec`` with the checkpoint that it means now in place of a run or a stage.

    Raises UserError for a folder that is not there.
    """
    prefix, _, text = spec.partition(":")
    if prefix == "alphago":
        return f"alphago:{alphago.parse(text.strip())}"
    if prefix not in ("net", "policy"):
        return spec
    folder, thought = _checkpoint(text.strip(), spec)
    return f"{prefix}:{folder}@{thought}" if thought else f"{prefix}:{folder}"


def _checkpoint(text: str, spec: str) -> tuple[Path, Budget | None]:
    """(checkpoint, budget) of PATH or PATH@SIMULATIONS: a run's newest RL checkpoint, else
    its SFT net; a stage's newest; or a checkpoint itself."""
    path, thought = net_parts(text)
    number = text.rpartition("@")[2]
    if not path.is_dir() and thought is None and re.fullmatch(r"[0-9]+x?[0-9]*", number):
        raise UserError(f"player {spec!r}: @{number} is no budget; write simulations from 1, as "
                        f"@64, or @64x8 with 1 to {LEAVES} leaves at once")
    if not path.is_dir():
        raise UserError(f"player {spec!r}: {path} is no folder of a checkpoint or a run")
    from selfplay.checkpoint import newest

    found = newest(path / "rl") or _best_sft(path / "sft") or newest(path)
    return found or path, thought


def net_parts(text: str) -> tuple[Path, Budget | None]:
    """(folder, budget) of what follows ``net:``; no budget is the raw policy."""
    path, _, number = text.rpartition("@")
    thought = budget(number)
    if path and thought is not None:
        return Path(path), thought
    return Path(path if path and number == "0" else text), None


def _best_sft(folder: Path) -> Path | None:
    """The SFT net of the lowest held-out loss, as the stage has noted it down."""
    from selfplay.checkpoint import lowest_loss

    note = folder / "best.json"
    if not note.exists():
        return lowest_loss(folder)
    return folder / str(read_settings(note).get("checkpoint"))


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
         "alphago:RUN@64, gtp:COMMAND, openspiel-mcts:1000, human")


def parse_player(
    spec: str, game: Game, *, seed: int = 0, device: str = "cpu", slots: int = 1
) -> Player:
    """The player of a spec (see the module), for games in ``slots`` slots.

    seed: of whatever a player draws outside the games' own seeds. Raises UserError.
    """
    prefix, _, text = spec.strip().partition(":")
    if prefix not in PLAYERS:
        near = difflib.get_close_matches(prefix, PLAYERS, n=1)
        hint = f"did you mean {near[0]}? Forms: " if near else "forms: "
        raise UserError(f"unknown player {spec!r}: {hint}{FORMS}")
    return PLAYERS[prefix](text.strip(), Setup(spec.strip(), game, seed, device, slots))


def missing_engine(spec: str) -> str | None:
    """Why a ``gtp:`` player cannot be started here, or None if it can."""
    if not spec.startswith("gtp:"):
        return None
    try:
        gtp.find_executable(spec.removeprefix("gtp:"))
    except UserError as error:
        return str(error)
    return None
