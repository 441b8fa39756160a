"""Many positions analysed in one call, as ``import selfplay as sp`` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from selfplay.api.boards import MOST_SIMS
from selfplay.api.checked import must_be_states, must_be_whole, must_suit, usable_device
from selfplay.common.errors import UserError
from selfplay.games import Game, make
from selfplay.games.base import GameError
from selfplay.serve.analysis import Analysis
from selfplay.serve.batch import Job, analyses, jobs_of
from selfplay.serve.line import Line
from selfplay.serve.mind import Mind, mind_of, of_net, rollout_mind


def analyse(
    positions: Any, net: nn.Module | str | None = None, sims: int = 64, *,
    game: Game | str | None = None, device: str = "cpu",
) -> list[Analysis]:
    """Search positions side by side and tell of each what is known: visits, winrate, prior, lcb
    and principal variation of its moves, its value, ownership and score where the net has them.

    positions: a batch of states, or a list of games, each as text ("e5 c3 pass"), or a list of
    moves as text or actions; a game's last position is analysed. net: a net of ``sp.net`` or
    ``sp.load``, a name or path, or None for random rollouts. sims: simulations of each; 0 asks the
    net alone. game: where the net does not tell it.

    What is found of a position does not depend on the others. Raises UserError for a move that is
    illegal, naming it, and where nobody says what is played.

    >>> import selfplay as sp
    >>> found = sp.analyse(["a1 a2 b1 b2", "a1"], "tictactoe", sims=64)
    >>> found[0].best.text, found[0].best.proven, found[1].visits
    ('c1', 1.0, 65)
    """
    must_be_whole("sp.analyse", 0, MOST_SIMS, sims=sims)
    device = usable_device("sp.analyse", device)
    mind = _mind(net, sims, make(game) if isinstance(game, str) else game, device)
    if isinstance(positions, tuple):  # states are named tuples of arrays
        must_be_states("sp.analyse", mind.game, positions)
        return analyses(jobs_of(mind, positions, sims))
    return analyses(Job(_states(mind.game, moves, number), sims, mind)
                    for number, moves in enumerate(positions, 1))


def _mind(net: nn.Module | str | None, sims: int, game: Game | None, device: str) -> Mind:
    if isinstance(net, str):
        return mind_of(net, game, device, sims)
    if game is None and net is not None and "game" in vars(net):  # ours know theirs
        game = make(str(net.game))
    if game is None:
        raise UserError("sp.analyse: say which game: game=\"go9x9\"")
    if net is None:
        return rollout_mind(game, sims)
    must_suit("sp.analyse", game, net)
    return of_net(net, game, "net", sims, 1, device)


def _states(game: Game, moves: Sequence[str | int] | str, number: int) -> Any:
    line = Line(game)
    for count, move in enumerate(moves.split() if isinstance(moves, str) else moves, 1):
        try:
            line.play(game.text_to_action(line.states, 0, move) if isinstance(move, str)
                      else int(move))
        except GameError as error:
            raise UserError(f"position {number}, move {count}: {move!r}: {error}") from None
    return line.states
