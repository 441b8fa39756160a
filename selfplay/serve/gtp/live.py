"""The GTP commands that tell what the engine thinks: ``lz-analyze``, ``kata-analyze``, their kin
that also move, and ``kata-raw-nn``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay.arena.gtp import colour_of
from selfplay.games.base import Game
from selfplay.serve.analysis import Analysis, MoveInfo
from selfplay.serve.gtp.engine import Engine
from selfplay.serve.gtp.protocol import Answer, GtpError, number
from selfplay.serve.thinker import Limits

Command = Callable[[Engine, list[str], Answer], "str | None"]


@dataclass
class Wanted:
    """Arguments of an analysis. colour: None is the side to move. every: seconds between lines.
    least, most: moves told. only: bool [A], or None for all."""

    colour: int | None = None
    every: float = 1.0
    least: int = 0
    most: int | None = None
    ownership: bool = False
    moves_ownership: bool = False
    root: bool = False
    pv_visits: bool = False
    only: NDArray[np.bool_] | None = None


def wanted_of(words: Sequence[str], game: Game, action_of: Callable[[str], int]) -> Wanted:
    """[colour] [centiseconds] and pairs: interval, minmoves, maxmoves, avoid and allow with COLOUR
    MOVES DEPTH, ownership, movesOwnership, pvVisits, rootInfo. Raises GtpError."""
    found, left = Wanted(), list(words)
    if left and colour_of(left[0]) is not None:
        found.colour = colour_of(left.pop(0))
    if left and left[0].replace(".", "", 1).isdecimal():
        found.every = number(left.pop(0)) / 100
    while left:
        key = left.pop(0)
        count = 3 if key in ("avoid", "allow") else 1
        values, left = left[:count], left[count:]
        if len(values) < count:
            raise GtpError(f"syntax error: nothing after {key}")
        if key in ("avoid", "allow"):
            _restrict(found, game, key, values, action_of)
        else:
            _set(found, key, values[0])
    return found


def _restrict(found: Wanted, game: Game, key: str, values: Sequence[str],
              action_of: Callable[[str], int]) -> None:
    named = np.zeros(game.num_actions, np.bool_)
    named[[action_of(text) for text in values[1].split(",") if text]] = True
    only = found.only if found.only is not None else np.ones_like(named)
    found.only = only & (named if key == "allow" else ~named)


def _set(found: Wanted, key: str, value: str) -> None:
    flags = {"ownership": "ownership", "movesOwnership": "moves_ownership",
             "pvVisits": "pv_visits", "rootInfo": "root"}
    if key in flags:
        setattr(found, flags[key], value.lower() == "true")
        return
    if not value.replace(".", "", 1).isdecimal():
        raise GtpError(f"syntax error: {key[:40]} {value[:40]}")
    if key == "interval":
        found.every = number(value) / 100
    elif key == "minmoves":
        found.least = int(number(value))
    elif key == "maxmoves":
        found.most = int(number(value))


def _shown(found: Analysis, wanted: Wanted) -> list[MoveInfo]:
    """Moves with visits, the best at least, and more where more are wanted."""
    least = max(wanted.least, 1)
    moves = [m for n, m in enumerate(found.moves) if m.visits or n < least]
    return moves[: wanted.most] if wanted.most else moves


def lz_line(found: Analysis, wanted: Wanted) -> str:
    """As Leela Zero tells it: shares as whole numbers of ten thousandths."""
    return " ".join(
        f"info move {m.text} visits {m.visits} winrate {round(1e4 * m.winrate)} "
        f"prior {round(1e4 * m.prior)} lcb {round(1e4 * m.lcb)} order {m.order} "
        f"pv {' '.join(m.pv_text)}" for m in _shown(found, wanted))


def kata_line(found: Analysis, wanted: Wanted, game: Game) -> str:
    """As KataGo tells it: shares as fractions, with scores and ownership where the net has them.
    Every share has a decimal point: by that programs tell it from Leela Zero's whole numbers."""
    parts = [_kata_move(m, found, wanted, game) for m in _shown(found, wanted)]
    if wanted.root:
        lead = "" if found.score is None else f" scoreLead {found.score:.4g}"
        parts.append(f"rootInfo visits {found.visits} winrate {found.winrate:.6f} "
                     f"utility {found.value:.6f}{lead} rawWinrate {(found.raw + 1) / 2:.6f}")
    if wanted.ownership and found.ownership is not None:
        parts.append(f"ownership {point_texts(found.ownership, game)}")
    return " ".join(parts)


