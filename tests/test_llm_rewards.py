"""Rewards worked by hand, and completions that try to trick them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.llm.rewards import (
    FORMATS,
    Example,
    answer_of,
    arithmetic,
    parsed_number,
    reward,
)

SUM = Example("4-1+7=", "10", "number", format=FORMATS["short"])
R1 = Example("4-1+7=", "10", "number", format=FORMATS["answer"])
GSM = Example("4-1+7=", "10", "number", format=FORMATS["marked"])
THREE = Example("", "", "countdown", {"numbers": [3, 7, 7], "target": 24},
                format=FORMATS["short"])
ALL = [SUM, R1, GSM, THREE]


@pytest.mark.parametrize(("text", "right", "formed"), [
    ("3 10#10", 1, 1),
    ("#10", 1, 1),
    ("3 10# 10 ", 1, 1),
    ("99#10", 1, 1),  # the chain is not judged, the answer is
    ("3 10#+010.0", 1, 1),
    ("#20/2", 1, 1),
    ("3 10#11", 0, 1),
    ("3 10", 0, 0),  # the answer in the chain only
    ("10", 0, 0),
    ("", 0, 0),
    ("#", 0, 0),
    ("3 10#10#10", 0, 0),
    ("#9#10", 0, 0),
    ("#9 or 10", 0, 1),
    ("#answer: 10", 0, 1),
    ("#10 10", 0, 1),
    ("#1e1", 0, 1),
    ("#١٠", 0, 1),  # Arabic digits
    ("#１０", 0, 1),  # full-width digits
    ("#NaN", 0, 1),
    ("#inf", 0, 1),
    ("#10/0", 0, 1),
    ("#" + "0" * 60 + "10", 1, 1),
    ("#" + "0" * 70 + "10", 0, 1),  # longer than a number is looked at
    ("#1" + "0" * 20_000, 0, 0),
    ("#1,0", 0, 1),
    ("#10\n#", 0, 0),
    ("#--10", 0, 1),
])
def test_the_short_format_by_hand(text: str, right: int, formed: int) -> None:
    found = reward(text, SUM)
    assert (found["accuracy"], found["format"]) == (right, formed)
    assert found["length"] == len(text)


@pytest.mark.parametrize(("text", "right", "formed"), [
    ("<think>4-1=3, 3+7=10</think>\n<answer>10</answer>", 1, 1),
    ("<think></think><answer> 10 </answer>\n", 1, 1),
    ("<answer>10</answer>", 1, 0),  # right, but nothing was thought
    ("<think>10</think>", 0, 0),
    ("<think>a</think><answer>10", 0, 0),
    ("<think>a</think><answer>9</answer><answer>10</answer>", 0, 0),
    ("<think>a</think><answer>10</answer> or 11", 0, 0),
    ("<think>a</think><answer></answer>", 0, 0),
    ("<think>a<answer>10</answer></think>", 0, 0),
    ("<think>a</think><think>b</think><answer>10</answer>", 1, 0),
    ("</answer>10<answer>", 0, 0),
])
def test_deepseeks_format_by_hand(text: str, right: int, formed: int) -> None:
    found = reward(text, R1)
    assert (found["accuracy"], found["format"]) == (right, formed)


def test_a_completion_that_was_cut_has_no_answer_but_a_closed_one() -> None:
    """ "#1" may be the beginning of "#10" or of "#12"."""
    assert reward("3 10#10", SUM, ended=False)["accuracy"] == 0
    assert reward("3 10#10", SUM, ended=False)["ended"] == 0
    assert reward("<think></think><answer>10</answer>", R1, ended=False)["accuracy"] == 1


def test_a_marker_with_a_space_is_counted_without_it() -> None:
    assert answer_of("so\n#### 10", GSM.format) == "10"
    assert answer_of("####9\n#### 10", GSM.format) is None


@pytest.mark.parametrize(("text", "value", "partial"), [
    ("#3*(7-7/7)+7-1", 0, 0.0), ("#7*3+7-3", 0, 0.0),
    ("#(3+3/7)*7", 0, 0.0), ("#3+7*7", 0, 0.05), ("#7+7+3", 0, 0.05),
    ("#7*7-3", 0, 0.05), ("#(7-3)*7", 0, 0.05), ("#3*7+7", 0, 0.05),
    ("#3**7**7", 0, 0.0), ("#24", 0, 0.0), ("#7/(3-3)", 0, 0.0), ("#__import__('os')", 0, 0.0),
    ("#" + "(" * 199, 0, 0.0), ("#7//7*3", 0, 0.0),
])
def test_countdown_that_does_not_reach_the_target(text, value, partial) -> None:
    found = reward(text, THREE)
    assert (found["accuracy"], found["partial"]) == (value, partial)


def test_countdown_that_does() -> None:
    """By exact fractions: 8 / (3 - 8/3) is 24, which floats miss."""
    four = Example("", "", "countdown", {"numbers": [3, 3, 8, 8], "target": 24})
    assert reward("8/3 first#8/(3-8/3)", four)["accuracy"] == 1
    assert reward("#8/(3-8/3)+0", four)["accuracy"] == 0
    assert arithmetic("8/(3-8/3)") == (24, [8, 3, 8, 3])


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(alphabet="#0123456789-+/. <>answerthinkNa()*,\n١")
       | st.lists(st.sampled_from(["#", "10", "<answer>", "</answer>", "<think>", "</think>",
                                   "#### ", "5 or 6", "9" * 20_000, " ", "-", "/0"])).map("".join),
       st.sampled_from(ALL), st.booleans())
@case("#" + "9" * 20_000, SUM, True)
def test_every_completion_has_a_reward(text: str, example: Example, ended: bool) -> None:
    found = reward(text, example, ended)
    assert all(math.isfinite(value) for value in found.values())
    assert found["accuracy"] in (0, 1) and 0 <= found["partial"] <= 1
    assert found["format"] in (0, 1)
    answer = answer_of(text, example.format, ended)
    if found["accuracy"]:
        assert answer is not None and answer in text
        if example is not THREE:
            assert parsed_number(answer) == 10


@settings(deadline=None)
@given(st.integers(-10**12, 10**12), st.integers(1, 10**6))
def test_numbers_are_read_as_they_are_written(a: int, b: int) -> None:
    assert parsed_number(str(a)) == a
    assert parsed_number(f"{a:+,}") == a
    assert parsed_number(f"{a}/{b}") == Fraction(a, b)
    assert parsed_number(f"{a}.50") == Fraction(f"{a}.5")
    assert parsed_number(f"{a} {b}") is None


def test_a_checker_that_breaks_gives_nothing() -> None:
    def broken(answer: str) -> float:
        raise ValueError(answer)

    for score in (broken, lambda answer: math.nan, lambda answer: -3.0):
        example = Example("", "", "reasoning-gym", score=score)
        assert reward("#1", example)["partial"] == 0
