"""Players as words: the checkpoint that a spec names, and how much it may search.

A budget is ``64`` simulations, or ``64x8`` with eight leaves of a tree under way.
"""

from __future__ import annotations

import math
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from selfplay.common.errors import UserError

LEAVES = 1024  #: of one tree at once, at most


#: Players that stand on a higher floor: the word before the colon, and the module with their
#: ``name_in_full(text)``, ``game_played(text)`` and ``language_player(text, setup)``. It is
#: imported when such a player is named.
ABOVE = {"llm": "selfplay.llm.play.player"}


class Budget(NamedTuple):
    """Simulations of a move, and leaves of its tree under way at once."""

    sims: int
    leaves: int = 1

    def __str__(self) -> str:
        return f"{self.sims}x{self.leaves}" if self.leaves > 1 else str(self.sims)


def budget(text: str) -> Budget | None:
    """The budget written as ``1000`` or ``1000x8``; None for other text."""
    found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,4}))?", text)
    if found is None or int(found[1]) < 1 or not 1 <= int(found[2] or 1) <= LEAVES:
        return None
    return Budget(int(found[1]), int(found[2] or 1))


LAMBDA = 0.5  #: AlphaGo's, the strongest of those that it tried
PRIORS = ("sft", "rl")  #: AlphaGo took the SFT policy's, which were better in search
VALUE_METRIC = "value_mse"


class Words(NamedTuple):
    """The text after ``alphago:``: the value net's checkpoint, and how to search."""

    path: Path
    budget: Budget
    weight: float = LAMBDA  #: of the rollouts
    prior: str = PRIORS[0]

    def __str__(self) -> str:
        text = f"{self.path}@{self.budget}"
        if self.weight != LAMBDA:
            text += f",lambda={self.weight:g}"
        return text + (f",prior={self.prior}" if self.prior != PRIORS[0] else "")


def parse_alphago(text: str) -> Words:
    """The words of PATH@SIMULATIONS with options; PATH is a run, its folder ``value``, or a
    checkpoint in there.

    Raises UserError.
    """
    path, _, how = text.rpartition("@")
    number, *options = how.split(",")
    found = budget(number)
    if not path or found is None:
        raise UserError(f"player 'alphago:{text}': simulations are needed, as alphago:RUN@64 or "
                        f"@64x8 with 1 to {LEAVES} leaves at once; without search it is net:RUN")
    words = Words(_value_checkpoint(Path(path), text), found)
    for option in options:
        key, _, value = option.partition("=")
        if key == "lambda":
            words = words._replace(weight=_weight(value, text))
        elif key == "prior" and value in PRIORS:
            words = words._replace(prior=value)
        else:
            raise UserError(f"player 'alphago:{text}': {option!r} is no option; there are "
                            "lambda=0.5, from 0 to 1, and prior=sft or rl")
    return words


def _weight(value: str, text: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        raise UserError(f"player 'alphago:{text}': lambda={value}: the rollouts' weight from 0 to "
                        "1 wanted")
    return weight


def _value_checkpoint(path: Path, text: str) -> Path:
    """The value net's best checkpoint of a run, or ``path`` where it is one itself."""
    from selfplay.learn.checkpoint import META, best

    if not path.is_dir():
        raise UserError(f"player 'alphago:{text}': {path} is no folder of a run")
    if (path / META).is_file():
        return path
    folder = path if path.name == "value" else path / "value"
    found = best(folder, VALUE_METRIC)
    if found is None:
        raise UserError(f"player 'alphago:{text}': no value net in {folder}; make one with "
                        f"selfplay value --run {folder.parent}")
    return found


def full_name(spec: str) -> str:
    """``spec`` with a run or a stage replaced by the checkpoint that it means now.

    Raises UserError for a folder that is not there.
    """
    prefix, _, text = spec.partition(":")
    if prefix == "alphago":
        return f"alphago:{parse_alphago(text.strip())}"
    if prefix in ABOVE:
        return f"{prefix}:{import_module(ABOVE[prefix]).name_in_full(text.strip())}"
    if prefix not in ("net", "policy") or _packaged(text.strip()) is not None:
        return spec
    folder, thought = checkpoint_of(text.strip(), spec)
    return f"{prefix}:{folder}@{thought}" if thought else f"{prefix}:{folder}"


def game_of(spec: str) -> str:
    """The game that a player's net or language model has learnt; empty where the words tell none,
    as of ``mcts:1000``.

    Raises UserError for a net that is not there.
    """
    prefix, _, text = spec.strip().partition(":")
    if prefix in ABOVE:
        return str(import_module(ABOVE[prefix]).game_played(text.strip()))
    if prefix not in ("net", "policy", "alphago"):
        return ""
    from selfplay.learn.checkpoint import read_meta

    path = parse_alphago(text.strip()).path if prefix == "alphago" else (
        checkpoint_of(text.strip(), spec)[0])
    return str(read_meta(path).get("game", ""))


def checkpoint_of(text: str, spec: str) -> tuple[Path, Budget | None]:
    """(checkpoint, budget) of PATH or PATH@SIMULATIONS: a run's newest RL checkpoint, else
    its SFT net; a stage's newest; a checkpoint itself; or, by its name, a packaged net."""
    path, thought = net_parts(text)
    if (found := _packaged(text)) is not None:
        return found, thought
    number = text.rpartition("@")[2]
    if "@" in text and not path.is_dir() and thought is None and re.fullmatch(
            r"-?[0-9]*x?[0-9]*", number):
        raise UserError(f"player {spec!r}: @{number} is no budget; write simulations from 1, as "
                        f"@64, or @64x8 with 1 to {LEAVES} leaves at once")
    if not path.is_dir():
        from selfplay.learn.packaged import or_else

        raise UserError(f"player {spec!r}: {path} is no folder of a checkpoint or a run, and "
                        f"{or_else(str(path))}")
    from selfplay.learn.checkpoint import best, newest

    found = newest(path / "rl") or best(path / "sft") or newest(path)
    return found or path, thought


def _packaged(text: str) -> Path | None:
    """The weights of NAME or NAME@SIMULATIONS, where no folder is called so."""
    from selfplay.learn.packaged import find

    path = net_parts(text)[0]
    return None if path.is_dir() else find(str(path))


def net_parts(text: str) -> tuple[Path, Budget | None]:
    """(folder, budget) of what follows ``net:``; no budget is the raw policy."""
    path, _, number = text.rpartition("@")
    thought = budget(number)
    if path and thought is not None:
        return Path(path), thought
    return Path(path if path and number == "0" else text), None


def effort_of(name: str) -> tuple[str, int]:
    """(a player without what it spends on a move, that): simulations, or answers that vote; 0 where
    its name says nothing."""
    found = re.fullmatch(r"((?:net|llm|alphago):.*?)@([0-9]{1,9})(x[0-9]{1,4})?(,.*)?", name)
    if found is None:
        plain = re.fullmatch(r"mcts:([0-9]{1,9})(x[0-9]{1,4})?", name)
        return ("mcts", int(plain[1])) if plain else (name, 0)
    return found[1] + (found[4] or ""), int(found[2])
