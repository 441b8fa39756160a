"""Formulas in a text: bounded before anything is done with them, then checked by own arithmetic.

Nothing here runs the text or hands it to a computer algebra system: a short text can ask such a
system for work without end (((9**99)**99)**99). Integrals are checked by differentiating at four
complex points to 200 digits, products of polynomials by their exact coefficients.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import Any

LONGEST = 1000  #: characters
NODES, DEPTH = 500, 100  #: of the syntax tree
DEGREE = 30  #: the most that nested exponents may multiply to, products adding up
BITS = 512  #: size of the numbers that constants may make
DIGITS, NEAR = 250, 200  #: decimal digits reckoned with, and those that must agree
LARGE = 1000  #: size of a function's argument

#: Points of evaluation: no simple numbers, on both sides of zero, inside and outside |x| = 1.
POINTS = (("0.3183098861", "0.1193662073"), ("-0.4142135623", "0.2236067977"),
          ("1.6180339887", "-0.3010299956"), ("-2.2360679774", "-0.1414213562"))

Dual = tuple[Any, Any]  #: a value and its derivative

#: name: the derivative at z, given mpmath and the function's value there.
FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "exp": lambda m, z, f: f,
    "log": lambda m, z, f: 1 / z,
    "sqrt": lambda m, z, f: 1 / (2 * f),
    "sin": lambda m, z, f: m.cos(z),
    "cos": lambda m, z, f: -m.sin(z),
    "tan": lambda m, z, f: 1 + f * f,
    "asin": lambda m, z, f: 1 / m.sqrt(1 - z * z),
    "acos": lambda m, z, f: -1 / m.sqrt(1 - z * z),
    "atan": lambda m, z, f: 1 / (1 + z * z),
    "sinh": lambda m, z, f: m.cosh(z),
    "cosh": lambda m, z, f: m.sinh(z),
    "tanh": lambda m, z, f: 1 - f * f,
}


def formula(text: str, names: Collection[str]) -> ast.expr | None:
    """The syntax tree of a formula in ``names``; None unless it keeps to every bound above.

    Numbers, ``names``, + - * /, ** with a constant exponent and one-argument FUNCTIONS.
    """
    if len(text) > LONGEST or not text.isascii():
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if sum(1 for _ in ast.walk(tree)) > NODES:
            return None
        degree, bits = _sizes(tree, frozenset(names), DEPTH)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return tree if degree <= DEGREE and bits <= BITS else None


def is_antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of ``answer`` (C: any constant) is ``integrand``."""
    wanted = formula(integrand, {variable})
    found = formula(answer, {variable, "C"})
    if wanted is None or found is None:
        return False
    from mpmath import MPContext

    m = MPContext()
    m.dps = DIGITS
    try:
        for real, imaginary in POINTS:
            names = {variable: (m.mpc(real, imaginary), m.mpf(1)), "C": (m.mpf(1), m.mpf(0))}
            value, slope = _dual(wanted, names, m)[0], _dual(found, names, m)[1]
            if not abs(value - slope) <= m.mpf(10) ** -NEAR * (1 + abs(value)):
                return False
    except (ValueError, ArithmeticError, RecursionError, m.ComplexResult):
        return False
    return True


def polynomial(text: str, names: Collection[str]) -> dict[tuple[int, ...], Fraction] | None:
    """{exponents of the sorted names: coefficient} of a sum of products; None for other forms.

    Products of sums are another form: a question copied out is no answer to it.
    """
    tree = formula(text, names)
    if tree is None:
        return None
    total: dict[tuple[int, ...], Fraction] = {}
    try:
        _add(tree, Fraction(1), sorted(names), total)
    except (ValueError, ArithmeticError):
        return None
    return {powers: value for powers, value in total.items() if value}


