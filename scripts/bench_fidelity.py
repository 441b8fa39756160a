"""Does a faster arithmetic cost strength? A net against itself in float32 at equal simulations.

    .venv/bin/python scripts/bench_fidelity.py --run runs/go9x9 --dtype int8 --games 400

Both sides search without noise from the same random openings, each played twice with colours
changed. With --json the last line is an object; an interrupted match begins anew. How far the
outputs agree is what bench_backends.py shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from selfplay.arena.match import tally
from selfplay.arena.play import play_games
from selfplay.arena.players import SearchPlayer
from selfplay.arena.spec import full_name
from selfplay.bench.arguments import positive
from selfplay.common.console import Bar
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.inference import openvino  # noqa: F401 - brings int8
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.precision import random_positions
from selfplay.learn.checkpoint import load_net
from selfplay.search.search import SearchConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run's folder, or a checkpoint's")
    parser.add_argument("--dtype", choices=("bfloat16", "int8"), required=True)
    parser.add_argument("--games", type=positive, default=400)
    parser.add_argument("--sims", type=positive, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = Path(full_name(f"net:{options.run}").removeprefix("net:"))
    net, meta = load_net(path)
    game = make(meta["game"])
    torch.set_num_threads(1)  # slower, and the same bits anywhere
    evaluators = {dtype: Evaluator(net, game, dtype=dtype,
                                   calibration=random_positions(game))
                  for dtype in (options.dtype, "float32")}
    first, second = (SearchPlayer(f"{path}@{options.sims} in {dtype}", game, SearchConfig(),
                                  evaluate, options.sims, 64)
                     for dtype, evaluate in evaluators.items())
    records = []
    with Bar(f"{options.dtype} - float32", options.games, "games") as bar:
        for record in play_games(game, first, second, games=options.games, seed=options.seed,
                                 opening=(2, 6), slots=64):
            records.append(record)
            bar.at(len(records))
    result = tally(game, first.name, second.name, records, 0.0)
    print(result.summary())
    if options.json:
        print(json.dumps({"dtype": options.dtype, "games": result.games, "score": result.score,
                          "low": result.low, "high": result.high,
                          "distinct": result.distinct}))


if __name__ == "__main__":
    try:
        main()
    except (UserError, GameError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
