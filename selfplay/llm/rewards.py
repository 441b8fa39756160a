"""What a completion is worth: pure functions of (completion, example), exact and never raising.

The answer of a completion is defined by its ``Format``: what its ``find`` finds, or what stands
behind the one marker. Where
there is no marker, more than one, or nothing behind it, there is no answer, and nothing is right:
neither luck nor hedging ("5 or 6") is rewarded. A completion that the limit of tokens cut off has
an answer only where the format closes answers (</answer>) and the closing mark was reached: an
answer that goes on to the completion's end may be half an answer, and does not count.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

LONGEST = 10_000  #: characters of an answer that is looked at
WRONG, LEFT = "✗", "↩"  #: marks of wrong steps and of dead ends
LONGEST_NUMBER = 64  #: characters of a number or of an arithmetic expression's answer


@dataclass(frozen=True)
class Format:
    """How a completion shows its chain of thought and its answer."""

    name: str
    open: str  #: what stands before the answer
    close: str = ""  #: and behind it; nothing: the completion's end
    chain: tuple[str, str] = ("", "")  #: around the chain of thought
    instruction: str = ""  #: appended to the question
    find: Callable[[str], str | None] | None = None  #: the answer, in place of the marker's rule


def boxed(completion: str) -> str | None:
    """What stands in \\boxed{...}, whose braces are balanced; None where two differ."""
    found = set()
    for part in completion.split(r"\boxed{")[1:]:
        depth = 1
        for place, char in enumerate(part):
            depth += (char == "{") - (char == "}")
            if depth == 0:
                found.add(part[:place].strip())
                break
        else:
            return None
    return found.pop() if len(found) == 1 else None


def last_number(completion: str) -> str | None:
    """The last number, without the sentence's full stop. Of several the last is taken: hedging
    pays."""
    found = re.findall(r"[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?", completion, re.ASCII)
    return found[-1].rstrip(",") if found else None


#: "short" is for models that learn characters; "answer" is DeepSeek-R1's format.
FORMATS = {f.name: f for f in (
    Format("short", open="#"),
    Format("marked", open="#### ", instruction="Think step by step, then end with the answer alone "
           "on a last line that begins with ####."),
    Format("answer", open="<answer>", close="</answer>", chain=("<think>", "</think>"),
           instruction="Think step by step between <think> and </think>, then give the answer "
           "alone between <answer> and </answer>."),
    Format("boxed", open="\\boxed{", close="}", find=boxed,
           instruction="Think step by step, then put the answer alone in \\boxed{}."),
    Format("number", open="", find=last_number,
           instruction="Think step by step, then end with the answer, a number."),
    Format("plain", open="", find=str),
)}


#: (completions, the examples that they answer, their parts so far) -> more parts of each: "earned",
#: what it is worth altogether, and any others; they replace parts of the same name.
Judging = Callable[[list[str], list["Example"], list[dict[str, float]]], list[dict[str, float]]]


@dataclass(frozen=True)
class Example:
    """A question with an answer that can be checked."""

    prompt: str
    answer: str
    checker: str = "exact"  #: a key of CHECKERS, or "reasoning-gym": the data set's own score
    metadata: Mapping[str, Any] = field(default_factory=dict)
    demonstration: str | None = None  #: a completion to learn from
    format: Format = FORMATS["short"]
    score: Callable[[str], float] | None = None  #: of "reasoning-gym", of an answer
    messages: tuple[Mapping[str, str], ...] = ()  #: what is asked, if more than the prompt
    template: Mapping[str, Any] = field(default_factory=dict)  #: arguments of the chat template
    world: Any = None  #: the environment (``envs.talks.World``) that this is a start of
    judge: Judging | None = None  #: what says more than the checker, of many completions at once


class Questions(Protocol):
    """What learning takes its questions from, such as ``tasks.Task``."""

    @property
    def name(self) -> str: ...

    def batch(self, number: int, size: int) -> list[Example]:
        """``size`` examples to learn from, the same ones for the same number."""
        ...

    def held_out(self, count: int) -> list[Example]:
        """At most ``count`` examples that no batch contains, always the same ones."""
        ...


def answer_of(completion: str, form: Format, ended: bool = True) -> str | None:
    """The answer, stripped; None where there is none in the format ``form``.

    ended: False for a completion that the limit of tokens has cut off.
    """
    if not ended and not form.close:
        return None
    found = (form.find or partial(_marked, form))(completion)
    found = (found or "").strip()
    return found if 0 < len(found) <= LONGEST else None


def _marked(form: Format, completion: str) -> str | None:
    """What stands behind the one marker, and before what closes it, where the format closes it."""
    if completion.count(form.open.strip()) != 1 or form.open not in completion:
        return None
    found = completion.partition(form.open)[2]
    if not form.close:
        return found
    found, close, behind = found.partition(form.close)
    return found if close and not behind.strip() else None


def reward(completion: str, example: Example, ended: bool = True) -> dict[str, float]:
    """The named parts of a completion's reward, all finite.

    accuracy: 1 where the answer is right, else 0. partial: the checker's score in [0, 1], which in
    some data sets is above 0 for nearly right answers, and in the others equals accuracy. format: 1
    where the completion has the form asked for, else 0. length: its characters. ended: 1 unless the
    limit cut it off.
    """
    answer = answer_of(completion, example.format, ended)
    score = 0.0 if answer is None else answer_score(answer, example)
    return {"accuracy": float(score >= 1), "partial": score,
            "format": float(answer is not None and _formed(completion, example.format)),
            "length": float(len(completion)), "ended": float(ended)}


def answer_score(answer: str, example: Example) -> float:
    """The checker's score of an answer, in [0, 1]; 0 for answers that it cannot read."""
    try:
        if example.checker == "reasoning-gym":
            assert example.score is not None
            value = float(example.score(answer))
        else:
            value = float(CHECKERS[example.checker](answer, example))
    except Exception:  # a data set's own code, on a text that may be anything
        return 0.0
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def same_text(answer: str, example: Example) -> float:
    """1 for the same text, apart from spaces at its ends."""
    return float(answer.strip() == example.answer.strip())


