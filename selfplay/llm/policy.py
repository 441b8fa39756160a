"""Text as a policy-gradient policy: tokens are actions, completions games."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfplay.learn.losses import entropy, gather_logp
from selfplay.learn.rollout import Acted, Evaluated, Rollout
from selfplay.llm import forward
from selfplay.llm.decode import knows
from selfplay.llm.generate import Generator, Sampling, TorchGenerator
from selfplay.llm.models import Net, positions_of


class Prompts(NamedTuple):
    """What ``TextPolicy.act`` answers."""

    tokens: Tensor  #: int64 [n, P], left-padded
    mask: Tensor  #: bool [n, P]
    seed: int  #: of everything drawn for this batch


@dataclass
class TextPolicy:
    """A language model as a policy; ``group`` completions a prompt.

    generator: who writes them, where it is not torch with the net's own weights; ``refresh`` then
    hands these over, and what it says of log-probabilities is in its own arithmetic.
    """

    net: Net
    ends: tuple[int, ...]  #: tokens that end a completion
    pad: int
    sampling: Sampling = field(default_factory=Sampling)
    group: int = 1
    generator: Generator | None = None

    def act(self, batch: Prompts) -> Acted:
        """Sample N = n * group completions; rows i G to i G + G - 1 answer prompt i."""
        write = self.generator or TorchGenerator(self.net.policy, self.ends, self.pad)
        prompts = [row[seen].tolist() for row, seen in zip(batch.tokens, batch.mask, strict=True)]
        samples = write(prompts, self.group, self.sampling, batch.seed)
        device = next(self.net.parameters()).device
        return Acted(*(column.to(device) for column in
                       (samples.action, samples.logp, samples.mask)))

    def refresh(self) -> None:
        """Let what is written next be written with the weights as they are now."""
        if self.generator is not None:
            self.generator.refresh(self.net.policy)

    def inputs(self, batch: Prompts) -> dict[str, Tensor]:
        """``Rollout.inputs`` of what ``act`` returns for ``batch``: each prompt ``group`` times."""
        device = next(self.net.parameters()).device
        return {"prompt": batch.tokens.to(device).repeat_interleave(self.group, 0),
                "prompt_mask": batch.mask.to(device).repeat_interleave(self.group, 0)}

    def evaluate(self, rollout: Rollout) -> Evaluated:
        """log-probabilities at the sampling's temperature, entropies, values, all float32 [N, T]
        and 0 outside ``rollout.mask``; the value is that of the text before the token.

        rollout.inputs: "prompt" int64 [N, P] left-padded and "prompt_mask" bool [N, P].
        """
        policy, count = self.net.policy, rollout.action.shape[1]
        if knows(policy) and forward.reads(policy.model):
            seen = forward.states(policy.model, _shared(rollout))
            logits = F.linear(seen, policy.lm_head.weight)
        else:
            tokens, mask, positions = _read(rollout)
            logits = policy(input_ids=tokens, attention_mask=mask, position_ids=positions,
                            use_cache=False, logits_to_keep=count).logits
        logits = logits.float() / (self.sampling.temperature or 1.0)
        logp = gather_logp(logits, rollout.action).masked_fill(~rollout.mask, 0.0)
        spread = entropy(logits).masked_fill(~rollout.mask, 0.0)
        value = None if self.net.value is None else self.values(rollout)
        return Evaluated(logp, spread, value)

    def values(self, rollout: Rollout) -> Tensor:
        """The value of ``evaluate`` alone; for a net with a critic."""
        critic = self.net.value
        assert critic is not None
        if forward.reads(critic.backbone):
            found = critic.head(forward.states(critic.backbone, _shared(rollout)))[..., 0].float()
        else:
            found = critic(*_read(rollout))[:, -rollout.action.shape[1]:]
        return found.masked_fill(~rollout.mask, 0.0)


def _shared(rollout: Rollout) -> forward.Read:
    """Prompts and completions for ``forward``."""
    return forward.shared(*_trimmed(rollout.inputs["prompt"], rollout.inputs["prompt_mask"]),
                          rollout.action)


def _read(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, mask, positions), int64 [N, L]: prompts and completions but for the last token,
    which nothing follows."""
    prompt, prompt_mask = _trimmed(rollout.inputs["prompt"], rollout.inputs["prompt_mask"])
    mask = torch.cat([prompt_mask, rollout.mask], 1)[:, :-1]
    return torch.cat([prompt, rollout.action], 1)[:, :-1], mask.long(), positions_of(mask)


def _trimmed(prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the columns that are padding in every row (a part of a batch may have some)."""
    first = int(mask.any(0).int().argmax())
    return prompt[:, first:], mask[:, first:]
