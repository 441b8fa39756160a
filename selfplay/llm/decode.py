"""One token after another from a cache of keys and values: Llama by hand, any other by its forward.

For a small model most of a Hugging Face decoding step is not arithmetic; ``LlamaDecoder`` does the
same sums with the norms folded into the products, and queries, keys and values in one of them.
Both decoders:

    prefill(tokens int64 [n, P], mask bool [n, P], room) -> logits float32 [n, V] of the next token
    select(rows int64 [m])   row i becomes the old row rows[i]: repeats and drops at once
    step(tokens int64 [m]) -> logits float32 [m, V] after one more token a row
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfplay.llm.cache import cache_for
from selfplay.llm.models import positions_of


class Decoder(Protocol):
    """See the top of this file."""

    def prefill(self, tokens: Tensor, mask: Tensor, room: int) -> Tensor: ...

    def select(self, rows: Tensor) -> None: ...

    def step(self, tokens: Tensor) -> Tensor: ...


def decoder_of(model: nn.Module) -> Decoder:
    """The fastest decoder that knows ``model``; it holds the weights as they are now."""
    return LlamaDecoder(model) if knows(model) else ForwardDecoder(model)


def knows(model: nn.Module) -> bool:
    """Whether ``LlamaDecoder`` computes what ``model`` does."""
    from transformers import LlamaForCausalLM, Qwen2ForCausalLM

    if type(model) not in (LlamaForCausalLM, Qwen2ForCausalLM):  # a subclass may differ
        return False
    return knows_backbone(model.model)


def knows_backbone(backbone: nn.Module) -> bool:
    """The same of what is under a causal language model."""
    from transformers import LlamaModel, Qwen2Model

    return (type(backbone) in (LlamaModel, Qwen2Model) and usual(backbone.config)
            and all(_is_bare(layer) for layer in backbone.layers))


def usual(config: Any) -> bool:
    """Whether a Llama has nothing that is not computed here: no other activation, biases,
    rotation or sight."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)
            and (config.rope_parameters or {}).get("rope_type", "default") == "default"
            and kinds == {"full_attention"})


def _is_bare(layer: Any) -> bool:
    """Whether nothing, such as an adapter, stands between a layer and its weights."""
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
             mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return all(type(part) is nn.Linear for part in parts)


class ForwardDecoder:
    """Any causal language model of Hugging Face, by its own forward and cache."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def prefill(self, tokens: Tensor, mask: Tensor, room: int) -> Tensor:
        del room
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


@dataclass(frozen=True)
class _Layer:
    """Weights of a block, its norms folded into the products behind them."""

    qkv: Tensor  #: [(heads + 2 kv_heads) * head, width]
    bias: Tensor | None
    out: Tensor  #: [width, heads * head]
    gate_up: Tensor  #: [2 * inner, width]
    down: Tensor  #: [width, inner]


class LlamaDecoder:
    """Llama (and Qwen2, which adds biases) with grouped queries, in ``model``'s dtype.

    RMSNorm (Zhang and Sennrich 2019): (x / rms(x) * g) W^T = (x (g W)^T) / rms(x). Rotary
    embedding (Su et al. 2021) by halves, as Hugging Face lays its weights out.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = float(config.rms_norm_eps)
        inner = model.model
        self.embedding = inner.embed_tokens.weight.detach()
        self.frequency = inner.rotary_emb.inv_freq.float()
        self.layers = [_folded(layer) for layer in inner.layers]
        self.logits = _scaled(model.lm_head.weight, inner.norm.weight)

    def prefill(self, tokens: Tensor, mask: Tensor, room: int) -> Tensor:
        length = tokens.shape[1]
        self.cache = cache_for(mask, room, len(self.layers), self.embedding)
        positions = positions_of(mask)
        self.next = positions[:, -1] + 1
        cos, sin = self._rotation(positions)
        allowed = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        allowed = (allowed & mask[:, None, :])[:, None]
        allowed = allowed | torch.eye(length, dtype=torch.bool, device=mask.device)  # no empty rows
        x = self.embedding[tokens]
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            self.cache.start(i, k, v)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed,
                                                  enable_gqa=self.heads != self.kv_heads)
            x = self._mixed(layer, x, seen.transpose(1, 2).flatten(2))
        return self._out(x[:, -1])

    def select(self, rows: Tensor) -> None:
        self.next = self.next[rows]
        self.cache.select(rows)

    def step(self, tokens: Tensor) -> Tensor:
        cos, sin = self._rotation(self.next[:, None])
        x = self.embedding[tokens][:, None]
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            seen = self.cache.attend(i, q[:, :, 0], k[:, :, 0], v[:, :, 0])
            x = self._mixed(layer, x, seen[:, None])
        self.cache.advance()
        self.next = self.next + 1
        return self._out(x[:, 0])

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [n, 1, L, head / 2], of positions [n, L]."""
        angles = (positions[..., None].float() * self.frequency)[:, None]
        return angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)

    def _project(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, heads, L, head], keys and values [n, kv_heads, L, head] of x [n, L, D]."""
        together = F.linear(x, layer.qkv) * self._scale(x)
        if layer.bias is not None:
            together = together + layer.bias
        parts = together.unflatten(-1, (-1, self.head)).transpose(1, 2)
        return parts.split([self.heads, self.kv_heads, self.kv_heads], 1)

    def _mixed(self, layer: _Layer, x: Tensor, seen: Tensor) -> Tensor:
        x = x + F.linear(seen, layer.out)
        gate, up = (F.linear(x, layer.gate_up) * self._scale(x)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, layer.down)

    def _scale(self, x: Tensor) -> Tensor:
        """1 / rms of x over its last axis, [..., 1]."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
        return (squares / x.shape[-1] + self.eps).rsqrt().to(x.dtype)

    def _out(self, x: Tensor) -> Tensor:
        return (F.linear(x, self.logits) * self._scale(x)).float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _scaled(weight: Tensor, norm: Tensor) -> Tensor:
    return (weight.detach().float() * norm.detach().float()).to(weight.dtype)


def _folded(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    biases = [p.bias.detach() for p in projections if p.bias is not None]
    return _Layer(
        qkv=_scaled(torch.cat([p.weight for p in projections]), layer.input_layernorm.weight),
        bias=torch.cat(biases) if biases else None,
        out=attention.o_proj.weight.detach(),
        gate_up=_scaled(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                        layer.post_attention_layernorm.weight),
        down=mlp.down_proj.weight.detach())
