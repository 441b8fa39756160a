"""Files of SGF games as bytes: unpacked, cut into games, in an encoding that can be parsed.

A broken game spoils only itself: reading goes on at the next ``(;`` that is not inside a value.
What stands between games and is none is named. Shift-JIS, Big5 and GBK have letters whose second
byte is that of a backslash or a bracket, so cutting has to know the encoding: text that is valid
UTF-8 is UTF-8, whatever ``CA`` says; else each game's own ``CA`` holds; else, where the plain
reading breaks or looks wrong, the East Asian encodings are tried.
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from sgfmill import sgf_grammar

from selfplay.common.words import clip

SUFFIXES = (".sgf", ".sgf.gz", ".zip")
MOST_BYTES = 1 << 28  #: of one unpacked file or member of a zip
GAME_BYTES = 1 << 23  #: of one game, its comments and variations included
NAMED, REASON = 60, 160  #: characters of a text that is no game, and of a reason

Properties = list[dict[str, list[bytes]]]  # the main line, one dict a node

_GAME = re.compile(rb"\(\s*;")
_LINE_GAME = re.compile(rb"[\r\n][ \t]*\(\s*;")
#: The end of a value that has run on into the next game, up to that one's first bracket.
_SPILLED = re.compile(rb"[\r\n][ \t]*\(\s*;[^\[\]]*\[[^\[\]]*\Z")
_STRUCTURE = re.compile(rb"[\[\]()]")
_SHIFT_JIS = re.compile(rb"[\x81-\x9f\xe0-\xfc].|[\\\]]", re.DOTALL)
_DOUBLE = re.compile(rb"[\x81-\xfe].|[\\\]]", re.DOTALL)
_SINGLE = re.compile(rb"[\\\]]")
_CHARSET = re.compile(rb"CA\s*\[\s*([A-Za-z0-9_.:-]{1,40})\s*\]")
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
               NotImplementedError)  # ValueError: a zip's names, offsets
_EAST_ASIAN = ("cp932", "big5", "gb18030", "cp949")
#: A letter's second byte taken for a backslash leaves a value that holds the next property.
_SWALLOWED = re.compile(rb"[\x80-\xff]\\\][ \t\r\n]*[A-Za-z]{1,20}[ \t\r\n]*\[")
#: Wider sets that hold what files say they are in.
_WIDER = {"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949",
          "big5hkscs": "big5", "cp950": "big5"}
MOST_UNCLOSED = 50  #: games of a file that are never closed, before each line's ``(;`` is a game


class Skipped(NamedTuple):
    """A game, or a whole file, that was left out."""

    file: str
    reason: str


class Piece(NamedTuple):
    """A part of a file: one game, sound or broken, or text that is none."""

    data: bytes
    is_game: bool


def walk_contents(files: Iterable[Path], skipped: list[Skipped]) -> Iterator[tuple[str, bytes]]:
    """(name, SGF bytes) of every SGF file, those inside zips included."""
    for file in files:
        try:
            if file.name.lower().endswith(".zip"):
                yield from _members(file, skipped)
            else:
                yield str(file), read_unpacked(file)
        except UNREADABLE as error:
            skipped.append(Skipped(str(file), unreadable(error)))


def read_unpacked(file: Path) -> bytes:
    """The bytes of a file, unzipped where it ends in .gz. Raises one of UNREADABLE."""
    with file.open("rb") as stream:
        return _unpacked(file.name, stream)


def unreadable(error: Exception) -> str:
    """The reason in words; gzip's shows bytes."""
    return "unreadable: " + clip(re.sub(r" \(b['\"].*", "", str(error)), REASON)


