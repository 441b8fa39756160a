"""The batched search against the plain one, against hand-worked numbers, and against minimax."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_search import Reference
from tiny_games import drawn_from, pile, pile_value

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import Game, put, take
from selfplay.search import random as rng
from selfplay.search import root, select, tree
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search, SearchConfig

PUCT = SearchConfig(rule="puct")
GUMBEL = SearchConfig(rule="gumbel", gumbel_actions=6)


def hashed(game: Game, spread: float = 1.5) -> Any:
    """An evaluate of random logits and values that depend on the observation alone."""

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        assert legal.any(1).all(), "a terminal position was evaluated"
        logits, values = np.empty(legal.shape, np.float32), np.empty(len(legal), np.float32)
        for i, planes in enumerate(game.observe(states)):
            draw = drawn_from(planes)
            logits[i] = spread * draw.normal(size=game.num_actions)
            values[i] = draw.uniform(-1, 1)
        return logits, values

    return evaluate


def flat(states: Any, legal: NDArray[np.bool_]) -> Any:
    """Uniform priors and a value of 0."""
    return np.zeros(legal.shape, np.float32), np.zeros(len(legal), np.float32)


def constant(outputs: Any, states: Any, legal: NDArray[np.bool_]) -> Any:
    """The same answer to everything."""
    return outputs


def positions(game: Game, count: int, deepest: int, seed: int = 0) -> Any:
    """``count`` positions that are not over, after 0 to ``deepest`` random moves."""
    draw = np.random.default_rng(seed)
    states = game.new(count)
    for ply in range(deepest):
        legal = game.legal(states)
        moves = (legal * draw.random(legal.shape)).argmax(1)
        moves[np.arange(count) * deepest // count < ply] = -1
        ahead = take(states, np.arange(count))
        game.step(ahead, moves)
        rows = np.flatnonzero(~game.result(ahead)[0])
        put(states, rows, take(ahead, rows))
    return states


CASES = [("tictactoe", 24, 7, 70), ("connect4", 20, 30, 60), ("go5x5", 6, 14, 50)]
PILES = [("pile", 12, 10, 40), ("pile, quick", 12, 10, 40)]  # who moves next may be the same


def game_of(name: str) -> Any:
    game = pile(16) if name.startswith("pile") else make(name)
    game.quick_wins = game.quick_wins or name == "pile, quick"
    return game


def same_proofs(found: Any, row: int, plain: Reference) -> int:
    """What is exact, in the fast search and in the plain one; how much there is of it."""
    root, exact = plain.root, ~np.isnan(found.proven[row])
    wanted = {a: root.sign * value for a, value in root.values().items()}
    assert {int(a): found.proven[row, a] for a in np.flatnonzero(exact)} == wanted
    assert found.decided[row] == (root.exact is not None)
    assert found.value[row] == pytest.approx(root.sign * root.worth() / root.visits, abs=1e-5)
    return len(wanted)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize(("name", "count", "deepest", "sims"), CASES + PILES)
def test_puct_visits_are_those_of_the_reference(
    name: str, count: int, deepest: int, sims: int, proven: bool
) -> None:
    game, config = game_of(name), replace(PUCT, proven=proven)
    states, evaluate, exact = positions(game, count, deepest), hashed(game), 0
    found = Search(game, config, count, sims, 0).run(states, sims, evaluate)
    for row in range(count):
        plain = Reference(game, config, evaluate, take(states, [row]))
        plain.run_puct(sims)
        assert found.visits[row].tolist() == plain.visits()
        exact += same_proofs(found, row, plain)
        if not proven:
            assert np.allclose(found.policy[row], found.visits[row] / sims)
        policy = plain.policy({a: plain.root.n(a) for a in plain.root.moves}, True)
        assert np.allclose(found.policy[row], [policy.get(a, 0) for a in range(game.num_actions)],
                           atol=1e-5)
        assert found.action[row] == plain.puct_choice()
    assert exact > count // 2 if proven else not exact


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(("name", "count", "deepest", "sims"), CASES + PILES)
def test_gumbel_visits_are_those_of_the_reference(
    name: str, count: int, deepest: int, sims: int, noise: bool, proven: bool
) -> None:
    game, config, exact = game_of(name), replace(GUMBEL, proven=proven), 0
    states, evaluate = positions(game, count, deepest, seed=1), hashed(game)
    search = Search(game, config, count, sims, 0)
    budgets = np.arange(count) * 5 % sims + 1
    found = search.run(states, budgets, evaluate, noise)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = search.tree.root_score - np.log(found.prior)
    assert np.nanmax(np.abs(draws)) > 1.0 if noise else np.nanmax(np.abs(draws)) < 1e-6
    for row in range(count):
        plain = Reference(game, config, evaluate, take(states, [row]))
        winner = plain.run_gumbel(int(budgets[row]), draws[row])
        assert found.visits[row].tolist() == plain.visits()
        assert found.action[row] == winner
        exact += same_proofs(found, row, plain)
        improved = plain.policy(plain.improved(plain.root), False)
        assert np.allclose(found.policy[row], [improved.get(a, 0) for a in range(game.num_actions)],
                           atol=1e-5)
    assert exact > count // 2 if proven else not exact


@pytest.mark.parametrize("proven", [True, False])
def test_a_kept_tree_is_the_subtree_and_goes_on_as_the_reference_does(proven: bool) -> None:
    game, sims, count = make("connect4"), 50, 12
    config = SearchConfig(rule="puct", reuse=True, proven=proven)
    states, evaluate = positions(game, count, 10), hashed(game)
    search, rows = Search(game, config, count, 4 * sims, 0), np.arange(count)
    plain = [Reference(game, config, evaluate, take(states, [row])) for row in rows]
    search.begin(rows, states, sims, False)
    for _ in range(4):
        while search._left.any():
            search.wave(evaluate)
        found = search.result(rows)
        for i, row in enumerate(rows):
            plain[row].run_puct(sims)
            assert found.visits[i].tolist() == plain[row].visits()
            if found.action[i] not in plain[row].root.facts:
                plain[row].advance(int(found.action[i]))
        search.advance(rows, found.action)
        game.step(states, found.action)
        over = game.result(states)[0]
        rows, states = rows[~over], take(states, ~over)
        gone = search.tree.size[rows] == 0
        assert proven or not gone.any()
        for row, state in zip(rows[gone], np.flatnonzero(gone), strict=True):
            assert plain[row].root.done or plain[row].root.facts, "nothing is below"
            plain[row] = Reference(game, config, evaluate, take(states, [state]))
        search.begin(rows, states, sims, False, fresh=False)
        kept = search.result(rows[~gone])
        assert kept.visits.sum() > 0
        for i, row in enumerate(rows[~gone]):
            assert kept.visits[i].tolist() == plain[row].visits()
    assert len(rows) > 3


def test_a_kept_tree_that_leaves_no_room_is_dropped() -> None:
    game, sims = pile(200), 20
    search = Search(game, SearchConfig(reuse=True), 1, sims, 0)
    states = game.new(1)
    one_move = np.array([[30.0, 0.0, 0.0]], np.float32)

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        return np.repeat(one_move, len(legal), 0), np.zeros(len(legal), np.float32)

    sizes = []
    for _ in range(4):
        search.begin([0], states, sims, False, fresh=False)
        while search._left.any():
            search.wave(evaluate)
        sizes.append(int(search.tree.size[0]))
        search.advance([0], [0])
        game.step(states, np.array([0]))
    # 1 + 20 nodes; all but the root are kept; with 20 more they would still fit into 41; 60 do not
    assert sizes == [21, 40, 21, 40]


def test_advance_without_reuse_forget_and_a_move_not_made() -> None:
    game = make("tictactoe")
    search = Search(game, PUCT, 2, 30, 0)
    before = search.run(game.new(2), 30, hashed(game))
    search.advance([0, 1], [int(before.action[0]), -1])
    assert search.result([1]).visits.tolist() == [before.visits[1].tolist()]
    with pytest.raises(ValueError, match=r"rows \[0\]"):
        search.result([0, 1])
    search.forget([1])
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        search.result([1])


@pytest.mark.parametrize("config", [
    PUCT, GUMBEL, SearchConfig(rule="uct"), SearchConfig(rule="puct", reuse=True),
    replace(PUCT, leaves=8), replace(GUMBEL, leaves=5), SearchConfig(rule="uct", leaves=8),
    replace(PUCT, proven=False), replace(GUMBEL, leaves=5, proven=False)])
def test_a_row_is_the_same_alone_and_among_others(config: SearchConfig) -> None:
    """Rows start at different waves with different budgets; noise is on."""
    game = make("connect4")
    states, evaluate = positions(game, 6, 12), hashed(game)
    budgets = np.array([9, 40, 17, 40, 23, 31])
    together = Search(game, config, 6, 40, 7)
    found: dict[int, list[int]] = {}
    decided = set()
    for wave in range(80):
        if wave % 3 == 0 and wave // 3 < 6:
            row = wave // 3
            together.begin([row], take(states, [row]), budgets[row], True)
        for row in together.wave(evaluate).tolist():
            assert row not in found
            found[row] = together.result([row]).visits[0].tolist()
            decided |= {row} if together.result([row]).decided[0] else set()
    assert sorted(found) == list(range(6))
    for row in range(6):
        alone = Search(game, config, 6, 40, 7)
        alone.begin([row], take(states, [row]), budgets[row], True)
        while not len(alone.wave(evaluate)):
            pass
        assert alone.result([row]).visits[0].tolist() == found[row]
        assert sum(found[row]) == budgets[row] or row in decided
    assert len(decided) < 3 and (config.proven or not decided)


def test_seeding_a_row_moves_its_randomness() -> None:
    game, evaluate = make("connect4"), hashed(make("connect4"))
    search = Search(game, PUCT, 4, 60, 0)
    search.seed([0, 1, 2], [5, 5, 6])
    found = search.run(game.new(4), 60, evaluate, noise=True)
    assert found.visits[0].tolist() == found.visits[1].tolist()
    assert found.visits[0].tolist() != found.visits[2].tolist()
    assert found.visits[0].tolist() != found.visits[3].tolist()
    search.seed([3], [5])
    again = search.run(game.new(4), 60, evaluate, noise=True)
    assert again.visits[3].tolist() == found.visits[0].tolist()


def test_a_new_root_costs_a_wave_and_no_simulation() -> None:
    game = make("connect4")
    search, waves, asked = Search(game, PUCT, 3, 12, 0), 0, []

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        asked.append(len(legal))
        return flat(states, legal)

    search.begin([0, 2], game.new(2), [12, 5], False)
    finished: dict[int, int] = {}
    while len(finished) < 2:
        waves += 1
        finished.update((int(row), waves) for row in search.wave(evaluate))
    assert finished == {0: 13, 2: 6}
    assert asked == [2] * 6 + [1] * 7
    assert search.result([0, 2]).visits.sum(1).tolist() == [12, 5]
    assert len(search.wave(evaluate)) == 0
    assert len(asked) == 13


def test_terminal_leaves_are_backed_up_and_never_evaluated() -> None:
    """Two stones: taking both wins at once, taking one lets the other take the last."""
    game, asked = pile(2), []

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        asked.append(states.left.tolist())
        return np.zeros(legal.shape, np.float32), np.full(len(legal), 0.5, np.float32)

    search = Search(game, replace(PUCT, proven=False), 1, 50, 0)
    found = search.run(game.new(1), 50, evaluate)
    assert asked == [[2], [1]], "the root, then one stone left; nothing after that"
    assert found.visits[0, 1] > 40 and found.visits[0, 2] == 0
    assert int(search.tree.size[0]) == 4
    one, two, _ = found.visits[0].tolist()
    # the root +0.5; one left -0.5 when first seen, then a loss each time; both taken a win
    assert found.value[0] == pytest.approx((0.5 - 0.5 - (one - 1) + two) / 51)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("name", ["connect4", "go5x5"])
@pytest.mark.parametrize("leaves", [2, 8, 64])
@pytest.mark.parametrize("rule", ["puct", "gumbel", "uct"])
def test_several_leaves_a_wave_make_sound_trees(
    rule: Any, leaves: int, name: str, proven: bool
) -> None:
    game, count, sims = make(name), 12, 90
    states, evaluate, asked = positions(game, count, 14), hashed(game), []

    def counting(states: Any, legal: NDArray[np.bool_]) -> Any:
        asked.append(len(legal))
        return evaluate(states, legal)

    search = Search(game, SearchConfig(rule=rule, leaves=leaves, proven=proven), count, sims, 0)
    budgets = sims - np.arange(count) * 7
    found = search.run(states, budgets, counting, noise=np.arange(count) % 2 == 1)
    trees = search.tree
    assert (found.visits.sum(1) == budgets)[~found.decided].all() and found.decided.sum() < 4
    assert len(asked) < sims * 0.8, "waves of more than one leaf a tree"
    for row in range(count):
        nodes = np.arange(trees.size[row])
        assert not trees.pending[row, nodes].any()
        below, values = np.zeros(len(nodes), int), trees.raw[row, nodes].astype(float)
        again = trees.visits[row, nodes] * trees.terminal[row, nodes]
        values = np.where(trees.terminal[row, nodes], values * again, values)
        for node in nodes[::-1]:
            if known := int(trees.known[row, node]):
                sign = 1 - 2 * trees.to_play[row, node]
                least = sign * trees.bound[row, node] * trees.visits[row, node]
                values[node] = sign * (
                    least if known == tree.EXACT else max(sign * values[node], least))
            if node == 0:
                break
            parent, edge = trees.parent[row, node], trees.edge[row, node]
            below[parent] += trees.visits[row, node]
            values[parent] += values[node]
            assert trees.child[row, edge] == node
            assert trees.move[row, edge] == trees.action[row, node]
            assert trees.n[row, edge] == trees.visits[row, node]
            assert trees.q[row, edge] == trees.mean[row, node]
        inner = ~trees.terminal[row, nodes]
        below[0] = found.visits[row].sum()  # what the rules say of a root's moves has no node
        assert (trees.visits[row, nodes] == below + 1)[inner].all()
        assert (proven and rule != "uct") or not trees.known[row, nodes].any()
        assert np.allclose(trees.total[row, nodes], values)
        assert np.allclose(trees.mean[row, nodes], values / trees.visits[row, nodes])
        ways = list(zip(trees.parent[row, nodes], trees.action[row, nodes], strict=True))
        assert len(set(ways)) == len(ways), "no leaf has two nodes"


def test_a_walk_to_a_leaf_that_is_waited_for_ends_the_wave() -> None:
    """One move has all of the prior, so that every walk goes the same way."""
    game, asked = pile(40), []

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        asked.append(len(legal))
        return np.array([[50.0, 0.0, 0.0]] * len(legal), np.float32), np.zeros(len(legal))

    search = Search(game, SearchConfig(leaves=8), 1, 20, 0)
    assert search.run(game.new(1), 20, evaluate).visits.tolist() == [[20, 0, 0]]
    assert asked == [1] * 21


@pytest.mark.parametrize("width", [2, 4, 8])
def test_gumbel_halves_as_planned_with_several_leaves(width: int) -> None:
    """A wave ends with its round, so that the next is chosen by what this one has found."""
    game = make("go5x5")
    config = SearchConfig(rule="gumbel", gumbel_actions=width, leaves=16)
    search = Search(game, config, 8, 64, 0)
    found = search.run(positions(game, 8, 10), 64, hashed(game), noise=True)
    plan = np.empty(64, np.int32)
    root.considered_visits(width, plan)
    for row in found.visits:
        visits = np.sort(row[row > 0])
        assert np.bincount(plan).tolist() == [(visits > level).sum() for level in range(max(row))]


@pytest.mark.parametrize("config", [PUCT, GUMBEL, SearchConfig(rule="uct", uct_c=1.0)])
def test_values_have_the_right_sign_where_turns_do_not_alternate(config: SearchConfig) -> None:
    """Both players search the same piles; with enough simulations their values are minimax's."""
    game, stones = pile(12), np.repeat(np.arange(1, 13), 2)
    states = game.new(24)
    states.left[:] = stones
    states.to_play[1::2] = 1
    found = Search(game, config, 24, 1500, 0).run(states, 1500, flat)
    wanted = [pile_value(int(count)) for count in stones]
    if config.rule != "gumbel":  # which gives the losing move of its last two half of the visits
        assert np.sign(found.value).tolist() == wanted
    for value, left in zip(wanted, stones - 1 - found.action, strict=True):
        if value > 0 and left > 0:
            assert pile_value(int(left)) == (1 if left % 5 == 0 else -1)