def _kata_move(m: MoveInfo, found: Analysis, wanted: Wanted, game: Game) -> str:
    lead = m.score if m.score is not None else found.score
    text = f"info move {m.text} visits {m.visits} utility {m.value:.6f} winrate {m.winrate:.6f} "
    if lead is not None:
        text += f"scoreMean {lead:.4g} scoreLead {lead:.4g} scoreSelfplay {lead:.4g} "
    text += f"prior {m.prior:.6f} lcb {m.lcb:.6f} utilityLcb {2 * m.lcb - 1:.6f} order {m.order} "
    text += f"pv {' '.join(m.pv_text)}"
    if wanted.pv_visits:
        text += f" pvVisits {' '.join(map(str, m.pv_visits))}"
    if wanted.moves_ownership and m.ownership is not None:
        text += f" movesOwnership {point_texts(m.ownership, game)}"
    return text


def point_texts(values: NDArray[np.float32], game: Game) -> str:
    """Numbers of the cells, from the top row down."""
    rows = values.reshape(game.board_shape)[::-1].ravel()
    return " ".join(f"{value:.4g}" for value in rows)


def _wanted_lines(engine: Engine, words: list[str]) -> Wanted:
    return wanted_of(words, engine.game, engine.action)


def _telling(engine: Engine, wanted: Wanted, kata: bool, answer: Answer
             ) -> Callable[[Analysis], None]:
    def tell(found: Analysis) -> None:
        text = kata_line(found, wanted, engine.game) if kata else lz_line(found, wanted)
        if text:
            answer.line(text)

    return tell


def analyze(kata: bool) -> Command:
    def run(engine: Engine, words: list[str], answer: Answer) -> str:
        wanted = _wanted_lines(engine, words)
        if wanted.colour is not None and not engine.line.over:
            engine.turn(wanted.colour)
        if wanted.only is not None and not (wanted.only & engine.line.legal()).any():
            raise GtpError("none of these moves is legal")
        answer.stay_open()
        engine.thinker.start(Limits(), _telling(engine, wanted, kata, answer), wanted.every,
                             wanted.only)
        return ""

    return run


def genmove_analyze(kata: bool) -> Command:
    def run(engine: Engine, words: list[str], answer: Answer) -> str:
        wanted = _wanted_lines(engine, words)
        colour = engine.line.to_play if wanted.colour is None else wanted.colour
        move = engine.genmove(colour, _telling(engine, wanted, kata, answer), wanted.every,
                              wanted.only)
        if not answer.begun:
            answer.stay_open()
            answer.stays_open = False
        return f"play {move}"

    return run


def raw_nn(engine: Engine, words: list[str], answer: Answer) -> str:
    """What the net says of a position that is turned by SYMMETRY, turned back."""
    count = len(engine.game.symmetries().cells)
    word = words[0] if words else "0"
    if word != "all" and not 0 <= number(word, int) < count:
        raise GtpError(f"syntax error: a symmetry from 0 to {count - 1} or all wanted")
    if engine.mind.net is None or engine.line.over:
        raise GtpError("no net" if engine.mind.net is None else "the game is over")
    chosen = range(count) if word == "all" else [int(word)]
    return "\n".join(_raw(engine, symmetry) for symmetry in chosen)


def _raw(engine: Engine, symmetry: int) -> str:
    game, states = engine.game, engine.line.states
    found = engine.mind.turned(states, symmetry)
    legal, sign = game.legal(states)[0], 1.0 if states.to_play[0] else -1.0
    odds = np.exp(found.logits - found.logits[legal].max()) * legal
    policy = np.where(legal, odds / odds.sum(), np.nan)
    white = (sign * found.value + 1) / 2
    lines = [f"symmetry {symmetry}", f"whiteWin {white:.6f}", f"whiteLoss {1 - white:.6f}",
             "noResult 0.000000"]
    if found.score is not None:
        lines += [f"whiteLead {sign * found.score:.3f}"]
    cells = game.num_actions == game.cells + (game.pass_action >= 0)
    lines.append("policy " + (point_texts(policy[: game.cells], game) if cells
                              else " ".join(f"{p:.4g}" for p in policy)))
    if game.pass_action >= 0:
        lines.append(f"policyPass {policy[game.pass_action]:.4g}")
    if found.ownership is not None:
        lines.append(f"whiteOwnership {point_texts(sign * found.ownership, game)}")
    return "\n".join(lines)
