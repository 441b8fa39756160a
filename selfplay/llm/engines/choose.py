"""Which engine writes a run's completions."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from selfplay.common.errors import UserError
from selfplay.llm.engines.server import ServerGenerator, link_to, served_model
from selfplay.llm.engines.vllm import VllmGenerator, started
from selfplay.llm.generate import Generator, TorchGenerator
from selfplay.llm.models import base_of, end_tokens
from selfplay.llm.stage_config import SampleConfig


def must_have_engine(sample: SampleConfig, given: str) -> None:
    """Raises UserError where an engine was asked for that cannot be used. given: see
    ``engine_of``."""
    engine = sample.engine
    if engine == "ray" and sample.stop:
        raise UserError("sample.stop: actors on Ray see no texts; leave it out, or --ray")
    if engine not in ("vllm", "vllm-server"):
        return
    if find_spec("vllm") is None:
        raise UserError(f"sample.engine={engine}: vLLM is not installed; pip install vllm on a GPU "
                        "machine, or --set sample.engine=torch")
    if sample.stop:
        raise UserError("sample.stop: vLLM works with tokens here and sees no texts; leave it out, "
                        "or --set sample.engine=torch")
    if not given:
        raise UserError(f"sample.engine={engine}: for a model given with --model; the embedded one "
                        "is written with --set sample.engine=torch")
    if engine == "vllm-server":
        served_model(link_to(address(sample.url)).server, base_of(given))


def address(url: str) -> str:
    """``url`` without a path. Raises UserError for what is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    if not good:
        raise UserError(f"sample.url={url!r}: where vLLM's server answers wanted, such as --set "
                        "sample.url=http://localhost:8000")
    return f"{parts.scheme}://{parts.netloc}"


def engine_of(
    model: nn.Module, tokenizer: Any, sample: SampleConfig, given: str, device: str
) -> Generator | None:
    """vLLM with the weights of ``model``, where ``sample`` and the device ask for it; else None.

    given: folder or hub id that ``model`` comes from; empty for the embedded model, which torch
    runs. Raises UserError where vLLM does not start, or its server does not answer.
    """
    if not given:
        return None
    ends, pad = end_tokens(model, tokenizer), tokenizer.pad_token_id
    if sample.engine == "vllm-server":
        link = link_to(address(sample.url))
        return ServerGenerator(link, served_model(link.server, base_of(given)), ends, pad,
                               sample.dtype, model.to(device))
    auto = torch.device(device).type == "cuda" and find_spec("vllm") is not None
    # actors on Ray, which the caller brings, are for training alone
    if sample.engine in ("torch", "ray") or (sample.engine == "auto" and (not auto or sample.stop)):
        return None
    generator = VllmGenerator(started(base_of(given), sample.memory, sample.dtype), ends, pad,
                              model.config)
    generator.refresh(model)
    return generator


def generator_of(
    model: nn.Module, tokenizer: Any, sample: SampleConfig, given: str, device: str
) -> Generator:
    """``engine_of``, or torch with ``model``, which is moved to ``device``."""
    return engine_of(model, tokenizer, sample, given, device) or TorchGenerator(
        model.to(device), end_tokens(model, tokenizer), tokenizer.pad_token_id, tokenizer)
