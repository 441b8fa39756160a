"""Several processes that learn together, as torchrun would start them, forked from this one's
server so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import KERNELS, LIBRARIES, _finding_modules_here

SECONDS = 240  #: after which processes that wait for each other are ended


def together(size: int, work: Callable[..., None], *words: Any) -> list[int]:
    """Run ``work(*words)``, a function of a module, in ``size`` processes that have joined; their
    exit codes. What they print goes to this process's output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, KERNELS])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = context.Process(target=_joined, args=(place, work, words), daemon=True)
        with _finding_modules_here():
            process.start()
        started.append(process)
    for process in started:
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in started]


def _joined(place: dict[str, str], work: Callable[..., None], words: tuple[Any, ...]) -> None:
    import torch

    from selfplay.learn.distributed import in_company

    os.environ.update(place)
    torch.set_num_threads(1)
    with in_company():
        work(*words)


def same_files(one: Path, other: Path, pattern: str) -> None:
    """The files of that pattern are the same ones, to the bit."""
    names = sorted(path.relative_to(one) for path in one.rglob(pattern))
    assert names and names == sorted(path.relative_to(other) for path in other.rglob(pattern))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
