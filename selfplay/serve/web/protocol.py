"""What the page and the server say to each other: JSON objects over one websocket, ``/ws``.

A connection sits at one table, and a table is one game. Whoever sits there sees the same and may
do the same. Values, scores and ownership speak for player 0, in [-1, 1] and in points.

The page says ``{"do": NAME, ...}``:

    hello     table?, game?, net?      sit down at a table that is there, or at a new one
    new       game, seats              begin again with a game and two seats
    play      action, at               make a move; at is the node that the page shows
    goto      node                     show another position of the game
    undo                               take back: the last move, and an engine's answer with it
    resign                             the side to move gives up
    seats     seats, run               who plays; run: let engines play now
    analyse   on, net, sims, beside    think about what is shown; beside: a second net, or ""
    tree      path, side               what the search knows after these moves (actions)
    setup     stones, to_play          begin from a position: [cells] of 1, -1 and 0
    load      text                     begin with a game that was saved, or any SGF of Go
    save                               ask for the game as text

A seat is ``{"who": "human"}`` or ``{"who": "net", "net", "sims", "strength"}``; strength from 1
(plays anything that it has looked at) to 5 (the best move).

The server says ``{"is": NAME, ...}``:

    state     table, begun (games so far), game, nets, nodes, node, position, seats, run,
              thinking, analysis: all that the page shows but for thoughts; sent when anything
              has changed
    report    side (1: of the net beside), node, visits, value, score, moves, ownership, ended:
              what a search has found so far; moves: action, text, visits, value, prior, pv
    value     node, value, score, visits: of a position that is not shown, for the curve
    tree      side, path, visits, value, to_play, pieces, children: one position of a search
    file      name, text               what was asked for by save
    notice    text                     something to know
    error     text, of                 why something was not done; nothing has changed
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.words import clip

MOST_BYTES = 2**20  #: of a message; a longer one ends its connection (websocket code 1009)
MOST_SIMS = 100_000
STRENGTHS = 5
SHOWN = 60  #: characters of a value in an error

Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most


def _flag(value: Any) -> bool:
    return type(value) is bool


def _list(item: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(item, value))


_SEAT: dict[str, Check] = {"net": _text(1000), "sims": _whole(0, MOST_SIMS),
                           "strength": _whole(1, STRENGTHS)}


def _seat(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("who") not in ("human", "net"):
        return False
    return value["who"] == "human" or all(check(value.get(key)) for key, check in _SEAT.items())


def _two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_seat, value))


_BIG = 2**31
#: what is done -> field -> (what it must be, in words; the check). A ? marks what may be missing.
MESSAGES: dict[str, dict[str, tuple[str, Check]]] = {
    "hello": {"table?": ("a text", _text(100)), "game?": ("a text", _text(1000)),
              "net?": ("a text", _text(1000))},
    "new": {"game": ("a text", _text(1000)), "seats": ("two seats", _two)},
    "play": {"action": ("a move's number", _whole(0, _BIG)), "at": ("a node", _whole(0, _BIG))},
    "goto": {"node": ("a node", _whole(0, _BIG))},
    "undo": {},
    "resign": {},
    "seats": {"seats": ("two seats", _two), "run": ("true or false", _flag)},
    "analyse": {"on": ("true or false", _flag), "net": ("a text", _text(1000)),
                "sims": (f"a number from 0 to {MOST_SIMS}", _whole(0, MOST_SIMS)),
                "beside": ("a text", _text(1000))},
    "tree": {"path": ("a list of moves", _list(_whole(0, _BIG), 1000)),
             "side": ("0 or 1", _whole(0, 1))},
    "setup": {"stones": ("a list of 1, -1 and 0", _list(_whole(-1, 1), 1000)),
              "to_play": ("0 or 1", _whole(0, 1))},
    "load": {"text": ("a text", _text(MOST_BYTES))},
    "save": {},
}


def message_of(text: str | bytes) -> dict[str, Any]:
    """A message of the page, with all fields that it must have and no others.

    Raises UserError saying what is wrong with it.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"a message that is no JSON: {clip(str(text)[:SHOWN], SHOWN)}") from None
    if not isinstance(said, dict) or said.get("do") not in list(MESSAGES):
        raise UserError(f"a message without a known do; there are {', '.join(MESSAGES)}")
    wanted = MESSAGES[said["do"]]
    done: dict[str, Any] = {"do": said["do"]}
    for key, (words, check) in wanted.items():
        name = key.rstrip("?")
        if said.get(name) is None and key.endswith("?"):
            done[name] = None
        elif name not in said or not check(said[name]):
            shown = clip(json.dumps(said.get(name))[:SHOWN * 2], SHOWN)
            raise UserError(f"{said['do']}: {name} must be {words}, not {shown}")
        else:
            done[name] = said[name]
    extra = said.keys() - done.keys()
    if extra:
        raise UserError(f"{said['do']}: no field {clip(min(extra), SHOWN)!r}")
    return done
