"""The main job: expert games -> SFT -> RL -> matches -> the chart, resumable at any point. The
recipe of AlphaGo has a value net before the matches.

``stage`` says what a stage is and how it is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from selfplay.arena.spec import VALUE_METRIC
from selfplay.board.policy import BoardPolicy
from selfplay.board.value import Policies
from selfplay.common import compiling, ranks
from selfplay.common.compiling import working_seconds
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import locked, write_json
from selfplay.common.history import read_figures
from selfplay.common.words import command, counted
from selfplay.learn import checkpoint
from selfplay.learn.config import ALGORITHMS
from selfplay.models import flops
from selfplay.run import compare
from selfplay.run.boards import (
    KeptLearner,
    KeptPolicyLearner,
    best_sft,
    train_pg,
    train_rl,
    train_sft,
    train_value,
)
from selfplay.run.calibrate import DRAWING, Forecast, begins_again, learning_seconds, prepare
from selfplay.run.clock import Clock
from selfplay.run.folder import FROM_SFT, Run, freeze, net_spec, put_aside, stages
from selfplay.run.keep import Row, look_of
from selfplay.run.shards import make_games, read_rows, shards_here
from selfplay.run.stage import Desk, Elsewhere, Stage, Work, by_first, must_be_played, run_stages
from selfplay.run.teacher import beside_rl, expert_columns, expert_stage, makes_games, other_games


def train(
    run: Run, device: str, only: Sequence[str] = (), minutes: float | None = None,
    again: bool = False, search: Sequence[int] = (), elsewhere: Elsewhere | None = None,
) -> None:
    """Run all stages of the recipe, or those in ``only``, for so many ``minutes``.

    again: SFT may go on although RL has begun from it; RL then begins again. search: numbers of
    simulations; in place of the chart's matches those that compare them are played. elsewhere:
    what plays games in place of this process.
    Raises UserError before anything is made if another process is working on the run.
    """
    must_be_played(run, only, elsewhere)
    ranks.here().meet()  # all have opened it as it was
    with locked(run.folder):
        compiling.watch()
        clock, player = Clock(run, stages(run.config), minutes, only), None

        def begin() -> None:
            nonlocal player
            freeze(run)
            player = prepare(run, clock, device)

        by_first(begin)
        run_stages(run, {**STAGES, "expert": partial(expert_stage, player=player, away=elsewhere),
                         "sft": partial(sft_stage, again=again),
                         "rl": partial(rl_stage, away=elsewhere),
                         "value": partial(value_stage, away=elsewhere),
                         "eval": partial(eval_stage, search=search, away=elsewhere)},
                   clock, device, only)


def sft_stage(run: Run, clock: Clock, device: str, again: bool = False) -> Work | str:
    """Learn the expert's moves until the held-out curve is flat or the share is used up, and go on
    from there when there are more games.

    Self-play that has begun from its net begins again if that is cheap or asked for (``again``);
    otherwise the net stays as it is.
    """
    folder = run.folder / "sft"
    if run.config.init != "sft":
        return f"SFT: left out, self-play starts from {run.config.init}"
    begun, newest = _newest_rl(run) is not None, checkpoint.newest(folder)
    flat = checkpoint.reached_plateau(folder) or "sft" in clock.done
    ended = newest is not None and checkpoint.read_meta(newest)["step"] >= run.config.sft.max_steps
    if begun and newest is None:
        return f"SFT: no checkpoint is left in {folder}; RL has begun from one, and goes on"
    if (flat and not makes_games(run)) or (begun and ended):
        return f"SFT: finished, {_best_look(folder)}"
    stays = begun and not (again or ranks.here().first(begins_again(clock)))
    if stays and not makes_games(run):
        return _stays(run, more=False)
    rows = expert_columns(run)
    say(rows.said)
    more = newest is not None and other_games(run, rows)
    if flat and not more:
        return f"SFT: finished, {_best_look(folder)}"
    if stays:
        return _stays(run, more)
    if begun:
        ranks.here().meet()  # all have seen what is there
        place = ranks.here().first(put_aside(run) if ranks.leads() else None)
        for stage in filter(clock.shares.__contains__, FROM_SFT):
            (clock.begin_anew if again else clock.reopen)(stage)
        say(f"SFT: goes on{' with more games' * more}; RL begins again from it, and what it has "
            f"made so far is kept in {place}")
    clock.reopen("sft")

    def learn(at: Desk) -> bool:
        at.waits, at.steps = "its look at the held-out games", run.config.sft.max_steps
        train_sft(run.game, net_spec(run), rows.learnt, rows.held, run.config.sft, folder,
                  device=device, seed=run.config.seed, about=rows.about,
                  left=at.left, log=at.log, progress=at.step)
        return checkpoint.reached_plateau(folder)

    return Work("SFT", learn, lambda row: f"last look: {_sft_progress(row)}", ended=bool,
                said=lambda flat: (
                    f"SFT: {'flat' if flat else 'not flat yet'}, {_best_look(folder)}"))


def _stays(run: Run, more: bool) -> str:
    """The line about an SFT that could learn more if RL had not begun from it."""
    text = f"SFT: kept, {_best_look(run.folder / 'sft')}"
    why = "there are more games than it has learnt from" if more else "its curve is not flat yet"
    redo = command("selfplay", "sft", "--run", run.folder, "--again", "--minutes",
                   math.ceil(run.config.minutes / 3))
    return (f"{text}. It stays, though {why}: RL has begun from it. For a better SFT, and RL "
            f"again from that: {redo}, then the same command as now")


def _sft_progress(row: dict[str, Any]) -> str:
    return (f"held-out top-1 {row['top1']:.1%}, top-5 {row['top5']:.1%}, "
            f"value error {row['value_mse']:.3f}")


def _best_look(folder: Path) -> str:
    return f"best checkpoint {look_of(best_sft(folder), _sft_progress)}"


def rl_stage(run: Run, clock: Clock, device: str, away: Elsewhere | None = None) -> Work | str:
    """Improve the SFT net, or an untrained one, by the run's algorithm.

    Once its policy has played games for a value net, that policy stays as it is.
    """
    if any(_value_folder(run).glob("*.npz")):
        return f"RL: finished, its policy plays for the value net: {_newest_rl(run)}"
    if not clock.shares["rl"] and "rl" not in clock.only:
        alone = command("selfplay", "rl", "--run", run.folder, "--minutes", 10)
        return (f"RL: left out, its share of the time is 0; go on with {clock.more('rl')}, or "
                f"alone with {alone}")
    start = _start(run)
    learnt, held = beside_rl(run)
    spec, seed, folder = net_spec(run), run.config.seed, run.folder / "rl"
    learner: KeptLearner | KeptPolicyLearner
    if played := run.config.rl.algorithm not in ALGORITHMS:
        learner = KeptLearner(run.game, spec, run.config.rl, folder, init=start, device=device,
                              seed=seed, known=held, lessons=learnt)
        _say_of(learner)
        if away is not None:
            learner.games = away.selfplay(run, learner)
    else:
        learner = KeptPolicyLearner(run.game, spec, run.config, folder, init=start, device=device,
                                    seed=seed)
        if away is not None:
            learner.plays = away.league(run, learner)

    def learn(at: Desk) -> Path | None:
        forecast = Forecast(run, at) if played and not learner.iteration else None

        def log(row: Row) -> None:
            nonlocal forecast
            forecast = None
            at.log(row)
            if at.loggers is not None:  # they are the first process's
                at.loggers.sample("rl", run.game, learner.inference_net(), device,
                                  row["iteration"], row["step"])
            if isinstance(learner, KeptLearner):
                _say_of(learner)

        def progress(what: str, done: int, total: int) -> None:
            number = learner.iteration + (what != "learning" or not played)
            at.waits = f"iteration {number} to be learnt"
            at.made(learner.iteration, run.config.rl.iterations)
            who = learner.games.words() if isinstance(learner, KeptLearner) else ""
            at.at(f"iteration {number}  {what} {done:,}/{total:,}{who}")

        def flying(done: int, games: int, rows: int) -> None:
            words = forecast.words(done + rows) if forecast else ""
            at.at(f"iteration {learner.iteration + 1}  {done:,}/{run.config.rl.positions:,} "
                  f"positions, {rows:,} more in {games:,} games under way{words}")

        if isinstance(learner, KeptLearner):
            return train_rl(learner, held=held, left=at.left, overtime=at.clock.overtime(),
                            learning=min(learning_seconds(run), at.left() / 2), log=log,
                            progress=progress, flying=flying)
        return train_pg(learner, held=held, left=at.left, log=log, progress=progress)

    def said(newest: Path | None) -> str:
        if newest is not None:
            count = int(checkpoint.read_meta(newest)["step"])
            return f"RL: {counted(count, 'iteration')}, newest checkpoint {newest.name}"
        kept = "games that have ended are kept, " if played else ""
        advice = ("RL: the time ended before the first iteration; "
                  f"{kept}continue with more --minutes")
        if start is None:
            raise UserError(advice)
        return advice

    title = "RL" if played else f"RL by {run.config.rl.algorithm}"
    return Work(title, learn, _rl_progress if played else _climbed, said, first="")


def _rl_progress(row: Row) -> str:
    return f"loss {row['policy_loss']:.2f}, {row['mean_length']:.0f} moves a game"


def _climbed(row: Row) -> str:
    return (f"score {row['score']:.2f} against the pool, entropy {row['entropy']:.2f}, "
            f"KL {row['ref_kl']:.3f} to the first policy")


def _say_of(learner: KeptLearner) -> None:
    """Print what has been found out about self-play's arithmetic since the last call."""
    if learner.players.said:
        say(f"RL: {learner.players.said}")
        learner.players.said = ""


