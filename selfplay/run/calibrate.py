"""What the stages of a run need at the least, measured in a few seconds at its start.

Timed are the teacher's moves, the net's evaluations and its training steps, each for a second or
less, compilation left out; a random game gives the length. From these come estimates, good to a
factor of two or so, of when the first stages have something to show. They set the clock's
``needs``, and say before the start what the time is too short for. Once a run has a first point of
RL nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from selfplay.arena.play import play_games
from selfplay.arena.players import parse_player
from selfplay.arena.spec import budget
from selfplay.board.config import RLConfig, rows_learnt, scheduled
from selfplay.board.data import Columns, batch, pack
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common import interrupt
from selfplay.common.compiling import working_seconds
from selfplay.common.console import clock_text, say
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.common.threads import torch_alone
from selfplay.common.words import counted
from selfplay.games.base import Game
from selfplay.inference import precision
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.spread import spread
from selfplay.learn import checkpoint
from selfplay.learn.config import ALGORITHMS
from selfplay.models import NetSpec, build, seeded, spec_for
from selfplay.run import teacher
from selfplay.run.clock import Clock
from selfplay.run.config import RunConfig
from selfplay.run.folder import Run
from selfplay.run.stage import Desk

SECONDS = 0.4  #: for each measurement at the most, but for a single slow move
PART = 0.02  #: of the run's time, if that is less
ROWS = 64  #: positions evaluated at once
SFT_STEPS = 100  #: after which SFT's learning rate has warmed up
RATED_GAMES = 100  #: of raw policies: a first round of matches that ties a net to ``random``
DRAWING = 5.0  #: seconds for the chart
EARLY = 3.0  #: seconds of self-play after which its speed is known
MARGIN = 2.0  #: times the time that RL is expected to need, where so many minutes are called enough
CHEAP = 0.55  #: of RL's time: while it has spent less, it begins again without being asked
TWICE = 0.4  #: of all time: a stage may have as long again as it has had, until it has had so much
MOST = 1 / 3  #: of the minutes that the teacher's first games may take before another stands in


@dataclass(frozen=True)
class Speed:
    """What a start has measured; seconds, of this machine as it is now."""

    plies: float  #: moves of a random game
    evaluation: float  #: for a position in the net, as players have it
    acting: float  #: the same for self-play, in the fastest arithmetic that it may choose
    step: float  #: for a training step of SFT
    learning: float  #: for a training step of RL


def prepare(run: Run, clock: Clock, device: str) -> str | None:
    """Set ``clock.needs`` for what the run still lacks, and say what the time is too short for;
    the player that makes expert games at this start, or None for whoever made them before.

    Nothing is measured where every stage has had its first result, or where only others run.
    """
    config, wanted = run.config, clock.only or tuple(clock.shares)
    has_sft = config.init != "sft" or checkpoint.newest(run.folder / "sft") is not None
    has_rl = checkpoint.newest(run.folder / "rl") is not None
    games = teacher.lacking(run, config.expert.player) if "expert" in wanted else 0
    if not has_sft and "sft" not in wanted:
        return None  # nothing to start from, as the stages will say
    if not games and has_sft and (has_rl or "rl" not in wanted):
        _let_grow(run, clock, has_rl)
        return None
    seconds = min(SECONDS, PART * 60 * (config.minutes if clock.alone is None else clock.alone))
    speed = measure_speed(run, device, seconds)
    player = None
    if games:
        player = _choose_teacher(run, clock, speed, games, seconds, device)
    if not has_sft:
        steps = min(SFT_STEPS, config.sft.evaluate_every, config.sft.max_steps)
        clock.needs["sft"] = steps * speed.step
    if "rl" not in clock.only and not clock.shares["rl"]:
        has_rl = True  # it is left out
    if not has_rl:
        clock.needs["rl"] = first_point(config, speed)
    clock.needs["eval"] = DRAWING + RATED_GAMES * speed.plies * speed.evaluation
    _let_grow(run, clock, has_rl)
    if not has_rl and "rl" in wanted:
        idle = {name for name, busy in (("expert", teacher.makes_games(run)),
                                        ("sft", config.init == "sft")) if not busy}
        _say_of_rl(config, clock, idle)
    return player


def _let_grow(run: Run, clock: Clock, has_rl: bool) -> None:
    """Where there are more minutes than the last start had, let the teacher and SFT have as long
    again as they have had, as far as what RL and the matches need leaves room: a starved first
    start has given them all that they needed, which their shares reach much later. Once RL has
    begun, the teacher alone, if RL is to begin again (``sft_stage`` sees to SFT)."""
    total = 60 * run.config.minutes
    if clock.alone is not None or run.config.minutes <= clock.before:
        return
    taken = sum(clock.at_start.values()) + sum(clock.needs.values())
    if has_rl:
        if not _is_cheap(clock):
            return
        taken += clock.at_start["rl"] + clock.at_start["sft"]
    for stage, unfinished in (("expert", teacher.lacks_games(run)), ("sft", not has_rl)):
        again = clock.at_start.get(stage, 0.0)
        if (unfinished and again and stage not in clock.needs and taken + again <= total
                and 2 * again <= TWICE * total):
            clock.promise(stage)
            taken += again


def _is_cheap(clock: Clock) -> bool:
    return 0 < clock.seconds["rl"] <= CHEAP * clock.budget("rl")


def begins_again(clock: Clock) -> bool:
    """Whether so little of RL's time is spent that it may begin again, and SFT gets the time to
    learn for as long again as it has: its share, or what the clock is told here that it needs.
    Not if the run's clock has been lost."""
    again = clock.seconds["sft"]
    longer = 2 * again <= TWICE * 60 * clock.run.config.minutes
    cheap = clock.alone is None and _is_cheap(clock) and (longer or clock.left("sft") >= again)
    if cheap and longer:
        clock.needs["sft"] = max(clock.needs.get("sft", 0.0), again)
    return cheap


