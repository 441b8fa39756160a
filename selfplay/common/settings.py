"""Frozen dataclasses as settings: what ``--set stage.key=value`` and config.json may say.

A mistake is told with the nearest key, or with the type or the range that was wanted.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from selfplay.common.errors import UserError

#: What a config.json is, by what its run is named by.
OTHERS = {"task": "this run is one of texts, for selfplay llm eval and chat",
          "game": "this run is one of a game, for selfplay compare and match"}
#: Seeds go to torch, which takes 63 bits; other numbers count what a machine holds and does.
MAX_SEED, MAX_NUMBER = 2**63 - 1, 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Ranges of settings, by their dotted keys; other numbers may be 0, none may be below it."""

    named: str  #: what names a run, is no setting that --set may change, and has an option
    positive: frozenset[str]  #: more than 0
    shares: frozenset[str]  #: at most 1


class Settings(Protocol):
    """A frozen dataclass of settings and of dataclasses of settings."""

    LIMITS: ClassVar[Limits]
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
    order = list(bringing)

    def rank(text: str) -> int:
        key = text.partition("=")[0].strip()
        return order.index(key) if key in bringing else len(order)

    for text in sorted(assignments, key=rank):
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write it as key=value, for example rl.sims=32")
        kind = _types(config).get(key.strip())
        if key.strip() == config.LIMITS.named:  # the settings so far are another's
            named = config.LIMITS.named
            raise UserError(f"--set {text}: choose the {named} with --{named}")
        if kind is None:
            raise UserError(_unknown(config, key.strip()))
        if key.strip() in bringing:
            config = bringing[key.strip()](config, value.strip())
        else:
            config = replace_key(config, key.strip(), _parse(key.strip(), value.strip(), kind))
    return config


def replace_key(config: C, key: str, value: Any, where: str = "") -> C:
    """``config`` with one dotted key set.

    Raises UserError, which begins with ``where``, for a value that no run could work with.
    """
    _must_be_in_range(f"{where}{key}", key, value, config.LIMITS)
    stage, _, name = key.rpartition(".")
    if not stage:
        return dataclasses.replace(config, **{name: value})
    inner = dataclasses.replace(getattr(config, stage), **{name: value})
    return dataclasses.replace(config, **{stage: inner})


def to_dict(config: Settings) -> dict[str, Any]:
    """Plain JSON types, as ``config.json`` holds them."""
    return dataclasses.asdict(config)


def assignments(
    config: dict[str, Any], default: dict[str, Any], dials: Collection[str] = ()
) -> list[str]:
    """The words ``--set key=value`` that make ``default`` into ``config``, both of ``to_dict``;
    dials: keys that are options of their own, left out."""
    words: list[str] = []
    for key, value in config.items():
        pairs = {f"{key}.{k}": (v, default[key][k]) for k, v in value.items()} if isinstance(
            value, dict) else {key: (value, default[key])}
        for name, (now, before) in pairs.items():
            if now != before and name not in dials:
                text = ",".join(map(str, now)) if isinstance(now, (list, tuple)) else str(now)
                words += ["--set", f"{name}={text}"]
    return words


def read(
    kind: type[C], data: dict[str, Any], where: str, start: Callable[[str], C] | None = None
) -> C:
    """Inverse of ``to_dict``; ``start`` makes, of what the run is named by, what ``data`` changes.

    Raises UserError naming ``where`` for anything that does not fit.
    """
    named = kind.LIMITS.named
    if not isinstance(data, dict) or not isinstance(data.get(named), str):
        known = OTHERS if isinstance(data, dict) else {}
        what = next((kind for key, kind in known.items() if key != named and key in data),
                    "it is not a run's config.json")
        raise UserError(f"{where}: no {named} in it; {what}")
    config = start(data[named]) if start else kind(**{named: data[named]})
    for key, value in _flat(data).items():
        wanted = _types(config).get(key)
        if wanted is None:
            raise UserError(f"{where}: {_unknown(config, key)}")
        config = replace_key(config, key, checked(f"{where}: {key}", value, wanted), f"{where}: ")
    return config


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _types(config: Settings) -> dict[str, Any]:
    """Every dotted key and its type."""
    return _types_of(type(config))


@cache
def _types_of(config: type[Settings]) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            inner = typing.get_type_hints(hints[f.name])
            found.update({f"{f.name}.{name}": kind for name, kind in inner.items()})
        else:
            found[f.name] = hints[f.name]
    return found


def _unknown(config: Settings, key: str) -> str:
    names = list(_types(config))
    meant = f"{key[:-3]}.learning_rate" if key.endswith(".lr") else key  # as everybody calls it
    near = difflib.get_close_matches(meant, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else f"; keys are {', '.join(names)}"
    return f"no setting {key!r}{hint}"


def _parse(key: str, text: str, kind: Any) -> Any:
    """Text of the command line to a value of ``kind``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part]
        if args[-1] is not Ellipsis and len(parts) != len(args):
            raise UserError(f"{key}={text}: {len(args)} values wanted, separated by commas")
        return checked(key, [_parse(key, part, args[0]) for part in parts], kind)
    if kind is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
        return text.lower() in ("true", "1", "yes")
    if kind in (int, float):
        try:
            return checked(key, kind(text.replace("_", "")), kind)
        except ValueError:
            raise UserError(f"{key}={text}: {kind.__name__} wanted") from None
    return checked(key, text, kind)


def _must_be_in_range(where: str, key: str, value: Any, limits: Limits) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str):
            continue
        if not (number > 0 or (number == 0 and key not in limits.positive)):  # NaN fails as well
            wanted = "more than 0" if key in limits.positive else "0 or more"
            raise UserError(f"{where}={number}: {wanted} wanted")
        if key in limits.shares and number > 1:
            raise UserError(f"{where}={number}: a share, at most 1, wanted")
        most = MAX_SEED if key == "seed" else MAX_NUMBER
        if number > most:  # infinity does as well
            raise UserError(f"{where}={number}: at most {most} wanted")
    if key == "shares" and not sum(value):
        raise UserError(f"{where}: at least one above 0 wanted")
    if key.endswith(".opening") and value[0] > value[1]:
        raise UserError(f"{where}={value[0]},{value[1]}: fewest and most plies wanted, in order")


def checked(where: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind`` (lists become tuples, ints become floats), or UserError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{where}={value}: one of {', '.join(map(str, args))} wanted")
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UserError(f"{where}: {len(kinds)} values wanted, separated by commas")
        return tuple(checked(where, v, k) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) is int:
        return float(str(value))  # 400 digits become infinity, which is refused by its key
    if origin is None and not isinstance(kind, types.UnionType) and type(value) is kind:
        return value
    raise UserError(f"{where}={value!r}: {getattr(kind, '__name__', kind)} wanted")
