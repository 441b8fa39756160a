"""Fixtures for more than one test file."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacking import Attack, table
from command import Command, Said
from forked import unwaited
from hypothesis import settings
from numpy.typing import NDArray

from selfplay.cli import main
from selfplay.games.base import Game

# One thread for each of pytest's workers, and for what they start: torch's own wait for one another
# on a busy processor. A test of more threads sets them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# A busy processor is no fault of what is tested.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

#: Files of tests that play no games.
TEXTS = ("test_algorithms", "test_dpo", "test_fsdp", "test_llm_", "test_policy_gradient",
         "test_reward_model", "test_rlhf")

PlayRandom = Callable[..., tuple[Any, NDArray[np.int64]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=0, metavar="N",
                     help="run the tests that learn something, each with the seeds 0 to N - 1")
    attacks = parser.getgroup("attacks")
    attacks.addoption("--attack", action="store_true", help="carry out the attacks in full")
    attacks.addoption("--seed", type=int, default=0, help="of the attacks' variants")
    attacks.addoption("--scale", type=float, default=1.0, metavar="X",
                      help="share of the attacks' variants")
    attacks.addoption("--minutes", type=float, default=60.0, metavar="M", help="of the soak")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("seeds") and not config.option.markexpr:
        config.option.markexpr = "learns"
    if config.getoption("attack") and not config.option.markexpr:
        config.option.markexpr = "attack"
    if not config.getoption("attack"):
        os.fsync = unwaited  # some 400 times in the smallest run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Texts come in the middle, where the second of two workers begins: it does what needs no
    kernels of games while the first compiles them, instead of the same once more."""
    boards, texts = (
        [item for item in items if item.path.name.startswith(TEXTS) == text]
        for text in (False, True))
    at = min(len(items) // 2, len(boards))
    while 0 < at < len(boards) and boards[at].path == boards[at - 1].path:
        at -= 1  # files stay whole
    items[:] = [*boards[:at], *texts, *boards[at:]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``learn_seed`` of a test that learns: what its weights and its data are drawn from."""
    if metafunc.definition.get_closest_marker("learns"):
        seeds = range(max(metafunc.config.getoption("seeds"), 1))
        metafunc.parametrize("learn_seed", seeds, ids="seed{}".format)


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    """In full with --attack, else a short part; its figures go into the table at the end."""
    option = request.config.getoption
    name = request.node.name.removeprefix("test_").replace("_", " ")
    made = Attack(name, option("attack"), option("seed"), option("scale"), option("minutes"))
    yield made
    request.node.user_properties.append(("attack", made.row()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of figures of ``--attack``."""
    ended = [report for reports in terminalreporter.stats.values() for report in reports
             if getattr(report, "when", "") == "teardown"]
    rows = [row for report in ended for key, row in report.user_properties if key == "attack"]
    if config.getoption("attack") and rows:
        terminalreporter.write_line("")
        terminalreporter.write_line(table(rows))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever a test does to torch's threads is undone; forked children cannot use them."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gnugo() -> str:
    """Path of GNU Go, which Debian installs off many a PATH."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/games", "/usr/local/games"])
    path = shutil.which("gnugo", path=folders)
    if path is None:
        pytest.skip("no gnugo on PATH or in /usr/games (apt install gnugo)")
    return path


@pytest.fixture(scope="session")
def play_random() -> PlayRandom:
    """(game, batch, seed, plies=None) -> (states, actions int64 [B, T]): random legal moves from
    the initial state, to the end of every game unless ``plies`` are given; -1 pads."""

    def play(
        game: Game, batch: int, seed: int, plies: int | None = None
    ) -> tuple[Any, NDArray[np.int64]]:
        rng, states, columns = np.random.default_rng(seed), game.new(batch), []
        for _ in range(game.max_moves if plies is None else plies):
            legal = game.legal(states)
            if not legal.any():
                break
            drawn = (legal + rng.random(legal.shape)).argmax(1)
            columns.append(np.where(legal.any(1), drawn, -1))
            game.step(states, columns[-1])
        return states, np.stack(columns, axis=1)

    return play


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """``selfplay WORDS`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["selfplay", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)
