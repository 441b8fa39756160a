from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.arena import gtp
from selfplay.arena.gtp import GtpEngine, Reply, find_executable, parse_reply
from selfplay.common.errors import UserError

FAKE = Path(__file__).with_name("fake_gtp.py")


def fake(behaviour: str, **options: object) -> str:
    words = [sys.executable, str(FAKE), behaviour, *(f"{k}={v}" for k, v in options.items())]
    return shlex.join(words)


def test_answers_come_in_order_and_whole() -> None:
    with GtpEngine(fake("good")) as engine:
        engine.send("echo first")
        engine.send("lines")
        engine.send("fly")
        assert engine.receive() == Reply(True, "first")
        assert engine.receive() == Reply(True, "one\n  two\nthree")
        assert engine.receive() == Reply(False, "unknown command")
        assert engine.ask("komi 7") == Reply(True, "")


@given(st.booleans(), st.one_of(st.just(""), st.just("12")),
       st.text(st.characters(blacklist_categories=("Cs", "Cc"))).map(str.strip))
def test_parse_reply_inverts_the_format(ok: bool, number: str, text: str) -> None:
    written = f"{'=' if ok else '?'}{number} {text}"
    assert parse_reply(written, 12) == Reply(ok, text)


@pytest.mark.parametrize("text", ["hello", "", "=13 A1", "A1 =12", "12 = A1"])
def test_parse_reply_refuses_what_answers_nothing(text: str) -> None:
    assert parse_reply(text, 12) is None


@pytest.mark.parametrize(("behaviour", "words"), [
    ("nonsense", ["not GTP", "genmove b", "Hello"]),
    ("badid", ["not GTP", "boardsize 5"]),
    ("refuse", ["refuses", "unacceptable size", "boardsize 5"]),
    ("die", ["has quit", "genmove b", "cannot go on: out of cheese"]),
])
def test_a_failing_engine_is_named_with_its_words(behaviour: str, words: list[str]) -> None:
    command = fake(behaviour, moves=0)
    with GtpEngine(command) as engine, pytest.raises(UserError) as caught:
        for line in ("boardsize 5", "clear_board", "genmove b"):
            engine.send(line)
            engine.expect()
    message = str(caught.value)
    assert command in message and "\n" not in message
    for word in words:
        assert word in message


def test_sending_to_a_dead_engine_is_an_error() -> None:
    with GtpEngine(fake("good")) as engine:
        engine.ask("quit")
        time.sleep(0.2)
        with pytest.raises(UserError, match="has quit"):
            for _ in range(50):
                engine.ask("komi 7")


def test_a_late_answer_is_an_error() -> None:
    with GtpEngine(fake("slow", seconds=20), timeout=0.5) as engine:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"no answer within 0\.5 s.*genmove b"):
            engine.ask("genmove b")
        assert time.monotonic() - began < 5


def test_engines_think_at_the_same_time() -> None:
    engines = [GtpEngine(fake("slow", seconds=0.6)) for _ in range(4)]
    for engine in engines:
        engine.ask("boardsize 9")
    began = time.monotonic()
    for engine in engines:
        engine.send("genmove b")
    assert all(engine.receive().ok for engine in engines)
    assert time.monotonic() - began < 4 * 0.6 - 0.1
    for engine in engines:
        engine.close()


def test_a_talkative_engine_does_not_hang() -> None:
    with GtpEngine(fake("noisy"), timeout=20) as engine:
        assert engine.ask("echo there").text == "there"


def test_an_engine_that_does_not_read_is_an_error() -> None:
    with GtpEngine(fake("slow", seconds=20), timeout=0.5) as engine:
        engine.send("genmove b")
        with pytest.raises(UserError, match=r"it has read nothing for 0\.5 s"):
            engine.send("echo " + "x" * 10**6)


def test_errors_without_end_are_cut() -> None:
    with GtpEngine(fake("noisy")) as engine:
        assert engine.ask("echo there").ok
        assert "its last line: xxx" in str(engine.failure("it fails"))
        assert len(str(engine.failure("it fails"))) < 1000


def test_an_answer_without_end_is_an_error() -> None:
    with GtpEngine(fake("flood")) as engine, pytest.raises(UserError, match="more than 1 MB"):
        engine.ask("komi 7")


def test_an_answer_that_ends_in_one_newline_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gtp, "HANGING", 0.3)
    with GtpEngine(fake("oneline")) as engine, pytest.raises(UserError, match="by an empty line"):
        engine.ask("komi 7")


@pytest.mark.parametrize("behaviour", ["child", "daemon", "stranger"])
def test_close_ends_the_whole_process_group(behaviour: str) -> None:
    engine = GtpEngine(fake(behaviour))
    child = int(engine.ask("child").text)
    os.kill(child, 0)
    engine.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)


def _alive(process: int) -> bool:
    """Running, that is neither gone nor waiting to be reaped."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_programs_are_found_or_missed_with_a_remedy(tmp_path: Path) -> None:
    assert find_executable(f"{sys.executable} -c 'a b'")[1:] == ["-c", "a b"]
    with pytest.raises(UserError, match="nosuchengine not found: install it"):
        find_executable("nosuchengine --mode gtp")
    with pytest.raises(UserError, match="check the path"):
        find_executable(str(tmp_path / "engine"))
    (tmp_path / "gnugo").write_text("#!/bin/sh\n")
    (tmp_path / "gnugo").chmod(0o755)
    assert find_executable(f"{tmp_path}/gnugo --mode gtp")[1:] == ["--mode", "gtp"]
    with pytest.raises(UserError, match="--mode gtp only"):
        find_executable(f"{tmp_path}/gnugo --level 10")
    with pytest.raises(UserError, match="quot"):
        find_executable("gnugo 'oh")
    with pytest.raises(UserError, match="empty"):
        find_executable("")


def test_gnugo_is_found_off_the_path(gnugo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    if os.path.dirname(gnugo) not in ("/usr/games", "/usr/local/games"):
        pytest.skip(f"gnugo is in {gnugo}")
    assert find_executable("gnugo --mode gtp")[0] == gnugo


def test_gnugo_talks(gnugo: str) -> None:
    with GtpEngine(f"{gnugo} --mode gtp --level 1") as engine:
        assert engine.ask("name").text == "GNU Go"
        assert engine.ask("boardsize 5").ok
        assert not engine.ask("boardsize 99").ok
        assert engine.ask("play b C3").ok
        assert "X" in engine.ask("showboard").text
