"""The process in which code of the user's own runs, and what it says to its parent.

One line of JSON asks, one answers. A call is interrupted by an alarm when its time is up; where
that does not help (a call of C that never ends), the parent ends the process. What the code prints
goes to stderr. Nothing heavy is imported here but what the user's file imports.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import selfplay
from selfplay.common.errors import UserError
from selfplay.common.interrupt import alarm
from selfplay.common.words import clip
from selfplay.games import own

SHOWN = 160  #: characters of a failure


class TimeUp(BaseException):
    """The call has taken too long; no ``except Exception`` of the user's swallows it."""


def built(words: str, wanted: str) -> Any:
    """The thing that ``path.py:NAME(key=value)`` names: of a class an object, of a function that
    needs no more arguments what it returns; a function that needs some, and anything else, as it
    is.

    Raises UserError where the file, the name or a parameter is wrong, or where making it fails.
    """
    thing = own.object_of(words, wanted, UserError)
    if not callable(thing):
        return thing
    given = own.keywords(words, own.arguments_of(words), thing, (), UserError)
    if not inspect.isclass(thing) and any(
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            for p in inspect.signature(thing).parameters.values()):
        return update_wrapper(partial(thing, **given), thing)
    try:
        return thing(**given)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{words}: {failure_of(error)}") from error


def reward_functions(thing: Any, words: str) -> list[Callable[..., Any]]:
    """The reward functions of what ``words`` name: itself, or the ones of a task's ``reward``."""
    found = getattr(thing, "reward", thing)
    many = list(found) if isinstance(found, list | tuple) else [found]
    if not many or not all(callable(one) for one in many):
        raise UserError(f"{words}: a function (completions, examples) -> {{name: [number]}} wanted")
    return many


def failure_of(error: BaseException) -> str:
    """A failure of the user's code in a line: what, why, where."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = os.path.dirname(os.path.abspath(selfplay.__file__)) + os.sep
    theirs = [f for f in frames if not f.filename.startswith((mine, "<frozen"))]
    place = f", {os.path.basename(theirs[-1].filename)} line {theirs[-1].lineno}" if theirs else ""
    return clip(f"{type(error).__name__}: {error}", SHOWN) + place


def awaited(found: Any) -> Any:
    """``found``, or what comes of it where it is to be awaited."""
    async def wait() -> Any:
        return await found

    return asyncio.run(wait()) if inspect.isawaitable(found) else found


def attempt(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """{"value": what the call gives} or {"failed": why it gives nothing}."""
    try:
        with alarm(seconds, TimeUp()):
            return {"value": awaited(call())}
    except TimeUp:
        return {"failed": f"no value within {seconds:g} s"}
    except Exception as error:
        return {"failed": failure_of(error)}


def serve_lines(answer: Callable[[Any], Any]) -> None:
    """Answer each line of stdin by a line of stdout, both of which are the user's code's no more.
    The first line is sent unasked: that the process is ready, or why not."""
    asked = os.fdopen(os.dup(0), "r", encoding="utf-8")
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    for line in asked:
        said.write(json.dumps(answer(json.loads(line))) + "\n")
        said.flush()


def plain_values(found: Any, name: str) -> dict[str, list[float | None]]:
    """What a reward function returned as JSON; None stands for what is no number. Raises TypeError
    for anything but numbers by name, or numbers alone, which have the function's name."""
    named = found if isinstance(found, dict) else {name: found}
    if not all(hasattr(values, "__len__") and not isinstance(values, str)
               for values in named.values()):
        raise TypeError(f"{clip(repr(found), 60)} returned, where lists of numbers by name are "
                        "wanted")

    def number(value: Any) -> float | None:
        try:
            return float(value)
        except (TypeError, ValueError):
            return None

    return {str(key): [number(value) for value in values] for key, values in named.items()}


def judge_completions() -> None:
    """Judge what the parent asks: {"words"} once, then {"completions", "examples", "seconds"}; the
    answer has for each function its name and ``attempt``'s outcome."""
    functions: list[tuple[str, Callable[..., Any]]] = []

    def answer(line: dict[str, Any]) -> Any:
        if "words" in line:
            try:
                for words in line["words"]:
                    functions.extend((getattr(one, "__name__", "reward"), one) for one in
                                     reward_functions(built(words, "a reward function"), words))
            except UserError as error:
                return {"refused": str(error)}
            return {"functions": [name for name, _ in functions]}
        texts, examples = line["completions"], line["examples"]

        def value(name: str, function: Callable[..., Any]) -> Any:
            return plain_values(awaited(function(list(texts), [dict(e) for e in examples])), name)

        return [{"name": name, **attempt(partial(value, name, function), line["seconds"])}
                for name, function in functions]

    serve_lines(answer)

