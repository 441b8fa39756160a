"""What the search proves is true, and what can be seen in one move is never missed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyspiel
import pytest
from test_search import all_positions, boards, hashed, positions, solved

from selfplay.arena.players import player_of
from selfplay.board.config import RLConfig
from selfplay.board.selfplay import Actor, search_config
from selfplay.games import make
from selfplay.games.base import blunders, take, wins
from selfplay.search.search import Search, SearchConfig

RULES = [SearchConfig(rule="puct"), SearchConfig(rule="gumbel"), SearchConfig(leaves=8),
         SearchConfig(rule="gumbel", leaves=4, gumbel_actions=4)]


def stubborn(game: Any) -> Any:
    """A net that knows nothing and is very sure of it: nearly all of the prior on one move."""
    def evaluate(states: Any, legal: Any) -> Any:
        logits, values = hashed(game)(states, legal)
        return 12 * logits, values
    return evaluate


@pytest.mark.parametrize("config", RULES)
@pytest.mark.parametrize("name", ["tictactoe", "connect4"])
def test_no_win_and_no_only_block_is_missed(name: str, config: SearchConfig) -> None:
    """By an untrained net at 64 simulations, with and without noise."""
    game = make(name)
    states = positions(game, 400, {"tictactoe": 7, "connect4": 28}[name])
    legal = game.legal(states)
    winning = wins(game, states, legal)  # by trying every move
    losing = blunders(game, states, legal)
    won = winning.any(1)
    forced = ~won & ((legal & ~losing).sum(1) == 1) & (legal.sum(1) > 1)
    assert won.sum() > 60 and forced.sum() > 10
    search = Search(game, config, 400, 64, 0)
    found = search.run(states, 64, stubborn(game), noise=np.arange(400) % 2 == 1)
    rows = np.arange(400)
    assert winning[rows, found.action][won].all()
    assert (found.decided & (found.value == 1))[won].all()
    assert not losing[rows, found.action][forced].any()
    assert (found.policy[won] > 0)[~winning[won]].sum() == 0
    assert not (found.policy * losing)[forced].any()
    assert np.allclose(found.policy.sum(1), 1) and (found.policy[~legal] == 0).all()
    assert legal[rows, found.action].all() and (found.visits.sum(1) > 0).all()


@pytest.mark.parametrize("config", RULES)
@pytest.mark.parametrize("sims", [8, 100])
def test_whatever_is_proven_of_tictactoe_is_true(config: SearchConfig, sims: int) -> None:
    game, states = make("tictactoe"), all_positions()
    states = take(states, slice(0, None, 3))
    rows, legal = np.arange(len(states.ply)), game.legal(states)
    search = Search(game, config, len(rows), sims, 0)
    found = search.run(states, sims, hashed(game))
    known = ~np.isnan(found.proven)
    assert known.sum() > (3000 if sims == 100 else 1500) and not known[~legal].any()
    for row, (own, other) in enumerate(boards(states)):
        values = {a: -solved(other, own | 1 << a) for a in np.flatnonzero(legal[row])}
        for a in np.flatnonzero(known[row]):
            assert found.proven[row, a] == values[a]
        if found.decided[row]:
            assert found.value[row] == max(values.values()) == values[found.action[row]]
            assert all(values[a] == found.value[row] for a in np.flatnonzero(found.policy[row]))
        elif values[found.action[row]] == -1:  # nothing proven to lose is played
            assert not known[row, found.action[row]]
    assert found.decided.mean() > (0.9 if sims == 100 else 0.5)
    draws = known & (found.proven == 0)
    assert draws.sum() > 100


def test_an_exact_bound_holds_back_bad_luck() -> None:
    """One move is a proven draw, the others look bad: the value stays at the draw's, and so does
    the policy."""
    game = make("tictactoe")
    states = game.new(1)
    game.replay(states, np.array([[0, 4, 8, 2, 6, 3, 5]]))  # two cells left: one draws, one loses

    def gloomy(states: Any, legal: Any) -> Any:
        return np.zeros(legal.shape, np.float32), np.full(len(legal), -0.9, np.float32)

    found = Search(game, SearchConfig(), 1, 30, 0).run(states, 30, gloomy)
    assert found.decided[0] and found.value[0] == max(
        -solved(other, own | 1 << a) for own, other in boards(states)
        for a in np.flatnonzero(game.legal(states)[0]))


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5", "go7x7(komi=0.5)", "go11x11",
                                  "hex5x5", "hex3x3(swap=True)", "gomoku9x9",
                                  "gomoku9x9(exact=True)", "othello6x6", "othello8x8"])
def test_kernels_for_wins_and_blunders_agree_with_trying_every_move(name: str) -> None:
    game, draw = make(name), np.random.default_rng(1)
    states, seen = game.new(60), np.zeros(2, int)
    if game.komi_planes:
        states.komi[:] = draw.integers(-30, 31, 60)
    for _ in range(game.max_moves):
        legal = game.legal(states)
        rows = np.flatnonzero(legal.any(1))
        if not len(rows):
            break
        some = rows if len(rows) < 6 else rows[::6]
        if game.komi_planes and states.ply[rows[0]] % 5 and states.ply[rows[0]] < (
                game.max_moves - 4):
            some = some[:1]
        part, mask = take(states, some), legal[some]
        plain = wins(game, part, mask), blunders(game, part, mask)
        assert (game.wins(part, mask) == plain[0]).all()
        assert (game.blunders(part, mask) == plain[1]).all()
        seen += [plain[0].sum(), plain[1].sum()]
        weights = legal * draw.random(legal.shape)
        if game.pass_action >= 0:  # often enough to meet one pass, seldom two
            weights[:, -1] *= (draw.random(len(weights)) < 0.5) | ~legal[:, :-1].any(1)
            weights[:, -1] += (draw.random(len(weights)) < 0.02) & legal[:, -1]
        game.step(states, np.where(legal.any(1), weights.argmax(1), -1))
    assert (seen > 5).all()


def test_a_search_sees_that_it_can_be_wiped_out() -> None:
    """Before the eighth ply of the shortest game of Othello: after f5, c5 takes all of white's."""
    game = make("othello8x8")
    states, moves = game.new(1), ["e6", "f4", "e3", "f6", "g5", "d6", "e7", "f5", "c5"]
    for move in moves[:7]:
        game.step(states, np.array([game.text_to_action(states, 0, move)]))
    mistake, punishment = (game.text_to_action(states, 0, move) for move in moves[7:])

    def likes_it(states: Any, legal: Any) -> Any:
        logits = np.zeros(legal.shape, np.float32)
        logits[:, mistake] = 20.0
        return logits, np.zeros(len(legal), np.float32)

    found = Search(game, SearchConfig(), 1, 8, 0).run(states, 8, likes_it)
    assert found.proven[0, mistake] == -1 and found.action[0] != mistake
    game.step(states, np.array([mistake]))
    assert np.flatnonzero(game.wins(states, game.legal(states))[0]).tolist() == [punishment]


