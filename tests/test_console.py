"""What is said is what is read."""

from __future__ import annotations

import pytest

from selfplay.common import compiling, console
from selfplay.common.console import Bar, say
from selfplay.common.words import counted


@pytest.mark.parametrize("text", ["net:a against mcts:100: 50.0% of 20 games", "[bold]x[/bold] 3"])
def test_names_are_printed_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(("number", "text"), [
    (0, "0 minutes"), (1, "1 minute"), (1.0, "1 minute"), (0.5, "0.5 minutes"), (2, "2 minutes"),
    (2000, "2,000 minutes")])
def test_one_is_no_plural(number: float, text: str) -> None:
    assert counted(number, "minute") == text


def line(bar: Bar, spent: float, part: float = 0.0) -> str:
    bar.part = part
    bar.at(spent)
    return " ".join(bar.latest.split())


def test_a_bar_follows_whatever_ends_the_stage_first() -> None:
    """Of 100 minutes; the work, where it is counted, goes by a tenth in 30 seconds."""
    with Bar("expert", 6000) as bar:
        assert line(bar, 0) == "expert 0% 0:00 ETA 1:40:00"
        assert line(bar, 0, 0.004) == "expert 0% 0:00 ETA 1:40:00"  # all of its time was compiling
        assert line(bar, 60) == "expert 1% 1:00 ETA 1:39:00"  # nobody counts
        assert line(bar, 60, 0.2) == "expert 20% 1:00 ETA 4:00"
        assert line(bar, 300, 1.0) == "expert 100% 5:00 ETA 0:00"
        assert line(bar, 3000, 0.01) == "expert 50% 50:00 ETA 50:00"  # its time ends it
    with Bar("expert", 6000) as later:  # half of it was made by an earlier start
        line(later, 600, 0.5)
        assert line(later, 660, 0.6) == "expert 60% 11:00 ETA 4:00"


def test_a_bar_of_counts_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Bar("match", 10, "games") as bar:
        line(bar, 2)
        now[0] = 20.0
        assert line(bar, 6) == "match 60% 0:20 ETA 0:20"


def test_compiling_counts_for_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now, compiled = [0.0], [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(compiling, "seconds", lambda: compiled[0])
    with Bar("match", 10, "games") as bar:
        now[0] = 7.0  # players are made
        line(bar, 0)
        now[0], compiled[0] = 17.1, 10.0
        assert line(bar, 0.04) == "match 0% 0:07 ETA -"  # of a tenth of a second
        now[0], compiled[0] = 27.0, 10.0
        assert line(bar, 2) == "match 20% 0:17 ETA 0:40"  # two games in ten seconds


@pytest.mark.parametrize(("unit", "done"), [("games", 10), ("seconds", 10), ("seconds", 0.2)])
def test_what_ends_at_once_is_at_its_end(unit: str, done: float) -> None:
    with Bar("short", 10, unit) as bar:
        line(bar, 0)
        assert line(bar, done, float(done < 10)).endswith("ETA 0:00")


def test_a_late_bar_comes_up_at_its_first_look(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("match", 10, "games", late=True) as bar:
        assert capsys.readouterr().out == ""
        line(bar, 0)
        assert capsys.readouterr().out == "match\n"
        line(bar, 1)
        assert capsys.readouterr().out == ""


def test_a_count_that_is_only_a_limit_tells_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Bar("match", 100_000, "games", limit=True) as bar:
        line(bar, 0)
        now[0] = 20.0
        assert line(bar, 6) == "match 0% 0:20 ETA -"
        assert line(bar, 6, 0.25) == "match 25% 0:20 ETA 1:00"  # a quarter of the way in 20 s
        assert line(bar, 90_000, 0.25) == "match 90% 0:20 ETA 1:00"


@pytest.mark.parametrize(("seconds", "title"), [(90, "RL (at most 1:30)\n"), (0, "RL\n")])
def test_a_stage_without_time_names_no_limit(
    seconds: float, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar("RL", seconds):
        assert capsys.readouterr().out == title
