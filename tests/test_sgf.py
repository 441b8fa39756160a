from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sgfmill import sgf as sgfmill_sgf

from selfplay.arena.collection import Properties, Skipped, trees
from selfplay.arena.records import GameRecord
from selfplay.arena.sgf import (
    ExpertGame,
    RefusedError,
    _main_line,
    parse_result,
    read_games,
    to_sgf,
    write_collection,
)
from selfplay.common.errors import UserError
from selfplay.games import make

GAME = make("go5x5")
MOVES = ";B[bb];W[cc];B[dd]"


def sgf(moves: str = MOVES, **properties: str) -> str:
    """An SGF text; defaults that are overwritten, or dropped with None."""
    root = {"GM": "1", "FF": "4", "SZ": "5", "KM": "7", "RE": "B+3.5", "PB": "x", "PW": "y"}
    root.update(properties)
    return "(;" + "".join(f"{k}[{v}]" for k, v in root.items() if v is not None) + moves + ")"


def read(tmp_path: Path, text: str | bytes, name: str = "game.sgf"):
    """(games, skipped) of one file beside one good game."""
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "a-good.sgf").write_text(sgf())
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    games, skipped = read_games([folder], GAME)
    assert games[0].source.endswith("a-good.sgf")
    return games[1:], skipped


def only(tmp_path: Path, text: str | bytes):
    games, skipped = read(tmp_path, text)
    assert not skipped
    (game,) = games
    return game


def refusal(tmp_path: Path, text: str | bytes, name: str = "game.sgf") -> str:
    games, skipped = read(tmp_path, text, name)
    assert not games
    (item,) = skipped
    assert item.file.endswith(name)
    return item.reason


def test_a_plain_game(tmp_path: Path) -> None:
    game = only(tmp_path, sgf(";B[ba];W[ee];B[];W[tt]", PB=r"a\]b", KM="6,5", RE="W+0,5"))
    assert game.actions == (4 * 5 + 1, 0 * 5 + 4, 25, 25)  # the top row is row 4
    assert (game.value, game.komi, game.names, game.opening) == (-1.0, 6.5, ("a]b", "y"), 0)


@pytest.mark.parametrize("second", [";RE[W+0.5]PB[Anna]", ";B[ba]RE[W+0.5]PB[Anna]"])
def test_what_a_game_says_of_itself_in_its_second_node(second: str, tmp_path: Path) -> None:
    moves = second + ";B[cc]" * ("B[ba]" not in second) + ";W[ee]"
    game = only(tmp_path, sgf(moves, RE=None, PB=None))
    assert (game.value, game.names, len(game.actions)) == (-1.0, ("Anna", "y"), 2)


@pytest.mark.parametrize(("text", "value"), [
    ("B+3.5", 1), ("W+Resign", -1), ("W+R", -1), ("w+r", -1), ("B+Time", 1), ("B+T", 1),
    ("B+Forfeit", 1), ("b+1,5", 1), ("B+", 1), ("W+12", -1), (" B + 4 ", 1), ("Black+R", 1),
    ("White wins by 2.5 points", -1), ("B+3.5 (moves beyond 80)", 1),
    ("0", 0), ("Draw", 0), ("draw", 0), ("Jigo", 0), ("JIGO", 0), ("B+0", 0), ("W+0.0", 0),
    ("Void", None), ("?", None), ("", None), ("B", None), ("B+?", None), ("unfinished", None),
    ("weiqi", None), ("Both lose", None),
])
def test_results_as_servers_write_them(text: str, value: float | None) -> None:
    assert parse_result(text) == value


@given(st.text(max_size=20))
def test_any_text_is_some_result_or_none(text: str) -> None:
    assert parse_result(text) in (1.0, 0.0, -1.0, None)


@pytest.mark.parametrize(("text", "reason"), [
    (sgf(SZ="9"), "board size 9"),
    (sgf(SZ="5:7"), "board size 5:7"),
    (sgf(SZ=None), "no board size"),
    (sgf(GM="2"), "not Go"),
    (sgf(AB="cc"), "set-up stones"),
    (sgf(";B[bb];AW[cc];W[dd]"), "set-up stones"),
    (sgf(HA="2"), "handicap"),
    (sgf(RE="Void"), "no result (RE[Void])"),
    (sgf(RE=None), "RE missing"),
    (sgf(""), "no moves"),
    (sgf(";W[bb];B[cc]"), "white moves first"),
    (sgf(";B[bb];B[cc];W[dd]"), "two moves in a row by black"),
    (sgf(";B[bb];W[cc];W[dd]"), "two moves in a row by white"),
    (sgf(";B[bb];W[bb]"), "illegal move 2: the point is taken"),
    (sgf(";B[bb];W[zz]"), "off the board (zz)"),
    (sgf(";B[ab];W[dd];B[ba];W[aa]"), "illegal move 4: suicide"),
    ("", "not SGF"),
    ("hello", "not SGF"),
    (sgf()[:-1], "not SGF"),
    (sgf() [:-8], "not SGF"),
])
def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_a_missing_size_is_told_from_the_moves(tmp_path: Path) -> None:
    moves = ";B[aa];W[ba];B[ca];W[da];B[ea]"
    assert len(only(tmp_path, sgf(moves, SZ=None)).actions) == 5
    assert "19" in refusal(tmp_path, sgf(moves + ";W[pd]", SZ=None))


