"""The embedded language model: a decoder-only transformer of Llama's shape (Touvron et al. 2023,
arXiv:2302.13971) with tied embeddings.

Weights are named and laid out as Hugging Face's ``LlamaForCausalLM`` has them, and models are
called as Hugging Face's are. Prompts that several completions share are read once: in training by
``Backbone.hidden_states``, in generation by ``Decoder``. All of it runs through ``_run_layers``;
only the attention differs.

Axes: n prompts of P tokens, N completions of T tokens, m rows being written, M tokens of any
texts one behind the other; width D, H heads of d.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gradients import Gated, Normed, Rotated

ROTARY_BASE = 10000.0

#: (number of the layer, queries [K, H, d], keys, values [M, H, d]) -> [K, H d], the mixed values.
#: K is M, but in the last layer the tokens that are wanted.
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TransformerConfig:
    """Named as in Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    max_position_embeddings: int
    pad_token_id: int
    eos_token_id: int
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def fixed(self) -> dict[str, Any]:
        """What else config.json says, the same for every model of this kind."""
        return {"model_type": "llama", "num_key_value_heads": self.num_attention_heads,
                "head_dim": self.head_dim, "hidden_act": "silu", "attention_bias": False,
                "attention_dropout": 0.0, "mlp_bias": False, "tie_word_embeddings": True,
                "bos_token_id": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE}}

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of config.json."""
        return {"architectures": ["LlamaForCausalLM"], **asdict(self), **self.fixed()}


def config_of(described: Mapping[str, Any]) -> TransformerConfig | None:
    """The configuration in a config.json with all values filled in; None where it describes
    another kind of model."""
    try:
        config = TransformerConfig(**{f.name: described[f.name] for f in fields(TransformerConfig)})
        fits = all(described[key] == value for key, value in config.fixed().items())
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return config if fits else None


class SharedPrompts(NamedTuple):
    """Completions, and the different prompts that they follow."""

    prompt: Tensor  #: int64 [n, P], left-padded
    prompt_mask: Tensor  #: bool [n, P]
    prompt_of: Tensor  #: int64 [N]
    action: Tensor  #: int64 [N, T]


def share_prompts(prompt: Tensor, mask: Tensor, action: Tensor) -> SharedPrompts:
    """Find the different ones among prompts [N, P], one for each of the completions [N, T]."""
    both, place = torch.unique(torch.cat([prompt, mask.long()], 1), dim=0, return_inverse=True)
    width = prompt.shape[1]
    return SharedPrompts(both[:, :width], both[:, width:].bool(), place, action)


class BackboneOutput(NamedTuple):
    last_hidden_state: Tensor  #: [N, L, D], after the last norm


class CausalOutput(NamedTuple):
    logits: Tensor  #: [N, L, V]


class Layer(nn.Module):
    """Weights of a layer; ``_run_layers`` computes with them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.self_attn = nn.ModuleDict(
            {f"{name}_proj": nn.Linear(width, width, bias=False) for name in "qkvo"})
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(width, inner, bias=False),
            "up_proj": nn.Linear(width, inner, bias=False),
            "down_proj": nn.Linear(inner, width, bias=False)})
        self.input_layernorm = nn.RMSNorm(width)
        self.post_attention_layernorm = nn.RMSNorm(width)


