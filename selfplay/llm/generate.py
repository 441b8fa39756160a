"""Groups of sampled completions: every prompt is read once, then answered G times; equal prompts
are read together.

The embedded model writes with ``selfplay.models.transformer.Decoder``, on a CPU with a cache whose
kernels are here; any other model writes with its forward pass and Hugging Face's cache.

The random numbers of a completion follow from (seed, its prompt, its number in the group) alone,
so that neither the order of a batch nor the rows that have left it change a completion.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.llm.models import padded_tokens, stopped
from selfplay.models.transformer import Decoder, TensorCache, Transformer, positions_of

COMPACT = 8  #: rows leave the batch once one in so many has ended
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(v) for v in (
    0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Sampling:
    """How a token is sampled from logits."""

    temperature: float = 1.0  #: 0 takes the best token
    top_p: float = 1.0  #: sample from the fewest best tokens of this mass (Holtzman et al. 2020)
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()  #: texts that end a completion, of which they are part


class Samples(NamedTuple):
    """N = n G completions of n prompts; rows i G to i G + G - 1 answer prompt i."""

    prompt: Tensor  #: int64 [n, P], left-padded
    prompt_mask: Tensor  #: bool [n, P]
    action: Tensor  #: int64 [N, T], T the longest completion; the pad token behind the end
    mask: Tensor  #: bool [N, T], sampled tokens, the end token included
    logp: Tensor  #: float32 [N, T], 0 outside the mask
    ended: Tensor  #: bool [N], False where ``max_new_tokens`` cut it off


class Generator(Protocol):
    """What answers prompts: torch here, or an inference engine on a GPU."""

    name: ClassVar[str]  #: as ``sample.engine`` has it

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        """Answer each of ``prompts`` (token lists, none empty) ``group`` times."""
        ...

    def refresh(self, model: nn.Module) -> None:
        """Answer from now on with the weights that ``model``, which is of the same kind, has at the
        next call."""
        ...

    def figures(self) -> dict[str, float]:
        """What is worth a line of the history, of the newest weights that it was given."""
        ...


@dataclass(frozen=True)
class TorchGenerator:
    """Generation by torch with the weights that ``model`` has at each call."""

    name: ClassVar[str] = "torch"
    model: nn.Module
    ends: tuple[int, ...]
    pad: int
    tokenizer: Any = None  #: reads what has been written, for ``Sampling.stop``

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        tokens, mask = padded_tokens(prompts, self.pad, left=True)
        here, mine = ranks.here(), ranks.share(len(prompts))
        some = slice(mine.start, max(mine.stop, mine.start + 1))  # one in vain where there is none
        with here.opened(self.model):
            found = sample_completions(
                self.model, tokens[some], mask[some], group, sampling, seed, self.ends, self.pad,
                self.tokenizer,
                completion_keys(tokens, mask, group, seed)[group * some.start:group * some.stop])
        if here.size == 1:
            return found
        wide = sampling.max_new_tokens
        columns: list[Tensor] = []
        for part, fill in zip(found[2:], (self.pad, 0, 0, 0), strict=True):
            own = part.new_full((len(mine) * group, wide), fill)
            own[:, :part.numel() // len(part)] = part[:len(own)].reshape(len(own), -1)
            columns.append(here.rows(own.reshape(len(mine), group * wide), len(prompts))
                           .reshape(-1, wide))
        longest = max(int(columns[1].sum(1).max()), 1)
        action, written, logp = (column[:, :longest] for column in columns[:3])
        return Samples(tokens.to(action.device), mask.to(action.device), action, written, logp,
                       columns[3][:, 0])

    def refresh(self, model: nn.Module) -> None:
        """Nothing to do: it reads the weights of ``model`` itself."""

    def figures(self) -> dict[str, float]:
        """None: its arithmetic is the trainer's."""
        return {}


