"""Game records reviewed: every position analysed, the moves judged, SGF and a page written.

A move loses what the best move's winrate was above what the position after it is worth to the
other side, as the net sees it after searching both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.arena.collection import Skipped
from selfplay.arena.sgf import escape, head, sgf_point, walk
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
from selfplay.common.words import counted
from selfplay.games import make
from selfplay.games.base import GameError
from selfplay.games.go import Go
from selfplay.report import board as drawing
from selfplay.report.review import Mistake, Page, WinrateCurve, write_page
from selfplay.serve.analysis import Analysis
from selfplay.serve.batch import AnalysisBatch, Job
from selfplay.serve.line import Line
from selfplay.serve.mind import Mind
from selfplay.serve.record import Record, read_sgf

SUFFIXES = (".sgf", ".sgf.gz")
LETTERS = "ABC"  #: on the best moves of a position
NOTHING = 0.0005  #: winrate lost that is shown as 0.0%
MISTAKE = 0.05  #: winrate lost from which on the better variation is written out
SHOWN = 5  #: mistakes on the page
PV_LENGTH = 10


@dataclass(frozen=True)
class Judged:
    """A move of a game. loss: winrate that it gave away, at least 0, for who made it. points: the
    same in points, None where the net has no score. agrees: it was the net's own move."""

    ply: int
    colour: int
    action: int
    loss: float
    points: float | None
    agrees: bool


@dataclass
class Review:
    """A game and what is thought of it. found: of every position, the last included."""

    record: Record
    game: Go
    line: Line
    found: list[Analysis]

    def moves(self) -> list[Judged]:
        """Every move, judged."""
        return [self._judge(ply) for ply in range(self.line.ply)]

    def _judge(self, ply: int) -> Judged:
        made, before = self.line.moves[ply], self.found[ply]
        if before.to_play != made.colour:  # the other side's turn was skipped
            return Judged(ply, made.colour, made.action, 0.0, None, False)
        after = _for(self.found[ply + 1], made.colour)
        now = _for(before, made.colour)
        lost = None
        if now.score is not None and after.score is not None:
            lost = max(now.score - after.score, 0.0)
        best = before.best
        agrees = best is not None and best.action == made.action
        # with the move that was expected nothing is lost, whatever a second search says
        loss = 0.0 if agrees else max(now.winrate - after.winrate, 0.0)
        return Judged(ply, made.colour, made.action, loss, 0.0 if agrees else lost, agrees)

    def black(self) -> list[float]:
        """Black's winrate in every position."""
        return [_for(found, 0).winrate for found in self.found]


def _for(found: Analysis, colour: int) -> Analysis:
    return found if found.to_play == colour else found.flipped()


def review(
    mind: Mind, records: Iterable[Record], size: int = 0
) -> Iterator[Review | tuple[str, str]]:
    """Reviews in the order in which they are done, all positions in one batch; (source, reason) of
    a record that cannot be reviewed. size: of the board, should only such games be wanted."""
    batch, open_ = AnalysisBatch(), dict[int, tuple[Review, dict[int, Analysis]]]()
    minds = {mind.game.name: mind}
    for number, record in enumerate(records):
        if size and record.size != size:
            yield record.source, (f"a game of {record.size}x{record.size}, and --game asks for "
                                  f"{size}x{size}; without --game it is reviewed")
            continue
        try:
            started = _started(mind, minds, record)
        except (UserError, GameError) as error:
            yield record.source, str(error)
            continue
        open_[number] = started, {}
        for ply in range(started.line.ply + 1):
            batch.add(Job(started.line.at(ply), mind.sims, minds[started.game.name],
                          tag=(number, ply)))
    while batch.busy:
        for job, found, done in batch.step():
            if not done or found is None:
                continue
            number, ply = job.tag
            one, known = open_[number]
            known[ply] = found
            if len(known) == one.line.ply + 1:
                one.found = [known[k] for k in range(len(known))]
                del open_[number]
                yield one