def test_uct_tries_every_move_in_random_order_and_then_follows_ucb1() -> None:
    game, config = make("connect4"), SearchConfig(rule="uct", uct_c=0.7)
    rows, evaluate = np.arange(40), hashed(game)
    search, first = Search(game, config, 40, 200, 3), []
    search.begin(rows, game.new(40), 200, False)
    for wave in range(201):
        search.wave(evaluate)
        if 1 <= wave <= 7:
            visits = search.result(rows).visits
            assert visits.max() == 1 and (visits.sum(1) == wave).all()
            first += [visits.argmax(1)] if wave == 1 else []
    assert set(first[0].tolist()) == set(range(7))
    # UCB1 as it stood before the last simulation cannot be seen any more, but as all scores are
    # pulled level, each now lies within one visit of the others
    visits = search.result(rows).visits
    q = np.empty(visits.shape)
    root.root_moves(search.tree, rows, visits.copy(), q, np.empty(visits.shape, np.bool_))
    upper = q + config.uct_c * np.sqrt(math.log(201) / visits)
    assert (upper.max(1) - upper.min(1)).mean() < 0.25
    flatter = Search(game, SearchConfig(rule="uct", uct_c=50.0), 1, 210, 3)
    assert np.ptp(flatter.run(game.new(1), 210, evaluate).visits) <= 1


