"""The process in which environments of the user's own run; see ``judges.worker``.

An environment has ``reset(seed) -> messages`` and ``step(text) -> (messages, reward, done)``; one
object is one conversation. Both may be async.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.llm.judges.worker import attempt, awaited, built, serve_lines

MOST = 1e6  #: size of a reward


def hold_conversations() -> None:
    """Keep conversations for the parent: {"words"} once, then {"calls", "seconds", "fresh"}, where
    fresh drops the conversations so far.

    A call is [number, "reset", seed] or [number, "step", text]; its answer has {"value":
    {"messages"}} or {"value": {"messages", "reward", "done"}}, or {"failed"}.
    """
    held: dict[int, Any] = {}
    words: list[str] = []

    def answer(line: dict[str, Any]) -> Any:
        if "words" in line:
            words.extend(line["words"])
            try:
                must_be_environment(words[0])
            except UserError as error:
                return {"refused": str(error)}
            return {}
        if line["fresh"]:
            held.clear()
        return [attempt(partial(_call, held, words[0], *call), line["seconds"])
                for call in line["calls"]]

    serve_lines(answer)


def must_be_environment(words: str) -> None:
    """Raises UserError where ``words`` name no class with ``reset`` and ``step``."""
    made = built(words, "an environment")
    for name in ("reset", "step"):
        if not callable(getattr(made, name, None)):
            raise UserError(f"{words}: no {name} in it; a class with reset(seed) -> messages and "
                            "step(text) -> (messages, reward, done) wanted")


def _call(held: dict[int, Any], words: str, number: int, what: str, given: Any) -> Any:
    if what == "reset":
        held[number] = built(words, "an environment")
        return {"messages": messages_of(awaited(held[number].reset(given)))}
    found = awaited(held[number].step(given))
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise TypeError(f"step gave {clip(repr(found), 60)}; (messages, reward, done) wanted")
    said, reward, done = found
    reward = float(reward)
    if not abs(reward) <= MOST or math.isnan(reward):
        raise ValueError(f"step gave the reward {reward}; a finite number up to 1e6 wanted")
    done = bool(done)
    return {"messages": [] if done else messages_of(said, "user"), "reward": reward, "done": done}


def messages_of(said: Any, role: str = "user") -> list[dict[str, str]]:
    """Messages of a text, or of dicts of role and content. Raises TypeError for anything else."""
    rows = [{"role": role, "content": said}] if isinstance(said, str) else said
    if not isinstance(rows, list | tuple) or not rows or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str) for m in rows):
        raise TypeError(f"messages {clip(repr(said), 60)}; a text, or a list of "
                        '{"role": ..., "content": ...}, wanted')
    return [dict(m) for m in rows]
