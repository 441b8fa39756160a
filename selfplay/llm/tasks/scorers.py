"""Scores of answers to reasoning-gym, in whose data sets some scores are too generous and some can
be made to run for ever.

A data set's score is used last, for answers of bounded length, in ASCII or characters of the
question, that cannot make it run without end. Where a question has a single right answer, an answer
that the data set calls right must also be that one.

Integrals and polynomials are judged by sympy. A short text can keep sympy busy for ever
(9**9**9**9), so it works in a separate process, with limits on time and memory.
"""

from __future__ import annotations

import ast
import copy
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from selfplay.common.errors import UserError
from selfplay.llm.rewards import arithmetic, parsed_number

LONGEST = 1000  #: characters of an answer, or twice the wanted one's where that is more

#: Data sets that have no safe score, and why.
REFUSED = {
    "composite": "it mixes data sets; name one of them",
    "propositional_logic": "a premise that is copied out counts as right; "
                           "try knights_knaves or circuit_logic",
}

#: Data sets that check an answer by working it through: there are several right answers, or several
#: ways to write the one. All others have one right answer.
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
    longest, scored_here = max(LONGEST, 2 * len(wanted)), SCORED_HERE.get(name)
    shape = SHAPES.get(name)

    def score(answer: str) -> float:
        answer = answer.strip()
        if not 0 < len(answer) <= longest or not all(c.isascii() or c in shown for c in answer):
            return 0.0
        if scored_here is not None:
            return float(scored_here(answer, entry))
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
    """Whether two texts are the same number, the same JSON, or the same but for spaces and case."""
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
    """The number that ``text`` is, in ASCII digits, with an exponent of up to two digits or none;
    None for other texts."""
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
    """1 within a thousandth of the value, relative to it: 0 does not pass for a small value."""
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
    """exp(-distance), as in the data set, but 1 only for exactly the number."""
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


