"""vLLM as a ``Generator``, in this process and on the GPU that trains.

Written after vLLM's documentation and source (0.11 and later) and tested against a stand-in for the
few names of it that are used; it has not been run on a GPU here.

The engine runs inside this process (VLLM_ENABLE_V1_MULTIPROCESSING=0), so that new weights are
handed over by reference: ``LLM.apply_model`` calls the inner model's ``load_weights`` with the
names of a checkpoint, adapters merged. There is one engine a process, as vLLM does not free an
engine's memory. Tokens go in and come out: no tokenizer is loaded, and end tokens stop it.

Its arithmetic differs from the trainer's. Learning therefore does not use the log-probabilities
that it returns: ``policy.evaluated`` computes them again in the trainer's arithmetic, and every
step reports the divergence between the two (act_kl). ``pg.mismatch`` corrects for it that samples
of the one are learnt from as samples of the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.common.words import clip
from selfplay.llm.generate import Samples, Sampling, completion_keys, must_see
from selfplay.llm.models import padded_tokens, plain_weights


@dataclass(frozen=True)
class VllmGenerator:
    """engine: a ``vllm.LLM``; config: of the model in it, as Hugging Face has it."""

    name: ClassVar[str] = "vllm"
    engine: Any
    ends: tuple[int, ...]
    pad: int
    config: Any

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """As ``generate.TorchGenerator``, but on the CPU. logp is of the distribution after top_p,
        in the engine's arithmetic.

        Each prompt has a seed, to which vLLM adds the completion's number. Completions may still
        depend on the batch, by rounding.
        """
        from vllm import SamplingParams

        must_see(self.config, max(map(len, prompts)) + sampling.max_new_tokens)
        tokens, mask = padded_tokens(prompts, self.pad, left=True)
        wanted = [SamplingParams(
            n=group, temperature=sampling.temperature, top_p=sampling.top_p, seed=int(key) >> 2,
            logprobs=0, max_tokens=sampling.max_new_tokens, stop_token_ids=list(self.ends),
            detokenize=False) for key in completion_keys(tokens, mask, 1, seed)]
        found = self.engine.generate([{"prompt_token_ids": list(p)} for p in prompts], wanted,
                                     use_tqdm=False)
        rows = [(answer.token_ids, [step[token].logprob for step, token in
                                    zip(answer.logprobs, answer.token_ids, strict=True)])
                for request in found for answer in request.outputs]
        return Samples(tokens, mask, *columns_of(rows, self.ends, self.pad))

    def refresh(self, model: nn.Module) -> None:
        """Hand over all weights of ``model``, and drop prompts that were cached with old ones."""
        self.engine.apply_model(lambda inside: inside.load_weights(plain_weights(model)))
        self.engine.reset_prefix_cache()

    def figures(self) -> dict[str, float]:
        """None."""
        return {}


def columns_of(
    rows: Sequence[tuple[Sequence[int], Sequence[float]]], ends: Sequence[int], pad: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(action, mask, logp, ended) of (tokens, their log-probabilities) of N completions.

    A completion has ended where its last token is an end token. What vLLM says is not used: an
    end token at the limit counts as cut off there.
    """
    action, mask = padded_tokens([tokens for tokens, _ in rows], pad)
    logp = torch.zeros(action.shape)
    for i, (_, values) in enumerate(rows):
        logp[i, :len(values)] = torch.tensor(values)
    return action, mask, logp, torch.tensor([tokens[-1] in ends for tokens, _ in rows])


@lru_cache(maxsize=1)
def started(name: str, memory: float, dtype: str) -> Any:
    """The process's engine, started from safetensors. Raises UserError where it does not start."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when vLLM starts
    from vllm import LLM

    try:
        return LLM(model=name, dtype=dtype, gpu_memory_utilization=memory,
                   load_format="safetensors", skip_tokenizer_init=True,
                   logprobs_mode="processed_logprobs")
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        why = f"{type(error).__name__}: {clip(str(error), 160)}"
        raise UserError(f"vLLM does not start with {name} ({why}); change --set sample.memory, or "
                        "--set sample.engine=torch") from None