def _start(run: Run) -> Path | None:
    """The checkpoint that self-play starts from; None for an untrained net."""
    if run.config.init == "random":
        return None
    return best_sft(run.folder / "sft") if run.config.init == "sft" else Path(run.config.init)


def say_what_next(run: Run) -> None:
    """Print the commands that judge RL's net, if there is one."""
    if _newest_rl(run) is not None:
        first = _start(run)
        other = f"net:{first}" if first else "mcts:100"
        match = command("selfplay", "match", f"net:{run.folder}", other, "--game", run.config.game)
        say(f"next: {_more_matches(run)}   or   {match}")


def _more_matches(run: Run) -> str:
    return command("selfplay", "compare", run.folder, "--minutes", 10)


def _value_folder(run: Run) -> Path:
    """The folder of the games for the value net."""
    return run.folder / "value" / "games"


def _newest_rl(run: Run) -> Path | None:
    return checkpoint.newest(run.folder / "rl")


def value_stage(run: Run, clock: Clock, device: str, away: Elsewhere | None = None) -> Work | str:
    """Let the RL policy play, and learn the results of its games from one position each, until the
    held-out curve is flat or the share is used up."""
    folder, config, policy = run.folder / "value", run.config.value, _newest_rl(run)
    if "value" in clock.done:
        return f"value net: finished, {_best_value_look(folder)}"
    if policy is None:
        return ("value net: left out, there is no RL policy yet; continue with "
                f"{clock.more('rl')}")
    start = _start(run)
    assert start is not None, "must_be_of_recipe has seen to it"
    about = {"sft": start, "rl": policy}

    def learn(at: Desk) -> bool:
        made, cost = _value_games(run, at, device, about, away)
        at.waits, at.steps = "its look at the held-out positions", config.max_steps
        before = {key: value + cost.get(key, 0.0)
                  for key, value in checkpoint.read_meta(policy)["compute"].items()}
        train_value(
            run.game, net_spec(run), policy, read_rows(_value_folder(run)), config, folder,
            device=device, seed=run.config.seed, before=before,
            about={"policies": {key: _inside(run, path) for key, path in about.items()}},
            left=at.left, log=at.log, progress=at.step)
        return checkpoint.reached_plateau(folder) and made >= config.games

    return Work("value net", learn, _value_look, ended=bool,
                said=lambda flat: f"value net: {_best_value_look(folder)}")


