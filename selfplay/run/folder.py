"""A run's folder: its frozen config, its clock, its history files.

runs/NAME/
    config.json      what was asked for          progress.json   seconds spent, stages done
    expert/          games made for this run     sft/, rl/, value/   checkpoints, history.jsonl
    rl/records/      self-play shards            value/games/    shards, a position of each game
    matches/         one folder a match
    tb/              TensorBoard events          evaluation.json, report.html,
                                                 chart.png, summary.json
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from selfplay.arena.players import missing_engine, parse_player
from selfplay.arena.spec import checkpoint_of, full_name, net_parts
from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, finite, read_json, write_json
from selfplay.common.settings import to_dict
from selfplay.games import identity, make, own
from selfplay.games.base import Game
from selfplay.inference.precision import must_have_int8
from selfplay.learn.checkpoint import load_net, read_meta
from selfplay.learn.packaged import find
from selfplay.models import NetSpec
from selfplay.run.config import RunConfig, from_dict, must_be_of_recipe, must_fit
from selfplay.run.loggers import must_be_logger
from selfplay.run.own_nets import use_net

STARTS = ("sft", "random")  #: what ``init`` may be beside a checkpoint
OWN = frozenset(("expert", "sft", "rl", "value", "matches", "tb", "skipped.txt", "progress.json",
                 "evaluation.json", "report.html", "chart.png", "summary.json"))


def stages(config: RunConfig) -> dict[str, float]:
    """The stages of a run in order, and the share of the minutes that each has."""
    *made, judged = zip(("expert", "sft", "rl", "eval"), config.shares, strict=True)
    if config.recipe == "alphago":
        made.append(("value", config.value.share))
    return dict([*made, judged])


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig
    game: Game

    def path(self, *parts: str) -> Path:
        """A path inside the run; its parent exists afterwards."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def stored_config(folder: Path) -> RunConfig | None:
    """The config of the run in ``folder``; None if there is no run.

    Raises UserError if the folder holds other things.
    """
    path = folder / "config.json"
    if path.exists():
        return from_dict(read_json(path, dict), str(path))
    if folder.is_file() or (folder.is_dir() and any(map(_foreign, folder.iterdir()))):
        raise UserError(f"{folder}: holds other files, not a run; give --run another name")
    return None


def _foreign(path: Path) -> bool:
    """Nothing of a run's, be it one whose config.json was damaged and deleted."""
    return path.name not in OWN and not (path.name[0] == "." and path.name.endswith(".tmp"))


def open_run(folder: Path, config: RunConfig) -> Run:
    """Create the run, or continue it.

    A run that has made something must have been started with the same settings, but for those
    that only say how long or where it goes on, how it is judged, or what RL that has not begun
    will do. Nothing is written: see ``freeze``.

    Raises UserError naming the first setting that differs or does not fit the others, or a
    player, a checkpoint or a file that does not exist, GameError or NetError for a game or a net
    that does not.
    """
    stored = stored_config(folder)
    game, known = make(config.game), _players(stored) if stored else set()
    if own.is_own(config.net):  # by the user's words, or those of a run of his
        config = replace(config, net=use_net(config.net))
    config = _of_init(_full_names(config, known), stored)
    if stored is not None and _begun(folder):
        asked, had = _essence(config, folder), _essence(stored, folder)
        if asked != had:
            raise UserError(f"{folder}: {_difference(asked, had)}; give --run another name")
    must_fit(config)
    must_be_of_recipe(config)
    NetSpec(config.net, game.obs_shape, game.num_actions)  # raises before anything is made
    for name in config.log:
        must_be_logger(name)
    _must_exist(config, stored or RunConfig(config.game), game)
    return Run(folder, config, game)


