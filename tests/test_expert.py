from __future__ import annotations

import gzip
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay.arena.expert import (
    Generated,
    generate,
    made_so_far,
    read_expert,
    reopen,
    unfinished,
    write_games,
)
from selfplay.arena.play import play_games, seated
from selfplay.arena.players import parse_player
from selfplay.arena.records import GameRecord
from selfplay.common.errors import UserError
from selfplay.games import make

FAKE = Path(__file__).with_name("fake_gtp.py")
TTT, GO = make("tictactoe"), make("go5x5")

#: Game 1 of seed 0 by GNU Go 3.8, level 10, on 9x9, komi 7: made with a client of its own.
GNUGO_GAME = (
    "C8 H8 G5 H3 E7 E3 H6 C4 G3 G2 H4 F3 G4 H2 B6 B5 C6 A6 A7 A5 C5 B4 B7 D5 D6 E5 F6 J4 J5 "
    "J3 F4 E4 E6 F5 H7 J1 G8 G1 G7 F2 H9 D4 G9 PASS J8 PASS G6 PASS J6 PASS B8 PASS PASS"
)


def fake(behaviour: str, **options: object) -> str:
    words = [sys.executable, str(FAKE), behaviour, *(f"{k}={v}" for k, v in options.items())]
    return "gtp:" + shlex.join(words)


def make_games(out: Path, game: Any = TTT, player: str = "random", games: int = 12,
               **more: Any) -> Generated:
    return generate(game, player, games, out, **{"seed": 1, "opening": (0, 3), "slots": 4, **more})


def test_the_file_depends_on_seed_and_openings_only(tmp_path: Path) -> None:
    files = {}
    for name, more in {"one": {"slots": 1}, "many": {"slots": 12}, "seed": {"seed": 2},
                       "opening": {"opening": (1, 1)}}.items():
        made = make_games(tmp_path / f"{name}.jsonl.gz", **more)
        files[name] = made.path.read_bytes()
    assert files["one"] == files["many"]
    assert len(set(files.values())) == 3
    assert not list(tmp_path.glob("*partial*"))


def test_games_read_back_as_they_were_played(tmp_path: Path) -> None:
    out = tmp_path / "games.jsonl.gz"
    made = make_games(out)
    player = parse_player("random", TTT)
    records = play_games(TTT, player, player, games=12, seed=1, opening=(0, 3), slots=1,
                         paired=False)
    expected = {record.actions: record for record in records}
    games, skipped = read_expert([out], TTT)
    assert not skipped and len(games) == made.games == len(expected)
    for game in games:
        record = expected[game.actions]
        assert (game.value, game.opening) == (record.value, record.opening)
        assert game.names == ("random", "random")
    assert read_expert([tmp_path], TTT)[0] == games


def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path: Path) -> None:
    whole = make_games(tmp_path / "whole.jsonl.gz").path.read_bytes()
    out = tmp_path / "parts.jsonl.gz"

    def interrupt(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_games(out, progress=interrupt)
    assert not out.exists()
    partial = tmp_path / "parts.jsonl.gz.partial.jsonl"
    partial.write_text(partial.read_text() + '{"index": 9, "se')
    with pytest.raises(UserError, match="has games with seed 1, not 2"):
        make_games(out, seed=2)
    seen: list[int] = []
    make_games(out, progress=seen.append)
    assert seen == list(range(5, 13))
    assert out.read_bytes() == whole


def test_two_at_one_file_are_kept_apart(tmp_path: Path) -> None:
    def another(done: int) -> None:
        with pytest.raises(UserError, match=r"g\.jsonl\.gz: another process .* --out"):
            make_games(tmp_path / "g.jsonl.gz")
        if done == 1:
            make_games(tmp_path / "h.jsonl.gz")  # another file in the same folder is free

    made = make_games(tmp_path / "g.jsonl.gz", progress=another)
    assert made.games + made.duplicates == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.jsonl.gz", "h.jsonl.gz"]
    assert (tmp_path / "g.jsonl.gz").read_bytes() == (tmp_path / "h.jsonl.gz").read_bytes()


def test_a_file_finished_while_its_player_was_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*words: Any, **options: Any) -> Any:
        monkeypatch.undo()
        make_games(tmp_path / "g.jsonl.gz")
        return seated(*words, **options)

    monkeypatch.setattr("selfplay.arena.expert.seated", slow)
    assert make_games(tmp_path / "g.jsonl.gz", games=3).before
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl.gz"]


