"""The benchmark's rows: their shape, and that ratios are of what was measured. No speeds here."""

from __future__ import annotations

import json
from itertools import count

import pytest
import torch

from selfplay import bench
from selfplay.games import make

KEYS = {"name", "unit", "value", "reference", "reference_value", "ratio", "spread"}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.02)
    monkeypatch.setattr(bench, "BATCHES", (16,))
    monkeypatch.setattr(bench, "SEARCH_GAMES", 8)
    monkeypatch.setattr(bench, "SEARCH_SIMS", 8)
    torch.set_num_threads(1)


def test_rows_have_the_promised_names_and_keys() -> None:
    rows = bench.run_bench(make("tictactoe"), net="1x8", pairs=2, quiet=True)
    assert [row["name"] for row in rows] == [
        "playouts", "search_us_per_simulation", "selfplay_over_raw", "selfplay_evals"]
    for row in rows:
        assert set(row) == KEYS
        assert row["value"] > 0 and row["reference_value"] > 0
        assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
    assert json.loads(json.dumps(rows)) == rows
    assert all(row["name"] in bench.table(rows) for row in rows)


def test_a_ratio_is_the_median_of_its_pairs_and_says_how_many_times_better() -> None:
    ours, theirs = count(), count()
    rates = [1.0, 10.0, 30.0, 20.0]  # the first warms up
    row = bench._row("x", "us", lambda: rates[next(ours)], "them",
                     lambda: (5.0, 10.0, 10.0, 10.0)[next(theirs)], 3, per=lambda r: 1e6 / r)
    assert row["ratio"] == 2.0
    assert row["spread"] == [1.0, 3.0]
    assert row["value"] == 1e6 / 20.0


def test_rules_that_openspiel_lacks_leave_its_rows_out() -> None:
    rows = bench.run_bench(make("go5x5(suicide=True)"), net="1x8", pairs=1,
                           quiet=True)
    assert [row["name"] for row in rows] == ["selfplay_over_raw", "selfplay_evals"]
