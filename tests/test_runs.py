"""A run's clock, by hand-worked seconds on a clock that stands still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfplay.common import compiling
from selfplay.games import make
from selfplay.run import clock as clocks
from selfplay.run.clock import Clock, divide
from selfplay.run.config import RunConfig
from selfplay.run.folder import Run, stages

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
    monkeypatch.setattr(clocks, "time", clock)
    monkeypatch.setattr(compiling, "time", clock)
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


# ------------------------------------------------------------------- what stages need at the least

SHARE = {"expert": 0.1, "sft": 0.2, "rl": 0.5, "eval": 0.2}


def test_a_need_beyond_the_share_is_met_and_the_others_split_the_rest() -> None:
    assert divide(100, SHARE, {}) == pytest.approx({"expert": 10, "sft": 20, "rl": 50, "eval": 20})
    # 30 for the expert; of the other 70 SFT gets 2/9, RL 5/9, evaluation 2/9
    assert divide(100, SHARE, {"expert": 30, "sft": 5}) == pytest.approx(
        {"expert": 30, "sft": 140 / 9, "rl": 350 / 9, "eval": 140 / 9})
    # 140/9 is too little for an evaluation of 20, which leaves 50 for SFT and RL
    assert divide(100, SHARE, {"expert": 30, "eval": 20}) == pytest.approx(
        {"expert": 30, "sft": 50 * 2 / 7, "rl": 50 * 5 / 7, "eval": 20})


def test_where_not_all_can_be_had_rl_waits_for_another_start() -> None:
    given = divide(60, SHARE, {"expert": 20, "sft": 5, "rl": 500, "eval": 10})
    assert given["expert"] == 20 and given["sft"] >= 5 and given["eval"] >= 10
    assert sum(given.values()) == pytest.approx(60)
    hopeless = divide(60, SHARE, {"expert": 100, "sft": 50, "rl": 500, "eval": 50})
    assert hopeless == pytest.approx({"expert": 30, "sft": 15, "rl": 0, "eval": 15})
    assert divide(-5, SHARE, {"expert": 1})["rl"] == 0


def test_needs_count_from_this_start_on(run: Run, time: Time) -> None:
    spend(Clock(run, stages(run.config)), time, "expert", 90)
    clock = Clock(run, stages(run.config))
    clock.needs = {"expert": 30.0}
    assert clock.budget("expert") == pytest.approx(120)


def test_stages_on_their_own_share_the_minutes_of_the_start(run: Run, time: Time) -> None:
    """``selfplay sft``: expert games and SFT have 1/3 and 2/3 of its minutes."""
    spend(Clock(run, stages(run.config)), time, "sft", 5000)
    clock = Clock(run, stages(run.config), alone=3, only=("expert", "sft"))
    assert clock.budget("expert") == pytest.approx(60)
    spend(clock, time, "expert", 20)
    assert clock.left("sft") == pytest.approx(160)


def test_compilation_is_charged_to_no_stage(
    run: Run, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = [7.0]
    monkeypatch.setattr(compiling, "seconds", lambda: compiled[0])
    clock = Clock(run, stages(run.config))
    with clock.running("sft"):
        time.now += 50
        compiled[0] += 40
        assert clock.spent("sft") == pytest.approx(10)
        time.now += 5
    assert clock.seconds["sft"] == pytest.approx(15)