@pytest.mark.parametrize(("m", "n", "wanted"), [
    (4, 16, "0000 1111 22 33 44 55"),  # 2 phases: 2 rounds of 4, then 4 rounds of 2
    (4, 8, "0000 11 22"),
    (2, 5, "00 11 2"),
    (8, 24, "00000000 1111 2222 33 44 55 66"),  # 3 phases of 8 simulations
    (8, 13, "00000000 1111 2"),  # too few: one round a phase
    (8, 2, "00"),
    (7, 24, "0000000 111 222 33 44 55 66 77 8"),  # 7, then 3, then 2 moves
    (1, 6, "012345"),
])
def test_considered_visits(m: int, n: int, wanted: str) -> None:
    out = np.empty(n, np.int32)
    root.considered_visits(m, out)
    assert out.tolist() == [int(digit) for digit in wanted.replace(" ", "")]


def test_mixed_value_by_hand() -> None:
    q, visits, share = np.array([0.5, -0.25]), np.array([3, 1]), np.array([0.2, 0.6])
    # mean by prior: (0.2 * 0.5 - 0.6 * 0.25) / 0.8 = -0.0625; v_mix = (0.1 - 4 * 0.0625) / 5
    assert select.mixed_value(q, visits, share, 0.1, 2) == pytest.approx(-0.03)
    assert select.mixed_value(q, visits, share, 0.1, 0) == 0.1


