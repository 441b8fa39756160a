"""SGF files as they are found: broken games in collections, letters of two bytes, bombs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.arena import collection
from selfplay.arena.collection import Skipped, cut, trees
from selfplay.arena.sgf import read_files, read_games
from selfplay.games import make

FILES = Path(__file__).parent / "data" / "sgf"
GAME = make("go9x9")
TEN = (40, 38, 60, 56, 23, 21, 30, 29, 22, 12)  #: what the files' sound games begin with


def read(name: str):
    skipped: list[Skipped] = []
    return read_files([FILES / name], GAME, skipped), skipped


@pytest.mark.parametrize(("name", "value"), [
    ("01-bom", 1), ("02-utf16", 1), ("04-trailing-semicolon", 1), ("18-re-second-node", 1),
    ("23-re-words", 1), ("24-re-white-resigns", 1), ("31-sjis-noCA-5c-before-bracket", 1),
    ("40-sjis-noCA-5d-name", 1), ("43-says-gbk-is-utf8", 1),
])
def test_a_game_as_found_is_read(name: str, value: float) -> None:
    (game,), skipped = read(f"{name}.sgf")
    assert (game.actions, game.value, skipped) == (TEN, value, [])


def test_names_come_through_their_encoding() -> None:
    assert read("40-sjis-noCA-5d-name.sgf")[0][0].names == ("江鋳久", "b")
    assert read("43-says-gbk-is-utf8.sgf")[0][0].names == ("中", "中")


def test_jj_is_a_pass_on_9x9() -> None:
    (game,), _ = read("06-lizzie-pass-jj.sgf")
    assert game.actions == (*TEN, 81, 81)


@pytest.mark.parametrize(("name", "reason"), [
    ("11-unescaped-bracket", "not SGF"), ("29-double-B-in-node", "two moves in one node"),
    ("32-sjis-noCA-5c-hides-AB", "set-up stones"), ("13-re-chinese", "no result"),
])
def test_what_cannot_be_used_says_why(name: str, reason: str) -> None:
    games, (skipped,) = read(f"{name}.sgf")
    assert not games and reason in skipped.reason and "\n" not in skipped.reason


@pytest.mark.parametrize(("name", "good"), [
    ("50-collection-broken-2-GM", 4), ("51-collection-broken-2-BR", 4), ("56-truncated-last", 2),
    ("club-BR", 199),
])
def test_a_broken_game_spoils_only_itself(name: str, good: int) -> None:
    games, skipped = read(f"{name}.sgf")
    assert (len(games), len(skipped)) == (good, 1)
    assert "not SGF" in skipped[0].reason


def test_an_empty_set_up_is_none() -> None:
    from selfplay.arena.sgf import _main_line
    (name, nodes), = trees("x", b"(;SZ[9]RE[B+R]AB[];B[ee])", [], 100)
    assert _main_line(nodes, name, 9, 100).actions == (40,)


SOUND = b"(;%s[1d]SZ[9]RE[B+R]PB[%d]C[a \\] (;b];B[ee](;W[ce])(;W[gc]))"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([
    "sound", "stray bracket", "never closed", "value never ends", "text", "other case"]),
    min_size=1, max_size=12), st.sampled_from([b"BR", b"GM", b"ZZ", b"gaMe"]))
def test_read_and_named_are_what_is_there(kinds: list[str], first: bytes) -> None:
    """One game a line: every sound one is read, and nothing else is but named."""
    lines, sound = [], 0
    for number, kind in enumerate(kinds):
        game = SOUND % (first, number)
        sound += kind in ("sound", "other case")
        lines.append({"sound": game, "other case": game.replace(b"(;", b"(\t;", 1),
                      "stray bracket": game.replace(b"B[ee]", b"B[e]e]"),
                      "never closed": game[:-1].replace(b"(;W[ce])(;W[gc])", b""),
                      "value never ends": game[:game.index(b"]C[")] + b"",
                      "text": b"no game at all"}[kind])
    skipped: list[Skipped] = []
    found = list(trees("x", b"\n".join(lines), skipped, 1000))
    assert len(found) == sound
    texts = sum(a == "text" and (k == 0 or kinds[k - 1] not in ("never closed", "value never ends")
                                 ) and (k == 0 or kinds[k - 1] != "text")
                for k, a in enumerate(kinds))
    broken = sum(kind not in ("sound", "other case", "text") for kind in kinds)
    assert len(skipped) == texts + broken


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["Shift_JIS", "Big5", "GB18030", "UTF-8", "ISO-8859-1"]),
                min_size=1, max_size=6), st.booleans())
def test_every_game_of_a_collection_has_its_own_encoding(charsets: list[str], spaced: bool) -> None:
    names = {"Shift_JIS": "ソ表十能", "Big5": "許功蓋", "GB18030": "李昌镐", "UTF-8": "李昌鎬",
             "ISO-8859-1": "Jörg"}
    data = (b"\n" if spaced else b"").join(
        f"(;CA[{c}]SZ[9]RE[B+R]PB[{names[c]}]EV[x];B[ee])".encode(c) for c in charsets)
    skipped: list[Skipped] = []
    found = [nodes[0]["PB"][0] for _, nodes in trees("x", data, skipped, 100)]
    assert not skipped and len(found) == len(charsets)
    for name, charset in zip(found, charsets, strict=True):
        if charset != "UTF-8":  # alone it is decoded later
            assert name.decode() == names[charset]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200).map(lambda b: b.replace(b"x", b"(;").replace(b"y", b"]")))
def test_any_bytes_are_cut_into_all_of_their_parts(data: bytes) -> None:
    pieces = list(cut(data))
    if data.isascii():
        assert b"".join(b"".join(p.data.split()) for p in pieces) == b"".join(data.split())


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "MOST_BYTES", 1 << 20)
    (tmp_path / "bomb.sgf.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    (tmp_path / "good.sgf").write_bytes((FILES / "23-re-words.sgf").read_bytes())
    games, (skipped,) = read_games([tmp_path], GAME)
    assert len(games) == 1 and "more than 1 MB" in skipped.reason


@pytest.mark.parametrize("text", [
    "(;SZ[9]RE[B+R]" + ";B[aa];W[bb]" * 100_000 + ")",
    "(;SZ[9]RE[B+R]" + "(;B[aa]" * 100_000 + ")" * 100_001,
    "(;SZ[9]RE[B+R]" + ";B[];W[]" * 300 + ")",
], ids=["long", "nested", "longer than a game"])
def test_a_game_without_end_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.sgf").write_text(text)
    (tmp_path / "b.sgf").write_bytes((FILES / "23-re-words.sgf").read_bytes())
    games, (skipped,) = read_games([tmp_path], GAME)
    assert len(games) == 1 and "more than" in skipped.reason and "moves" in skipped.reason


def test_many_games_that_are_never_closed_are_each_named() -> None:
    skipped: list[Skipped] = []
    assert not list(trees("x", b"(;SZ[9];B[aa]\n" * 20_000, skipped, 100))
    assert len(skipped) == 20_000


@pytest.mark.parametrize("data", [b"(;" * 20_000, b"(;C[a](;B[" * 5_000], ids=["bare", "values"])
def test_a_line_of_games_that_are_never_closed_is_not_read_again_for_each(data: bytes) -> None:
    """Scans of the structure, counted: for each game to the end it would be 10^9 bytes."""
    seen = 0
    search = collection._STRUCTURE.search

    class Counted:
        @staticmethod
        def search(*words: int) -> object:
            nonlocal seen
            seen += 1
            return search(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "_STRUCTURE", Counted)
        pieces = list(cut(data))
    assert b"".join(p.data for p in pieces) == data
    assert seen < 600 * len(data)


@pytest.mark.parametrize("codec", ["zlib", "hex", "rot13", "base64"])
def test_a_charset_that_is_none_of_letters_spoils_only_its_game(tmp_path: Path, codec: str) -> None:
    good = (FILES / "23-re-words.sgf").read_bytes()
    bad = b"(;GM[1]CA[" + codec.encode() + b"]SZ[9]KM[7]RE[B+3];B[ee];W[cc]C[\xff])"
    (tmp_path / "a.sgf").write_bytes(good + bad + good.replace(b"[ee]", b"[dd]"))
    games, skipped = read_games([tmp_path], GAME)
    assert len(games) + len(skipped) == 3 and len(games) >= 2
