"""Groups of sampled completions: every prompt is read once, then answered G times.

Draws are counted, not streamed: a completion depends on (seed, its prompt, its number in the
group) and on no other row, so neither on the batch's order nor on what has been dropped from it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.llm.decode import decoder_of
from selfplay.llm.models import left_padded

COMPACT = 8  #: rows are dropped from the batch when one in so many has ended
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(v) for v in (
    0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its logits."""

    temperature: float = 1.0  #: 0 takes the best token
    top_p: float = 1.0  #: draw from the fewest best tokens of this mass (Holtzman et al. 2020)
    max_new_tokens: int = 128


class Samples(NamedTuple):
    """N = n G completions of n prompts; rows i G to i G + G - 1 answer prompt i."""

    prompt: Tensor  #: int64 [n, P], left-padded
    prompt_mask: Tensor  #: bool [n, P]
    action: Tensor  #: int64 [N, T], T the longest completion; the pad token behind the end
    mask: Tensor  #: bool [N, T], tokens that were drawn, the end token included
    logp: Tensor  #: float32 [N, T], 0 outside the mask
    ended: Tensor  #: bool [N], False where ``max_new_tokens`` cut it


class Generator(Protocol):
    """Whatever can answer prompts: torch here, or an inference server on a GPU."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """Answer each of ``prompts`` (token lists, none empty) ``group`` times."""
        ...

    def refresh(self, model: nn.Module) -> None:
        """Answer with the weights that ``model``, of the same kind, has now."""
        ...


@dataclass(frozen=True)
class TorchGenerator:
    """Generation by torch with the weights that ``model`` has at each call."""

    model: nn.Module
    ends: tuple[int, ...]
    pad: int

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        tokens, mask = left_padded(prompts, self.pad)
        return generate(self.model, tokens, mask, group, sampling, seed, self.ends, self.pad)

    def refresh(self, model: nn.Module) -> None:
        """Nothing: its weights are the model's own."""


@torch.no_grad()
def generate(
    model: Any, prompt: Tensor, prompt_mask: Tensor, group: int, sampling: Sampling, seed: int,
    ends: Sequence[int], pad: int,
) -> Samples:
    """Answer prompt int64 [n, P] (left-padded, mask bool [n, P]) ``group`` times a row.

    logp is float32, of softmax(logits / temperature) before top_p cuts it (and of
    softmax(logits) where the temperature is 0), which is what ``TextPolicy.evaluate`` computes.
    Raises UserError if the model cannot see so many tokens.
    """
    device = next(model.parameters()).device
    room, count = sampling.max_new_tokens, len(prompt) * group
    must_fit(model.config, prompt.shape[1] + room)
    prompt, prompt_mask = prompt.to(device), prompt_mask.to(device)
    action = torch.full((count, room), pad, dtype=torch.int64, device=device)
    logp = torch.zeros((count, room), device=device)
    mask = torch.zeros((count, room), dtype=torch.bool, device=device)
    draws = None
    if sampling.temperature > 0:
        draws = torch.from_numpy(uniforms(keys(prompt, prompt_mask, group, seed), room)).to(device)
    end_ids = torch.tensor(list(ends), device=device)
    was_training = model.training
    model.eval()
    try:
        decoder = decoder_of(model)
        rows = torch.arange(len(prompt), device=device).repeat_interleave(group)
        logits = decoder.prefill(prompt, prompt_mask, room)[rows]
        decoder.select(rows)
        rows = torch.arange(count, device=device)
        alive = torch.ones(count, dtype=torch.bool, device=device)
        for t in range(room):
            token, drawn = draw(logits, sampling, None if draws is None else draws[rows, t])
            action[rows, t] = torch.where(alive, token, pad)
            logp[rows, t] = torch.where(alive, drawn, 0.0)
            mask[rows, t] = alive
            alive = alive & ~torch.isin(token, end_ids)
            left = int(alive.sum())
            if not left or t + 1 == room:
                break
            if len(rows) - left >= max(len(rows) // COMPACT, 1):
                kept = alive.nonzero()[:, 0]
                decoder.select(kept)
                rows, token, alive = rows[kept], token[kept], alive[kept]
            logits = decoder.step(token)
    finally:
        model.train(was_training)
    longest = max(int(mask.sum(1).max()), 1)
    ended = torch.isin(torch.where(mask, action, -1), end_ids).any(1)
    return Samples(prompt, prompt_mask, action[:, :longest], mask[:, :longest],
                   logp[:, :longest], ended)


def draw(logits: Tensor, sampling: Sampling, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """(token int64 [B], its log-probability float32 [B]) from logits float32 [B, V].

    uniform: float64 [B] in (0, 1), the place in the cumulative distribution; None takes the best.
    """
    if uniform is None or sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, _at(torch.log_softmax(logits, -1), token)
    logp = torch.log_softmax(logits / sampling.temperature, -1)
    weight = logp.exp().double()
    if sampling.top_p < 1:
        weight = nucleus(weight, sampling.top_p)
    total = weight.cumsum(-1)
    token = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0]
    return token, _at(logp, token)


def nucleus(weight: Tensor, top_p: float) -> Tensor:
    """``weight`` [B, V] with 0 outside the fewest largest ones whose sum reaches ``top_p``."""
    ordered, order = weight.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(weight).scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))


def keys(prompt: Tensor, mask: Tensor, group: int, seed: int) -> NDArray[np.uint64]:
    """uint64 [n * group], one a completion, of the seed, the prompt's tokens, how many times this
    prompt came before in the batch, and the number in the group."""
    seen: Counter[bytes] = Counter()
    found = []
    for tokens, row in zip(prompt.cpu().numpy(), mask.cpu().numpy(), strict=True):
        text = tokens[row].astype("<i8").tobytes()
        words = b"%d %d " % (seed, seen[text]) + text
        found.append(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little"))
        seen[text] += 1
    first = np.array(found, dtype=np.uint64)[:, None]
    number = np.arange(1, group + 1, dtype=np.uint64)[None]
    return _mix(first + number * _GOLDEN).reshape(-1)


def uniforms(key: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """float64 [N, count] in (0, 1): splitmix64 from each key (Steele, Lea, Flood 2014)."""
    steps = np.arange(1, count + 1, dtype=np.uint64)[None] * _GOLDEN
    bits = _mix(key[:, None] + steps) >> np.uint64(24)
    return (bits.astype(np.float64) + 0.5) * 2.0**-40  # 40 bits: never rounds up to 1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _at(logp: Tensor, token: Tensor) -> Tensor:
    return logp.gather(-1, token[:, None])[:, 0]


def must_fit(config: Any, wanted: int) -> None:
    """Raise UserError if a model of this configuration cannot see ``wanted`` tokens."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and wanted > most:
        raise UserError(f"prompts and completions of {wanted} tokens, but the model sees {most}; "
                        "lower --set sample.max_new_tokens, or take shorter prompts")
