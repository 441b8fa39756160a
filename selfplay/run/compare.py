"""The matches behind the chart: which ones it needs, playing them, and the ratings they give.

Matches are kept in the run's ``matches/`` folder and continue where they stopped, so the chart can
be redrawn, or made more precise, at any time.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from selfplay.arena.contest.choice import ROUNDS, Choice, Pairing, kind
from selfplay.arena.elo import Rating, fit, outcomes
from selfplay.arena.match import (
    MatchResult,
    play_match,
    read_match,
    safe_name,
    shortened,
    without_home,
)
from selfplay.arena.play import Away
from selfplay.arena.players import missing_engine
from selfplay.arena.records import read_settings
from selfplay.arena.spec import VALUE_METRIC, effort_of
from selfplay.common.console import say
from selfplay.common.errors import DiskError, UserError
from selfplay.common.files import write_json
from selfplay.common.history import read_history
from selfplay.common.machine import hardware
from selfplay.common.settings import assignments, to_dict
from selfplay.common.stats import spread_out
from selfplay.common.words import command
from selfplay.games.base import Game
from selfplay.learn import checkpoint
from selfplay.learn.checkpoint import reached_plateau
from selfplay.report.axis import Record
from selfplay.report.ceilings import ceilings, exchange
from selfplay.report.verdict import POINTS, Verdict
from selfplay.run.clock import Clock
from selfplay.run.config import RunConfig, preset, with_algorithm, with_init, with_recipe
from selfplay.run.folder import Run, stages
from selfplay.run.teacher import expert_of

RANDOM = "random"
STAGES = ("sft", "rl", "value")  #: whose checkpoints play
_OWN = re.compile(r"^(net|alphago):(?=(?:sft|rl|value)/)")  #: how ``local`` names begin


class Point(NamedTuple):
    """A checkpoint on the chart."""

    stage: str
    path: Path
    step: int
    compute: dict[str, float]
    kind: str = ""  #: of player; "llm": a language model. Empty: by its stage
    how: str = ""  #: stands at the end of its name as a player

    def player(self, sims: int) -> str:
        """Its name as a player; a value net plays as AlphaGo, which always searches. sims: of a
        language model, answers that vote."""
        kind = self.kind or ("alphago" if self.stage == "value" else "net")
        return f"{kind}:{self.path}" + f"@{sims}" * bool(sims) + self.how


def chart_points(run: Run) -> list[Point]:
    """The checkpoints on the chart: those of SFT up to its best, evenly spaced in log-steps; those
    of RL, evenly spaced; and the value net's best."""
    sft = [_point("sft", path) for path in checkpoint.listing(run.folder / "sft")]
    best_file = run.folder / "sft" / checkpoint.BEST
    best = checkpoint.note(best_file.parent).get("checkpoint")
    if sft and best:
        upto = [i for i, p in enumerate(sft, 1) if p.path.name == best]
        if not upto:
            raise UserError(f"{best_file}: names {best}, which is missing or damaged; bring it "
                            f"back, or delete {best_file}: the best that is left counts then")
        sft = spread_out(sft[: upto[0]], run.config.eval.sft_points, log=True)
    rl = [_point("rl", path) for path in checkpoint.listing(run.folder / "rl")]
    value = None
    if run.config.recipe == "alphago":
        value = checkpoint.best(run.folder / "value", VALUE_METRIC)
    return (sft + spread_out(rl, run.config.eval.rl_points, log=False)
            + ([_point("value", value)] if value else []))


def modes_of(run: Run, stage: str) -> tuple[int, ...]:
    """The numbers of simulations that a stage's checkpoints play with; 0 is the raw policy.

    A value net is only used in search, and where there is one the RL policy is judged raw.
    """
    sims = run.config.eval.sims
    if run.config.recipe == "alphago":
        return {"sft": (0, sims), "rl": (0,), "value": (sims,)}[stage]
    return (0, sims)


def _point(stage: str, path: Path) -> Point:
    meta = checkpoint.read_meta(path)
    return Point(stage, path, int(meta["step"]), dict(meta["compute"]))


