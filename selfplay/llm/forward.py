"""Llama in training on a CPU: what it thinks at every token of completions, each prompt read once.

For a small model most of Hugging Face's forward and backward pass is not products but what stands
between them, and the completions of a group all begin with the same text. Here they share its keys
and values, queries, keys and values are one product, and norm, rotation and gate write what they
need once. Axes: n different prompts of P tokens, N completions of T tokens, width D.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfplay.llm.decode import knows_backbone
from selfplay.llm.models import positions_of


class Read(NamedTuple):
    """Prompts and the completions that follow them."""

    prompt: Tensor  #: int64 [n, P], left-padded
    prompt_mask: Tensor  #: bool [n, P]
    prompt_of: Tensor  #: int64 [N]
    action: Tensor  #: int64 [N, T]


def shared(prompt: Tensor, mask: Tensor, action: Tensor) -> Read:
    """Of prompts [N, P], one for each of the completions [N, T], the different ones."""
    both, place = torch.unique(torch.cat([prompt, mask.long()], 1), dim=0, return_inverse=True)
    width = prompt.shape[1]
    return Read(both[:, :width], both[:, width:].bool(), place, action)


def reads(backbone: nn.Module) -> bool:
    """Whether ``states`` computes what ``backbone`` does, and faster."""
    return (knows_backbone(backbone)
            and next(backbone.parameters()).device.type == "cpu"
            and not (backbone.training and backbone.config.attention_dropout))


def states(backbone: Any, read: Read) -> Tensor:
    """[N, T, D]: the last hidden states, after the last norm, of the text before each token of the
    completions, for a backbone that ``reads`` knows. Equations: see ``decode.LlamaDecoder``."""
    rows, length = read.prompt.shape
    count, steps = len(read.action), read.action.shape[1] - 1  # nothing follows the last token
    turn = _turns(backbone, read, steps)
    seen = _sight(read, steps)
    tokens = torch.cat([read.prompt.reshape(-1), read.action[:, :-1].reshape(-1)])
    x = F.embedding(tokens, backbone.embed_tokens.weight)
    for layer in backbone.layers:
        q, k, v = _project(layer, x, turn, backbone.config)
        mixed = torch.cat([
            _attend(*(part[:rows * length].unflatten(0, (rows, length)) for part in (q, k, v)),
                    seen[0]),
            _attend(q[rows * length:].unflatten(0, (count, steps)),
                    *(_behind(part, read.prompt_of, rows, length, steps) for part in (k, v)),
                    seen[1])])
        x = x + F.linear(mixed, layer.self_attn.o_proj.weight)
        mlp = layer.mlp
        wide = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        wide = wide * layer.post_attention_layernorm.weight
        x = x + F.linear(_Gate.apply(F.linear(_unit(x, backbone), wide)), mlp.down_proj.weight)
    before = x[:rows * length].unflatten(0, (rows, length))[:, -1].index_select(0, read.prompt_of)
    last = torch.cat([before[:, None], x[rows * length:].unflatten(0, (count, steps))], 1)
    return _unit(last, backbone) * backbone.norm.weight


def _turns(backbone: Any, read: Read, steps: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), [n P + N steps, 1, head / 2]."""
    ends = read.prompt_mask.sum(1)[read.prompt_of]
    positions = torch.cat([positions_of(read.prompt_mask).reshape(-1),
                           (ends[:, None] + torch.arange(steps)).reshape(-1)])
    angles = (positions[:, None].float() * backbone.rotary_emb.inv_freq.float())[:, None]
    dtype = backbone.embed_tokens.weight.dtype
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _sight(read: Read, steps: int) -> tuple[Tensor, Tensor]:
    """What sees what: bool [n, 1, P, P] of prompts, [N, 1, steps, P + steps] of completions."""
    length = read.prompt.shape[1]
    first = torch.ones(length, length, dtype=torch.bool).tril() & read.prompt_mask[:, None]
    first = first | torch.eye(length, dtype=torch.bool)  # no empty rows
    back = read.prompt_mask[read.prompt_of][:, None].expand(-1, steps, -1)
    own = torch.ones(steps, steps, dtype=torch.bool).tril().expand(len(back), -1, -1)
    return first[:, None], torch.cat([back, own], 2)[:, None]


def _project(
    layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], config: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [M, heads, head], keys and values [M, kv_heads, head] of x [M, D]."""
    attention = layer.self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    weight = torch.cat([p.weight for p in parts]) * layer.input_layernorm.weight
    bias = None if parts[0].bias is None else torch.cat([p.bias for p in parts])
    normed = _Unit.apply(x, config.rms_norm_eps)
    together = F.linear(normed, weight, bias).unflatten(1, (-1, attention.head_dim))
    heads, shared_heads = config.num_attention_heads, config.num_key_value_heads
    turned = _Turn.apply(together[:, :heads + shared_heads], *turn)
    return turned[:, :heads], turned[:, heads:], together[:, heads + shared_heads:]


def _behind(part: Tensor, prompt_of: Tensor, rows: int, length: int, steps: int) -> Tensor:
    """[N, P + steps, heads, head]: keys or values of each completion's prompt, then its own."""
    before = part[:rows * length].unflatten(0, (rows, length)).index_select(0, prompt_of)
    return torch.cat([before, part[rows * length:].unflatten(0, (len(prompt_of), steps))], 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[B L, heads * head] of q [B, L, heads, head], k and v [B, S, kv_heads, head]."""
    seen = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask,
        enable_gqa=q.shape[2] != k.shape[2])
    return seen.transpose(1, 2).flatten(2).flatten(0, 1)


def _unit(x: Tensor, backbone: Any) -> Tensor:
    return _Unit.apply(x, backbone.config.rms_norm_eps)


class _Unit(torch.autograd.Function):
    """x / rms(x) over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        out = x * scale
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        out, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad[0], out)[..., None].div_(-out.shape[-1])
        return torch.addcmul(grad[0], out, along).mul_(scale), None


class _Turn(torch.autograd.Function):
    """Rotary embedding by halves; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        return _turned(grad[0], *ctx.saved_tensors, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    out = x.new_empty(x.shape)
    (a, b), (c, d) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=c).addcmul_(b, sin, value=-way)
    torch.mul(b, cos, out=d).addcmul_(a, sin, value=way)
    return out


class _Gate(torch.autograd.Function):
    """silu(a) * b of [M, 2 I], the halves a and b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        ctx.save_for_backward(x)
        return F.silu(a).mul_(b)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        x, = ctx.saved_tensors
        a, b = x.chunk(2, -1)
        out = torch.empty_like(x)
        da, db = out.chunk(2, -1)
        torch.mul(grad[0], F.silu(a), out=db)
        torch.ops.aten.silu_backward.grad_input(grad[0] * b, a, grad_input=da)
        return out