def test_main_line_comments_and_unknown_properties(tmp_path: Path) -> None:
    text = sgf(";B[bb]C[a comment \\] with (;W[aa\\])]BL[10];C[no move](;W[cc];B[dd])(;W[ee])")
    assert only(tmp_path, text).actions == only(tmp_path, sgf()).actions


def test_a_repeated_board_cuts_the_game_and_keeps_its_result(tmp_path: Path) -> None:
    """White retakes a ko at once."""
    ko = ";B[ba];W[ca];B[ab];W[db];B[bc];W[cc];B[ee];W[bb];B[cb]"
    game = only(tmp_path, sgf(ko + ";W[bb];B[aa]", RE="W+R"))
    assert len(game.actions) == 9 and game.value == -1.0


def test_moves_after_two_passes_are_cut(tmp_path: Path) -> None:
    game = only(tmp_path, sgf(";B[bb];W[];B[];W[cc];B[dd]"))
    assert game.actions == (16, 25, 25)


@pytest.mark.parametrize(("charset", "name"), [
    ("UTF-8", "李昌鎬"), ("Shift_JIS", "ソ表十"), ("GB18030", "李昌镐"), ("Big5", "許功蓋"),
    ("ISO-8859-1", "Jörg"),
])
def test_encodings(tmp_path: Path, charset: str, name: str) -> None:
    """In Shift-JIS and Big5 some of these letters end in the byte of a backslash."""
    assert only(tmp_path, sgf(PB=name, CA=charset).encode(charset)).names[0] == name


def test_broken_encodings_still_give_the_game(tmp_path: Path) -> None:
    for text in (sgf(PB="Jörg").encode("latin-1"), sgf(PB="Jörg", CA="UTF-8").encode("latin-1"),
                 sgf(PB="Jörg", CA="klingon").encode(), b"\xef\xbb\xbf" + sgf(PB="Jörg").encode(),
                 sgf(PB="Jörg").encode("utf-16")):
        game = only(tmp_path, text)
        assert game.actions and game.names[0].startswith("J")