def test_improved_policy_by_hand() -> None:
    """Three stones, two simulations over two moves: both visited once, the third completed."""
    game = pile(3)

    def evaluate(states: Any, legal: NDArray[np.bool_]) -> Any:
        logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32)).repeat(len(legal), 0)
        return logits, np.array([{3: 0.1, 2: 0.4, 1: 0.8}[left] for left in states.left.tolist()],
                                np.float32)

    config = SearchConfig(rule="gumbel", gumbel_actions=2, c_visit=3.0, c_scale=0.5, proven=False)
    found = Search(game, config, 1, 2, 0).run(game.new(1), 2, evaluate)
    assert found.visits.tolist() == [[1, 1, 0]]
    q0, q1 = -0.4, -0.8
    mixed = (0.1 + 2 * (0.5 * q0 + 0.3 * q1) / 0.8) / 3
    sigma = [(3 + 1) * 0.5 * (q + 1) / 2 for q in (q0, q1, mixed)]
    odds = np.array([0.5, 0.3, 0.2]) * np.exp(sigma)
    assert np.allclose(found.policy[0], odds / odds.sum(), atol=1e-6)
    assert found.action[0] == 0
    assert found.value[0] == pytest.approx((0.1 + q0 + q1) / 3)
    assert np.allclose(found.prior[0], [0.5, 0.3, 0.2])


