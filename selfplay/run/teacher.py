"""The teacher's games of a run: who plays them, where they are, and which are held out.

The games are given by the user, come with the package, or are made in the run's folder. Those grow
from start to start until there are ``expert.count``. Where even the first LEAST would take too
long, a cheaper teacher stands in: the same player with fewer simulations, in a file of its own,
until a start has the time for the real one.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from selfplay.arena import expert
from selfplay.arena.match import safe_name
from selfplay.arena.play import Away
from selfplay.arena.sgf import ExpertGame, Skipped
from selfplay.arena.spec import budget
from selfplay.board.data import Columns
from selfplay.board.supervised import mixed_columns, recounted, split, to_columns
from selfplay.common.console import clock_text, say
from selfplay.common.errors import UserError
from selfplay.common.files import read_json, write_atomic, write_json
from selfplay.common.history import read_history
from selfplay.common.words import clip
from selfplay.games.base import Game
from selfplay.learn import checkpoint
from selfplay.run.clock import Clock
from selfplay.run.config import preset
from selfplay.run.folder import Run, net_spec
from selfplay.run.stage import Desk, Elsewhere, Work

SLOTS = 20  #: games played side by side; few, so that the first ones end early
LEAST = 20  #: games made even if the stage's time is over: fewer teach nothing
CHEAPEST = 8  #: simulations of the cheapest teacher that may stand in
WORTH = 0.5  #: games are added once there is time for this share of those made so far
NAMED = 20  #: unusable files named on the screen; all of them are in the run's skipped.txt
HELD_OUT = "held_out"  #: what the meta of SFT's checkpoints calls ``sum_of`` the games held out
TAUGHT_BY = "teacher"  #: and the player whose games it has learnt from
STAND_IN = "stand-in-"  #: how files with a stand-in's games begin

#: Expert games that come with the package, by game.
EMBEDDED = {"go9x9": "go9x9-gnugo10.sgf.gz"}


def makes_games(run: Run) -> bool:
    """Whether the teacher's games are made in the run's folder."""
    return run.config.init == "sft" and not run.config.expert.games and not _embedded(run)


def _embedded(run: Run) -> bool:
    return (run.game.name in EMBEDDED
            and run.config.expert.player == preset(run.game.name).expert.player)


def expert_files(run: Run) -> list[Path]:
    """The files with the expert's games: given, embedded, or made in the run's folder (perhaps
    not yet)."""
    if run.config.expert.games:
        return [Path(name) for name in run.config.expert.games]
    if _embedded(run):
        return [Path(str(resources.files("selfplay") / "expert_games" / EMBEDDED[run.game.name]))]
    return [games_file(run, teacher_of(run))]


def games_file(run: Run, player: str) -> Path:
    """The file for games of ``player``, the run's teacher or a stand-in."""
    name = "games" if player == run.config.expert.player else f"{STAND_IN}{safe_name(player)}"
    return run.folder / "expert" / f"{name}.{'sgf.gz' if run.game.has_sgf else 'jsonl.gz'}"


def teacher_of(run: Run) -> str:
    """The player whose games the run learns from: the one in its settings, unless only a stand-in
    has made any; of several stand-ins the strongest."""
    player = run.config.expert.player
    if games_file(run, player).exists():
        return player
    found = [name for name in _cheaper(player) if games_file(run, name).exists()]
    return found[0] if found else player


def expert_of(run: Run) -> str:
    """The player that the run is measured by: the one whose games its SFT has learnt from, which
    may be a stand-in although the run's teacher has played since."""
    found = _as_begun(run, TAUGHT_BY)
    return teacher_of(run) if found is None else found


def _cheaper(player: str) -> list[str]:
    """``player`` with half, a quarter, ... of its simulations, down to CHEAPEST; none if it does
    not count simulations."""
    kind, _, text = player.partition(":")
    found = budget(text)
    if kind not in ("mcts", "openspiel-mcts") or found is None:
        return []
    halves = int(math.log2(max(found.sims / CHEAPEST, 1)))
    sims = dict.fromkeys([*(found.sims >> k for k in range(1, halves + 1)), CHEAPEST])
    return [f"{kind}:{found._replace(sims=n, leaves=min(found.leaves, n))}"
            for n in sims if n < found.sims]