def plan_matches(run: Run, chosen: list[Point]) -> list[Pairing]:
    """The matches to play, the most informative first: RL against SFT, those that tie both to
    ``random``, the raw curves, the baselines and the expert, the curves with search. A checkpoint
    plays in the modes that its stage has (``modes_of``)."""
    config = run.config.eval
    modes = (0, config.sims)
    by_stage = {stage: [p for p in chosen if p.stage == stage] for stage in STAGES}

    def groups(sims: int) -> list[list[Point]]:
        return [found for stage, found in by_stage.items()
                if found and sims in modes_of(run, stage)]

    ladder = dict.fromkeys([RANDOM, *config.baselines, expert_of(run)])
    outside = [name for name in ladder if missing_engine(name) is None]

    def finals(sims: int) -> list[Point]:
        return [group[-1] for group in reversed(groups(sims))]

    def decisive(sims: int) -> list[Pairing]:
        return [Pairing(a.player(sims), b.player(sims), config.decisive_games)
                for a, b in pairwise(finals(sims))]

    def against(names: list[str], who: list[Point], sims: int, games: int) -> list[Pairing]:
        return [Pairing(p.player(sims), name, games) for name in names for p in who]

    def curve(sims: int) -> list[Pairing]:
        steps = [Pairing(b.player(sims), a.player(sims), config.games)
                 for group in groups(sims) for a, b in pairwise(group)]
        first, *later = groups(sims) or [[]]
        return steps + [Pairing(p.player(sims), first[-1].player(sims), config.games)
                        for group in later for p in group[:-1]]

    wanted = decisive(0)
    wanted += against(outside[:2], finals(0), 0, config.baseline_games)
    wanted += [Pairing(b, a, config.games) for a, b in pairwise(outside)]
    wanted += decisive(config.sims)
    wanted += curve(0)
    for name in reversed(outside[1:]):
        for s in reversed(modes):
            wanted += against([name], finals(s), s, config.baseline_games)
    wanted += [Pairing(p.player(config.sims), raw.player(0), config.games)
               for p, raw in zip(finals(config.sims), finals(0), strict=False)]
    wanted += curve(config.sims)
    for s in modes:
        wanted += against(outside[:3], [group[0] for group in groups(s)], s, config.games)
    unique: dict[tuple[str, str], Pairing] = {}
    for pairing in wanted:
        unique.setdefault((pairing.a, pairing.b), pairing)
    return list(unique.values())


def plan_search(run: Run, chosen: list[Point], amounts: Sequence[int]) -> list[Pairing]:
    """Matches that tell what simulations bring: the last net of each stage against itself with the
    next smaller of the ``amounts``, against the other stage's with as many, and against ``random``,
    to which all are tied."""
    games = run.config.eval.games
    last = {point.stage: point for point in chosen if point.stage != "value"}
    steps = sorted({0, *amounts})
    wanted = [Pairing(point.player(0), RANDOM, games) for point in last.values()]
    for less, more in pairwise(steps):
        wanted += [Pairing(p.player(more), p.player(less), games) for p in last.values()]
        wanted += [Pairing(b.player(more), a.player(more), games)
                   for a, b in pairwise(last.values())]
    return wanted


def local(run: Run, name: str) -> str:
    """A player's name relative to the run's folder, so that the folder can be moved."""
    return without_home(name, run.folder)


def match_folder(run: Run, pairing: Pairing) -> Path:
    """The folder matches/A--B, readable and unique."""
    names = [local(run, name) for name in (pairing.a, pairing.b)]
    key = f"{names[0]}|{names[1]}|{run.config.eval.opening}"
    return run.folder / "matches" / shortened("--".join(map(safe_name, names)), key)


def play_matches(
    run: Run, pairings: list[Pairing], *, device: str,
    place: Callable[[Pairing], tuple[Path, int]] | None = None,
    must: Collection[Pairing] = (),
    away: Away | None = None,
    left: Callable[[], float] = lambda: math.inf,
    overtime: float = math.inf,
    progress: Callable[[int, int, Pairing, int], None] = lambda index, count, pairing, done: None,
) -> None:
    """Play the pairings until ``left()`` seconds are used up; finished games are kept.

    First every pairing has some games (ROUNDS), in order; then always that which tells most about
    the nets' ratings for its time (``contest.choice``). No game is started that, going by earlier
    games of such players, would end too late; games still under way ``overtime`` seconds after the
    end are dropped. The first games of the pairings ``must`` are played however late it is. place:
    folder and seed of a pairing not among the run's own matches. away: see ``play_match``.
    """
    config, home = run.config.eval, run.folder if place is None else None
    place = place or (lambda pairing: (match_folder(run, pairing), match_seed(run, pairing)))
    nets: dict[Path, Any] = {}  # each is loaded once, for all of its matches
    lasts: dict[tuple[str, str], float] = {}  # by kinds of players: seconds of a game
    choice = Choice(pairings, RANDOM)

    def play_one(index: int, pairing: Pairing, share: float) -> None:
        kinds, began = (kind(pairing.a), kind(pairing.b)), time.monotonic()
        needed = pairing in must and share == ROUNDS[0]
        found: list[int] = []  # how many games there were, each time that one was added

        def over() -> bool:
            return not needed and left() <= lasts.get(kinds, 0.0)

        def told(done: int) -> None:
            found.append(done)
            if len(found) == 2:
                lasts[kinds] = time.monotonic() - began
            progress(index, len(ROUNDS) * len(pairings), pairing, done)

        games = 2 * math.ceil(pairing.games * share / 2)  # an opening is played twice
        before = choice.results.get(pairing)
        if over() or (before is not None and before.games >= games):
            return
        outside = any(name.startswith("gtp:") for name in (pairing.a, pairing.b))
        folder, seed = place(pairing)
        result = play_match(
            run.game, pairing.a, pairing.b, games=games, seed=seed, opening=config.opening,
            slots=config.engine_slots if outside else config.slots, folder=folder, home=home,
            device=device, nets=nets, away=away, stop=over, progress=told,
            drop=lambda: not needed and left() <= -overtime)
        choice.spent(pairing, time.monotonic() - began, len(found) - 1)
        choice.played(pairing, result)

    for index in range(len(ROUNDS) * len(pairings)):
        try:
            play_one(index, *choice.next())
        except DiskError:
            raise
        except UserError as error:  # an engine that fails costs its match, not the chart
            say(f"match left out: {error}")


