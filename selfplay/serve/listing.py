"""The nets that came along, as text; their cards are read without anything heavy."""

from __future__ import annotations

from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.files import DAMAGE, read_json
from selfplay.common.history import finite_float
from selfplay.common.words import counted
from selfplay.learn import packaged


def nets_text() -> str:
    """A paragraph a net."""
    out = []
    for name in packaged.names():
        path = packaged.folder() / f"{name}{packaged.CARD}"
        try:
            out += _about(name, read_json(path, dict, ""))
        except DAMAGE as error:
            out.append(_left_out(name, f"its card is damaged ({error})"))
        except UserError as error:
            out.append(_left_out(name, str(error).removesuffix("; ")))
    return "\n".join(out) or "no nets came along"


def _left_out(name: str, why: str) -> str:
    return f"{name}: left out, {why}; install the package again"


def _about(name: str, card: dict[str, Any]) -> list[str]:
    """Raises one of ``DAMAGE`` for a card that is none."""
    weights = packaged.folder() / f"{name}{packaged.SUFFIX}"
    packaged.must_be_as_packaged(weights, card)
    out = [f"{name}: {card['game'].strip()}, net {card['net']['size']}, "
           f"{weights.stat().st_size / 1e6:.2f} MB, "
           f"{finite_float(card.get('hours', 0)) * 60:.0f} minutes of training, "
           f"{card.get('licence', 'no licence')}"]
    if views := card.get(packaged.SYMMETRIES):
        out.append(f"    raw policy: the mean of {views} views of the board, turned and mirrored")
    out += [f"    {text}" for text in strengths(card)]
    if card.get("command"):
        out.append(f"    made at {card.get('commit')} by")
        out += [f"        {line.strip()}" for line in card["command"].split(";")]
    return out


def strengths(card: dict[str, Any]) -> list[str]:
    """One line a measurement. Raises one of ``DAMAGE`` where they are none."""
    rows = card.get("strength") or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError("its strength is no list of measurements")
    out = [f"{row['player'].replace('@0', 'raw policy').lstrip('@')}"
           f"{' simulations' if row['player'] != '@0' else ''}: {row['elo']:.0f} Elo "
           f"({row['low']:.0f} to {row['high']:.0f}, 95%), {row['anchor']}, "
           f"{counted(row['games'], 'game')}"
           for row in rows if row.get("elo") is not None]
    return [*out, card["note"]] if card.get("note") else out
