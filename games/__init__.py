"""What can be played: ``make("go9x9")``, ``make("go(board_size=7,komi=9)")``,
``make("openspiel:othello")``.

Constructors import their module when they are called, so that naming a game costs nothing:
neither numba nor pyspiel is loaded before a game is made.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from .base import Game, GameError

__all__ = ["GAMES", "Game", "GameError", "describe", "make"]

_OPENSPIEL = "openspiel:"
_SIZES = range(5, 20)


def _tictactoe() -> Game:
    from .tictactoe import TicTacToe

    return TicTacToe()


def _connect4() -> Game:
    from .connect4 import Connect4

    return Connect4()


def _go(board_size: int = 9, komi: float = 7.0, suicide: bool = False) -> Game:
    from .go import Go

    return Go(board_size=board_size, komi=komi, suicide=suicide)


def _go_of(size: int) -> Callable[..., Game]:
    def build(komi: float = 7.0, suicide: bool = False) -> Game:
        return _go(size, komi, suicide)

    return build


#: name -> constructor; its keyword parameters are what ``name(key=value,...)`` may set.
GAMES: dict[str, Callable[..., Game]] = {
    "tictactoe": _tictactoe,
    "connect4": _connect4,
    "go": _go,
    **{f"go{size}x{size}": _go_of(size) for size in _SIZES},
}


def make(spec: str) -> Game:
    """The game of ``name``, ``name(key=value,...)`` or ``openspiel:<OpenSpiel's game string>``.

    Raises GameError for an unknown name (naming the nearest), an unknown parameter (naming the
    valid ones) or a value of the wrong type.
    """
    spec = spec.strip()
    if spec.startswith(_OPENSPIEL):
        from .openspiel import OpenSpielGame

        return OpenSpielGame(spec.removeprefix(_OPENSPIEL))
    found = re.fullmatch(r"([^\s()]+)\s*(?:\((.*)\))?", spec)
    if not found:
        raise GameError(f"game {spec!r}: a name such as go9x9, or name(key=value,...) wanted")
    name, arguments = found[1], found[2] or ""
    if name not in GAMES:
        raise GameError(f"unknown game {name!r}: {_suggestion(name)}")
    return GAMES[name](**_arguments(name, arguments))


def describe() -> str:
    """The games as text: the native ones with their rules, then OpenSpiel's by name."""
    from .openspiel import playable

    lines = ["native games"]
    for name in ("tictactoe", "connect4", "go9x9"):
        lines.append(f"  {name:<12}{make(name).rules}")
    lines += [
        f"  go5x5 … go19x19, or go({_signature('go')}): the same rules on other boards",
        "",
        "through OpenSpiel (https://github.com/google-deepmind/open_spiel), with its parameters,"
        " e.g. openspiel:hex(board_size=5)",
        *(f"  {_OPENSPIEL}{name}" for name in playable()),
    ]
    return "\n".join(lines)


def _suggestion(name: str) -> str:
    """The nearest known name, or else all of them."""
    board = re.fullmatch(r"go(\d+)x\d+", name)
    if board:
        boards = f"Go is played on go{_SIZES[0]}x{_SIZES[0]} to go{_SIZES[-1]}x{_SIZES[-1]}"
        square = f"go{board[1]}x{board[1]}"
        return f"did you mean {square!r}? {boards}" if square in GAMES else boards
    from .openspiel import playable

    if name in playable():
        return f"OpenSpiel has it: {_OPENSPIEL}{name}"
    near = difflib.get_close_matches(name.lower(), GAMES, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}? (selfplay games lists them all)"
    return "games are tictactoe, connect4, go5x5 to go19x19 and openspiel:… (see: selfplay games)"


def _arguments(name: str, text: str) -> dict[str, Any]:
    """``key=value,...`` checked against the parameters of this game's constructor."""
    parameters = inspect.signature(GAMES[name]).parameters
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise GameError(f"{name}({text}): {part!r} is not key=value")
        if key not in parameters:
            raise GameError(f"{name}: no parameter {key!r}; it takes {_signature(name)}")
        if key in values:
            raise GameError(f"{name}({text}): {key} is given twice")
        values[key] = _value(f"{name}: {key}", value, type(parameters[key].default))
    return values


def _signature(name: str) -> str:
    parameters = inspect.signature(GAMES[name]).parameters.values()
    return ",".join(f"{p.name}={p.default}" for p in parameters) or "no parameters"


def _value(place: str, text: str, kind: type) -> int | float | bool:
    """``text`` as the type of the parameter's default."""
    words = {"true": True, "false": False}
    if kind is bool:
        if text.lower() in words:
            return words[text.lower()]
        raise GameError(f"{place} must be true or false, not {text!r}")
    pattern = r"[+-]?\d+" if kind is int else r"[+-]?(\d+\.?\d*|\.\d+)"
    if not re.fullmatch(pattern, text):
        wanted = "a whole number" if kind is int else "a number"
        raise GameError(f"{place} must be {wanted}, not {text!r}")
    return kind(text)
