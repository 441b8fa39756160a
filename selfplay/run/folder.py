"""A run's folder: its frozen config and the files in it.

runs/NAME/
    config.json      what was asked for          progress.json   seconds spent, stages done
    expert/          games made for this run     sft/, rl/, value/   checkpoints, history.jsonl
    rl/records/      self-play shards            value/games/    shards, a position of each game
    matches/         one folder a match          earlier/        RL that has begun again since
    tb/              TensorBoard events          evaluation.json, report.html,
                                                 chart.png, summary.json
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.arena.players import missing_engine, parse_player
from selfplay.arena.records import read_settings
from selfplay.arena.spec import checkpoint_of, full_name, net_parts
from selfplay.common.errors import UserError
from selfplay.common.files import read_json, write_json
from selfplay.common.settings import to_dict
from selfplay.games import identity, make, own
from selfplay.games.base import Game
from selfplay.games.solve import must_be_solvable
from selfplay.inference.actors import groups_of
from selfplay.inference.precision import must_have_int8
from selfplay.learn.checkpoint import load_net, newest, read_meta, spec_of
from selfplay.learn.packaged import find
from selfplay.models import NetSpec, spec_for
from selfplay.models.growing import must_grow_to
from selfplay.run.config import (
    RunConfig,
    from_dict,
    must_be_of_recipe,
    must_fit,
    must_have_effect,
    preset,
)
from selfplay.run.loggers import must_be_logger
from selfplay.run.own_nets import use_net

FROM_SFT = ("value", "rl")  #: stages that stand on the SFT net; RL last, to tell that all are there
_OF_RL = re.compile(rf"^\w+:({'|'.join(FROM_SFT)})/")  #: names of their nets in match.json
STARTS = ("sft", "random")  #: what ``init`` may be beside a checkpoint
OWN = frozenset(("expert", "sft", "rl", "value", "matches", "earlier", "tb", "skipped.txt",
                 "progress.json", "evaluation.json", "report.html", "chart.png", "summary.json"))


def stages(config: RunConfig) -> dict[str, float]:
    """The stages of a run in order, each with its share of the minutes."""
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
        """A path inside the run, whose parent folder is created if need be."""
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
        raise UserError(f"{folder}: holds other files, not a run; name another folder")
    return None


def _foreign(path: Path) -> bool:
    """Whether no run makes such a file, not even one whose config.json was deleted."""
    return path.name not in OWN and not (path.name[0] == "." and path.name.endswith(".tmp"))


def open_run(folder: Path, config: RunConfig, *, grow: bool = False) -> Run:
    """Create the run or continue it, without writing anything (``freeze`` does).

    grow: a checkpoint to start from grows to the size that ``config`` names; otherwise the run
    takes its size.

    A run that has made something must be given the settings it was started with. Free to change
    are those that only say how long and on what device it continues or how it is judged, and those
    of an RL that has not begun.

    Raises UserError naming the first setting that differs or does not fit the others, or a player,
    checkpoint or file that does not exist; GameError or NetError for an unknown game or net.
    """
    stored = stored_config(folder)
    game, known = make(config.game), _named_players(stored) if stored else set()
    if own.is_own(config.net):  # named by the user now, or when the run began
        config = replace(config, net=use_net(config.net))
    config = _of_init(_full_names(config, known), stored, grow)
    if stored is not None and _begun(folder):
        asked, had = _essence(config, folder), _essence(stored, folder)
        if asked != had:
            raise UserError(f"{folder}: {_difference(asked, had)}; give --run another name")
    must_fit(config)
    must_be_of_recipe(config)
    must_have_effect(config, preset(game.name).rl, stored)
    _must_vary(config, game, spec_for(game, config.net))  # raises before anything is made
    _must_leave_moves(config, stored, game)
    for name in config.log:
        must_be_logger(name)
    _must_exist(config, stored or RunConfig(config.game), game)
    return Run(folder, config, game)


def _must_vary(config: RunConfig, game: Game, spec: NetSpec) -> None:
    """Raises UserError or GameError for boards, handicap and exact targets that its games cannot
    have."""
    if config.rl.solved_from:
        must_be_solvable(game)
    groups_of(game, config.rl.games, "cpu", config.rl.sizes)
    if config.rl.sizes and not spec.any_board:
        raise UserError(f"rl.sizes: a net {config.net} for {game.name} is for one board")
    if config.rl.handicap and not game.komi_planes:
        raise UserError(f"rl.handicap: there is none in {game.name}")


def _must_leave_moves(config: RunConfig, stored: RunConfig | None, game: Game) -> None:
    """Raises UserError for an opening in which every game may end. The usual ones go with tiny
    games too, and a run begun with one goes on."""
    known = [some for some in (preset(game.name), stored) if some is not None]
    for stage in ("expert", "rl", "pool", "eval"):
        low, high = opening = getattr(config, stage).opening
        if high >= game.max_moves and all(
                opening != getattr(some, stage).opening for some in known):
            raise UserError(f"{stage}.opening={low},{high}: a game of {game.name} has at most "
                            f"{game.max_moves} moves; numbers from 0 to {game.max_moves - 1} "
                            "wanted")


def net_spec(run: Run) -> NetSpec:
    """The net of a run, by its settings and its game's shapes; one that SFT has begun with, perhaps
    by an earlier version, stays what it is."""
    begun = newest(run.folder / "sft")
    if begun is None:
        return spec_for(run.game, run.config.net)
    try:
        return spec_of(read_meta(begun))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{begun}: damaged (its net: {error}); delete it, then an older checkpoint "
                        "is used") from None


def freeze(run: Run) -> None:
    """Write down the settings of ``run``, whose folder the caller has locked. What an RL that made
    nothing left behind under other settings (its first policy, its choice of dtype) is deleted."""
    path, stored = run.folder / "config.json", stored_config(run.folder)
    if stored is not None and _of_rl(run.config) != _of_rl(stored) and not _rl_begun(run.folder):
        shutil.rmtree(run.folder / "rl", ignore_errors=True)
    if run.config != stored:
        write_json(path, to_dict(run.config))


def _must_exist(config: RunConfig, stored: RunConfig, game: Game) -> None:
    """Check that what ``config`` names exists, unless an earlier start has checked it already."""
    for name in _named_players(config) - _named_players(stored):
        if missing_engine(name) is None:  # matches of a missing engine are left out later
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


def _named_players(config: RunConfig) -> set[str]:
    return {*config.eval.baselines, config.expert.player}


def _full_names(config: RunConfig, known: set[str]) -> RunConfig:
    """``config`` with the full checkpoint paths of its players' nets: those they stand for now, or
    stood for when the players ``known`` were written down."""
    def full(name: str) -> str:
        found = [old for old in sorted(known) if name == old or _meant(name, old)]
        return found[0] if found else full_name(name)

    return replace(config, expert=replace(config.expert, player=full(config.expert.player)),
                   eval=replace(config.eval, baselines=tuple(map(full, config.eval.baselines))))


def _of_init(config: RunConfig, stored: RunConfig | None, grow: bool) -> RunConfig:
    """``config`` with the checkpoint its init stands for, now or since an earlier start, and with
    that checkpoint's net, unless it is to ``grow``."""
    if config.init in STARTS:
        return config
    if stored and stored.init not in STARTS and _meant(f"net:{config.init}", f"net:{stored.init}"):
        return replace(config, init=stored.init, net=config.net if grow else stored.net)
    if not Path(config.init).is_dir() and find(config.init) is None:
        raise UserError(f"--init {config.init}: no checkpoint there; give sft, random, a run, a "
                        "checkpoint such as runs/NAME/rl/ckpt-000010, or a packaged net")
    path = checkpoint_of(config.init, f"net:{config.init}")[0]
    size = str(read_meta(path)["net"].get("size"))
    if grow:
        must_grow_to(size, config.net)
    return replace(config, init=str(path), net=config.net if grow else size)


