"""What tests make an Actor do: wave after wave, until enough games have ended."""

from __future__ import annotations

from selfplay.board.selfplay import Actor, Harvest, join_harvests


def played(actor: Actor, positions: int) -> Harvest:
    """At least ``positions`` training rows; games in flight go on in the next call."""
    done: list[Harvest] = []
    while sum(len(h.columns.value) for h in done) < positions:
        harvest = actor.wave()
        done += [] if harvest is None else [harvest]
    return join_harvests(done)
