"""The user's own nets: functions in files that build them."""

from __future__ import annotations

from functools import partial

from selfplay import models
from selfplay.common.errors import UserError
from selfplay.games import own


def use_net(words: str) -> str:
    """Run the file of ``path.py:build`` so that its nets can be built and loaded. Returns the words
    with the full path, as settings and checkpoints store them.

    The function is called with a ``NetSpec`` and with the arguments in the parentheses, if any.
    Raises UserError if it cannot be used.
    """
    maker = own.object_of(words, "a net", UserError)
    if not callable(maker):
        raise UserError(f"{words}: a function that builds a net wanted")
    more = own.keywords(words, own.arguments_of(words), maker, ("spec",), UserError)
    models.OWN[own.identity(words)] = partial(maker, **more)
    return own.located(words)