def test_noise_is_at_the_root_alone_and_sums_to_one() -> None:
    game, evaluate = make("tictactoe"), hashed(make("tictactoe"))
    states = positions(game, 30, 6)
    legal = game.legal(states)
    noisy, quiet = (Search(game, PUCT, 30, 40, 0) for _ in range(2))
    found = noisy.run(states, 40, evaluate, noise=np.arange(30) < 20)
    plain = quiet.run(states, 40, evaluate)
    assert np.allclose(found.prior, plain.prior) and np.allclose(plain.prior.sum(1), 1)
    score = noisy.tree.root_score
    assert np.allclose(score.sum(1), 1) and (score[~legal] == 0).all()
    warm = np.where(legal, plain.prior.astype(float), 0) ** (1 / PUCT.root_temperature)
    warm /= warm.sum(1, keepdims=True)
    noise = (score - 0.75 * warm) / 0.25
    assert np.allclose(noise[:20].sum(1), 1) and (noise[:20] > -1e-6).all()
    assert (np.abs(score - plain.prior)[:20].max(1) > 1e-3).all()
    assert np.allclose(score[20:], plain.prior[20:])
    assert found.visits[20:].tolist() == plain.visits[20:].tolist()
    inner = np.flatnonzero(~noisy.tree.terminal[0, : noisy.tree.size[0]])[1:]
    assert np.allclose(np.abs(noisy.tree.prior[0, inner]).sum(1), 1, atol=1e-5)