def _sizes(node: ast.AST, names: frozenset[str], left: int) -> tuple[Fraction, Fraction]:
    """(degree, bits) that bound a tree without working it out. ValueError: not a formula."""
    if left == 0:
        raise ValueError("too deep")
    if isinstance(node, ast.Constant):
        return Fraction(0), Fraction(_bits(node.value))
    if isinstance(node, ast.Name) and node.id in names:
        return Fraction(1), Fraction(1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _sizes(node.operand, names, left - 1)
    if isinstance(node, ast.Call):
        if (not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS
                or len(node.args) != 1 or node.keywords):
            raise ValueError("no such function")
        return _sizes(node.args[0], names, left - 1)
    if not isinstance(node, ast.BinOp):
        raise ValueError("not a formula")
    degree, bits = _sizes(node.left, names, left - 1)
    if isinstance(node.op, ast.Pow):
        times = max(abs(_constant(node.right, left - 1)), Fraction(1))
        return degree * times, bits * times
    other, more = _sizes(node.right, names, left - 1)
    if isinstance(node.op, ast.Add | ast.Sub):
        return max(degree, other), max(bits, more) + 1
    if isinstance(node.op, ast.Mult | ast.Div):
        return degree + other, bits + more
    raise ValueError("not a formula")


def _bits(value: object) -> int:
    if type(value) is int:
        return value.bit_length()
    if type(value) is not float or not math.isfinite(value):
        raise ValueError("no number")
    top, bottom = value.as_integer_ratio()
    return top.bit_length() + bottom.bit_length()


def _constant(node: ast.AST, left: int) -> Fraction:
    """An exponent's value: whole numbers below 1000 and their quotients, with a sign."""
    if left > 0:
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 1000:
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = _constant(node.operand, left - 1)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            if isinstance(node.left, ast.BinOp) or isinstance(node.right, ast.BinOp):
                raise ValueError("no simple fraction")
            return _constant(node.left, left - 1) / _constant(node.right, left - 1)
    raise ValueError("not a constant exponent")


def _dual(node: ast.AST, names: dict[str, Dual], m: Any) -> Dual:
    """A tree's value and derivative."""
    if isinstance(node, ast.Constant):
        return m.mpf(repr(node.value)), m.mpf(0)
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        value, slope = _dual(node.operand, names, m)
        return (-value, -slope) if isinstance(node.op, ast.USub) else (value, slope)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        value, slope = _dual(node.args[0], names, m)
        if not abs(value) < LARGE:
            raise ValueError("too large an argument")
        result = getattr(m, node.func.id)(value)
        return result, FUNCTIONS[node.func.id](m, value, result) * slope
    assert isinstance(node, ast.BinOp)
    a, da = _dual(node.left, names, m)
    if isinstance(node.op, ast.Pow):
        exponent = _constant(node.right, DEPTH)
        if exponent == 0:
            return m.mpf(1), m.mpf(0)
        power = m.mpf(exponent.numerator) / exponent.denominator
        result = a**power
        return result, power * result / a * da
    b, db = _dual(node.right, names, m)
    if isinstance(node.op, ast.Add):
        return a + b, da + db
    if isinstance(node.op, ast.Sub):
        return a - b, da - db
    if isinstance(node.op, ast.Mult):
        return a * b, a * db + b * da
    return a / b, (da * b - a * db) / (b * b)


def _add(
    node: ast.AST, sign: Fraction, names: list[str], total: dict[tuple[int, ...], Fraction]
) -> None:
    """Adds the terms of a sum to ``total``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        _add(node.left, sign, names, total)
        _add(node.right, -sign if isinstance(node.op, ast.Sub) else sign, names, total)
    elif isinstance(node, ast.UnaryOp):
        _add(node.operand, -sign if isinstance(node.op, ast.USub) else sign, names, total)
    else:
        value, powers = _monomial(node, names)
        total[powers] = total.get(powers, Fraction(0)) + sign * value


def _monomial(node: ast.AST, names: list[str]) -> tuple[Fraction, tuple[int, ...]]:
    """(coefficient, exponents) of a product. ValueError: not one."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value)), (0,) * len(names)
    if isinstance(node, ast.Name):
        return Fraction(1), tuple(int(name == node.id) for name in names)
    if isinstance(node, ast.UnaryOp):
        value, powers = _monomial(node.operand, names)
        return (-value if isinstance(node.op, ast.USub) else value), powers
    if isinstance(node, ast.BinOp):
        value, powers = _monomial(node.left, names)
        if isinstance(node.op, ast.Pow):
            exponent = _constant(node.right, DEPTH)
            if exponent.denominator == 1 and exponent >= 0:
                return value ** int(exponent), tuple(p * int(exponent) for p in powers)
        other, more = _monomial(node.right, names)
        if isinstance(node.op, ast.Mult):
            return value * other, tuple(p + q for p, q in zip(powers, more, strict=True))
        if isinstance(node.op, ast.Div) and not any(more):
            return value / other, powers
    raise ValueError("no sum of products")