def _choose_teacher(
    run: Run, clock: Clock, speed: Speed, games: int, seconds: float, device: str
) -> str:
    """The player that makes expert games at this start; sets the clock's need for them."""
    own = run.config.expert.player
    try:
        game = teacher_game(run.game, own, speed.plies, seconds, run.config.expert.opening, device)
    except UserError:  # the stage itself will say what is wrong
        return own
    rounds = math.ceil(games / teacher.side_by_side(own))
    need = rounds * teacher.side_by_side(own) * game
    limit = MOST * 60 * (run.config.minutes if clock.alone is None else clock.alone)
    player = teacher.affordable(run, need, limit)
    if player != own:
        sims, full = budget(player.partition(":")[2]), budget(own.partition(":")[2])
        assert sims is not None and full is not None, "only such players have stand-ins"
        say(f"expert games: {games} games of {own} would take about {clock_text(need)} of "
            f"{clock_text(limit / MOST)}; {player} stands in. With --minutes "
            f"{math.ceil(need / MOST / 60)} {own} itself can play")
        need *= sims.sims / full.sims
    if need > limit:
        say(f"expert games: the {games} games of {player} that SFT needs at the least take about "
            f"{clock_text(need)}, more than a third of the time; --minutes "
            f"{math.ceil(need / MOST / 60)} leaves enough for the rest")
    clock.needs["expert"] = need
    return player


def _say_of_rl(config: RunConfig, clock: Clock, idle: Collection[str]) -> None:
    """Say before the start that RL will have no first point, and with how many minutes it has."""
    need, minutes = clock.needs["rl"], config.minutes if clock.alone is None else clock.alone
    spent = clock.at_start["rl"] if clock.alone is None else 0.0
    given = clock.planned(minutes, idle)["rl"] - spent
    if given >= need:
        return
    enough, clock.told = minutes, True
    while clock.planned(enough, idle)["rl"] - spent < MARGIN * need:
        enough *= 1.1
    if clock.alone is None:
        clock.enough = math.ceil(enough)
    say(f"RL: a first point needs about {clock_text(need)} at this speed, and of "
        f"{counted(minutes, 'minute')} it has {clock_text(given)}; --minutes {math.ceil(enough)} "
        "gives it enough. Until then its games are kept for the next start")


