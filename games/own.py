"""Things of the user's own, named as ``path/to/file.py:NAME`` or ``file.py:NAME(key=value,...)``.

Naming one runs its file: a name that comes from elsewhere (a downloaded checkpoint) is never
loaded without the user's asking for it.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

_FORM = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)\s*(?P<rest>\(.*\))?")


def is_own(words: str) -> bool:
    """Whether ``words`` name something in a file."""
    return _FORM.fullmatch(words.strip()) is not None


def identity(words: str) -> str:
    """``words`` without the folder: what stays the same where a file is moved. Other words are
    left as they are."""
    if not is_own(words):
        return words
    file, name, rest = _parts(words)
    return f"{Path(file).name}:{name}{rest}"


def located(words: str) -> str:
    """``words`` with the whole path of the file, good from any folder. Other words are left as
    they are."""
    if not is_own(words):
        return words
    file, name, rest = _parts(words)
    return f"{_path(file)}:{name}{rest}"


def exists(words: str) -> bool:
    """Whether the file that ``words`` name is there."""
    return os.path.isfile(_path(_parts(words)[0]))


def object_of(words: str, wanted: str, error: type[Exception]) -> Any:
    """The object that ``words`` name, without what stands in parentheses.

    wanted: what it should be, for messages. Raises ``error`` where the file or the name is not
    there, or where running the file fails (naming the line).
    """
    if not is_own(words):
        raise error(f"{words!r}: write path/to/file.py:NAME for {wanted} of your own")
    file, name, _ = _parts(words)
    module = _module(_path(file), wanted, error)
    if name not in vars(module):
        public = ", ".join(key for key, value in vars(module).items() if not key.startswith("_")
                           and getattr(value, "__module__", module.__name__) == module.__name__
                           and not inspect.ismodule(value))
        raise error(f"{file}: no {name} in it; it has {public or 'no names at all'}")
    return vars(module)[name]


def arguments_of(words: str) -> str:
    """What stands in the parentheses."""
    return _parts(words)[2][1:-1]


def keywords(place: str, text: str, made: Any, given: Iterable[str],
             error: type[Exception]) -> dict[str, Any]:
    """``key=value,...`` as arguments of ``made``, each as the type of the parameter's default.

    given: parameters that the caller fills in himself. Raises ``error`` naming the valid ones.
    """
    parameters = parameters_of(made, given)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise error(f"{place}({text}): {part!r} is not key=value")
        if key not in parameters:
            raise error(f"{place}: no parameter {key!r}; it takes {signature(made, given)}")
        if key in values:
            raise error(f"{place}({text}): {key} is given twice")
        values[key] = _value(f"{place}: {key}", value, type(parameters[key]), error)
    return values


def parameters_of(made: Any, given: Iterable[str] = ()) -> dict[str, Any]:
    """Name -> default of what ``name(key=value)`` may set."""
    return {p.name: p.default for p in inspect.signature(made).parameters.values()
            if p.name not in given and p.default is not p.empty}


def signature(made: Any, given: Iterable[str] = ()) -> str:
    found = parameters_of(made, given)
    return ",".join(f"{name}={value}" for name, value in found.items()) or "no parameters"


def _parts(words: str) -> tuple[str, str, str]:
    found = _FORM.fullmatch(words.strip())
    assert found is not None, words
    rest = found["rest"] or ""
    return found["file"], found["name"], "" if rest.strip("() ") == "" else rest.replace(" ", "")


def _path(file: str) -> Path:
    return Path(os.path.realpath(os.path.expanduser(file)))


_stamps: dict[str, int] = {}  #: module name -> when its file had been changed last


def _module(file: Path, wanted: str, error: type[Exception]) -> ModuleType:
    """The file run as a module: once in a process, so that it is the same for all who name it,
    and again after it was edited."""
    name = f"{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    if not file.is_file():
        raise error(f"{file}: no such file; name {wanted} of your own as path/to/file.py:NAME")
    stamp = file.stat().st_mtime_ns
    if name in sys.modules and _stamps[name] == stamp:
        return sys.modules[name]
    _stamps[name] = stamp
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as failure:
        del sys.modules[name]
        own = [frame.lineno for frame in traceback.extract_tb(failure.__traceback__)
               if frame.filename == str(file)]
        line = getattr(failure, "lineno", None) if isinstance(failure, SyntaxError) else None
        at = line or (own[-1] if own else 0)
        reason = " ".join(str(failure).split())[:200]
        raise error(f"{file}, line {at}: {type(failure).__name__}: {reason}") from failure
    return module


def _value(place: str, text: str, kind: type, error: type[Exception]) -> Any:
    """``text`` as ``kind``, the type of the parameter's default."""
    words = {"true": True, "false": False}
    if kind is bool:
        if text.lower() in words:
            return words[text.lower()]
        raise error(f"{place} must be true or false, not {text!r}")
    if kind is str:
        return text
    if kind not in (int, float):
        raise error(f"{place}: cannot be given in words; its default is a {kind.__name__}")
    pattern = r"[+-]?\d{1,99}" if kind is int else r"[+-]?(\d{1,99}\.?\d*|\.\d+)"
    if not re.fullmatch(pattern, text):
        wanted = "a whole number" if kind is int else "a number"
        raise error(f"{place} must be {wanted}, not {text!r}")
    return kind(text)