def test_dirichlet_and_gumbel_draws_have_the_right_moments() -> None:
    streams, rows = rng.streams(1, np.arange(4000)), np.arange(4000)
    legal = np.tile([True, True, False, True, True], (4000, 1))
    for total in (0.4, 10.83):
        draws = rng.dirichlet(streams, rows, legal, total)
        assert np.allclose(draws.sum(1), 1) and (draws[:, 2] == 0).all()
        assert np.allclose(draws[:, legal[0]].mean(0), 0.25, atol=0.03)
        # variance of a coordinate: p (1 - p) / (total + 1)
        wanted = 0.25 * 0.75 / (total + 1)
        assert np.allclose(draws[:, legal[0]].var(0), wanted, rtol=0.12)
    sample = rng.gumbel(streams, rows, legal)
    assert (sample[:, 2] == 0).all()
    assert sample[:, legal[0]].mean() == pytest.approx(np.euler_gamma, abs=0.04)
    assert sample[:, legal[0]].var() == pytest.approx(math.pi**2 / 6, rel=0.06)


def test_rollouts_of_leaves_are_those_of_the_positions() -> None:
    """``branch`` leaves bytes of other positions behind; nothing may depend on them."""
    game, config = make("go5x5"), SearchConfig(rule="uct")
    states, evaluate = positions(game, 6, 14), rollout_evaluate(game, 3)
    search = Search(game, config, 6, 60, 0)
    first = search.run(states, 60, evaluate).visits
    search.seed(np.arange(6), np.arange(6))
    search.run(positions(game, 6, 20, seed=9), 60, evaluate)
    other = Search(game, config, 6, 60, 0)
    search.tree.rng[:] = other.tree.rng
    assert search.run(states, 60, evaluate).visits.tolist() == first.tolist()


