"""Training loops that yield a row at a time, as ``import selfplay as sp`` has them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from selfplay.api.boards import _game
from selfplay.api.boards import net as fresh_net
from selfplay.api.checked import must_be_plies, must_be_whole
from selfplay.board import alphazero as boards
from selfplay.board import league as league_games
from selfplay.board.alphazero import Learner
from selfplay.board.config import must_grow
from selfplay.board.league import PolicyLearner
from selfplay.board.league_games import LeagueGames, deal_groups, harvest
from selfplay.board.policy import BoardPolicy, freeze_unused
from selfplay.common.errors import UserError
from selfplay.common.limits import MAX_SEED
from selfplay.games import Game
from selfplay.learn import advantages
from selfplay.learn import policy_gradient as gradient_loop
from selfplay.learn.config import ALGORITHMS, PGConfig, sized
from selfplay.learn.rollout import Policy, Rollout
from selfplay.models import placed
from selfplay.run.boards import gate
from selfplay.run.config import (
    RunConfig,
    must_fit,
    override,
    preset,
    spelt,
    with_algorithm,
    with_init,
)
from selfplay.search import random as rng

ON_A_BOARD = {"overlong": 0.0, "worst": 1.0}  #: long games are no fault, lost ones earn -1
ROUNDS = 64  #: of games between two looks at which are over


def alphazero(
    game: Game | str, net: nn.Module | None = None, *, sims: int | None = None,
    iterations: int | None = None, seed: int = 0, device: str = "cpu", **settings: Any,
) -> Iterator[dict[str, Any]]:
    """Self-play with search and learning from it, an iteration a step; stop anywhere.

    net: what to improve, in place: after every row it has the weights that act (None: a fresh one
    of the game's default size). sims: simulations of a full search; settings: any other field of
    the run's ``rl`` settings (``positions=512``, ``learning_rate=1e-3``; see ``selfplay train
    --set``), by default those of the game, with RL's rate from nothing for a fresh net. iterations:
    None goes on for ever. Nothing is written to disk; ``sp.train`` makes runs that are kept.

    Yields rows of the history: ``iteration``, ``step`` (of the optimizer), ``policy_loss`` (nats),
    ``value_loss``, ``mean_length`` (moves a game), ``first_player_score`` and more.
    Raises UserError for settings that do not exist.

    >>> import selfplay as sp
    >>> net = sp.net("tictactoe", "1x8")
    >>> for row in sp.alphazero("tictactoe", net, sims=8, positions=64, games=8, iterations=2):
    ...     print(row["iteration"], row["policy_loss"] > 0)
    1 True
    2 True
    """
    must_count("sp.alphazero", iterations, seed)
    game = _game(game)
    given = settings if sims is None else {"sims": sims, **settings}
    start = preset(game.name) if net is not None else with_init(preset(game.name), "random")
    config = override(start, words_of("rl", given))
    net = fresh_net(game, config.net, seed) if net is None else net
    rl = replace(config.rl, iterations=iterations or config.rl.iterations)
    spec: Any = net.spec
    if rl.sizes and not spec.any_board:
        raise UserError(f"sizes={rl.sizes}: this net is for one board, {game.name}")
    must_grow(rl)
    if rl.expert_share:
        raise UserError("expert_share: for a run, which has an expert's games")
    learner = Learner(game, spec, rl, net=copy.deepcopy(net), device=device, seed=seed)
    for row in boards.alphazero(learner, judge=gate if rl.gating else None):
        net.load_state_dict(learner.inference_net().state_dict())
        yield row


def league(
    game: Game | str, net: nn.Module | None = None, algorithm: str = "ppo", *,
    iterations: int | None = None, seed: int = 0, device: str = "cpu", **settings: Any,
) -> Iterator[dict[str, Any]]:
    """The raw policy against a pool of its own past selves, by policy gradient (AlphaGo's RL of
    its policy network); an iteration a row.

    net: what to improve, in place (None: a fresh one). algorithm: a name as on the command line,
    or ``path.py:NAME``. settings: fields of ``pg``, or of ``pool`` with that in front
    (``pool_games=64``).

    Yields ``iteration``, ``score`` (points a game against the pool), ``entropy`` (nats a move),
    ``ref_kl`` (nats a move from the first policy) and more. Raises UserError for settings that do
    not exist, Breakdown where learning diverges.

    >>> import selfplay as sp
    >>> for row in sp.league("tictactoe", sp.net("tictactoe", "1x8"), "reinforce", iterations=2,
    ...                      pool_games=16):
    ...     print(row["iteration"], 0 <= row["score"] <= 1)
    1 True
    2 True
    """
    must_count("sp.league", iterations, seed)
    game = _game(game)
    config = with_algorithm(preset(game.name), algorithm)
    if config.rl.algorithm not in ALGORITHMS:
        raise UserError(f"algorithm {algorithm!r}: searches; one of {', '.join(ALGORITHMS)} wanted")
    pool = {key.removeprefix("pool_"): value for key, value in settings.items()
            if key.startswith("pool_")}
    rest = {key: value for key, value in settings.items() if not key.startswith("pool_")}
    config = override(config, words_of("pg", rest) + words_of("pool", pool))
    must_fit(config)
    net = fresh_net(game, config.net, seed) if net is None else net
    config = replace(config, rl=replace(config.rl, iterations=iterations or config.rl.iterations))
    spec: Any = net.spec
    yield from league_games.league(
        PolicyLearner(game, spec, config, net=net, device=device, seed=seed))


def policy(game: Game | str, net: nn.Module, device: str = "cpu") -> BoardPolicy:
    """A net as ``sp.policy_gradient`` trains it: its most probable moves are its moves, its value
    head the critic. ``net`` is trained in place.

    >>> import selfplay as sp
    >>> sp.policy("tictactoe", sp.net("tictactoe", "1x8")).num_actions
    9
    """
    game = _game(game)
    net = placed(net, device).eval()
    return BoardPolicy(net, game.obs_shape, game.num_actions, device)


def rollouts(
    game: Game | str, policy: BoardPolicy, games: int = 64, *, group: int = 1,
    opening: tuple[int, int] | None = None, seed: int = 0,
) -> Iterator[Rollout]:
    """Games of ``policy`` against itself as it is when they begin, for ever.

    Each game is one trajectory, of one side. group: games from one opening, for algorithms that
    compare them (rloo, grpo and its kin: 8, say). opening: fewest and most random plies.
    Rollouts are tensors [N, T], N games and T moves; reward is that of the last move, in [-1, 1].

    >>> import selfplay as sp
    >>> game = sp.make("tictactoe")
    >>> first = next(sp.rollouts(game, sp.policy(game, sp.net(game, "1x8")), games=16))
    >>> first.action.shape[0], first.reward.shape == first.mask.shape
    (16, True)
    """
    must_be_whole("sp.rollouts", 1, games=games, group=group)
    must_be_whole("sp.rollouts", 0, MAX_SEED, seed=seed)
    if opening is not None:
        must_be_plies("sp.rollouts", opening)
    game = _game(game)
    opening = opening or preset(game.name).rl.opening
    for number in itertools.count():
        frozen = policy.frozen()
        begin = number * max(games // group, 1)
        deals = deal_groups(game, range(begin, begin + max(games // group, 1)), group, opening,
                            seed)
        streams = rng.streams(seed, np.arange(len(deals.side)) + number * games)
        played = LeagueGames(game, frozen, frozen, deals, streams)
        while played.live.any():
            played.rounds(ROUNDS)
        yield harvest([played]).rollout


def policy_gradient(
    policy: Policy, rollouts: Iterable[Rollout], algorithm: str | Mapping[str, Any] = "ppo", *,
    seed: int = 0, extra_loss: gradient_loop.Term | None = None, **settings: Any,
) -> Iterator[dict[str, Any]]:
    """Improve a policy, of boards or texts, by rollouts of its own; a rollout a row.

    policy: ``sp.policy`` of a board game, or any ``learn.rollout.Policy``; its net is trained in
    place. rollouts: ``sp.rollouts``, or anything that yields ``Rollout``; each is asked for when
    the one before has been learnt from. algorithm: a name (reinforce, rloo, ppo, grpo, dr_grpo,
    dapo, gspo, cispo, maxrl) or a dict of settings of ``PGConfig``; settings: single ones beside it
    (dr_grpo, and of texts dapo and cispo, want ``constant_length``, the longest that a trajectory
    may be). extra_loss: a term of your own beside the algorithm's, (columns, evaluated) -> scalar
    (``learn.policy_gradient.Term``).

    Yields ``iteration``, ``score`` (mean reward of a trajectory), ``steps`` (moves or tokens) and
    the figures of the update: ``policy_loss``, ``entropy`` (nats a step), ``sample_kl`` ...
    Raises UserError for an algorithm or a setting that does not exist, Breakdown where learning
    diverges (the weights are then those of the last good step).

    >>> import selfplay as sp
    >>> game = sp.make("tictactoe")
    >>> policy = sp.policy(game, sp.net(game, "1x8"))
    >>> rows = sp.policy_gradient(policy, sp.rollouts(game, policy, games=16), "reinforce")
    >>> next(rows)["iteration"], -1 <= next(rows)["score"] <= 1
    (1, True)
    """
    if isinstance(policy, BoardPolicy) and isinstance(algorithm, str):
        settings = {**ON_A_BOARD, **settings}
    config = _settings(algorithm, settings)
    if sized(config, 1) != config:
        raise UserError("constant_length=: as many steps as a trajectory may have wanted")
    critic = config.value_weight > 0 or config.estimator == "gae"
    if isinstance(policy, BoardPolicy):
        freeze_unused(policy, critic)
    first = None
    if config.kl_weight > 0:
        like: Any = policy
        first = replace(like, net=copy.deepcopy(policy.net))
    facts: dict[str, Any] = {}

    def seen() -> Iterator[Rollout]:
        """The rollouts, with what the policy that learns, the critic and the first policy say."""
        for rollout in rollouts:
            with torch.no_grad():
                now = policy.evaluate(rollout)
                ref = rollout.ref_logp
                if first is not None and ref is None:
                    ref = first.evaluate(rollout).logp
            facts["score"] = float(advantages.scores(rollout.reward, rollout.mask).mean())
            facts["steps"] = int(rollout.mask.sum())
            yield replace(rollout, logp=now.logp, value=now.value if critic else None,
                          ref_logp=ref)

    device = str(next(policy.net.parameters()).device)
    rows = gradient_loop.policy_gradient(policy, seen(), config, device=device, seed=seed,
                                         extra=extra_loss)
    for number, row in enumerate(rows, 1):
        yield {**row, "iteration": number, **facts}


def _settings(algorithm: str | Mapping[str, Any], settings: Mapping[str, Any]) -> PGConfig:
    if isinstance(algorithm, str) and algorithm not in ALGORITHMS:
        raise UserError(f"algorithm {algorithm!r}: {', '.join(ALGORITHMS)} or a dict of settings "
                        "wanted")
    chosen = ALGORITHMS[algorithm] if isinstance(algorithm, str) else algorithm
    return override(RunConfig("tictactoe"), words_of("pg", {**chosen, **settings})).pg


def must_count(call: str, iterations: int | None, seed: int) -> None:
    """Raises UserError where these are no numbers of iterations (None: for ever) and of a seed."""
    must_be_whole(call, 0, MAX_SEED, seed=seed)
    if iterations is not None:
        must_be_whole(call, 1, iterations=iterations)


def words_of(stage: str, settings: Mapping[str, Any]) -> list[str]:
    """``stage.key=value`` as ``--set`` takes them."""
    return [f"{stage}.{key}={spelt(value)}" for key, value in settings.items()]
