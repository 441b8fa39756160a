"""The main job: expert games -> SFT -> RL -> matches -> the chart, resumable anywhere; by AlphaGo's
recipe with a value net before the matches.

What a stage is, and how it is run: ``stage``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from selfplay.arena import expert
from selfplay.arena.spec import VALUE_METRIC
from selfplay.board.data import Columns
from selfplay.board.policy import BoardPolicy
from selfplay.board.supervised import split, to_columns
from selfplay.board.value import Policies
from selfplay.common.console import Bar, say
from selfplay.common.errors import UserError, command
from selfplay.common.files import locked, read_history, read_json, write_atomic, write_json
from selfplay.learn import checkpoint
from selfplay.learn.checkpoint import reached_plateau
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
from selfplay.run.config import preset
from selfplay.run.folder import Clock, Run, freeze, stages
from selfplay.run.keep import Row
from selfplay.run.shards import make_games, read_games
from selfplay.run.stage import Desk, Stage, Work, run_stages

EXPERT_SLOTS = 16  #: games side by side; few, so that the first ones end early
EXPERT_LEAST = 20  #: games made even if the stage's time is over: fewer teach nothing
NAMED = 20  #: unusable files named on the screen; all of them are in the run's skipped.txt

#: Expert games that come with the package, by game.
EMBEDDED = {"go9x9": "go9x9-gnugo10.sgf.gz"}


def train(
    run: Run, device: str, only: str | None = None, minutes: float | None = None
) -> None:
    """Run all stages of the recipe, or ``only`` one of them for so many ``minutes``.

    Raises UserError before anything is made if another process works on the run.
    """
    with locked(run.folder):
        freeze(run)
        clock = Clock(run, stages(run.config), minutes)
        run_stages(run, STAGES, clock, device, only)


def net_spec(run: Run) -> Any:
    """The net of a run, from its dial and its game's shapes."""
    from selfplay.models import spec_for

    return spec_for(run.game, run.config.net)


def expert_files(run: Run) -> list[Path]:
    """The expert games of this run: given, embedded, or made in its folder (perhaps not yet)."""
    if run.config.expert.games:
        return [Path(name) for name in run.config.expert.games]
    if (run.game.name in EMBEDDED
            and run.config.expert.player == preset(run.game.name).expert.player):
        return [Path(str(resources.files("selfplay") / "expert_games" / EMBEDDED[run.game.name]))]
    suffix = "sgf.gz" if run.game.has_sgf else "jsonl.gz"
    return [run.folder / "expert" / f"games.{suffix}"]


def expert_stage(run: Run, clock: Clock, device: str) -> str | None:
    """Make the teacher's games where none are given or embedded."""
    config, (file, *_) = run.config.expert, expert_files(run)
    if run.config.init != "sft" or file.exists() or config.games:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    say(f"expert games: {config.player} plays itself")
    made = 0

    def progress(done: int) -> None:
        nonlocal made
        made = done
        bar.at(clock.spent("expert"), f"{done}/{config.count} games")

    with Bar("expert", clock.budget("expert")) as bar:
        written = expert.generate(
            run.game, config.player, config.count, file, seed=run.config.seed,
            opening=config.opening, slots=EXPERT_SLOTS, device=device,
            stop=lambda: clock.left("expert") <= 0 and made >= EXPERT_LEAST,
            drop=lambda: (clock.left("expert") <= -compare.OVERTIME * run.config.minutes * 60
                          and made >= EXPERT_LEAST),
            progress=progress,
        )
    if written.duplicates or written.unfinished:
        say(f"left out: {written.duplicates} repeated, {written.unfinished} without a natural end")
    clock.finish("expert")
    return None


def expert_columns(run: Run) -> tuple[Columns, Columns]:
    """(training rows, held-out rows) of the run's expert games."""
    games, skipped = expert.read_expert(expert_files(run), run.game)
    _name_skipped(run, [f"{item.file}: {item.reason}" for item in skipped], len(games))
    train_games, held_games = split(games, run.config.expert.held_out, run.config.seed)
    say(f"expert games: {len(train_games):,} to learn from, {len(held_games):,} held out")
    return to_columns(run.game, train_games), to_columns(run.game, held_games)


def _name_skipped(run: Run, lines: list[str], read: int) -> None:
    """Say which files could not be used, once: the stage after it finds the same ones."""
    file, text = run.folder / "skipped.txt", "".join(f"{line}\n" for line in lines)
    if not lines or (file.exists() and file.read_text(encoding="utf-8") == text):
        return
    write_atomic(file, text.encode())
    for line in lines[:NAMED]:
        say(f"skipped {line}")
    say(f"expert games: {read:,} read, {len(lines):,} skipped, all named in {file}")


