"""vLLM behind the Generator seam, where it is installed (a GPU machine). Not tested here.

Its weights are those it was started with: training has to hand new ones over by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selfplay.errors import UserError
from selfplay.llm.generate import Samples, Sampling
from selfplay.llm.models import left_padded


@dataclass(frozen=True)
class VllmGenerator:
    """``engine`` is a ``vllm.LLM``."""

    engine: Any
    ends: tuple[int, ...]
    pad: int

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """As ``generate.TorchGenerator``; logp is of the engine's own arithmetic."""
        from vllm import SamplingParams

        wanted = SamplingParams(
            n=group, temperature=sampling.temperature, top_p=sampling.top_p, seed=seed, logprobs=0,
            max_tokens=sampling.max_new_tokens, stop_token_ids=list(self.ends), detokenize=False)
        found = self.engine.generate([{"prompt_token_ids": list(p)} for p in prompts], wanted)
        rows = [answer for request in found for answer in request.outputs]
        width = max(len(row.token_ids) for row in rows)
        action = torch.full((len(rows), width), self.pad, dtype=torch.int64)
        logp = torch.zeros((len(rows), width))
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            count = len(row.token_ids)
            action[i, :count], mask[i, :count] = torch.tensor(list(row.token_ids)), True
            logp[i, :count] = torch.tensor([step[token].logprob for step, token in
                                            zip(row.logprobs, row.token_ids, strict=True)])
        ended = torch.tensor([row.finish_reason == "stop" for row in rows])
        return Samples(*left_padded(prompts, self.pad), action, mask, logp, ended)


def start(name: str, ends: tuple[int, ...], pad: int, **options: Any) -> VllmGenerator:
    """An engine of vLLM for a model's folder or hub id, whose log-probabilities are those of the
    tempered distribution. Raises UserError where vLLM is not installed."""
    try:
        from vllm import LLM
    except ImportError:
        raise UserError("vLLM is not installed; pip install vllm (on a GPU machine)") from None
    return VllmGenerator(LLM(model=name, logprobs_mode="processed_logprobs", **options), ends, pad)
