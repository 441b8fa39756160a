"""A net's card: what it plays, how it was made, how strong it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, read_json
from selfplay.common.history import finite_float
from selfplay.common.words import clip, command, counted
from selfplay.games import make
from selfplay.learn import packaged
from selfplay.learn.checkpoint import meta_file, read_meta, symmetries_of
from selfplay.learn.packaged import SYMMETRIES
from selfplay.run.compare import train_command
from selfplay.run.folder import Run, stored_config
from selfplay.serve.listing import strengths

LICENCE = "MIT"
KEPT = ("game", "plays", "kind", "step", "net", "compute")  #: of a checkpoint's meta


def card_of(checkpoint: Path, note: str = "", symmetries: int | None = None) -> dict[str, Any]:
    """The card of a checkpoint, which its run's folder tells more of where it lies in one.

    With the meta's game, step, net and compute: name, rules, command, commit, hours, data, licence,
    note, and strength, one row a mode of play: player, elo, low, high (95%), games, anchor.
    symmetries: views of the board for play without search (``Symmetric``); None: as now.

    Raises UserError where the board has not so many.
    """
    meta = read_meta(checkpoint)
    kept: dict[str, Any] = {key: meta[key] for key in KEPT if key in meta}
    seconds = float(meta["compute"].get("seconds", 0.0))
    run = _run_of(checkpoint)
    found: dict[str, Any] = {}
    if run is not None:
        expert = run.config.expert
        data = ", ".join(map(from_here, expert.games)) or f"games of {expert.player}"
        found = {"command": command(*map(from_here, shlex.split(train_command(run)))),
                 "strength": _strength(run, checkpoint),
                 "data": from_here(data) if run.config.init == "sft" else "its own games"}
    elif "command" in meta:  # a packaged net's card is one already
        found = {key: meta.get(key) for key in ("command", "strength", "data")}
        try:
            strengths(meta)
        except DAMAGE as error:
            file = meta_file(checkpoint)
            raise UserError(f"{file}: damaged ({clip(str(error), 60)}); "
                            f"{packaged.anew(file)}") from None
    game = make(str(meta["game"]))
    most = len(game.symmetries().cells)
    if symmetries is not None and symmetries > most:
        raise UserError(f"--symmetries {symmetries}: the board of {game.name} has {most}")
    if symmetries or SYMMETRIES in meta:
        kept[SYMMETRIES] = symmetries or symmetries_of(meta)
    return {**kept, "rules": game.rules, **found,
            "hours": round(seconds / 3600, 3), "commit": meta.get("commit") or _commit(),
            "licence": LICENCE, "note": note or meta.get("note", "")}


def from_here(words: str) -> str:
    """``words`` without folders that only this machine has: a whole path in it, at its beginning
    or after a colon, an equals sign or a comma, as seen from here, or, where it lies elsewhere, its
    name.

    >>> from_here("net:/somewhere/runs/a@64")
    'net:a@64'
    """
    def shorter(path: Path) -> str:
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name)

    return re.sub(r"(?<![^:=,])/[^:,@]+", lambda found: shorter(Path(found[0])), words)


def _run_of(checkpoint: Path) -> Run | None:
    folder = checkpoint.resolve().parent.parent
    if not (folder / "config.json").is_file():
        return None
    config = stored_config(folder)
    return None if config is None else Run(folder, config, make(config.game))


def _strength(run: Run, checkpoint: Path) -> list[dict[str, Any]]:
    """The rows of the run's evaluation that are about this checkpoint."""
    path = run.folder / "evaluation.json"
    if not path.exists():
        return []
    said = read_json(path, dict)
    tail = f"{checkpoint.parent.name}/{checkpoint.name}"
    try:
        return [{**{key: finite_float(row[key]) for key in ("elo", "low", "high")},
                 "games": row["games"], "player": f"@{row.get('sims') or 0}",
                 "anchor": f"{said.get('anchor')} = 0 Elo"}
                for row in said.get("points", [])
                if str(row.get("player", "")).partition("@")[0].endswith(tail)]
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 60)}); draw the chart again with "
                        f"{command('selfplay', 'compare', run.folder)}") from None


def _commit() -> str:
    """Of the sources, where they are a clone; else the version."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True,
                              cwd=Path(__file__).parent, text=True, check=False, timeout=10)
        if done.returncode == 0:
            return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return f"selfplay {version('selfplay-lab')}"
    except PackageNotFoundError:
        return "unknown"


def as_json(card: dict[str, Any]) -> str:
    return json.dumps(card, indent=1) + "\n"


def as_markdown(card: dict[str, Any], title: str, more: dict[str, str]) -> str:
    """A model card to read. more: rows about the file."""
    rows = {"game": card["game"], "rules": card["rules"],
            "net": f"{card['net']['size']} (residual blocks x channels)",
            "input": f"float32 [batch, {', '.join(map(str, card['net']['obs_shape']))}], what "
                     "`game.observe` gives",
            **more, "made by": f"`{card.get('command') or 'unknown'}`", "commit": card["commit"],
            "training": f"{counted(float(card['hours']), 'hour')}, step {card['step']}",
            "data": card.get("data") or "unknown", "licence": card["licence"]}
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", "## Strength", ""]
    lines += [f"- {text}" for text in strengths(card)] or ["Not measured."]
    return "\n".join(lines) + "\n"
