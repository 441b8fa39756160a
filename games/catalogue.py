"""What can be played: ``make("go9x9")``, ``make("go(board_size=7,komi=9)")``,
``make("openspiel:othello")``, ``make("path/to/mygame.py:MyGame")``, and what other installed
packages bring (entry points of the group named like the package).

Constructors import their module when they are called, so that naming a game costs nothing:
neither numba nor pyspiel is loaded before a game is made.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from .base import Game, GameError
from .own import arguments_of, exists, identity, is_own, keywords, located, object_of, signature

__all__ = ["GAMES", "Game", "GameError", "describe", "identity", "located", "make"]

_OPENSPIEL = "openspiel:"
_SIZES = range(5, 20)


def _tictactoe() -> Game:
    from .tictactoe import TicTacToe

    return TicTacToe()


def _connect4() -> Game:
    from .connect4 import Connect4

    return Connect4()


def _go_board(board_size: int = 9, komi: float = 7.0, suicide: bool = False) -> Game:
    from .go import Go

    return Go(board_size=board_size, komi=komi, suicide=suicide)


def _go_of(size: int) -> Callable[..., Game]:
    def build(komi: float = 7.0, suicide: bool = False) -> Game:
        return _go_board(size, komi, suicide)

    return build


def _othello(board_size: int = 8) -> Game:
    from .othello import Othello

    return Othello(board_size)


def _hex(board_size: int = 11, swap: bool = False) -> Game:
    from .hex import Hex

    return Hex(board_size, swap)


def _hex_of(size: int) -> Callable[..., Game]:
    def build(swap: bool = False) -> Game:
        return _hex(size, swap)

    return build


def _gomoku(board_size: int = 15, exact: bool = False) -> Game:
    from .gomoku import Gomoku

    return Gomoku(board_size, exact)


def _gomoku_of(size: int) -> Callable[..., Game]:
    def build(exact: bool = False) -> Game:
        return _gomoku(size, exact)

    return build


def _dotsandboxes(rows: int = 4, columns: int = 4) -> Game:
    from .dotsandboxes import DotsAndBoxes

    return DotsAndBoxes(rows, columns)


#: name -> constructor; its keyword parameters are what ``name(key=value,...)`` may set.
GAMES: dict[str, Callable[..., Game]] = {
    "tictactoe": _tictactoe,
    "connect4": _connect4,
    "go": _go_board,
    **{f"go{size}x{size}": _go_of(size) for size in _SIZES},
    "othello": _othello,
    "othello6x6": lambda: _othello(6),
    "othello8x8": lambda: _othello(8),
    "hex": _hex,
    **{f"hex{size}x{size}": _hex_of(size) for size in range(2, 12)},
    "gomoku": _gomoku,
    **{f"gomoku{size}x{size}": _gomoku_of(size) for size in range(9, 16)},
    "dotsandboxes": _dotsandboxes,
}


def make(spec: str) -> Game:
    """The game of ``name``, ``name(key=value,...)``, ``openspiel:<OpenSpiel's game string>`` or
    ``path/to/file.py:CLASS``, which runs the file.

    Raises GameError for an unknown name (naming the nearest), an unknown parameter (naming the
    valid ones), a value of the wrong type, or a file that cannot be used.

    >>> make("go9x9(komi=5.5)").num_actions
    82
    >>> make("conect4")
    Traceback (most recent call last):
        ...
    games.base.GameError: unknown game 'conect4': did you mean 'connect4'? ...
    """
    spec = spec.strip()
    if is_own(spec):
        return _game_of_file(spec)
    if spec.startswith(_OPENSPIEL):
        from .openspiel import OpenSpielGame

        return OpenSpielGame(spec.removeprefix(_OPENSPIEL))
    found = re.fullmatch(r"([^\s()]+)\s*(?:\((.*)\))?", spec)
    if not found:
        raise GameError(f"game {spec!r}: a name such as go9x9, or name(key=value,...) wanted")
    name, arguments = found[1], found[2] or ""
    if name in GAMES:
        return GAMES[name](**keywords(name, arguments, GAMES[name], (), GameError))
    brought = _brought().get(name)
    if brought is None:
        raise GameError(f"unknown game {name!r}: {_suggestion(name)}")
    try:
        maker = brought.load()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise GameError(f"game {name!r} of {brought.value}: {type(error).__name__}: {reason}"
                        ) from error
    return _made(maker, name, arguments, spec)


_located: dict[str, str] = {}  #: the whole paths of files that were named, by their identity


def _game_of_file(spec: str) -> Game:
    """The game of a file. Its name is without the folder: it has to be found again where its
    records and checkpoints are read, wherever the file lies then."""
    name = identity(spec)
    maker = object_of(spec if exists(spec) else _located.get(name, spec), "a game", GameError)
    _located[name] = located(spec) if exists(spec) else _located[name]
    return _made(maker, name.partition("(")[0], arguments_of(spec), name)


def _made(maker: Callable[..., Game], name: str, arguments: str, full: str) -> Game:
    """A game that is not ours, under the name that makes it again."""
    if not callable(maker):
        raise GameError(f"{full}: a game's class or a function that makes one wanted, not "
                        f"{type(maker).__name__}")
    game = maker(**keywords(name, arguments, maker, (), GameError))
    if not isinstance(game, Game):
        raise GameError(f"{full}: makes {type(game).__name__}, which is no subclass of Game")
    game.name = full
    return game


def _brought() -> dict[str, EntryPoint]:
    """The games that installed packages bring, by name."""
    return {point.name: point for point in entry_points(group=__package__)}


def describe() -> str:
    """The games as text: the native ones with their rules, then OpenSpiel's by name."""
    from .openspiel import playable

    def plain(name: str) -> str:
        return re.sub(r" \d+x\d+:", ":", make(name).rules)

    lines = ["native games"]
    for name in ("tictactoe", "connect4", "go9x9"):
        lines.append(f"  {name:<12}{make(name).rules}")
    lines += [
        f"  go5x5 … go19x19, or go({signature(_go_board)}): the same rules on other boards",
        f"  othello6x6, othello8x8   {plain('othello')}",
        f"  hex2x2 … hex11x11, or hex({signature(_hex)})   {plain('hex')}",
        f"  gomoku9x9 … gomoku15x15, or gomoku({signature(_gomoku)})   {plain('gomoku')}",
        f"  dotsandboxes({signature(_dotsandboxes)})   {make('dotsandboxes').rules}",
        "",
        "your own: --game path/to/mygame.py:MyGame (see: selfplay games --check)",
        *(f"  {name:<12}from {point.value}" for name, point in sorted(_brought().items())),
        "",
        "through OpenSpiel (https://github.com/google-deepmind/open_spiel), with its parameters,"
        " e.g. openspiel:hex(board_size=5)",
        *(f"  {_OPENSPIEL}{name}" for name in playable()),
    ]
    return "\n".join(lines)


def _suggestion(name: str) -> str:
    """What may have been meant by an unknown name."""
    board = re.fullmatch(r"([a-z]+)(\d+)x\d+", name)
    sizes = [known for known in GAMES if board and re.fullmatch(rf"{board[1]}\d+x\d+", known)]
    if board and sizes:
        kind, size = board[1], board[2]
        to = "and" if len(sizes) == 2 else "to"
        boards = f"{kind.capitalize()} is played on {sizes[0]} {to} {sizes[-1]}"
        square = f"{kind}{size}x{size}"
        return f"did you mean {square!r}? {boards}" if square in GAMES else boards
    from .openspiel import playable

    if name in playable():
        return f"OpenSpiel has it: {_OPENSPIEL}{name}"
    there = {**dict.fromkeys(playable(), _OPENSPIEL), **dict.fromkeys(GAMES, "")}
    near = difflib.get_close_matches(name.lower(), there, n=1)
    if near:
        found = there[near[0]] + near[0]
        return f"did you mean {found!r}? (selfplay games lists them all)"
    return ("games are tictactoe, connect4, go5x5 to go19x19, othello, hex, gomoku, dotsandboxes "
            "and openspiel:… (see: selfplay games)")
