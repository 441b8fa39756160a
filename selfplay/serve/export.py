"""A net for other programs: ONNX and TorchScript, with a card beside; or as it is packaged."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.common.files import file_sum, write_atomic
from selfplay.learn.checkpoint import WEIGHTS, load_net
from selfplay.learn.packaged import CARD, SUFFIX, SUM
from selfplay.models import folded
from selfplay.serve.card import as_json, as_markdown

OUTPUTS = ("policy", "value", "ownership", "score")
ABOUT = {"policy": "float32 [batch, {actions}], logits of all actions, illegal ones included",
         "value": "float32 [batch] in [-1, 1], for the side to move",
         "ownership": "float32 [batch, {cells}] in [-1, 1], +1 a point of the side to move",
         "score": "float32 [batch], the lead of the side to move in points"}


class Plain(nn.Module):
    """A net whose outputs are a tuple of tensors: policy, value, and ownership and score where it
    has them; value and ownership in [-1, 1]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Tensor) -> tuple[Tensor, ...]:
        out = self.net(obs)
        if out.ownership is None or out.score is None:
            return out.policy, out.value.tanh()
        return out.policy, out.value.tanh(), out.ownership.tanh(), out.score


def must_be_apart(files: Mapping[str, Path]) -> None:
    """Raises UserError where of ``files``, one a kind, one would lie where another or its card
    does, and for weights under a name by which no player finds them."""
    for kind, file in files.items():
        if kind == "safetensors" and file.suffix != SUFFIX:
            raise UserError(f"--{kind} {file}: such a file is found by its end; call it "
                            f"{file.with_suffix(SUFFIX)}")
    wanted = [path for kind, file in files.items() for path in (file, _card_path(kind, file))]
    for path in wanted:
        if wanted.count(path) > 1:
            raise UserError(f"{path}: two files would be called that, of a net and its card, or of "
                            "two cards; give the nets other names")


def _card_path(kind: str, file: Path) -> Path:
    return file.with_suffix(CARD if kind == "safetensors" else ".md")


def export(checkpoint: Path, card: dict[str, Any], kind: str, file: Path) -> Path:
    """Write the net of ``checkpoint`` as ``kind``, one of WRITERS, into ``file``; the card's path.

    Raises UserError where the kind's library is not installed.
    """
    net, _ = load_net(checkpoint)
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        weights = checkpoint / WEIGHTS if checkpoint.is_dir() else checkpoint
        write_atomic(file, weights.read_bytes())
        return _write_card(kind, file, as_json({**card, SUM: file_sum(file)}))
    plain = Plain(folded(net)).eval()
    obs = torch.zeros(2, *card["net"]["obs_shape"])
    names = OUTPUTS[: len(plain(obs))]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, file.name)
        WRITERS[kind](plain, obs, names, whole)
        write_atomic(file, whole.read_bytes())
    height, width = card["net"]["obs_shape"][1:]
    more = {name: ABOUT[name].format(actions=card["net"]["num_actions"], cells=height * width)
            for name in names}
    return _write_card(kind, file, as_markdown(card, file.name, {"file": kind, **more}))


def _write_card(kind: str, file: Path, text: str) -> Path:
    path = _card_path(kind, file)
    write_atomic(path, text.encode())
    return path


def _onnx(plain: nn.Module, obs: Tensor, names: tuple[str, ...], file: Path) -> None:
    try:
        import onnxscript  # noqa: F401  # what torch's exporter is written in
    except ImportError:
        raise UserError(
            '--onnx: .venv/bin/pip install -c constraints.txt -e ".[onnx]"') from None
    batch = torch.export.Dim("batch")
    with _without_chatter():
        torch.onnx.export(plain, (obs,), str(file), input_names=["obs"], output_names=list(names),
                          dynamic_shapes={"obs": {0: batch}}, external_data=False)


def _torchscript(plain: nn.Module, obs: Tensor, names: tuple[str, ...], file: Path) -> None:
    with _without_chatter(), torch.no_grad():
        torch.jit.trace(plain, obs).save(str(file))


@contextlib.contextmanager
def _without_chatter() -> Any:
    """torch's exporters tell of their progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


#: kind -> a function that writes a file of it
WRITERS: dict[str, Callable[[nn.Module, Tensor, tuple[str, ...], Path], None]] = {
    "onnx": _onnx, "torchscript": _torchscript}
