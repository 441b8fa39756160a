"""Lines of moves from files: opening books, and positions to judge by.

A text file has a line of moves each, with spaces between them, or run together where each is a
single character (4453); a move whose text has spaces is written with commas (h,0,1). What follows a
tab is left alone. Files of SGF (Go) and PGN as ``pgn`` writes it give the main line of each game.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from selfplay.arena.collection import trees, walk_contents
from selfplay.arena.contest.pgn import games_of
from selfplay.arena.sgf import MOST_NODES, RefusedError, first_illegal, is_named_so, moves_of
from selfplay.common.errors import UserError
from selfplay.common.files import text_lines
from selfplay.common.words import clip
from selfplay.games.base import Game, GameError
from selfplay.games.go import Go

Line = tuple[int, ...]
#: What to do about an opening that is a whole game.
FEWER = "give --opening 0-8 for the first 8 moves of each game, or leave this one out of the file"


def read_book(path: Path, game: Game, most: int) -> list[Line]:
    """The different openings of a file, in its order, each cut behind ``most`` moves.

    Raises UserError for a file that is not there, holds none, or holds a move that is none.
    """
    rows = [] if is_named_so(path) else [line for _, line in text_lines(path, "openings")]
    if is_named_so(path):
        lines = _sgf_lines(path, game, most)
    elif path.name.lower().endswith(".pgn") or (rows and rows[0][0] == "["):
        lines = [read_moves(game, words[:most], f"{path}, game {number}", FEWER)
                 for number, words in enumerate(games_of("\n".join(rows)), 1)]
    else:
        lines = read_lines(game, path, "opening", most, FEWER)
    if not lines:
        raise UserError(f"{path}: no opening in it; a line is the moves of one, as 4453")
    return list(dict.fromkeys(lines))


def digest(book: Iterable[Line]) -> str:
    """A checksum that tells books apart."""
    return hashlib.blake2b(repr(list(book)).encode(), digest_size=8).hexdigest()


def read_lines(
    game: Game, path: Path, what: str, most: int = 10**9, remedy: str = "leave the line out"
) -> list[Line]:
    """The lines of a text file as moves, at most ``most``; none of them ends the game. what: a
    line's name. remedy: for one that does.

    Raises UserError naming a line that is no game, or whose game is over.
    """
    found = []
    for number, line in text_lines(path, f"{what}s"):
        words = line.split("\t")[0].split()
        if not words:
            continue
        run_together = len(words[0]) > 1 and not _one_move(game, words[0])
        words = list(words[0]) if run_together else words
        found.append(read_moves(game, words[:most], f"{path}, line {number}", remedy))
    return found


def read_moves(game: Game, words: Sequence[str], place: str, remedy: str) -> Line:
    """Moves as actions. Raises UserError, beginning with ``place``, for what is no legal move and,
    with ``remedy``, for a game that is over."""
    states = game.new(1)
    actions = []
    for word in words:
        try:
            action = game.text_to_action(states, 0, word)
        except GameError as error:
            raise UserError(clip(f"{place}: {error}")) from None
        if not game.legal(states)[0, action]:
            raise UserError(clip(f"{place}: move {word} is not legal there"))
        game.step(states, np.array([action]))
        actions.append(action)
    if game.result(states)[0][0]:
        raise UserError(f"{place}: the game is over there; {remedy}")
    return tuple(actions)


def _one_move(game: Game, word: str) -> bool:
    try:
        game.text_to_action(game.new(1), 0, word)
    except GameError:
        return False
    return True


def _sgf_lines(path: Path, game: Game, most: int) -> list[Line]:
    if not isinstance(game, Go):
        raise UserError(f"{path}: SGF is read for Go only; write a line of moves each")
    lines, places = list[Line](), list[str]()
    for source, data in walk_contents([path], []):
        for name, nodes in trees(source, data, [], MOST_NODES * game.max_moves):
            try:
                line = tuple(moves_of(nodes, game.size, True, game.max_moves)[:most])
            except RefusedError as refusal:
                raise UserError(clip(f"{name}: {refusal}")) from None
            lines.append(line)
            places.append(name)
    for ply, place in zip(first_illegal(game, lines), places, strict=True):
        if ply >= 0:
            raise UserError(f"{place}: move {ply + 1} is illegal")
    return lines