def first_rows(config: RLConfig, plies: float) -> float:
    """About how many positions self-play makes until its first iteration is complete: those that
    are wanted and half of what is then in flight, but at least all games to their first end."""
    in_flight = config.games * plies * config.full_share
    return max(config.positions + in_flight / 2, in_flight)


def first_point(config: RunConfig, speed: Speed) -> float:
    """About how many seconds RL needs for its first iteration."""
    rl = config.rl
    if rl.algorithm in ALGORITHMS:
        moves = config.pool.games * speed.plies
        steps = config.pg.epochs * config.pg.minibatches
        rows = moves / 2 * config.pg.epochs  # its own moves, not its opponents'
        return moves * speed.evaluation + max(steps, rows / rl.batch_size) * speed.learning
    full, cheap = scheduled(rl, 1).sims, scheduled(rl, 1).cheap_sims
    each = (rl.full_share * full + (1 - rl.full_share) * cheap) / rl.full_share
    play = first_rows(rl, speed.plies) * each * speed.acting
    return play + rows_learnt(rl, rl.positions) / rl.batch_size * speed.learning


def learning_seconds(run: Run) -> float:
    """About how long RL learns from an iteration's games, by the steps that SFT has made."""
    rows, config = read_history(run.folder / "sft" / "history.jsonl"), run.config
    if not rows or not rows[-1].get("seconds"):
        return 0.0
    position = rows[-1]["seconds"] / max(rows[-1]["positions"], 1)
    return float(position * rows_learnt(config.rl, config.rl.positions))


class Forecast:
    """How long RL takes to its first iteration, by the speed of this start."""

    def __init__(self, run: Run, at: Desk) -> None:
        self.rows = first_rows(run.config.rl, length(run.game, SECONDS / 4))
        self.learning, self.at = learning_seconds(run), at
        self.begun: tuple[float, int] | None = None  #: seconds and rows at the first look

    def words(self, made: int) -> str:
        """What the bar says of it; made: positions of games that have ended or are under way."""
        now = self.at.clock.spent(self.at.name)
        since, before = self.begun = self.begun or (now, made)
        if now - since < EARLY or made <= before:
            return ""
        rest = max(self.rows - made, 0) * (now - since) / (made - before) + self.learning
        if rest > self.at.left() and not self.at.clock.told:
            self.at.clock.told = True
            say(f"RL: a first point needs about {clock_text(rest)} more at this speed, and "
                f"{clock_text(self.at.left())} are left; its games are kept")
        return f"; a first point in about {clock_text(rest)}"


# --------------------------------------------------------------------------------- measurements


def measure_speed(run: Run, device: str, seconds: float) -> Speed:
    """Time the run's net for at most ``seconds`` a measurement."""
    game, config = run.game, run.config
    spec = spec_for(game, config.net)
    net = seeded(config.seed, lambda: build(spec))
    evaluate, states = spread(net, game, device), _positions(game)
    legal = game.legal(states)
    evaluation = timed(lambda: evaluate(states, legal), seconds) / len(legal)
    sizes = {config.sft.batch_size, config.rl.batch_size}
    steps = {size: _seconds_of_step(game, spec, size, device, seconds) for size in sizes}
    return Speed(length(game, seconds), evaluation,
                 evaluation / _gain_of_int8(game, net, config.rl, device, seconds),
                 steps[config.sft.batch_size], steps[config.rl.batch_size])


def _gain_of_int8(
    game: Game, net: nn.Module, config: RLConfig, device: str, seconds: float
) -> float:
    """How many times as fast as torch's own choice a core evaluates in int8, where self-play may
    take that and it is faster; else 1."""
    if (config.dtype not in ("auto", "int8") or "int8" not in precision.candidates(device)
            or precision.work(net, game) < precision.LEAST_WORK):
        return 1.0
    obs = game.observe(game.new(ROWS))
    ranges = precision.random_positions(game)
    with torch_alone():
        usual, int8 = (
            timed(partial(Evaluator(net, game, dtype=dtype, calibration=ranges).forward, obs),
                  seconds / 2) for dtype in ("auto", "int8"))
    return max(1.0, usual / int8)


