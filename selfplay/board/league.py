"""Games by policy gradient: the raw policy against a pool of its own past selves.

AlphaGo's reinforcement learning of its policy network (Silver et al. 2016), with any algorithm of
``learn.config``. An iteration is play -> learn -> checkpoint. It follows from the seed, its number,
the weights and the pool alone, so that a run which was killed repeats what it had not saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.board.alphazero import HELD_ROWS
from selfplay.board.config import LeagueSettings
from selfplay.board.data import Columns
from selfplay.board.league_games import LeagueGames, Played, Pool, deal_groups, harvest
from selfplay.board.policy import BoardPolicy, freeze_unused
from selfplay.board.trainer import evaluate_columns
from selfplay.common.errors import advise_on_breakdown
from selfplay.common.files import read_history, write_history
from selfplay.common.machine import rss_mb
from selfplay.common.threads import Workers
from selfplay.games.base import Game
from selfplay.learn import advantages, checkpoint, policy_gradient
from selfplay.learn.config import sized
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Evaluated, Rollout, on
from selfplay.models import NetSpec, build, flops, seeded
from selfplay.search import random as generators

ROUNDS = 4  #: of the games between two meetings of the threads
PARTS = 8  #: of a rollout that is looked at once more, a thread's work each
WATCHED = 8  #: where the reference is only watched: every so many games


class PolicyLearner:
    """The state of a run between two iterations."""

    def __init__(
        self, game: Game, spec: NetSpec, config: LeagueSettings, folder: Path, *,
        init: Path | None, device: str, seed: int,
    ) -> None:
        self.game, self.spec, self.config, self.folder, self.seed = game, spec, config, folder, seed
        net, start = seeded(seed, lambda: build(spec)), dict[str, Any]()
        newest = checkpoint.newest(folder)
        source = newest or init
        if source is not None:  # its net goes on, whatever size the dial says
            net, meta = checkpoint.load_net(source, game.name, device)
            self.spec, start = checkpoint.spec_of(meta), meta["compute"]
        self.policy = BoardPolicy(
            net.to(device, memory_format=torch.channels_last).eval(), game.obs_shape,
            game.num_actions, device)
        freeze_unused(self.policy, critic=config.pg.value_weight > 0)
        self.optimizer = PolicyOptimizer(self.policy, sized(config.pg, game.max_moves), device)
        self.pool = Pool(folder / "pool", self.policy, game.name, config.pool)
        threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
        self.workers = Workers(threads)
        #: compute so far, the SFT run's included
        self.compute = {k: float(start.get(k, 0.0)) for k in ("seconds", "flops", "positions")}
        self.iteration = 0
        self.history: list[dict[str, Any]] = []
        if newest is None:
            self.pool.add(self, self.spec, self._meta({}))
            return
        self.optimizer.load_state(*checkpoint.load_training(newest))
        self.iteration = int(checkpoint.read_meta(newest)["step"])
        rows = read_history(folder / "history.jsonl")
        self.history = [row for row in rows if row["iteration"] <= self.iteration]

    def path(self) -> Path:
        """Of this iteration's checkpoint."""
        return self.folder / f"ckpt-{self.iteration:06d}"

    def inference_net(self) -> nn.Module:
        """What a checkpoint gives to those who play."""
        return self.policy.net

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps for training to go on."""
        return self.optimizer.state()

    def play(
        self, stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Played | None:
        """The games of the next iteration; None where ``stop()`` came first."""
        games = self._games()
        while live := [played for played in games if played.live.any()]:
            if stop():
                return None
            progress(sum(self.workers.map(lambda played: played.rounds(ROUNDS), live)))
        self.compute["flops"] += sum(played.evaluations for played in games) * flops(self.spec)
        return harvest(games)

    def _games(self) -> list[LeagueGames]:
        """One an opponent, with as many groups each as there are to share."""
        config, number = self.config.pool, self.iteration + 1
        seed = int(generators.streams(self.seed, np.array([number]))[0] >> np.uint64(1))
        opponents = self.pool.draw(number, np.random.default_rng([seed, 0]))
        groups = max(config.games // config.group, 1)
        edges = [groups * k // len(opponents) for k in range(len(opponents) + 1)]
        learner, games = self.policy.frozen(), []
        for step, (first, last) in zip(opponents, pairwise(edges), strict=True):
            deals = deal_groups(self.game, range(first, last), config.group, config.opening, seed)
            ids = np.arange(first * config.group, last * config.group)
            games.append(LeagueGames(self.game, learner, self.pool.member(step), deals,
                                     generators.streams(seed, ids)))
        return [played for played in games if len(played.live)]

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Improve the policy by ``rollout``; ``PolicyOptimizer``'s figures, and two
        divergences, k3 in nats a step: act_kl, of the net as it learns from the net as it played
        (rounding: BatchNorms folded, bfloat16), and ref_kl, from the run's first policy."""
        pg, first, played = self.config.pg, self.pool.member(0), rollout.logp
        now = self._seen(self.policy, rollout)  # from here the ratio starts at 1 exactly
        critic = pg.value_weight > 0 or pg.estimator == "gae"
        rollout = replace(rollout, logp=now.logp, value=now.value if critic else None)
        watched = rollout if pg.kl_weight > 0 else rollout.rows(slice(None, None, WATCHED))
        ref_logp = self._seen(first, watched).logp
        if pg.kl_weight > 0:
            rollout = replace(rollout, ref_logp=ref_logp)
        known = {"act_kl": _divergence(played, now.logp, rollout.mask),
                 "ref_kl": _divergence(watched.logp, ref_logp, watched.mask)}
        rng = np.random.default_rng([self.seed, 0x96, self.iteration])
        figures = self.optimizer(on(rollout, self.policy.device), rng)
        steps, passes = int(rollout.mask.sum()), figures["updates"] / pg.minibatches
        self.compute["positions"] += steps * passes
        self.compute["flops"] += steps * (3 * passes + 1) * flops(self.spec)
        return {**figures, **known}

    @torch.no_grad()
    def _seen(self, policy: BoardPolicy, rollout: Rollout) -> Evaluated:
        """``policy.evaluate`` of a whole rollout, a part of it a thread's work, on the CPU."""
        parts = torch.arange(len(rollout)).tensor_split(min(PARTS, len(rollout)))
        found = self.workers.map(
            lambda part: policy.evaluate(on(rollout.rows(part), policy.device)), parts)
        out = [torch.zeros(rollout.mask.shape) for _ in Evaluated._fields]
        for part, seen in zip(parts, found, strict=True):
            for whole, some in zip(out, seen, strict=True):
                whole[part, : some.shape[1]] = some.cpu()
        return Evaluated(*out)

    def save(self, row: dict[str, Any], last: bool = False) -> None:
        """History and, when it is due or ``last``, a checkpoint; the pool's before it, as it must
        be there for the next start."""
        if self.pool.joins(self.iteration):
            self.pool.add(self, self.spec, self._meta(row))
        if self.iteration % self.config.rl.checkpoint_every and not last:
            return
        write_history(self.folder / "history.jsonl", self.history)  # a row too many does no harm
        checkpoint.save(self.path(), self, self.spec, self._meta(row))
        checkpoint.thin(self.folder, self.config.rl.keep, evenly=True)

    def _meta(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"game": self.game.name, "kind": "rl", "step": self.iteration,
                "iteration": self.iteration, "compute": self.compute, "metrics": row}