def anchoring(pairings: Sequence[Pairing]) -> list[Pairing]:
    """Those pairings that tie the newest raw nets to ``random``, without which nothing is rated."""
    found = dropwhile(lambda pairing: pairing.b != RANDOM, pairings)
    return list(takewhile(lambda pairing: pairing.b == RANDOM, found))


def match_seed(run: Run, pairing: Pairing) -> int:
    """A seed, and so openings, of its own for each pairing, the same if the run is repeated."""
    name = f"{local(run, pairing.a)}|{local(run, pairing.b)}"
    return (run.config.seed * 65_536 + (zlib.crc32(name.encode()) & 0xFFFF)) % 2**63


def evaluation(run: Run, device: str) -> Record:
    """Ratings and tables from the matches on disk, in the form that ``report.page`` reads."""
    played = matches(run)
    rows = rows_of_ratings([(p, r) for p, r, _ in played], [run.folder], run.config.eval.sims)
    expert = expert_of(run)
    baselines = [{**row, "expert": row["player"] == expert} for row in rated_baselines(run, rows)]
    found: Record = {
        "game": run.game.name, "rules": run.game.rules, "anchor": RANDOM,
        "hardware": hardware(device), "run": str(run.folder), "seed": run.config.seed,
        "commands": [train_command(run)], "remedies": remedies(run),
        "points": rated_points(run, rows), "search": searched_points(run, rows),
        "baselines": [row for row in baselines if row["elo"] is not None or row["expert"]],
        "matches": [{**match_row(p, r), "command": match_command(run, p, folder),
                     "folder": str(folder)} for p, r, folder in played],
        "recipe": run.config.recipe, "config": to_dict(run.config),
        "sft_flat": reached_plateau(run.folder / "sft"),
        **{f"{stage}_history": read_history(run.folder / stage / "history.jsonl")
           for stage in STAGES},
    }
    seen = outcomes([(p.a, p.b, *r.counts) for p, r, _ in played], RANDOM)
    return {**found, "curves": ceilings(found, *seen), "exchange": exchange(found, *seen)}


def rows_of_ratings(
    played: Sequence[tuple[Pairing, MatchResult]], homes: Sequence[Path], sims: int
) -> dict[str, Record]:
    """A row of an evaluation for each player of the matches; its Elo is None if no matches tie it
    to ``random``. homes: the folders of the runs whose nets, raw and with ``sims`` simulations,
    are compared; nets with other numbers widen no interval of these."""
    games = Counter({RANDOM: 0})
    for pairing, result in played:
        games.update({pairing.a: result.games, pairing.b: result.games})
    nets = [name for name in games if effort_of(name)[1] in (0, sims)
            and any(name != without_home(name, home) for home in homes)]
    ratings = fit([(p.a, p.b, *r.counts) for p, r in played], anchor=RANDOM,
                  centre=nets if len(nets) > 1 else ())  # from itself one is 0 away
    return {name: _row(name, ratings.get(name), count) for name, count in games.items()}


def _row(name: str, rating: Rating | None = None, games: int = 0) -> Record:
    elo, low, high = rating or (None, None, None)
    return {"player": name, "elo": elo, "low": low, "high": high, "games": games}


def rated_baselines(run: Run, rows: Mapping[str, Record]) -> list[Record]:
    """The rows of ``random``, the baselines and the expert, with a note on those not rated."""
    names = dict.fromkeys([RANDOM, *run.config.eval.baselines, expert_of(run)])
    found = [rows.get(name) or _row(name) for name in names]
    return [row if row["elo"] is not None else {
        **row, "note": missing_engine(row["player"]) or "no time was left for its matches"}
        for row in found]


