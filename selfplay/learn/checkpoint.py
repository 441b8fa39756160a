"""Checkpoints: a folder of weights (safetensors) and plain facts (JSON). No pickle.

ckpt-000123/
    weights.safetensors   the net that acts (averaged weights)
    meta.json             game, net, step, kind, compute, metrics
    train.safetensors     what training goes on from: raw weights, average, optimizer
    train.json            its numbers
    sums.json             CRC-32 of each file

A folder is written under another name and renamed when it is complete, so there is never half a
checkpoint under a checkpoint's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.files import (
    must_be_as_saved,
    parse_json,
    read_file,
    read_json,
    refused,
    sync_folder,
    without,
    write_atomic,
    write_sums,
)
from selfplay.common.history import finite_float
from selfplay.common.words import clip
from selfplay.learn import packaged
from selfplay.models import NetSpec, OwnNetError, build

WEIGHTS, META = "weights.safetensors", "meta.json"
TRAIN, TRAIN_META = "train.safetensors", "train.json"
BEST = "best.json"
_NAME = re.compile(r"ckpt-\d{1,20}")  #: of a checkpoint's folder
LAST = 2  #: checkpoints that keep what training goes on from: one may get damaged
_TEMPORARY = ".tmp-"


class Playable(Protocol):
    """A game, as far as a checkpoint names it."""

    name: str
    kin: str
    obs_shape: tuple[int, int, int]
    num_actions: int


class Training(Protocol):
    """What is saved: ``optimizer.Trainer``, or anything like it."""

    def inference_net(self) -> nn.Module: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...


def naming(game: Playable, spec: NetSpec) -> dict[str, str]:
    """What a checkpoint tells of its game: "game", a name, and of a net for more than that one
    "plays", the kin of it, which says what the net can play."""
    return {"game": game.name, **({"plays": game.kin} if spec.any_board else {})}


def save(path: Path, trainer: Training, spec: NetSpec, meta: Mapping[str, Any]) -> None:
    """Write a whole checkpoint as ``path``, replacing one that is there.

    meta: JSON types; at least ``naming`` its game, "step" and "compute" belong in it.
    One process writes to a folder: what an earlier, killed one left unfinished is swept away.
    Raises UserError where the disk refuses; ``path`` is then what it was.
    """
    with replacing(path) as temporary:
        _write_net(temporary, trainer.inference_net(), spec, meta)
        write_training(temporary, *trainer.state())


def save_net(path: Path, net: nn.Module, spec: NetSpec, meta: Mapping[str, Any]) -> None:
    """As ``save``, without what training goes on from."""
    with replacing(path) as temporary:
        _write_net(temporary, net, spec, meta)


def _write_net(folder: Path, net: nn.Module, spec: NetSpec, meta: Mapping[str, Any]) -> None:
    write_atomic(folder / WEIGHTS, _bytes(net.state_dict()))
    write_meta(folder, {**meta, "net": dataclasses.asdict(spec)})


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A folder to write into that takes the name ``path`` when the block ends without an error,
    with the sums of its files.

    Raises UserError where the disk refuses; ``path`` is then what it was. Only the first of a
    run's processes writes, and the others leave the block when it has.
    """
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    if not ranks.leads():
        yield temporary
        ranks.here().meet()
        return
    _sweep(path.parent)
    try:
        yield temporary
        write_sums(temporary)
        _rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    ranks.here().meet()


