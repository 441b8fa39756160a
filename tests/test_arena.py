from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from command import save_net
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sgfmill import sgf as sgfmill_sgf

from selfplay.arena.match import MatchResult, Tally, play_match, read_match, tally
from selfplay.arena.records import GameRecord, read_records
from selfplay.common.errors import UserError
from selfplay.common.stats import wilson
from selfplay.games import make
from selfplay.learn import checkpoint

FAKE = Path(__file__).with_name("fake_gtp.py")
TTT, GO = make("tictactoe"), make("go5x5")


def fake(behaviour: str, **options: object) -> str:
    words = [sys.executable, str(FAKE), behaviour, *(f"{k}={v}" for k, v in options.items())]
    return "gtp:" + shlex.join(words)


def match(folder: Path | None, games: int = 20, a: str = "random", b: str = "random",
          game: Any = TTT, **more: Any) -> MatchResult:
    return play_match(game, a, b, **{"games": games, "seed": 3, "opening": (0, 2), "slots": 4,
                                     "folder": folder, **more})


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_is_scipys(wins: int, games: int) -> None:
    wins = min(wins, games)
    interval = binomtest(wins, games).proportion_ci(0.95, method="wilson")
    assert wilson(wins / games, games) == pytest.approx(tuple(interval), abs=1e-6)


def test_a_tally_counts_from_a_whatever_its_colour() -> None:
    def record(index: int, value: float, *actions: int) -> GameRecord:
        return GameRecord(index, 0, ("x", "y"), actions, 0, value, None, "win")

    result = tally(TTT, "a", "b", [record(0, 1, 0), record(1, 1, 0), record(2, 0, 0, 1),
                                   record(3, -1, 2), record(4, -1, 5)], 1.0)
    assert result.as_first == Tally(1, 1, 1) and result.as_second == Tally(1, 0, 1)
    assert (result.wins, result.draws, result.losses, result.games) == (2, 1, 2, 5)
    assert result.score == 0.5 and result.distinct == 4
    assert result.mean_length == pytest.approx(6 / 5)
    assert (result.low, result.high) == wilson(0.5, 4)  # a repeated game is no evidence
    assert result.counts == pytest.approx((1.6, 0.8, 1.6))


def test_a_summary_names_the_players_the_score_and_the_rules() -> None:
    text = match(None, 10).summary()
    for word in ("random against random", "of 10 games", "95% interval", "distinct", TTT.rules):
        assert word in text
    assert TTT.rules in tally(TTT, "a", "b", [], 0).summary()


def test_random_play_is_even_and_openings_vary() -> None:
    result = match(None, 400, slots=100)
    assert result.low < 0.5 < result.high
    assert result.as_first.games == result.as_second.games == 200
    assert result.as_first.score > result.as_second.score  # the first move is worth something
    assert result.distinct > 300


def test_what_is_under_way_is_told_before_a_game_has_ended() -> None:
    seen: list[float] = []
    shown: list[list[float]] = []
    match(None, 4, game=GO, opening=(0, 0), under_way=seen.append,
          progress=lambda done: shown.append(list(seen)))
    before = shown[1]  # by when a game has ended
    assert len(before) > 3 and before == sorted(before) and 0 < before[0] < before[-1] <= 4


def test_an_opening_is_nobody_s_work() -> None:
    """After a round in four games each of them has at most two moves of about 25."""
    seen: list[float] = []
    match(None, 4, game=GO, opening=(4, 4), under_way=seen.append)
    assert 0 < seen[0] <= 4 * 2 / (GO.max_moves / 2)


def test_the_same_match_whatever_the_slots() -> None:
    one, other = match(None, 30, slots=1), match(None, 30, slots=30)
    assert (one.total, one.as_first, one.distinct) == (other.total, other.as_first, other.distinct)


def test_an_interrupted_match_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = match(whole)
    seen: list[int] = []
    result = match(parts, stop=lambda: len(seen) > 6, progress=seen.append)
    assert 0 < result.games < 20
    assert seen == list(range(result.games + 1))
    again: list[int] = []
    finished = match(parts, progress=again.append)
    assert again == list(range(result.games, 21))
    assert finished.total == expected.total and finished.games == 20

    def games(folder: Path) -> list[GameRecord]:
        return sorted(read_records(folder / "games.jsonl"), key=lambda r: r.index)

    assert games(parts) == games(whole)
    assert read_match(parts, TTT) == MatchResult(**{**finished.__dict__, "seconds": 0.0})


