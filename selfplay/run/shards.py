"""Training rows on disk with the games they come from, and the games for the value net."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.board.data import Columns, concat
from selfplay.board.value import SHARD_GAMES, Games, Policies, play_shard
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
from selfplay.common.threads import Workers
from selfplay.common.words import clip
from selfplay.games.base import Game


class Shard(NamedTuple):
    """A file of training rows and the games they come from.

    Game g is ``actions[ends[g-1]:ends[g]]`` and ended with ``values[g]`` for player 0.
    """

    columns: Columns
    actions: NDArray[np.int16]  #: [moves of all games]
    ends: NDArray[np.int64]  #: [games]
    values: NDArray[np.float32]  #: [games]
    sizes: NDArray[np.int8] | None = None  #: [games], rows of each one's board where these differ


MIXED = {"size", "sizes"}  #: arrays of games on boards of several sizes


def save_shard(
    path: Path,
    columns: Columns,
    actions: NDArray[np.int16],
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
    sizes: NDArray[np.int8] | None = None,
) -> None:
    """Write rows and the games behind them (see Shard) atomically as a compressed .npz.

    Raises UserError if the disk refuses.
    """
    arrays = {**columns._asdict(), "actions": actions, "ends": ends, "values": values,
              "sizes": sizes}
    there = {name: array for name, array in arrays.items() if array is not None}
    write_atomic(path, lambda file: np.savez_compressed(file, **there))


def load_shard(path: Path) -> Shard:
    """Read a shard; nothing is unpickled. Raises UserError naming a file that is missing or
    damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in (*Columns._fields, *Shard._fields[1:])
                     if name not in MIXED or MIXED & set(file.files)]
            arrays = {name: _array(file, name) for name in names}
        rows = {name: arrays.pop(name) for name in Columns._fields if name in arrays}
        shard = Shard(Columns(**rows), **arrays)
        lengths = {len(column) for column in rows.values()}  # TypeError for an array without axes
        whole = len(lengths) == 1 and len(shard.ends) == len(shard.values)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, RuntimeError,
            MemoryError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged_shard(path, str(error)) from None  # flipped bits bring most
    if not whole:
        raise _damaged_shard(path, "its columns differ in length")
    return shard


def _array(file: Any, name: str) -> Any:
    """An array of an open .npz. All its bytes are read first: a header that asks for fewer would
    not come to the sum at their end."""
    return np.lib.format.read_array(io.BytesIO(file.zip.read(f"{name}.npy")), allow_pickle=False)


def _damaged_shard(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged shard ({clip(why, 200)}); delete it and run the same "
                     "command again")


#: (numbers, stop) -> (number, games) of these shards as they are made, of the first whatever
#: ``stop()`` says, of the others until it is True.
Shards = Callable[[Sequence[int], Callable[[], bool]], Iterator[tuple[int, Games]]]


def shards_here(
    game: Game, policies: Policies, latest: int, seed: int, threads: int
) -> Shards:
    """Shards that this process makes. latest: the last turn at which the random move may come; 0
    allows any turn of the game."""
    def made(
        numbers: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Games]]:
        workers = Workers(threads)
        for number in numbers:
            done = play_shard(game, policies, number, latest or game.max_moves, seed, workers,
                              stop if number else lambda: False)
            if done is None:
                return
            yield number, done

    return made


def make_games(
    folder: Path, games: int, shards: Shards, *, stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda played: None,
    spent: Callable[[int], None] = lambda evaluations: None,
) -> int:
    """Let ``shards`` make whatever is missing of ``games`` games (rounded up to whole shards) and
    keep them in ``folder``, one .npz per shard.

    progress: told how many games there are so far. spent: told how many evaluations a shard took.
    Returns the number of games on disk.
    """
    wanted = math.ceil(games / SHARD_GAMES)
    paths = {number: folder / f"{number:06d}.npz" for number in range(wanted)}
    missing = [number for number, path in paths.items() if not path.exists()]
    played = (wanted - len(missing)) * SHARD_GAMES
    if played:
        progress(played)
    for number, done in shards(missing, stop):
        spent(done.evaluations)
        save_shard(paths[number], done.columns, done.actions, done.ends, done.values)
        played += SHARD_GAMES
        progress(played)
    return played


def read_rows(folder: Path) -> Columns:
    """The rows of all shards, in order. Raises UserError if one is damaged or there are none."""
    paths = sorted(folder.glob("[0-9]*.npz"))
    if not paths:
        raise UserError(f"{folder}: no games for the value net yet; make them with selfplay value")
    return concat([load_shard(path).columns for path in paths])