def write_training(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """What ``load_training`` reads."""
    write_atomic(path / TRAIN, _bytes(tensors))
    write_atomic(path / TRAIN_META, _json(numbers))


def write_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """What ``read_meta`` reads."""
    write_atomic(path / META, _json(meta))


def listing(folder: Path) -> list[Path]:
    """The valid checkpoints in ``folder``, oldest first, by the step in their names (NAME-STEP).

    Folders that are unfinished or damaged are left out.
    """
    if not folder.is_dir():
        return []
    named = []
    for path in folder.iterdir():
        step = path.name.rpartition("-")[2]
        if step.isdecimal() and not path.name.startswith(".") and _valid(path):
            named.append((int(step), path))
    return [path for _, path in sorted(named)]


def newest(folder: Path) -> Path | None:
    """The valid checkpoint of the highest step in ``folder``, or None."""
    found = listing(folder)
    return found[-1] if found else None


def note(folder: Path) -> dict[str, Any]:
    """What ``best.json`` says of a stage: "checkpoint" is the name of its best; empty where there
    is no such file. Raises UserError naming one that is damaged."""
    path = folder / BEST
    found = read_json(path) if path.exists() else {}
    if path.exists() and not (isinstance(found, dict) and _NAME.fullmatch(
            str(found.get("checkpoint")))):
        raise UserError(f"{path}: damaged (no checkpoint in it); delete it and run the same "
                        "command again")
    return found


def best(folder: Path, metric: str = "policy_loss") -> Path | None:
    """A stage's best checkpoint, as ``note`` has it; else that of the lowest held-out ``metric`` in
    its meta, of equals the newest. None where there is none yet."""
    found = note(folder)
    if found:
        return folder / found["checkpoint"]

    def loss(path: Path) -> float:
        value = (read_meta(path).get("metrics") or {}).get(metric)
        return float(value) if isinstance(value, (int, float)) else math.inf

    return min(reversed(listing(folder)), key=loss, default=None)


def chosen(folder: Path) -> Path | None:
    """The checkpoint that speaks for a stage: the best where one is noted, else the newest."""
    return best(folder) if note(folder) else newest(folder)


def reached_plateau(folder: Path) -> bool:
    """Whether learning ended because no more was learnt, not because the time was up."""
    return bool(note(folder).get("flat"))


def thin(folder: Path, keep: int, best: Path | None = None, evenly: bool = False) -> None:
    """Delete checkpoints until the newest ``keep`` are left, and ``best``.

    evenly: those that are left lie as evenly as they come, and the newest and the one before it,
    should the newest get damaged, are always among them. All but the last two lose what training
    goes on from: a chart needs weights only.
    """
    found = listing(folder)
    for path in found[:-LAST]:
        drop_training(path)
    if not evenly:
        for path in found[:-keep]:
            if path != best:
                shutil.rmtree(path)
        return
    del found[-2:-1]
    while len(found) > max(keep, LAST):
        steps = [int(p.name.split("-")[1]) for p in found]
        gaps = [steps[i + 1] - steps[i - 1] for i in range(1, len(steps) - 1)]
        shutil.rmtree(found.pop(1 + gaps.index(min(gaps))))


def meta_file(path: Path) -> Path:
    """Of a checkpoint's folder, or of NAME.safetensors, a net that came along (``packaged``)."""
    return path.with_suffix(packaged.CARD) if path.suffix == packaged.SUFFIX else path / META


def read_meta(path: Path) -> dict[str, Any]:
    """``meta.json`` of a checkpoint; UserError naming the file if it is missing or damaged."""
    meta = _read_meta(path)
    must_be_as_saved(path, [META])
    return meta


def _read_meta(path: Path) -> dict[str, Any]:
    file = meta_file(path)
    if not file.is_file():
        if path.suffix == packaged.SUFFIX:
            raise UserError(f"{path}: no checkpoint (its card {file.name} is not beside it); "
                            "selfplay export --safetensors writes both")
        raise UserError(f"{path}: no checkpoint ({META} is not in it); give a folder such as "
                        "runs/NAME/rl/ckpt-000010")
    meta = _read_json(file)
    kinds = {"step": int, "net": dict, "compute": dict}
    if not all(isinstance(meta.get(key), kind) for key, kind in kinds.items()):
        raise _damaged(file, "no step, no net or no compute in it")
    try:
        list(map(finite_float, meta["compute"].values()))
    except (TypeError, ValueError) as error:
        raise _damaged(file, f"its compute: {error}") from None
    if meta["step"] < 0 or isinstance(meta["step"], bool):
        raise _damaged(file, "its step is no number from 0")
    views = meta.get(packaged.SYMMETRIES, 1)
    if not isinstance(views, int) or views < 1:
        raise _damaged(file, f"its {packaged.SYMMETRIES} are no number from 1")
    if not isinstance(meta.get("metrics") or {}, dict):
        raise _damaged(file, "its metrics are no figures by name")
    return meta


def load_net(
    path: Path, game: Playable | str | None = None, device: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """(the net that acts, in eval mode, on ``device``; its meta).

    path: a checkpoint's folder, or a packaged net's weights. game: what the net must play, or the
    name that the checkpoint's game must have; None takes any. The spec in the meta (``spec_of``) is
    then that of the net on this game's board.
    Raises UserError for another game's checkpoint and for one that is missing or damaged.
    """
    meta = _read_meta(path)
    if game is not None:
        meta = _meta_for(path, meta, game)
    weights = path if path.suffix == packaged.SUFFIX else path / WEIGHTS
    tensors = _read_tensors(weights)
    if not all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point()):
        raise _damaged(weights, "weights that are no finite numbers")
    try:
        spec = spec_of(meta)
        _must_fit(spec, tensors)
        net = build(spec)
        net.load_state_dict(tensors)
    except OwnNetError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        files = f"{meta_file(path).name} and {weights.name}"
        raise _damaged(path, f"{files} do not fit: {reason}") from None
    if path.suffix == packaged.SUFFIX:
        packaged.must_be_as_packaged(path, meta)
    else:
        must_be_as_saved(path, [META, WEIGHTS])
    return net.to(device).eval(), meta


def _meta_for(path: Path, meta: dict[str, Any], game: Playable | str) -> dict[str, Any]:
    """``meta``, with the shapes of ``game`` where its net takes boards of any size. Raises
    UserError where the net does not play ``game``."""
    name = game if isinstance(game, str) else game.name
    fits = name == meta.get("game") or (
        not isinstance(game, str) and game.kin == meta.get("plays"))
    if "game" not in meta and "plays" not in meta:
        raise UserError(f"{path}: no net of a board game; where a language model is there, write "
                        f"llm:{path}")
    if not fits:
        plays = meta.get("plays", meta.get("game"))
        raise UserError(f"{path}: a net for {plays}, not for {name}; give a checkpoint of {name}, "
                        f"or --game {meta.get('game')}")
    if isinstance(game, str):
        return meta
    if "plays" in meta:
        shapes = {"obs_shape": game.obs_shape, "num_actions": game.num_actions}
        return {**meta, "net": {**meta["net"], **shapes}}
    shape = meta["net"].get("obs_shape")
    if not (isinstance(shape, list) and tuple(shape[1:]) == game.obs_shape[1:]):
        raise _damaged(meta_file(path), f"its net is of another board than {name}'s")
    return meta


def _must_fit(spec: NetSpec, tensors: Mapping[str, Tensor]) -> None:
    """Raises RuntimeError before a net is made that the weights are not of: its size is a few
    characters of a file, and might ask for all memory. A net of the user's own is made anyway."""
    if ".py:" in spec.size:
        return
    blocks, _, channels = spec.size.rpartition(":")[2].partition("x")
    stored = sum(tensor.numel() for tensor in tensors.values())
    if blocks.isdecimal() and channels.isdecimal() and int(blocks) * int(channels) ** 2 > stored:
        raise RuntimeError(f"a net of {spec.size} has more weights than the {stored:,} stored")


def spec_of(meta: Mapping[str, Any]) -> NetSpec:
    """The net that a checkpoint's meta describes."""
    return NetSpec(**meta["net"])


def symmetries_of(meta: Mapping[str, Any]) -> int:
    """By how many views of the board the net plays without search (``spread.Symmetric``)."""
    return int(meta.get(packaged.SYMMETRIES, 1))


def load_training(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) for ``Trainer.load_state``.

    Raises UserError if the checkpoint kept its weights only (``drop_training``) or is damaged.
    """
    for name in (TRAIN, TRAIN_META):
        if not (path / name).is_file():
            raise UserError(f"{path}: holds weights only, training cannot go on from it; start a "
                            f"new run from it with --init {path}, or delete the newer files of "
                            "the run to go on from an older checkpoint")
    numbers = _read_json(path / TRAIN_META)
    if not all(isinstance(numbers.get(key), (int, float)) for key in ("steps", "learning_rate")):
        raise _damaged(path / TRAIN_META, "no steps or no learning_rate in it")
    tensors = _read_tensors(path / TRAIN)
    must_be_as_saved(path, [TRAIN_META, TRAIN])
    return tensors, numbers


def drop_training(path: Path) -> None:
    """Keep what acts, delete what training would go on from (two thirds of the size and more)."""
    for name in (TRAIN_META, TRAIN):
        (path / name).unlink(missing_ok=True)


def _rename(temporary: Path, path: Path) -> None:
    old = path.with_name(f"{_TEMPORARY}old-{path.name}")
    try:
        if path.exists():
            os.rename(path, old)  # a folder that is not empty cannot be renamed over
        os.rename(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C included
        if old.exists() and not path.exists():
            os.rename(old, path)
        if isinstance(error, OSError):
            raise refused(path, error) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)


def _valid(path: Path) -> bool:
    """Whether meta and the weights' headers can be read (which finds truncated files as well)."""
    files = [file for file in path.glob("*.safetensors") if file.name != TRAIN]
    try:
        parse_json(read_file(path / META))
        must_be_as_saved(path, [META])
        for file in files:
            with safe_open(file, "pt"):
                pass
    except (OSError, ValueError, SafetensorError, UserError):
        return False
    return bool(files)


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return to_bytes({key: value.detach().cpu().contiguous() for key, value in tensors.items()})


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(read_file(path)))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> UserError:
    remedy = (packaged.anew(path) if path.suffix in (packaged.SUFFIX, packaged.CARD)
              and path.name not in (WEIGHTS, META)
              else without(path if path.is_dir() else path.parent))
    return UserError(f"{path}: damaged ({clip(why, 200)}); {remedy}")
