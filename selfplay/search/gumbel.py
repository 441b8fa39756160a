"""The plan of Gumbel AlphaZero's searches (Danihelka et al. 2022, "Policy improvement by planning
with Gumbel"): at the root, the m moves with the highest Gumbel draw + logit share the simulations
by sequential halving. The walks that keep to it are in ``select``.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def considered_visits(m, out):
    """Fill ``out`` int32 [n]: simulation t goes to a move that has had ``out[t]`` visits so far.

    Sequential halving (the paper's algorithm 1) of n simulations over m moves: log2(m) phases of
    about equal length, half of the moves in each after the first, at least two in the last.
    """
    n = out.shape[0]
    phases = 0
    while (1 << phases) < m:
        phases += 1
    t, level, width = 0, 0, max(1, m)
    while t < n:
        rounds = n if m <= 1 else max(1, n // (phases * width))
        for _ in range(rounds):
            for _ in range(width):
                if t < n:
                    out[t] = level
                    t += 1
            level += 1
        width = max(2, width // 2)


@njit(cache=True, nogil=True)
def plan(tree, rows, m, sims, schedule):
    """Fill the rows of schedule int32 [B, S] for searches of ``sims`` int32 [n] simulations.

    rows: int64 [n], with evaluated roots; m: moves to consider, or all if fewer are legal.
    """
    for i in range(rows.shape[0]):
        count = 0
        for a in range(tree.prior.shape[2]):
            count += tree.prior[rows[i], 0, a] != 0
        considered_visits(min(m, count), schedule[rows[i], : sims[i]])