def sft_stage(run: Run, clock: Clock, device: str) -> Work | str:
    """Learn the expert's moves until the held-out curve is flat or the share is used up.

    Once self-play has begun from its net, that net stays.
    """
    folder = run.folder / "sft"
    if run.config.init != "sft":
        return f"SFT: left out, self-play starts from {run.config.init}"
    if "sft" in clock.done or checkpoint.newest(run.folder / "rl") is not None:
        return f"SFT: finished, {_best_look(folder)}"
    rows = expert_columns(run)

    def learn(at: Desk) -> bool:
        train_sft(run.game, net_spec(run), *rows, run.config.sft, folder, device=device,
                  seed=run.config.seed, left=at.left, log=at.log, progress=at.step)
        return reached_plateau(folder)

    return Work("SFT", learn, _look, ended=bool, said=lambda flat: (
        f"SFT: {'flat' if flat else 'not flat yet'}, {_best_look(folder)}"))


def _look(row: dict[str, Any]) -> str:
    return (f"held-out top-1 {row['top1']:.1%}, top-5 {row['top5']:.1%}, "
            f"value error {row['value_mse']:.3f}")


def _best_look(folder: Path) -> str:
    return f"best checkpoint {_look_of(best_sft(folder), _look)}"


def _look_of(path: Path, look: Callable[[Row], str]) -> str:
    """A checkpoint's name, and its row in words where that is there."""
    rows = {f"ckpt-{row['step']:06d}": row for row in read_history(path.parent / "history.jsonl")}
    return path.name + (f", {look(rows[path.name])}" if path.name in rows else "")


def rl_stage(run: Run, clock: Clock, device: str) -> Work | str:
    """Improve the SFT net, or one from nothing, by the run's algorithm.

    Once games for a value net have been made with its policy, that policy stays.
    """
    if any(_value_folder(run).glob("*.npz")):
        return f"RL: finished, its policy plays for the value net: {_newest_rl(run)}"
    begins = {"init": _start(run), "device": device, "seed": run.config.seed}
    held = expert_columns(run)[1] if run.config.init == "sft" else None
    given = run.game, net_spec(run)
    if run.config.rl.algorithm in ALGORITHMS:
        learner: Any = KeptPolicyLearner(*given, run.config, run.folder / "rl", **begins)
        improve: Any = train_pg
    else:
        learner = KeptLearner(*given, run.config.rl, run.folder / "rl", known=held, **begins)
        improve = train_rl
    played = improve is train_rl
    if played:
        _say_of(learner)

    def learn(at: Desk) -> Path | None:
        def log(row: Row) -> None:
            at.log(row)
            at.loggers.sample("rl", run.game, learner.inference_net(), device, row["iteration"],
                            row["step"])
            if played:
                _say_of(learner)

        def progress(what: str, done: int, total: int) -> None:
            number = learner.iteration + (what != "learning" or not played)
            at.at(f"iteration {number}  {what} {done:,}/{total:,}")

        return improve(learner, held=held, left=at.left, log=log, progress=progress)

    def said(newest: Path | None) -> str:
        if newest is not None:
            count = int(checkpoint.read_meta(newest)["step"])
            return f"RL: {count} iterations, newest checkpoint {newest.name}"
        kept = "games that have ended are kept, " if played else ""
        advice = ("RL: the time ended before the first iteration; "
                  f"{kept}continue with more --minutes")
        if begins["init"] is None:
            raise UserError(advice)
        return advice

    title = "RL" if played else f"RL by {run.config.rl.algorithm}"
    return Work(title, learn, _played if played else _climbed, said, first="")


def _played(row: Row) -> str:
    return f"loss {row['policy_loss']:.2f}, {row['mean_length']:.0f} moves a game"


def _climbed(row: Row) -> str:
    return (f"score {row['score']:.2f} against the pool, entropy {row['entropy']:.2f}, "
            f"KL {row['ref_kl']:.3f} to the first policy")


def _say_of(learner: KeptLearner) -> None:
    """What has been found about the arithmetic of self-play since the last time, if anything."""
    if learner.players.said:
        say(f"RL: {learner.players.said}")
        learner.players.said = ""


def _start(run: Run) -> Path | None:
    """The checkpoint that self-play starts from; None is from nothing."""
    if run.config.init == "random":
        return None
    return best_sft(run.folder / "sft") if run.config.init == "sft" else Path(run.config.init)


def say_what_next(run: Run) -> None:
    """Name the commands that judge the net which RL has made, if it has."""
    if _newest_rl(run) is not None:
        first = _start(run)
        other = f"net:{first}" if first else "mcts:100"
        match = command("selfplay", "match", f"net:{run.folder}", other, "--game", run.config.game)
        say(f"next: {_more_matches(run)}   or   {match}")


def _more_matches(run: Run) -> str:
    return command("selfplay", "compare", run.folder, "--minutes", 10)


def _value_folder(run: Run) -> Path:
    """Of the games for the value net."""
    return run.folder / "value" / "games"


