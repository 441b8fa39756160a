"""Answers in KataGo's analysis protocol: what was found of a position, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.games.base import Game
from selfplay.serve.analysis import Analysis, MoveInfo
from selfplay.serve.mind import Mind

PV_LENGTH = 16  #: moves of a variation, as KataGo has it
VIEWS = ("BLACK", "WHITE", "SIDETOMOVE")  #: whose winrates are told


@dataclass
class Query:
    """One query, read. turns: the positions to analyse, as (turn, states)."""

    id: str
    game: Game
    mind: Mind
    turns: list[tuple[int, Any]]
    sims: int
    ownership: bool = False
    moves_ownership: bool = False
    policy: bool = False
    pv_visits: bool = False
    pv_length: int = PV_LENGTH
    view: str = VIEWS[0]
    every: float | None = None
    priorities: list[float] = field(default_factory=list)
    only: dict[int, NDArray[np.bool_]] = field(default_factory=dict)  #: by the side to move
    warnings: list[tuple[str, str]] = field(default_factory=list)  #: (field, words)


def answer(query: Query, found: Analysis) -> dict[str, Any]:
    """An analysis as KataGo has it, but for turn and isDuringSearch."""
    player = found.to_play
    told = found.flipped() if query.view == VIEWS[1 - player] else found
    shown = [m for m in told.moves if m.visits] or list(told.moves[:1])
    root: dict[str, Any] = {
        "winrate": _short(told.winrate), "utility": _short(told.value), "visits": told.visits,
        "currentPlayer": "BW"[player], "rawWinrate": _short((told.raw + 1) / 2)}
    if told.score is not None:
        root |= dict.fromkeys(("scoreLead", "scoreSelfplay"), _short(told.score))
    if told.proven is not None:
        root["proven"] = told.proven
    out: dict[str, Any] = {"id": query.id,
                           "moveInfos": [_info(m, told, query) for m in shown], "rootInfo": root}
    if query.ownership and told.ownership is not None:
        out["ownership"] = _top_down(told.ownership, query.game)
    if query.policy:
        policy = np.where(found.prior > 0, found.prior, -1.0)
        cells = query.game.cells
        by_cell = query.game.num_actions in (cells, cells + 1)
        out["policy"] = _top_down(policy[:cells], query.game) + [
            _short(p) for p in policy[cells:]] if by_cell else [_short(p) for p in policy]
    return out


def _info(m: MoveInfo, told: Analysis, query: Query) -> dict[str, Any]:
    info: dict[str, Any] = {
        "move": m.text, "visits": m.visits, "winrate": _short(m.winrate), "order": m.order,
        "prior": _short(m.prior), "lcb": _short(m.lcb), "utility": _short(m.value),
        "utilityLcb": _short(2 * m.lcb - 1), "pv": list(m.pv_text[: query.pv_length])}
    lead = told.score if m.score is None else m.score
    if lead is not None:
        info |= dict.fromkeys(("scoreLead", "scoreMean", "scoreSelfplay"), _short(lead))
    if m.proven is not None:
        info["proven"] = m.proven
    if query.pv_visits:
        info["pvVisits"] = list(m.pv_visits[: query.pv_length])
    if query.moves_ownership and m.ownership is not None:
        info["ownership"] = _top_down(m.ownership, query.game)
    return info


def _short(number: float) -> float:
    return round(float(number), 6)


def _top_down(values: NDArray[Any], game: Game) -> list[float]:
    return [_short(value) for value in values.reshape(game.board_shape)[::-1].ravel()]
