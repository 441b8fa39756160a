"""Matches that end when decided, clocks, opening books and PGN."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command

from selfplay.arena.contest.book import read_book
from selfplay.arena.contest.clock import UNLIMITED, Control, GameClock, of_text, to_gtp
from selfplay.arena.contest.pgn import games_of, to_pgn
from selfplay.arena.contest.sprt import H1, Sprt, Trial
from selfplay.arena.contest.tournament import pairings, play_tournament, standings, table
from selfplay.arena.elo import fit
from selfplay.arena.match import MatchResult, play_match, tally
from selfplay.arena.players import SlotPlayer, parse_player
from selfplay.arena.records import GameRecord, read_records
from selfplay.arena.sgf import to_sgf
from selfplay.common.console import Bar
from selfplay.common.errors import UserError
from selfplay.games import make

FAKE = Path(__file__).with_name("fake_gtp.py")
TTT, GO, C4 = make("tictactoe"), make("go5x5"), make("connect4")


def fake(behaviour: str, **options: object) -> str:
    words = [sys.executable, str(FAKE), behaviour, *(f"{k}={v}" for k, v in options.items())]
    return "gtp:" + shlex.join(words)


# --------------------------------------------------------------------------- until decided

class Deep(SlotPlayer):
    """Wins at once where it can, else plays the middle-most column; better than random."""

    name = "deep"

    def act(self, states: Any, slots: Any) -> Any:
        legal = C4.legal(states)
        wins = C4.wins(states, legal)
        liked = legal * np.array([1, 2, 3, 4, 3, 2, 1]) + 10 * wins
        return liked.argmax(1)


def decide(folder: Path | None, slots: int = 8, games: int = 2000, **more: Any
           ) -> tuple[MatchResult, Trial]:
    trial = Trial(Sprt(0, 120))
    return play_match(C4, Deep(), "random", games=games, seed=5, opening=(2, 5), slots=slots,
                      folder=folder, trial=trial, **more), trial


def test_a_match_ends_when_it_is_decided_whatever_the_slots(tmp_path: Path) -> None:
    one, trial = decide(None, slots=1)
    many, other = decide(None, slots=40)
    assert trial.decision == other.decision == H1
    assert one.games == many.games == trial.games == other.games < 200
    assert one.total == many.total and one.distinct == many.distinct
    assert trial.llr == other.llr >= trial.sprt.bounds[1]


def test_a_test_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole, trial = decide(None)
    seen: list[int] = []
    stopped, half = decide(tmp_path, stop=lambda: len(seen) > 12, progress=seen.append)
    assert half.decision == "" and stopped.games < whole.games
    ended, other = decide(tmp_path)
    assert (other.decision, other.games, other.llr) == (trial.decision, trial.games, trial.llr)
    assert ended.total == whole.total
    lines = (tmp_path / "games.jsonl").read_text().count("\n")
    again, last = decide(tmp_path)  # nothing is played any more
    assert last.games == trial.games and again.total == whole.total
    assert (tmp_path / "games.jsonl").read_text().count("\n") == lines


def test_a_test_without_an_end_is_open() -> None:
    result, trial = decide(None, games=6)
    assert result.games == 6 and trial.decision == "" and "open after 6 games" in trial.summary()


# --------------------------------------------------------------------------- clocks

@pytest.mark.parametrize(("text", "control", "most"), [
    ("5m", Control("absolute", 300), 300), ("5m+3s", Control("fischer", 300, 3), 300),
    ("5", Control("absolute", 5), 5),
    ("90+0.5", Control("fischer", 90, 0.5), 90), ("1h + 30s/10", Control("canadian", 3600, 30, 10),
                                                  3630),
    ("0s+3x10s", Control("byoyomi", 0, 10, 3), 30),
    ("300h", Control("absolute", 1_080_000), 1_080_000)])
def test_words_of_a_clock(text: str, control: Control, most: float) -> None:
    assert of_text(text) == control
    assert GameClock(control=control).most(0) == most
    assert of_text(str(control)) == control
    assert GameClock().most(0) == float("inf")


@pytest.mark.parametrize("text", ["", "5x", "0", "5m+", "5m+3x10s/4", "0+3s", "5m+0s/0"])
def test_no_clocks(text: str) -> None:
    with pytest.raises(UserError, match="--clock"):
        of_text(text)


def test_what_engines_are_told() -> None:
    plain, kgs = ["time_settings", "time_left"], ["time_settings", "kgs-time_settings"]
    fischer, absolute = Control("fischer", 300, 3), Control("absolute", 90)
    assert to_gtp(fischer, plain) == "time_settings 300 0 0"
    assert to_gtp(fischer, ["kata-time_settings", *plain]) == "kata-time_settings fischer 300 3"
    assert to_gtp(absolute, plain) == "time_settings 90 0 0"
    assert to_gtp(Control("canadian", 60, 30, 10), plain) == "time_settings 60 30 10"
    assert to_gtp(Control("byoyomi", 60, 30, 5), kgs) == "kgs-time_settings byoyomi 60 30 5"
    assert to_gtp(Control("byoyomi", 60, 30, 5), plain) == "time_settings 60 30 1"
    assert to_gtp(absolute, []) == to_gtp(UNLIMITED, plain) == ""


class Slow(SlotPlayer):
    """Thinks for so many seconds at its third move, and plays the first legal one."""

    name = "slow"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.clocks = seconds, list[float]()

    def timed(self, states: Any, slots: Any, clock: GameClock) -> None:
        assert len(slots) == 1
        self.clocks.append(clock.most(int(states.to_play[0])))

    def act(self, states: Any, slots: Any) -> Any:
        time.sleep(self.seconds if states.ply[0] in (4, 5) else 0)
        return TTT.legal(states).argmax(1)


def test_who_oversteps_loses_by_it_and_the_reason_is_on_record(tmp_path: Path) -> None:
    late = Slow(0.4)
    result = play_match(TTT, late, "random", games=4, opening=(0, 0), slots=4, folder=tmp_path,
                        control=of_text("0.25s"))
    records = read_records(tmp_path / "games.jsonl")
    seconds = [re.match(r"loss on time of slow: ([\d.]+)", r.end) for r in records]
    lost = [r for r, told in zip(records, seconds, strict=True) if told and float(told[1]) >= 0.4]
    assert len(lost) >= 2 and result.losses >= len(lost)
    for record in lost:
        assert record.value == (-1 if record.players[0] == "slow" else 1)
        assert record.result == ("W+T" if record.players[0] == "slow" else "B+T")
        assert not record.natural and len(record.actions) in (4, 5)
    with pytest.raises(UserError, match=r"has games with clock 0\.25s, not none;"):
        play_match(TTT, Slow(0), "random", games=4, opening=(0, 0), folder=tmp_path)


def test_an_increment_comes_with_every_move_and_games_begin_anew() -> None:
    player = Slow(0.2)
    play_match(TTT, player, "random", games=2, opening=(0, 0), control=of_text("0.3s+1s"))
    assert player.clocks[0] == pytest.approx(0.3)
    assert 1.2 < player.clocks[1] <= 1.3 and 2.1 < player.clocks[2] <= 2.3
    assert player.clocks.count(0.3) == 2


def test_our_own_search_keeps_within_its_time() -> None:
    """A million simulations would take far longer than a move's share of three seconds."""
    game, slots = make("go9x9"), np.zeros(1, np.int64)
    player, states, leaves = parse_player("mcts:1000000", game), game.new(1), list[int]()
    evaluate = player.evaluate
    player.evaluate = lambda rows, legal: (leaves.append(len(legal)), evaluate(rows, legal))[1]
    player.timed(states, slots, GameClock(0.0, of_text("3s+0.1s")))
    action = player.act(states, slots)
    assert game.legal(states)[0, action[0]]
    assert 0 < sum(leaves) < 500_000


