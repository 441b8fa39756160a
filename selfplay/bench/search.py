"""The rows of ``bench`` for playouts and tree search.

Every row is a function of (game, net, device, pairs) that returns None where it does not apply.
The reference of the search alone, at sizes other than the usual one, is the usual one. It is given
what it meets in self-play, all but a net to wait for: games that are under way, and priors and
values that differ from leaf to leaf, so that trees get deep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from selfplay.arena.players import pyspiel_name
from selfplay.bench.timing import Rate, repeat, row
from selfplay.games import make
from selfplay.games.base import Game, put, take
from selfplay.games.go import Go
from selfplay.models import NetSpec
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search, SearchConfig

SEARCH_GAMES, SEARCH_SIMS = 256, 200  #: the usual size
MCTS_GAMES, LEAVES = 64, 8
#: (games, simulations), all but the usual one
SIZES = ((SEARCH_GAMES, 50), (SEARCH_GAMES, 800), (16, SEARCH_SIMS), (4096, SEARCH_SIMS))
LONG_GAMES = 2000  #: random games whose mean length is taken
PLIES = 60  #: random ones before a search at most
STARTS = 64  #: positions at least that searches of few games begin from, in turn
TABLE = 8191  #: rows of outputs drawn for the free net; a prime, so that every offset comes round
LOGITS, VALUES = 2.5, 0.3  #: deviation of its logits, bound of its values
GIVEN = f"games after 0 to {PLIES} random plies, random logits and values for a net"

Row = dict[str, Any]


def _spiel_playouts(game: Game) -> Rate:
    """OpenSpiel's C++ loop, from the first position."""
    import pyspiel

    other = pyspiel.load_game(pyspiel_name(game))
    root = other.new_initial_state()
    # one simulation of 200 rollouts: the only way from Python to the C++ playout loop
    rollouts = pyspiel.MCTSBot(other, pyspiel.RandomRolloutEvaluator(200, 1), 2.0, 1, 100, False,
                               1, False)

    def work() -> int:
        rollouts.mcts_search(root)
        return 200

    return lambda: repeat(work)


def _own_playouts(game: Game) -> Rate:
    states, rng = game.new(256), np.arange(1, 257, dtype=np.uint64)

    def work() -> int:
        game.rollout(states, rng)
        return 256

    return lambda: repeat(work)


def _playouts(game: Game, spec: NetSpec, device: str, pairs: int) -> Row | None:
    """Random playouts from the first position, one core each."""
    if pyspiel_name(game) is None:
        return None
    return row("playouts", "playouts/s", _own_playouts(game), "OpenSpiel C++ random rollouts",
               _spiel_playouts(game), pairs)


def _playouts_19x19(game: Game, spec: NetSpec, device: str, pairs: int) -> Row | None:
    """The same on the large board."""
    if not isinstance(game, Go) or game.size == 19 or pyspiel_name(game) is None:
        return None
    large = make("go19x19")
    return row("playouts_go19x19", "playouts/s", _own_playouts(large),
               "OpenSpiel C++ random rollouts", _spiel_playouts(large), pairs)


def _random_play(game: Game, spec: NetSpec, device: str, pairs: int) -> Row | None:
    """Moves of random games: both sides draw from all legal moves, so that their games are as
    long on average."""
    if game.name != "connect4":
        return None
    length = _mean_length(game)
    return row("random_play", "steps/s", _own_playouts(game), "OpenSpiel C++ random rollouts",
               _spiel_playouts(game), pairs, per=lambda rate: length * rate)


def _mean_length(game: Game) -> float:
    """Of random games, in moves."""
    states, draw = game.new(LONG_GAMES), np.random.default_rng(0)
    while not game.result(states)[0].all():
        mask = game.legal(states)
        game.step(states, np.where(mask.any(1), (mask * draw.random(mask.shape)).argmax(1), -1))
    return float(states.ply.mean())


def _spiel_search(game: Game) -> Rate:
    """OpenSpiel's C++ MCTSBot from the first position, one playout a simulation."""
    import pyspiel

    other = pyspiel.load_game(pyspiel_name(game))
    root = other.new_initial_state()
    bot = pyspiel.MCTSBot(other, pyspiel.RandomRolloutEvaluator(1, 1), 2.0, SEARCH_SIMS, 1000,
                          False, 1, False)

    def work() -> int:
        bot.mcts_search(root)
        return SEARCH_SIMS

    return lambda: repeat(work)


def _own_search(
    game: Game, config: SearchConfig, games: int, sims: int, evaluate: Callable[..., Any],
    states: Any,
) -> Rate:
    """Searches from ``states``, at least ``games`` rows, ``games`` at a time."""
    search = Search(game, config, games, sims, 0)
    starts = cycle([take(states, slice(i, i + games))
                    for i in range(0, len(states.ply) - games + 1, games)])

    def work() -> int:
        search.run(next(starts), sims, evaluate)
        return games * sims

    return lambda: repeat(work)