def _started(mind: Mind, minds: dict[str, Mind], record: Record) -> Review:
    """Raises UserError where the net cannot play it, GameError where a move is illegal."""
    own = mind.game
    if not isinstance(own, Go):
        raise UserError(f"SGF is of Go; this net plays {own.name}")
    komi = own.komi if record.komi is None else record.komi
    rule = ",suicide=True" if own.suicide else ""
    game = make(f"go{record.size}x{record.size}(komi={komi:g}{rule})")
    assert isinstance(game, Go)
    if game.name not in minds:
        minds[game.name] = mind.playing(game)
    line = Line(game)
    if record.handicap or record.to_play:
        line.setup(record.stones, record.to_play)
    for number, (colour, action) in enumerate(record.moves, 1):
        try:
            line.play(action, colour)
        except GameError as error:
            raise GameError(f"move {number}: {error}") from None
    return Review(record, game, line, [])


# --------------------------------------------------------------------------------- as SGF

def reviewed_sgf(one: Review, name: str) -> str:
    """The game with winrates, best moves and better variations. name: of who reviewed it."""
    record, size = one.record, one.game.size
    root = head(one.game, record.stones, record.to_play, PB=record.names[0], PW=record.names[1],
                RE=record.result, AN=name)
    judged, tail = one.moves(), ""
    for move in reversed(judged):
        node = (f";{'BW'[move.colour]}[{sgf_point(move.action, size)}]"
                + _about(one, move.ply + 1, judged) + tail)
        better = _better(one, move)
        tail = f"({node}){better}" if better else node
    return f"(;{root}{_about(one, 0, judged)}{tail})\n"


def _about(one: Review, ply: int, judged: Sequence[Judged]) -> str:
    """Comment and marks of the position after ``ply`` moves."""
    found, size = one.found[ply], one.game.size
    black = _for(found, 0)
    words = [f"Black {black.winrate:.1%}" + (
        "" if black.score is None else f", lead {black.score:+.1f}") + f", {_sims(found)}"]
    if ply:
        move = judged[ply - 1]
        text = one.line.text(move.action)
        words.append(f"{text} {_verdict(move, _move_and_chance(one.found[ply - 1]))}")
    best = list(zip(LETTERS, [m for m in found.moves if m.visits or m.order == 0], strict=False))
    words += [f"{letter} {m.text}: {m.winrate:.1%}, {m.visits} visits: "
              f"{' '.join(m.pv_text[:PV_LENGTH])}" for letter, m in best]
    marks = [(letter, sgf_point(m.action, size)) for letter, m in best]
    labels = "".join(f"[{point}:{letter}]" for letter, point in marks if point)
    comment = "\n".join(words).replace("\\", "\\\\").replace("]", "\\]")
    out = f"C[{comment}]SBKV[{100 * black.winrate:.1f}]" + (f"LB{labels}" if labels else "")
    if ply and not judged[ply - 1].agrees and (better := one.found[ply - 1].best) is not None:
        point = sgf_point(better.action, size)
        out += f"TR[{point}]" if point and f"[{point}:" not in labels else ""
    return out


def _sims(found: Analysis) -> str:
    """Its simulations, in words; the first visit of a position is the net's own evaluation."""
    return counted(max(found.visits - 1, 0), "simulation")


def _verdict(move: Judged, best: str) -> str:
    """What is thought of a move, ``best`` being the net's."""
    if move.agrees:
        return "is the net's move"
    if move.loss < NOTHING:
        return f"loses nothing; the net's move is {best}"
    points = "" if move.points is None else f", {move.points:.1f} points"
    return f"loses {move.loss:.1%}{points}; better {best}"


def _move_and_chance(found: Analysis) -> str:
    best = found.best
    return "" if best is None else f"{best.text} ({best.winrate:.1%})"


def _better(one: Review, move: Judged) -> str:
    """The variation that the net prefers to a mistake."""
    found = one.found[move.ply]
    if move.loss < MISTAKE or found.best is None:
        return ""
    colour, nodes = move.colour, ""
    for number, action in enumerate(found.best.pv[:PV_LENGTH]):
        nodes += f";{'BW'[(colour + number) % 2]}[{sgf_point(action, one.game.size)}]"
    words = f"Better than {one.line.text(move.action)}: {_move_and_chance(found)}"
    first, _, rest = nodes[1:].partition(";")
    return f"(;{first}C[{escape(words)}]{';' + rest if rest else ''})"


# -------------------------------------------------------------------------------- as a page