def _value_games(
    run: Run, at: Desk, device: str, policies: dict[str, Path], elsewhere: Elsewhere | None
) -> tuple[int, dict[str, float]]:
    """Play games for the value net until the part ``value.play`` of the stage's time is over.
    Returns (how many there are, what they have cost)."""
    config, note = run.config.value, run.folder / "value" / "cost.json"
    nets, metas = zip(*(checkpoint.load_net(path, run.game, device) for path in policies.values()),
                      strict=True)
    before, after = (BoardPolicy(net, run.game.obs_shape, run.game.num_actions, device).frozen()
                     for net in nets)
    spec = checkpoint.spec_of(metas[-1])
    cost = read_figures(note, {"seconds": 0.0, "flops": 0.0, "evaluations": 0})
    since = working_seconds()

    def spent(evaluations: int) -> None:
        nonlocal since
        now = working_seconds()
        cost["seconds"] += now - since
        cost["flops"] += evaluations * flops(spec)
        cost["evaluations"] += evaluations
        since = now
        write_json(note, cost)

    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    shards = shards_here(run.game, Policies(before, after, run.config.rl if spec.komi else None),
                         config.latest, run.config.seed, threads)
    if elsewhere is not None:
        shards = partial(elsewhere.value_games, run, list(policies.values()))
    at.waits = "the first games"
    made = make_games(_value_folder(run), config.games, shards, spent=spent,
                      stop=lambda: at.left() <= (1 - config.play) * at.bar.total,
                      progress=lambda n: at.at(f"{n:,}/{config.games:,} games"))
    return made, cost


