"""Elo over all players met: every match of one game below a folder, rated together."""

from __future__ import annotations

from pathlib import Path

from selfplay.arena import read_match
from selfplay.elo import fit
from selfplay.errors import UserError
from selfplay.games.base import Game

ANCHOR = "random"


def standings(folder: Path, game: Game, met: tuple[str, str]) -> str:
    """A table of Elo and 95% interval, best first, of all whom results connect to the anchor.

    folder: holds match folders; matches of other games are passed over. met: players who must be
    in the table: where nothing ties them to ANCHOR, the second of them is at 0 in its place.
    """
    results: list[tuple[str, str, float, float, float]] = []
    games: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        try:
            match = read_match(path, game)
        except UserError:
            continue  # another game's match, or a damaged one: not this table's business
        if match is not None and match.games:
            results.append((match.a, match.b, *match.counts))
            for name in (match.a, match.b):
                games[name] = games.get(name, 0) + match.games
    anchor, ratings = ANCHOR, fit(results, ANCHOR)
    if not ratings.keys() >= {*met}:
        anchor, ratings = met[1], fit(results, met[1])
    if len(ratings) < 2:
        return ""
    width = max(map(len, ratings))
    rows = sorted(ratings.items(), key=lambda item: -item[1].elo)
    lines = [f"Elo of all whom the matches in {folder} tie to {anchor} (= 0)"]
    lines += [f"  {name:<{width}}  {r.elo:6.0f}  ({r.low:.0f} to {r.high:.0f})  {games[name]} games"
              for name, r in rows]
    return "\n".join(lines)