def rated_points(
    run: Run, rows: Mapping[str, Record], own: Sequence[Point] = ()
) -> list[Record]:
    """The rows of all the run's checkpoints that have an Elo, in each of their modes. own: points
    of a run whose checkpoints are none of a board's net."""
    chosen = own or [_point(stage, path) for stage in STAGES
                     for path in checkpoint.listing(run.folder / stage)]
    return [{**row, "stage": p.stage, "sims": s, "step": p.step,
             **{k: p.compute.get(k, 0.0) for k in ("flops", "seconds", "positions")}}
            for p in chosen for s in ((0,) if own else (0, run.config.eval.sims))
            if (row := rows.get(p.player(s))) and row["elo"] is not None]


def searched_points(run: Run, rows: Mapping[str, Record]) -> list[Record]:
    """The rows of the checkpoint of each stage that has played with most different numbers of
    simulations, if these are three or more; the raw policy's (0) among them."""
    found = []
    for stage in STAGES[:2]:
        best: list[Record] = []
        for path in checkpoint.listing(run.folder / stage):
            name = f"net:{path}"
            mine = [{**row, "stage": stage, "sims": int(player[len(name) + 1:] or 0)}
                    for player, row in rows.items() if row["elo"] is not None
                    and re.fullmatch(rf"{re.escape(name)}(@\d+)?", player)]
            best = max(best, mine, key=len)
        if len([row for row in best if row["sims"]]) >= 3:
            found += sorted(best, key=lambda row: row["sims"])
    return found


def remedies(run: Run) -> dict[str, str]:
    """Per stage, the command that brings it onto the chart: more matches, or more training."""
    play_more = command("selfplay", "compare", run.folder, "--minutes", 10)
    some = run.config.shares if run.config.shares[2] else RunConfig.shares  # of RL's
    enough = 0 if checkpoint.listing(run.folder / "rl") else Clock(run, {}).enough
    longer = replace(run.config, minutes=max(2 * run.config.minutes, enough), shares=some)
    train_more = train_command(replace(run, config=longer))
    found = {stage: play_more if checkpoint.listing(run.folder / stage) else train_more
             for stage in STAGES if stage in stages(run.config)}
    if run.config.init != "sft":
        del found["sft"]
    return {POINTS: play_more if play_more in found.values() else train_more, **found}


def read_matches(parent: Path, game: Game) -> Iterator[tuple[Path, MatchResult]]:
    """The matches with games in the folders of ``parent``; damaged ones are reported and left
    out."""
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        try:
            result = read_match(folder, game)
        except UserError as error:
            say(f"match left out: {error}")
            continue
        if result is not None and result.games:
            yield folder, result


def matches(run: Run) -> list[tuple[Pairing, MatchResult, Path]]:
    """Every match on disk, including those of earlier starts that had other points on the chart."""
    played = []
    for folder, result in read_matches(run.folder / "matches", run.game):
        a, b = (_OWN.sub(lambda kind: f"{kind[1]}:{run.folder}/", name)
                for name in (result.a, result.b))
        played.append((Pairing(a, b, result.games), result, folder))
    order = {(p.a, p.b): number for number, p in enumerate(plan_matches(run, chart_points(run)))}
    return sorted(played, key=lambda match: order.get((match[0].a, match[0].b), len(order)))


def match_row(pairing: Pairing, result: MatchResult) -> Record:
    return {"a": pairing.a, "b": pairing.b, "games": result.games,
            "distinct": result.distinct, "wins": result.wins, "draws": result.draws,
            "losses": result.losses, "score": result.score, "low": result.low, "high": result.high}


def match_command(run: Run, pairing: Pairing, folder: Path) -> str:
    """The command that plays the match in ``folder`` again elsewhere."""
    settings = read_settings(folder / "match.json")
    low, high = settings.get("opening", run.config.eval.opening)
    return command("selfplay", "match", pairing.a, pairing.b, "--game", run.game.name, "--games",
                   pairing.games, "--seed", settings.get("seed", 0), "--opening", f"{low}-{high}")


def train_command(run: Run) -> str:
    """The command that makes this run again."""
    start = with_recipe(preset(run.config.game), run.config.recipe)
    begun = with_algorithm(with_init(start, run.config.init), run.config.rl.algorithm)
    config, default = to_dict(run.config), to_dict(begun)
    default |= {"recipe": RunConfig.recipe, "init": start.init}
    default["rl"]["algorithm"] = start.rl.algorithm
    dials = ("game", "recipe", "minutes", "seed", "init", "device")
    words: list[object] = ["selfplay", "train", "--run", run.folder]
    for key in dials:
        if key == "game" or config[key] != default[key]:
            words += [f"--{key}", config[key]]
    return command(*words, *assignments(config, default, dials))


def write_chart(run: Run, device: str) -> Verdict:
    """Rate what is on disk and write evaluation.json, report.html, chart.png and summary.json.
    Returns what they say."""
    from selfplay.report.page import write_report

    result = evaluation(run, device)
    write_json(run.path("evaluation.json"), result)
    return write_report(run.folder, result)
