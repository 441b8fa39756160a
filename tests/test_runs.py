"""A run's clock, by hand-worked seconds on a clock that stands still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfplay.games import make
from selfplay.run import folder
from selfplay.run.config import RunConfig
from selfplay.run.folder import Clock, Run, stages

SHARES = (0.1, 0.2, 0.5, 0.2)


class Time:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(folder, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, RunConfig("tictactoe", minutes=10, shares=SHARES), make("tictactoe"))


def spend(clock: Clock, time: Time, stage: str, seconds: float) -> None:
    with clock.running(stage):
        time.now += seconds


def test_what_a_stage_leaves_goes_to_the_stages_after_it(run: Run, time: Time) -> None:
    clock = Clock(run, stages(run.config))
    assert clock.budget("expert") == pytest.approx(60)
    spend(clock, time, "expert", 20)  # 40 s early
    assert clock.budget("sft") == pytest.approx(580 * 2 / 9)
    spend(clock, time, "sft", 200)  # late
    assert clock.budget("rl") == pytest.approx(380 * 5 / 7)
    with clock.running("rl"):
        time.now += 300
        assert clock.left("rl") == pytest.approx(380 * 5 / 7 - 300)
    assert clock.budget("eval") == pytest.approx(80)


def test_the_time_of_earlier_starts_counts(run: Run, time: Time) -> None:
    with pytest.raises(KeyboardInterrupt), Clock(run, stages(run.config)).running("sft"):
        time.now += 50
        raise KeyboardInterrupt
    time.now += 10_000  # nobody at work
    later = Clock(run, stages(run.config))
    assert later.left("sft") == pytest.approx(600 * 2 / 9 - 50)
    more = Clock(replace(run, config=replace(run.config, minutes=20)), stages(run.config))
    assert more.left("sft") == pytest.approx(1200 * 2 / 9 - 50)


def test_a_stage_alone_has_its_own_minutes(run: Run, time: Time) -> None:
    spend(Clock(run, stages(run.config)), time, "rl", 5000)
    alone = Clock(run, stages(run.config), alone=2)
    with alone.running("rl"):
        assert alone.left("rl") == pytest.approx(120)
        time.now += 100
        assert alone.left("rl") == pytest.approx(20)
    assert Clock(run, stages(run.config)).budget("eval") == 0  # the others' time is spent


def test_a_finished_stage_stays_finished(run: Run, time: Time) -> None:
    Clock(run, stages(run.config)).finish("sft")
    assert Clock(run, stages(run.config)).done == ["sft"]
