"""Policy gradient on a board game: the raw policy against a pool of its own past selves.

AlphaGo's reinforcement learning of its policy network (Silver et al. 2016), with any algorithm of
``learn.config``. An iteration is play -> learn -> checkpoint. It follows from the seed, its number,
the weights and the pool alone, so that a run which was killed repeats what it had not saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.arena.pool import Pool
from selfplay.board.alphago_config import LeagueSettings
from selfplay.board.data import Columns
from selfplay.board.evaluate import HELD_ROWS, evaluate_columns
from selfplay.board.league_games import LeagueGames, Played, deal_groups, harvest
from selfplay.board.policy import BoardPolicy, freeze_unused
from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers
from selfplay.games import own
from selfplay.games.base import Game
from selfplay.learn import advantages, policy_gradient
from selfplay.learn.config import sized
from selfplay.learn.optimizer import counter
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Evaluated, Rollout, on
from selfplay.models import NetSpec, build, flops, placed, seeded
from selfplay.search import random as generators

ROUNDS = 4  #: of the games between two meetings of the threads
PARTS = 8  #: of a rollout that is looked at once more, a thread's work each
WATCHED = 8  #: where the reference is only watched: every so many games


#: (games, stop, progress) -> whether all were played to their ends: False where ``stop()`` came
#: first. progress is told how many games have ended.
Play = Callable[[list[LeagueGames], Callable[[], bool], Callable[[int], None]], bool]


class PolicyLearner:
    """The state of learning between two iterations."""

    def __init__(
        self, game: Game, spec: NetSpec, config: LeagueSettings, *, net: nn.Module | None = None,
        device: str = "cpu", seed: int = 0, pool: Pool[BoardPolicy] | None = None,
    ) -> None:
        """net: a net of ``spec`` to begin with, trained in place; None is a new one. pool: where
        past selves are; the first policy joins one that is made here."""
        self.game, self.spec, self.config, self.seed = game, spec, config, seed
        net = seeded(seed, lambda: build(spec)) if net is None else net
        self.policy = BoardPolicy(
            placed(net, device).eval(), game.obs_shape,
            game.num_actions, device)
        freeze_unused(self.policy, critic=config.pg.value_weight > 0)
        term = config.pg.extra_loss
        self.optimizer = PolicyOptimizer(
            self.policy, sized(config.pg, game.max_moves), device,
            own.object_of(term, "a loss term", UserError) if term else None)
        threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
        self.workers = Workers(threads)
        self.compute = {"flops": 0.0, "positions": 0.0}  #: so far
        self.iteration = 0
        self.plays: Play = self._play_here  #: the games of an iteration
        self.pool: Pool[BoardPolicy] = pool or Pool(config.pool)
        if pool is None:
            self.pool.add(0, self.policy)

    def inference_net(self) -> nn.Module:
        """The net that a checkpoint saves for playing."""
        return self.policy.net

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps so that training can go on."""
        return self.optimizer.state()

    def play(
        self, stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda n: None,
    ) -> Played | None:
        """The games of the next iteration; None where ``stop()`` came first."""
        games = self._games()
        if not self.plays(games, stop, progress):
            return None
        self.compute["flops"] += sum(played.evaluations for played in games) * flops(self.spec)
        return harvest(games)

    def _play_here(
        self, games: list[LeagueGames], stop: Callable[[], bool], progress: Callable[[int], None]
    ) -> bool:
        """``plays`` by this run's processes and threads."""
        here = ranks.here()
        mine = [games[k] for k in ranks.share(len(games))]
        while any(here.gathered([bool(played.live.any()) for played in mine])):
            if stop():
                return False
            live = [played for played in mine if played.live.any()]
            progress(sum(here.gathered(
                self.workers.map(lambda played: played.rounds(ROUNDS), live))))
        for played, done in zip(games, here.gathered([p.progress for p in mine]), strict=True):
            played.progress = done
        return True

    def _games(self) -> list[LeagueGames]:
        """The iteration's games, one batch an opponent; groups are shared out evenly."""
        config, number = self.config.pool, self.iteration + 1
        seed = int(generators.streams(self.seed, np.array([number]))[0] >> np.uint64(1))
        opponents = self.pool.draw(number, np.random.default_rng([seed, 0]))
        groups = max(config.games // config.group, 1)
        edges = [groups * k // len(opponents) for k in range(len(opponents) + 1)]
        learner, games = self.policy.frozen(), []
        for step, (first, last) in zip(opponents, pairwise(edges), strict=True):
            deals = deal_groups(self.game, range(first, last), config.group, config.opening, seed,
                                self.config.rl if self.spec.komi else None)
            ids = np.arange(first * config.group, last * config.group)
            games.append(LeagueGames(self.game, learner, self.pool.member(step), deals,
                                     generators.streams(seed, ids)))
        return [played for played in games if len(played.live)]

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Improve the policy by ``rollout``; ``PolicyOptimizer``'s figures, and two
        divergences, k3 in nats a step: act_kl, of the net as it learns from the net as it played
        (rounding: BatchNorms folded, bfloat16), and ref_kl, from the run's first policy or the one
        that ``pg.reset_every`` has put in its place."""
        pg, first, played = self.config.pg, self.pool.member(self._reference()), rollout.logp
        if pg.reset_every and self.iteration and self.iteration % pg.reset_every == 0:
            self.optimizer.trainer.forget()
        now = self._seen(self.policy, rollout)  # from here the ratio starts at 1 exactly
        critic = pg.value_weight > 0 or pg.estimator == "gae"
        rollout = replace(rollout, logp=now.logp, sampled=played,
                          value=now.value if critic else None)
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

    def _reference(self) -> int:
        """The member of the pool that the policy stays near: its first, or the newest that had
        joined when it was last reset."""
        every, first = self.config.pg.reset_every, 0
        last = self.iteration // every * every if every else first
        return max(step for step in (first, *self.pool.steps(self.iteration + 1)) if step <= last)

    @torch.no_grad()
    def _seen(self, policy: BoardPolicy, rollout: Rollout) -> Evaluated:
        """``policy.evaluate`` of a whole rollout on the CPU, split among the threads."""
        parts = torch.arange(len(rollout)).tensor_split(min(PARTS, len(rollout)))
        found = ranks.shared(parts, lambda some: self.workers.map(
            lambda part: policy.evaluate(on(rollout.rows(part), policy.device)), some))
        out = [torch.zeros(rollout.mask.shape) for _ in Evaluated._fields]
        for part, seen in zip(parts, found, strict=True):
            for whole, some in zip(out, seen, strict=True):
                if some is not None:
                    whole[part, : some.shape[1]] = some.cpu()
        return Evaluated(*out)


def _divergence(logp: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(policy_gradient.kl_estimate(logp, other)[mask].mean())


def league_figures(played: Played) -> dict[str, float]:
    """Figures of finished games. Scores are the learner's: 1 a win, 0.5 a draw."""
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


def league(
    learner: PolicyLearner, *,
    held: Columns | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    watch: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Iterator[dict[str, Any]]:
    """One row an iteration, until ``rl.iterations`` or until ``stop()``. Between two rows the
    learner is complete: it can be saved, and a new call goes on with it.

    held: an expert's positions, looked at whenever the policy joins the pool. progress is called
    with ("games", ended, wanted) or ("learning", 0, moves) within an iteration; watch: with "play"
    and "learn" around them. Raises Breakdown where learning breaks down.
    """
    config = learner.config
    while learner.iteration < config.rl.iterations and not stop():
        with watch("play"):
            played = learner.play(stop, counter(progress, "games", config.pool.games))
        if played is None:
            return
        facts = league_figures(played)
        progress("learning", 0, int(facts["moves"]))
        with watch("learn"):
            figures = learner.learn(played.rollout)
        learner.iteration += 1
        row = {"iteration": learner.iteration, "step": learner.optimizer.steps, **learner.compute,
               **facts, **figures}
        if learner.pool.joins(learner.iteration):
            learner.pool.add(learner.iteration, learner.policy)
            if held is not None:
                seen = evaluate_columns(learner.inference_net(), learner.game,
                                        held.rows(slice(HELD_ROWS)), learner.policy.device)
                row |= {f"expert_{key}": value for key, value in seen.items()}
        yield row
