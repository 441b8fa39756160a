"""Self-play rows against a replay of the games they came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harvesting import played
from numpy.typing import NDArray

from selfplay.board.alphazero import Learner, alphazero
from selfplay.board.config import RLConfig, scheduled
from selfplay.board.data import pack
from selfplay.board.selfplay import Actor, Harvest
from selfplay.games import make
from selfplay.games.base import Game, side
from selfplay.models import NetSpec
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Search

SMALL = RLConfig(sims=6, cheap_sims=2, full_share=1.0, games=8, opening=(2, 2),
                 temperature_plies=3, komi_share=0.0, komi_wild=0.0, pass_from=0.0)


def play(game: Game, config: RLConfig, positions: int = 150, seed: int = 3) -> Harvest:
    harvest = played(Actor(game, rollout_evaluate(game, 1), config, seed), positions)
    assert len(harvest.columns.value) >= positions
    return harvest


def games_of(harvest: Harvest) -> list[NDArray[np.int16]]:
    return np.split(harvest.actions, harvest.ends[:-1])


def replayed(game: Game, actions: NDArray[np.int16]) -> tuple[list[dict[str, Any]], Any]:
    """What every position of a game looked like before its move, and the final state."""
    states, seen = game.new(1), []
    for action in actions.tolist():
        assert not game.result(states)[0][0]
        legal = game.legal(states)[0]
        assert legal[action]
        seen.append({"obs": pack(game.observe(states), game.obs_binary)[0], "legal": legal,
                     "side": float(side(states)[0])})
        game.step(states, np.array([action]))
    return seen, states


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5",
                                  "dotsandboxes(rows=1,columns=3)"])  # who closes a box moves again
@pytest.mark.parametrize("algorithm", ["gumbel", "puct"])
def test_rows_are_the_positions_of_the_games(name: str, algorithm: str) -> None:
    game = make(name)
    harvest = play(game, replace(SMALL, algorithm=algorithm), 300)
    columns, row = harvest.columns, 0
    for actions, value in zip(games_of(harvest), harvest.values, strict=True):
        seen, final = replayed(game, actions)
        done, result = game.result(final)
        assert done[0] and result[0] == value
        for position in seen[2:]:  # two plies of every game are its random opening
            np.testing.assert_array_equal(columns.obs[row], position["obs"])
            assert columns.policy[row][~position["legal"]].sum() == 0
            assert columns.policy[row].astype(float).sum() == pytest.approx(1, abs=5e-3)
            assert (columns.policy[row] >= 0).all()
            assert columns.value[row] == value * position["side"]
            assert columns.policy_weight[row] == 1
            if game.has_ownership:
                owner = game.ownership(final)[0] * position["side"]
                np.testing.assert_array_equal(columns.ownership[row], owner)
                assert columns.score[row] == game.score(final)[0] * position["side"]
            assert columns.aux_weight[row] == game.has_ownership
            row += 1
    assert row == len(columns.value) == len(columns.obs)
    assert {-1.0, 1.0} <= set(harvest.values.tolist())


def test_the_same_seed_gives_the_same_games() -> None:
    game = make("tictactoe")
    first, again, other = (play(game, SMALL, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(first.columns, again.columns, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert len(first.actions) != len(other.actions) or (first.actions != other.actions).any()


def test_games_in_flight_go_on_in_the_next_call() -> None:
    game = make("tictactoe")
    evaluate = rollout_evaluate(game, 1)
    parts = Actor(game, evaluate, SMALL, 3)
    harvests = [played(parts, 40) for _ in range(3)]
    whole = played(Actor(game, evaluate, SMALL, 3), sum(len(h.columns.value) for h in harvests))
    np.testing.assert_array_equal(np.concatenate([h.actions for h in harvests]), whole.actions)
    np.testing.assert_array_equal(
        np.concatenate([h.columns.obs for h in harvests]), whole.columns.obs)


def test_openings_vary_within_their_range_and_are_left_out() -> None:
    game = make("tictactoe")
    harvest = play(game, replace(SMALL, opening=(1, 3)), 400)
    games = games_of(harvest)
    left_out = len(harvest.actions) - len(harvest.columns.value)
    assert len(games) < left_out < 3 * len(games)
    assert len({tuple(g[:1]) for g in games}) == 9


def test_an_opening_that_ends_the_game_is_dealt_again() -> None:
    game = make("tictactoe")
    harvest = play(game, replace(SMALL, opening=(0, 20)), 60)
    for actions in games_of(harvest):
        _, final = replayed(game, actions)
        assert game.result(final)[0][0]


def test_only_full_searches_are_learned_from() -> None:
    game = make("tictactoe")
    config = replace(SMALL, full_share=0.3, games=32, opening=(0, 0))
    actor = Actor(game, rollout_evaluate(game, 1), config, 7)
    full: Counter[bytes] = Counter()
    searches: Counter[int] = Counter()
    begin = actor.search.begin

    def spy(rows: Any, states: Any, sims: Any, noise: Any, fresh: bool = True) -> None:
        np.testing.assert_array_equal(noise, sims == config.sims)
        searches.update(np.asarray(sims).tolist())
        full.update(row.tobytes() for row in
                    pack(game.observe(states), game.obs_binary)[sims == config.sims])
        begin(rows, states, sims, noise, fresh=fresh)

    actor.search.begin = spy  # type: ignore[method-assign]
    harvest = played(actor, 1000)
    recorded = Counter(row.tobytes() for row in harvest.columns.obs)
    # the searches begun before the spy came are first moves
    del recorded[pack(game.observe(game.new(1)), True)[0].tobytes()]
    assert recorded and recorded <= full
    assert set(searches) == {config.sims, config.cheap_sims}
    count = sum(searches.values())
    share = searches[config.sims] / count
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / count)
    moves = len(harvest.actions)
    assert len(harvest.columns.value) / moves == pytest.approx(0.3, abs=0.06)


def test_resignation() -> None:
    game = make("go5x5")

    def black_wins(states: Any, legal: NDArray[np.bool_]) -> tuple[Any, Any]:
        return np.zeros(legal.shape, np.float32), (0.9 * side(states)).astype(np.float32)

    config = replace(SMALL, opening=(0, 0), resign=0.5, resign_checked=0.0)
    harvest = played(Actor(game, black_wins, config, 1), 60)
    row, resigned = 0, 0
    for actions, value in zip(games_of(harvest), harvest.values, strict=True):
        assert len(actions) == 2  # white resigns when it first looks, or both have passed
        over = game.result(replayed(game, actions)[1])[0][0]
        assert value == (-1 if over else 1)
        assert harvest.columns.value[row : row + 2].tolist() == [value, -value]
        assert (harvest.columns.aux_weight[row : row + 2] == over).all()
        row, resigned = row + 2, resigned + (not over)
    assert row == len(harvest.columns.value)
    assert resigned > 20

    checked = played(Actor(game, black_wins, replace(config, resign_checked=1.0), 1), 60)
    for actions, value in zip(games_of(checked), checked.values, strict=True):
        _, final = replayed(game, actions)
        done, result = game.result(final)
        assert done[0] and result[0] == value
    assert (checked.columns.aux_weight == 1).all()


def test_room_for_long_games_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    game = make("connect4")
    wide = play(game, SMALL)
    monkeypatch.setattr("selfplay.board.selfplay.FIRST_PLIES", 4)
    grown = play(game, SMALL)
    for a, b in zip((*wide.columns, *wide[1:]), (*grown.columns, *grown[1:]), strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------ targets and budgets

def test_value_targets_mix_the_searches_of_later_positions_with_the_result() -> None:
    """Targets change nothing in play: with 0 they are the searches' own values, of which the sums
    for any other are made here, term by term."""
    game, lam = make("tictactoe"), 0.7
    results, searched, mixed = (play(game, replace(SMALL, value_lambda=value), 200)
                                for value in (1.0, 0.0, lam))
    np.testing.assert_array_equal(results.actions, mixed.actions)
    np.testing.assert_array_equal(results.actions, searched.actions)
    row, certain = 0, 0
    for actions, value in zip(games_of(mixed), mixed.values, strict=True):
        sides = [position["side"] for position in replayed(game, actions)[0][2:]]
        n = len(sides)
        own = searched.columns.value[row : row + n] * sides  # for player 0
        for t in range(n):
            wanted = sum((1 - lam) * lam**k * own[t + k] for k in range(n - t))
            wanted += lam ** (n - t) * value
            assert mixed.columns.value[row + t] == pytest.approx(wanted * sides[t], abs=1e-6)
            assert results.columns.value[row + t] == value * sides[t]
        certain += bool(own[-1] == value)  # the last move won, or filled the board: it is proven
        row += n
    assert row == len(mixed.columns.value)
    assert certain == len(mixed.values)
    assert (np.abs(searched.columns.value) < 1).any()


def test_targets_belong_to_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all positions are learnt from: a target that is the ply."""
    game = make("tictactoe")
    monkeypatch.setattr("selfplay.board.selfplay.lambda_returns",
                        lambda values, result, lam: np.arange(len(values), dtype=float))
    harvest, row = play(game, replace(SMALL, full_share=0.4, value_lambda=0.5), 60), 0
    for actions in games_of(harvest):
        for ply, position in enumerate(replayed(game, actions)[0]):
            if row < len(harvest.columns.value) and np.array_equal(
                    harvest.columns.obs[row], position["obs"]):
                assert harvest.columns.value[row] == ply * position["side"]
                row += 1
    assert row == len(harvest.columns.value)


def test_simulations_grow_by_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RLConfig(sims=32, cheap_sims=8, sims_from=(2, 4), full_share=0.5, games=4,
                      positions=16, reuse=1.0, window_min=64, window_max=64, batch_size=16,
                      iterations=6, dtype="float32", cache_mb=1)
    wanted = [{2}, {4}, {8}, {16, 8}, {32, 8}, {32, 8}]
    assert [{scheduled(config, k).sims, scheduled(config, k).cheap_sims}
            for k in range(1, 7)] == wanted
    off = replace(config, sims_from=(0, 0))
    assert scheduled(off, 1) is off

    asked: list[set[int]] = [set()]
    begin = Search.begin

    def noted(self: Search, rows: Any, states: Any, sims: Any, *rest: Any, **more: Any) -> None:
        asked[-1] |= set(np.asarray(sims).tolist())
        begin(self, rows, states, sims, *rest, **more)

    monkeypatch.setattr(Search, "begin", noted)
    game = make("tictactoe")
    spec = NetSpec("1x8", game.obs_shape, game.num_actions, game.has_ownership)
    for _ in alphazero(Learner(game, spec, config)):
        asked.append(set())
    assert asked[:-1] == wanted