def _inside(run: Run, path: Path) -> str:
    """``path`` relative to the run's folder, so that the folder can be moved."""
    return str(path.relative_to(run.folder) if path.is_relative_to(run.folder) else path)


def _value_look(row: dict[str, Any]) -> str:
    return (f"error {row['value_mse']:.3f} of held-out positions, {row['train_mse']:.3f} of those "
            f"learnt from, winner right {row['value_accuracy']:.1%}")


def _best_value_look(folder: Path) -> str:
    found = checkpoint.best(folder, VALUE_METRIC)
    return "no checkpoint yet" if found is None else look_of(found, _value_look)


def eval_stage(
    run: Run, clock: Clock, device: str, search: Sequence[int] = (),
    away: Elsewhere | None = None,
) -> Work:
    """Play the chart's matches, or those of ``search``, the most telling first, and draw it."""
    points = compare.chart_points(run)
    pairings = compare.plan_search(run, points, search) if search else (
        compare.plan_matches(run, points))
    if clock.left("eval") <= 0:
        say("evaluation: the run's time is used up; play more of its matches with "
            f"{_more_matches(run)}")

    def learn(at: Desk) -> None:
        doing, played = "", dict[tuple[str, str], int]()

        def progress(index: int, count: int, pairing: compare.Pairing, done: int) -> None:
            nonlocal doing
            played[pairing.a, pairing.b] = done
            at.made(sum(played.values()), sum(p.games for p in pairings))
            a, b = compare.local(run, pairing.a), compare.local(run, pairing.b)
            doing = f"match {index + 1}/{count}  {a} - {b}  {done}/{pairing.games}"

        def left() -> float:
            at.at(doing)
            return at.left() - DRAWING

        at.waits = "the games under way"
        compare.play_matches(run, pairings, device=device, must=compare.anchoring(pairings),
                             away=away.matches(run) if away else None, left=left,
                             overtime=clock.overtime(), progress=progress)
        at.waits = "the chart"
        at.at("drawing it")

    return Work("evaluation", learn, said=lambda none: shown(run, device), first="", curves=False)


def redraw(run: Run, device: str) -> None:
    """Draw the chart of a run again.

    Raises UserError before anything is made if another process is working on the run.
    """
    with locked(run.folder):
        freeze(run)
        say(shown(run, device))


def shown(run: Run, device: str) -> str:
    """Draw the chart from what is on disk, and return what it shows in words."""
    from selfplay.report.page import text_summary

    return (f"{text_summary(compare.write_chart(run, device))}\n"
            f"chart: {run.folder / 'chart.png'}   report: {run.folder / 'report.html'}   "
            f"curves: tensorboard --logdir {run.folder / 'tb'}")


STAGES: dict[str, Stage] = {
    "expert": expert_stage, "sft": sft_stage, "rl": rl_stage, "value": value_stage,
    "eval": eval_stage,
}
