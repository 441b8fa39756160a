"""The commands of the GTP engine, each a function of the engine, its words and the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import numpy as np

from selfplay.arena.contest import clock
from selfplay.arena.sgf import head, sgf_point
from selfplay.common.errors import UserError
from selfplay.common.files import parse_json, write_atomic
from selfplay.games.base import GameError
from selfplay.games.go import Go
from selfplay.serve.gtp.engine import Engine, fixed_handicap
from selfplay.serve.gtp.live import Command, analyze, genmove_analyze, raw_nn
from selfplay.serve.gtp.protocol import Answer, GtpError, number, serve
from selfplay.serve.line import stones_of
from selfplay.serve.record import read_sgf
from selfplay.serve.thinker import Limits


def _word(words: list[str], place: int = 0) -> str:
    if len(words) <= place:
        raise GtpError("syntax error: too few arguments")
    return words[place]


def _number(words: list[str], place: int, kind: type = int) -> float:
    return number(_word(words, place), kind)


# ------------------------------------------------------------------------- administration

def _version() -> str:
    try:
        return version("selfplay-lab")
    except PackageNotFoundError:  # a folder that was never installed
        return "unknown"


def _name(engine: Engine, words: list[str], answer: Answer) -> str:
    return f"selfplay {engine.mind.name}"


def _known(engine: Engine, words: list[str], answer: Answer) -> str:
    return "true" if words and words[0] in COMMANDS else "false"


def _quit(engine: Engine, words: list[str], answer: Answer) -> None:
    return None


def _stop(engine: Engine, words: list[str], answer: Answer) -> str:
    engine.thinker.halt()
    return ""


def _do_nothing(engine: Engine, words: list[str], answer: Answer) -> str:
    return ""


# --------------------------------------------------------------------------------- setup

def _boardsize(engine: Engine, words: list[str], answer: Answer) -> str:
    sizes = {int(_number(words, place)) for place in range(max(1, len(words[:2])))}
    if not isinstance(engine.game, Go):
        if not sizes <= set(engine.game.board_shape):
            raise GtpError("unacceptable size")
    elif len(sizes) > 1:
        raise GtpError("unacceptable size")
    else:
        try:
            engine.refit(sizes.pop(), engine.go.komi, engine.go.suicide)
        except (UserError, GameError):
            raise GtpError(f"unacceptable size: {engine.mind.name} plays {engine.sizes()}"
                           ) from None
    engine.clear()
    return ""


def _clear_board(engine: Engine, words: list[str], answer: Answer) -> str:
    engine.clear()
    return ""


def _komi(engine: Engine, words: list[str], answer: Answer) -> str:
    engine.komi(_number(words, 0, float))
    return ""


def _get_komi(engine: Engine, words: list[str], answer: Answer) -> str:
    return f"{engine.go.komi:g}"


def _fixed_handicap(engine: Engine, words: list[str], answer: Answer) -> str:
    cells = fixed_handicap(engine.go.size, int(_number(words, 0)))
    engine.handicap(cells)
    return " ".join(engine.line.text(cell) for cell in cells)


def _place_free_handicap(engine: Engine, words: list[str], answer: Answer) -> str:
    """The fixed points; where there are none for so many, what the net likes best."""
    count = int(_number(words, 0))
    if not 2 <= count < engine.go.cells:
        raise GtpError("invalid number of stones")
    try:
        cells = fixed_handicap(engine.go.size, count)
    except GtpError:
        prior = engine.thinker.think(Limits(sims=0), heads=False).prior[:-1]
        cells = np.argsort(-prior, kind="stable")[:count].tolist()
    engine.handicap(cells)
    return " ".join(engine.line.text(cell) for cell in cells)


def _set_free_handicap(engine: Engine, words: list[str], answer: Answer) -> str:
    cells = [engine.action(word) for word in words]
    if len(cells) < 2 or len(set(cells)) < len(cells) or engine.go.pass_action in cells:
        raise GtpError("bad vertex list")
    engine.handicap(cells)
    return ""


def _loadsgf(engine: Engine, words: list[str], answer: Answer) -> str:
    """FILE [MOVE]: the position before that move; the side to move is answered."""
    try:
        record = read_sgf(Path(_word(words)))[0]
        most = int(_number(words, 1)) - 1 if len(words) > 1 else len(record.moves)
        if most < 0:
            raise GtpError("syntax error: moves count from 1")
        komi = engine.go.komi if record.komi is None else record.komi
        engine.refit(record.size, komi, engine.go.suicide)
        engine.clear()
        if record.handicap or record.to_play:
            engine.thinker.setup(record.stones, record.to_play)
        for colour, action in record.moves[:most]:
            engine.thinker.play(action, colour)
    except (UserError, GameError) as error:
        raise GtpError(f"cannot load file: {error}") from None
    return engine.game.sides[engine.line.to_play]


def _printsgf(engine: Engine, words: list[str], answer: Answer) -> str:
    game, line = engine.go, engine.line
    root = head(game, stones_of(game, line.start)[0], int(line.start.to_play[0]))
    moves = "".join(f";{'BW'[m.colour]}[{sgf_point(m.action, game.size)}]" for m in line.moves)
    text = f"(;{root}{moves})"
    if not words:
        return text
    try:
        write_atomic(Path(words[0]), f"{text}\n".encode())
    except (UserError, ValueError) as error:  # "/" has no name
        raise GtpError(f"cannot write: {error}") from None
    return ""


# ---------------------------------------------------------------------------------- play

def _play(engine: Engine, words: list[str], answer: Answer) -> str:
    colour = engine.colour(_word(words))
    text = " ".join(words[1:])
    if not text:
        raise GtpError("syntax error: too few arguments")
    if text.lower() != "resign":
        engine.play(colour, text)
    return ""


def _play_sequence(engine: Engine, words: list[str], answer: Answer) -> str:
    for place in range(0, len(words), 2):
        _play(engine, words[place : place + 2], answer)
    return ""


def _colour(engine: Engine, words: list[str]) -> int:
    return engine.colour(words[0]) if words else engine.line.to_play


def _genmove(engine: Engine, words: list[str], answer: Answer) -> str:
    return engine.genmove(_colour(engine, words))


def _reg_genmove(engine: Engine, words: list[str], answer: Answer) -> str:
    return engine.genmove(_colour(engine, words), keep=False)


def _cleanup(engine: Engine, words: list[str], answer: Answer) -> str:
    return engine.genmove(_colour(engine, words), cleanup=isinstance(engine.game, Go))


def _undo(engine: Engine, words: list[str], answer: Answer) -> str:
    engine.undo(int(_number(words, 0)) if words else 1)
    return ""


def _is_legal(engine: Engine, words: list[str], answer: Answer) -> str:
    states = engine.line.turn(engine.colour(_word(words)))
    action = engine.action(" ".join(words[1:]), states)
    return str(int(engine.game.legal(states)[0, action]))


def _all_legal(engine: Engine, words: list[str], answer: Answer) -> str:
    states = engine.line.turn(_colour(engine, words))
    legal = np.flatnonzero(engine.game.legal(states)[0]).tolist()
    return " ".join(engine.game.action_to_text(states, 0, action) for action in legal)


def _showboard(engine: Engine, words: list[str], answer: Answer) -> str:
    return "\n" + engine.game.render(engine.line.states, 0)


def _final_score(engine: Engine, words: list[str], answer: Answer) -> str:
    return engine.score()


def _final_status_list(engine: Engine, words: list[str], answer: Answer) -> str:
    return "\n".join(" ".join(chain) for chain in engine.status(_word(words)))


# ---------------------------------------------------------------------------------- time

def _set_clock(engine: Engine, make: Callable[[], clock.Control]) -> str:
    try:
        engine.clock.set(make())
    except ValueError as error:
        raise GtpError(f"syntax error: {error}") from None
    return ""


def _time_settings(engine: Engine, words: list[str], answer: Answer) -> str:
    main, period = _number(words, 0, float), _number(words, 1, float)
    stones = int(_number(words, 2))
    return _set_clock(engine, lambda: clock.canadian(main, period, stones))


def _named_time_settings(engine: Engine, words: list[str], answer: Answer) -> str:
    return _set_clock(engine, lambda: clock.of_words(words))


def _time_left(engine: Engine, words: list[str], answer: Answer) -> str:
    side = engine.colour(_word(words))
    engine.clock.said(side, _number(words, 1, float), int(_number(words, 2)))
    return ""


# --------------------------------------------------------------------------------- rules

#: shorthand -> (ko, suicide)
RULES = {"tromp-taylor": ("POSITIONAL", True), "new-zealand": ("SITUATIONAL", True),
         "new_zealand": ("SITUATIONAL", True), "chinese": ("SIMPLE", False),
         "chinese-ogs": ("POSITIONAL", False), "chinese-kgs": ("POSITIONAL", False),
         "aga": ("SITUATIONAL", False), "bga": ("SITUATIONAL", False)}


def rules_of(game: Go) -> dict[str, object]:
    """Our rules in KataGo's words."""
    return {"hasButton": False, "ko": "POSITIONAL", "scoring": "AREA", "suicide": game.suicide,
            "tax": "NONE", "whiteHandicapBonus": "0"}