def test_an_engine_is_told_its_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    play_match(GO, fake("good", moves=4, log=log), "random", games=2, opening=(0, 0),
               control=of_text("5m+3s"))
    said = log.read_text().splitlines()
    assert said.count("time_settings 300 0 0") == 2
    assert "time_left b 300 0" in said and "time_left w 300 0" in said
    first = said.index("time_settings 300 0 0")
    assert said[first:first + 3] == ["time_settings 300 0 0", "time_left b 300 0",
                                     "time_left w 300 0"] and said[first + 3] == "genmove b"
    later = [line for line in said if line.startswith("time_left b 30")]
    assert "time_left b 302 0" in later or "time_left b 305 0" in later  # with its increment


def test_a_slow_engine_loses_on_time() -> None:
    result = play_match(GO, fake("slow", seconds=0.6), "random", games=2, opening=(0, 0),
                        control=of_text("0.5s"))
    assert result.losses == 2 and all("loss on time" in end for end in result.ends)


# --------------------------------------------------------------------------- books

def test_a_book_is_played_twice_each_line_with_colours_swapped(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("b2 a1\nb2 b1 a1\na1\tcorner\n\nb2 a1\n")
    book = read_book(file, TTT, 99)
    assert book == [(4, 0), (4, 1, 0), (0,)]
    play_match(TTT, "random", "mcts:2", games=12, seed=3, folder=tmp_path / "m", book=book)
    records = sorted(read_records(tmp_path / "m/games.jsonl"), key=lambda r: r.index)
    begun = [r.actions[: r.opening] for r in records]
    assert begun[::2] == begun[1::2] and set(begun[:6]) == set(book) == set(begun[6:])
    assert {r.players[0] for r in records[:2]} == {"random", "mcts:2"}
    assert read_book(file, TTT, 1) == [(4,), (0,)]
    with pytest.raises(UserError, match="has games with book"):
        play_match(TTT, "random", "mcts:2", games=12, seed=3, folder=tmp_path / "m", book=book[:2])
    play_match(TTT, "random", "mcts:2", games=14, seed=3, folder=tmp_path / "m", book=book)


def test_books_of_sgf_and_pgn(tmp_path: Path) -> None:
    play_match(GO, "random", "random", games=3, seed=1, folder=tmp_path / "m")
    records = read_records(tmp_path / "m/games.jsonl")[1:]  # not both of one opening
    lines = [record.actions[:6] for record in records]
    (tmp_path / "book.sgf").write_text("".join(to_sgf(GO, record) for record in records))
    (tmp_path / "book.pgn").write_text("".join(to_pgn(GO, record) for record in records))
    assert read_book(tmp_path / "book.sgf", GO, 6) == lines
    assert read_book(tmp_path / "book.pgn", GO, 6) == lines
    (tmp_path / "book.pgn").rename(tmp_path / "export.txt")
    assert read_book(tmp_path / "export.txt", GO, 6) == lines
    with pytest.raises(UserError, match=r"export.txt, game 1: .* --opening 0-8"):  # whole games
        read_book(tmp_path / "export.txt", GO, GO.max_moves)
    (tmp_path / "plain.sgf").write_text("(;GM[1];B[aa];W[bb])")  # no result, no size
    assert read_book(tmp_path / "plain.sgf", GO, 9) == [(20, 16)]


@pytest.mark.parametrize(("name", "text", "words"), [
    ("a.txt", "", "no opening"), ("a.txt", "b2 b2", "line 1: move b2 is not legal"),
    ("a.pgn", '[A "b"]\n\n1. b2 x9 *\n', "game 1"), ("a.sgf", "(;B[aa])", "for Go only")])
def test_books_that_are_none(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_book(tmp_path / name, TTT, 99)


# --------------------------------------------------------------------------- PGN

@pytest.mark.parametrize("name", ["tictactoe", "go5x5", "dotsandboxes(rows=2,columns=2)",
                                  "othello6x6", "hex4x4(swap=True)", "gomoku9x9", "connect4"])
def test_pgn_tells_the_whole_game(name: str, tmp_path: Path) -> None:
    game = make(name)
    play_match(game, "random", "random", games=3, folder=tmp_path, opening=(1, 2))
    for record in read_records(tmp_path / "games.jsonl"):
        text = to_pgn(game, record)
        (words,) = games_of(text)
        states, actions = game.new(1), []
        for word in words:
            actions.append(game.text_to_action(states, 0, word))
            game.step(states, np.array(actions[-1:]))
        assert tuple(actions) == record.actions
        won = {1: "1-0", 0: "1/2-1/2", -1: "0-1"}[
            int(np.sign(record.value)) * (-1 if game.sides[0] == "black" else 1)]
        assert f'[Result "{won}"]' in text and text.rstrip().endswith(won)
        assert max(map(len, text.splitlines()[11:])) < 80


def test_pgn_of_other_programs() -> None:
    text = ('[Event "x"]\n[Site "\\"y\\""]\n\n1. e4 {a comment} e5 (1... c5 (x) 2. Nf3) 2. Nf3 $1 '
            '; rest\nNc6 1-0\n\n[Event "z"]\n\n1. d4 *\n')
    assert list(games_of(text)) == [["e4", "e5", "Nf3", "Nc6"], ["d4"]]


# --------------------------------------------------------------------------- tournaments

def tournament(folder: Path, *players: str, **more: Any) -> list[MatchResult]:
    return play_tournament(TTT, players, **{"games": 8, "seed": 2, "opening": (0, 2), "slots": 4,
                                            "folder": folder, **more})


def test_a_round_robin_and_a_gauntlet(tmp_path: Path) -> None:
    assert pairings("abc") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairings("abc", gauntlet=True) == [("a", "b"), ("a", "c")]
    seen: list[list[int]] = []
    results = tournament(tmp_path, "mcts:40", "random", "mcts:3", told=lambda now: seen.append(
        [result.games for result in now]))
    assert seen[0] == [0, 0, 0] and seen[-1] == [8, 8, 8] and len(seen) == 25
    assert all(max(games) - min(games) <= 4 for games in seen)  # in rounds
    alone = play_match(TTT, "mcts:40", "mcts:3", games=8, seed=2, opening=(0, 2))
    assert results[1].total == alone.total
    best, *_, last = standings(results)
    assert best.name == "mcts:40" and last.name == "random"
    assert best.points == results[0].wins + results[0].draws / 2 + (
        results[1].wins + results[1].draws / 2)
    assert {one.games for one in standings(results)} == {16}
    assert sum(one.rating.elo for one in standings(results)) == pytest.approx(0, abs=1e-6)


def test_elo_of_a_tournament_is_that_of_the_matches(tmp_path: Path) -> None:
    results = tournament(tmp_path, "mcts:20", "random", "mcts:2")
    found = {one.name: one.rating for one in standings(results)}
    plain = fit([(r.a, r.b, *r.counts) for r in results], "random")
    for name in plain:
        assert found[name].elo - found["random"].elo == pytest.approx(plain[name].elo, abs=1e-6)
        assert found[name].low < found[name].elo < found[name].high


def test_a_tournament_goes_on_and_takes_more_players(tmp_path: Path) -> None:
    whole = tournament(tmp_path / "whole", "mcts:9", "random", "mcts:2")

    class Stopped(Exception):
        pass

    def stop(now: list[MatchResult]) -> None:
        if sum(result.games for result in now) == 7:
            raise Stopped

    with pytest.raises(Stopped):
        tournament(tmp_path / "parts", "mcts:9", "random", told=stop)
    first: list[int] = []
    parts = tournament(tmp_path / "parts", "mcts:9", "random", "mcts:2", told=lambda now:
                       first.append(sum(result.games for result in now)))
    assert first[0] == 7 and len(first) == 1 + 24 - 7
    assert [r.total for r in parts] == [r.total for r in whole]
    with pytest.raises(UserError, match="random is there twice"):
        tournament(tmp_path, "random", "random", "mcts:2")


def test_a_table_says_who_scored_what_against_whom() -> None:
    def record(index: int, value: float) -> GameRecord:
        return GameRecord(index, 0, ("x", "y"), (index,), 0, value, None, "win")

    two = tally(TTT, "a", "b", [record(0, 1), record(1, -1), record(2, 0)], 0)
    none = tally(TTT, "a", "c", [], 0)
    lines = table([two, none]).splitlines()
    assert lines[0].split() == ["player", "Elo", "95%", "interval", "points", "games", "1", "2",
                                "3"]
    assert lines[1].split()[:2] == ["1", "a"] and lines[1].split()[-2:] == ["2.5/3", "-"]
    assert lines[2].split()[:2] == ["2", "b"] and "0.5/3" in lines[2]
    assert lines[3].split() == ["3", "c", "-", "-", "0", "0", "-", "-"]


# --------------------------------------------------------------------------- the command

T = ("--game", "tictactoe")


def test_the_command_ends_when_decided(run: Command, tmp_path: Path) -> None:
    words = ("match", "mcts:60", "random", *T, "--sprt", "0,100", "--out", "m", "--slots", "4",
             "--pgn", "games.pgn", "--opening", "0-2")
    said = run(*words)
    assert said.code == 0, said.err
    assert "H1 accepted after" in said.out and "LLR" in said.out
    games = int(said.out.split("H1 accepted after ")[1].split()[0])
    assert f"of {games} games" in said.out and f"{games} games" in said.out.split("PGN: ")[1]
    assert (tmp_path / "games.pgn").read_text().count("[Result ") == games
    again = run(*words)
    assert again.code == 0 and "all played before" in again.out
    assert "H1 accepted after " + str(games) in again.out


def test_the_command_plays_tournaments(run: Command, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("b2 a1\na1 b2\n")
    said = run("match", "mcts:20", "random", "mcts:2", *T, "--games", "4", "--out", "m", "--book",
               "book.txt", "--pgn", "all.pgn", "--opening", "0-20")  # which cuts no line
    assert said.code == 0, said.err
    assert "95% interval" in said.out and len(list((tmp_path / "m").glob("*/games.jsonl"))) == 3
    assert (tmp_path / "all.pgn").read_text().count("[Result ") == 12
    said = run("match", "mcts:20", "random", "mcts:2", *T, "--games", "2", "--out", "g",
               "--gauntlet")
    assert said.code == 0 and len(list((tmp_path / "g").glob("*/games.jsonl"))) == 2


def test_the_bar_never_goes_back(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By games that have ended, and by what those under way come to."""
    seen: list[float] = []
    monkeypatch.setattr(Bar, "at", lambda bar, done, note="": seen.append(done))
    run("match", "mcts:2", "random", *T, "--games", "8", "--slots", "8", "--opening", "0-2")
    assert seen == sorted(seen) and any(done % 1 for done in seen) and seen[-1] == 8


def test_a_default_opening_that_is_typed_is_the_default(run: Command) -> None:
    """Reports print it, of games too that it may be longer than."""
    said = run("match", "random", "mcts:2", "--game", "hex2x2", "--games", "4", "--opening", "2-6")
    assert said.code == 0, said.err
    again = run("match", "random", "mcts:2", "--game", "hex2x2", "--games", "4")
    assert again.code == 0 and "all played before" in again.out


def test_what_is_wrong_is_said_without_a_title(run: Command, tmp_path: Path) -> None:
    """Also of the last player of a tournament, before the others have played."""
    two, three = ("mcts:2", "random"), ("mcts:2", "random", "mcts:3")
    assert run("match", *two, *T, "--games", "2", "--out", "m").out.startswith("mcts:2 - random\n")
    assert run("match", *three, *T, "--games", "2", "--out", "t").out.startswith("round robin\n")
    for words in ((*two[:1], "rendom", *T), (*two, *T, "--opening", "0", "--out", "m"),
                  ("human", "rendom", *T), (*two, "rendom", *T, "--out", "new"),
                  (*three, *T, "--opening", "0", "--out", "t")):
        said = run("match", *words, "--games", "2")
        assert (said.code, said.out) == (1, ""), words
    assert not (tmp_path / "new").exists()
    said = run("expert", *T, "--player", "rendom", "--out", "x.jsonl.gz")
    assert (said.code, said.out) == (1, "")


def test_mistakes_of_contests(run: Command, tmp_path: Path) -> None:
    two = ("match", "random", "mcts:2", *T)
    run(*two, "--sprt", "5").mistake("--sprt 5", "ELO0,ELO1")
    for test in ("0,1e9", "0,inf", "nan,5"):
        run(*two, "--sprt", test).mistake(f"--sprt {test}: ratings between -4000 and 4000")
    run(*two, "--sprt", "9,2").mistake("the lower first")
    run(*two, "--clock", "long").mistake("--clock long", "5m+3s")
    run(*two, "--clock", "5m", "--slots", "4").mistake("one game is played at a time")
    run(*two, "--book", "none.txt").mistake("none.txt")
    run("match", "random", "mcts:2", "mcts:3", *T, "--sprt", "0,5").mistake(
        "--sprt: compares two players, not 3")
    run(*two, "--gauntlet").mistake("--gauntlet: of three players or more", "leave it out")
    run(*two, "--alpha", "0.1").mistake("--alpha: of a sequential test; give --sprt ELO0,ELO1")
    run(*two, "--beta", "0.05", "--games", "2").mistake("--beta: of a sequential test")
    run(*two, "--sprt", "").mistake("--sprt ", "ELO0,ELO1")
    run(*two, "--sprt", "0,5", "--beta", "0.5", "--alpha", "0.5").mistake("--alpha 0.5, --beta 0.5")
    run("match", "random", "mcts:2", "human", *T).mistake("human: plays one other player, not 2")


def test_the_help_says_what_a_number_without_a_unit_is(run: Command) -> None:
    said = " ".join(run("match", "--help").out.split())
    assert "5m (5 is five seconds)" in said and of_text("5") == of_text("5s") != of_text("5m")
    assert "(2-6, or 0 for none)" in said


def test_a_clock_by_the_command(run: Command, tmp_path: Path) -> None:
    said = run("match", "mcts:20", "random", *T, "--games", "2", "--clock", "1m+1s", "--out", "m")
    assert said.code == 0, said.err
    assert '"kind": "fischer"' in (tmp_path / "m/match.json").read_text()
