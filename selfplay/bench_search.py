"""The rows of ``bench`` for playouts and tree search.

Every row is a function of (game, net, device, pairs) that returns None where it does not apply.
The reference of the search alone, at sizes other than the usual one, is the usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from selfplay.games import make
from selfplay.games.base import Game, side
from selfplay.games.go import Go
from selfplay.models import NetSpec
from selfplay.players import pyspiel_name
from selfplay.search import Search, SearchConfig, rollout_evaluate
from selfplay.timing import Rate, repeat, row

SEARCH_GAMES, SEARCH_SIMS = 256, 200  #: the usual size
MCTS_GAMES, LEAVES = 64, 8
LARGEST = 4096  #: games
LONG_GAMES = 2000  #: random games whose mean length is taken

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
    game: Game, config: SearchConfig, games: int, sims: int, evaluate: Callable[..., Any]
) -> Rate:
    """Searches from the first position."""
    search, states = Search(game, config, games, sims, 0), game.new(games)

    def work() -> int:
        search.run(states, sims, evaluate)
        return games * sims

    return lambda: repeat(work)


def _mcts(game: Game, spec: NetSpec, device: str, pairs: int, games: int, leaves: int
          ) -> Row | None:
    """Search with playouts beside OpenSpiel's."""
    if pyspiel_name(game) is None:
        return None
    config = SearchConfig(rule="uct", leaves=leaves)
    ours = _own_search(game, config, games, SEARCH_SIMS, rollout_evaluate(game, 0))
    many = f"{games} games" if games > 1 else f"one game, {leaves} leaves at once"
    return row(f"mcts_{games}_games" if games > 1 else "mcts_one_game", "simulations/s", ours,
                f"OpenSpiel C++ MCTSBot with playouts; ours: {many}", _spiel_search(game), pairs)


def _free_net(game: Game) -> Callable[..., Any]:
    """An evaluate that costs next to nothing but draws the features a real net would read."""
    most = max(SEARCH_GAMES, LARGEST)
    logits, values = np.zeros((most, game.num_actions), np.float32), np.zeros(most, np.float32)

    def evaluate(states: Any, legal: Any) -> Any:
        game.observe(states)
        n = len(legal)
        return logits[:n], values[:n] * side(states)

    return evaluate


def _search(game: Game, spec: NetSpec, device: str, pairs: int) -> Row | None:
    """Tree search with a free net beside OpenSpiel's C++ MCTSBot, a playout in each simulation."""
    if pyspiel_name(game) is None:
        return None
    ours = _own_search(game, SearchConfig(), SEARCH_GAMES, SEARCH_SIMS, _free_net(game))
    reference = (f"OpenSpiel C++ MCTSBot with playouts; ours: {SEARCH_GAMES} games x "
                 f"{SEARCH_SIMS} simulations, free net")
    return row("search_us_per_simulation", "us", ours, reference, _spiel_search(game), pairs,
                per=lambda rate: 1e6 / rate)


def _size(game: Game, spec: NetSpec, device: str, pairs: int, games: int, sims: int) -> Row:
    """How the cost of a simulation grows with the number of games and with the tree."""
    evaluate, config = _free_net(game), SearchConfig()
    return row(f"search_us_{games}x{sims}", "us",
                _own_search(game, config, games, sims, evaluate),
                f"{SEARCH_GAMES} games x {SEARCH_SIMS} simulations, free net",
                _own_search(game, config, SEARCH_GAMES, SEARCH_SIMS, evaluate), pairs,
                per=lambda rate: 1e6 / rate)


def _lone(game: Game, spec: NetSpec, device: str, pairs: int) -> Row:
    """One game alone, several leaves at once and one after the other."""
    evaluate, config = _free_net(game), SearchConfig(leaves=LEAVES)
    return row("search_us_one_game", "us",
                _own_search(game, config, 1, SEARCH_SIMS, evaluate),
                f"one leaf at a time; ours: {LEAVES}, free net",
                _own_search(game, SearchConfig(), 1, SEARCH_SIMS, evaluate), pairs,
                per=lambda rate: 1e6 / rate)


SEARCH_ROWS: tuple[Callable[[Game, NetSpec, str, int], Row | None], ...] = (
    _playouts,
    _playouts_19x19,
    _random_play,
    partial(_mcts, games=1, leaves=LEAVES),
    partial(_mcts, games=MCTS_GAMES, leaves=1),
    _search,
    partial(_size, games=SEARCH_GAMES, sims=50),
    partial(_size, games=SEARCH_GAMES, sims=800),
    partial(_size, games=16, sims=SEARCH_SIMS),
    partial(_size, games=LARGEST, sims=SEARCH_SIMS),
    _lone,
)
