"""Tree search written slowly and plainly, one game at a time, to hold the fast one against.

From the papers alone: Silver et al. 2017 (PUCT), KataGo's first-play urgency, Danihelka et al.
2022 (Gumbel AlphaZero). Values are kept for player 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from selfplay.games.base import Game, take
from selfplay.search.search import Evaluate, SearchConfig


class Node:
    """A position; ``moves`` maps legal actions to priors, ``children`` visited actions to nodes."""

    def __init__(self, game: Game, state: Any, evaluate: Evaluate) -> None:
        self.state, self.children, self.moves = state, {}, {}
        self.player = int(state.to_play[0])
        self.visits, self.total = 0, 0.0
        done, outcome = game.result(state)
        self.done = bool(done[0])
        if self.done:
            self.own = float(outcome[0])
            return
        legal = game.legal(state)
        logits, value = evaluate(state, legal)
        self.own = float(value[0]) * self.sign
        powers = {int(a): math.exp(logits[0, a]) for a in np.flatnonzero(legal[0])}
        self.moves = {a: power / sum(powers.values()) for a, power in powers.items()}

    @property
    def sign(self) -> int:
        return 1 if self.player == 0 else -1

    def q(self, action: int) -> float:
        """Mean value of a visited move for the player who makes it."""
        child = self.children[action]
        return self.sign * child.total / child.visits

    def n(self, action: int) -> int:
        return self.children[action].visits if action in self.children else 0


class Reference:
    """One tree over ``game`` with ``root`` (state of batch 1) at its top."""

    def __init__(self, game: Game, config: SearchConfig, evaluate: Evaluate, root: Any) -> None:
        self.game, self.config, self.evaluate = game, config, evaluate
        self.root = self.expand(root)
        self.back_up([self.root])

    def expand(self, state: Any) -> Node:
        return Node(self.game, state, self.evaluate)

    def back_up(self, path: list[Node]) -> None:
        for node in path:
            node.visits += 1
            node.total += path[-1].own

    def simulate(self, first: int) -> None:
        """One simulation that starts with the root's move ``first``."""
        path, action = [self.root], first
        while True:
            node = path[-1]
            if action not in node.children:
                state = take(node.state, [0])
                self.game.step(state, np.array([action]))
                node.children[action] = self.expand(state)
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
        return best({a: improved[a] - node.n(a) / (1 + seen) for a in node.moves})

    def puct(self, node: Node, reduction: float) -> int:
        mass = sum(p for a, p in node.moves.items() if a in node.children)
        unvisited = node.sign * node.total / node.visits - reduction * math.sqrt(mass)
        score = {}
        for a, p in node.moves.items():
            q = node.q(a) if a in node.children else unvisited
            score[a] = q + self.config.c_puct * p * math.sqrt(node.visits) / (1 + node.n(a))
        return best(score)

    def run_puct(self, sims: int) -> None:
        for _ in range(sims):
            self.simulate(self.puct(self.root, self.config.root_fpu_reduction))

    def sigma(self, node: Node) -> dict[int, float]:
        """sigma(completed Q) of every move; equation 33 for the value of unvisited ones."""
        seen = {a: node.n(a) for a in node.moves if a in node.children}
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

        def score(a: int) -> float:
            return draws[a] + math.log(self.root.moves[a]) + self.sigma(self.root)[a]

        pool = list(self.root.moves)
        width = min(self.config.gumbel_actions, len(pool))
        phases, left = math.ceil(math.log2(width)), sims
        while left:
            rounds = left if width == 1 else max(1, sims // (phases * width))
            for _ in range(rounds):
                chosen: list[int] = []
                while len(chosen) < width and left:
                    action = best({a: score(a) for a in pool if a not in chosen})
                    self.simulate(action)
                    chosen.append(action)
                    left -= 1
                pool = chosen if left else pool
            width = max(2, width // 2)
        most = max(self.root.n(a) for a in self.root.moves)
        return best({a: score(a) for a in self.root.moves if self.root.n(a) == most})

    def advance(self, action: int) -> None:
        self.root = self.root.children[action]

    def visits(self) -> list[int]:
        return [self.root.n(a) for a in range(self.game.num_actions)]


def best(score: dict[int, float]) -> int:
    """The key of the highest value, the lowest key among equals."""
    return min(score, key=lambda a: (-score[a], a))
