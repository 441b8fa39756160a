"""Formulas: what sympy is never given, what it is stopped at, integrals and products by hand."""

from __future__ import annotations

import os
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sympy", reason='pip install -e ".[llm]"')

from selfplay.llm.tasks import scorers
from selfplay.llm.tasks.scorers import FUNCTIONS, formula, is_antiderivative, polynomial

ENDLESS = ["((((9**99)**99)**99)**99)", "9**9**9**9", "((x+1)**99)**99", "(x+1)**99",
           "((((x+1)**9)**9)**9)**9", "sin(" * 90 + "x" + ")" * 90 + "**99", "x**x", "9**(9**9)",
           "(" * 400 + "x" + ")" * 400, "-" * 900 + "x", "x" + "+x" * 480, "9" * 900,
           "exp(1)**999", "2**-999", "1e300", "x**1e9", "x**999"]
FOREIGN = ["", "y", "x(1)", "f(x)", "sin(x, x)", "sin(x=1)", "x.real", "x[0]", "[x]",
           "x if x else x", "lambda: x", "x//2", "x%2", "x^2", "x<1", "'x'", "1j", "True",
           "(x:=1)", "sin", "x x", "2x", "ｘ", "x**½", "__import__('os')", "Integral(x, x)",
           "nan", "inf", "x\nx", "\0"]


@pytest.mark.parametrize("text", FOREIGN)
def test_what_is_no_formula_is_not_given_to_sympy(text: str) -> None:
    assert formula(text, {"x"}) is None


@pytest.mark.parametrize("text", ENDLESS + FOREIGN)
def test_what_is_no_bounded_formula_is_none(text: str) -> None:
    assert polynomial(text, {"x"}) is None
    assert not is_antiderivative(text, "2*x", "x")


@pytest.mark.parametrize("text", ["x", "-2*x**3/5 + 1.5", "(x+1)**5*sin(x)**2", "x**(3/2)",
                                  "exp(-6*x - 10)", "((x**2)**3)**4", "x**-2", "+x"])
def test_formulas(text: str) -> None:
    assert formula(text, {"x"}) is not None


def _joined(pair: tuple[tuple[str, int], str, tuple[str, int]]) -> tuple[str, int]:
    (a, m), sign, (b, n) = pair
    return f"({a}){sign}({b})", m + n if sign == "*" else max(m, n)


TERMS = st.recursive(
    st.sampled_from([("x", 1), ("1", 0), ("7", 0), ("x", 1)]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(_joined)
    | st.tuples(inner, st.integers(1, 99)).map(lambda p: (f"({p[0][0]})**{p[1]}", p[0][1] * p[1]))
    | st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(
        lambda p: (f"{p[0]}({p[1][0]})", p[1][1])),
    max_leaves=12)


@settings(deadline=None, max_examples=300)
@given(TERMS)
def test_no_nesting_gets_round_the_degree(term: tuple[str, int]) -> None:
    text, degree = term
    if degree > scorers.DEGREE:
        assert polynomial(text, {"x"}) is None
    assert is_antiderivative(text, "5*x**4 + 77", "x") is False


@settings(deadline=None, max_examples=200)
@given(st.text() | st.text(alphabet="x19+-*/(). ,sincoexpC"))
def test_every_text_is_read_without_an_error(text: str) -> None:
    formula(text, {"x"})
    polynomial(text, {"x"})
    is_antiderivative(text, "2*x", "x")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9**6), st.integers(0, 9)),
                min_size=1, max_size=12), st.randoms())
def test_polynomials_are_their_values(terms: list[tuple[str, int, int]], random) -> None:
    """By Python's own arithmetic at more points than the degree; in any order of the terms."""
    text = "".join(f"{sign}{c}*x**{n}" for sign, c, n in terms)
    found = polynomial(text, {"x"})
    assert found is not None
    for x in range(-6, 6):
        value = sum((c if sign == "+" else -c) * x**n for sign, c, n in terms)
        assert sum(c * Fraction(x) ** n for (n,), c in found.items()) == value
    random.shuffle(terms)
    assert polynomial("".join(f" {s} x**{n} * {c} " for s, c, n in terms), {"x"}) == found


@pytest.mark.parametrize("text", ["(x + 1)*(x - 1)", "x*(x + 1)", "(x+1)**2", "1/x", "x**-1",
                                  "sin(x)", "x**(1/2)", "2/(1-1)"])
def test_what_is_no_sum_of_products_is_no_polynomial(text: str) -> None:
    assert polynomial(text, {"x"}) is None


@pytest.mark.parametrize(("answer", "integrand"), [
    ("x**2 + C", "2*x"), ("x**2", "2*x"), ("C + x*x - 7", "2*x"),
    ("-2*x**3/3 + x + C", "1 - 2*x**2"), ("(x+1)**5/5", "(x+1)**4"),
    ("x*log(x) - x + C", "log(x)"), ("-4*(-2*x - 8)**(3/2)/3 + C", "4*sqrt(-2*x - 8)"),
    ("x*asin(3*x) + sqrt(1 - 9*x**2)/3 + C", "asin(3*x)"),
    ("3*x*atan(x) - 3*log(x**2 + 1)/2 + C", "3*atan(x)"), ("x*acos(x) - sqrt(1-x**2)", "acos(x)"),
    ("sin(x)**2/2 + C", "sin(x)*cos(x)"), ("-cos(2*x)/4 + C", "sin(x)*cos(x)"),
    ("-log(cos(x))", "tan(x)"), ("cosh(x) + sinh(x)", "exp(x)"), ("log(cosh(x))", "tanh(x)"),
    ("tan(x)", "1/cos(x)**2"), ("tanh(x)", "1/cosh(x)**2"),
])
def test_integrals(answer: str, integrand: str) -> None:
    assert is_antiderivative(answer, integrand, "x")
    assert not is_antiderivative(f"{answer} + x/10**9", integrand, "x")
    assert not is_antiderivative(integrand if integrand != "exp(x)" else "2*exp(x)", integrand, "x")
    assert not is_antiderivative("C", integrand, "x")


def test_a_question_without_end_is_stopped_and_the_next_one_answered() -> None:
    """By the processor's time, not by the clock's; in a new process."""
    assert is_antiderivative("x**2", "2*x", "x")
    first = scorers._worker(os.getpid())
    before = time.monotonic(), sum(os.times()[2:4])
    assert not is_antiderivative("x**2 + 9**9**9", "2*x", "x")
    took, worked = time.monotonic() - before[0], sum(os.times()[2:4]) - before[1]
    assert first.poll() is not None and took < 60
    assert scorers.SECONDS * 0.9 < worked < scorers.SECONDS + 5, "its start counts as well"
    assert is_antiderivative("x**2 + 1", "2*x", "x")
    assert scorers._worker(os.getpid()) is not first


def test_a_question_that_eats_memory_is_wrong() -> None:
    assert polynomial("x**1e9", {"x"}) is None
    assert polynomial("x**2", {"x"}) == {(2,): Fraction(1)}


def test_sympy_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than every answer being wrong."""
    scorers._worker.cache_clear()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(scorers.UserError, match="sympy does not start"):
        is_antiderivative("x**2 + 2", "2*x", "x")