def to_page(one: Review, name: str) -> Page:
    """What the page shows."""
    judged, record = one.moves(), one.record
    players = [record.names[c] or one.game.sides[c] for c in (0, 1)]
    worst = sorted(judged, key=lambda m: -m.loss)[:SHOWN]
    shown = [m for m in worst if m.loss >= NOTHING]
    about = [f"{one.game.name}, {one.game.rules}", f"result {record.result or 'unknown'}",
             f"reviewed by {name}, {_sims(max(one.found, key=lambda f: f.visits))} a position"]
    table = []
    for colour in (0, 1):
        mine = [m for m in judged if m.colour == colour]
        if mine:
            points = [m.points for m in mine if m.points is not None]
            table.append((f"{one.game.sides[colour]}: {players[colour]}", len(mine),
                          f"{sum(m.agrees for m in mine) / len(mine):.0%}",
                          f"{sum(m.loss for m in mine) / len(mine):.1%}",
                          f"{sum(points) / len(points):.2f}" if points else "—"))
    return Page(" – ".join(players), about, WinrateCurve(one.black(), [m.ply + 1 for m in shown]),
                table, [_mistake(one, m) for m in sorted(shown, key=lambda m: -m.loss)])


def _mistake(one: Review, move: Judged) -> Mistake:
    found, states = one.found[move.ply], one.line.at(move.ply)
    visits = [0] * one.game.num_actions
    for m in found.moves:
        visits[m.action] = m.visits
    total = max(sum(visits), 1)
    last = one.line.moves[move.ply - 1].action if move.ply else -1
    seen = drawing.board_view(one.game, states, 0, [v / total for v in visits], visits,
                              found.value, last)
    best = found.best
    assert best is not None  # a move was made here
    points = "" if move.points is None else f", {move.points:.1f} points"
    return Mistake(
        f"Move {move.ply + 1}: {one.game.sides[move.colour]} {one.line.text(move.action)}",
        f"loses {move.loss:.1%}{points}. Better {best.text} ({best.winrate:.1%}): "
        f"{' '.join(best.pv_text[:PV_LENGTH])}", drawing.svg(drawing.shapes(seen)))


# ------------------------------------------------------------------------------------ files

def review_files(
    mind: Mind, paths: Sequence[Path], out: Path | None, html: bool, size: int = 0
) -> Iterator[str]:
    """Review every game in files and folders; lines for the user.

    out: the file for one game, or the folder for several; None is beside each game. size: see
    ``review``. Raises UserError where there is no game to review, naming the first reason, and at
    the end where any was left out.
    """
    records, refused, skipped = list[Record](), list[str](), list[Skipped]()
    for file in walk(paths, SUFFIXES):
        if "-reviewed" in file.name:
            continue
        try:
            records += read_sgf(file, skipped)
        except UserError as error:
            refused.append(str(error))
    done, one_file = 0, len(records) == 1 and out is not None and out.suffix == ".sgf"
    for made in review(mind, records, size):
        if isinstance(made, tuple):
            refused.append(f"{made[0]}: {made[1]}")
            continue
        target = out if one_file and out is not None else _target(made.record, out)
        write_atomic(target, reviewed_sgf(made, mind.name).encode())
        done += 1
        yield _told(made, target)
        if html:
            page = target.with_suffix(".html")
            write_page(page, to_page(made, mind.name))
            yield f"  {page}"
    refused += [f"{item.file}: {item.reason}" for item in skipped]
    if not done:
        raise UserError(refused[0] if refused else f"{paths[0]}: no .sgf file there")
    yield from (f"left out: {reason}" for reason in refused)
    if refused:
        raise UserError(f"{counted(done, 'game')} reviewed, {len(refused)} left out (named above)")


def _target(record: Record, out: Path | None) -> Path:
    source, _, number = record.source.partition(", game ")
    path = Path(source)
    stem = path.name.removesuffix(".gz").removesuffix(".sgf") + (f"-{number}" if number else "")
    folder = path.parent if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stem}-reviewed.sgf"


def _told(one: Review, target: Path) -> str:
    judged = one.moves()
    parts: list[Any] = []
    for colour in (0, 1):
        mine = [m for m in judged if m.colour == colour]
        if mine:
            share = sum(m.agrees for m in mine) / len(mine)
            parts.append(f"{one.game.sides[colour]} agrees in {share:.0%}")
    worst = max(judged, key=lambda m: m.loss, default=None)
    if worst is not None and worst.loss >= NOTHING:
        parts.append(f"the worst move is {worst.ply + 1}, {one.line.text(worst.action)} "
                     f"(-{worst.loss:.1%})")
    return f"{target}: {counted(len(judged), 'move')}; {', '.join(parts)}"