@pytest.mark.parametrize(("game", "name", "player"), [
    (TTT, "g.jsonl.gz", "mcts:2"), (GO, "g.sgf.gz", "random")])
def test_a_file_of_an_earlier_version_goes_on(
    tmp_path: Path, game: Any, name: str, player: str
) -> None:
    """One that holds the games of the first start only, and nothing to go on from."""
    def reopened(out: Path, games: int) -> bool:
        return reopen(game, out, read_expert([out], game)[0], games, seed=1, opening=(0, 3))

    whole = make_games(tmp_path / f"whole-{name}", game, player, games=30)
    out = make_games(tmp_path / name, game, player).path
    assert not reopened(out, 12) and not reopened(whole.path, 30)  # some are repeated
    assert not unfinished(out)
    assert reopened(out, 30) and unfinished(out)
    make_games(out, game, player, games=30)
    assert out.read_bytes() == whole.path.read_bytes()
    other = make_games(tmp_path / f"other-{name}", game, player, seed=2).path
    assert not reopened(other, 30)


def test_stop_writes_what_is_there(tmp_path: Path) -> None:
    seen: list[int] = []
    made = make_games(tmp_path / "g.jsonl.gz", games=50, stop=lambda: len(seen) > 8,
                      progress=seen.append)
    assert 8 <= made.games + made.duplicates < 50


def test_a_finished_file_is_kept_and_other_files_and_names_are_refused(tmp_path: Path) -> None:
    made = make_games(tmp_path / "g.jsonl.gz")
    with pytest.raises(UserError, match="exists already"):
        generate(TTT, "mcts:2", 3, tmp_path / "g.jsonl.gz")
    (tmp_path / "g.jsonl.gz.partial.jsonl").write_text("")  # a kill before they were removed
    (tmp_path / "g.jsonl.gz.partial.json").write_text("{}")
    again = make_games(tmp_path / "g.jsonl.gz")
    assert (again.games, again.before, made.before) == (made.games, True, False)
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl.gz"]
    for game, name in ((TTT, "g.sgf.gz"), (GO, "g.txt"), (TTT, "g.json")):
        with pytest.raises(UserError, match="ending in"):
            make_games(tmp_path / name, game)


def record(index: int, *actions: int, end: str = "two passes") -> GameRecord:
    return GameRecord(index, 0, ("x", "x"), actions, 0, 1.0, 1.0, end)


def test_duplicates_and_unfinished_games_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [record(3, 5, 25, 25), record(1, 6, 25, 25), record(0, 5, 25, 25),
               record(2, 7, 8, end="max moves"), record(4, 9, end="illegal move by x (A1)")]
    made = write_games(GO, records, tmp_path / "g.sgf.gz")
    assert (made.games, made.duplicates, made.unfinished) == (2, 1, 2)
    games, _ = read_expert([made.path], GO)
    assert [game.actions[0] for game in games] == [5, 6]  # by index; the first of equals stays
    with pytest.raises(UserError, match="no game was finished"):
        write_games(GO, records[3:], tmp_path / "h.sgf.gz")


