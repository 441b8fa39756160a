"""Frozen dataclasses as settings: what ``--set stage.key=value`` and config.json may say.

A field's type holds its limits (``sims: Count = 32``). What comes from outside is checked against
them by pydantic, which is imported when the first such value comes: ``--help`` does without it.
``dataclasses.replace`` in the code checks nothing. A mistake is told with the nearest key, or with
the type or the range that was wanted.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from selfplay.common.errors import UserError
from selfplay.common.words import clip, nearest, one_of

#: What a config.json is, by what its run is named by.
OTHERS = {"task": "this run is one of texts, for selfplay llm eval and chat",
          "game": "this run is one of a game, for selfplay compare and match"}
MEND = "mend it, or delete the file and run the same command again"
SHOWN = 80  #: characters of a value in a message


class Settings(Protocol):
    """A frozen dataclass of settings and of dataclasses of settings; the first names a run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=Settings)


def override(
    config: C, assignments: Iterable[str],
    bringing: Mapping[str, Callable[[C, str], C]] = MappingProxyType({}),
) -> C:
    """Apply ``key=value`` texts such as ``rl.sims=32``.

    bringing: what sets keys that bring settings of their own; these come first, in its order.
    Raises UserError naming the nearest key, or the type that was wanted.
    """
    order, named = list(bringing), name_of(type(config))

    def rank(text: str) -> int:
        key = text.partition("=")[0].strip()
        return order.index(key) if key in bringing else len(order)

    for text in sorted(assignments, key=rank):
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"--set {text}: write it as key=value, for example rl.sims=32")
        if key == named:  # the settings so far are another's
            raise UserError(f"--set {text}: choose the {named} with --{named}")
        config = bringing[key](config, value) if key in bringing else set_key(
            config, key, value, text=True)
    return config


def replace_key(config: C, key: str, value: Any) -> C:
    """``config`` with one dotted key set to ``value``, which is not checked."""
    stage, _, name = key.rpartition(".")
    if not stage:
        return dataclasses.replace(config, **{name: value})
    inner = dataclasses.replace(getattr(config, stage), **{name: value})
    return dataclasses.replace(config, **{stage: inner})


def set_key(config: C, key: str, value: Any, text: bool = False) -> C:
    """``replace_key`` with a value from outside (of lists, tuples are made).

    text: it is words of the command line, and no value of JSON. Raises UserError for a key that is
    none, and for a value that no run could work with.
    """
    kind = _type_of(type(config), key)
    if text and typing.get_origin(plain_type(kind)) is tuple:
        parts = re.split(r",(?![^(]*\))", value)  # arguments in parentheses stay together
        value = [part.strip() for part in parts if part]
    value = tuple(value) if isinstance(value, list) else value
    try:
        return replace_key(config, key, _validator(kind)(value, strict=not text))
    except ValueError as error:  # of several the last, which is that of missing values
        first = typing.cast(Any, error).errors(include_url=False)[-1]
    value = first["input"]
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else (
        value if text else repr(value))
    raise UserError(f"{key}={clip(shown, SHOWN)}: {_what_is_wanted(first, plain_type(kind))}")


def to_dict(config: Settings) -> dict[str, Any]:
    """Plain JSON types, as ``config.json`` holds them."""
    return dataclasses.asdict(config)


def flat(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what ``to_dict`` gives."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def assignments(
    config: dict[str, Any], default: dict[str, Any], dials: Collection[str] = ()
) -> list[str]:
    """The words ``--set key=value`` that make ``default`` into ``config``, both of ``to_dict``;
    dials: keys that are options of their own, left out."""
    words: list[str] = []
    before = dict(flat(default))
    for key, now in flat(config):
        if now != before[key] and key not in dials:
            text = ",".join(map(str, now)) if isinstance(now, (list, tuple)) else str(now)
            words += ["--set", f"{key}={text}"]
    return words


def validated(
    kind: type[C], data: Any, where: str, start: Callable[[str], C] | None = None
) -> C:
    """Inverse of ``to_dict``; ``start`` makes, of what the run is named by, what ``data`` changes.

    Raises UserError naming ``where`` for anything that does not fit.
    """
    named, data = name_of(kind), data if isinstance(data, dict) else {}
    name = data.get(named)
    if not isinstance(name, str):
        what = next((OTHERS[key] for key in OTHERS if key != named and key in data),
                    f"it is not a run's config.json ({MEND})")
        raise UserError(f"{where}: no {named} in it; {what}")
    config = start(name) if start else kind(**{named: name})
    for key, value in flat(data):
        try:
            config = set_key(config, key, value)
        except UserError as error:
            raise UserError(f"{where}: {error} ({MEND})") from None
    return config


def name_of(kind: type[Settings]) -> str:
    """The field that a run is named by, which is no setting to be changed."""
    return next(iter(kind.__dataclass_fields__))


@functools.cache
def typed_keys(kind: type[Settings]) -> dict[str, Any]:
    """Every dotted key and its type, limits included."""
    found: dict[str, Any] = {}
    for name, hint in _hints(kind).items():
        inner = _hints(hint) if dataclasses.is_dataclass(hint) else None
        found |= {name: hint} if inner is None else {f"{name}.{k}": h for k, h in inner.items()}
    return found


def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def plain_type(kind: Any) -> Any:
    """A field's type without its own limits."""
    return kind.__origin__ if typing.get_origin(kind) is Annotated else kind


def _type_of(kind: type[Settings], key: str) -> Any:
    """Raises UserError naming the nearest key, or what there is, for a key that is none."""
    names = list(typed_keys(kind))
    if key in names:
        return typed_keys(kind)[key]
    inside = [name.removeprefix(f"{key}.") for name in names if name.startswith(f"{key}.")]
    if inside:
        there = clip(", ".join([f"{key}.{inside[0]}", *inside[1:]]), 380)
        raise UserError(f"{key} is a group of settings: {there}")
    meant = f"{key[:-3]}.learning_rate" if key.endswith(".lr") else key  # as everybody calls it
    near = nearest(meant, names)
    stages = dict.fromkeys(name.partition(".")[0] for name in names)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(stages)}"
    raise UserError(f"no setting {clip(key, SHOWN)!r}; {hint}")


@functools.cache
def _validator(kind: Any) -> Callable[..., Any]:
    import pydantic

    return pydantic.TypeAdapter(kind).validate_python


def _what_is_wanted(error: Mapping[str, Any], kind: Any) -> str:
    """What one of pydantic's errors about a value of ``kind`` means for a user."""
    said, value, args = error["type"], error["input"], typing.get_args(kind)
    if said == "value_error":
        return f"{error['ctx']['error']} wanted"
    if typing.get_origin(kind) is Literal:
        return one_of(args, value)
    if said in ("missing", "too_long", "tuple_type"):
        many = "" if Ellipsis in args else f"{len(args)} "
        return f"{many}values wanted, separated by commas"
    if said == "int_parsing_size" or (said == "float_type" and type(value) is int):
        return "a smaller number wanted"
    return f"{plain_type(args[0] if args else kind).__name__} wanted"