@torch.no_grad()
def sample_completions(
    model: Any, prompt: Tensor, prompt_mask: Tensor, group: int, sampling: Sampling, seed: int,
    ends: Sequence[int], pad: int, tokenizer: Any = None,
    keys: NDArray[np.uint64] | None = None,
) -> Samples:
    """Answer prompt int64 [n, P] (left-padded, mask bool [n, P]) ``group`` times a row.

    logp is float32, of softmax(logits / temperature) before top_p cuts it (and of
    softmax(logits) where the temperature is 0), which is what ``TextPolicy.evaluate`` computes.
    keys: those of ``completion_keys``, where the prompts are a part of more.
    Raises UserError if the model cannot see so many tokens.
    """
    device = next(model.parameters()).device
    room, count = sampling.max_new_tokens, len(prompt) * group
    must_see(model.config, prompt.shape[1] + room)
    prompt, prompt_mask = prompt.to(device), prompt_mask.to(device)
    action = torch.full((count, room), pad, dtype=torch.int64, device=device)
    logp = torch.zeros((count, room), device=device)
    mask = torch.zeros((count, room), dtype=torch.bool, device=device)
    by_text = torch.zeros(count, dtype=torch.bool, device=device)
    uniform = None
    if sampling.temperature > 0:
        keys = completion_keys(prompt, prompt_mask, group, seed) if keys is None else keys
        uniform = torch.from_numpy(uniforms(keys, room)).to(device)
    end_ids = torch.tensor(list(ends), device=device)
    was_training = model.training
    model.eval()
    try:
        decoder = decoder_of(model)
        first, place = different(prompt, prompt_mask)
        rows = place.repeat_interleave(group)
        logits = decoder.prefill(prompt[first], prompt_mask[first], room)[rows]
        decoder.select(rows)
        rows = torch.arange(count, device=device)
        alive = torch.ones(count, dtype=torch.bool, device=device)
        for t in range(room):
            token, token_logp = sample_tokens(
                logits, sampling, None if uniform is None else uniform[rows, t])
            action[rows, t] = torch.where(alive, token, pad)
            logp[rows, t] = torch.where(alive, token_logp, 0.0)
            mask[rows, t] = alive
            alive = alive & ~torch.isin(token, end_ids)
            if sampling.stop:
                at_stop = ends_with_stop(tokenizer, action[rows, :t + 1], sampling.stop)
                by_text[rows] |= alive & at_stop
                alive = alive & ~at_stop
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
    ended = torch.isin(torch.where(mask, action, -1), end_ids).any(1) | by_text
    return Samples(prompt, prompt_mask, action[:, :longest], mask[:, :longest],
                   logp[:, :longest], ended)


def different(prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(where the different ones of the prompts int64 [n, P] stand first, int64 [m]; which of these
    each prompt is, int64 [n]). mask: bool [n, P], of their tokens."""
    seen, place, first = dict[bytes, int](), list[int](), list[int]()
    for number, row in enumerate(torch.where(mask, prompt, -1).cpu().numpy()):
        place.append(seen.setdefault(row.tobytes(), len(seen)))
        if len(seen) > len(first):
            first.append(number)
    return (torch.tensor(first, device=prompt.device), torch.tensor(place, device=prompt.device))


def ends_with_stop(tokenizer: Any, action: Tensor, stop: Sequence[str]) -> Tensor:
    """bool [B]: whether one of the texts ``stop`` stands at the end of tokens int64 [B, T]."""
    longest = max(len(text.encode()) for text in stop) + 1  # a token has a byte at least
    texts = tokenizer.batch_decode(action[:, -longest:].tolist(), skip_special_tokens=False)
    return torch.tensor([stopped(text, stop) for text in texts], device=action.device)


def sample_tokens(
    logits: Tensor, sampling: Sampling, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(token int64 [B], its log-probability float32 [B]) from logits float32 [B, V].

    uniform: float64 [B] in (0, 1), the place in the cumulative distribution; None takes the best.
    """
    if uniform is None or sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, _of_token(torch.log_softmax(logits, -1), token)
    logp = torch.log_softmax(logits / sampling.temperature, -1)
    weight = logp.exp().double()
    if sampling.top_p < 1:
        weight = nucleus(weight, sampling.top_p)
    total = weight.cumsum(-1)
    token = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)[:, 0]
    return token, _of_token(logp, token)


def nucleus(weight: Tensor, top_p: float) -> Tensor:
    """``weight`` [B, V] with 0 outside the fewest largest ones whose sum reaches ``top_p``."""
    ordered, order = weight.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(weight).scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))