class Backbone(nn.Module):
    """From tokens to hidden states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None, use_cache: bool = False,
    ) -> BackboneOutput:
        """Read whole texts int64 [N, L].

        attention_mask: [N, L], 0 on padding; not needed where that is on the right and thrown away.
        Of several texts in a row each has its number, and position_ids from 0. Nothing is cached.
        """
        rows, length = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device).expand(rows, -1)
        sight = None if attention_mask is None else _causal(attention_mask)
        x = self._run(input_ids.reshape(-1), position_ids.reshape(-1),
                      lambda _, *parts: _attend(*_by_text(parts, rows), sight))
        return BackboneOutput(x.unflatten(0, (rows, length)))

    def hidden_states(self, texts: SharedPrompts) -> Tensor:
        """[N, T, D]: what is thought of the text before each token of the completions, after the
        last norm. Each prompt is read once."""
        (rows, length), count = texts.prompt.shape, len(texts.action)
        steps = texts.action.shape[1] - 1  # nothing follows the last token
        whole = rows * length
        sight, behind = _causal(texts.prompt_mask), _causal_behind(texts, steps)

        def attention(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            asked = len(q) - count * steps  # of the prompts: all, or the last of each
            first = _by_text((q[:asked], k[:whole], v[:whole]), rows)
            q, k, v = _by_text((q[asked:], k[whole:], v[whole:]), count)
            k, v = (torch.cat([before.index_select(0, texts.prompt_of), part], 1)
                    for before, part in ((first[1], k), (first[2], v)))
            return torch.cat([_attend(*first, sight), _attend(q, k, v, behind)])

        after = texts.prompt_mask.sum(1)[texts.prompt_of, None] + torch.arange(
            steps, device=texts.action.device)
        x = self._run(
            torch.cat([texts.prompt.reshape(-1), texts.action[:, :-1].reshape(-1)]),
            torch.cat([positions_of(texts.prompt_mask).reshape(-1), after.reshape(-1)]), attention,
            torch.cat([_last_tokens(texts.prompt), torch.arange(
                whole, whole + count * steps, device=texts.action.device)]))
        last = x[:rows].index_select(0, texts.prompt_of)
        return torch.cat([last[:, None], x[rows:].unflatten(0, (count, steps))], 1)

    def _run(self, tokens: Tensor, positions: Tensor, attention: Attention,
             wanted: Tensor | None = None) -> Tensor:
        """[M, D], after the last norm; of the tokens ``wanted`` alone, [K, D]."""
        layers, x = [fused(layer) for layer in self.layers], self.embed_tokens(tokens)
        return _run_layers(layers, x, positions, attention, self.config,
                           wanted) * self.norm.weight


class Transformer(nn.Module):
    """The causal language model; its head is its embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights are random, drawn from torch's global generator."""
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)
        with torch.no_grad():
            self.model.embed_tokens.weight[config.pad_token_id] = 0

    def get_decoder(self) -> Backbone:
        return self.model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None, use_cache: bool = False, logits_to_keep: int = 0,
    ) -> CausalOutput:
        """As ``Backbone.forward``. logits_to_keep: of the last so many tokens; 0: of all."""
        seen = self.model(input_ids, attention_mask, position_ids, use_cache).last_hidden_state
        return CausalOutput(self.logits(seen[:, -logits_to_keep:]))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] of hidden states [..., D]."""
        return F.linear(hidden, self.model.embed_tokens.weight)


def positions_of(mask: Tensor) -> Tensor:
    """int64 [N, L]: each token's place in its own text; 0 on padding."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


class Cache(Protocol):
    """Keys and values of prompts and of what each row writes behind its prompt; made of the
    prompts' mask bool [n, P] and of the most tokens that a row may write.

    start keeps what the prompts leave, k and v [n, P, H, d]; attend takes and keeps q, k and v
    [m, H, d] of a new token a row and returns [m, H d]; advance comes after the last layer.
    """

    def start(self, layer: int, k: Tensor, v: Tensor) -> None: ...

    def select(self, rows: Tensor) -> None: ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...

    def advance(self) -> None: ...


class TensorCache:
    """On any device: prompts are repeated for each of their rows, dropped rows copied out."""

    def __init__(self, mask: Tensor, room: int) -> None:
        self.padding = None if bool(mask.all()) else ~mask
        self.room, self.used = room, mask.shape[1]
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  #: keys, values [m, H, P + room, d]

    def start(self, layer: int, k: Tensor, v: Tensor) -> None:
        keys, values = (F.pad(part.transpose(1, 2), (0, 0, 0, self.room)) for part in (k, v))
        self.kept[layer] = keys, values

    def select(self, rows: Tensor) -> None:
        self.padding = None if self.padding is None else self.padding[rows]
        self.kept = {layer: (k[rows], v[rows]) for layer, (k, v) in self.kept.items()}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (keys, values), end = self.kept[layer], self.used + 1
        keys[:, :, self.used], values[:, :, self.used] = k, v
        scores = (q[:, :, None] @ keys[:, :, :end].transpose(2, 3)).float() * q.shape[-1] ** -0.5
        if self.padding is not None:
            width = self.padding.shape[1]
            scores[..., :width].masked_fill_(self.padding[:, None, None], -1e30)
        return (torch.softmax(scores, -1).to(v.dtype) @ values[:, :, :end]).flatten(1)

    def advance(self) -> None:
        self.used += 1


