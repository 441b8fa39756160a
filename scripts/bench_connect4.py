"""The Connect Four solver on positions of a file (moves, score), on random ones, and on the empty
board: seconds of processor time a position, each kept as it is solved; the same command goes on.

    python scripts/bench_connect4.py --plies 10-20 --count 200
    python scripts/bench_connect4.py Test_L* --plies 10-20 --count 600
    python scripts/bench_connect4.py Test_L1_R2 Test_L1_R3 --record solved.jsonl
    python scripts/bench_connect4.py --empty --values --bits 25

Positions of a file come in an order drawn from the seed, so that any number of them stands for all.
The table is empty before each position.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.openings import deal
from selfplay.games.solve.connect4 import TABLE_BITS, Connect4Solver

GAME = make("connect4")


def positions(files: list[Path], plies: str, count: int, seed: int) -> Iterator[tuple[str, int]]:
    """(moves, score or 99 where it is not known)."""
    low, high = map(int, plies.split("-")) if plies else (0, GAME.max_moves)
    rows = [line.split() for path in files for line in path.read_text().splitlines()]
    rows = [row for row in rows if low <= len(row[0]) <= high]
    for row in np.random.default_rng(seed).permutation(len(rows))[: count or None]:
        yield rows[row][0], int(rows[row][1])
    if plies and not files:
        for number in range(count or 200):
            moves = deal(GAME, seed, number, (low, high), False).actions
            if low <= len(moves) and not GAME.wins(*_at(moves)).any():  # a win at once is no work
                yield "".join(str(move + 1) for move in moves), 99


def _at(moves: tuple[int, ...]) -> tuple[Any, Any]:
    states = GAME.new(1)
    GAME.replay(states, np.array([moves]).reshape(1, -1))
    return states, GAME.legal(states)


def solve(moves: str, bits: int, values: bool) -> dict[str, Any]:
    """The score of a position, or its sign alone, and the processor time it took."""
    solver = Connect4Solver(bits)
    solver.table[:] = 0  # the memory is there now, not page by page
    states = _at(tuple(int(move) - 1 for move in moves))[0]
    began = time.process_time()
    score = int((solver.values if values else solver.scores)(states)[0])
    seconds = round(time.process_time() - began, 6)
    return {"moves": moves, "value" if values else "score": score, "seconds": seconds, "bits": bits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--plies", default="",
                        help="LOW-HIGH: of the files only those; without files random positions")
    parser.add_argument("--count", type=int, default=0, help="positions at most of each kind")
    parser.add_argument("--empty", action="store_true", help="the empty board alone")
    parser.add_argument("--values", action="store_true",
                        help="only whether a position is won, drawn or lost")
    parser.add_argument("--bits", type=int, default=TABLE_BITS, help="the table has 2^BITS entries")
    parser.add_argument("--record", type=Path, help="where a line of JSON goes for each position")
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    Connect4Solver(4).scores(GAME.new(0))  # compiled, or loaded
    what = "value" if options.values else "score"
    done: dict[str, dict[str, Any]] = {}
    if options.record and options.record.exists():
        rows = [json.loads(line) for line in options.record.read_text().splitlines()]
        done = {row["moves"]: row for row in rows if row["bits"] == options.bits and what in row}
    wanted = [("", 1)] if options.empty else positions(options.files, options.plies, options.count,
                                                       options.seed)
    seconds: list[float] = []
    told = "all right" if options.files or options.empty else "not checked"
    for moves, known in wanted:
        row = done.get(moves) or solve(moves, options.bits, options.values)
        if known != 99 and row[what] != (np.sign(known) if options.values else known):
            raise UserError(f"{moves}: {what} {row[what]}, not of {known}")
        seconds.append(row["seconds"])
        if options.record and moves not in done:
            with options.record.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if options.empty or len(seconds) % 50 == 0:
            print(_summary(seconds, told), flush=True)
    print(_summary(seconds, told))


def _summary(seconds: list[float], told: str) -> str:
    part = np.array(seconds)
    return (f"{len(part)} positions, {told}: {1000 * part.mean():,.1f} ms in the mean, "
            f"{1000 * np.median(part):,.1f} in the middle, {part.max():,.2f} s at most")


if __name__ == "__main__":
    main()