def completion_keys(
    prompt: Tensor, mask: Tensor, group: int, seed: int
) -> NDArray[np.uint64]:
    """uint64 [n * group], one a completion: made of the seed, the prompt's tokens, how often the
    prompt has come before in the batch, and the completion's number in its group."""
    seen: Counter[bytes] = Counter()
    found = []
    for tokens, row in zip(prompt.cpu().numpy(), mask.cpu().numpy(), strict=True):
        text = tokens[row].astype("<i8").tobytes()
        words = b"%d %d " % (seed, seen[text]) + text
        found.append(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little"))
        seen[text] += 1
    first = np.array(found, dtype=np.uint64)[:, None]
    number = np.arange(1, group + 1, dtype=np.uint64)[None]
    return _splitmix(first + number * _GOLDEN).reshape(-1)


def uniforms(key: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """float64 [N, count] in (0, 1): splitmix64 from each key (Steele, Lea, Flood 2014)."""
    steps = np.arange(1, count + 1, dtype=np.uint64)[None] * _GOLDEN
    bits = _splitmix(key[:, None] + steps) >> np.uint64(24)
    return (bits.astype(np.float64) + 0.5) * 2.0**-40  # 40 bits: never rounds up to 1


def _splitmix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _of_token(logp: Tensor, token: Tensor) -> Tensor:
    return logp.gather(-1, token[:, None])[:, 0]


def must_see(config: Any, wanted: int) -> None:
    """Raise UserError if a model of this configuration cannot see ``wanted`` tokens."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and wanted > most:
        raise UserError(f"prompts and completions of {wanted} tokens, but the model sees {most}; "
                        "lower --set sample.max_new_tokens, or take shorter prompts")


# -------------------------------------------------------------------------------------- decoders


def decoder_of(model: nn.Module) -> Decoder | ForwardDecoder:
    """A decoder that uses the present weights of ``model``."""
    if not isinstance(model, Transformer):
        return ForwardDecoder(model)
    weight = model.model.embed_tokens.weight
    on_host = weight.device.type == "cpu" and weight.dtype == torch.float32
    return Decoder(model, HostCache if on_host else TensorCache)


class ForwardDecoder:
    """``Decoder`` for any causal language model of Hugging Face, by its forward and cache."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def prefill(self, tokens: Tensor, mask: Tensor, room: int) -> Tensor:
        self.mask = mask.long()
        out = self.model(input_ids=tokens, attention_mask=self.mask,
                         position_ids=positions_of(mask), use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1].float()

    def select(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        out = self.model(input_ids=tokens[:, None], attention_mask=self.mask,
                         position_ids=self.mask.sum(1, keepdim=True) - 1,
                         past_key_values=self.cache, use_cache=True)
        return out.logits[:, -1].float()


class HostCache:
    """``transformer.Cache`` for float32 in main memory. The rows of a prompt share its keys, and
    ``select`` copies nothing. Axes: m rows, H heads of width d, prompts of P tokens."""

    def __init__(self, mask: Tensor, room: int) -> None:
        self.first = mask.int().argmax(1).numpy()  # the first token behind the padding
        self.room, self.written = room, 0
        self.prompt: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.own: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.prompt_of = np.arange(len(mask))
        self.slot = np.arange(len(mask))

    def start(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.prompt[layer] = _dense(k.transpose(1, 2)), _dense(v.transpose(1, 2))

    def select(self, rows: Tensor) -> None:
        index = rows.numpy()
        self.prompt_of = self.prompt_of[index]
        self.slot = self.slot[index] if self.written else np.arange(len(index))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.written == 0:
            shape = (len(q), q.shape[1], self.room, q.shape[2])
            self.own[layer] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        keys, values = self.own[layer]
        keys[self.slot, :, self.written] = k.numpy()
        values[self.slot, :, self.written] = v.numpy()
        end = self.written + 1
        prompt_keys, prompt_values = self.prompt[layer]
        scores = np.empty((*q.shape[:2], prompt_keys.shape[2] + end), np.float32)
        _attention_scores(_dense(q), prompt_keys, keys, self.prompt_of, self.slot, self.first, end,
                          scores)
        weights = torch.softmax(torch.from_numpy(scores), -1).numpy()
        mixed = np.empty(tuple(q.shape), np.float32)
        _mix_values(weights, prompt_values, values, self.prompt_of, self.slot, self.first, end,
                    mixed)
        return torch.from_numpy(mixed).flatten(1)

    def advance(self) -> None:
        self.written += 1


def _dense(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.contiguous().numpy()


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _attention_scores(q, prompt, own, prompt_of, slot, first, end, out):
    """out [m, H, P + end] = q . k / sqrt(d), of prompt [n, H, P, d] and own [slots, H, room, d]."""
    rows, heads, width = q.shape
    length = prompt.shape[2]
    scale = np.float32(1.0 / np.sqrt(width))
    for b in range(rows):
        p, s = prompt_of[b], slot[b]
        for h in range(heads):
            for t in range(first[p]):
                out[b, h, t] = np.float32(-1e30)
            for t in range(first[p], length):
                total = np.float32(0.0)
                for i in range(width):
                    total += q[b, h, i] * prompt[p, h, t, i]
                out[b, h, t] = total * scale
            for t in range(end):
                total = np.float32(0.0)
                for i in range(width):
                    total += q[b, h, i] * own[s, h, t, i]
                out[b, h, length + t] = total * scale


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _mix_values(weight, prompt, own, prompt_of, slot, first, end, out):
    """out [m, H, d] = sum over tokens of weight [m, H, P + end] times their values."""
    rows, heads, width = out.shape
    length = prompt.shape[2]
    for b in range(rows):
        p, s = prompt_of[b], slot[b]
        for h in range(heads):
            for i in range(width):
                out[b, h, i] = np.float32(0.0)
            for t in range(first[p], length):
                w = weight[b, h, t]
                for i in range(width):
                    out[b, h, i] += w * prompt[p, h, t, i]
            for t in range(end):
                w = weight[b, h, length + t]
                for i in range(width):
                    out[b, h, i] += w * own[s, h, t, i]
