"""The benchmark's rows: their shape, and that ratios are of what was measured. No speeds here."""

from __future__ import annotations

import json
from functools import partial
from itertools import count

import pytest
import torch

from selfplay import arithmetic, bench, bench_net, bench_search, timing
from selfplay.games import make

INT8 = ["selfplay_int8_over_raw", "selfplay_int8"] * ("int8" in arithmetic.candidates("cpu"))
NET = ["selfplay_over_raw", "selfplay_evals", *INT8, "learner", "first_move", "tree_memory"]
KEYS = {"name", "unit", "value", "reference", "reference_value", "ratio", "spread"}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.02)
    monkeypatch.setattr(bench_net, "BATCHES", (16,))
    monkeypatch.setattr(bench_net, "LEARNT", (16,))
    monkeypatch.setattr(bench_net, "WINDOW", 300)
    monkeypatch.setattr(bench_net, "FIRST_MOVE", "pass")
    monkeypatch.setattr(bench_search, "LARGEST", 16)
    monkeypatch.setattr(bench_search, "LONG_GAMES", 20)
    monkeypatch.setattr(bench_search, "SEARCH_GAMES", 8)
    monkeypatch.setattr(bench_search, "SEARCH_SIMS", 8)
    small = {"games": 8, "sims": 8}
    monkeypatch.setattr(bench, "SEARCH_ROWS", tuple(
        partial(row.func, **{key: min(value, small.get(key, 4))
                             for key, value in row.keywords.items()})
        if isinstance(row, partial) else row for row in bench_search.SEARCH_ROWS))
    torch.set_num_threads(1)


def test_rows_have_the_promised_names_and_keys() -> None:
    rows = bench.run_bench(make("tictactoe"), net="1x8", pairs=2, quiet=True)
    assert [row["name"] for row in rows] == [
        "playouts", "mcts_one_game", "mcts_8_games", "search_us_per_simulation",
        *["search_us_8x8"] * 4,
        "search_us_one_game", *NET]
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


def test_rules_that_openspiel_lacks_leave_its_rows_out() -> None:
    rows = bench.run_bench(make("go5x5(suicide=True)"), net="1x8", pairs=1,
                           quiet=True)
    assert [row["name"] for row in rows if not row["name"].startswith("search_us")] == NET
    assert not any("OpenSpiel" in row["reference"] for row in rows)


def test_connect4_counts_moves_and_go_knows_the_large_board() -> None:
    rows = {row["name"]: row for row in bench.run_bench(
        make("connect4"), net="1x8", pairs=1, quiet=True)}
    steps = rows["random_play"]["reference_value"] / rows["playouts"]["reference_value"]
    assert rows["random_play"]["unit"] == "steps/s" and 4 < steps < 100
    row = bench_search._playouts_19x19(make("go5x5"), None, "cpu", 1)  # type: ignore[arg-type]
    assert row is not None and row["name"] == "playouts_go19x19"
    assert bench_search._playouts_19x19(make("go19x19"), None, "cpu", 1) is None  # type: ignore
