"""What a cluster does: figures of a history's row, and a table on the screen."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from selfplay.common.console import say

if TYPE_CHECKING:
    from selfplay.cluster.farm import Farm

SAID_EVERY = 60.0  #: seconds between two tables


class ClusterTable:
    """Figures of ``farm`` between two calls of ``row``."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.since = time.monotonic()
        self.before: dict[str, Counter[str]] = {}
        self.moved = 0
        self.said = -SAID_EVERY

    def row(self, staleness: float, asked: int) -> dict[str, Any]:
        """The figures since the last call, for a row of the history; said as a table now and then.

        actors: alive; staleness: iterations, on average; moved_mb: weights to nodes and games back;
        restarts: in all; wait_seconds: of the learner; asked: shards; nodes: by their names, games
        and evaluations a second.
        """
        farm, now = self.farm, time.monotonic()
        seconds = max(now - self.since, 1e-9)
        nodes: dict[str, dict[str, float]] = {}
        for node in farm.nodes.values():
            done = node.done - self.before.get(node.name, Counter())
            if done or (node.alive and node.places and not node.refused):
                nodes[node.name] = {"games_per_second": done["games"] / seconds,
                                    "evaluations_per_second": done["evaluations"] / seconds}
            self.before[node.name] = node.done.copy()
        found = {"actors": farm.alive, "shards": asked, "staleness": staleness,
                 "moved_mb": (farm.moved - self.moved) / 2**20, "restarts": farm.restarts,
                 "wait_seconds": farm.wait_seconds, "nodes": nodes}
        self.since, self.moved, farm.wait_seconds = now, farm.moved, 0.0
        if now - self.said >= SAID_EVERY:
            self.said = now
            say(table_text(found))
        return found

    def words(self) -> str:
        """For the bar."""
        alive = sum(node.alive and not node.refused for node in self.farm.nodes.values())
        return f"  {self.farm.alive} actors on {alive} nodes, {self.farm.asked} shards to come"


def table_text(row: dict[str, Any]) -> str:
    """A row's figures of the cluster, as lines."""
    lines = [f"{'node':<20} {'games/s':>9} {'evaluations/s':>14}"]
    lines += [f"{name:<20} {found['games_per_second']:>9.2f} "
              f"{found['evaluations_per_second']:>14,.0f}" for name, found in row["nodes"].items()]
    lines.append(f"{row['actors']} actors, restarts {row['restarts']}, staleness "
                 f"{row['staleness']:.2f}, moved {row['moved_mb']:.1f} MB, the learner waited "
                 f"{row['wait_seconds']:.1f} s")
    return "\n".join(lines)
