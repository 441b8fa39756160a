"""Which match to play next, where many are wanted and time is short: the one that tells most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.arena.elo import informative
from selfplay.arena.match import MatchResult

ROUNDS = (0.2, 0.6, 1.0)  #: shares of a pairing's games; what lies between two is played at once


@dataclass(frozen=True)
class Pairing:
    """A match that is wanted."""

    a: str
    b: str
    games: int


class Choice:
    """First some games of every pairing, in order; then always the pairing that takes most off
    the uncertainty of the nets' ratings for its time (``elo.informative``)."""

    def __init__(self, pairings: Sequence[Pairing], anchor: str) -> None:
        self._anchor = anchor
        self._rounds = dict.fromkeys(pairings, 0)  # of which so many have been played
        self.results: dict[Pairing, MatchResult] = {}  #: as they stand now
        self._costs: dict[tuple[str, str], tuple[float, int]] = {}  # by kinds: seconds, games
        self._nets = list({name: None for p in pairings for name in (p.a, p.b)
                           if name.startswith(("net:", "alphago:", "llm:"))})

    def next(self) -> tuple[Pairing, float]:
        """The pairing, and the share of its games that it shall have then."""
        wanted = [p for p, played in self._rounds.items() if played < len(ROUNDS)]
        fewest = min(self._rounds[p] for p in wanted)
        chosen = next(p for p in wanted if self._rounds[p] == fewest)
        if fewest and self.results:
            worth = self._worth(wanted)
            if max(worth) > 0:
                chosen = wanted[worth.index(max(worth))]
        self._rounds[chosen] += 1
        return chosen, ROUNDS[self._rounds[chosen] - 1]

    def played(self, pairing: Pairing, result: MatchResult | None) -> None:
        """A pairing's result as it stands now."""
        if result is not None:
            self.results[pairing] = result

    def spent(self, pairing: Pairing, seconds: float, games: int) -> None:
        """So many more games of a pairing have taken so long."""
        before = self._costs.get(_kinds(pairing), (0.0, 0))
        self._costs[_kinds(pairing)] = (before[0] + seconds, before[1] + games)

    def _worth(self, wanted: Sequence[Pairing]) -> list[float]:
        """Of each pairing: what its next games tell, by the second."""
        played = [self._rounds[p] for p in wanted]
        more = [p.games * (ROUNDS[n] - ROUNDS[n - 1]) for p, n in zip(wanted, played, strict=True)]
        gains = informative([(p.a, p.b, *r.counts) for p, r in self.results.items()], self._anchor,
                            [(p.a, p.b, n) for p, n in zip(wanted, more, strict=True)], self._nets)
        return [gain / (games * self._seconds(p))
                for p, gain, games in zip(wanted, gains, more, strict=True)]

    def _seconds(self, pairing: Pairing) -> float:
        """Of a game between such players; as if of 1 where none has been played."""
        seconds, games = self._costs.get(_kinds(pairing), (1.0, 1))
        return max(seconds, 1e-3) / max(games, 1)


def kind(player: str) -> str:
    """A player's name without the path of its weights, which does not matter for how long its moves
    take."""
    return re.sub(r"^(net|alphago|llm):.*?(@\w+)?(,mask)?$", r"\1\2\3", player)


def _kinds(pairing: Pairing) -> tuple[str, str]:
    return kind(pairing.a), kind(pairing.b)