def freeze(run: Run) -> None:
    """Write down the settings of ``run``, whose folder the caller has locked; what an RL that made
    nothing has left of other ones (its first policy, the choice of a dtype) goes."""
    path, stored = run.folder / "config.json", stored_config(run.folder)
    if stored is not None and _of_rl(run.config) != _of_rl(stored) and not _rl_begun(run.folder):
        shutil.rmtree(run.folder / "rl", ignore_errors=True)
    if run.config != stored:
        write_json(path, to_dict(run.config))


def _must_exist(config: RunConfig, stored: RunConfig, game: Game) -> None:
    """Look for what ``config`` names; what was found at an earlier start may have gone since."""
    for name in _players(config) - _players(stored):
        if missing_engine(name) is None:  # the matches of one that is missing are left out
            parse_player(name, game).close()
    for file in set(config.expert.games) - set(stored.expert.games):
        if not Path(file).exists():
            raise UserError(f"{file}: no such file or folder of expert games")
    if config.rl.dtype == "int8" and (stored.rl.dtype, stored.device) != ("int8", config.device):
        if config.device.startswith("cuda"):
            raise UserError("rl.dtype=int8: on a CPU only; take --set rl.dtype=auto")
        must_have_int8()
    if config.init != stored.init and config.init not in STARTS:
        load_net(Path(config.init), game)


def _players(config: RunConfig) -> set[str]:
    return {*config.eval.baselines, config.expert.player}


def _full_names(config: RunConfig, known: set[str]) -> RunConfig:
    """``config`` with the checkpoints that its players' nets mean now, or meant when the players
    ``known`` were written down."""
    def full(name: str) -> str:
        found = [old for old in sorted(known) if name == old or _meant(name, old)]
        return found[0] if found else full_name(name)

    return replace(config, expert=replace(config.expert, player=full(config.expert.player)),
                   eval=replace(config.eval, baselines=tuple(map(full, config.eval.baselines))))


def _of_init(config: RunConfig, stored: RunConfig | None) -> RunConfig:
    """``config`` with the checkpoint that its init means, or meant before, and that one's net."""
    if config.init in STARTS:
        return config
    if stored and stored.init not in STARTS and _meant(f"net:{config.init}", f"net:{stored.init}"):
        return replace(config, init=stored.init, net=stored.net)
    if not Path(config.init).is_dir() and find(config.init) is None:
        raise UserError(f"--init {config.init}: no checkpoint there; give sft, random, a run, a "
                        "checkpoint such as runs/NAME/rl/ckpt-000010, or a packaged net")
    path = checkpoint_of(config.init, f"net:{config.init}")[0]
    return replace(config, init=str(path), net=str(read_meta(path)["net"].get("size")))


def _meant(typed: str, known: str) -> bool:
    """Whether ``known`` is a net in the folder ``typed``, with the same search."""
    if not (typed.startswith("net:") and known.startswith("net:")):
        return False
    (folder, sims), (path, same) = net_parts(typed[4:]), net_parts(known[4:])
    return sims == same and path.is_relative_to(folder)


def _begun(folder: Path) -> bool:
    """Whether games or weights are there that other settings would not have made."""
    return _rl_begun(folder) or any(any(folder.glob(f"{stage}/*"))
                                    for stage in ("expert", "sft", "value"))


def _rl_begun(folder: Path) -> bool:
    """Whether RL has made a checkpoint or a game; its pool begins with the policy it was given."""
    made = (path for what in ("ckpt-*", "pool/ckpt-*", "records/**/*.npz", "history.jsonl")
            for path in folder.glob(f"rl/{what}"))
    return any(path != folder / "rl/pool/ckpt-000000" for path in made)


def _of_rl(config: RunConfig) -> tuple[Any, ...]:
    """The settings that RL begins with."""
    return config.seed, config.init, config.net, config.rl, config.pg, config.pool