def timed(work: Callable[[], object], seconds: float) -> float:
    """Seconds that ``work`` takes, from as many repetitions as fit into ``seconds`` (at least one),
    after one to warm up."""
    work()
    start, count = working_seconds(), 0
    while not count or working_seconds() - start < seconds:
        interrupt.raise_if_asked()
        work()
        count += 1
    return (working_seconds() - start) / count


def _positions(game: Game) -> object:
    """ROWS positions in which somebody is to move."""
    states = game.new(ROWS)
    legal = np.argmax(game.legal(states), axis=1)
    game.step(states, legal)
    return states if game.legal(states).any(1).all() else game.new(ROWS)


def _seconds_of_step(game: Game, spec: NetSpec, size: int, device: str, seconds: float) -> float:
    trainer = board_trainer(seeded(0, lambda: build(spec)), TrainConfig(batch_size=size), device)
    obs = pack(game.observe(game.new(size)), game.obs_binary)
    none, cells = np.zeros(size, np.float32), game.board_shape[0] * game.board_shape[1]
    policy = np.full((size, game.num_actions), 1 / game.num_actions, np.float16)
    rows = Columns(obs=obs, policy=policy, policy_weight=none + 1, value=none,
                   ownership=np.zeros((size, cells), np.int8), score=none, aux_weight=none)
    chosen = batch(rows, np.arange(size), game, game.symmetries(), None)
    return timed(lambda: trainer.step(chosen), seconds)


def length(game: Game, seconds: float) -> float:
    """Mean number of moves of random games; half of the most where none ends in time."""
    start, player = working_seconds(), parse_player("random", game)
    played = list(play_games(game, player, player, games=16, seed=0, opening=(0, 0), slots=16,
                             paired=False,
                             drop=lambda: working_seconds() - start > max(seconds, 0.1)))
    lengths = [len(record.actions) for record in played]
    return float(np.mean(lengths)) if lengths else game.max_moves / 2


def teacher_game(
    game: Game, player: str, plies: float, seconds: float, opening: tuple[int, int], device: str
) -> float:
    """Seconds that a game of ``player`` against itself takes beside others, by a few of its moves.

    A player of many simulations is timed with fewer, in proportion. Raises UserError for one that
    cannot be made or fails.
    """
    slots = teacher.side_by_side(player)
    kind, _, text = player.partition(":")
    full = budget(text) if kind in ("mcts", "openspiel-mcts") else None
    sims = min(teacher.CHEAPEST, full.sims) if full else 1
    while True:
        words = f"{kind}:{full._replace(sims=sims, leaves=min(full.leaves, sims))}" if full else (
            player)
        move = _round(game, words, slots, seconds, opening, device)
        if full is None:
            return plies * move / slots
        if sims >= full.sims or move > seconds / 8:  # enough to see beyond what a call costs
            return plies * move * full.sims / sims / slots
        sims = min(4 * sims, full.sims)


def _round(
    game: Game, player: str, slots: int, seconds: float, opening: tuple[int, int], device: str
) -> float:
    """Seconds in which ``player`` moves once in each of ``slots`` games."""
    made = parse_player(player, game, device=device, slots=slots)
    times = [working_seconds()]

    def drop() -> bool:
        interrupt.raise_if_asked()
        times.append(working_seconds())
        return len(times) > 2 and times[-1] - times[1] > seconds / 4

    try:
        for _ in play_games(game, made, made, games=slots, seed=0, opening=opening, slots=slots,
                            paired=False, drop=drop):
            pass
    finally:
        made.close()
    first, *others = np.diff(times)  # the first has warmed up
    return float(np.mean(others) if others else first)
