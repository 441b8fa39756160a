"""The benchmark's rows: their shape, and that ratios are of what was measured. No speeds here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, Command
from forked import python

from selfplay import bench
from selfplay.bench import net as bench_net
from selfplay.bench import search as bench_search
from selfplay.bench import timing
from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor
from selfplay.games import make
from selfplay.games.base import take
from selfplay.inference import precision
from selfplay.inference.evaluator import Evaluator
from selfplay.models import build, spec_for
from selfplay.search.search import Search, SearchConfig

INT8 = ["selfplay_int8_over_raw", "selfplay_int8"] * ("int8" in precision.candidates("cpu"))
NET = ["selfplay_us_free_net", "selfplay_over_raw", "selfplay_over_usual", "selfplay_evals",
       *INT8, "learner", "first_move", "tree_memory"]
KEYS = {"name", "unit", "value", "reference", "reference_value", "ratio", "spread"}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(timing, "SECONDS", 0.02)
    monkeypatch.setattr(bench_net, "BATCHES", {"cpu": (16,), "cuda": (32, 48)})
    monkeypatch.setattr(bench_net, "INT8_BATCHES", (16,))
    monkeypatch.setattr(bench_net, "LEARNT", {"cpu": (16,)})
    monkeypatch.setattr(bench_net, "WINDOW", 300)
    monkeypatch.setattr(bench_net, "PLAY_GAMES", 8)
    monkeypatch.setattr(bench_search, "LONG_GAMES", 20)
    monkeypatch.setattr(bench_search, "STARTS", 4)
    monkeypatch.setattr(bench_search, "SEARCH_GAMES", 8)
    monkeypatch.setattr(bench_search, "SEARCH_SIMS", 8)
    monkeypatch.setattr(bench_search, "MCTS_GAMES", 4)
    monkeypatch.setattr(bench_search, "SIZES", ((8, 4), (8, 12), (2, 8), (16, 8)))


@pytest.fixture
def _no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes import nothing."""
    monkeypatch.setattr(bench_net, "FIRST_MOVE", "pass")
    monkeypatch.setattr(bench_net, "IMPORTS", "pass")


@pytest.mark.usefixtures("_no_start")
def test_rows_have_the_promised_names_and_keys() -> None:
    rows = bench.run_bench(make("tictactoe"), net="1x8", pairs=2)
    assert [row["name"] for row in rows] == [
        "playouts", "mcts_one_game", "mcts_4_games", "search_us_per_simulation",
        "search_us_first_position", "search_us_8x4", "search_us_8x12", "search_us_2x8",
        "search_us_16x8", "search_us_one_game", *NET]
    for row in rows:
        assert set(row) == KEYS
        assert row["value"] > 0 and row["reference_value"] > 0
        assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
    assert json.loads(json.dumps(rows)) == rows
    assert all(row["name"] in bench.table(rows) for row in rows)


def test_a_ratio_is_the_median_of_its_pairs_and_says_how_many_times_better() -> None:
    ours, theirs = count(), count()
    rates = [1.0, 10.0, 30.0, 20.0]  # the first warms up
    row = timing.row("x", "us", lambda: rates[next(ours)], "them",
                     lambda: (5.0, 10.0, 10.0, 10.0)[next(theirs)], 3, per=lambda r: 1e6 / r)
    assert row["ratio"] == 2.0
    assert row["spread"] == [1.0, 3.0]
    assert row["value"] == 1e6 / 20.0


@pytest.mark.usefixtures("_no_start")
def test_rules_that_openspiel_lacks_leave_its_rows_out() -> None:
    rows = bench.run_bench(make("go5x5(suicide=True)"), net="1x8", pairs=1)
    assert [row["name"] for row in rows if not row["name"].startswith("search_us")] == NET
    assert not any("OpenSpiel" in row["reference"] for row in rows)


@pytest.mark.usefixtures("_no_start")
def test_connect4_counts_moves_and_go_knows_the_large_board() -> None:
    rows = {row["name"]: row for row in bench.run_bench(
        make("connect4"), net="1x8", pairs=1)}
    steps = rows["random_play"]["reference_value"] / rows["playouts"]["reference_value"]
    assert rows["random_play"]["unit"] == "steps/s"
    assert steps > 4  # were both of one kind, it were 1; how much above is a matter of two timings
    row = bench_search._playouts_19x19(make("go5x5"), None, "cpu", 1)  # type: ignore[arg-type]
    assert row is not None and row["name"] == "playouts_go19x19"
    assert bench_search._playouts_19x19(make("go19x19"), None, "cpu", 1) is None  # type: ignore


@pytest.mark.parametrize("name", ["tictactoe", "go9x9"])
def test_searches_begin_from_games_under_way(name: str) -> None:
    game = make(name)
    states = bench_search.start_positions(game, 300)
    assert not game.result(states)[0].any()
    most = min(bench_search.PLIES, game.max_moves - 1)
    assert states.ply.min() == 0 and states.ply.max() == most
    assert len(np.unique(game.keys(states))) > (250 if name == "go9x9" else 100)


