"""A run's model for other programs: whole, with its adapters merged, or its adapter alone."""

from __future__ import annotations

import os
from pathlib import Path

from selfplay.common.errors import UserError
from selfplay.common.files import read_json, refused, write_json
from selfplay.common.words import clip
from selfplay.learn import checkpoint
from selfplay.llm.folder import newest_model
from selfplay.llm.models import (
    base_of,
    end_tokens,
    load_model,
    merged,
    save_model,
)

ADAPTER = "adapter_config.json"
BASE = "base_model_name_or_path"  #: where that file says what the adapter is for


def export_model(source: Path, folder: Path, merge: bool) -> str:
    """Write the newest model of the run ``source`` (or the model in it) into the new ``folder`` in
    Hugging Face's form, and say what it is.

    merge: adapters go into the weights, and transformers alone loads the folder; else the adapter
    is written, with the path from ``folder`` to the model under it, or that model's hub id. Raises
    UserError where there is no model or adapter, or ``folder`` is there already.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; name a new folder")
    path = newest_model(source)
    adapter = (path / ADAPTER).is_file()
    if not (adapter or merge):
        raise UserError(f"{path}: has no adapter; export it whole with --merged {folder}")
    model, tokenizer = load_model(path)
    model = merged(model) if merge else model
    config = getattr(model, "generation_config", None)
    if config is not None and merge:  # what ends an answer here ends it elsewhere
        config.eos_token_id, config.pad_token_id = list(end_tokens(model, tokenizer)), (
            tokenizer.pad_token_id)
    try:
        with checkpoint.replacing(folder) as new:
            new.mkdir(parents=True)
            save_model(new, model, tokenizer)
            if not merge:
                under = relative(base_of(str(path)), folder)
                write_json(new / ADAPTER, {**read_json(new / ADAPTER, dict), BASE: under})
    except OSError as error:
        raise refused(folder, error) from error
    what = "adapter" if not merge else "model, adapters merged" if adapter else "model"
    return f"{folder}: {what} of {path}"


def push(folder: Path, name: str) -> str:
    """Upload what ``export_model`` wrote to the repository ``name`` of the Hugging Face hub, which
    is made, for its owner's eyes only, where there is none; its address. Raises UserError for an
    adapter of a model on this disk, which nobody else could load, and where the hub cannot be
    reached or lets nobody in."""
    from huggingface_hub import HfApi

    described = folder / ADAPTER
    if described.is_file() and str(under := read_json(described, dict)[BASE]).startswith("."):
        raise UserError(f"--push {name}: the adapter is for {under}, which is on this disk alone; "
                        "push the whole model, with --merged")
    try:
        made = HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=made.repo_id, folder_path=folder)
    except Exception as error:  # of the hub's client, or of its transport, which is no OSError
        raise UserError(f"--push {name}: the hub does not take it ({type(error).__name__}: "
                        f"{clip(str(error), 160)}); log in with `hf auth login`, with the network "
                        f"there. {folder} is written") from error
    return str(made)


def relative(under: str, folder: Path) -> str:
    """The path from ``folder`` to the model ``under`` it; a hub id as it is."""
    if not Path(under).is_dir():
        return under
    found = os.path.relpath(Path(under).resolve(), folder.resolve())
    return found if found.startswith(".") else f"./{found}"