def _meant(typed: str, known: str) -> bool:
    """Whether ``known`` is a net from the folder ``typed``, with the same search."""
    if not (typed.startswith("net:") and known.startswith("net:")):
        return False
    (folder, sims), (path, same) = net_parts(typed[4:]), net_parts(known[4:])
    return sims == same and path.is_relative_to(folder)


def _begun(folder: Path) -> bool:
    """Whether the folder has games or weights, which other settings would have made differently."""
    return _rl_begun(folder) or any(any(folder.glob(f"{stage}/*"))
                                    for stage in ("expert", "sft", "value"))


def _rl_begun(folder: Path) -> bool:
    """Whether RL has made a checkpoint or a game of its own: the first policy of its pool does not
    count."""
    made = (path for what in ("ckpt-*", "pool/ckpt-*", "records/**/*.npz", "history.jsonl")
            for path in folder.glob(f"rl/{what}"))
    return any(path != folder / "rl/pool/ckpt-000000" for path in made)


def _of_rl(config: RunConfig) -> tuple[Any, ...]:
    """The settings that RL starts from."""
    return config.seed, config.init, config.net, config.rl, config.pg, config.pool


def _essence(config: RunConfig, folder: Path) -> RunConfig:
    """``config`` without the settings that may change between two starts of the run in ``folder``.
    Those of RL and of the value net may until these begin; the net and what learning starts from
    may until anything has been learnt."""
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
                   shares=plain.shares, eval=plain.eval, value=value, ray=plain.ray,
                   rl=replace(config.rl, iterations=0, keep=0, cache_mb=0, max_staleness=0),
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


def put_aside(run: Run) -> Path:
    """Move RL, the value net and the matches of their nets into a folder of their own, so that RL
    can begin again from a better SFT net: self-play cannot be moved onto another one.

    A kill in between loses nothing: RL is moved last, and the next start moves the rest.
    """
    place = run.folder / "earlier" / str(len(list(run.folder.glob("earlier/*/rl"))) + 1)
    for match in sorted(run.folder.glob("matches/*/")):
        try:
            settings = read_settings(match / "match.json")
        except UserError:
            continue  # damaged, and reported with the ratings
        if any(_OF_RL.match(str(settings.get(side))) for side in "ab"):
            _move_file(match, place / "matches" / match.name)
    for stage in FROM_SFT:
        if (run.folder / stage).exists():
            _move_file(run.folder / stage, place / stage)
    return place


def _move_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