def _essence(config: RunConfig, folder: Path) -> RunConfig:
    """``config`` without what may change between two starts of the run in ``folder``: once RL has
    begun, its settings may not, and so with the value net's; nor what learning starts from, once
    anything has been learnt."""
    plain = RunConfig(game=config.game)
    if not _rl_begun(folder):
        config = replace(config, rl=plain.rl, pg=plain.pg, pool=plain.pool)
        if not any(folder.glob("sft/*")):
            config = replace(config, init=plain.init, net=plain.net)
    if not any(folder.glob("value/*")):
        config = replace(config, value=plain.value)
    value = replace(config.value, games=0, max_steps=0, share=0.0, play=0.0)
    return replace(config, game=identity(config.game), net=identity(config.net),
                   recipe=plain.recipe, log=plain.log,
                   minutes=plain.minutes, device=plain.device,
                   shares=plain.shares, eval=plain.eval, value=value,
                   rl=replace(config.rl, iterations=0, keep=0, cache_mb=0),
                   sft=replace(config.sft, max_steps=0))


def _difference(asked: RunConfig, stored: RunConfig) -> str:
    new, old = to_dict(asked), to_dict(stored)
    for key in new:
        pairs = [(key, new[key], old[key])]
        if isinstance(new[key], dict):
            pairs = [(f"{key}.{k}", new[key][k], old[key][k]) for k in new[key]]
        for name, wanted, had in pairs:
            if wanted != had:
                return f"was started with {name}={had}, not {wanted}"
    return "was started with other settings"


class Limited(Protocol):
    """Settings that limit the time."""

    @property
    def minutes(self) -> float: ...


class Budgeted(Protocol):
    """What a Clock needs to know of a run."""

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> Limited: ...


class Clock:
    """Seconds spent per stage, kept on disk, and what each stage may still spend.

    What a stage leaves of its share goes to the stages after it.
    """

    def __init__(
        self, run: Budgeted, shares: Mapping[str, float], alone: float | None = None
    ) -> None:
        """shares: stages in order (see ``stages``), and what part of the minutes each has.
        alone: minutes for whichever stage runs now, whatever the shares say."""
        self.run, self.shares, self.alone = run, dict(shares), alone
        self.file = run.folder / "progress.json"
        data = read_json(self.file) if self.file.exists() else {"seconds": {}, "done": []}
        try:
            self.seconds = {s: max(finite(data["seconds"].get(s, 0)), 0.0) for s in self.shares}
            self.done = [stage for stage in self.shares if stage in data["done"]]
        except DAMAGE:
            raise UserError(f"{self.file}: damaged; delete it and run the same command again, "
                            "which then counts its minutes from 0") from None
        self.at_start = dict(self.seconds)
        self.stage: str | None = None
        self.since = self.saved = time.monotonic()

    @contextlib.contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Count the time of the block as ``stage``'s, whatever ends it."""
        self.stage, self.since = stage, time.monotonic()
        try:
            yield
        finally:
            self._add()
            self.stage = None
            self.save()

    def _add(self) -> None:
        now = time.monotonic()
        if self.stage:
            self.seconds[self.stage] += now - self.since
        self.since = now

    def spent(self, stage: str) -> float:
        """Seconds of ``stage`` until now, over all starts of this run."""
        self._add()
        if time.monotonic() - self.saved > 5:
            self.save()
        return self.seconds[stage]

    def budget(self, stage: str) -> float:
        """Seconds that ``stage`` may spend in all."""
        if self.alone is not None:
            return self.at_start[stage] + self.alone * 60
        names = list(self.shares)
        index = names.index(stage)
        left = max(self.run.config.minutes * 60 - sum(self.seconds[s] for s in names[:index]), 0.0)
        later = sum(self.shares[s] for s in names[index:])
        return left * self.shares[stage] / max(later, 1e-9)

    def left(self, stage: str) -> float:
        """Seconds that ``stage`` still has."""
        return self.budget(stage) - self.spent(stage)

    def finish(self, stage: str) -> None:
        if stage not in self.done:
            self.done.append(stage)
        self.save()

    def save(self) -> None:
        self.saved = time.monotonic()
        write_json(self.file, {"seconds": self.seconds, "done": self.done})
