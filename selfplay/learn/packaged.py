"""The nets that come with the package: ``models/weights/NAME.safetensors``, and beside each its
card, NAME.json, which is the meta of a checkpoint, what a reader wants to know, and the CRC-32 of
the weights. They are listed without anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.common.files import file_sum
from selfplay.common.words import nearest

SUFFIX, CARD = ".safetensors", ".json"
SUM, SYMMETRIES = "weights_crc32", "symmetries"  #: keys of a card


def folder() -> Path:
    """Where they lie."""
    return Path(__file__).parent.parent / "models" / "weights"


def names() -> list[str]:
    """Of the nets that came along, sorted."""
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def find(name: str) -> Path | None:
    """The weights of the net called ``name``, or in an exported file of this name; None where none
    are."""
    file = Path(name)
    if file.suffix == SUFFIX and file.is_file():
        return file
    return folder() / f"{name}{SUFFIX}" if name in names() else None


def or_else(name: str) -> str:
    """What to say of packaged nets where none is called ``name``."""
    near = nearest(name, names(), cutoff=0.7)
    return (f"no packaged net ({', '.join(names()) or 'there are none'})"
            + (f"; did you mean {near}?" if near else ""))


def must_be_as_packaged(path: Path, card: Mapping[str, Any]) -> None:
    """Raises UserError where the weights are not those that the card has the sum of."""
    if card.get(SUM) not in (None, file_sum(path)):
        raise UserError(f"{path}: damaged (not as it was saved); {anew(path)}")


def anew(path: Path) -> str:
    """How damaged weights or their card are had again."""
    return "install the package again" if path.parent == folder() else "export it again"
