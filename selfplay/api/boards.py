"""Nets, search and matches on boards, as ``import selfplay as sp`` has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from selfplay.api.checked import (
    must_be_plies,
    must_be_states,
    must_be_whole,
    must_suit,
    usable_device,
)
from selfplay.arena.match import MatchResult, play_match
from selfplay.arena.players import Player, parse_player, player_of
from selfplay.arena.spec import LEAVES, checkpoint_of
from selfplay.common.errors import UserError
from selfplay.common.limits import MAX_SEED
from selfplay.common.words import clip
from selfplay.games import Game, make
from selfplay.games.own import is_own
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.spread import spread
from selfplay.learn.checkpoint import META, load_net, spec_of
from selfplay.learn.packaged import find, or_else
from selfplay.models import build, seeded, spec_for
from selfplay.report import board as drawing
from selfplay.run.own_nets import use_net
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Rule, Search, SearchConfig
from selfplay.search.tree import node_bytes

MOST_SIMS = 999_999_999  #: of one search, as in the words of the command line
SHOWN = 6  #: boards that a search shows in a notebook


def net(game: Game | str, size: str = "4x32", seed: int = 0) -> nn.Module:
    """A freshly initialised net for ``game``, in eval mode on the CPU.

    size: residual blocks x channels ("6x64"), or ``path.py:build`` for a net of your own, which
    runs that file. seed: of the weights. Calling it takes float [B, C, H, W] (``game.observe``)
    and returns NetOutput: policy float [B, A], logits; value float [B], a logit whose tanh is the
    value in [-1, 1] for the side to move; ownership and score, or None.

    Raises NetError for a size that does not exist, GameError for a game that does not.

    >>> import selfplay as sp
    >>> net = sp.net("tictactoe", "2x16")
    >>> sum(p.numel() for p in net.parameters())
    12654
    """
    game = _game(game)
    size = use_net(size) if is_own(size) else size
    must_be_whole("sp.net", 0, MAX_SEED, seed=seed)
    spec = spec_for(game, size)
    made = seeded(seed, lambda: build(spec)).eval()
    made.spec, made.game = spec, game.name  # type: ignore[assignment]  # no tensors
    return made


def load(
    name: str | Path, game: Game | str | None = None, device: str = "cpu", net: str | None = None,
) -> nn.Module:
    """The net of a checkpoint, of a run (its newest), or one that came with the package.

    name: a folder (``runs/go9x9``, ``runs/go9x9/rl/ckpt-000010``), the name of a run in ``runs``,
    or of a packaged net (``selfplay nets``). game: what the net must be for; None takes any. net:
    ``path.py:build`` where the net is one of your own; without it no code but ours is run. In eval
    mode on ``device``; its outputs are those of ``sp.net``.

    Raises UserError where there is no such net, one of another game, or one whose file is not
    named.

    >>> import selfplay as sp
    >>> sp.load("no-such-run")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    selfplay.common.errors.UserError: 'no-such-run': no folder, no run in runs/, no packaged net ...
    """
    if net is not None:
        use_net(net)
    device = usable_device("sp.load", device)
    folder = find(str(name))
    for path in (Path("runs") / name, Path(name)):
        if os.path.isdir(path):  # Path.is_dir raises where a name is too long
            folder = path
    if folder is None:
        raise UserError(f"{clip(repr(str(name)), 80)}: no folder, no run in runs/, "
                        f"{or_else(str(name))}")
    if folder.is_dir() and not (folder / META).is_file():
        folder = checkpoint_of(str(folder), f"net:{folder}")[0]
    found, meta = load_net(folder, None if game is None else _game(game), device)
    found.spec, found.game = spec_of(meta), str(meta["game"])  # type: ignore[assignment]
    return found


@dataclass(frozen=True)
class Board:
    """One position as a picture: an SVG in a notebook, text in a terminal.

    game: itself, or its name. states: a batch; row: which of it. policy: float [A], shares of the
    moves; visits: int [A]; value: in [-1, 1] for the side to move; last: the action that was made
    last, to be marked, where the states do not remember it.

    >>> import selfplay as sp
    >>> game = sp.make("tictactoe")
    >>> board = sp.Board(game, game.new(1))
    >>> print(board)
    3 . . .
    2 . . .
    1 . . .
      a b c
    >>> board._repr_svg_()[:4]
    '<svg'
    """

    game: Game | str
    states: Any
    row: int = 0
    policy: ArrayLike | None = None
    visits: ArrayLike | None = None
    value: float | None = None
    last: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "game", _game(self.game))
        must_be_states("sp.Board", self._game(), self.states)
        must_be_whole("sp.Board", 0, len(self.states.ply) - 1, row=self.row)

    def _game(self) -> Game:
        return _game(self.game)

    def _drawn(self) -> drawing.Drawing:
        return drawing.shapes(drawing.board_view(self._game(), self.states, self.row, self.policy,
                                                 self.visits, self.value, self.last))

    def _repr_svg_(self) -> str:
        return drawing.svg(self._drawn())

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], for what takes no SVG."""
        return drawing.pixels(self._drawn())

    def __str__(self) -> str:
        return self._game().render(self.states, self.row)


