"""What it takes until a net answers, and what its doors cost beside the net and a match.

    .venv/bin/python scripts/bench_serve.py --pairs 3

Starts: seconds from the command to the first move, on the board in the browser (first ``import
torch, numba`` alone, which is in all of them). Speeds: ratios to a reference that takes its turns
in the same process, on as many threads as torch takes. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from selfplay.bench.arguments import positive

COMMAND = [str(Path(sys.executable).with_name("selfplay"))]
#: A game of 60 moves on 9x9 that nobody has played: the review only wants legal ones.
PLIES = 60
SETTING = "go9x9, the net that came along, 64 simulations"


def imports() -> None:
    subprocess.run([sys.executable, "-c", "import torch, numba"], check=True)


def first_genmove() -> None:
    """Start the engine and wait for its first move."""
    subprocess.run([*COMMAND, "gtp", "--net", "go9x9@64"], input=b"genmove b\nquit\n", check=True,
                   stdout=subprocess.PIPE)


def first_move_in_browser() -> None:
    """Start the board, sit down as a page does, make a move, and wait for the net's."""
    from websockets.sync.client import connect

    board = subprocess.Popen([*COMMAND, "play", "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert board.stdout is not None
        place = next(line for line in board.stdout if "http://" in line).split("http://")[1]
        with connect(f"ws://{place.split()[0].strip('/')}/ws", max_size=2**24) as page:
            page.send(json.dumps({"do": "hello"}))
            state = _state(page)
            page.send(json.dumps({"do": "play", "at": state["node"],
                                  "action": state["position"]["moves"][40][0]}))
            while len(state["nodes"]) < 3:  # the start, ours, the net's
                state = _state(page)
    finally:
        board.terminate()
        board.wait()


def _state(page: Any) -> dict[str, Any]:
    while (said := json.loads(page.recv(timeout=60)))["is"] != "state":
        pass
    return dict(said)


def review(folder: Path) -> None:
    """A page and an SGF from a game of PLIES moves, 200 simulations each."""
    game = folder / "game.sgf"
    subprocess.run([*COMMAND, "analyse", str(game), "--net", "go9x9", "--visits", "200",
                    "--html"], check=True, stdout=subprocess.DEVNULL)


def write_game(folder: Path) -> None:
    import numpy as np

    import selfplay as sp

    game, draw = sp.make("go9x9"), np.random.default_rng(0)
    states, moves = game.new(1), ""
    for ply in range(PLIES):
        legal = np.flatnonzero(game.legal(states)[0][:-1])
        action = int(draw.choice(legal))
        column, row = action % 9, 8 - action // 9
        moves += f";{'BW'[ply % 2]}[{chr(97 + column)}{chr(97 + row)}]"
        game.step(states, np.array([action]))
    (folder / "game.sgf").write_text(f"(;GM[1]FF[4]SZ[9]KM[7]RE[B+1]{moves})")


def seconds(work: Callable[[], None], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def speeds(pairs: int) -> list[dict[str, Any]]:
    """Rows of ``bench.timing``: evaluations/s of an engine and of an analysis."""
    import numpy as np

    import selfplay as sp
    from selfplay.arena.players import player_of
    from selfplay.bench.timing import repeat, row
    from selfplay.games.base import take
    from selfplay.inference.spread import spread
    from selfplay.serve.batch import analyses, jobs_of
    from selfplay.serve.gtp.engine import Engine, Manner
    from selfplay.serve.mind import mind_of
    from selfplay.serve.thinker import Limits

    game, mind = sp.make("go9x9"), mind_of("go9x9", sp.make("go9x9"), "cpu", 64)
    net = mind.net
    assert net is not None
    engine, states = Engine(mind, Manner(resign=0.0)), _positions(game, 1000)

    def genmove() -> int:
        before = mind.evaluations
        found = engine.thinker.think(Limits(sims=mind.sims), heads=False)
        if len(engine.line.moves) > 40 or found.best is None:
            engine.clear()
        else:
            engine.thinker.play(found.best.action)
        return mind.evaluations - before

    def moves(games: int) -> Callable[[], int]:
        """A move in each of the games of a match."""
        evaluate, rows = spread(net, game), np.arange(games)
        side = player_of("a", game, evaluate, 64, mind.config.leaves, games)
        under_way = take(states, rows)

        def move() -> int:
            before = evaluate.evaluations
            side.start(rows, rows)
            side.act(under_way, rows)
            return evaluate.evaluations - before
        return move

    evaluate = spread(net, game)
    planes = game.observe(states)

    def raw() -> int:
        evaluate.forward(planes)
        return len(planes)

    def analysed() -> int:
        before = mind.evaluations
        analyses(jobs_of(mind, states, 64))
        return mind.evaluations - before

    leaves = f"64x{mind.config.leaves}"
    return [
        row("gtp", "evaluations/s", lambda: repeat(genmove), f"match of {leaves}, a game at a time",
            lambda: repeat(moves(1)), pairs),
        row("gtp_beside_many", "evaluations/s", lambda: repeat(genmove),
            f"match of {leaves}, 64 games at once", lambda: repeat(moves(64)), pairs),
        row("analysis_of_1000", "evaluations/s", lambda: repeat(analysed),
            "the net alone, 1,000 positions a call", lambda: repeat(raw), pairs),
    ]


def _positions(game: Any, count: int) -> Any:
    """``count`` positions after 0 to 60 random moves."""
    import numpy as np

    draw, states = np.random.default_rng(1), game.new(count)
    plies = draw.integers(0, 60, count)
    for ply in range(60):
        legal = game.opening_moves(states) & (plies > ply)[:, None]
        game.step(states, np.where(legal.any(1), (legal * draw.random(legal.shape)).argmax(1), -1))
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speeds", action="store_true", help="leave the starts out")
    parser.add_argument("--pairs", type=positive, default=3, help="repetitions [3]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_game(Path(name))
        starts = {"import torch, numba": imports, "gtp, first genmove": first_genmove,
                  "play, first answer": first_move_in_browser,
                  f"review of {PLIES} moves": lambda: review(Path(name))}
        for what, work in ({} if args.speeds else starts).items():
            work()  # what is compiled is kept
            taken = seconds(work, args.pairs)
            print(f"{what}: {median(taken):.1f} s ({min(taken):.1f} to {max(taken):.1f})",
                  flush=True)
    print(SETTING)
    for found in speeds(args.pairs):
        low, high = found["spread"]
        print(f"{found['name']}: {found['value']:,.0f} {found['unit']}, {found['ratio']:.2f} x "
              f"({low:.2f} to {high:.2f}) {found['reference']}", flush=True)


if __name__ == "__main__":
    main()