def test_collections_zips_and_gzips(tmp_path: Path) -> None:
    pair = sgf(PB="1") + "\n" + sgf(PB="2")
    torn = sgf(PB="3")[:-6]
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "pair.SGF").write_text(pair)
    (folder / "pair.sgf.gz").write_bytes(gzip.compress(pair.encode()))
    (folder / "torn.sgf").write_text(torn + sgf(PB="4"))
    (folder / "notes.txt").write_text("no game")
    (folder / "bad.sgf.gz").write_bytes(gzip.compress(pair.encode())[:40])
    (folder / "bad.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("x/one.sgf", sgf(PB="5"))
        archive.writestr("x/two.sgf.gz", gzip.compress(sgf(PB="6").encode()))
        archive.writestr("readme.txt", "no game")
    games, skipped = read_games([tmp_path], GAME)
    assert [g.names[0] for g in games] == ["5", "6", "1", "2", "1", "2", "4"]
    assert sorted(Path(item.file.split(",")[0]).name for item in skipped) == [
        "bad.sgf.gz", "bad.zip", "torn.sgf"]
    assert games[0].source.endswith("all.zip:x/one.sgf")
    assert games[3].source.endswith("pair.SGF, game 2")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damaged_zips_are_named_and_skipped(tmp_path: Path, kind: int) -> None:
    """Every byte in turn: packed text, sizes, offsets, names."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", kind) as archive:
        archive.writestr("ä.sgf", sgf())
    whole, reasons = (tmp_path / "x.zip").read_bytes(), set()
    (tmp_path / "x.zip").unlink()
    for place in range(len(whole)):
        torn = whole[:place] + b"\xff" + whole[place + 1 :]
        games, skipped = read(tmp_path, torn, "x.zip")
        assert len(games) + len(skipped) <= 1
        reasons |= {item.reason for item in skipped}
    assert any("unreadable" in reason for reason in reasons)


def test_a_corrupt_lzma_member_is_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.sgf", sgf())
        archive.writestr("b.sgf", sgf(PB="whole"))
    data = bytearray(path.read_bytes())
    start = data.index(b"a.sgf") + len("a.sgf")
    data[start + 4 : start + 40] = b"\xff" * 36  # after the version and the size of the settings
    path.unlink()
    games, (item,) = read(tmp_path, bytes(data), "x.zip")
    assert [game.names[0] for game in games] == ["whole"]
    assert item.file.endswith("x.zip:a.sgf") and item.reason.startswith("unreadable")


@pytest.mark.parametrize(("digits", "opening"), [
    ("2", 2), ("9999", 3), pytest.param("9" * 5000, 0, id="5000 digits"),
])
def test_an_opening_is_no_longer_than_the_game(tmp_path: Path, digits: str, opening: int) -> None:
    assert only(tmp_path, sgf(ON=f"random opening, {digits} plies")).opening == opening


def test_nothing_left_is_one_line_with_the_sizes_found(tmp_path: Path) -> None:
    for number, size in enumerate(("19", "19", "9")):
        (tmp_path / f"{number}.sgf").write_text(sgf(SZ=size))
    with pytest.raises(UserError) as caught:
        read_games([tmp_path], GAME)
    message = str(caught.value)
    assert "board size 19 (2: 0.sgf …)" in message and "board size 9 (1: 2.sgf)" in message
    assert "go5x5" in message and "\n" not in message


def test_wrong_paths_and_games() -> None:
    with pytest.raises(UserError, match="no such file"):
        read_games([Path("/nowhere/x.sgf")], GAME)
    with pytest.raises(UserError, match="Go only"):
        read_games([], make("tictactoe"))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file there"):
        read_games([tmp_path], GAME)


def record(seed: int, plies: int) -> GameRecord:
    """A random game of legal moves, cut after ``plies``."""
    rng, states, actions = np.random.default_rng(seed), GAME.new(1), []
    for _ in range(plies):
        legal = np.flatnonzero(GAME.legal(states)[0])
        if not len(legal):
            break
        actions.append(int(rng.choice(legal)))
        GAME.step(states, np.array(actions[-1:]))
    score = float(GAME.score(states)[0])
    return GameRecord(0, seed, ("a]b \\c", "y"), tuple(actions), min(2, len(actions)),
                      float(np.sign(score)), score, "two passes")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, seed: int,
                                    plies: int) -> None:
    played = record(seed, plies)
    file = tmp_path_factory.mktemp("sgf") / "games.sgf.gz"
    write_collection(file, [to_sgf(GAME, played)] * 2)
    games, skipped = read_games([file], GAME)
    assert not skipped and len(games) == 2
    assert games[0].actions == played.actions
    assert games[0].value == played.value
    assert games[0].names == played.players
    assert games[0].opening == played.opening and games[0].komi == 7.0


def test_sgfmill_reads_the_same_game() -> None:
    played = record(3, 30)
    theirs = sgfmill_sgf.Sgf_game.from_string(to_sgf(GAME, played, date="2024-05-01"))
    moves = [node.get_move() for node in theirs.get_main_sequence()[1:]]
    points = [25 if point is None else point[0] * 5 + point[1] for _, point in moves]
    assert tuple(points) == played.actions
    assert [colour for colour, _ in moves] == ["bw"[k % 2] for k in range(len(moves))]
    root = theirs.get_root()
    assert (theirs.get_size(), theirs.get_komi()) == (5, 7.0)
    assert theirs.get_winner() == {1.0: "b", -1.0: "w", 0.0: None}[played.value]
    assert root.get("DT") == "2024-05-01" and root.get("PB") == "a]b \\c"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_a_game_or_a_reason(data: st.DataObject) -> None:
    raw = bytearray((sgf(CA="UTF-8") + sgf(";B[aa](;W[bb])(;W[cc])")).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    skipped: list[Skipped] = []
    read = [game for name, nodes in trees("x", bytes(raw), skipped, 1000)
            if (game := _game_or_reason(nodes, name, skipped))]
    assert read or skipped
    for game in read:
        assert game.value in (-1, 0, 1) and all(0 <= a <= 25 for a in game.actions)


def _game_or_reason(nodes: Properties, name: str, skipped: list[Skipped]) -> ExpertGame | None:
    try:
        return _main_line(nodes, name, 5, 100)
    except RefusedError as refusal:
        skipped.append(Skipped(name, str(refusal)))
        return None


def test_the_same_games_give_the_same_bytes(tmp_path: Path) -> None:
    texts = [to_sgf(GAME, record(seed, 20)) for seed in range(3)]
    for name in ("a.sgf.gz", "b.sgf.gz"):
        write_collection(tmp_path / name, texts)
    data = (tmp_path / "a.sgf.gz").read_bytes()
    assert data == (tmp_path / "b.sgf.gz").read_bytes()
    assert data[4:8] == bytes(4)  # no time of writing inside


@pytest.mark.parametrize(("value", "score", "end", "text"), [
    (1.0, 3.5, "two passes", "B+3.5"), (-1.0, -12.0, "max moves", "W+12"),
    (0.0, 0.0, "two passes", "0"), (-1.0, None, "resignation", "W+R"),
    (1.0, None, "illegal move by x (D4)", "B+F"),
])
def test_the_result_on_record(value: float, score: float | None, end: str, text: str) -> None:
    played = GameRecord(0, 0, ("x", "y"), (12,), 0, value, score, end)
    assert played.result == text
    assert f"RE[{text}]" in to_sgf(GAME, played)
    assert parse_result(text) == value