@dataclass(frozen=True)
class Found:
    """What searches of n positions found. Axes: n positions, A actions.

    visits: int32 [n, A] of the root's moves. policy: float32 [n, A], the improved policy. value:
    float32 [n] in [-1, 1], mean value of the root for its side to move. action: int64 [n], the
    move to make. prior: float32 [n, A], what the net said before the search. proven: float32
    [n, A], exact results of moves for the side to move, NaN where unknown. decided: bool [n], the
    position's own result is proven.
    """

    game: Game
    states: Any
    visits: NDArray[np.int32]
    policy: NDArray[np.float32]
    value: NDArray[np.float32]
    action: NDArray[np.int64]
    prior: NDArray[np.float32]
    proven: NDArray[np.float32]
    decided: NDArray[np.bool_]

    def board(self, row: int = 0) -> Board:
        """Position ``row`` with the search's policy on it."""
        return Board(self.game, self.states, row, self.policy[row], self.visits[row],
                     float(self.value[row]))

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """visits, policy, value, action"""
        return iter((self.visits, self.policy, self.value, self.action))

    def __str__(self) -> str:
        moves = [self.game.action_to_text(self.states, row, int(action))
                 for row, action in enumerate(self.action)]
        return ", ".join(f"{move} ({value:+.2f})"
                         for move, value in zip(moves, self.value, strict=True))

    def _repr_html_(self) -> str:
        pictures = [self.board(row)._repr_svg_() for row in range(min(SHOWN, len(self.action)))]
        more = len(self.action) - len(pictures)
        return "".join(pictures) + (f"<p>and {more} more</p>" if more else "")


def search(
    game: Game | str, states: Any, net: nn.Module | Evaluator | None = None, sims: int = 64, *,
    rule: Rule | None = None, leaves: int = 1, noise: bool = False, seed: int = 0,
    device: str = "cpu",
) -> Found:
    """Search every position of a batch: a tree each, the leaves of all evaluated together.

    states: n positions, none of them over; they are left alone. net: a net of ``sp.net`` or
    ``sp.load``, an ``Evaluator``, or None for random rollouts. sims: simulations of each tree.
    rule: "puct" (the default with a net), "gumbel", or "uct" (the default without). leaves: of one
    tree under way at once; more make few positions faster. noise: at the root, as in self-play.

    The same arguments give the same result, whatever else is in the batch. Raises ValueError for
    positions that are over, UserError for settings that do not exist.

    >>> import selfplay as sp, numpy as np
    >>> game = sp.make("tictactoe")
    >>> states = game.new(1)
    >>> game.replay(states, np.array([[0, 3, 1, 4]]))       # a1 a2 b1 b2, X wins by c1
    >>> found = sp.search(game, states, sims=200)
    >>> int(found.action[0]), found.visits.shape, found.visits.sum()
    (2, (1, 9), np.int64(200))
    """
    must_be_whole("sp.search", 1, MOST_SIMS, sims=sims)
    must_be_whole("sp.search", 1, LEAVES, leaves=leaves)
    must_be_whole("sp.search", 0, MAX_SEED, seed=seed)
    game, device = _game(game), usable_device("sp.search", device)
    must_be_states("sp.search", game, states)
    if isinstance(net, nn.Module):
        must_suit("sp.search", game, net)
    batch = len(states.ply)
    if net is None:
        evaluate: Any = rollout_evaluate(game, seed)
    else:
        evaluate = net if isinstance(net, Evaluator) else spread(net, game, device)
    config = SearchConfig(rule=rule or ("uct" if net is None else "puct"), leaves=leaves)
    try:
        trees = Search(game, config, batch, sims, seed)
    except MemoryError:
        wanted = batch * sims * node_bytes(game.num_actions) / 2**30
        raise UserError(f"sp.search: {batch} trees of {sims} simulations take {wanted:.0f} GB; "
                        "fewer simulations or positions wanted") from None
    found = trees.run(states, sims, evaluate, noise)
    return Found(game, states, *found)