def _divergence(logp: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(policy_gradient.kl_estimate(logp, other)[mask].mean())


def describe(played: Played) -> dict[str, float]:
    """Scores are the learner's, 1 for a win and 0.5 for a draw."""
    rollout, score = played.rollout, (played.score + 1) / 2
    found = {"games": len(score), "moves": int(rollout.mask.sum()), "score": float(score.mean()),
             "draws": float((played.score == 0).mean()),
             "mean_length": float(played.length.mean())}
    for side, name in ((0, "score_first"), (1, "score_second")):
        if (played.side == side).any():
            found[name] = float(score[played.side == side].mean())
    if len(torch.unique(rollout.group)) < len(rollout):
        total = advantages.scores(rollout.reward, rollout.mask)
        found["no_signal"] = 1 - float(advantages.signal(total, rollout.group).float().mean())
    return found


def train_pg(
    learner: PolicyLearner,
    *,
    held: Columns | None = None,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path | None:
    """Iterate until ``rl.iterations`` or until ``left()`` seconds are used up.

    held: an expert's positions, looked at whenever the policy joins the pool. progress is called
    with ("games", ended, wanted) or ("learning", 0, moves) within an iteration. Returns the newest
    checkpoint, None if there is none yet.
    Raises UserError where learning breaks down; the last checkpoint is then as it was.
    """
    config = learner.config
    while learner.iteration < config.rl.iterations and left() > 0:
        with advise_on_breakdown(lambda: checkpoint.newest(learner.folder), "--init",
                                 "pg.learning_rate", config.pg.learning_rate):
            row = _iteration(learner, left, progress)
        if row is None:
            break
        if held is not None and learner.pool.joins(learner.iteration):
            sample = Columns(*(c[:HELD_ROWS] for c in held))
            seen = evaluate_columns(
                learner.inference_net(), learner.game, sample, learner.policy.device)
            row.update({f"expert_{k}": v for k, v in seen.items()})
        learner.history.append(row)
        learner.save(row)
        log(row)
    if learner.history and not learner.path().exists():
        learner.save(learner.history[-1], last=True)
    return checkpoint.newest(learner.folder)


def _iteration(
    learner: PolicyLearner, left: Callable[[], float],
    progress: Callable[[str, int, int], None],
) -> dict[str, Any] | None:
    """Play and learn once; the row of the history, None where the time was over before."""
    began, wanted, ended = time.monotonic(), learner.config.pool.games, [0]

    def count(n: int) -> None:
        ended[0] += n
        progress("games", ended[0], wanted)

    played = learner.play(lambda: left() <= 0, count)
    if played is None:
        return None
    between = time.monotonic()
    facts = describe(played)
    progress("learning", 0, int(facts["moves"]))
    figures = learner.learn(played.rollout)
    now = time.monotonic()
    learner.iteration += 1
    learner.compute["seconds"] += now - began
    return {"iteration": learner.iteration, "step": learner.optimizer.steps, **learner.compute,
            **facts, **figures, "play_seconds": between - began, "learn_seconds": now - between,
            "rss_mb": rss_mb()}