class Decoder:
    """One token after another, with the weights that ``model`` has now. No gradient."""

    @torch.no_grad()
    def __init__(
        self, model: Transformer, new_cache: Callable[[Tensor, int], Cache] = TensorCache
    ) -> None:
        self.config, self.new_cache, backbone = model.config, new_cache, model.model
        self.embedding = backbone.embed_tokens.weight.detach()
        self.layers = [fused(layer) for layer in backbone.layers]
        self.head = self.embedding * backbone.norm.weight

    @torch.no_grad()
    def prefill(self, tokens: Tensor, mask: Tensor, room: int) -> Tensor:
        """Read prompts int64 [n, P], left-padded, mask bool [n, P]; ``room`` tokens may follow.
        Returns the logits of the next token, float32 [n, V]."""
        self.cache = cache = self.new_cache(mask, room)
        positions, sight = positions_of(mask), _causal(mask)
        self.next = positions[:, -1] + 1

        def attention(layer: int, *parts: Tensor) -> Tensor:
            q, k, v = _by_text(parts, len(tokens))
            cache.start(layer, k, v)
            return _attend(q, k, v, sight)

        x = self._run(tokens.reshape(-1), positions.reshape(-1), attention, _last_tokens(tokens))
        return F.linear(x, self.head).float()

    def select(self, rows: Tensor) -> None:
        """Row i becomes the old row rows[i], int64 [m]. Rows may be repeated only before the first
        ``step``."""
        self.next = self.next[rows]
        self.cache.select(rows)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits float32 [m, V] after one more token a row, int64 [m]."""
        x = self._run(tokens, self.next, self.cache.attend)
        self.cache.advance()
        self.next = self.next + 1
        return F.linear(x, self.head).float()

    def _run(self, tokens: Tensor, positions: Tensor, attention: Attention,
             wanted: Tensor | None = None) -> Tensor:
        return _run_layers(self.layers, self.embedding[tokens], positions, attention, self.config,
                           wanted)


class Fused(NamedTuple):
    """Weights of a layer with few, large products, its norms' weights in them:
    (x / rms(x) * g) W^T = x / rms(x) (g W)^T."""

    qkv: Tensor  #: [3 D, D]
    out: Tensor  #: [D, D]
    gate_up: Tensor  #: [2 I, D]
    down: Tensor  #: [D, I]


def fused(layer: Any) -> Fused:
    """The weights of a ``Layer``, which gradients reach through these."""
    mixer, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([mixer.q_proj.weight, mixer.k_proj.weight, mixer.v_proj.weight])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return Fused(qkv * layer.input_layernorm.weight, mixer.o_proj.weight,
                 gate_up * layer.post_attention_layernorm.weight, mlp.down_proj.weight)


def _run_layers(
    layers: Sequence[Fused], x: Tensor, positions: Tensor, attention: Attention,
    config: TransformerConfig, wanted: Tensor | None = None,
) -> Tensor:
    """[M, D], normed but without the last norm's weight, of embedded tokens x [M, D].

    wanted: int64 [K], the tokens of which that is asked; [K, D] then. The last layer makes nothing
    of the others but keys and values, a sixth of its work.
    """
    heads, eps = config.num_attention_heads, config.rms_norm_eps
    turn = _rotation(positions, config.head_dim, x.dtype)
    for number, layer in enumerate(layers):
        if wanted is None or number + 1 < len(layers):
            qkv = F.linear(Normed.apply(x, eps), layer.qkv).unflatten(1, (3 * heads, -1))
            rotated = Rotated.apply(qkv[:, :2 * heads], *turn)
            q, k, v = rotated[:, :heads], rotated[:, heads:], qkv[:, 2 * heads:]
        else:
            normed, width = Normed.apply(x, eps), x.shape[1]
            kv = F.linear(normed, layer.qkv[width:]).unflatten(1, (2 * heads, -1))
            asked = F.linear(normed.index_select(0, wanted), layer.qkv[:width])
            q = Rotated.apply(asked.unflatten(1, (heads, -1)), *(part[wanted] for part in turn))
            k, v, x = Rotated.apply(kv[:, :heads], *turn), kv[:, heads:], x.index_select(0, wanted)
        x = x + F.linear(attention(number, q, k, v), layer.out)
        x = x + F.linear(Gated.apply(F.linear(Normed.apply(x, eps), layer.gate_up)), layer.down)
    return Normed.apply(x, eps)


def _last_tokens(texts: Tensor) -> Tensor:
    """int64 [N]: the place of the last token of each of texts [N, L], one behind the other."""
    rows, length = texts.shape
    return torch.arange(length - 1, rows * length, length, device=texts.device)


def _rotation(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin), [M, 1, d / 2] each, of positions [M]."""
    powers = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = (positions[:, None].float() * (1.0 / ROTARY_BASE**powers))[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _by_text(parts: Sequence[Tensor], rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """q [rows, L, H, d], k and v [rows, S, H, d] of [rows L, H, d] and [rows S, H, d]."""
    q, k, v = (part.unflatten(0, (rows, -1 if part.numel() else 0)) for part in parts)
    return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[N L, H d] of q [N, L, H, d], the last of S tokens, k and v [N, S, H, d]. mask: bool
    [N, 1, S, S] or [N, 1, L, S]; None: every token sees itself and those before it."""
    if mask is not None:
        mask = mask[:, :, -q.shape[1]:] if q.shape[1] else mask[:, :, :0]
    seen = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask,
        is_causal=mask is None)
    return seen.transpose(1, 2).flatten(2).flatten(0, 1)


def _causal(mask: Tensor) -> Tensor:
    """bool [N, 1, L, L]: what each token of texts with the mask [N, L] sees, of its own text."""
    square = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device)
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # no empty rows
    own = (mask[:, None] == mask[:, :, None]) & (mask[:, None] != 0)
    return (square.tril() & own | itself)[:, None]


def _causal_behind(texts: SharedPrompts, steps: int) -> Tensor:
    """bool [N, 1, steps, P + steps]: what each token of completions sees."""
    before = texts.prompt_mask[texts.prompt_of][:, None].expand(-1, steps, -1)
    own = torch.ones(steps, steps, dtype=torch.bool, device=before.device).tril()
    return torch.cat([before, own.expand(len(before), -1, -1)], 2)[:, None]