def test_a_finished_match_is_not_played_again_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    match(tmp_path, 6)
    before = (tmp_path / "games.jsonl").read_bytes()
    match(tmp_path, 6)
    assert (tmp_path / "games.jsonl").read_bytes() == before
    assert match(tmp_path, 10).games == 10
    assert (tmp_path / "games.jsonl").read_bytes().startswith(before)
    assert match(tmp_path, 6).games == 6


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    expected = match(tmp_path, 8)
    file = tmp_path / "games.jsonl"
    file.write_bytes(file.read_bytes()[:-15])
    assert len(read_records(file)) == 7
    assert match(tmp_path, 8).total == expected.total
    assert len({record.index for record in read_records(file)}) == 8


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    match(tmp_path, 4)
    file = tmp_path / "games.jsonl"
    lines = file.read_text().splitlines()
    endless = lines[1].replace('"actions":[', '"actions":[1e999,')
    assert endless != lines[1]
    for broken in ("{", '{"index": 3}', "[]", "[" * 100_000, endless,
                   re.sub('"index":[0-9]+', '"index":1e999', lines[1]),
                   re.sub('"value":[-.0-9]+', '"value":1e999', lines[1])):
        file.write_text("\n".join([lines[0], broken, *lines[2:]]) + "\n")
        with pytest.raises(UserError, match=r"games\.jsonl, line 2: damaged"):
            match(tmp_path, 4)


def test_two_at_one_match_are_kept_apart(tmp_path: Path) -> None:
    def another(done: int) -> None:
        with pytest.raises(UserError, match=r"another process is at work .* --out"):
            match(tmp_path, 6)

    assert match(tmp_path, 6, progress=another).games == 6
    assert len((tmp_path / "games.jsonl").read_text().splitlines()) == 6
    assert match(tmp_path, 6).games == 6  # the lock has gone


def test_a_game_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    expected = match(tmp_path, 6)
    file = tmp_path / "games.jsonl"
    file.write_text(file.read_text() * 2)
    stored = read_match(tmp_path, TTT)
    assert stored is not None and stored.total == expected.total
    seen: list[int] = []
    assert match(tmp_path, 6, progress=seen.append).total == expected.total
    assert seen == [6]


@pytest.mark.parametrize("change", [
    {"seed": 4}, {"opening": (0, 3)}, {"a": "mcts:9"}, {"game": make("connect4")},
])
def test_another_match_does_not_mix_in(tmp_path: Path, change: dict[str, Any]) -> None:
    match(tmp_path, 4)
    if "a" in change:
        stored = json.loads((tmp_path / "match.json").read_text())
        (tmp_path / "match.json").write_text(json.dumps({**stored, **change}))
        change = {}
    with pytest.raises(UserError, match=r"match\.json: has games with"):
        match(tmp_path, 4, **change)


def test_a_match_stopped_before_its_first_game_may_be_another(tmp_path: Path) -> None:
    match(tmp_path, 4)
    (tmp_path / "games.jsonl").unlink()
    assert match(tmp_path, 4, seed=4).total == match(tmp_path / "new", 4, seed=4).total
    assert json.loads((tmp_path / "match.json").read_text())["seed"] == 4


def test_read_match(tmp_path: Path) -> None:
    assert read_match(tmp_path / "none", TTT) is None
    match(tmp_path, 4)
    with pytest.raises(UserError, match="a match of tictactoe, not of go5x5"):
        read_match(tmp_path, GO)
    (tmp_path / "match.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_match(tmp_path, TTT)


def test_go_games_are_kept_as_sgf(tmp_path: Path) -> None:
    match(tmp_path, 4, game=GO)
    records = sorted(read_records(tmp_path / "games.jsonl"), key=lambda r: r.index)
    lines = (tmp_path / "games.sgf").read_text().splitlines()
    assert len(lines) == 4
    for line, record in zip(lines, records, strict=True):
        game = sgfmill_sgf.Sgf_game.from_string(line)
        assert len(game.get_main_sequence()) == len(record.actions) + 1
        assert game.get_root().get("RE") == record.result


def test_a_net_that_is_kept_is_loaded_once_and_plays_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, loaded, load_net = f"net:{tmp_path / 'net'}", [], checkpoint.load_net
    save_net(tmp_path / "net", "tictactoe")
    monkeypatch.setattr(checkpoint, "load_net", lambda *words: loaded.append(words) or
                        load_net(*words))
    nets: dict[Path, Any] = {}
    names = ("one", "two")
    for name, options in zip(names, ({"nets": nets}, {}), strict=True):
        for seed in (1, 2):
            match(tmp_path / f"{name}{seed}", 6, net, f"{net}@4", seed=seed, **options)
        assert len(loaded) == (1 if options else 5)
    for seed in (1, 2):
        one, two = ((tmp_path / f"{name}{seed}/games.jsonl").read_bytes() for name in names)
        assert one == two


def test_a_dying_engine_loses_its_game_and_is_started_again(tmp_path: Path) -> None:
    match(tmp_path, 8, a=fake("die", moves=3, games=3), game=GO, b=fake("good", moves=3), slots=1)
    records = read_records(tmp_path / "games.jsonl")
    failed = [r for r in records if r.end.startswith("failure of") and "out of cheese" in r.end]
    assert len(records) == 8 and [r.index for r in failed] == [3, 7]  # each start plays three
    assert len((tmp_path / "games.sgf").read_text().splitlines()) == 8
