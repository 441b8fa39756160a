"""The line of play that a search expects."""

from __future__ import annotations

import numpy as np

from selfplay.search.tree import Tree


def expected_line(tree: Tree, row: int, node: int, most: int) -> tuple[list[int], list[int]]:
    """(actions, visits of each) from a node of tree ``row`` on: the most visited moves, of equals
    the better for its side to move; at most ``most``."""
    moves, visits = list[int](), list[int]()
    while len(moves) < most and tree.degree[row, node]:
        first = int(tree.first[row, node])
        edges = slice(first, first + int(tree.degree[row, node]))
        sign = 1.0 - 2.0 * float(tree.to_play[row, node])
        n, q = tree.n[row, edges], sign * tree.q[row, edges]
        best = first + int(np.where(n == n.max(), q, -np.inf).argmax())
        moves.append(int(tree.move[row, best]))
        visits.append(int(tree.n[row, best]))
        node = int(tree.child[row, best])
    return moves, visits
