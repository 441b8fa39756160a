"""What a language model makes of completions: a pass over the prompts, and one over what follows.

Completions of one prompt share it. The embedded model reads it once by itself; of others its keys
and values go from the first pass to the second, as in generation, with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.learn.rollout import Rollout
from selfplay.llm.models import trimmed, without_adapters
from selfplay.models.transformer import (
    Backbone,
    SharedPrompts,
    Transformer,
    positions_of,
    share_prompts,
)

#: (columns to keep, counted from the last; inputs of a model) -> ([N, columns, ...], its cache).
Pass = Callable[..., tuple[Tensor, Any]]


def logits_of(model: Any, rollout: Rollout, again: bool = False) -> Tensor:
    """[N, T, V]: the logits that each token of the completions is drawn from. again: layers are
    computed again for the gradient, so that there is no cache by which prompts could be shared."""
    if isinstance(model, Transformer):
        return model.logits(model.model.hidden_states(with_shared_prompts(rollout)))
    return _of_completions(partial(_logits, model), model, rollout, again)


def hidden_of(model: Any, rollout: Rollout, again: bool = False) -> Tensor:
    """[N, T, D]: what the head makes ``logits_of`` of. model: one with a head, or without."""
    if isinstance(model, Transformer | Backbone):
        backbone = model.model if isinstance(model, Transformer) else model
        return backbone.hidden_states(with_shared_prompts(rollout))
    plain = without_adapters(model)
    decoder = plain.get_decoder() if plain.get_output_embeddings() is not None else plain
    return _of_completions(partial(_hidden, decoder), model, rollout, again)


def _logits(model: Any, keep: int, **inputs: Any) -> tuple[Tensor, Any]:
    found = model(**inputs, logits_to_keep=keep)
    return found.logits, found.past_key_values


def _hidden(decoder: Any, keep: int, **inputs: Any) -> tuple[Tensor, Any]:
    found = decoder(**inputs)
    return found.last_hidden_state[:, -keep:], found.past_key_values


def _of_completions(work: Pass, model: nn.Module, rollout: Rollout, again: bool) -> Tensor:
    if shares(model, again):
        some = with_shared_prompts(rollout)
        if len(some.prompt) < len(rollout):
            return _behind_prompts(work, rollout, some)
    tokens, mask, positions = whole_texts(rollout)
    return work(rollout.action.shape[1], input_ids=tokens, attention_mask=mask,
                position_ids=positions, use_cache=False)[0]


def shares(model: nn.Module, again: bool = False) -> bool:
    """Whether completions of a prompt share a pass over it. Where weights are shared out among
    processes they do not, as all processes make the same passes."""
    return isinstance(model, Transformer | Backbone) or not (again or ranks.here().sharded(model))


def _behind_prompts(work: Pass, rollout: Rollout, some: SharedPrompts) -> Tensor:
    """[N, T, ...] of a pass over each prompt and one over all completions behind their cache."""
    first, cache = work(1, input_ids=some.prompt, attention_mask=some.prompt_mask.long(),
                        position_ids=positions_of(some.prompt_mask), use_cache=True)
    found, width = first[some.prompt_of], some.prompt.shape[1]
    before = some.action[:, :-1]
    if not before.shape[1]:
        return found
    cache.batch_select_indices(some.prompt_of)
    mask = torch.cat([some.prompt_mask[some.prompt_of], read(rollout.mask)[:, :-1]], 1)
    rest, _ = work(before.shape[1], input_ids=before, attention_mask=mask.long(),
                   position_ids=positions_of(mask)[:, width:], past_key_values=cache,
                   use_cache=True)
    return torch.cat([found, rest], 1)


def with_shared_prompts(rollout: Rollout) -> SharedPrompts:
    """The completions of ``rollout`` and their different prompts."""
    return share_prompts(*trimmed(rollout.inputs["prompt"], rollout.inputs["prompt_mask"]),
                         rollout.action)


def whole_texts(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, mask, positions), int64 [N, L]: prompts and completions without the last token,
    which nothing follows."""
    prompt, prompt_mask = trimmed(rollout.inputs["prompt"], rollout.inputs["prompt_mask"])
    mask = torch.cat([prompt_mask, read(rollout.mask)], 1)[:, :-1]
    return torch.cat([prompt, rollout.action], 1)[:, :-1], mask.long(), positions_of(mask)


def read(mask: Tensor) -> Tensor:
    """bool [N, T]: the steps of ``mask`` bool [N, T], and what stands between two of them, which
    has been read though it was not written (what an environment says)."""
    return mask.int().flip(1).cummax(1).values.flip(1).bool()


def cost(rollout: Rollout, parts: list[Tensor]) -> int:
    """Tokens that passes over ``parts`` (rows each) read, padding included."""
    width = int(rollout.inputs["prompt_mask"].any(0).sum())
    lengths = rollout.mask.shape[1] - rollout.mask.flip(1).int().argmax(1)
    return sum(len(torch.unique(rollout.group[rows])) * width + len(rows) * int(lengths[rows].max())
               for rows in parts)
