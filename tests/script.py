"""The programs of scripts/, which are no package: as modules, and as a user starts them."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

from forked import ran

SCRIPTS = Path(__file__).parent.parent / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, until it ends."""
    return ran(str(SCRIPTS / f"{name}.py"), *words, cwd=SCRIPTS.parent)