def affordable(run: Run, seconds: float, limit: float) -> str:
    """The teacher for this start: the run's own, or the strongest stand-in that plays LEAST games
    in ``limit`` seconds, or the cheapest one if none does.

    seconds: what the run's teacher needs for them. Its games that are there are gone on with.
    """
    player = run.config.expert.player
    file = games_file(run, player)
    if seconds <= limit or file.exists() or expert.made_so_far(file):
        return player
    full = budget(player.partition(":")[2])
    for name in (names := _cheaper(player)):
        sims = budget(name.partition(":")[2])
        assert full is not None and sims is not None, "_cheaper counts simulations"
        if seconds * sims.sims / full.sims <= limit:
            return name
    return names[-1] if names else player


def side_by_side(player: str, away: Away | None = None) -> int:
    """How many games of ``player`` are under way at once; an outside engine needs a core each."""
    if away is not None:
        return away.places * (1 if player.startswith("gtp:") else SLOTS)
    return min(SLOTS, os.cpu_count() or 1) if player.startswith("gtp:") else SLOTS


def lacking(run: Run, player: str) -> int:
    """How many games of ``player`` are missing for a first lesson."""
    count = min(LEAST, run.config.expert.count)
    return max(count - expert.made_so_far(games_file(run, player)), 0) if makes_games(
        run) and not games_file(run, player).exists() else 0


def lacks_games(run: Run) -> bool:
    """Whether the teacher has made games, and fewer than are wanted."""
    if not makes_games(run):
        return False
    made = expert.made_so_far(games_file(run, teacher_of(run)))
    return 0 < made < run.config.expert.count


def expert_stage(
    run: Run, clock: Clock, device: str, player: str | None = None,
    away: Elsewhere | None = None,
) -> Work | str | None:
    """Let ``player`` (by default the run's teacher) make its games where none are given or
    embedded, and more of them while the time grows and they are fewer than ``expert.count``."""
    config, player = run.config.expert, player or teacher_of(run)
    if not makes_games(run):
        return None
    file = games_file(run, player)
    if file.exists():
        if not expert.unfinished(file) and not expert.reopen(
                run.game, file, _made_games(run, file), config.count, seed=run.config.seed,
                opening=config.opening):
            return None
        if clock.left("expert") < WORTH * clock.seconds["expert"]:
            return _lacks(expert.made_so_far(file), config.count, clock)
        if not _sides(run).exists() and checkpoint.newest(run.folder / "sft") is not None:
            _split_grown(run, _made_games(run, file))  # as they were when SFT began
    file.parent.mkdir(parents=True, exist_ok=True)

    def learn(at: Desk) -> expert.Generated:
        begun, before = at.left(), expert.made_so_far(file)
        made, each = before, 0.0  # each: seconds that a game takes beside the others
        played_away = away.matches(run) if away else None

        def progress(done: int) -> None:
            nonlocal made, each
            made = done
            if done > before:
                each = (begun - at.left()) / (done - before)
            show()

        def show() -> None:
            least = min(LEAST, config.count)
            at.waits = "the games under way"
            if made < least:
                rest = f", about {clock_text((least - made) * each)} more" if each else ""
                at.waits = f"the {least} games that SFT needs at the least{rest}"
            at.made(made, config.count)
            at.at(f"{made:,}/{config.count:,} games")

        def drop() -> bool:
            show()
            return at.left() <= -clock.overtime() and made >= LEAST

        return expert.generate(
            run.game, player, config.count, file, seed=run.config.seed, opening=config.opening,
            slots=SLOTS, device=device, away=played_away, drop=drop, progress=progress,
            stop=lambda: made >= LEAST and at.left() <= side_by_side(player, played_away) * each)

    def said(written: expert.Generated) -> str:
        lines = []
        if written.duplicates or written.unfinished:
            lines = [f"left out: {written.duplicates} repeated, {written.unfinished} without a "
                     "natural end"]
        if written.wanted:
            lines.append(_lacks(config.count - written.wanted, config.count, clock))
        return "\n".join(lines)

    say(f"expert games: {player} plays itself")
    return Work("expert", learn, said=said, first="", curves=False,
                ended=lambda written: not written.wanted and player == config.player)


