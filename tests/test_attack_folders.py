"""Folders of very many files, files that cannot be read, links in a circle: one line, or passed
over; none takes the others with it."""

from __future__ import annotations

import codecs
import os
import random
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from attacking import Attack
from command import Command
from test_damaged_runs import whole  # noqa: F401

from selfplay.arena.elo import standings
from selfplay.arena.expert import read_expert
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.llm.tasks.task import make_task

GAME = b"(;GM[1]SZ[9]RE[B+3.5]KM[7];B[ee];W[cc];B[gg])"
NOBODY = 65534
SECONDS = 120  #: that a reader may take for a folder, and a variant


@contextmanager
def as_a_user() -> Iterator[None]:
    """Without root's right to read what may not be read."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def little_memory() -> Iterator[None]:
    """2 GB more than there is now."""
    kept = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that others may enter, as pytest's own may not be."""
    path = Path(tempfile.mkdtemp(prefix="selfplay-attack-"))
    path.chmod(0o777)
    yield path
    for place, folders, _ in os.walk(path):
        for name in folders:
            with suppress(OSError):
                os.chmod(os.path.join(place, name), 0o755)
    shutil.rmtree(path)


@pytest.mark.attack
def test_folders_of_very_many_files(attack: Attack, folder: Path) -> None:
    many = attack.count(1000, 100_000)
    good = max(many // 200, 1)
    (folder / "sft").mkdir()
    (folder / "matches").mkdir()
    games = folder / "games"
    for number in range(many):
        if number % 100 == 0:
            (games / f"{number // 100:04d}").mkdir(parents=True)
        place = games / f"{number // 100:04d}" / f"{number:06d}"
        if number < good:
            place.with_suffix(".sgf").write_bytes(GAME)
        elif number % 10:
            place.with_suffix(".txt").touch()
        else:
            place.with_suffix(".sgf").write_bytes(b"(;" if number % 20 else b"")
        (folder / f"sft/ckpt-{number:06d}").mkdir()
        (folder / f"matches/{number}").mkdir()

    def read() -> None:
        found, skipped = read_expert([games], make("go9x9"))
        wrong = [number for number in range(good, many) if number % 10 == 0]
        assert (len(found), len(skipped)) == (good, len(wrong))

    def list_checkpoints() -> None:
        assert checkpoint.newest(folder / "sft") is None

    def rate() -> None:
        assert standings(folder / "matches", make("tictactoe"), ("a", "b")) == ""

    for reader in (read, list_checkpoints, rate):
        began = time.monotonic()
        with attack.variant(reader.__name__), within(SECONDS):
            reader()
        attack.figures[reader.__name__] = f"{many:,} in {time.monotonic() - began:.1f} s"
    attack.must_have_held()


#: What stands where a file or folder is wanted, or beside it.
Odd = Callable[[Path, random.Random], object]
ODD: dict[str, Odd] = {
    "link to itself": lambda path, rng: path.symlink_to(path.name),
    "link up": lambda path, rng: path.symlink_to(".."),
    "link to nothing": lambda path, rng: path.symlink_to("nowhere"),
    "links in a circle": lambda path, rng: [
        path.symlink_to(path.with_name(f"{path.name}.b").name),
        path.with_name(f"{path.name}.b").symlink_to(path.name)],
    "link to zeros": lambda path, rng: path.symlink_to("/dev/zero"),
    "folder": lambda path, rng: path.mkdir(),
    "unreadable file": lambda path, rng: [path.write_bytes(GAME), path.chmod(0)],
    "unreadable folder": lambda path, rng: [
        path.mkdir(), (path / "x.sgf").write_bytes(GAME), path.chmod(0)],
    "folder that may be listed, no more": lambda path, rng: [
        path.mkdir(), (path / "x.sgf").write_bytes(GAME), path.chmod(0o444)],
    "folder that may be entered, no more": lambda path, rng: [
        path.mkdir(), (path / "x.sgf").write_bytes(GAME), path.chmod(0o111)],
    "socket": lambda path, rng: _socket(path),
    "pipe": lambda path, rng: os.mkfifo(path),
    "nothing in it": lambda path, rng: path.touch(),
    "noise": lambda path, rng: path.write_bytes(rng.randbytes(1000)),
}


def _socket(path: Path) -> None:
    """At ``path``, whatever its length."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:100])
    finally:
        os.chdir(here)


def odd_name(rng: random.Random, ending: str) -> str:
    stem = rng.choice(["a", "-x", "a b", "a\nb", "é", os.fsdecode(b"\xff\xfe"), "x" * 200, "'",
                       "%s", "\u202e", ".hidden"])
    return f"{stem}{rng.randrange(1000)}{ending}"


@pytest.mark.attack
def test_odd_files(attack: Attack, folder: Path) -> None:
    game = make("go9x9")
    read_expert([_one_game(folder / "first")], game)  # compiled from here on
    codecs.lookup("utf-8-sig")  # which the user may not be able to import
    for number in range(attack.count(60, 1500)):
        rng = attack.rng(number)
        place = folder / str(number)
        names = [rng.choice(list(ODD)) for _ in range(rng.randint(1, 4))]
        with attack.variant(f"{number}: {names}"), within(20), little_memory():
            _one_game(place)
            ending = rng.choice([".sgf", ".sgf.gz", ".zip", ".jsonl.gz", ""])
            for name in names:
                with suppress(FileExistsError):
                    ODD[name](place / odd_name(rng, ending), rng)
            direct = place / f"task{rng.choice(['.jsonl', '.json'])}"
            ODD[names[0]](direct, rng)
            with as_a_user():
                found, _ = read_expert([place], game)
                assert len(found) >= 1, "the sound game beside them is lost"
                checkpoint.newest(place)
                if names[0] != "pipe":  # which may well be written to
                    make_task(str(direct))
                    raise AssertionError(f"{direct} is taken for questions")
    attack.must_have_held()


def _one_game(place: Path) -> Path:
    place.mkdir(mode=0o755)
    (place / "sound.sgf").write_bytes(GAME)
    return place


def words_of(command: str, run: Path, out: Path) -> list[str]:
    if command == "compare":
        return ["compare", str(run)]
    return ["match", f"net:{run}", "random", "--game", "tictactoe", "--games", "2", "--out",
            str(out)]


@pytest.mark.attack
def test_runs_with_odd_files(attack: Attack, whole: Path, run: Command,  # noqa: F811
                             folder: Path) -> None:
    odd = {name: make_it for name, make_it in ODD.items() if name not in ("pipe", "link to zeros")}
    for command in ("compare", "match"):  # compiled and loaded from here on
        assert run(*words_of(command, whole, folder / "first")).code == 0
    for number in range(attack.count(3, 80)):
        rng = attack.rng(number)
        place = folder / str(number)
        shutil.copytree(whole, place)
        paths = sorted(place.rglob("*"))
        for path in [place, *paths]:
            path.chmod(0o777)
        path, kind = rng.choice(paths), rng.choice(list(odd))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        odd[kind](path, rng)
        words = words_of(rng.choice(("compare", "match")), place, folder / f"m{number}")
        with attack.variant(f"{kind} for {path.relative_to(place)}; {words[0]}"), as_a_user(), \
                little_memory(), within(SECONDS):
            said = run(*words)
            if said.code:
                said.mistake()
                attack.came["one line"] += 1
                attack.came["held"] -= 1
    attack.must_have_held()
