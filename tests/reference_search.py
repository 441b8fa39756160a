"""Tree search written slowly and plainly, one game at a time, to hold the fast one against.

From the papers alone: Silver et al. 2017 (PUCT), KataGo's first-play urgency, Danihelka et al.
2022 (Gumbel AlphaZero), Winands et al. 2008 (MCTS-Solver). Values are kept for player 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from selfplay.games.base import Game, take
from selfplay.search.search import Evaluate, SearchConfig

Scores = Callable[[Iterable[int]], dict[int, float]]


def after(game: Game, state: Any, action: int) -> Any:
    """The state after a move."""
    state = take(state, [0])
    game.step(state, np.array([action]))
    return state


def ends(game: Game, state: Any, sign: int) -> list[int]:
    """The moves after which the game is over with a value of ``sign`` for player 0."""
    return [int(a) for a in np.flatnonzero(game.legal(state)[0])
            if game.result(after(game, state, a))[1][0] == sign]


class Node:
    """A position; ``moves`` maps legal actions to priors, ``children`` visited actions to nodes.

    exact: its value where it is known, else None. facts: what the rules say of moves without a
    node, at the root. With ``look`` a position with a win at once is over, the root excepted.
    """

    def __init__(self, game: Game, state: Any, evaluate: Evaluate, proven: bool = False,
                 look: bool = False) -> None:
        self.state, self.children, self.moves, self.facts = state, {}, {}, {}
        self.player = int(state.to_play[0])
        self.visits, self.total, self.extra, self.proven = 0, 0.0, 0, proven
        self.exact: float | None = None
        done, outcome = game.result(state)
        self.done = bool(done[0])
        self.own = float(outcome[0])
        if look and not self.done and ends(game, state, self.sign):
            self.done, self.own = True, float(self.sign)
        if self.done:
            self.exact = self.own if proven else None
            return
        legal = game.legal(state)
        logits, value = evaluate(state, legal)
        self.own = float(value[0]) * self.sign
        powers = {int(a): math.exp(logits[0, a]) for a in np.flatnonzero(legal[0])}
        whole = sum(powers.values())
        self.moves = {a: power / whole for a, power in powers.items()}

    @property
    def sign(self) -> int:
        return 1 if self.player == 0 else -1

    def q(self, action: int) -> float:
        """Mean value of a visited move for the player who makes it."""
        if action in self.facts:
            return self.sign * self.facts[action]
        child = self.children[action]
        return self.sign * child.worth() / child.visits

    def n(self, action: int) -> int:
        if action in self.facts:
            return self.extra
        return self.children[action].visits if action in self.children else 0

    def worth(self) -> float:
        """Visits times value: the sum of what was seen, but no worse for who is to move than the
        best move that is known exactly."""
        if not self.proven:
            return self.total
        if self.exact is not None:
            return self.exact * self.visits
        seen = self.own + sum(child.worth() for child in self.children.values())
        least = max((self.sign * value for value in self.values().values()), default=-1.0)
        return self.sign * max(self.sign * seen, least * self.visits)

    def values(self) -> dict[int, float]:
        """Of the moves whose value is known exactly."""
        known = {a: child.exact for a, child in self.children.items() if child.exact is not None}
        return {**known, **self.facts}

    def solve(self) -> None:
        """Set ``exact`` if a move wins, or all are known."""
        known = self.values()
        if not self.done and self.proven and (
                self.sign in known.values() or len(known) == len(self.moves)):
            self.exact = self.sign * max(self.sign * value for value in known.values())

    def known_moves(self) -> list[int]:
        """Moves with a node or a fact."""
        return [a for a in self.moves if a in self.children or a in self.facts]

    def open_moves(self) -> list[int]:
        """Moves whose value is not known."""
        known = self.values()
        return [a for a in self.moves if a not in known]


class Reference:
    """One tree over ``game`` with ``root`` (state of batch 1) at its top."""

    def __init__(self, game: Game, config: SearchConfig, evaluate: Evaluate, root: Any) -> None:
        self.game, self.config, self.evaluate = game, config, evaluate
        self.root = Node(game, root, evaluate, config.proven)
        self.back_up([self.root])
        self.look_around()

    def expand(self, state: Any) -> Node:
        return Node(self.game, state, self.evaluate, self.config.proven,
                    self.config.proven and self.game.quick_wins)

    def look_around(self) -> None:
        """What the rules say of the root's moves: which win; or else which lose, at once or by a
        win of the opponent's at once."""
        if not self.config.proven:
            return
        game, node = self.game, self.root
        found = {a: float(node.sign) for a in ends(game, node.state, node.sign)}
        if not found and game.quick_wins:
            for a in node.moves:
                following = after(game, node.state, a)
                turned = int(following.to_play[0]) != node.player
                if game.result(following)[1][0] == -node.sign or (
                        turned and ends(game, following, -node.sign)):
                    found[a] = float(-node.sign)
        node.facts = {a: value for a, value in found.items() if a not in node.children}
        was = node.exact
        node.solve()
        if node.exact is not None and was is None:
            node.extra = 1
            node.visits += len(node.facts)

    def back_up(self, path: list[Node]) -> None:
        for node in path:
            node.visits += 1
            node.total += path[-1].own
        for node in reversed(path):
            node.solve()

    def simulate(self, first: int) -> None:
        """One simulation that starts with the root's move ``first``."""
        path, action = [self.root], first
        while True:
            node = path[-1]
            if action not in node.children:
                node.children[action] = self.expand(after(self.game, node.state, action))
                path.append(node.children[action])
                break
            path.append(node.children[action])
            if path[-1].done:
                break
            action = self.below(path[-1])
        self.back_up(path)

    def below(self, node: Node) -> int:
        """The move from a node that is not the root."""
        if self.config.rule == "puct":
            return self.puct(node, self.config.fpu_reduction)
        improved, seen = self.improved(node), sum(node.n(a) for a in node.moves)
        return best({a: improved[a] - node.n(a) / (1 + seen) for a in node.open_moves()})

    def puct(self, node: Node, reduction: float) -> int:
        mass = sum(node.moves[a] for a in node.known_moves())
        unvisited = node.sign * node.worth() / node.visits - reduction * math.sqrt(mass)
        score = {}
        for a in node.open_moves():
            q = node.q(a) if a in node.children else unvisited
            score[a] = q + self.config.c_puct * node.moves[a] * math.sqrt(node.visits) / (
                1 + node.n(a))
        return best(score)

    def run_puct(self, sims: int) -> None:
        for _ in range(sims):
            if self.root.exact is None:
                self.simulate(self.puct(self.root, self.config.root_fpu_reduction))

    def sigma(self, node: Node) -> dict[int, float]:
        """sigma(completed Q) of every move; equation 33 for the value of unvisited ones."""
        seen = {a: node.n(a) for a in node.known_moves()}
        mixed = node.sign * node.own
        if seen:
            mass = sum(node.moves[a] for a in seen)
            mean = sum(node.moves[a] * node.q(a) for a in seen) / mass
            mixed = (mixed + sum(seen.values()) * mean) / (1 + sum(seen.values()))
        scale = (self.config.c_visit + max(seen.values(), default=0)) * self.config.c_scale
        return {a: scale * ((node.q(a) if a in seen else mixed) + 1) / 2 for a in node.moves}

    def improved(self, node: Node) -> dict[int, float]:
        """softmax(logits + sigma(completed Q))."""
        logits = {a: math.log(node.moves[a]) + s for a, s in self.sigma(node).items()}
        top = max(logits.values())
        mass = sum(math.exp(x - top) for x in logits.values())
        return {a: math.exp(x - top) / mass for a, x in logits.items()}

    def run_gumbel(self, sims: int, draws: np.ndarray) -> int:
        """Sequential halving over the moves of the highest draw + logit; the winner."""

        def scores(among: Iterable[int]) -> dict[int, float]:
            sigma = self.sigma(self.root)
            return {a: draws[a] + math.log(self.root.moves[a]) + sigma[a] for a in among}

        pool = self.root.open_moves()
        width = min(self.config.gumbel_actions, len(pool))
        if self.config.proven:
            self.run_levels(levels(sims, width), scores)
            return self.choice(scores)
        phases, left = math.ceil(math.log2(width)), sims
        while left:
            rounds = left if width == 1 else max(1, sims // (phases * width))
            for _ in range(rounds):
                chosen: list[int] = []
                while len(chosen) < width and left:
                    action = best(scores(a for a in pool if a not in chosen))
                    self.simulate(action)
                    chosen.append(action)
                    left -= 1
                pool = chosen if left else pool
            width = max(2, width // 2)
        most = max(self.root.n(a) for a in self.root.moves)
        return best(scores(a for a in self.root.moves if self.root.n(a) == most))

    def run_levels(self, wanted: list[int], scores: Scores) -> None:
        """Each simulation to the best of the open moves with so many visits; if there is none,
        of those with the next fewer; if there is none, of those with the next more."""
        for level in wanted:
            if self.root.exact is not None:
                break
            counts = {a: self.root.n(a) for a in self.root.open_moves()}
            fewer = [n for n in counts.values() if n <= level]
            count = max(fewer) if fewer else min(counts.values())
            self.simulate(best(scores(a for a, n in counts.items() if n == count)))

    def choice(self, scores: Scores) -> int:
        """If the root is decided, the most visited of the moves with its value; else the best by
        ``scores`` of the most visited open ones and those that are known and do not lose."""
        root, known = self.root, self.root.values()
        if root.exact is not None:
            return best({a: root.n(a) + root.moves[a] for a in self.keeping()})
        open_moves = root.open_moves()
        most = max(root.n(a) for a in open_moves)
        good = [a for a, value in known.items() if value != -root.sign]
        good += [a for a in open_moves if most and root.n(a) == most]
        return best(scores(good or open_moves))

    def keeping(self) -> list[int]:
        """The visited moves that keep a decided root's value."""
        return [a for a, value in self.root.values().items()
                if value == self.root.exact and self.root.n(a)]

    def puct_choice(self) -> int:
        root = self.root
        seen = any(root.n(a) for a in root.open_moves()) or any(
            value != -root.sign for value in root.values().values())
        worth: Any = root.q if seen else root.moves.get
        return self.choice(lambda among: {a: worth(a) for a in among})

    def policy(self, shares: dict[int, float], by_visits: bool) -> dict[int, float]:
        """The policy made of ``shares`` and of what is proven."""
        root, known = self.root, self.root.values()
        if root.exact is not None:
            shares = {a: root.moves[a] for a in self.keeping()}
        else:
            lost = [a for a, value in known.items() if value == -root.sign]
            shares = {a: 0.0 if a in lost else share for a, share in shares.items()}
            top = max((root.sign * value for value in known.values()), default=-1)
            if by_visits and top > -1:
                heirs = {a: root.moves[a] for a, value in known.items() if value * root.sign == top}
                below = [a for a in root.known_moves() if root.q(a) <= top]
                given = sum(shares[a] for a in below)
                shares |= dict.fromkeys(below, 0.0) | {
                    a: given * p / sum(heirs.values()) for a, p in heirs.items()}
            if not sum(shares.values()):
                shares = {a: root.moves[a] for a in root.open_moves()}
        return {a: share / sum(shares.values()) for a, share in shares.items()}

    def advance(self, action: int) -> None:
        self.root = self.root.children[action]
        if self.config.proven:
            self.look_around()

    def visits(self) -> list[int]:
        return [self.root.n(a) for a in range(self.game.num_actions)]


def levels(sims: int, width: int) -> list[int]:
    """How many visits the move of each simulation has had, by sequential halving."""
    found: list[int] = []
    phases, level = math.ceil(math.log2(width)) if width > 1 else 0, 0
    while len(found) < sims:
        rounds = sims if width <= 1 else max(1, sims // (phases * width))
        for _ in range(rounds):
            found += [level] * max(width, 1)
            level += 1
        width = max(2, width // 2)
    return found[:sims]


def best(score: dict[int, float]) -> int:
    """The key of the highest value, the lowest key among equals."""
    return min(score, key=lambda a: (-score[a], a))
