"""A board game's policy as policy gradient wants it (``rollout.Policy``): a net, no search.

The net is in eval mode throughout, in training too: its BatchNorms use their running statistics.
With those of the batch, a move's probability would depend on which other moves share its
minibatch, and the ratio to the sampling policy would not start at 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay.board.data import pack
from selfplay.games.base import Game
from selfplay.learn import losses
from selfplay.learn.rollout import Acted, Evaluated, Rollout
from selfplay.models import choose_dtype, folded, placed
from selfplay.search import random as rng

#: Rows of one pass: a CPU's caches hold no more, a GPU wants many; and what they are filled up to
#: a multiple of, as oneDNN compiles a kernel per shape.
ROWS, MULTIPLE = {"cpu": 256, "cuda": 1 << 14}, {"cpu": 16, "cuda": 1}


class Turn(NamedTuple):
    """n positions of sides to move.

    obs: [n, C, H, W]; legal: bool [n, A]; streams: uint64 [B] (``search.random``), rows: int64 [n]
    those of them that these positions draw from.
    """

    obs: NDArray[Any]
    legal: NDArray[np.bool_]
    streams: NDArray[np.uint64]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class BoardPolicy:
    """Moves by the net's probabilities, at temperature 1; its value head is the critic.

    A rollout's inputs: obs [N, T, P] as ``data.pack`` has it, and legal uint8 [N, T, ceil(A / 8)]
    of bits. dtype: of products; "auto" is bfloat16 where ``device`` multiplies it.
    """

    net: nn.Module
    obs_shape: tuple[int, int, int]
    num_actions: int
    device: str = "cpu"
    dtype: str = "auto"

    def frozen(self) -> BoardPolicy:
        """A copy that later training does not change, faster: no gradient, BatchNorms folded.
        Several threads may use it at once."""
        net = folded(self.net).requires_grad_(False)
        kind = choose_dtype(self.dtype, self.device)
        return replace(self, net=placed(net, self.device, kind))

    @torch.no_grad()
    def act(self, batch: Turn) -> Acted:
        """Draw a move for every row, each by its own stream: no row's move depends on others'."""
        logits, _ = self._forward(torch.from_numpy(batch.obs).to(self.device))
        logits = logits.masked_fill(~torch.from_numpy(batch.legal).to(self.device), -torch.inf)
        logp = torch.log_softmax(logits, 1).cpu()
        noise = torch.from_numpy(rng.gumbel(batch.streams, batch.rows, batch.legal))
        action = (logp + noise).argmax(1, keepdim=True)  # Gumbel's way to draw from a softmax
        return Acted(action, logp.gather(1, action), torch.ones_like(action, dtype=torch.bool))

    def evaluate(self, rollout: Rollout) -> Evaluated:
        """Only real steps go through the net."""
        mask = rollout.mask
        steps = mask.shape[1]
        obs, legal = (rollout.inputs[key][:, :steps][mask] for key in ("obs", "legal"))
        count = int(np.prod(self.obs_shape))
        planes = _zeros_and_ones(obs, count) if obs.dtype is torch.uint8 else obs
        may = _zeros_and_ones(legal, self.num_actions).bool()
        logits, value = self._forward(planes.reshape(-1, *self.obs_shape))
        logp = losses.gather_logp(logits, rollout.action[mask], may)
        return Evaluated(_placed(logp, mask), _placed(losses.entropy(logits, may), mask),
                         _placed(value, mask))

    def _forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(logits float32 [n, A], value float32 [n]) of observations [n, C, H, W].

        The value is tanh z, its gradient that of z: with it the squared error has the gradient of
        ``losses.value_loss``, which an SFT value head that is confidently wrong still learns from.
        """
        most = ROWS[torch.device(self.device).type]
        parts = [self._pass(obs[start : start + most])
                 for start in range(0, max(len(obs), 1), most)]
        logits, value = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return logits, value

    def _pass(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        kind, rows = torch.device(self.device).type, len(obs)
        weights = next(self.net.parameters()).dtype
        size = max(-(-rows // MULTIPLE[kind]), 1) * MULTIPLE[kind]
        planes = torch.zeros((size, *self.obs_shape), dtype=weights, device=self.device)
        planes[:rows] = obs
        fast = weights is torch.float32 and choose_dtype(self.dtype, self.device) is torch.bfloat16
        with torch.autocast(kind, torch.bfloat16, enabled=fast):
            out = self.net(planes.contiguous(memory_format=torch.channels_last))
        z = out.value[:rows].float()
        return out.policy[:rows].float(), z + (z.tanh() - z).detach()


def inputs_of(game: Game, obs: NDArray[Any], legal: NDArray[np.bool_]) -> tuple[Any, Any]:
    """(obs, legal) of a Turn as a rollout keeps them, a row each."""
    return pack(obs, game.obs_binary), np.packbits(legal, axis=1)


def freeze_unused(policy: BoardPolicy, critic: bool) -> None:
    """Let the optimizer leave alone what neither policy nor, with ``critic``, value depends on: the
    heads of ownership and score, and without a critic the value's."""
    net = policy.net
    out = net(torch.zeros((1, *policy.obs_shape), device=policy.device))
    wanted = out.policy.sum() + out.value.sum() if critic else out.policy.sum()
    parameters = list(net.parameters())
    found = torch.autograd.grad(wanted, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.requires_grad_(gradient is not None)


def _zeros_and_ones(packed: Tensor, count: int) -> Tensor:
    """uint8 [n, P] of packed bits -> uint8 [n, count] of 0 and 1."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] >> shifts) & 1).flatten(1)[:, :count]


def _placed(values: Tensor, mask: Tensor) -> Tensor:
    """float32 [N, T]: ``values`` of the real steps, 0 at the others."""
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)