def test_go_goes_into_sgf_and_both_kinds_are_read(tmp_path: Path) -> None:
    one = make_games(tmp_path / "a" / "g.sgf.gz", GO, fake("good"), games=3)
    two = make_games(tmp_path / "a" / "g.jsonl.gz", GO, fake("good"), games=3)
    assert one.games == two.games == 3
    sgf_games, _ = read_expert([one.path], GO)
    json_games, _ = read_expert([two.path], GO)
    assert [g.actions for g in sgf_games] == [g.actions for g in json_games]
    assert [g.opening for g in sgf_games] == [g.opening for g in json_games]
    assert [g.value for g in sgf_games] == [g.value for g in json_games]
    both, _ = read_expert([tmp_path], GO)
    assert len(both) == 6
    for game in sgf_games:
        states = GO.new(1)
        GO.replay(states, np.array([game.actions]))
        assert np.sign(GO.score(states)[0]) == game.value


def test_bad_lines_are_skipped_with_their_reason(tmp_path: Path) -> None:
    good = {"game": "tictactoe", "actions": [4, 0], "value": 1, "opening": 1}
    lines = [good, {**good, "game": "connect4"}, {**good, "actions": [4, 4]},
             {**good, "actions": [77]}, {**good, "actions": []}, {**good, "value": 7},
             {"game": "tictactoe"}, [1], {**good, "actions": [0, 3, 1, 4, 2, 5]}]
    text = "\n".join(json.dumps(line) for line in lines) + "\n{torn\n"
    text += json.dumps(good).replace("[4, 0]", "[1e999]") + "\n" + "[" * 100_000
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "h.jsonl.gz").write_bytes(b"no gzip")
    games, skipped = read_expert([tmp_path], TTT)
    assert len(games) == 1 and games[0].actions == (4, 0)
    reasons = {item.file.rpartition(" ")[2]: item.reason for item in skipped}
    assert len(skipped) == 12
    for line, reason in {"2": "game connect4", "3": "illegal move 2", "4": "do not exist",
                         "5": "no moves", "6": "damaged", "7": "damaged", "8": "damaged",
                         "9": "illegal move 6", "10": "damaged", "11": "damaged",
                         "12": "damaged"}.items():
        assert reason in reasons[line]


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file there that ends in \.jsonl\.gz"):
        read_expert([tmp_path], TTT)
    make_games(tmp_path / "g.jsonl.gz")
    with pytest.raises(UserError, match=r"no game for connect4 .*tictactoe \(\d+: g\.jsonl\.gz"):
        read_expert([tmp_path], make("connect4"))
    with pytest.raises(UserError, match="no such file"):
        read_expert([tmp_path / "none.jsonl.gz"], TTT)


def test_gnugo_repeats_its_game(gnugo: str) -> None:
    """The stream of openings and seeds is the one the embedded games were made with."""
    game = make("go9x9")
    engine = parse_player(f"gtp:{gnugo} --mode gtp --level 10", game)
    (played,) = play_games(game, engine, engine, games=2, seed=0, opening=(2, 8), slots=1,
                           paired=False, skip={0})
    engine.close()
    start = game.new(1)
    texts = [game.action_to_text(start, 0, action) for action in played.actions]
    assert " ".join(texts).upper() == GNUGO_GAME
    assert played.end == "two passes" and played.opening == 5


def test_a_file_cut_by_the_clock_grows_to_what_an_uncut_one_is(tmp_path: Path) -> None:
    whole = make_games(tmp_path / "whole.jsonl.gz").path.read_bytes()
    out = tmp_path / "cut.jsonl.gz"
    cut = make_games(out, stop=lambda: made_so_far(out) >= 5)
    assert 0 < cut.wanted <= 7 and not cut.before
    assert unfinished(out) and len(read_expert([out], TTT)[0]) == cut.games
    none = make_games(out, stop=lambda: True)  # a start without time leaves all as it is
    assert (none.games, none.wanted) == (cut.games, cut.wanted)
    done = make_games(out)
    assert done.wanted == 0 and out.read_bytes() == whole and not unfinished(out)
    assert make_games(out).before