#: Data sets whose own score is not used.
SCORED_HERE: dict[str, Callable[[str, Entry], float]] = {
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


# --------------------------------------------------------------------------------------- algebra

SECONDS = 0.5  #: of processor time that sympy gets for a question; most take 0.01, few 0.04
MEMORY = 2 << 30  #: bytes that its process may take
NODES = 500  #: of a formula's syntax tree
DEGREE, BITS = 30, 512  #: largest degree of a polynomial, longest part of a coefficient
DIGITS, NEAR = 250, 200  #: decimal digits computed, and those that must agree
FUNCTIONS = ("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
             "tanh")
#: Points of evaluation: not simple numbers, on both sides of zero, inside and outside |x| = 1.
POINTS = (("0.3183098861", "0.1193662073"), ("-0.4142135623", "0.2236067977"),
          ("1.6180339887", "-0.3010299956"), ("-2.2360679774", "-0.1414213562"))

_SUMS, _PRODUCTS = (ast.Add, ast.Sub), (ast.Mult, ast.Div, ast.Pow)
_SYNTAX = (ast.BinOp, ast.UnaryOp, ast.USub, ast.UAdd, ast.Load, *_SUMS, *_PRODUCTS)
_lock = threading.Lock()


def is_antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of ``answer`` (C: any constant) is ``integrand``."""
    found, wanted = formula(answer, {variable, "C"}), formula(integrand, {variable})
    if found is None or wanted is None:
        return False
    return bool(_ask_sympy("antiderivative", ast.unparse(found), ast.unparse(wanted), variable))


def polynomial(text: str, names: Collection[str]) -> dict[tuple[int, ...], Fraction] | None:
    """{exponents of the sorted names: coefficient} of a sum of products; None for other forms.

    Products of sums are another form: a question copied out is no answer to it.
    """
    tree = formula(text, names)
    if tree is None or _degree(tree) > DEGREE or any(
            _is(inner, _SUMS) for node in ast.walk(tree) if _is(node, _PRODUCTS)
            for inner in ast.walk(node)):
        return None
    terms = _ask_sympy("polynomial", ast.unparse(tree), *sorted(names))
    return None if terms is None else {tuple(powers): Fraction(value) for powers, value in terms}


def _degree(node: ast.AST) -> int:
    """The degree of a formula as it is written, before anything cancels."""
    if isinstance(node, ast.BinOp):
        left, right = _degree(node.left), _degree(node.right)
        if isinstance(node.op, ast.Mult):
            return left + right
        if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
            power: Any = node.right.value  # a number, as ``_allowed`` has seen to it
            return left * int(abs(power))
        return max(left, right)
    if isinstance(node, ast.UnaryOp):
        return _degree(node.operand)
    return int(isinstance(node, ast.Name)) if not isinstance(node, ast.Call) else max(
        map(_degree, node.args), default=0)


def formula(text: str, names: Collection[str]) -> ast.expr | None:
    """The syntax tree of a formula in ``names``: numbers, + - * / ** and FUNCTIONS of one
    argument. None for any other text: sympy runs what it is given."""
    if len(text) > LONGEST or not text.isascii():
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = list(ast.walk(tree))
        good = len(nodes) <= NODES and all(_allowed(node, names) for node in nodes)
        calls = sum(isinstance(node, ast.Call) for node in nodes)
        named = sum(isinstance(node, ast.Name) and node.id in FUNCTIONS for node in nodes)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if good and calls == named else None


def _allowed(node: ast.AST, names: Collection[str]) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Name):
        return node.id in names or node.id in FUNCTIONS
    if isinstance(node, ast.Call):
        return (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
                and len(node.args) == 1 and not node.keywords)
    return isinstance(node, _SYNTAX)


def _is(node: ast.AST, operators: tuple[type, ...]) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, operators)


@lru_cache(maxsize=4096)
def _ask_sympy(*question: str) -> Any:
    """The answer of a function of ``QUESTIONS``, given by name with its arguments; None where it
    fails or takes too long."""
    with _lock:
        worker = _worker(os.getpid())
        try:
            worker.stdin.write(json.dumps(question) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except OSError:
            line = ""
        if not line:  # a limit has ended the process
            worker.kill()
            worker.communicate()
            _worker.cache_clear()
        return json.loads(line or "null")


@lru_cache(maxsize=1)
def _worker(parent: int) -> Any:
    """The process in which sympy works for the process ``parent``, with which it ends."""
    code = ("import sys; sys.path[:] = sys.argv[1:]; "
            "from selfplay.llm.tasks.scorers import answer_questions; answer_questions()")
    worker = subprocess.Popen(
        [sys.executable, "-c", code, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True)  # Ctrl-C does not reach it
    if worker.stdout is None or not worker.stdout.readline():
        raise UserError("sympy does not start, which judges integrals and polynomials; "
                        'pip install -e ".[llm]"')
    return worker


def answer_questions() -> None:
    """Answer each line of stdin, a question as JSON, by a line of stdout.

    Where a question takes more than SECONDS of processor time, the kernel ends the process,
    whatever it is doing. It is processor time so that a busy machine gives the same verdicts.
    """
    import resource
    import signal

    import sympy

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(sympy.__version__), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found = QUESTIONS[name](*arguments)
        except Exception:  # sympy has many; after none of them is the answer right
            found = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found), flush=True)


def _expression(text: str, *names: str) -> Any:
    """sympy's expression of a formula; decimal numbers are exact."""
    import sympy
    from sympy.parsing.sympy_parser import auto_number, parse_expr, rationalize

    known = {name: getattr(sympy, name) for name in (*FUNCTIONS, "Integer", "Float", "Rational")}
    known |= {name: sympy.Symbol(name) for name in names} | {"__builtins__": {}}
    return parse_expr(text, {}, (auto_number, rationalize), known)


def _antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether the derivative agrees with the integrand at four complex points."""
    import mpmath
    import sympy

    name = sympy.Symbol(variable)
    slope, wanted = (sympy.lambdify(name, expression, "mpmath") for expression in (
        sympy.diff(_expression(answer, variable, "C"), name), _expression(integrand, variable)))
    with mpmath.workdps(DIGITS):
        near = mpmath.mpf(10) ** -NEAR
        for point in POINTS:
            z = mpmath.mpc(*point)
            if not abs(wanted(z) - slope(z)) <= near * (1 + abs(wanted(z))):
                return False
    return True


def _polynomial(text: str, *names: str) -> list[Any] | None:
    """[exponents, "p/q"] of each term."""
    import sympy

    found = sympy.Poly(_expression(text, *names), *map(sympy.Symbol, names), domain="QQ")
    terms = [(powers, value) for powers, value in found.terms() if value]
    if any(sum(powers) > DEGREE or value.p.bit_length() + value.q.bit_length() > BITS
           for powers, value in terms):
        return None
    return [[powers, f"{value.p}/{value.q}"] for powers, value in terms]


QUESTIONS: dict[str, Callable[..., Any]] = {
    "antiderivative": _antiderivative, "polynomial": _polynomial}
