"""The next match is the one that tells most for its time."""

from __future__ import annotations

from selfplay.arena.contest.choice import ROUNDS, Choice, Pairing
from selfplay.arena.match import tally
from selfplay.arena.records import GameRecord
from selfplay.games import make

GAME = make("tictactoe")
CLOSE, FAR = Pairing("net:a/1", "net:a/2", 100), Pairing("net:a/1", "random", 100)
SURE = Pairing("net:a/2", "random", 100)


def result(pairing: Pairing, won: int, lost: int):
    records = [GameRecord(k, 0, ("x", "y"), (k,), 0, (1 if k // 2 < won / 2 else -1)
                          * (1 if k % 2 == 0 else -1), None, "win") for k in range(won + lost)]
    found = tally(GAME, pairing.a, pairing.b, records, 0)
    assert (found.wins, found.losses) == (won, lost)
    return found


def test_all_in_order_first_then_the_one_that_tells_most() -> None:
    choice = Choice([FAR, SURE, CLOSE], "random")
    assert [choice.next() for _ in range(3)] == [(p, ROUNDS[0]) for p in (FAR, SURE, CLOSE)]
    choice.played(FAR, result(FAR, 20, 0))
    choice.played(SURE, result(SURE, 20, 0))
    choice.played(CLOSE, result(CLOSE, 10, 10))
    assert choice.next() == (CLOSE, ROUNDS[1])  # others win every game and tell little
    choice.played(CLOSE, result(CLOSE, 30, 30))
    every = [choice.next() for _ in range(5)]
    assert sorted(every, key=str) == sorted(
        [(p, share) for p in (FAR, SURE) for share in ROUNDS[1:]] + [(CLOSE, 1.0)], key=str)


def test_what_takes_long_waits() -> None:
    engine, quick = Pairing("net:a/1", "gtp:x", 100), Pairing("net:a/2", "mcts:2", 100)
    ties = [Pairing("gtp:x", "random", 100), Pairing("mcts:2", "random", 100)]
    for slow, first in ((False, engine), (True, quick)):
        choice = Choice([engine, quick, *ties], "random")
        for pairing in (engine, quick, *ties):
            assert choice.next()[0] == pairing
            choice.played(pairing, result(pairing, 10, 10))
            choice.spent(pairing, 100.0 if slow and pairing is engine else 1.0, 20)
        assert choice.next()[0] == first


def test_without_results_all_come_in_order() -> None:
    choice = Choice([FAR, SURE], "random")
    assert [choice.next() for _ in range(6)] == [(p, share) for share in ROUNDS
                                                 for p in (FAR, SURE)]
