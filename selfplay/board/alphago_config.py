"""Settings of AlphaGo's stages: imitation, games against past selves, the value net. They stand
apart from the code that uses them, as those of ``config`` do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from selfplay.board.config import RLConfig
from selfplay.common.limits import Amount, Count, Part, Plies, Positive, Share, Whole
from selfplay.learn.config import PastSelves, PGConfig
from selfplay.learn.plateau_config import PlateauConfig


@dataclass(frozen=True)
class SFTConfig(PlateauConfig):
    """Supervised learning on the expert's moves."""

    learning_rate: Positive = 1e-2  #: of AdamW, at the start; a net without BatchNorms wants less
    value_weight: Amount = 0.5  #: weight of the value loss; the policy loss has weight 1
    komi_share: Share = 0.25  #: Go: share of counted games that are counted with another komi


@dataclass(frozen=True)
class PoolConfig(PastSelves):
    """Games against past selves, from which a policy gradient learns."""

    games: Count = 256  #: games an iteration
    group: Count = 1  #: games with the same opening, colour and opponent
    opening: Plies = (2, 6)  #: fewest and most random plies at the start of a game


@dataclass(frozen=True)
class ValueConfig(PlateauConfig):
    """AlphaGo's value net and its games (Silver et al. 2016, "Reinforcement learning of value
    networks"); only in the recipe alphago."""

    learning_rate: Positive = 1e-3  #: of AdamW, at the start
    evaluate_every: Count = 50  #: steps between two evaluations on held-out positions
    init: Literal["rl", "random"] = "rl"  #: start from the RL policy's weights, or from nothing
    games: Count = 50_000  #: games to play; each gives one position
    latest: Whole = 0  #: the random move is among the first so many; 0: anywhere in the game
    held_out: Share = 0.1  #: share of positions held out
    play: Share = 0.6  #: share of the stage's time for playing the games
    share: Part = 0.25  #: the stage's share of the minutes, in addition to ``shares``


class LeagueSettings(Protocol):
    """The settings that learning by policy gradient reads."""

    @property
    def rl(self) -> RLConfig: ...

    @property
    def pg(self) -> PGConfig: ...

    @property
    def pool(self) -> PoolConfig: ...