def _lacks(made: int, count: int, clock: Clock) -> str:
    return (f"expert games: {made:,} of {count:,} made; {clock.more('expert')} "
            f"make{'s' * (not clock.shares['expert'])} the others")


class ExpertRows(NamedTuple):
    """Of the run's expert games."""

    learnt: Columns
    held: Columns
    about: dict[str, str]  #: HELD_OUT and TAUGHT_BY, for the checkpoints of what learns from them
    said: str  #: how many games these are


def expert_columns(run: Run) -> ExpertRows:
    """The rows to learn from, and those held out."""
    others, said = list[tuple[Game, list[ExpertGame]]](), list[str]()
    if makes_games(run):
        (file,) = expert_files(run)
        learnt, held = _split_grown(run, _made_games(run, file))
    else:
        games, skipped = expert.read_expert(expert_files(run), run.game)
        others = _other_boards(run, skipped, said)
        _name_skipped(run, [f"{item.file}: {item.reason}" for item in skipped], len(games))
        learnt, held = split(games, run.config.expert.held_out, run.config.seed)
        if begun_with(run) not in (None, sum_of(held)):
            say("expert games: they have changed since SFT began, and others are held out now, "
                "some of which it may have learnt from; a new run (--run NEW) measures it anew")
    said.append(f"expert games: {len(learnt):,} to learn from, {len(held):,} held out")
    if net_spec(run).komi:
        learnt = recounted(run.game, learnt, run.config.sft.komi_share, run.config.seed)
    rows = mixed_columns([(run.game, learnt), *others]) if run.config.rl.sizes else (
        to_columns(run.game, learnt))
    about = {HELD_OUT: sum_of(held), TAUGHT_BY: teacher_of(run)}
    return ExpertRows(rows, to_columns(run.game, held), about, "\n".join(said))


def other_games(run: Run, rows: ExpertRows) -> bool:
    """Whether these are not all those that SFT has learnt from so far. Games only come in addition,
    but for a stand-in's, which the teacher's own replace."""
    history = read_history(run.folder / "sft" / "history.jsonl")
    learnt = (history[-1].get("rows") if history else None) or math.inf
    return begun_with(run) not in (None, rows.about[HELD_OUT]) or len(rows.learnt.value) > learnt


def beside_rl(run: Run) -> tuple[Columns | None, Columns | None]:
    """The expert's rows that RL learns from beside its own, and those that it is looked at on."""
    beside = run.config.rl.expert_share > 0 and any(file.exists() for file in expert_files(run))
    if run.config.init != "sft" and not beside:
        return None, None
    rows = expert_columns(run)
    return rows.learnt if beside else None, rows.held


def _other_boards(
    run: Run, skipped: list[Skipped], said: list[str]
) -> list[tuple[Game, list[ExpertGame]]]:
    """The given games on the other boards of ``rl.sizes``, all to learn from; what of ``skipped``
    is among them is taken out. said: gets a line for each board."""
    found = []
    for board in dict.fromkeys(run.game.boards(run.config.rl.sizes)):
        if board is run.game:
            continue
        try:
            games, _ = expert.read_expert(expert_files(run), board)
        except UserError:  # none of this size
            continue
        sources = {game.source for game in games}
        skipped[:] = [item for item in skipped if item.file not in sources]
        said.append(f"expert games: {len(games):,} on {board.name} too")
        found.append((board, recounted(board, games, run.config.sft.komi_share, run.config.seed)))
    return found


