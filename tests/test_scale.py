"""The simulation behind docs/scale.md, beside cases that can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from farm_here import Here
from script import load

from selfplay.bench.ingest import Sleep, broadcast, ingest

scale = load("scale")
#: A machine makes 10 positions/s in shards of 10; an iteration is 40; the learner takes 100/s,
#: twice each; a shard of 1 kB is 0.1 s on the wire, a version 0.5 s.
PLAIN = scale.Setup("plain", rate=10, shard=10, size=100, kept=1, weights=5_000, learner=100,
                    reuse=2, iteration=40, staleness=0, ingest=1e12, network=10_000, spread=0.0)


def test_one_machine_in_turn() -> None:
    """4 shards of 1 s, the last 0.1 s on the wire, 0.8 s of learning, 0.5 s to hand over."""
    found = scale.simulate(PLAIN, 1)
    assert found.positions == pytest.approx(40 / (4 + 0.1 + 0.8 + 0.5))
    assert found.waiting == pytest.approx(1.4 / 5.4) and found.broadcast == 0.5
    assert found.learning == pytest.approx(0.8 / 5.4)


def test_played_ahead_the_slower_side_is_the_limit() -> None:
    ahead = PLAIN._replace(staleness=1)
    assert scale.simulate(ahead, 1, 40).positions == pytest.approx(10, rel=0.02)
    assert scale.simulate(ahead, 1, 40).limit == "the machines"
    slow = ahead._replace(learner=16)  # 8 positions/s, each learnt twice
    assert scale.simulate(slow, 4, 40).positions == pytest.approx(8, rel=0.02)
    assert scale.simulate(slow, 4, 40).limit == "the learner"
    narrow = ahead._replace(network=500, weights=1)  # 5 positions/s on the wire
    assert scale.simulate(narrow, 4, 40).positions == pytest.approx(5, rel=0.03)
    assert "network" in scale.simulate(narrow, 4, 40).limit


@pytest.mark.parametrize("setup", [scale.BOARD, scale.with_gpu(scale.BOARD)])
def test_more_machines_are_never_worse_nor_beyond_what_there_is(setup: object) -> None:
    rates = [scale.simulate(setup, machines, 8).positions for machines in (1, 3, 30)]
    assert rates[0] <= rates[1] * 1.001 <= rates[2] * 1.002
    for machines, rate in zip((1, 3, 30), rates, strict=True):
        assert rate <= 1.05 * min(machines * setup.rate,  # type: ignore[attr-defined]
                                  setup.learner / setup.reuse)  # type: ignore[attr-defined]


def test_weights_spread_as_a_tree() -> None:
    for machines, rounds in ((1, 1), (3, 2), (7, 3), (1000, 10)):
        assert scale.broadcast_seconds(PLAIN, machines) == pytest.approx(0.5 * rounds)
        assert rounds == math.ceil(math.log2(machines + 1))
    assert scale.broadcast_seconds(PLAIN, 1000, tree=False) == pytest.approx(500)


def test_the_tables_are_those_of_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    for line in [*scale.rows_of(scale.BOARD), *scale.zero_lines(),
                 *scale.text_lines(scale.R1_ZERO)]:
        assert line in page, "python scripts/scale.py prints the tables"


def test_a_driver_takes_what_actors_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stand-in that makes one shard at a time, and delivers some twice."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")
    monkeypatch.setattr("selfplay.bench.ingest.VERSION", 0.05)
    farm: Any = Here(0)
    one = ingest(farm, Sleep(50, 8, 0.01), 100, 4, 0.3, lambda: 7)
    made = 50 * len({piece.key for piece in farm.made})
    assert made <= round(one.positions * one.seconds) <= 2 * made and one.store == 7
    assert 0.4 < one.waiting < 1, "at most two of four places are at work"
    assert max(piece.version for piece in farm.made) >= 2, "new weights go out meanwhile"
    assert broadcast(farm, 100, 3, rounds=2) >= 0
