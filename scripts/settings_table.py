"""The settings of games and of texts as Markdown tables: key, type, default, limits, meaning.

What a setting means is said once, in the ``#:`` comments of its field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any, NamedTuple

from selfplay.common.settings import Settings
from selfplay.llm.config import TextConfig
from selfplay.run.config import RunConfig


class Row(NamedTuple):
    """A setting in words."""

    key: str  #: dotted, as ``--set`` takes it
    kind: str
    default: str
    limits: str
    meaning: str


def table(config: type[Settings]) -> list[Row]:
    """A row for every setting of ``config``, in order, the run's own first; its defaults, before
    any preset."""
    default: Any = config(**{config.LIMITS.named: ""})
    own, stages = [], []
    for name, (kind, meaning) in fields(config).items():
        value = getattr(default, name)
        if dataclasses.is_dataclass(value):
            stages += [(f"{name}.{key}", getattr(value, key), *said)
                       for key, said in fields(type(value)).items()]
        else:
            own.append((name, value, kind, meaning))
    return [Row(key, kind, text(value), limits(config, key), meaning)
            for key, value, kind, meaning in own + stages]


def fields(kind: type) -> dict[str, tuple[str, str]]:
    """(type, meaning) of every field of a dataclass, inherited ones first: the ``#:`` comment
    behind it and those on the lines below it, as they are written in the source."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed([k for k in kind.__mro__ if dataclasses.is_dataclass(k)]):
        lines = inspect.getsource(base).splitlines()
        tree = ast.parse("\n".join(lines)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            end = node.end_lineno or node.lineno
            words = [lines[end - 1].partition("#:")[2]]
            for line in lines[end:]:
                if not line.lstrip().startswith("#:"):
                    break
                words.append(line.partition("#:")[2])
            kind_words = ast.unparse(node.annotation).replace("'", "")
            if kind_words.startswith("Literal["):
                kind_words = kind_words.removeprefix("Literal[").removesuffix("]")
            if not kind_words.startswith("ClassVar"):
                found[node.target.id] = kind_words, " ".join(" ".join(words).split())
    return found


def limits(config: type[Settings], key: str) -> str:
    """All numbers may be 0 or more unless this says otherwise."""
    known = (("more than 0", config.LIMITS.positive), ("at most 1", config.LIMITS.shares))
    return ", ".join(words for words, keys in known if key in keys)


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
