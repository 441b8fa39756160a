"""Expert games: one player against itself, or read from files in our formats or in SGF.

Game i begins with opening i of the seed (see ``games.openings``) and the expert plays on for both
sides, so a file depends only on the game, the player, the seed and the openings. Finished games
are kept in ``FILE.partial.jsonl`` (settings in ``FILE.partial.json``) until all are there; then
FILE is written and those two are deleted. Where the time ends before that, FILE is written with the
games there are, the other two stay, and the next call goes on from them. ``FILE.lock`` keeps other
processes out.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.arena import sgf
from selfplay.arena.collection import UNREADABLE, Skipped, read_unpacked, unreadable
from selfplay.arena.play import Away, Seats, as_spec, played_by, seated
from selfplay.arena.records import (
    GameRecord,
    append_records,
    read_records,
    read_settings,
    resume,
    to_line,
)
from selfplay.arena.sgf import ExpertGame
from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, in_use, parse_json, write_atomic, write_json
from selfplay.games.base import Game
from selfplay.games.go import Go
from selfplay.games.openings import deal

JSONL = ".jsonl.gz"


@dataclass(frozen=True)
class Generated:
    """The counts of the games that ``generate`` has written, now or at an earlier start."""

    path: Path
    games: int  #: in the file
    duplicates: int  #: left out: the same moves as an earlier game
    unfinished: int  #: left out: cut off by the cap on moves, or forfeited
    before: bool = False  #: the file was there, whole
    wanted: int = 0  #: games that are still to be played


def generate(
    game: Game,
    player: str,
    games: int,
    out: Path,
    *,
    seed: int = 0,
    opening: tuple[int, int] = (2, 8),
    slots: int = 64,
    device: str = "cpu",
    away: Away | None = None,
    stop: Callable[[], bool] = lambda: False,
    drop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
) -> Generated:
    """Let ``player`` play ``games`` games against itself into ``out``.

    out: FILE.sgf.gz (or .sgf) for Go, FILE.jsonl.gz for any game. opening: fewest and most
    random plies before the player takes over. slots: games at once; of an outside engine, which
    is a process a slot, no more than there are cores. away: plays them in place of this process,
    but for a human.
    stop: once True no game is begun and the file is written with the games that are there; the
    same call plays the others later. drop: once True games in flight are dropped.

    A file of this player's games without partial files beside it is finished: nothing is played.

    Raises UserError for a name that fits no format, a file that holds other things or that another
    process is making, a player that fails (finished games are kept, and the same call goes on), or
    when no game was finished.
    """
    _check_name(out, game)
    if player.startswith("gtp:"):
        slots = min(slots, os.cpu_count() or 1)
    away = None if player.strip() == "human" else away
    kept, settings = _partial(out)
    with closing(seated(player, game, seed=seed, device=device, slots=slots, away=away)) as expert:
        spec = as_spec(player, expert)
        play = played_by(game, expert, expert, away, Seats(
            (spec, spec), (expert.name, expert.name), (seed, seed)))
        head = _head(game, expert.name, seed, opening)
        out.parent.mkdir(parents=True, exist_ok=True)
        with in_use(out, "--out"):
            if out.exists() and not _lacks_games(settings, head, kept, games):
                return _made_before(game, expert.name, out, (kept, settings))
            records = _legal(game, resume(settings, head, kept), kept, out)
            progress(len(records))
            for record in play(
                games=games, seed=seed, opening=opening, slots=slots, paired=False,
                skip={record.index for record in records}, stop=stop, drop=drop,
            ):
                records.append(record)
                append_records(kept, [record])
                progress(len(records))
            played = [record for record in records if record.index < games]
            written = write_games(game, played, out)
            if len(played) == games:
                _remove((kept, settings))
    return replace(written, wanted=games - len(played))


def _legal(
    game: Game, records: list[GameRecord], file: Path, out: Path
) -> list[GameRecord]:
    """``records``. Raises UserError where one of them is no game, damaged as it is."""
    moves = [ExpertGame(r.actions, r.value, None, r.players, str(file), r.opening)
             for r in records if r.actions]
    known = [max(m.actions) < game.num_actions for m in moves]
    illegal = sgf.first_illegal(game, [m.actions for m, fine in zip(moves, known, strict=True)
                                       if fine])
    if not all(known) or any(ply >= 0 for ply in illegal):
        both = f"it and {out}" if out.exists() else "it"
        raise UserError(f"{file}: damaged (illegal moves in it); delete {both} and run the same "
                        "command again, which plays its games again")
    return records


def made_so_far(out: Path) -> int:
    """Games in the partial file of ``out``, 0 where there is none."""
    return len(read_records(_partial(out)[0]))


def unfinished(out: Path) -> bool:
    """Whether ``out`` has partial files beside it, so that games may still be wanted."""
    return _partial(out)[1].exists()


def reopen(
    game: Game, out: Path, found: Sequence[ExpertGame], games: int, *, seed: int,
    opening: tuple[int, int],
) -> bool:
    """Whether ``out``, which holds ``found`` and has no partial files beside it, lacks games that
    were never begun, as where a version that left no such files ran out of time; they are then made
    of it, so that ``generate`` goes on.

    Which game of the seed one in ``out`` is, its opening tells. Games that are missing between
    those were left out (repeated, or unfinished); so many of them at the end that the others make
    it unlikely (one in a thousand) were not begun.
    """
    names = {name for g in found for name in g.names}
    if len(found) >= games or len(names) != 1:
        return False
    records: list[GameRecord] = []
    for index in range(games):
        if len(records) == len(found):
            break
        begun, g = deal(game, seed, index, opening, False), found[len(records)]
        if g.actions[: g.opening] == begun.actions:
            records.append(GameRecord(index, begun.seeds[0], (g.names[0], g.names[1]), g.actions,
                                      len(begun.actions), g.value, g.margin, _end_of(game, g)))
    begun_at_least = records[-1].index + 1 if records else 0
    missing = 1 - len(records) / max(begun_at_least, 1)
    if len(records) < len(found) or missing ** (games - begun_at_least) > 1e-3:
        return False
    partial, settings = _partial(out)
    write_atomic(partial, "".join(map(to_line, records)).encode())
    write_json(settings, _head(game, names.pop(), seed, opening))  # last: where it is, all is
    return True


def _end_of(game: Game, played: ExpertGame) -> str:
    """How a game that ended by itself must have ended."""
    passes = game.pass_action >= 0 and played.actions[-2:] == (game.pass_action,) * 2
    if game.has_ownership:
        return "two passes" if passes else "resignation"
    return "win" if played.value else "draw"


def _head(game: Game, player: str, seed: int, opening: tuple[int, int]) -> dict[str, Any]:
    """What the games of a file depend on."""
    return {"game": game.name, "player": player, "seed": seed, "opening": list(opening)}


def _partial(out: Path) -> tuple[Path, Path]:
    """(records, settings) of the games that ``out`` is being made from."""
    return (out.with_name(out.name + ".partial.jsonl"), out.with_name(out.name + ".partial.json"))


def _lacks_games(settings: Path, head: dict[str, Any], partial: Path, games: int) -> bool:
    """Whether the time ended before all games of ``out`` were played; else a kill may have come
    before the partial files were removed."""
    if not settings.exists() or read_settings(settings) != head:
        return False
    return 0 < len([r for r in read_records(partial) if r.index < games]) < games


def _made_before(game: Game, player: str, out: Path, partial: Iterable[Path]) -> Generated:
    """Raises UserError where ``out`` holds anything but games of ``player`` against itself."""
    try:
        made, skipped = read_expert([out], game)
    except UserError:
        made, skipped = [], []
    if skipped or {name for g in made for name in g.names} != {player}:
        raise UserError(f"{out}: exists already and holds other things than games of {player}; "
                        "give another name")
    _remove(partial)
    return Generated(out, len(made), 0, 0, before=True)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _check_name(out: Path, game: Game) -> None:
    kinds = (JSONL, ".sgf.gz", ".sgf") if game.has_sgf else (JSONL,)
    if not out.name.endswith(kinds):
        raise UserError(f"{out}: games of {game.name} go into a file ending in "
                        f"{' or '.join(kinds)}")


def write_games(game: Game, records: Iterable[GameRecord], out: Path) -> Generated:
    """Write expert games in the order of their index: atomic, and the same bytes every time.

    Left out and counted: games with the same moves as an earlier one, and games that were cut
    off by the cap on moves or forfeited. Raises UserError when none is left.
    """
    records = sorted(records, key=lambda record: record.index)
    ended = [record for record in records if record.natural]
    unique: list[GameRecord] = []
    seen: set[tuple[int, ...]] = set()
    for record in ended:
        if record.actions not in seen:
            seen.add(record.actions)
            unique.append(record)
    if not unique:
        raise UserError(f"{out}: no game was finished; give it more time or more games")
    if out.name.endswith(JSONL):
        lines = "".join(_json_line(game, record) for record in unique)
        write_atomic(out, gzip.compress(lines.encode(), compresslevel=9, mtime=0))
    else:
        sgf.write_collection(out, (sgf.to_sgf(game, record) for record in unique))
    return Generated(out, len(unique), len(ended) - len(unique), len(records) - len(ended))


def _json_line(game: Game, record: GameRecord) -> str:
    return json.dumps({
        "game": game.name,
        "players": record.players,
        "actions": record.actions,
        "value": record.value,
        "opening": record.opening,
    }, separators=(",", ":")) + "\n"


def read_expert(paths: Iterable[Path], game: Game) -> tuple[list[ExpertGame], list[Skipped]]:
    """Expert games from files and folders: .jsonl.gz of ours for any game, SGF too for Go.

    See ``sgf.read_games`` for what is read and what is left out. Raises UserError when a path
    does not exist or nothing is left.
    """
    paths = [Path(path) for path in paths]
    games: list[ExpertGame] = []
    skipped: list[Skipped] = []
    kinds = (JSONL, *sgf.SUFFIXES) if isinstance(game, Go) else (JSONL,)
    files = list(sgf.walk(paths, kinds))
    for file in files:
        if not sgf.is_named_so(file):
            found = _read_jsonl(file, game, skipped)
            games += _legal_only(game, found, skipped)
    if isinstance(game, Go):
        games += sgf.read_files(filter(sgf.is_named_so, files), game, skipped)
    if not games:
        raise UserError(sgf.nothing_left(game, paths, skipped, kinds))
    return games, skipped


def _read_jsonl(file: Path, game: Game, skipped: list[Skipped]) -> list[ExpertGame]:
    try:
        lines = read_unpacked(file).decode().removesuffix("\n").split("\n")
    except UNREADABLE as error:
        skipped.append(Skipped(str(file), unreadable(error)))
        return []
    found = []
    for number, line in enumerate(lines, 1):
        source = f"{file}, line {number}"
        try:
            found.append(_expert_game(parse_json(line), game, source))
        except DAMAGE as error:
            skipped.append(Skipped(source, f"damaged: {error}"))
        except sgf.RefusedError as refusal:
            skipped.append(Skipped(source, str(refusal)))
    return found


def _expert_game(data: Any, game: Game, source: str) -> ExpertGame:
    if data["game"] != game.name:
        raise sgf.RefusedError(f"game {data['game']}")
    actions = tuple(int(action) for action in data["actions"])
    if not actions or not all(0 <= action < game.num_actions for action in actions):
        raise sgf.RefusedError("moves that do not exist" if actions else "no moves")
    if len(actions) > sgf.MOST_MOVES * game.max_moves:
        raise sgf.RefusedError(f"more than {sgf.MOST_MOVES * game.max_moves:,} moves")
    first, second = data.get("players", ("", ""))
    value, opening = float(data["value"]), int(data["opening"])
    if not -1 <= value <= 1 or opening < 0:
        raise ValueError(f"value {value}, opening {opening}")
    komi = game.komi if isinstance(game, Go) else None
    return ExpertGame(actions, value, komi, (str(first), str(second)), source,
                      min(opening, len(actions)))


def _legal_only(
    game: Game, found: Sequence[ExpertGame], skipped: list[Skipped]
) -> list[ExpertGame]:
    plies = sgf.first_illegal(game, [g.actions for g in found])
    for g, ply in zip(found, plies, strict=True):
        if ply >= 0:
            skipped.append(Skipped(g.source, f"illegal move {ply + 1}"))
    return [g for g, ply in zip(found, plies, strict=True) if ply < 0]