def _mcts_row(game: Game, spec: NetSpec, device: str, pairs: int, games: int, leaves: int
              ) -> Row | None:
    """Search with playouts beside OpenSpiel's."""
    if pyspiel_name(game) is None:
        return None
    config = SearchConfig(rule="uct", leaves=leaves)
    ours = _own_search(game, config, games, SEARCH_SIMS, rollout_evaluate(game, 0),
                       game.new(games))
    many = f"{games} games" if games > 1 else f"one game, {leaves} leaves at once"
    return row(f"mcts_{games}_games" if games > 1 else "mcts_one_game", "simulations/s", ours,
               f"OpenSpiel C++ MCTSBot with playouts; ours: {many}", _spiel_search(game), pairs)


def start_positions(game: Game, count: int) -> Any:
    """``count`` states after 0 to PLIES random plies, none of them over: a game that ends before
    begins again."""
    states, draw = game.new(count), np.random.default_rng(0)
    until = draw.integers(0, PLIES + 1, count)
    for ply in range(PLIES):
        weights = game.legal(states) * draw.random((count, game.num_actions))
        game.step(states, np.where(ply < until, weights.argmax(1), -1))
        over = np.flatnonzero(game.result(states)[0])
        put(states, over, game.new(len(over)))
    return states


def free_net(game: Game, most: int) -> Callable[..., Any]:
    """An ``Evaluate`` of at most ``most`` rows that costs next to nothing: it draws the features
    that a real net would read, and answers with views of a table of random numbers, of other rows
    in every call.

    Logits are normal, values uniform in +-VALUES: with these, trees of 9x9 Go get as deep as with
    a trained 6x64 net (200 simulations: 4.1 plies on average and 9.2 at most; a net after SFT 4.2
    and 9.3), whose values deviate by 0.18 within a tree.
    """
    draw, at = np.random.default_rng(0), 0
    logits = draw.normal(0, LOGITS, (TABLE + most, game.num_actions)).astype(np.float32)
    values = draw.uniform(-VALUES, VALUES, TABLE + most).astype(np.float32)

    def evaluate(states: Any, legal: Any) -> Any:
        nonlocal at
        game.observe(states)
        at = (at + len(legal) + 1) % TABLE
        rows = slice(at, at + len(legal))
        return logits[rows], values[rows]

    return evaluate


def free_search(game: Game, config: SearchConfig, games: int, sims: int) -> Rate:
    """Searches by the free net, of games that are under way."""
    return _own_search(game, config, games, sims, free_net(game, games * config.leaves),
                       start_positions(game, max(games, STARTS)))


def _search(game: Game, spec: NetSpec, device: str, pairs: int) -> Row | None:
    """Tree search with a free net beside OpenSpiel's C++ MCTSBot, a playout in each simulation."""
    if pyspiel_name(game) is None:
        return None
    reference = ("OpenSpiel C++ MCTSBot with playouts, from the first position; ours: "
                 f"{SEARCH_GAMES} games x {SEARCH_SIMS} simulations, {GIVEN}")
    return row("search_us_per_simulation", "us",
               free_search(game, SearchConfig(), SEARCH_GAMES, SEARCH_SIMS), reference,
               _spiel_search(game), pairs, per=lambda rate: 1e6 / rate)


def _first_position_row(game: Game, spec: NetSpec, device: str, pairs: int) -> Row:
    """The least that a simulation costs: from the first position, by a net that knows nothing."""
    def nothing(states: Any, legal: Any) -> Any:
        game.observe(states)
        return np.zeros(legal.shape, np.float32), np.zeros(len(legal), np.float32)

    return row("search_us_first_position", "us",
               _own_search(game, SearchConfig(), SEARCH_GAMES, SEARCH_SIMS, nothing,
                           game.new(SEARCH_GAMES)),
               f"{SEARCH_GAMES} games x {SEARCH_SIMS} simulations of {GIVEN}; ours: from the "
               "first position, equal logits and values",
               free_search(game, SearchConfig(), SEARCH_GAMES, SEARCH_SIMS), pairs,
               per=lambda rate: 1e6 / rate)


def _size_row(game: Game, spec: NetSpec, device: str, pairs: int, games: int, sims: int) -> Row:
    """How the cost of a simulation grows with the number of games and with the tree."""
    return row(f"search_us_{games}x{sims}", "us", free_search(game, SearchConfig(), games, sims),
               f"{SEARCH_GAMES} games x {SEARCH_SIMS} simulations; both: {GIVEN}",
               free_search(game, SearchConfig(), SEARCH_GAMES, SEARCH_SIMS), pairs,
               per=lambda rate: 1e6 / rate)


def _lone(game: Game, spec: NetSpec, device: str, pairs: int) -> Row:
    """One game alone, several leaves at once and one after the other."""
    return row("search_us_one_game", "us",
               free_search(game, SearchConfig(leaves=LEAVES), 1, SEARCH_SIMS),
               f"one leaf at a time; ours: {LEAVES}; both: one of {STARTS} {GIVEN}",
               free_search(game, SearchConfig(), 1, SEARCH_SIMS), pairs,
               per=lambda rate: 1e6 / rate)


def search_rows() -> list[Callable[[Game, NetSpec, str, int], Row | None]]:
    """What makes each row, in order."""
    return [
        _playouts,
        _playouts_19x19,
        _random_play,
        partial(_mcts_row, games=1, leaves=LEAVES),
        partial(_mcts_row, games=MCTS_GAMES, leaves=1),
        _search,
        _first_position_row,
        *(partial(_size_row, games=games, sims=sims) for games, sims in SIZES),
        _lone,
    ]