def test_the_free_net_answers_otherwise_every_time_and_makes_trees_deep() -> None:
    game, games, sims = make("go9x9"), 16, 100
    evaluate = bench_search.free_net(game, games)
    states = bench_search.start_positions(game, games)
    legal = game.legal(states)
    logits, values = evaluate(states, legal)
    assert logits.shape == legal.shape and values.shape == (games,)
    assert 2.3 < logits.std() < 2.7 and values.std() > 0.1 and np.abs(values).max() <= 1
    again, part = evaluate(states, legal)[0], evaluate(take(states, slice(0, 3)), legal[:3])[0]
    assert len(part) == 3 and not np.isin(logits, again).all()

    search = Search(game, SearchConfig(), games, sims, 0)
    search.run(states, sims, evaluate)
    tree, deepest = search.tree, []
    for b in range(games):
        depth = np.zeros(tree.size[b], np.int64)
        for node in range(1, tree.size[b]):
            depth[node] = depth[tree.parent[b, node]] + 1
        deepest.append(depth.max())
    assert np.mean(deepest) > 5  # 2 with zeros for logits and values


def test_a_repetition_of_self_play_is_one_move_of_every_game() -> None:
    game, config = make("go5x5"), RLConfig(games=4, sims=6, full_share=1.0)
    actor = Actor(game, bench_search.free_net(game, 4), config, 0)
    before = actor.states.ply.copy()
    assert bench_net.one_move(actor) == 4 * 6
    assert (actor.states.ply == before + 1).all()
    assert bench_net.one_move(actor) == 4 * 6
    assert (actor.states.ply == before + 2).all()


def test_on_a_gpu_one_thread_feeds_the_net_alone_and_all_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    game, crews, works = make("tictactoe"), list[int](), list[Any]()
    monkeypatch.setattr(bench_net, "Evaluator", lambda net, game, device, *rest: Evaluator(
        net, game, "cpu", *rest))
    monkeypatch.setattr(bench_net, "SelfPlay", lambda *_, threads, **__: crews.append(threads))
    monkeypatch.setattr(bench_net, "_best", works.extend)
    torch.set_num_threads(3)
    for device in ("cuda", "cpu"):
        spec = spec_for(game, "1x8")
        nets = bench_net.Nets(game, spec, device)
        nets.selfplay("float32")
        nets.alone("float32")
    assert crews == [3, 3]
    assert [len(each) for each in works] == [1, 1, 3]
    sizes = [[call.args[1] for call in each] for each in works]
    assert sizes == [[32], [48], [16] * 3]
    assert all(call.args[0].max_batch == call.args[1] for each in works for call in each)


def test_a_limit_is_the_best_way_and_one_lucky_look_does_not_choose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sizes, alone or on two threads; the first look at the worse one is lucky."""
    rates = {"a": count(1), "b": count(1)}
    seen: list[tuple[str, float]] = []

    def looked(work: str, share: float = 1.0) -> float:
        seen.append((work, share))
        if work == "a":
            return 100.0 if next(rates["a"]) == 1 else 1.0
        return 5.0

    monkeypatch.setattr(bench_net, "repeat", looked)
    limit = bench_net._best([["a", "a"], ["b", "b"]])  # type: ignore[list-item]
    assert limit() == 10.0  # b on two threads, 5 each
    looks = bench_net.LOOKS * 2 * (1 + 2)
    assert [share for _, share in seen] == [1 / 4] * looks + [1.0] * 2
    assert limit() == 10.0 and seen[looks + 2 :] == [("b", 1.0)] * 2


def test_the_first_move_is_that_of_the_net_asked_for() -> None:
    after = "print(sum(p.numel() for p in net.parameters()), actor.states.ply.sum() - start)"
    done = python(bench_net.FIRST_MOVE + after, "tictactoe", "1x8", "cpu", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert python(bench_net.IMPORTS, cwd=ROOT).returncode == 0
    game = make("tictactoe")
    net = build(spec_for(game, "1x8"))
    parameters, moves = map(int, done.stdout.split())
    assert parameters == sum(p.numel() for p in net.parameters())
    assert moves > 0


def test_a_search_holds_what_its_arrays_take() -> None:
    game = make("go5x5")
    row = bench_net._tree_memory(game)
    search = Search(game, SearchConfig(), bench_net.TREE_GAMES, bench_net.TREE_SIMS, 0)
    parts = (search.tree, search._walk, search._scratch, search._roots)
    expected = sum(field.nbytes for part in parts for field in part) / 2**20
    assert expected < row["value"] < 1.1 * expected
    assert row["ratio"] == pytest.approx(1024 / row["value"])


def test_json_is_a_row_a_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "x", "unit": "us", "value": 2.0, "reference": "y", "reference_value": 4.0,
           "ratio": 2.0, "spread": [1.5, 2.5]}
    rows = [row, {**row, "name": "z"}]
    monkeypatch.setattr(bench, "run_bench", lambda *_, each, **__: list(map(each, rows)))
    done = run("bench", "--game", "tictactoe", "--json")
    assert done.code == 0
    assert [json.loads(line) for line in done.out.splitlines()] == rows
