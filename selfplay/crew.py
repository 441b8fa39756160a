"""Self-play on every core: the games in groups, one thread at work on a group at a time.

A thread searches its group and evaluates the leaves itself (see ``threads``). Groups meet after
some waves. What they play depends on how many there are, so that is fixed by the config;
it does not depend on how many threads share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from selfplay.actor import Actor, Harvest, join
from selfplay.config import RLConfig
from selfplay.games.base import Game
from selfplay.inference import Evaluator
from selfplay.threads import Workers

#: Waves between two meetings: as many as come to so many floating-point operations of the net in
#: a group (a tenth of a second of a core), so that a stop is soon heard, but no more than these.
WORK, WAVES = 2e10, 8

#: Games of a group at most: as many as fill a batch, and no more, so that there are groups for
#: several cores; to use all of more, there must be more games. On a CPU 64 rows at a time take 5
#: to 10% longer a row than 128 (6x64 on 9x9, bfloat16).
GROUP_GAMES = {"cpu": 128, "cuda": 1024}


#: Groups at least: on a GPU one is searched while the leaves of another are evaluated.
FEWEST = {"cpu": 1, "cuda": 2}


def group_sizes(games: int, device: str) -> list[int]:
    """``games`` in as few groups as possible, of nearly the same size."""
    kind = torch.device(device).type
    count = min(games, max(FEWEST[kind], -(-games // GROUP_GAMES[kind])))
    return [games // count + (g < games % count) for g in range(count)]


class Crew:
    """Many games against oneself, kept in flight between calls of ``play``.

    evaluators: one a group (see ``group_sizes``), used by one thread at a time. threads: at most
    so many groups at once; the games and their order do not depend on it. work: floating-point
    operations of an evaluation (see ``models.flops``).
    """

    def __init__(
        self, game: Game, evaluators: Sequence[Evaluator], config: RLConfig, seed: int,
        threads: int, work: float = 0.0,
    ) -> None:
        sizes = group_sizes(config.games, evaluators[0].device.type)
        if len(sizes) != len(evaluators):
            raise ValueError(f"{len(evaluators)} evaluators for {len(sizes)} groups")
        self.actors = [
            Actor(game, evaluate, replace(config, games=size), seed=seed, group=group)
            for group, (size, evaluate) in enumerate(zip(sizes, evaluators, strict=True))]
        self.waves = max(1, min(WAVES, int(WORK / max(work * sizes[0], 1.0))))
        self.workers = Workers(min(threads, len(sizes)))

    def play(
        self,
        positions: int,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Harvest | None:
        """Play until finished games have yielded at least ``positions`` training rows; those in
        flight go on in the next call. ``stop`` is asked, and finished games are counted, when
        the groups meet."""
        done: list[Harvest] = []
        have = 0
        while have < positions and not stop():
            found = [h for h in self.workers.map(self._some_waves, self.actors) if h is not None]
            rows = sum(len(h.columns.value) for h in found)
            done += found
            have += rows
            if rows:
                progress(rows)
        return join(done) if done else None

    def _some_waves(self, actor: Actor) -> Harvest | None:
        done = [h for h in (actor.wave() for _ in range(self.waves)) if h is not None]
        return join(done) if done else None