@pytest.mark.parametrize("name", ["connect4", "go5x5", "openspiel:tic_tac_toe"])
def test_rollouts_depend_on_the_position_and_the_seed_alone(name: str) -> None:
    game = make(name)
    states = positions(game, 30, 6)
    legal = game.legal(states)
    logits, values = rollout_evaluate(game, 3)(states, legal)
    assert logits.shape == legal.shape and not logits.any()
    assert values.dtype == np.float32 and set(values.tolist()) <= {-1.0, 0.0, 1.0}
    order = np.arange(30)[::-1][:11]
    again = rollout_evaluate(game, 3)(take(states, order), legal[order])[1]
    assert again.tolist() == values[order].tolist()
    other = np.stack([rollout_evaluate(game, s)(states, legal)[1] for s in range(20)])
    assert (other.std(0) > 0).any()


def test_rollout_values_average_to_random_play() -> None:
    game = make("tictactoe")
    states = game.new(2)
    game.replay(states, np.array([[0, 4, 1], [0, 4, -1]]))  # player 1 to move; player 0 to move

    @cache
    def mean(moves: tuple[int, ...]) -> float:
        """Exact mean result for player 0 of uniformly random play."""
        state = game.new(1)
        game.replay(state, np.array([moves]))
        done, value = game.result(state)
        if done[0]:
            return float(value[0])
        legal = np.flatnonzero(game.legal(state)[0]).tolist()
        return float(np.mean([mean((*moves, a)) for a in legal]))

    draws = [rollout_evaluate(game, seed)(states, game.legal(states))[1] for seed in range(1500)]
    wanted = [-mean((0, 4, 1)), mean((0, 4))]
    assert np.allclose(np.mean(draws, axis=0), wanted, atol=0.08)


@pytest.mark.parametrize("leaves", [1, 4])
def test_a_wave_that_fails_leaves_no_walk_behind(leaves: int) -> None:
    game, config = make("connect4"), replace(PUCT, leaves=leaves)
    evaluate, calls = hashed(game), iter(range(1000))

    def failing(states: Any, legal: NDArray[np.bool_]) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return evaluate(states, legal)

    search, rows = Search(game, config, 2, 40, 0), np.arange(2)
    search.begin(rows, game.new(2), 40, False)
    with pytest.raises(KeyboardInterrupt):
        while True:
            search.wave(failing)
    while search._left.any():
        search.wave(failing)
    plain = Search(game, config, 2, 40, 0).run(game.new(2), 40, evaluate)
    assert search.result(rows).visits.tolist() == plain.visits.tolist()


def test_mistakes_are_named() -> None:
    game = make("tictactoe")
    search = Search(game, PUCT, 2, 10, 0)
    with pytest.raises(UserError, match="puct, gumbel, uct"):
        SearchConfig(rule="ucb")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leaves=0"):
        SearchConfig(leaves=0)
    with pytest.raises(UserError, match="reuse=False"):
        SearchConfig(rule="gumbel", reuse=True)
    for sims in (0, 11):
        with pytest.raises(ValueError, match="max_sims=10"):
            search.begin([0], game.new(1), sims, False)
    over = game.new(2)
    game.replay(over, np.array([[0, 3, 1, 4, 2], [0, 3, 1, 4, -1]]))
    with pytest.raises(ValueError, match=r"over in rows \[0\]"):
        search.begin([0, 1], over, 5, False)
    for broken in (0, 1):
        outputs = np.zeros((2, 9), np.float32), np.zeros(2, np.float32)
        outputs[broken][1] = np.nan
        with pytest.raises(FloatingPointError, match="diverged"):
            search.run(game.new(2), 5, partial(constant, outputs))
    begun, logits = game.new(2), np.zeros((2, 9), np.float32)
    game.step(begun, np.zeros(2, np.int64))  # the first column of the priors is 0 whatever is
    logits[1, 4] = np.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        search.run(begun, 5, partial(constant, (logits, np.zeros(2, np.float32))))


