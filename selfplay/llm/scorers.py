"""Scores of reasoning-gym's answers, where the data sets' own are too generous or can be hung.

A data set's own score is asked last: of answers of bounded length, in ASCII or in characters of
the question, that cannot make it work without end. Where a question has one right answer, what
the data set calls right must be that answer besides.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from selfplay.common.errors import UserError
from selfplay.llm.formulas import is_antiderivative, polynomial
from selfplay.llm.rewards import arithmetic, parsed_number

LONGEST = 1000  #: characters of an answer, or twice the wanted one's where that is more

#: Data sets that have no safe score, and why.
REFUSED = {
    "composite": "it mixes data sets; name one of them",
    "propositional_logic": "a premise that is copied out counts as right; "
                           "try knights_knaves or circuit_logic",
}

#: Data sets that verify an answer by working it through: several are right, or one in several
#: spellings. All others have one right answer.
VERIFIED = frozenset((
    "advanced_geometry", "bitwise_arithmetic", "boxnet", "codeio", "cryptarithm",
    "fraction_simplification", "graph_color", "group_anagrams", "jugs", "kakurasu",
    "knight_swap", "knights_knaves", "number_format", "palindrome_generation",
    "palindrome_partitioning", "polynomial_equations", "pool_matrix", "power_function",
    "prime_factorization", "quantum_lock", "rubiks_cube", "rush_hour", "shortest_path",
    "sokoban", "time_intervals", "tower_of_hanoi", "word_ladder",
))

_NO_LONG_COUNTS = r"(?!.*\d\d).*"  # each move is repeated as often as its number says
_DECIMAL = r"[+-]?[\d,]{1,60}(?:\.\d{0,60})?(?:[eE][+-]?\d{1,3})?"
#: What an answer must look like before the data set's own score sees it.
SHAPES = {
    "rubiks_cube": _NO_LONG_COUNTS,
    "rush_hour": _NO_LONG_COUNTS,
    "number_format": _DECIMAL,
    "power_function": _DECIMAL,
    "polynomial_equations": rf"{_DECIMAL}(?:\s*,\s*{_DECIMAL}){{0,20}}",
}

Entry = Mapping[str, Any]  #: of reasoning-gym: question, answer, metadata


def scorer(name: str, data: Any, entry: Entry) -> Callable[[str], float]:
    """The score in [0, 1] of an answer to ``entry``, an item of the data set ``data``."""
    wanted = str(entry["answer"])
    shown = {c for c in f"{entry['question']}{wanted}" if not (c.isdecimal() or c.isspace())}
    longest, own, shape = max(LONGEST, 2 * len(wanted)), OWN.get(name), SHAPES.get(name)

    def score(answer: str) -> float:
        answer = answer.strip()
        if not 0 < len(answer) <= longest or not all(c.isascii() or c in shown for c in answer):
            return 0.0
        if own is not None:
            return float(own(answer, entry))
        if shape is not None and not re.fullmatch(shape, answer, re.ASCII | re.DOTALL):
            return 0.0
        # some scores write into the item
        value = float(data.score_answer(answer, copy.deepcopy(dict(entry))))
        if value >= 1 and name not in VERIFIED and not same(answer, wanted):
            return 0.0
        return value

    return score


def refuse(name: str) -> None:
    """Raises UserError for a data set without a safe score."""
    if name in REFUSED:
        raise UserError(f"task {name}: {REFUSED[name]}")


def same(answer: str, wanted: str) -> bool:
    """Whether two texts are the same, as numbers, as JSON, or but for spaces and case."""
    a, b = ("".join(text.casefold().split()) for text in (answer, wanted))
    if a == b:
        return True
    number = parsed_number(answer)
    if number is not None:
        return number == parsed_number(wanted)
    try:
        return bool(json.loads(answer) == json.loads(wanted))
    except (ValueError, RecursionError):
        return False


def decimal(text: str) -> Fraction | None:
    """A number, wholly and in ASCII digits, that may have an exponent of two digits."""
    found = re.fullmatch(r"([^eE]+)(?:[eE]([+-]?\d{1,2}))?", text.strip(), re.ASCII)
    value = parsed_number(found[1]) if found else None
    if value is None or found is None:
        return None
    return value * Fraction(10) ** int(found[2] or 0)


def _exact(answer: str, entry: Entry) -> float:
    return float(answer == str(entry["answer"]).strip())


def _queens(answer: str, entry: Entry) -> float:
    return float(answer in entry["metadata"]["valid_answers"])


def _make_24(answer: str, entry: Entry) -> float:
    found = arithmetic(answer)
    if found is None or sorted(found[1]) != sorted(entry["metadata"]["numbers"]):
        return 0.0
    return float(found[0] == 24)


def _probability(answer: str, entry: Entry) -> float:
    """1 within a thousandth of the value, so that 0 is never a small probability."""
    found, wanted = decimal(answer), decimal(entry["answer"])
    if found is None or wanted is None:
        return 0.0
    return float(abs(found - wanted) * 1000 <= abs(wanted))


_PART = r"(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})"


def parsed_complex(text: str) -> tuple[Fraction, Fraction] | None:
    """(real, imaginary) of "1.5 - 2i", "3", "-i" and the like, in brackets or not."""
    text = re.sub(r"\s", "", text).lower()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    found = re.fullmatch(rf"([+-]?{_PART})?(?:([+-]?)({_PART})?[ij])?", text, re.ASCII)
    if not text or not found:
        return None
    if not text.endswith(("i", "j")):
        return Fraction(found[1]), Fraction(0)
    if found[1] and not found[2]:  # the one number belongs to the i
        return (Fraction(0), Fraction(found[1])) if not found[3] else None
    size = Fraction(found[3] or 1)
    return Fraction(found[1] or 0), -size if found[2] == "-" else size


def _complex(answer: str, entry: Entry) -> float:
    """exp(-distance) as the data set has it; 1 for the very number alone."""
    found = parsed_complex(answer)
    if found is None:
        return 0.0
    wanted = tuple(Fraction(part) for part in entry["metadata"]["result"])
    if found in (wanted, parsed_complex(entry["answer"])):
        return 1.0
    distance = math.hypot(*(float(a - b) for a, b in zip(found, wanted, strict=True)))
    return min(math.exp(-distance), 0.999)


def _sorted(answer: str, entry: Entry) -> float:
    """1 for a list of the same numbers in the same order, in quotes or not."""
    lists = []
    for text in (answer, str(entry["answer"])):
        inner = re.fullmatch(r"\[(.*)\]", text.strip(), re.DOTALL)
        if not inner:
            return 0.0
        parts = [re.sub(r"""^(['"])(.*)\1$""", r"\2", part.strip())
                 for part in inner[1].split(",")]
        lists.append([parsed_number(part) for part in parts])
    return float(lists[0] == lists[1] and None not in lists[0])


def _integral(answer: str, entry: Entry) -> float:
    data = entry["metadata"]
    return float(is_antiderivative(answer, str(data["integrand"]), str(data["variable"])))


def _product(answer: str, entry: Entry) -> float:
    names = [str(name) for name in entry["metadata"]["variables"]]
    found = polynomial(answer, names)
    return float(found is not None and found == polynomial(str(entry["answer"]), names))


#: Data sets that are scored here alone.
OWN: dict[str, Callable[[str, Entry], float]] = {
    **dict.fromkeys(("game_of_life_halting", "string_insertion", "spiral_matrix",
                     "binary_matrix"), _exact),
    "n_queens": _queens,
    "puzzle24": _make_24,
    "coin_flip": _probability,
    "complex_arithmetic": _complex,
    "number_sorting": _sorted,
    "simple_integration": _integral,
    "intermediate_integration": _integral,
    "polynomial_multiplication": _product,
}
