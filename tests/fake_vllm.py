"""The names of vLLM that are used, over torch: strict about what it is given, as vLLM is.

Set up by ``installed``, it stands in ``sys.modules`` as ``vllm``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfplay.llm.generate import Sampling, TorchGenerator

STARTED: list[Any] = []  #: the engines of a test


@dataclass(kw_only=True)
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    seed: int
    logprobs: int
    max_tokens: int
    stop_token_ids: list[int]
    detokenize: bool

    def __post_init__(self) -> None:
        assert 0 <= self.seed < 2**63 and (self.temperature > 0 or self.n == 1)


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    token_ids: tuple[int, ...]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str
    text: str = ""


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class Inside:
    """The model in the engine, in the engine's arithmetic."""

    def __init__(self, folder: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, dtype)).eval()
        self.loads: list[set[str]] = []  #: names, one set a ``load_weights``

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        own, found = dict(self.model.named_parameters()), set()
        with torch.no_grad():
            for name, tensor in weights:
                assert own[name].shape == tensor.shape and name not in found
                own[name].copy_(tensor)
                found.add(name)
        self.loads.append(found)
        return found


def answer(
    model: Any, prompt: list[int], ends: list[int], sampling: Sampling, seed: int
) -> tuple[list[int], list[float]]:
    """(tokens, their log-probabilities) of one completion."""
    found = TorchGenerator(model, tuple(ends), 0)([prompt], 1, sampling, seed)
    tokens = found.action[0][found.mask[0]].tolist()
    return tokens, found.logp[0, :len(tokens)].tolist()


class LLM:
    def __init__(
        self, *, model: str, dtype: str, gpu_memory_utilization: float, load_format: str,
        skip_tokenizer_init: bool, logprobs_mode: str,
    ) -> None:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        assert logprobs_mode == "processed_logprobs" and skip_tokenizer_init
        assert load_format == "safetensors" and 0 < gpu_memory_utilization < 1
        self.inside, self.stale, self.calls = Inside(model, dtype), False, 0
        STARTED.append(self)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams],
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        assert not self.stale, "cached prefixes are of older weights"
        assert len(prompts) == len(sampling_params) and not use_tqdm
        self.calls += 1
        return [RequestOutput([self._answer(prompt["prompt_token_ids"], wanted, wanted.seed + i)
                               for i in range(wanted.n)])
                for prompt, wanted in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: list[int], wanted: SamplingParams, seed: int) -> CompletionOutput:
        tokens, logps = answer(
            self.inside.model, prompt, wanted.stop_token_ids,
            Sampling(wanted.temperature, wanted.top_p, wanted.max_tokens), seed)
        reason = "length" if len(tokens) == wanted.max_tokens else "stop"  # the limit comes first
        return CompletionOutput(tuple(tokens), [
            {token: Logprob(logp)} for token, logp in zip(tokens, logps, strict=True)], reason)

    def apply_model(self, function: Callable[[Inside], Any]) -> list[Any]:
        self.stale = True
        return [function(self.inside)]

    def reset_prefix_cache(self) -> bool:
        self.stale = False
        return True


def installed(monkeypatch: Any) -> list[Any]:
    """Let ``import vllm`` find this; the engines that are started, none so far."""
    from selfplay.llm.engines import vllm

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    vllm.started.cache_clear()
    STARTED.clear()
    return STARTED