# Tic-tac-toe, all of it.


@cache
def solved(own: int, other: int) -> int:
    """Minimax for the side to move, from two 9-bit boards; the other side moved last."""
    lines = (0o007, 0o070, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124)
    if any(other & line == line for line in lines):
        return -1
    free = [a for a in range(9) if not (own | other) >> a & 1]
    return max((-solved(other, own | 1 << a) for a in free), default=0)


def boards(states: Any) -> list[tuple[int, int]]:
    """(own, other) of each row, read off the observation."""
    planes = make("tictactoe").observe(states).reshape(-1, 3, 9)
    weights = 1 << np.arange(9)
    return [(int((own * weights).sum()), int((other * weights).sum())) for own, other, _ in planes]


def all_positions() -> Any:
    """Every reachable position that is not over, once."""
    game = make("tictactoe")
    layer, layers = game.new(1), []
    while len(layer.ply):
        layers.append(layer)
        rows, moves = np.nonzero(game.legal(layer))
        following = take(layer, rows)
        game.step(following, moves)
        following = take(following, ~game.result(following)[0])
        unique = {board: row for row, board in enumerate(boards(following))}
        layer = take(following, np.array(list(unique.values()), np.int64))
    return type(layers[0])(*(np.concatenate(fields) for fields in zip(*layers, strict=True)))


#: config, simulations in the first four plies and later, evaluate
SOLVERS = [
    (SearchConfig(rule="puct"), 1600, 400, lambda game: flat),
    # halving spends most of its simulations on moves that it will not play
    (SearchConfig(rule="gumbel", gumbel_actions=9), 6400, 400, lambda game: flat),
    # UCB1's own sqrt(2): the default trades certainty in the tree for depth
    (SearchConfig(rule="uct", uct_c=1.4), 1600, 400, lambda game: rollout_evaluate(game, 0)),
]
SOLVERS += [(replace(config, leaves=8), *rest) for config, *rest in SOLVERS]
NAMES = ["puct", "gumbel", "uct", "puct, 8 leaves", "gumbel, 8 leaves", "uct, 8 leaves"]
SOLVER = ("config", "early", "late", "evaluator")


@pytest.mark.parametrize(SOLVER, SOLVERS, ids=NAMES)
def test_search_keeps_every_forced_win_of_tictactoe(
    config: SearchConfig, early: int, late: int, evaluator: Any
) -> None:
    game = make("tictactoe")
    states = all_positions()
    assert len(states.ply) == 4520
    won = np.array([solved(*board) == 1 for board in boards(states)])
    assert won.sum() == 2836
    for chosen, sims in ((won & (states.ply < 4), early), (won & (states.ply >= 4), late)):
        some = take(states, chosen)
        search = Search(game, config, len(some.ply), sims, 0)
        action = search.run(some, sims, evaluator(game)).action.tolist()
        lost = [(game.render(some, row), game.action_to_text(some, row, action[row]))
                for row, (own, other) in enumerate(boards(some))
                if -solved(other, own | 1 << action[row]) != 1]
        assert not lost, "\n".join(f"{board}\nplayed {move}" for board, move in lost[:3])


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(SOLVER, SOLVERS, ids=NAMES)
def test_search_never_loses_tictactoe(
    config: SearchConfig, early: int, late: int, evaluator: Any, side: int
) -> None:
    """Against every line of play of the opponent's."""
    game, evaluate = make("tictactoe"), evaluator(make("tictactoe"))
    states, games = game.new(1), 0
    while len(states.ply):
        if states.ply[0] % 2 == side:
            sims = early if states.ply[0] < 4 else late
            search = Search(game, config, len(states.ply), sims, 0)
            game.step(states, search.run(states, sims, evaluate).action)
        else:
            rows, moves = np.nonzero(game.legal(states))
            states = take(states, rows)
            game.step(states, moves)
        done, value = game.result(states)
        assert (value[done] * (1 - 2 * side) >= 0).all()
        games += int(done.sum())
        states = take(states, ~done)
    assert games > 20
