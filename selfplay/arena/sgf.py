"""Go games in SGF: read from anywhere, and written.

Reading keeps every game that it can; each one left out is named with the reason
(``collection`` takes files apart). The moves are checked against our own rules, all games at once.
Writing is deterministic, byte for byte.

Coordinates: SGF's second letter counts rows from the top, our row 0 is the bottom one.

Source: SGF FF[4], https://www.red-bean.com/sgf/ ; the grammar is sgfmill's.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sgfmill import boards, sgf_grammar

from selfplay.arena.collection import (
    REASON,
    SUFFIXES,
    Properties,
    Skipped,
    trees,
    walk_contents,
)
from selfplay.arena.records import GameRecord
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
from selfplay.common.words import clip, disk_remedy
from selfplay.games.base import Game
from selfplay.games.go import Go

CHUNK = 2048  #: games replayed side by side
#: Times as many moves as a game may have, and nodes with all variations, are not read.
MOST_MOVES, MOST_NODES = 3, 200

_WIN = re.compile(r"(b|w|black|white)\s*(?:\+|wins?\b|won\b)\s*(.*)", re.DOTALL)
_RESIGNS = re.compile(r"(b|w|black|white)\s+(?:resign(?:s|ed)?|forfeit(?:s|ed)?|lost|loses)\b")
_NUMBER = re.compile(r"[-+]?\d*\.?\d+")
_OPENING = re.compile(r"random opening, (\d{1,4}) pl(?:y|ies)")
_DRAWS = ("draw", "jigo", "tie")


@dataclass(frozen=True)
class ExpertGame:
    """A game to learn from."""

    actions: tuple[int, ...]  #: all moves, player 0 first
    value: float  #: result on record for player 0: 1, 0 or -1; never a recount
    komi: float | None  #: on record; None where there is none
    names: tuple[str, str]  #: player 0, player 1
    source: str  #: file, with the member of a zip and the number in a collection
    opening: int = 0  #: leading moves that no expert chose
    margin: float | None = None  #: player 0's lead on record; None for a resignation and the like


class RefusedError(Exception):
    """The reason why one game is left out."""


def read_games(paths: Iterable[Path], game: Game) -> tuple[list[ExpertGame], list[Skipped]]:
    """Read every game of ``game``'s board size from files and folders (searched all through).

    Files: .sgf, .sgf.gz, .zip of those; each may hold several games. Left out, with the reason:
    files that cannot be read, other sizes, handicap and other set-up stones, no result, two moves
    of one colour in a row, moves that are illegal. A game that repeats a board, or goes on after
    its end by our rules, is cut there and keeps its recorded result. Other komi is kept.

    Raises UserError when a path does not exist, or nothing is left.
    """
    if not isinstance(game, Go):
        raise UserError(f"{game.name}: SGF is read for Go only")
    paths = [Path(path) for path in paths]
    skipped: list[Skipped] = []
    games = read_files(walk(paths, SUFFIXES), game, skipped)
    if not games:
        raise UserError(nothing_left(game, paths, skipped, SUFFIXES))
    return games, skipped


def read_files(files: Iterable[Path], game: Go, skipped: list[Skipped]) -> list[ExpertGame]:
    """The games of SGF files; what is left out is added to ``skipped``."""
    found: list[ExpertGame] = []
    for source, data in walk_contents(files, skipped):
        for name, nodes in trees(source, data, skipped, MOST_NODES * game.max_moves):
            try:
                found.append(_main_line(nodes, name, game.size, MOST_MOVES * game.max_moves))
            except RefusedError as refusal:
                skipped.append(Skipped(name, clip(str(refusal), REASON)))
    return _check(game, found, skipped)


def nothing_left(game: Game, paths: Iterable[Path], skipped: Sequence[Skipped],
                 suffixes: Sequence[str]) -> str:
    """The message for paths that hold no game, with the most frequent reasons."""
    where = ", ".join(str(path) for path in paths)
    if not skipped:
        return f"{where}: no file there that ends in {', '.join(suffixes)}"
    reasons = Counter(item.reason for item in skipped).most_common(6)
    example = {item.reason: item.file for item in reversed(skipped)}
    text = "; ".join(f"{reason} ({count:,}: {Path(example[reason]).name}{' …' * (count > 1)})"
                     for reason, count in reasons)
    return f"{where}: no game for {game.name} among {len(skipped):,}: {text}"


def walk(paths: Iterable[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files with these suffixes at and under the paths, in a fixed order; what cannot be looked
    into, files and folders, for whoever opens it to say so.

    Raises UserError for a path that does not exist.
    """
    for path in paths:
        closed: list[Path] = []
        inside = [path]
        try:
            if not path.exists():
                raise UserError(f"{path}: no such file or folder")
            if path.is_dir():
                inside = sorted(_below(path, closed))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {disk_remedy(error)}") from None
        yield from (p for p in inside if p.name.lower().endswith(suffixes) and _is_plain(p))
        yield from closed


