"""Checkpoints of language models, in the style of the games' (``learn.checkpoint``).

ckpt-000123/
    config.json, model.safetensors, tokenizer.json ...   as save_pretrained writes them: any tool
                                                         of Hugging Face reads the folder
    meta.json                                            kind, step, compute, metrics
    train.safetensors, train.json                        what training goes on from

Written under another name and renamed when complete, as all checkpoints are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from selfplay.common.files import refused, sync_folder
from selfplay.learn import checkpoint
from selfplay.llm.models import save as save_pretrained


def save(
    path: Path, model: nn.Module, tokenizer: Any,
    training: tuple[dict[str, Tensor], dict[str, Any]], meta: Mapping[str, Any],
) -> None:
    """Write a whole checkpoint as ``path``, replacing one that is there.

    training: what ``PolicyOptimizer.state`` or the like returns. meta: JSON types; at least
    "kind", "step" and "compute" belong in it. Raises UserError where the disk refuses.
    """
    with checkpoint.replacing(path) as folder:
        try:
            folder.mkdir(parents=True)
            save_pretrained(folder, model, tokenizer)
            for file in folder.iterdir():
                _sync(file)
        except OSError as error:
            raise refused(path, error) from error
        checkpoint.write_training(folder, *training)
        checkpoint.write_meta(folder, {**meta, "net": {"model": type(model).__name__}})
        sync_folder(folder)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