def _split_grown(
    run: Run, games: Sequence[ExpertGame]
) -> tuple[list[ExpertGame], list[ExpertGame]]:
    """``split`` for games that grow in number: a game stays on the side that it was on first, so
    that nothing held out has been learnt from. The sides are kept in expert/sides.json."""
    note, config = _sides(run), run.config.expert
    sides = read_json(note, dict, BACK) if note.exists() else {}
    if any(side not in ("learnt", "held") for side in sides.values()):
        raise UserError(f"{note}: damaged (a side that is none); {BACK}")
    new = [game for game in games if _id(game) not in sides]
    different = len({game.actions for game in new})
    if not sides and different == 1:
        raise UserError(
            f"expert games: all {config.count:,} of {teacher_of(run)} are the same one, so that "
            "none can be held out; start self-play from nothing with --init random, or let them "
            f"begin differently: --run NEW --set expert.opening={config.opening[0]},"
            f"{config.opening[1] + 4}")
    if not sides or different >= 2:
        learnt, held = split(new, config.held_out, run.config.seed)
    else:  # a single one
        learnt, held = new, []
    if not sides:
        _must_be_those_of(run, learnt, held)
    if new:
        sides |= {_id(game): side for side, group in (("learnt", learnt), ("held", held))
                  for game in group}
        write_json(note, sides)
    return ([game for game in games if sides[_id(game)] != "held"],
            [game for game in games if sides[_id(game)] == "held"])


#: The remedy where the sides are damaged: what happens without them ``_must_be_those_of`` says.
BACK = "bring it back, or delete it and run the same command again"


def _must_be_those_of(
    run: Run, learnt: Sequence[ExpertGame], held: Sequence[ExpertGame]
) -> None:
    """Raises UserError where SFT has begun with other games held out than ``held``, drawn anew
    since the sides are gone. They are the same where all games were made at one start."""
    if checkpoint.newest(run.folder / "sft") is None:
        return
    before = begun_with(run)
    if before is None:  # an earlier version, which tells how many positions it learnt from
        rows = read_history(run.folder / "sft" / "history.jsonl")
        before, now = (rows[-1].get("rows") if rows else None), sum(len(g.actions) for g in learnt)
        same = before in (None, now)
    else:
        same = before == sum_of(held)
    if not same:
        stages = ", ".join(str(run.folder / name) for name in ("sft", "rl", "value", "matches"))
        raise UserError(f"{_sides(run)}: missing, and without it nobody can tell which games SFT "
                        f"has not learnt from; bring it back, or delete {stages} and run the same "
                        "command again, which begins SFT anew")


def begun_with(run: Run) -> str | None:
    """``sum_of`` the games held out when the run's newest SFT checkpoint was saved; None where
    there is none, or none that tells."""
    return _as_begun(run, HELD_OUT)


def _as_begun(run: Run, key: str) -> str | None:
    """The word by this key in the meta of the run's newest SFT checkpoint, if there is one."""
    newest = checkpoint.newest(run.folder / "sft")
    found = None if newest is None else checkpoint.read_meta(newest).get(key)
    return found if isinstance(found, str) else None


def sum_of(games: Sequence[ExpertGame]) -> str:
    """Of the games that are held out, whatever their order."""
    return hashlib.blake2b(" ".join(sorted(map(_id, games))).encode(), digest_size=8).hexdigest()


def _sides(run: Run) -> Path:
    return run.folder / "expert" / "sides.json"


def _made_games(run: Run, file: Path) -> list[ExpertGame]:
    """The games in a file of the run's own. Raises UserError where it is damaged."""
    try:
        games, skipped = expert.read_expert([file], run.game)
    except UserError as error:
        if not file.exists():
            raise
        raise _spoilt(file, str(error)) from None
    if skipped:
        raise _spoilt(file, skipped[0].reason)
    return games


def _spoilt(file: Path, why: str) -> UserError:
    return UserError(f"{file}: damaged ({clip(why, 200)}); delete it and run the same command "
                     "again, which makes its games again")


def _id(game: ExpertGame) -> str:
    return hashlib.blake2b(repr(game.actions).encode(), digest_size=8).hexdigest()


def _name_skipped(run: Run, lines: list[str], read: int) -> None:
    """Say once which files could not be used: later stages find the same ones."""
    file, text = run.folder / "skipped.txt", "".join(f"{line}\n" for line in lines)
    if not lines or (file.exists() and file.read_text(encoding="utf-8") == text):
        return
    write_atomic(file, text.encode())
    for line in lines[:NAMED]:
        say(f"skipped {line}")
    say(f"expert games: {read:,} read, {len(lines):,} skipped, all named in {file}")
