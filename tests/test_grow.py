"""Searches that grow in slices: the tree is that of one long search, is read as it is, follows the
game, and stays within its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_trees import evaluator
from reference_search import Reference
from tiny_games import pile

from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import take
from selfplay.search.grow import Growing, View, view
from selfplay.search.search import Search, SearchConfig


def grown(name: str, slices: list[int], **more: Any) -> Growing:
    game = make(name)
    growing = Growing(game, evaluator(game), **more)
    for sims in slices:
        assert growing.grow(sims) == sims
    return growing


@pytest.mark.parametrize("name", ["connect4", "go5x5"])
def test_slices_make_the_tree_of_one_search(name: str) -> None:
    game = make(name)
    whole = Search(game, SearchConfig(), 1, 700, 0)
    found = whole.run(game.new(1), 700, evaluator(game))
    growing = grown(name, [1, 16, 16, 3, 300, 364])
    for field in ("parent", "action", "visits", "total", "edge"):
        now, once = (getattr(s.tree, field)[0, : s.tree.size[0]] for s in (growing.search, whole))
        assert now.tolist() == once.tolist()
    seen = growing.view()
    assert seen.visits == 701 and seen.value == pytest.approx(found.value[0], abs=1e-6)
    assert {m.action: m.visits for m in seen.moves} == dict(
        enumerate(found.visits[0].tolist()))
    assert np.allclose([m.prior for m in sorted(seen.moves, key=lambda m: m.action)],
                       found.prior[0])
    assert seen.moves[0].action == found.action[0]


def test_the_view_is_that_of_the_reference_at_every_node() -> None:
    game = make("connect4")
    growing = grown("connect4", [16] * 10)
    plain = Reference(game, SearchConfig(), evaluator(game), game.new(1))
    plain.run_puct(160)

    def same(seen: View, node: Any) -> None:
        assert (seen.to_play, seen.visits) == (node.player, node.visits)
        assert seen.value == pytest.approx(node.sign * node.worth() / node.visits)
        assert seen.proven == (None if node.exact is None else node.sign * node.exact)
        assert {m.action: m.visits for m in seen.moves} == {a: node.n(a) for a in node.moves}
        assert {m.action: m.proven for m in seen.moves if m.proven is not None} == {
            a: node.sign * value for a, value in node.values().items()}
        for move in seen.moves:
            assert move.prior == pytest.approx(node.moves[move.action], abs=1e-6)
            if move.visits:
                assert move.value == pytest.approx(node.q(move.action))
        order = [(m.proven == -1, -m.visits, -m.value) for m in seen.moves[1:]]
        assert order == sorted(order)

    def below(path: tuple[int, ...], node: Any) -> int:
        same(growing.view(path), node)
        return 1 + sum(below((*path, a), child) for a, child in node.children.items())

    assert below((), plain.root) == 161
    line, node = growing.view().variation, plain.root
    assert len(line) > 2
    for action in line:
        assert node.n(action) == max(node.n(a) for a in node.open_moves())
        node = node.children[action]
    assert not any(node.n(a) for a in node.moves)


def test_proofs_are_seen_and_end_the_search() -> None:
    game = make("connect4")
    growing = Growing(game, evaluator(game))
    for text in "4455":  # first has 4 5, open at both sides: 3 or 6 threatens twice
        growing.play(int(text) - 1)
    assert growing.grow(400) < 400 and growing.grow(16) == 0
    seen = growing.view()
    assert seen.proven == seen.value == 1 and seen.moves[0].proven == 1
    assert seen.moves[0].action in (2, 5)
    growing.play(seen.moves[0].action)
    assert growing.grow(16) == 0 and growing.view().proven == -1
    assert {m.proven for m in growing.view().moves} == {-1}
    growing.play(0)  # now there is a win at once
    growing.grow(16)
    won = growing.view()
    assert won.proven == 1 and len(won.variation) == 1
    growing.play(won.variation[0])
    assert growing.over


def test_a_game_is_followed_and_its_subtree_kept() -> None:
    game = make("connect4")
    growing = grown("connect4", [200])
    best, second = growing.view().moves[0], growing.view().moves[1]
    below = growing.view([best.action])
    growing.play(best.action)
    assert growing.view() == below and growing.view().visits == best.visits
    assert growing.states.ply[0] == 1
    assert growing.grow(16) == 16 and growing.view().visits == best.visits + 16
    rare = growing.view().moves[-1].action
    growing.play(rare)
    while growing.view().visits:
        growing.play(growing.view().moves[-1].action)
    assert growing.view().moves == () and growing.view().variation == ()
    growing.restart(game.new(1))
    assert growing.view().visits == 0 and growing.grow(40) == 40
    assert {m.action for m in growing.view().moves} >= {best.action, second.action}


def test_the_end_of_a_game() -> None:
    game = make("tictactoe")
    growing = Growing(game, evaluator(game))
    for action in (0, 3, 1, 4, 2):
        assert not growing.over
        growing.play(action)
    assert growing.over and growing.grow(16) == 0
    assert growing.view() == View(int(growing.states.to_play[0]), 0, growing.view().value, (), ())
    assert growing.view().value == (1 if growing.states.to_play[0] == 0 else -1)
    with pytest.raises(ValueError, match="not legal"):
        growing.play(5)


def test_the_tree_takes_memory_as_it_grows_and_stops_when_full() -> None:
    game = pile(400)
    growing = Growing(game, lambda s, legal: (np.zeros(legal.shape, np.float32),
                                              np.zeros(len(legal), np.float32)), most=1500)
    first = growing.search.capacity
    assert growing.grow(10_000) == 1499
    assert first < growing.search.capacity == 1500 == growing.search.tree.size[0]
    assert growing.grow(16) == 0
    growing.play(growing.view().moves[0].action)
    assert growing.grow(16) == 16


def test_several_leaves_and_mistakes() -> None:
    growing = grown("connect4", [64, 64], config=SearchConfig(leaves=8))
    assert growing.view().visits == 129
    with pytest.raises(UserError, match="sequential halving"):
        Growing(make("tictactoe"), evaluator(make("tictactoe")),
                config=SearchConfig(rule="gumbel"))
    with pytest.raises(ValueError, match="one position"):
        growing.restart(make("connect4").new(2))
    with pytest.raises(ValueError, match="does not know"):
        growing.view([3] * 40)
    before = growing.view()
    for wrong in (-1, 7):
        with pytest.raises(ValueError, match="not legal"):
            growing.play(wrong)
    assert growing.view() == before
    search = Search(make("tictactoe"), SearchConfig(), 2, 10, 0)
    with pytest.raises(ValueError, match="row 1"):
        view(search, 1)
    states = make("tictactoe").new(2)
    search.run(take(states, [0, 1]), 10, evaluator(make("tictactoe")))
    assert view(search, 1).visits == 11