def _get_rules(engine: Engine, words: list[str], answer: Answer) -> str:
    return json.dumps(rules_of(engine.go), separators=(",", ":"))


def _set_rules(engine: Engine, words: list[str], answer: Answer) -> str:
    text = " ".join(words)
    if text.startswith("{"):
        try:
            wanted = parse_json(text)
        except ValueError:
            raise GtpError("syntax error: no JSON") from None
    elif text.lower() in RULES:
        ko, suicide = RULES[text.lower()]
        wanted = {"ko": ko, "suicide": suicide}
    else:
        raise GtpError(f"unknown or unsupported rules {text[:40]!r}: area scoring and positional "
                       "superko, as tromp-taylor or chinese-ogs")
    _apply(engine, wanted)
    return ""


def _set_rule(engine: Engine, words: list[str], answer: Answer) -> str:
    key, value = _word(words), _word(words, 1)
    known = {"true": True, "false": False}
    _apply(engine, {key: known.get(value.lower(), value)})
    return ""


def _apply(engine: Engine, wanted: dict[str, object]) -> None:
    have = rules_of(engine.go)
    wrong = [key for key, value in wanted.items() if key not in have
             or (key != "suicide" and value != have[key])]
    if wrong:
        raise GtpError(f"unsupported rule {wrong[0]}={wanted[wrong[0]]}")
    suicide = wanted.get("suicide", engine.go.suicide)
    try:
        engine.refit(engine.go.size, engine.go.komi, bool(suicide))
    except (UserError, GameError) as error:
        raise GtpError(f"unsupported rule suicide={suicide}: {error}") from None