def player(
    game: Game | str, who: str | nn.Module, sims: int = 0, *, leaves: int = 1, seed: int = 0,
    device: str = "cpu", name: str = "",
) -> Player:
    """Somebody who plays, for ``sp.match``: the words of the command line (``mcts:1000``,
    ``net:runs/go9x9@64``, ``path.py:Mine``), or a net, with ``sims`` simulations a move (0: its
    most probable move).

    Raises UserError for words that name nobody.

    >>> import selfplay as sp
    >>> sp.player("tictactoe", sp.net("tictactoe", "1x8"), sims=8, name="fresh").name
    'fresh'
    """
    must_be_whole("sp.player", 0, MOST_SIMS, sims=sims)
    must_be_whole("sp.player", 1, LEAVES, leaves=leaves)
    must_be_whole("sp.player", 0, MAX_SEED, seed=seed)
    game, device = _game(game), usable_device("sp.player", device)
    if isinstance(who, nn.Module):
        must_suit("sp.player", game, who)
    if isinstance(who, str):
        return parse_player(who, game, seed=seed, device=device, slots=MOST_SLOTS)
    return player_of(name or f"net@{sims}", game, spread(who, game, device), sims, leaves,
                     MOST_SLOTS)


MOST_SLOTS = 64  #: games at once of a match


def match(
    game: Game | str, a: str | nn.Module | Player, b: str | nn.Module | Player, games: int = 100,
    *, seed: int = 0, opening: tuple[int, int] = (2, 6), slots: int = MOST_SLOTS,
    device: str = "cpu", folder: Path | str | None = None,
) -> MatchResult:
    """Play ``games`` games; each random opening twice, with colours swapped.

    a, b: words of the command line, nets (their most probable moves), or players of
    ``sp.player``. opening: fewest and most random plies. folder: keep the games there, and go on
    with a match that it holds. The result has ``score`` (of a, in points a game), ``low`` and
    ``high`` (its 95% interval), ``wins``, ``draws``, ``losses``, ``summary()``.

    Raises UserError for players that do not exist or that fail.

    >>> import selfplay as sp
    >>> result = sp.match("tictactoe", "mcts:50", "random", games=20, opening=(0, 1))
    >>> result.games, result.low < result.score < result.high, result.score > 0.7
    (20, True, True)
    """
    must_be_whole("sp.match", 1, games=games, slots=slots)
    must_be_whole("sp.match", 0, MAX_SEED, seed=seed)
    must_be_plies("sp.match", opening)
    game, device = _game(game), usable_device("sp.match", device)
    first, second = (player(game, who, device=device, name=f"net {side}")
                     if isinstance(who, nn.Module) else who
                     for side, who in (("a", a), ("b", b)))
    return play_match(game, first, second, games=games, seed=seed, opening=opening,
                      slots=min(slots, MOST_SLOTS), device=device,
                      folder=None if folder is None else Path(folder))


def _game(game: Game | str) -> Game:
    return make(game) if isinstance(game, str) else game
