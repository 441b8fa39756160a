"""Nets of the user's own: a function in a file that builds one."""

from __future__ import annotations

from functools import partial

from selfplay import models
from selfplay.common.errors import UserError
from selfplay.games import own


def use_net(words: str) -> str:
    """Run the file of ``path.py:build``, so that nets of it can be built and loaded; the words
    with the whole path, as settings and checkpoints keep them.

    The function is called with a ``NetSpec``, and with what the parentheses say.
    Raises UserError where it cannot be used.
    """
    maker = own.load(words, "a net", UserError)
    if not callable(maker):
        raise UserError(f"{words}: a function that builds a net wanted")
    more = own.keywords(words, own.arguments_of(words), maker, ("spec",), UserError)
    models.OWN[own.identity(words)] = partial(maker, **more)
    return own.located(words)