def _newest_rl(run: Run) -> Path | None:
    return checkpoint.newest(run.folder / "rl")


def value_stage(run: Run, clock: Clock, device: str) -> Work | str:
    """Make the RL policy's games, one position each, and learn their results until the held-out
    curve is flat or the share is used up."""
    folder, config, policy = run.folder / "value", run.config.value, _newest_rl(run)
    if "value" in clock.done:
        return f"value net: finished, {_best_value_look(folder)}"
    if policy is None:
        return "value net: left out, there is no RL policy yet; continue with more --minutes"
    start = _start(run)
    assert start is not None, "must_be_of_recipe has seen to it"
    about = {"sft": start, "rl": policy}
    made = _value_games(run, clock, device, about)
    cost = read_json(folder / "cost.json")
    before = {key: value + cost.get(key, 0.0)
              for key, value in checkpoint.read_meta(policy)["compute"].items()}

    def learn(at: Desk) -> bool:
        train_value(
            run.game, net_spec(run), policy, read_games(_value_folder(run)), config, folder,
            device=device, seed=run.config.seed, before=before,
            about={"policies": {key: _inside(run, path) for key, path in about.items()}},
            left=at.left, log=at.log, progress=at.step)
        return reached_plateau(folder) and made >= config.games

    return Work("value net", learn, _value_look, ended=bool,
                said=lambda flat: f"value net: {_best_value_look(folder)}")


def _value_games(run: Run, clock: Clock, device: str, policies: dict[str, Path]) -> int:
    """How many games there are when ``value.play`` of the stage's time is over."""
    config, note = run.config.value, run.folder / "value" / "cost.json"
    players = []
    for path in policies.values():
        net, meta = checkpoint.load_net(path, run.game, device)
        players.append(BoardPolicy(net, run.game.obs_shape, run.game.num_actions, device).frozen())
    each = flops(checkpoint.spec_of(meta))
    cost = read_json(note) if note.exists() else {"seconds": 0.0, "flops": 0.0, "evaluations": 0}
    since = time.monotonic()

    def spent(evaluations: int) -> None:
        nonlocal since
        now = time.monotonic()
        cost["seconds"] += now - since
        cost["flops"] += evaluations * each
        cost["evaluations"] += evaluations
        since = now
        write_json(note, cost)

    limit = config.play * clock.budget("value")
    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    with Bar("games for the value net", limit) as bar:
        return make_games(
            run.game, Policies(*players), _value_folder(run), config.games, config.latest,
            seed=run.config.seed, threads=threads, stop=lambda: clock.spent("value") >= limit,
            progress=lambda n: bar.at(clock.spent("value"), f"{n:,}/{config.games:,} games"),
            spent=spent)


def _inside(run: Run, path: Path) -> str:
    """``path`` as seen from the run's folder, so that this can be moved."""
    return str(path.relative_to(run.folder) if path.is_relative_to(run.folder) else path)


def _value_look(row: dict[str, Any]) -> str:
    return (f"error {row['value_mse']:.3f} of held-out positions, {row['train_mse']:.3f} of those "
            f"learnt from, winner right {row['value_accuracy']:.1%}")


def _best_value_look(folder: Path) -> str:
    found = checkpoint.best(folder, VALUE_METRIC)
    return "no checkpoint yet" if found is None else _look_of(found, _value_look)


def eval_stage(run: Run, clock: Clock, device: str) -> None:
    """Play the chart's matches, most telling first, and draw it."""
    pairings = compare.plan(run, compare.points(run))
    if clock.left("eval") <= 0:
        say("evaluation: the run's time is used up; play more of its matches with "
            f"{_more_matches(run)}")
    with Bar("evaluation", clock.budget("eval")) as bar:
        def progress(index: int, count: int, pairing: compare.Pairing, done: int) -> None:
            a, b = compare.local(run, pairing.a), compare.local(run, pairing.b)
            bar.at(clock.spent("eval"), f"match {index + 1}/{count}  {a} - {b}  "
                                        f"{done}/{pairing.games}")

        compare.play(run, pairings, device=device, left=lambda: clock.left("eval"),
                     progress=progress)
    show(run, device)


def redraw(run: Run, device: str) -> None:
    """The chart of a run that nobody else is at work on.

    Raises UserError before anything is made if another process is.
    """
    with locked(run.folder):
        freeze(run)
        show(run, device)


def show(run: Run, device: str) -> None:
    """Draw the chart from what is on disk and say what it shows."""
    from selfplay.report.page import text_summary

    say(text_summary(compare.write_chart(run, device)))
    say(f"chart: {run.folder / 'chart.png'}   report: {run.folder / 'report.html'}   "
        f"curves: tensorboard --logdir {run.folder / 'tb'}")


STAGES: dict[str, Stage] = {
    "expert": expert_stage, "sft": sft_stage, "rl": rl_stage, "value": value_stage,
    "eval": eval_stage,
}
