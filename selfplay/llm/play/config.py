"""Settings of a language model that plays one of our games."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfplay.common.limits import Count, Plies, Whole

PREFIX = "game:"  #: of a task that is a game
SELF = "self"  #: the opponent that is the pool of past selves


@dataclass(frozen=True)
class PlayConfig:
    """A board game played in text (--game)."""

    expert: str = "mcts:100"  #: the player whose games against itself SFT learns; any player
    games: Count = 2000  #: games of the expert, made when the run starts
    files: tuple[str, ...] = ()  #: records of games to learn in place of those: files or folders
    opening: Plies = (0, 6)  #: fewest and most random plies before a game, the expert's and RL's
    symmetries: bool = True  #: learn each game turned and mirrored as well, as the board allows
    thought: Literal["none", "line"] = "none"
    #: what is written before a move: nothing, or the line that a search expects, and how it ends
    sims: Count = 200  #: simulations of the search whose line is written
    plies: Count = 4  #: moves of a line, at most
    opponents: tuple[str, ...] = (SELF,)
    #: whom RL plays, each in an equal share of the games: self (past selves, by the settings of
    #: pool), random, mcts:1000, net:RUN, any player (--opponent)
    rival: str = "mcts:100"  #: the player against whom games are played at every look
    looked_at: Whole = 50  #: games against it, without draws of its own moves; 0: none