def _below(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """All files below ``folder``, links to folders not followed; folders that cannot be listed are
    added to ``closed``."""
    for place, _, names in os.walk(folder, onerror=lambda error: closed.append(
            Path(error.filename))):
        yield from (Path(place, name) for name in names)


def is_named_so(path: Path) -> bool:
    """Whether it is a file of games by its name."""
    return path.name.lower().endswith(SUFFIXES)


def _is_plain(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its folder may be listed, but not entered
        return True


def _main_line(nodes: Properties, source: str, size: int, most: int) -> ExpertGame:
    """One main line of at most ``most`` moves as a game, its moves not checked yet.

    Raises RefusedError.
    """
    root = about(nodes)
    kind = text_of(root, "GM")
    if kind not in ("", "1"):
        raise RefusedError(f"not Go (GM[{kind}])")
    stated = text_of(root, "SZ")
    if stated and stated not in (str(size), f"{size}:{size}"):
        raise RefusedError(f"board size {stated}")
    if any(any(node.get(name, ())) for node in nodes for name in ("AB", "AW", "AE")):
        raise RefusedError("handicap or other set-up stones")
    if text_of(root, "HA") not in ("", "0", "1"):
        raise RefusedError(f"handicap (HA[{text_of(root, 'HA')}])")
    text = text_of(root, "RE")
    value = parse_result(text)
    if value is None:
        raise RefusedError(f"no result (RE[{text[:20]}])" if text else "no result (RE missing)")
    actions = moves_of(nodes, size, bool(stated), most)
    if not actions:
        raise RefusedError("no moves")
    opening = _OPENING.search(text_of(root, "ON"))
    return ExpertGame(
        actions=tuple(actions),
        value=value,
        komi=number_of(text_of(root, "KM")),
        names=(text_of(root, "PB"), text_of(root, "PW")),
        source=source,
        opening=min(int(opening[1]), len(actions)) if opening else 0,
        margin=parse_margin(text, value),
    )


def about(nodes: Properties) -> dict[str, list[bytes]]:
    """What a game says of itself: in its root or, as some write it, in the next node, which may
    make the first move as well."""
    return {**(nodes[1] if len(nodes) > 1 else {}), **nodes[0]}


def moves_of(nodes: Properties, size: int, size_stated: bool, most: int) -> list[int]:
    """Actions of the main line, black's first. Raises RefusedError."""
    actions: list[int] = []
    for node in nodes:
        for colour in ("B", "W"):
            if colour not in node:
                continue
            if len(node[colour]) > 1:
                raise RefusedError("two moves in one node")
            if len(actions) == most:
                raise RefusedError(f"more than {most:,} moves")
            if colour != "BW"[len(actions) % 2]:
                raise RefusedError("white moves first" if not actions else
                               f"two moves in a row by {'black' if colour == 'B' else 'white'}")
            point = node[colour][0].strip()
            action = action_of(point, size)
            if action is None:
                if not size_stated:
                    raise RefusedError("no board size (SZ missing; 19 then)")
                raise RefusedError(f"move off the board ({_decode(point)[:10]})")
            actions.append(action)
    # Without SZ a board is 19x19; a game that stays in one corner of it all the time is not.
    if not size_stated and size != 19 and len(actions) < size:
        raise RefusedError("no board size (SZ missing; 19 then)")
    return actions


def action_of(point: bytes, size: int) -> int | None:
    """The action of an SGF point, or None where there is no such point."""
    beyond = bytes([ord("a") + size]) * 2  # as Lizzie writes a pass: "jj" on 9x9
    if not point or point == beyond or (point == b"tt" and size <= 19):
        return size * size
    if len(point) != 2:
        return None
    column, row = point[0] - ord("a"), size - 1 - (point[1] - ord("a"))
    return row * size + column if 0 <= column < size and 0 <= row < size else None


def parse_result(text: str) -> float | None:
    """RE as a result for black: 1, -1, 0 for a draw; None where it names no winner.

    Taken in: "B+3.5", "w+r", "B+", "B+Time", "W+Forfeit", "White wins by 2,5", "White resigns",
    "0", "0.0", "Draw", "Jigo", "B+0" (a draw). Not told: "", "?", "Void" and anything else.
    """
    plain = text.strip().lower()
    if plain in _DRAWS or plain.startswith(("draw", "jigo")) or re.fullmatch(r"0+[.,]?0*", plain):
        return 0.0
    if loser := _RESIGNS.match(plain):
        return -1.0 if loser[1].startswith("b") else 1.0
    match = _WIN.match(plain)
    if match is None or "?" in plain:
        return None
    if number_of(match[2]) == 0:
        return 0.0
    return 1.0 if match[1].startswith("b") else -1.0


def parse_margin(text: str, value: float) -> float | None:
    """The points in an RE whose result is ``value``, from black's side; None where none are."""
    if value == 0:
        return 0.0
    match = _WIN.match(text.strip().lower())
    points = number_of(match[2]) if match else None
    return None if points is None else value * points


def number_of(text: str) -> float | None:
    """The number that ``text`` begins with, or None."""
    match = _NUMBER.match(text.strip().replace(",", "."))
    return float(match[0]) if match else None


def text_of(node: dict[str, list[bytes]], name: str) -> str:
    """A property's value in one line; empty where there is none."""
    values = node.get(name)
    return _decode(sgf_grammar.simpletext_value(values[0])).strip() if values else ""


def _decode(raw: bytes) -> str:
    """UTF-8 where possible, else Latin-1, which always is: a garbled name is better than none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _check(game: Go, found: Sequence[ExpertGame], skipped: list[Skipped]) -> list[ExpertGame]:
    """Replay the games; those with illegal moves go to ``skipped``, or are cut."""
    kept = []
    for g, ply in zip(found, first_illegal(game, [g.actions for g in found]), strict=True):
        if ply < 0:
            kept.append(g)
            continue
        reason = _why_illegal(g.actions, ply, game.size)
        if reason is not None:
            skipped.append(Skipped(g.source, f"illegal move {ply + 1}: {reason}"))
        elif ply:
            kept.append(replace(g, actions=g.actions[:ply], opening=min(g.opening, ply)))
    return kept


def first_illegal(game: Game, games: Sequence[Sequence[int]]) -> list[int]:
    """The first ply of each game's actions that is illegal, or -1; many are replayed side by side.

    A move after the end of a game is illegal.
    """
    plies: list[int] = []
    for start in range(0, len(games), CHUNK):
        part = games[start : start + CHUNK]
        table = np.full((len(part), max(map(len, part))), -1, np.int64)
        for row, g in enumerate(part):
            table[row, : len(g)] = g
        plies += _first_illegal(game, table).tolist()
    return plies


def _first_illegal(game: Game, table: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [G]: the first ply of ``table`` int64 [G, T] (-1 pads) that is illegal, else -1."""
    rows = np.arange(len(table))
    first = np.full(len(table), -1, np.int64)
    states = game.new(len(table))
    for ply in range(table.shape[1]):
        wanted = np.where(first < 0, table[:, ply], -1)
        bad = (wanted >= 0) & ~game.legal(states)[rows, wanted]
        first[bad] = ply
        game.step(states, np.where(bad, -1, wanted))
    return first


def _why_illegal(actions: Sequence[int], ply: int, size: int) -> str | None:
    """Why ``actions[ply]`` is illegal, or None where all is well but for a repeated board or for
    a move after the game's end."""
    board = boards.Board(size)
    for number, action in enumerate(actions[: ply + 1]):
        if action == size * size:
            continue
        row, column = divmod(action, size)
        if board.get(row, column) is not None:
            return "the point is taken" if number == ply else None
        board.play(row, column, "bw"[number % 2])
    row, column = divmod(actions[ply], size)
    if actions[ply] < size * size and board.get(row, column) is None:
        return "suicide"
    return None


def to_sgf(game: Game, record: GameRecord, date: str | None = None) -> str:
    """One finished game of Go as SGF text on one line; ``date`` as "2024-05-01", if wanted.

    Raises UserError for other games.
    """
    if not isinstance(game, Go):
        raise UserError(f"{game.name}: SGF is written for Go only")
    size = game.size
    root = head(
        game, PB=record.players[0], PW=record.players[1], RE=record.result,
        ON=f"random opening, {record.opening} plies" if record.opening else "", DT=date or "",
        GC=game.rules)
    moves = "".join(f";{'BW'[ply % 2]}[{sgf_point(action, size)}]"
                    for ply, action in enumerate(record.actions))
    return f"(;{root}{moves})\n"


def head(game: Go, stones: ArrayLike = (), to_play: int = 0, **more: str) -> str:
    """The properties that a game begins with. stones: int [N*N], 1 black, -1 white, set up before
    the first move, with ``to_play`` to move then. more: properties; empty ones are left out."""
    board = np.asarray(stones, np.int8)
    cells = {"AB": np.flatnonzero(board == 1), "AW": np.flatnonzero(board == -1)}
    handicap = len(cells["AB"]) if to_play and not len(cells["AW"]) else 0
    properties = {"GM": "1", "FF": "4", "CA": "UTF-8", "AP": "selfplay", "SZ": str(game.size),
                  "KM": f"{game.komi:g}", "RU": game.ruleset,
                  "HA": str(handicap) if handicap > 1 else "", **more}
    text = "".join(f"{key}[{escape(value)}]" for key, value in properties.items() if value)
    text += "".join(f"{key}{''.join(f'[{sgf_point(cell, game.size)}]' for cell in found.tolist())}"
                    for key, found in cells.items() if len(found))
    return text + (f"PL[{'BW'[to_play]}]" if board.any() or to_play else "")


def sgf_point(action: int, size: int) -> str:
    """SGF's name of an action's point; empty for a pass."""
    if action == size * size:
        return ""
    row, column = divmod(action, size)
    return chr(ord("a") + column) + chr(ord("a") + size - 1 - row)


def escape(text: str) -> str:
    """``text`` as the value of a property, in one line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("]", "\\]")


def write_collection(path: Path, texts: Iterable[str]) -> None:
    """Many games in one file, gzipped where it ends in .gz: atomic, the same bytes every time."""
    data = "".join(texts).encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=9, mtime=0)
    write_atomic(path, data)
