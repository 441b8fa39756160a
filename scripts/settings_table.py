"""The settings of games and of texts as Markdown tables: key, type, default, limits, meaning.

``docs_pages`` makes the page of the site of them; by itself it prints them.

What a setting means is said once, in the ``#:`` comments of its field.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import typing
from dataclasses import is_dataclass
from typing import Any, Literal, NamedTuple

from selfplay.common.limits import MAX_NUMBER, Limit
from selfplay.common.settings import Settings, flat, name_of, plain_type, to_dict, typed_keys
from selfplay.llm.config import TextConfig
from selfplay.run.config import RunConfig


class Row(NamedTuple):
    """A setting in words."""

    key: str
    kind: str
    default: str
    limits: str
    meaning: str


def table(config: type[Settings]) -> list[Row]:
    """A row for every setting of ``config``, in order; its defaults, before any preset."""
    default = dict(flat(to_dict(config(**{name_of(config): ""}))))
    said = meanings(config)
    for stage, kind in typing.get_type_hints(config).items():
        if is_dataclass(kind):
            said |= {f"{stage}.{name}": meaning for name, meaning in meanings(kind).items()}
    return [Row(key, words(kind), text(default[key]), ", ".join(limits(kind)), said[key])
            for key, kind in typed_keys(config).items()]


def meanings(kind: Any) -> dict[str, str]:
    """The ``#:`` comments of a dataclass' fields, inherited ones included, by their names; a
    field's own line and the lines below it."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        source = inspect.getsource(owner)
        starts = {node.lineno: node.target.id for node in ast.walk(ast.parse(source))
                  if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
        found |= dict.fromkeys(starts.values(), "")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and token.string.startswith("#:"):
                name = starts[max(line for line in starts if line <= token.start[0])]
                found[name] = f"{found[name]} {token.string[2:].strip()}".strip()
    return found


def words(kind: Any) -> str:
    """A type: "int", "text", "ppo, grpo or rloo", "2 of int", "any number of text"."""
    kind = plain_type(kind)
    *some, last = typing.get_args(kind) or (None,)
    if typing.get_origin(kind) is Literal:
        return f"{', '.join(map(str, some))} or {last}"
    if typing.get_origin(kind) is tuple:
        many = "any number" if last is Ellipsis else str(len(some) + 1)
        return f"{many} of {words(some[0])}"
    return "text" if kind is str else kind.__name__


def limits(kind: Any) -> list[str]:
    """A type's limits in words, those of its values first; all numbers end at MAX_NUMBER."""
    inner = [word for part in typing.get_args(plain_type(kind)) for word in limits(part)]
    own = [limit.wanted for limit in getattr(kind, "__metadata__", ())
           if isinstance(limit, Limit) and str(MAX_NUMBER) not in limit.wanted]
    return list(dict.fromkeys([*inner, *own]))


def text(value: Any) -> str:
    """A default as ``--set`` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def markdown(rows: list[Row]) -> str:
    lines = [Row("key", "type", "default", "limits", "meaning"), Row(*["---"] * 5),
             *(row._replace(key=f"`{row.key}`", default=f"`{row.default}`" if row.default else "")
               for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)


if __name__ == "__main__":
    for title, config in (("Games", RunConfig), ("Texts", TextConfig)):
        print(f"## {title}\n\n{markdown(table(config))}\n")
