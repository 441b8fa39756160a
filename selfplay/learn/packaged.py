"""The nets that come with the package: ``models/weights/NAME.safetensors``, and beside each its
card, NAME.json, which is the meta of a checkpoint and what a reader wants to know."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

SUFFIX, CARD = ".safetensors", ".json"


def folder() -> Path:
    """Where they lie."""
    return Path(str(resources.files("selfplay.models") / "weights"))


def names() -> list[str]:
    """Of the nets that came along, sorted."""
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def find(name: str) -> Path | None:
    """The weights of the net called ``name``; None where none is."""
    return folder() / f"{name}{SUFFIX}" if name in names() else None
