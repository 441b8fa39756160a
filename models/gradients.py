"""Parts of the transformer that keep less for the gradient than autograd would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Normed(torch.autograd.Function):
    """x / rms(x) over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        out = x * scale
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        out, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad[0], out)[..., None].div_(-out.shape[-1])
        return torch.addcmul(grad[0], out, along).mul_(scale), None


class Rotated(torch.autograd.Function):
    """Rotary embedding by halves (Su et al. 2021, arXiv:2104.09864); gradients turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = x.new_empty(x.shape)
        (a, b), (c, d) = x.chunk(2, -1), out.chunk(2, -1)
        torch.mul(a, cos, out=c).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=d).addcmul_(a, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return Rotated.apply(grad[0], cos, -sin), None, None


class Gated(torch.autograd.Function):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): silu(a) * b of [M, 2 I], the halves a and b."""

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