# ------------------------------------------------------------------------------ the table

def _say(text: str) -> Command:
    return lambda engine, words, answer: text


COMMANDS: dict[str, Command] = {
    "protocol_version": _say("2"), "name": _name, "version": lambda e, w, a: _version(),
    "known_command": _known, "list_commands": lambda e, w, a: "\n".join(COMMANDS), "quit": _quit,
    "boardsize": _boardsize, "rectangular_boardsize": _boardsize, "clear_board": _clear_board,
    "komi": _komi, "get_komi": _get_komi, "fixed_handicap": _fixed_handicap,
    "place_free_handicap": _place_free_handicap, "set_free_handicap": _set_free_handicap,
    "loadsgf": _loadsgf, "printsgf": _printsgf,
    "play": _play, "gogui-play_sequence": _play_sequence, "genmove": _genmove,
    "reg_genmove": _reg_genmove, "kgs-genmove_cleanup": _cleanup, "undo": _undo, "gg-undo": _undo,
    "is_legal": _is_legal, "all_legal": _all_legal, "showboard": _showboard,
    "final_score": _final_score, "final_status_list": _final_status_list,
    "time_settings": _time_settings, "kgs-time_settings": _named_time_settings,
    "kata-time_settings": _named_time_settings, "time_left": _time_left,
    "kata-list_time_settings": _say("none absolute canadian byoyomi fischer"),
    "lz-analyze": analyze(False), "kata-analyze": analyze(True),
    "lz-genmove_analyze": genmove_analyze(False), "kata-genmove_analyze": genmove_analyze(True),
    "kata-raw-nn": raw_nn, "kata-get-rules": _get_rules, "kata-set-rules": _set_rules,
    "kata-set-rule": _set_rule, "kgs-rules": _set_rules,
    "stop": _stop, "kgs-chat": _do_nothing, "kgs-game_over": _do_nothing,
}


def perform(engine: Engine, command: str, words: list[str], answer: Answer) -> str | None:
    """One command; GtpError with the reason where it fails. None: the end."""
    if command not in COMMANDS:
        raise GtpError("unknown command")
    try:
        return COMMANDS[command](engine, words, answer)
    except GameError as error:
        raise GtpError(str(error)) from None
    except MemoryError:
        raise GtpError("out of memory") from None


def run(engine: Engine, stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Speak GTP until the end."""
    serve(lambda command, words, answer: perform(engine, command, words, answer),
          engine.thinker.halt, stdin, stdout)
