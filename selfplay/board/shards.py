"""Training rows on disk, and the games that they come from."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.board.data import Columns
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic


class Shard(NamedTuple):
    """A file of rows and the games they come from.

    Game g is ``actions[ends[g-1]:ends[g]]`` and ended with ``values[g]`` for player 0.
    """

    columns: Columns
    actions: NDArray[np.int16]  #: [moves of all games]
    ends: NDArray[np.int64]  #: [games]
    values: NDArray[np.float32]  #: [games]


def save_shard(
    path: Path,
    columns: Columns,
    actions: NDArray[np.int16],
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
) -> None:
    """Write rows and the games behind them (see Shard) as a compressed .npz, atomically.

    Raises UserError where the disk refuses.
    """
    arrays = {**columns._asdict(), "actions": actions, "ends": ends, "values": values}
    write_atomic(path, lambda file: np.savez_compressed(file, **arrays))


def load_shard(path: Path) -> Shard:
    """Raises UserError naming a file that is missing or damaged. Unpickles nothing."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = Columns(*(file[name] for name in Columns._fields))
            shard = Shard(columns, file["actions"], file["ends"], file["values"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, str(error)) from None
    lengths = {len(column) for column in shard.columns}
    if len(lengths) != 1 or len(shard.ends) != len(shard.values):
        raise _damaged(path, "its columns differ in length")
    return shard


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged shard ({why}); delete it and run the same command again")
