"""The evaluators of a net in self-play: one for each group of games."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from selfplay.games.rules import GameError, Rules
from selfplay.inference.evaluator import Dtype, Evaluator, load_all

#: Games of a group at most: as many as fill a batch, and no more, so that there are groups for
#: several cores; to use all of more, there must be more games. On a CPU 64 rows at a time take 5
#: to 10% longer a row than 128 (6x64 on 9x9, bfloat16).
GROUP_GAMES = {"cpu": 128, "cuda": 1024}
#: Groups at least: on a GPU one is searched while the leaves of another are evaluated.
FEWEST = {"cpu": 1, "cuda": 2}


class Actors:
    """The weights that play: an evaluator a group of games; new weights go into all at once.

    net, game, device, dtype, cache_mb (of all together): see ``Evaluator``; sizes: ``groups_of``.
    """

    def __init__(
        self, net: nn.Module, game: Rules, games: int, device: str = "cpu", dtype: Dtype = "auto",
        cache_mb: float = 0, sizes: Sequence[int] = (),
    ) -> None:
        groups = groups_of(game, games, device, sizes)
        self.evaluators = [Evaluator(None, board, device, dtype, cache_mb=cache_mb / len(groups))
                           for board, _ in groups]
        self.load(net)

    def load(self, net: nn.Module) -> None:
        """Play by the weights of ``net``."""
        load_all(self.evaluators, net)

    def figures(self) -> dict[str, float]:
        """What there is to say of them in a row: nothing."""
        return {}


def group_sizes(games: int, device: str) -> list[int]:
    """``games`` in as few groups as possible, of nearly the same size."""
    kind = torch.device(device).type
    count = min(games, max(FEWEST[kind], -(-games // GROUP_GAMES[kind])))
    return [games // count + (g < games % count) for g in range(count)]


def groups_of(
    game: Rules, games: int, device: str, sizes: Sequence[int] = ()
) -> list[tuple[Rules, int]]:
    """``games`` in groups, each with its board, of which all (``Rules.boards``) have equal shares.
    A group is of one size, so that nothing is padded. Raises GameError for too few games."""
    boards = game.boards(sizes)
    if games < len(boards):
        raise GameError(f"{games} games at once for {len(boards)} board sizes; take as many games")
    shares = [games // len(boards) + (k < games % len(boards)) for k in range(len(boards))]
    return [(board, some) for board, share in zip(boards, shares, strict=True)
            for some in group_sizes(share, device)]
