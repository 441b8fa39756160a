"""The stages of a run whose games a cluster plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfplay.board.value import Games
from selfplay.cluster.farm import Farm
from selfplay.cluster.league import SpreadLeague
from selfplay.cluster.matches import SpreadMatches
from selfplay.cluster.selfplay import SpreadGames
from selfplay.cluster.value import spread_games
from selfplay.games import own
from selfplay.run.boards import KeptLearner, KeptPolicyLearner
from selfplay.run.folder import Run


@dataclass(frozen=True)
class OnFarm:
    """``run.stage.Elsewhere`` on ``farm``."""

    farm: Farm

    def selfplay(self, run: Run, learner: KeptLearner) -> SpreadGames:
        config = run.config
        return SpreadGames(learner.games.folder, self.farm, learner, config.game, config.net,
                           config.ray.games)

    def league(self, run: Run, learner: KeptPolicyLearner) -> SpreadLeague:
        return SpreadLeague(self.farm, learner).begin(run.config.game, run.config.net)

    def matches(self, *runs: Run) -> SpreadMatches:
        nets = dict.fromkeys(run.config.net for run in runs if own.is_own(run.config.net))
        return SpreadMatches(self.farm, runs[0].config.game, tuple(nets))

    def value_games(
        self, run: Run, policies: Sequence[Path], numbers: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Games]]:
        return spread_games(self.farm, run, policies, numbers, stop)
