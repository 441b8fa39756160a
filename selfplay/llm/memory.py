"""What a language model holds in training, and how to hold less.

Of N tokens and a vocabulary of V the logits, their log-softmax and its gradients would take several
times N x V floats, more than all else together: here only those of a few tokens are there at a
time. Models that were given may compute in bfloat16, and compute layers again in place of keeping
what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from selfplay.common import ranks
from selfplay.llm.models import without_adapters
from selfplay.llm.stage_config import MemoryConfig
from selfplay.models.transformer import Backbone, Transformer

#: Logits held at once, in numbers; a CPU's threads hold as many each.
ENTRIES = {"cpu": 1 << 21, "cuda": 1 << 26}
#: Settings of models that do more to logits than a matrix does.
MORE = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Memory(MemoryConfig):
    """How a model that was given is held in training."""

    shared_out: bool = False  #: among the run's processes (``ranks.Alone.shard``)

    def shard(self, model: nn.Module) -> nn.Module:
        """``model``, in place, of which this process holds its part where that is asked for."""
        if self.shared_out:
            ranks.here().shard(model, layers_of(model), self.dtype == "bfloat16")
        return model

    def held(self, model: nn.Module) -> nn.Module:
        """``model``, its frozen weights in ``dtype``; those that learn stay in float32."""
        for parameter in model.parameters() if self.dtype == "bfloat16" else ():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        return model

    def arithmetic(self, model: nn.Module) -> Any:
        """A context in which matrix products are in ``dtype``."""
        kind = next(model.parameters()).device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.dtype == "bfloat16")

    @contextmanager
    def at_work(self, model: nn.Module) -> Iterator[None]:
        """Within the block ``model`` computes in ``dtype``, with checkpoints between its layers
        (Chen et al. 2016, arXiv:1604.06174) where there is a gradient."""
        layers = layers_of(model) if self.checkpointing and torch.is_grad_enabled() else []
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            with self.arithmetic(model):
                yield
        finally:
            for layer in layers:
                del layer.forward  # the class' own shows again


def layers_of(model: nn.Module) -> list[Any]:
    """The layers of a model of Hugging Face's: its longest list of modules. The embedded model does
    not call its own."""
    if any(isinstance(module, Backbone) for module in model.modules()):
        return []
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


class OutputHead(NamedTuple):
    """What makes logits of hidden states [..., D]."""

    weight: Tensor  #: [V, D]
    bias: Tensor | None  #: [V]


_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  #: whether there is one


def linear_head(model: nn.Module) -> OutputHead | None:
    """The head of ``model``; None for one that does more to logits, such as to cap or to scale
    them, which is found out by trying."""
    if isinstance(model, Transformer):
        return OutputHead(model.model.embed_tokens.weight, None)
    plain = without_adapters(model)
    if model not in _PLAIN:
        _PLAIN[model] = _plain_by_trial(plain)
    head = plain.get_output_embeddings()
    return OutputHead(head.weight, head.bias) if _PLAIN[model] else None


def many_logits(model: nn.Module, tokens: Tensor) -> OutputHead | None:
    """The head of ``model`` where the logits of all ``tokens`` would be too many at once; None
    where they are not, or where it has no such head."""
    head = linear_head(model)
    most = ENTRIES[tokens.device.type]
    return head if head and tokens.numel() * len(head.weight) > most else None


def hidden_states(model: nn.Module, **inputs: Any) -> Tensor:
    """[N, L, D]: what the head of ``model`` is given for inputs as it takes them."""
    found: Tensor = without_adapters(model).get_decoder()(
        use_cache=False, **inputs).last_hidden_state
    return found


@torch.no_grad()
def _plain_by_trial(model: Any) -> bool:
    head, described = model.get_output_embeddings(), model.config.to_dict()
    if not isinstance(head, nn.Linear) or any(described.get(key) for key in MORE):
        return False
    tokens = torch.arange(1, 5, device=head.weight.device)[None] % len(head.weight)
    mixed = len({p.dtype for p in model.parameters()}) > 1
    learning = [module for module in model.modules() if module.training]
    model.eval()  # without dropout both passes are one
    with torch.autocast(head.weight.device.type, torch.bfloat16, enabled=mixed):
        seen = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        same = torch.equal(head(seen), model(input_ids=tokens, use_cache=False).logits)
    for module in learning:
        module.training = True
    return same


def head_logp(
    hidden: Tensor, weight: Tensor, action: Tensor, *, bias: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(log-probability of ``action``, entropy in nats), float32 [M] each, of
    softmax((hidden weight^T + bias) / temperature).

    hidden: [M, D]; weight: [V, D]; bias: [V]; action: int64 [M]. As ``losses.gather_logp`` and
    ``losses.entropy`` of all logits, with their gradients. Logits are made again for the gradient
    (Chen et al. 2016, arXiv:1604.06174), never for more than ``ENTRIES`` / V rows at once.
    """
    found: tuple[Tensor, Tensor] = _HeadLogp.apply(hidden, weight, bias, action, temperature)
    return found


class _HeadLogp(torch.autograd.Function):
    """With z the log-softmax, p = e^z, g and h the gradients of the log-probability and of the
    entropy H: dz = g (onehot - p) - h p (z + H)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, action: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        logp = hidden.new_empty(len(hidden), dtype=torch.float32)
        spread = torch.empty_like(logp)
        cast = weight.to(hidden.dtype)
        for rows in _few_rows(hidden, weight):
            z = _logp_of_all(hidden[rows], cast, bias, temperature)
            logp[rows] = z.gather(1, action[rows, None])[:, 0]
            spread[rows] = -torch.linalg.vecdot(z.exp(), z)
        ctx.save_for_backward(hidden, weight, bias, action, spread)
        return logp, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        hidden, weight, bias, action, spread = ctx.saved_tensors
        of_logp, of_entropy = grads
        wanted = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] else None
        cast = weight.to(hidden.dtype)
        for rows in _few_rows(hidden, weight):
            z = _logp_of_all(hidden[rows], cast, bias, ctx.temperature)
            p = z.exp()
            by = torch.zeros_like(z[:, 0]) if of_logp is None else of_logp[rows]
            if of_entropy is None:
                dz = p.mul_(-by[:, None])
            else:
                slope = z.add_(spread[rows, None]).mul_(of_entropy[rows, None]).add_(by[:, None])
                dz = p.mul_(slope).neg_()
            dz.scatter_add_(1, action[rows, None], by[:, None]).div_(ctx.temperature)
            if d_hidden is not None:
                d_hidden[rows] = dz.to(cast.dtype) @ cast
            if d_weight is not None:
                d_weight.addmm_(dz.t(), hidden[rows].float())
            if d_bias is not None:
                d_bias += dz.sum(0)
        return (d_hidden, d_weight if d_weight is None else d_weight.to(weight.dtype),
                d_bias if d_bias is None else d_bias.to(bias.dtype), None, None)


def _few_rows(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(ENTRIES[hidden.device.type] // len(weight), 1)
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _logp_of_all(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits.div_(temperature), -1)
