"""Numbers that a program of scripts/ is given, as argparse takes them."""

from __future__ import annotations

from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise ArgumentTypeError(f"{text}: at least 1 wanted")
    return int(text)


def duration(text: str) -> float:
    """A time, more than 0."""
    if not float(text) > 0:  # NaN fails as well
        raise ArgumentTypeError(f"{text}: more than 0 wanted")
    return float(text)
