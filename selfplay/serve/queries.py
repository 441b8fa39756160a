"""Queries and answers in KataGo's analysis protocol: one JSON object a line, any number under way.

https://github.com/lightvector/KataGo/blob/master/docs/Analysis_Engine.md has the fields. For games
other than Go moves are in the game's own words, and the board's sizes may be left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.gtp import colour_of
from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.games import make
from selfplay.games.base import Game, GameError
from selfplay.games.go import Go
from selfplay.serve.answers import PV_LENGTH, VIEWS, Query, answer
from selfplay.serve.batch import AnalysisBatch, Job
from selfplay.serve.line import Line
from selfplay.serve.mind import Mind

MOST_VISITS = 1_000_000
MOST_MOVES = 10_000
#: Fields that are read; others are named in a warning.
FIELDS = frozenset({
    "id", "action", "moves", "initialStones", "initialPlayer", "rules", "komi", "boardXSize",
    "boardYSize", "analyzeTurns", "maxVisits", "includeOwnership", "includeMovesOwnership",
    "includePolicy", "includePVVisits", "avoidMoves", "allowMoves", "overrideSettings",
    "reportDuringSearchEvery", "priority", "priorities", "analysisPVLen", "whiteHandicapBonus"})
#: What our rules are called: area scoring, positional superko.
OUR_RULES = {"tromp-taylor": True, "chinese-ogs": False, "chinese-kgs": False}


class QueryError(Exception):
    """What is wrong with a query, and in which field."""

    def __init__(self, words: str, name: str = "") -> None:
        super().__init__(words)
        self.name = name


class Server:
    """Lines in, lines out. visits: of queries that do not say. view: one of VIEWS."""

    def __init__(self, mind: Mind, visits: int, view: str = VIEWS[0]) -> None:
        self.mind, self.visits, self.view = mind, visits, view
        self.batch = AnalysisBatch()
        self._minds = {mind.game.name: mind}

    def take(self, line: str) -> Iterator[dict[str, Any]]:
        """Read a line; what there is to answer at once."""
        if not line.strip():
            return
        said: Any = None
        try:
            said = _parsed(line)
            if not isinstance(said, dict):
                raise QueryError("a JSON object wanted")
            yield from self._act(said) if "action" in said else self._add(said)
        except QueryError as error:
            yield _failure(said, clip(str(error)), error.name)
        except (ValueError, RecursionError) as error:
            yield _failure(None, f"no JSON: {clip(str(error), 200)}")

    def _act(self, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
        action = said["action"]
        if action == "query_version":
            yield {**said, "version": "selfplay", "git_hash": "<omitted>"}
        elif action == "query_models":
            yield {**said, "models": [{"name": self.mind.name, "game": self.mind.game.name}]}
        elif action in ("terminate", "terminate_all"):
            turns = said.get("turnNumbers")
            for job in self.batch.jobs():
                query, turn = job.tag
                mine = action == "terminate_all" or query.id == said.get("terminateId")
                if mine and (not isinstance(turns, list) or turn in turns):
                    job.stopped = True
            yield said
        elif action == "clear_cache":
            yield said
        else:
            raise QueryError(f"unknown action {str(action)[:40]!r}", "action")

    def _add(self, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
        query = self._read(said)
        for name, words in query.warnings:
            yield {"warning": words, "field": name, "id": query.id}
        for (turn, states), priority in zip(query.turns, query.priorities, strict=True):
            only = query.only.get(int(states.to_play[0]))
            over = bool(query.game.result(states)[0][0])
            if only is not None and not over and not (only & query.game.legal(states)[0]).any():
                yield {**_failure(said, "no legal move is left", "allowMoves"), "turnNumber": turn}
                continue
            self.batch.add(Job(states, query.sims, query.mind, only, query.every,
                               query.moves_ownership, -priority, (query, turn)))

    def step(self) -> Iterator[dict[str, Any]]:
        """Search on by a wave; answers that are ready."""
        for job, found, done in self.batch.step():
            query, turn = job.tag
            if found is None:
                if done:
                    yield {"id": query.id, "isDuringSearch": False, "noResults": True,
                           "turnNumber": turn}
            else:
                yield {**answer(query, found), "turnNumber": turn, "isDuringSearch": not done}

    # ---------------------------------------------------------------------------- reading

    def _read(self, said: dict[str, Any]) -> Query:
        if not isinstance(said.get("id"), str):
            raise QueryError("'id', a string, wanted", "id")
        warnings: list[tuple[str, str]] = [
            (name, "Unexpected or unused field") for name in said if name not in FIELDS]
        mind = self._mind(said, warnings)
        game = mind.game
        line, turns = Line(game), _turns(said)
        try:
            if said.get("initialStones"):
                line.setup(_stones(game, said), _who_begins(said, game))
            elif _who_begins(said, game) == 1 and game.pass_action >= 0:
                line.begin([game.pass_action])
        except GameError as error:
            raise QueryError(str(error), "initialStones") from None
        _play_moves(line, said)
        if max(turns) > line.ply:
            raise QueryError(f"no turn {max(turns)} in a game of {line.ply} moves", "analyzeTurns")
        visits = _whole_number(said, "maxVisits", self.visits, 1, MOST_VISITS)
        query = Query(said["id"], game, mind, [(turn, line.at(turn)) for turn in turns],
                      max(visits - 1, 0), view=self.view, warnings=warnings)
        for name, key in (("ownership", "includeOwnership"), ("policy", "includePolicy"),
                          ("moves_ownership", "includeMovesOwnership"),
                          ("pv_visits", "includePVVisits")):
            setattr(query, name, _true_or_false(said, key))
        query.pv_length = _whole_number(said, "analysisPVLen", PV_LENGTH - 1, 1, 1000) + 1
        _override_settings(said, query)
        query.every = _seconds(said)
        query.priorities = _priorities(said, len(turns))
        _restrictions(said, line, query)
        return query

    def _mind(self, said: dict[str, Any], warnings: list[tuple[str, str]]) -> Mind:
        """Who can play what the query asks for."""
        own = self.mind.game
        width = _whole_number(said, "boardXSize", own.board_shape[1], 1, 99)
        height = _whole_number(said, "boardYSize", own.board_shape[0], 1, 99)
        if not isinstance(own, Go):
            if (height, width) != own.board_shape:
                raise QueryError(f"this net plays {own.name}", "boardXSize")
            return self.mind
        if width != height:
            raise QueryError("square boards only", "boardYSize")
        suicide = _rules(said, own, warnings)
        komi = said.get("komi", own.komi)
        if type(komi) not in (int, float) or not math.isfinite(komi) or 2 * komi != round(2 * komi):
            raise QueryError("a whole or half number wanted", "komi")
        rule = ",suicide=True" if suicide else ""
        try:
            game = make(f"go{width}x{width}(komi={komi:g}{rule})")
            if game.name not in self._minds:
                self._minds[game.name] = self.mind.playing(game)
        except (UserError, GameError) as error:
            name = "boardXSize" if width != own.size else "komi"
            raise QueryError(str(error), name) from None
        return self._minds[game.name]


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite,
                      parse_int=lambda digits: _finite(digits, int))


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str, kind: type = float) -> float:
    """JSON has numbers that no float holds; said again they would be no JSON, and compared with
    one, an error."""
    if not math.isfinite(float(text)):
        raise QueryError(f"{clip(text, 40)}: a smaller number wanted")
    return kind(text)  # type: ignore[no-any-return]


def _failure(said: Any, words: str, name: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"error": words}
    if name:
        found["field"] = name
    if isinstance(said, dict) and isinstance(said.get("id"), str):
        found["id"] = said["id"]
    return found


def _whole_number(said: dict[str, Any], name: str, otherwise: int, least: int, most: int) -> int:
    value = said.get(name, otherwise)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise QueryError(f"a whole number from {least} to {most} wanted", name)
    return value


def _true_or_false(said: dict[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if type(value) is not bool:
        raise QueryError("true or false wanted", name)
    return value


def _list_of(said: dict[str, Any], name: str) -> list[Any]:
    value = said.get(name, [])
    if not isinstance(value, list) or len(value) > MOST_MOVES:
        raise QueryError(f"a list of at most {MOST_MOVES:,} wanted", name)
    return value


def _turns(said: dict[str, Any]) -> list[int]:
    if "analyzeTurns" not in said:
        return [len(_list_of(said, "moves"))]
    turns = _list_of(said, "analyzeTurns")
    if not turns or not all(type(turn) is int and turn >= 0 for turn in turns):
        raise QueryError("a list of turns from 0 wanted", "analyzeTurns")
    return turns


def _who_begins(said: dict[str, Any], game: Game) -> int:
    """Who begins: as said, else who makes the first move, else black."""
    if "initialPlayer" in said:
        found = colour_of(str(said["initialPlayer"]))
        if found is None:
            raise QueryError('"B" or "W" wanted', "initialPlayer")
        return found
    moves = _list_of(said, "moves")
    pair = moves[0] if moves else None
    return (colour_of(str(pair[0])) or 0) if isinstance(pair, list) and pair else 0


def _coloured(said: dict[str, Any], name: str) -> Iterator[tuple[int | None, str]]:
    """(colour, move) of a list of pairs; colour None where there is a move alone."""
    for number, item in enumerate(_list_of(said, name), 1):
        if isinstance(item, str):
            yield None, item
            continue
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[1], str)
                and colour_of(str(item[0])) is not None):
            raise QueryError(f'number {number}: ["B", "D4"] or the like wanted', name)
        yield colour_of(str(item[0])), item[1]


def _stones(game: Game, said: dict[str, Any]) -> NDArray[np.int8]:
    stones = np.zeros(game.cells, np.int8)
    for colour, text in _coloured(said, "initialStones"):
        action = _action(game, game.new(1), text, "initialStones")
        if action >= game.cells:
            raise QueryError("a pass is no stone", "initialStones")
        stones[action] = -1 if colour == 1 else 1
    return stones


def _action(game: Game, states: Any, text: str, name: str) -> int:
    try:
        return game.text_to_action(states, 0, text)
    except GameError as error:
        raise QueryError(str(error), name) from None


def _play_moves(line: Line, said: dict[str, Any]) -> None:
    for number, (colour, text) in enumerate(_coloured(said, "moves"), 1):
        try:
            states = line.states if colour is None else line.turn(colour)
            line.play(_action(line.game, states, text, "moves"), colour)
        except GameError as error:
            raise QueryError(f"move {number}, {text[:20]}: {error}", "moves") from None


def _rules(said: dict[str, Any], own: Go, warnings: list[tuple[str, str]]) -> bool:
    """Whether suicide is allowed; a warning where the rules are others than ours."""
    rules = said.get("rules")
    if isinstance(rules, str) and rules.strip().startswith("{"):
        try:
            rules = _parsed(rules)
        except (ValueError, RecursionError):
            raise QueryError("an object or the name of rules wanted", "rules") from None
    ours = {"ko": "POSITIONAL", "scoring": "AREA", "suicide": own.suicide, "tax": "NONE"}
    if isinstance(rules, dict):
        other = {key: value for key, value in rules.items() if ours.get(key, value) != value}
    else:
        name = str(rules).lower()
        same = rules is None or OUR_RULES.get(name) == own.suicide
        other = {} if same else {"rules": name[:40]}
    if other:
        told = ", ".join(f"{key}={value}" for key, value in other.items())
        warnings.append(("rules", f"{clip(told, 120)}: analysed by {own.rules}"))
    if said.get("whiteHandicapBonus") not in (None, 0, "0"):
        warnings.append(("whiteHandicapBonus", "counted as 0"))
    return own.suicide


def _override_settings(said: dict[str, Any], query: Query) -> None:
    settings = said.get("overrideSettings", {})
    if not isinstance(settings, dict):
        raise QueryError("an object wanted", "overrideSettings")
    for key, value in settings.items():
        if key == "reportAnalysisWinratesAs" and str(value).upper() in VIEWS:
            query.view = str(value).upper()
        elif key == "maxVisits":
            query.sims = max(_whole_number(settings, key, 1, 1, MOST_VISITS) - 1, 0)
        else:
            query.warnings.append(("overrideSettings", f"{key[:60]}: Unexpected or unused setting"))


def _seconds(said: dict[str, Any]) -> float | None:
    value = said.get("reportDuringSearchEvery")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0.001 <= value <= 1e6:
        raise QueryError("seconds from 0.001 wanted", "reportDuringSearchEvery")
    return float(value)


def _priorities(said: dict[str, Any], count: int) -> list[float]:
    given = _list_of(said, "priorities") or [said.get("priority", 0)] * count
    if len(given) != count or not all(type(p) in (int, float) for p in given):
        raise QueryError("a number for each of analyzeTurns wanted", "priorities")
    return [float(p) for p in given]


def _restrictions(said: dict[str, Any], line: Line, query: Query) -> None:
    game = query.game
    for key in ("avoidMoves", "allowMoves"):
        for item in _list_of(said, key):
            colour = colour_of(str(item.get("player"))) if isinstance(item, dict) else None
            if colour is None or not isinstance(item.get("moves"), list):
                raise QueryError("objects with player, moves and untilDepth wanted", key)
            named = np.zeros(game.num_actions, np.bool_)
            for text in item["moves"]:
                named[_action(game, line.states, str(text), key)] = True
            if item.get("untilDepth", 1) != 1:
                query.warnings.append((key, "untilDepth: counted as 1, the move to be made"))
            only = query.only.get(colour, np.ones_like(named))
            query.only[colour] = only & (named if key == "allowMoves" else ~named)


def answer_queries(server: Server, lines: Callable[[bool], list[str] | None],
                   write: Callable[[str], None]) -> None:
    """Answer queries until the input ends, and then those under way.

    lines(wait): the lines that have come, after waiting for one where ``wait``; None at the end.
    """
    open_ = True
    while open_ or server.batch.busy:
        new = lines(not server.batch.busy) if open_ else []
        if new is None:
            open_, new = False, []
        for line in new:
            for out in server.take(line):
                write(json.dumps(out))
        if server.batch.busy:
            for out in server.step():
                write(json.dumps(out))