def best_result(state: Any) -> int:
    """+1, 0 or -1 for player 0 of a state of OpenSpiel's, by playing all of it out."""
    if state.is_terminal():
        return int(np.sign(state.returns()[0]))
    found = [best_result(state.child(a)) for a in state.legal_actions()]
    return min(found) if state.current_player() else max(found)


@cache
def small_boxes() -> tuple[list[list[int]], np.ndarray]:
    """Moves that lead to positions of 1x2 boxes, and what each next one is worth to who makes it;
    NaN where it is not legal."""
    rng, games, truth = np.random.default_rng(0), [], np.full((60, 7), np.nan)
    for row in range(60):
        state = pyspiel.load_game("dots_and_boxes(num_rows=1,num_cols=2)").new_initial_state()
        for _ in range(1 + row % 6):
            state.apply_action(int(rng.choice(state.legal_actions())))
        games.append(state.history())
        for a in state.legal_actions():
            truth[row, a] = best_result(state.child(a)) * (1 - 2 * state.current_player())
    return games, truth


@pytest.mark.parametrize("config", RULES)
def test_what_is_proven_where_a_side_may_move_again(config: SearchConfig) -> None:
    """Dots and Boxes: every exact value beside OpenSpiel's game played out."""
    game, (games, truth) = make("dotsandboxes(rows=1,columns=2)"), small_boxes()
    states = game.new(60)
    game.replay(states, np.array([moves + [-1] * (6 - len(moves)) for moves in games]))
    found = Search(game, config, 60, 60, 0).run(states, 60, hashed(game))
    known = ~np.isnan(found.proven)
    assert known.sum() > 60 and (found.proven[known] == truth[known]).all()
    best = np.nanmax(truth, axis=1)
    assert found.decided.mean() > 0.5 and (found.value == best)[found.decided].all()


@pytest.mark.parametrize("algorithm", ["gumbel", "puct"])
def test_self_play_learns_what_is_proven(algorithm: Any) -> None:
    """In every position kept where a move wins at once, the policy is on such moves alone; without
    ``rl.proven`` not all of it (gumbel's is nearly there by itself)."""
    game = make("connect4")
    shares = {}  # of the policy on moves that win
    for proven in (True, False):
        config = RLConfig(algorithm=algorithm, sims=24, cheap_sims=8, games=24, full_share=1.0,
                          proven=proven, temperature_plies=40)
        assert search_config(config).proven is proven
        actor, right, total = Actor(game, hashed(game), config, seed=3), 0.0, 0
        parts = [h for h in (actor.wave() for _ in range(500)) if h is not None]
        for harvest in parts:
            planes = np.unpackbits(harvest.columns.obs, axis=1)[:, :126].reshape(-1, 3, 6, 7)
            states = position(game, planes)
            winning = wins(game, states, game.legal(states))
            won = winning.any(1)
            right += float((harvest.columns.policy[won] * winning[won]).sum())
            total += int(won.sum())
        assert total >= 10
        shares[proven] = right / total
    assert shares[True] > 0.999 and (shares[False] < 0.98 or algorithm == "gumbel")


def position(game: Any, planes: Any) -> Any:
    """States with the stones of ``planes`` [n, 3, 6, 7], player 0 to move."""
    states = game.new(len(planes))
    bits = np.uint64(1) << (7 * np.arange(7)[None] + np.arange(6)[:, None]).astype(np.uint64)
    states.boards[:] = (planes[:, :2] * bits).sum((2, 3), dtype=np.uint64)
    return states


def test_players_play_what_is_proven() -> None:
    game = make("connect4")
    evaluate = hashed(game)
    evaluate.game = game
    states = positions(game, 60, 28)
    winning = wins(game, states, game.legal(states))
    player, slots = player_of("net", game, evaluate, 16, 1, 60), np.arange(60)
    player.start(slots, slots)
    action = player.act(states, slots)
    assert winning.any(1).sum() > 8
    assert winning[slots, action][winning.any(1)].all()