def same_number(answer: str, example: Example) -> float:
    """1 for the same number; a sign, leading zeros, commas, decimals and a / b are allowed."""
    wanted, found = parsed_number(example.answer), parsed_number(answer)
    return float(found is not None and found == wanted)


def countdown(answer: str, example: Example) -> float:
    """1 for an expression of + - * / and brackets that uses each of the numbers once and whose
    exact value is the target (metadata: numbers, target); 0.05 where only the numbers are right."""
    found = arithmetic(answer)
    if found is None or sorted(found[1]) != sorted(example.metadata["numbers"]):
        return 0.0
    return 1.0 if found[0] == example.metadata["target"] else 0.05


def right_move(answer: str, example: Example) -> float:
    """1 for one of the texts that count as right (metadata: right; else the answer)."""
    return float(answer in example.metadata.get("right", (example.answer,)))


CHECKERS: dict[str, Callable[[str, Example], float]] = {
    "exact": same_text, "number": same_number, "countdown": countdown, "move": right_move}

#: A calculation of whole numbers, not the rest of a longer one.
_STEP = re.compile(r"(?<![\d.+*/=-])(\d{1,18}(?:\s*[-+*/]\s*\d{1,18}){1,8})\s*=\s*"
                   r"(-?\d{1,18})(?![\d.])", re.ASCII)
_NUMBER = re.compile(r"([+-]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/(\d+))?", re.ASCII)


def parsed_number(text: str) -> Fraction | None:
    """The number that ``text`` is, wholly and in ASCII digits; None otherwise."""
    text = text.strip()
    found = _NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if not found or (found[3] and not int(found[3])):
        return None
    value = Fraction(found[2].replace(",", "")) / int(found[3] or 1)
    return -value if found[1] == "-" else value


def arithmetic(text: str) -> tuple[Fraction, list[int]] | None:
    """(exact value, the integers used in order) of an expression of + - * / and brackets."""
    if not re.fullmatch(r"[0-9+\-*/() ]{1,200}", text, re.ASCII):
        return None
    used: list[int] = []
    try:
        return _exact_result_of(ast.parse(text.strip(), mode="eval").body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _exact_result_of(node: ast.AST, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_exact_result_of(node.operand, used)
    if not isinstance(node, ast.BinOp):
        raise ValueError("not arithmetic")
    a, b = _exact_result_of(node.left, used), _exact_result_of(node.right, used)
    if isinstance(node.op, ast.Add):
        return a + b
    if isinstance(node.op, ast.Sub):
        return a - b
    if isinstance(node.op, ast.Mult):
        return a * b
    if isinstance(node.op, ast.Div):
        return a / b
    raise ValueError("not arithmetic")


class Step(NamedTuple):
    """A step of a chain of thought: a calculation that is written out, such as 3+4=7."""

    end: int  #: where it ends in the text
    right: bool
    left: bool  #: no later step uses what it gives: a dead end, unless it is the last


def steps_of(text: str) -> list[Step]:
    """The steps that stand in a text, each checked by arithmetic."""
    found = list(_STEP.finditer(text))
    used = set[int]()
    steps: list[Step] = []
    for place, one in reversed(list(enumerate(found))):
        right = _result_of(one[1]) == int(one[2])
        steps.append(Step(one.end(), right, place + 1 < len(found) and int(one[2]) not in used))
        used.update(map(int, re.findall(r"\d+", one[1])))
    return steps[::-1]


@lru_cache(maxsize=1 << 14)
def _result_of(text: str) -> Fraction | None:
    found = arithmetic(text)
    return None if found is None else found[0]


def step_figures(texts: Sequence[str], right: Sequence[bool]) -> dict[str, float]:
    """Means over completions. steps: that are written out; wrong_steps: share of them that are
    wrong; aha: share of the completions that are right after a wrong step or a dead end, so that
    they went back; mended: that are right after a wrong step. right: which answers are."""
    rows = [steps_of(text) for text in texts]
    count, whole = sum(map(len, rows)), max(len(texts), 1)
    return {"steps": count / whole,
            "wrong_steps": sum(not step.right for row in rows for step in row) / max(count, 1),
            "aha": sum(good and any(step.left or not step.right for step in row)
                       for row, good in zip(rows, right, strict=True)) / whole,
            "mended": sum(good and any(not step.right for step in row)
                          for row, good in zip(rows, right, strict=True)) / whole}


def marked_steps(text: str) -> str:
    """``text`` with its steps judged in place: WRONG behind wrong ones, LEFT behind dead ends."""
    for step in reversed(steps_of(text)):
        mark = LEFT * step.left if step.right else WRONG
        text = text[:step.end] + mark + text[step.end:]
    return text


def _formed(completion: str, form: Format) -> bool:
    """Whether one chain of thought stands before the answer, where the format wants one."""
    opened, closed = form.chain
    if not opened:
        return True
    before = completion.partition(form.open)[0].strip()
    return (before.startswith(opened) and before.endswith(closed)
            and completion.count(opened) == 1 and completion.count(closed) == 1)
