"""The line of play that a search expects."""

from __future__ import annotations

from selfplay.search.tree import Tree


def expected_line(tree: Tree, row: int, node: int, most: int) -> tuple[list[int], list[int]]:
    """(actions, visits of each) from a node of tree ``row`` on: the most visited moves, of equals
    the better for its side to move; at most ``most``."""
    moves, visits = list[int](), list[int]()
    first, degree, side = tree.first[row], tree.degree[row], tree.to_play[row]
    move, child, n, q = tree.move[row], tree.child[row], tree.n[row], tree.q[row]
    while len(moves) < most and degree[node]:
        begin = int(first[node])
        edges, sign = slice(begin, begin + int(degree[node])), 1.0 - 2.0 * float(side[node])
        # plain numbers: of so few, numpy's calls would take most of the time
        many, means = n[edges].tolist(), q[edges].tolist()
        best = max(range(len(many)), key=lambda e: (many[e], sign * means[e]))
        moves.append(int(move[begin + best]))
        visits.append(many[best])
        node = int(child[begin + best])
    return moves, visits