def _members(file: Path, skipped: list[Skipped]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for member in sorted(archive.namelist()):
            if not member.lower().endswith((".sgf", ".sgf.gz")):
                continue
            name = f"{file}:{member}"
            try:
                with archive.open(member) as stream:
                    data = _unpacked(member, stream)
            except (*UNREADABLE, RuntimeError) as error:  # RuntimeError: it is encrypted
                skipped.append(Skipped(name, unreadable(error)))
                continue
            yield name, data


def _unpacked(name: str, stream: IO[bytes]) -> bytes:
    """All bytes of ``stream``. Raises ValueError where they are too many."""
    source: Any = gzip.GzipFile(fileobj=stream) if name.lower().endswith(".gz") else stream
    data: bytes = source.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MB; cut the file into smaller ones")
    return data


# ------------------------------------------------------------------------------------ games


def trees(
    source: str, data: bytes, skipped: list[Skipped], most_nodes: int
) -> Iterator[tuple[str, Properties]]:
    """(name, main line) of every game in a file; what is broken, too large or no game is named.

    most_nodes: nodes of a game, variations included, beyond which it is left out.
    """
    pieces = list(cut(data))
    games = sum(piece.is_game for piece in pieces)
    number = 0
    for piece in pieces:
        if not piece.is_game:
            text = clip(piece.data.decode("utf-8", "replace"), NAMED)
            skipped.append(Skipped(source, f"not SGF: {text!r} is no game"))
            continue
        number += 1
        name = source if games == 1 else f"{source}, game {number}"
        reason = _too_large(piece.data, most_nodes)
        tree = None if reason else _parsed(piece.data)
        if tree is None:
            skipped.append(Skipped(name, reason or f"not SGF: {_why(piece.data)}"))
            continue
        yield name, list(sgf_grammar.main_sequence_iter(tree))
    if not pieces:
        skipped.append(Skipped(source, "not SGF: no SGF data found"))


def cut(data: bytes) -> Iterator[Piece]:
    """The games of a file, and the texts between them, in order and in UTF-8 where it is known."""
    data, known = _without_mark(data)
    place, unclosed, looked = 0, 0, 0
    while (found := _GAME.search(data, place)) is not None:
        start = found.start()
        if between := data[place:start].strip():
            yield Piece(between, False)
        charset = known or _stated(data, start)
        # A file of games that are never closed would else be read to its end for each.
        limit = len(data)
        if unclosed > MOST_UNCLOSED:
            limit = _next_line_game(data, start)
            looked += limit - start
            if looked > MOST_UNCLOSED * len(data):
                place = start
                break
        place, charset = _extent(data, start, limit, charset)
        if place < 0:
            unclosed += 1
            place = _next_start(data, start)
        yield Piece(_in_utf8(data[start:place], charset), True)
    if rest := data[place:].strip():
        yield Piece(rest, False)


def _extent(
    data: bytes, start: int, limit: int, charset: str | None
) -> tuple[int, str | None]:
    """(where the game at ``start`` ends, its encoding); -1 where it is never closed."""
    end, sound = _end(data, start, limit, charset)
    if sound or charset is not None:
        return end, charset
    for guess in _EAST_ASIAN:
        other, fits = _end(data, start, limit, guess)
        if fits and not data[start:other].isascii() and _recoded(data[start:other], guess):
            return other, guess
    return end, None


def _without_mark(data: bytes) -> tuple[bytes, str | None]:
    """(the file without its byte order mark, "utf-8" where all of it is)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace").encode(), "utf-8"
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data, None
    return data, "utf-8"


def _stated(data: bytes, start: int) -> str | None:
    """The encoding that the game at ``start`` names, as Python knows it."""
    root_end = data.find(b";", data.index(b";", start) + 1)
    found = _CHARSET.search(data, start, root_end if root_end > 0 else len(data))
    try:
        name = codecs.lookup(found[1].decode()).name if found else None
    except LookupError:
        return None
    return _WIDER.get(name, name) if name else None


def _end(data: bytes, start: int, limit: int, charset: str | None) -> tuple[int, bool]:
    """(where the game at ``start`` ends, -1 where it is never closed before ``limit``; whether its
    brackets are sound)."""
    depth, place, sound = 0, start, True
    letters = _letters_of(charset)
    while (found := _STRUCTURE.search(data, place, limit)) is not None:
        place, what = found.end(), found[0]
        if what == b"(":
            depth += 1
        elif what == b")":
            depth -= 1
            if depth == 0:
                return place, sound
        elif what == b"]":
            sound = False
        else:
            close = _value_end(data, place, limit, letters)
            if close < 0 or (close > place + 4 and _SPILLED.search(data, place, close)):
                break
            place = close + 1
    return -1, False


def _letters_of(charset: str | None) -> re.Pattern[bytes]:
    """What to stop at in a value: letters of two bytes, whose second may be any, "\\\\" and "]"."""
    if charset == "cp932":
        return _SHIFT_JIS
    return _DOUBLE if charset in _EAST_ASIAN else _SINGLE


def _value_end(data: bytes, place: int, limit: int, letters: re.Pattern[bytes]) -> int:
    """Where the value that begins at ``place`` has its bracket; -1 where it has none."""
    while (found := letters.search(data, place, limit)) is not None:
        if found[0] == b"]":
            return found.start()
        place = found.end() + (found[0] == b"\\")
    return -1


def _next_start(data: bytes, start: int) -> int:
    """Where to go on behind a game that is never closed: at the next ``(;`` outside its values, or
    that begins a line, as the value which never ends may seem to hold all the rest."""
    place, end = start + 1, _next_line_game(data, start)
    while (found := _STRUCTURE.search(data, place, end)) is not None:
        place = found.end()
        if found[0] == b"(" and _GAME.match(data, found.start()):
            return found.start()
        if found[0] == b"[":
            close = _value_end(data, place, end, _SINGLE)
            if close < 0:
                break
            place = close + 1
    return end


def _next_line_game(data: bytes, start: int) -> int:
    """The next ``(;`` behind ``start`` that begins a line; the file's end where there is none."""
    found = _LINE_GAME.search(data, start + 1)
    return data.index(b"(", found.start()) if found else len(data)


def _in_utf8(game: bytes, charset: str | None) -> bytes:
    """A game in UTF-8 where its encoding is known or told; else as it is."""
    if charset == "utf-8":
        return game
    if charset is not None:
        try:
            return game.decode(charset).encode()
        except (ValueError, LookupError):  # LookupError: a codec of bytes, such as zlib
            return game
    if not game.isascii() and _SWALLOWED.search(game):
        for guess in _EAST_ASIAN:
            told = _recoded(game, guess)
            if told is not None:
                return told
    return game


def _recoded(game: bytes, charset: str) -> bytes | None:
    """A game of ``charset`` in UTF-8; None where it cannot be in it: a byte is no letter's, it does
    not parse, or a value still swallows a property."""
    try:
        told = game.decode(charset).encode()
    except (ValueError, LookupError):
        return None
    return told if _parsed(told) is not None and not _SWALLOWED.search(told) else None


def _too_large(game: bytes, most_nodes: int) -> str:
    """Why a game is not even parsed; empty where it is."""
    if len(game) > GAME_BYTES:
        return f"a game of {len(game) >> 20} MB"
    if game.count(b";") > most_nodes:
        return f"more than {most_nodes:,} moves and variations"
    return ""


def _parsed(game: bytes) -> sgf_grammar.Coarse_game_tree | None:
    try:
        return sgf_grammar.parse_sgf_game(game)
    except ValueError:
        return None


def _why(game: bytes) -> str:
    try:
        sgf_grammar.parse_sgf_game(game)
    except ValueError as error:
        return clip(str(error), REASON)
    return ""
