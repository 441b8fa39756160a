"""Games as PGN-like text, which rating programs and pgn viewers' tag lists read, for any game.

The tags are PGN's; the moves are in the game's own notation, a space within one as a comma
(``h,0,1``). White is who moves first, but where a game's first player is called black.

Source: S. J. Edwards, "Portable Game Notation specification" (1994), section 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from selfplay.arena.records import GameRecord
from selfplay.games.base import Game

RESULTS = ("1-0", "0-1", "1/2-1/2", "*")
WIDTH = 79  #: characters of a line of moves


def to_pgn(game: Game, record: GameRecord) -> str:
    """One finished game with an empty line behind it; the same text every time."""
    white = 1 if game.sides[0] == "black" else 0  # which player
    lead = record.value if white == 0 else -record.value
    result = RESULTS[2] if lead == 0 else RESULTS[0] if lead > 0 else RESULTS[1]
    tags = {
        "Event": game.name, "Site": "?", "Date": "????.??.??", "Round": str(record.index + 1),
        "White": record.players[white], "Black": record.players[1 - white], "Result": result,
        "Variant": game.rules, "Opening": f"{record.opening} plies", "PlyCount":
        str(len(record.actions)), "Termination": record.end,
    }
    head = "\n".join(f'[{key} "{_quoted(value)}"]' for key, value in tags.items())
    words = []
    for ply, text in enumerate(move_texts(game, record.actions)):
        words += ([f"{ply // 2 + 1}."] if ply % 2 == 0 else []) + [text]
    return f"{head}\n\n{_wrapped([*words, result])}\n\n"


def move_texts(game: Game, actions: tuple[int, ...]) -> Iterator[str]:
    """The moves of a game as words."""
    states = game.new(1)
    for action in actions:
        yield game.action_to_text(states, 0, action).replace(" ", ",")
        game.step(states, np.array([action]))


def games_of(text: str) -> Iterator[list[str]]:
    """The moves of each game of a PGN text as words; comments, variations in brackets, numbers and
    results are left out."""
    for part in re.split(r"(?:^\s*\[\w+ .*\]\s*\n)+", text, flags=re.MULTILINE):
        plain = re.sub(r"\{[^}]*\}|;[^\n]*", " ", part)
        while "(" in plain and (shorter := re.sub(r"\([^()]*\)", " ", plain)) != plain:
            plain = shorter
        words = [word for word in re.sub(r"(?<!\S)\d+\.+", " ", plain).split()
                 if word not in RESULTS and not word.startswith("$")]
        if words:
            yield words


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')


def _wrapped(words: list[str]) -> str:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)
