"""Text as a policy-gradient policy: tokens are actions, completions are trajectories.

``TextPolicy`` writes completions and evaluates them. ``sample_batch`` turns prompts into a batch
with rewards; ``evaluated`` adds the critic's values and the reference's log-probabilities.

Axes: n prompts, G completions a prompt, N = n G trajectories of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers
from selfplay.learn import advantages
from selfplay.learn.losses import entropy, gather_logp
from selfplay.learn.policy_gradient import kl_estimate
from selfplay.learn.rollout import Acted, Evaluated, Rollout, joined
from selfplay.learn.rollout import parts_of as parts_of_like_length
from selfplay.llm import passes
from selfplay.llm.generate import Generator, Sampling, TorchGenerator
from selfplay.llm.memory import Memory, head_logp, many_logits
from selfplay.llm.models import (
    completion_texts,
    copy_of,
    padded_tokens,
    prompt_of,
    stopped,
    without_adapters,
)
from selfplay.llm.rewards import Example
from selfplay.llm.rewards import reward as parts_of
from selfplay.models.transformer import Transformer

TOKENS_AT_ONCE = 8192  #: tokens, padding included, that are evaluated without a gradient at once


class Net(nn.Module):
    """What learns: a causal language model and, for PPO, a value model beside it."""

    policy: Any  #: a ``Transformer``, or a model of Hugging Face's
    value: ValueModel | None

    def __init__(self, policy: nn.Module, value: ValueModel | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.value = value


class ValueModel(nn.Module):
    """A backbone with a scalar head that begins at 0."""

    backbone: Any

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """float32 [N, L]: the value after each of the tokens int64 [N, L]."""
        seen = self.backbone(input_ids=tokens, attention_mask=mask, position_ids=positions,
                             use_cache=False)
        values: Tensor = self.head(seen.last_hidden_state).squeeze(-1)
        return values.float()


def value_model(policy: nn.Module) -> ValueModel:
    """A value model whose backbone is a copy of ``policy``'s. The copy of a LoRA model has new
    adapters and shares the frozen weights."""
    plain = without_adapters(policy)
    return ValueModel(copy_of(plain.get_decoder()), plain.config.hidden_size)


class Prompts(NamedTuple):
    """What ``TextPolicy.act`` answers."""

    tokens: Tensor  #: int64 [n, P], left-padded
    mask: Tensor  #: bool [n, P]
    seed: int  #: of the completions


@dataclass
class TextPolicy:
    """A language model as a policy; ``group`` completions a prompt.

    generator: writes the completions in torch's place, with weights that ``refresh`` hands over.
    Its log-probabilities are in its arithmetic, not in the policy's. memory: in what arithmetic the
    policy computes, and what it holds for the gradient.
    """

    net: Net
    ends: tuple[int, ...]  #: tokens that end a completion
    pad: int
    sampling: Sampling = field(default_factory=Sampling)
    group: int = 1
    generator: Generator | None = None
    tokenizer: Any = None  #: wanted by ``Sampling.stop``
    memory: Memory = field(default_factory=Memory)

    def act(self, batch: Prompts) -> Acted:
        """Sample N = n * group completions; rows i G to i G + G - 1 answer prompt i."""
        write = self.generator or TorchGenerator(self.net.policy, self.ends, self.pad,
                                                 self.tokenizer)
        prompts = [row[seen].tolist() for row, seen in zip(batch.tokens, batch.mask, strict=True)]
        with self.memory.arithmetic(self.net.policy):
            samples = write(prompts, self.group, self.sampling, batch.seed)
        device = next(self.net.parameters()).device
        return Acted(*(column.to(device) for column in
                       (samples.action, samples.logp, samples.mask)))

    def refresh(self) -> None:
        """Hand the net's present weights to the generator."""
        if self.generator is not None:
            self.generator.refresh(self.net.policy)

    def inputs(self, batch: Prompts) -> dict[str, Tensor]:
        """``Rollout.inputs`` of what ``act`` returns for ``batch``: each prompt ``group`` times."""
        device = next(self.net.parameters()).device
        return {"prompt": batch.tokens.to(device).repeat_interleave(self.group, 0),
                "prompt_mask": batch.mask.to(device).repeat_interleave(self.group, 0)}

    def evaluate(self, rollout: Rollout) -> Evaluated:
        """Log-probabilities at the sampling's temperature, entropies and values, float32 [N, T], 0
        outside ``rollout.mask``. A token's value is that of the text before it.

        rollout.inputs: "prompt" int64 [N, P] left-padded and "prompt_mask" bool [N, P].
        """
        with self.memory.at_work(self.net.policy):
            logp, spread = ranks.here().within(self.net.policy, lambda: self._of_tokens(rollout))
        value = None if self.net.value is None else self.values(rollout)
        return Evaluated(logp.masked_fill(~rollout.mask, 0.0),
                         spread.masked_fill(~rollout.mask, 0.0), value)

    def _of_tokens(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies), [N, T]. Where all logits would be many, only a few are
        held at a time."""
        policy, again = self.net.policy, self.memory.checkpointing
        temperature, head = self.sampling.temperature or 1.0, many_logits(policy, rollout.action)
        if head is None:
            logits = passes.logits_of(policy, rollout, again).float() / temperature
            return gather_logp(logits, rollout.action), entropy(logits)
        hidden = passes.hidden_of(policy, rollout, again)
        found = head_logp(hidden[rollout.mask], head.weight, rollout.action[rollout.mask],
                          bias=head.bias, temperature=temperature)
        none = torch.zeros(rollout.mask.shape, device=hidden.device)
        logp, spread = (none.masked_scatter(rollout.mask, part) for part in found)
        return logp, spread

    def values(self, rollout: Rollout) -> Tensor:
        """The value of ``evaluate`` alone; for a net with a critic."""
        critic = self.net.value
        assert critic is not None
        with self.memory.at_work(critic.backbone):
            found: Tensor = ranks.here().within(critic, lambda: critic.head(passes.hidden_of(
                critic.backbone, rollout, self.memory.checkpointing))[..., 0].float())
        return found.masked_fill(~rollout.mask, 0.0)

    def parts(
        self, rollout: Rollout, fewest: int, most: int, one_by_one: bool
    ) -> list[Tensor]:
        """``rollout.parts_of``; where a prompt is read once a part, with the completions
        of a group together if fewer tokens are then read. The embedded model's are of like length.

        one_by_one: whether fewer parts than ``fewest`` will do."""
        by_length = parts_of_like_length(rollout.mask, fewest, most)
        model = self.net.policy
        if isinstance(model, Transformer) or not passes.shares(model, self.memory.checkpointing):
            return by_length
        few = min(fewest, len(torch.unique(rollout.group))) if one_by_one else fewest
        by_group = parts_of_like_length(rollout.mask, few, most, rollout.group)
        return min((by_length, by_group), key=lambda parts: passes.cost(rollout, parts))


class Completions(NamedTuple):
    """Completions as texts, without their end token, and whether they came to an end."""

    texts: list[str]
    ended: list[bool]


#: (N completions, the N examples that they answer) -> named parts, float32 [N] each. A verifier, a
#: reward model, or several of them together.
Reward = Callable[[Completions, Sequence[Example]], dict[str, Tensor]]

#: The true reward: (N completions, the N examples that they answer) -> float32 [N].
Judge = Callable[[Completions, Sequence[Example]], Tensor]


@dataclass(frozen=True)
class SampledBatch:
    """N completions of whole groups, in the order of their groups, to learn from."""

    examples: list[Example]
    completions: Completions
    parts: dict[str, Tensor]  #: float32 [N]
    rollout: Rollout

    def rows(self, index: Tensor) -> SampledBatch:
        """Some of the completions. index: int64."""
        numbers = index.tolist()
        texts, ended = self.completions
        return SampledBatch(
            [self.examples[i] for i in numbers],
            Completions([texts[i] for i in numbers], [ended[i] for i in numbers]),
            {key: part[index.to(part.device)] for key, part in self.parts.items()},
            self.rollout.rows(index))


def verifier(completions: Completions, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The parts of ``judged_parts``."""
    rows = judged_parts(completions, examples)
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def judged_parts(
    completions: Completions, examples: Sequence[Example]
) -> list[dict[str, float]]:
    """The parts of ``rewards.reward``, and what the examples' own judges say."""
    rows = [parts_of(text, example, ended)
            for text, ended, example in zip(*completions, examples, strict=True)]
    for judge in dict.fromkeys(e.judge for e in examples if e.judge is not None):
        mine = [i for i, example in enumerate(examples) if example.judge is judge]
        found = judge([completions.texts[i] for i in mine], [examples[i] for i in mine],
                      [rows[i] for i in mine])
        for i, more in zip(mine, found, strict=True):
            rows[i] |= more
    return rows


def sample_batch(
    policy: TextPolicy, tokenizer: Any, examples: Sequence[Example], reward: Reward,
    weights: Mapping[str, float], seed: int,
) -> SampledBatch:
    """Answer each of ``examples`` ``policy.group`` times and judge the answers.

    The reward, the weighted sum of the parts named in ``weights``, stands on the last token. Where
    examples are starts of conversations, their environment answers and gives the rewards instead.
    """
    if examples[0].world is not None:
        talks: SampledBatch = examples[0].world.sample(policy, tokenizer, examples, seed)
        return talks
    rows = [prompt_of(tokenizer, e) for e in examples]
    tokens, mask = padded_tokens(rows, policy.pad, left=True)
    prompts = Prompts(tokens, mask, seed)
    acted = policy.act(prompts)
    answered = [e for e in examples for _ in range(policy.group)]
    completions = completions_of(tokenizer, acted, policy.ends, policy.sampling.stop)
    parts = ranks.here().first(reward(completions, answered))
    score = weighed(parts, weights).to(acted.logp.device)
    group = torch.arange(len(examples), device=score.device).repeat_interleave(policy.group)
    rollout = Rollout(policy.inputs(prompts), acted.action, acted.mask, acted.logp,
                      advantages.on_last_step(score, acted.mask), group)
    return SampledBatch(answered, completions, parts, rollout)


def weighed(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """float32 [N]: the weighted sum of the parts named in ``weights``. Raises UserError for a name
    that is not among ``parts``."""
    for name in weights:
        if name not in parts:
            raise UserError(f"reward: no part {name!r}; there are {', '.join(parts)}")
    return torch.stack([weight * parts[name].float() for name, weight in weights.items()]).sum(0)


def completions_of(
    tokenizer: Any, acted: Acted, ends: Sequence[int], stop: Sequence[str] = ()
) -> Completions:
    """What was written, as text."""
    last = torch.where(acted.mask, acted.action, -1)
    ended = torch.isin(last, torch.tensor(list(ends), device=last.device)).any(1)
    texts = completion_texts(tokenizer, acted.action, acted.mask, ended)
    return Completions(texts, [end or stopped(text, stop)
                               for end, text in zip(ended.tolist(), texts, strict=True)])


def gold_of(weights: Mapping[str, float], reward: Reward = verifier) -> Judge:
    """The weighted sum of the parts of a known reward."""
    return lambda completions, examples: weighed(reward(completions, examples), weights)


def with_signal(batch: SampledBatch) -> SampledBatch | None:
    """The groups whose completions have different rewards; None if there are none."""
    kept = advantages.has_signal(batch.rollout).nonzero()[:, 0]
    return batch.rows(kept) if len(kept) else None


def joined_batches(batches: Sequence[SampledBatch]) -> SampledBatch:
    """One batch of several; their groups are numbered anew."""
    if len(batches) == 1:
        return batches[0]
    rollout = joined([b.rollout for b in batches], left=True, renumber=True)
    return SampledBatch(
        [e for b in batches for e in b.examples],
        Completions([t for b in batches for t in b.completions.texts],
                    [e for b in batches for e in b.completions.ended]),
        {key: torch.cat([b.parts[key] for b in batches]) for key in batches[0].parts}, rollout)


@torch.no_grad()
def evaluated(rollout: Rollout, policy: TextPolicy, reference: Any | None) -> Rollout:
    """``rollout`` with the critic's values, where ``policy`` has a critic, and with the
    log-probabilities of the model ``reference``, where there is one.

    Where a generator other than torch wrote the completions, or in bfloat16, where rounding depends
    on the batch, the log-probabilities are replaced by those of ``policy`` as it learns, so that
    ratios to them begin at exactly 1. What they were is in ``sampled``.
    """
    rollout = replace(rollout, sampled=rollout.logp)
    if policy.generator is not None or policy.memory.dtype != "float32":
        alone = replace(policy, net=Net(policy.net.policy))
        rollout = replace(rollout, logp=_in_parts(rollout, lambda r: alone.evaluate(r).logp))
    if policy.net.value is not None:
        rollout = replace(rollout, value=_in_parts(rollout, policy.values))
    if reference is not None:
        other = replace(policy, net=Net(reference))
        rollout = replace(rollout, ref_logp=_in_parts(rollout, lambda r: other.evaluate(r).logp))
    return rollout


def mean_kl(logp: Tensor, other: Tensor, mask: Tensor) -> float:
    """k3 estimate, in nats a token, of the divergence of ``other`` from the policy of ``logp``,
    which wrote the tokens. Both are log-probabilities [N, T]."""
    return float(kl_estimate(logp, other)[mask].mean())


def completion_kl(rollout: Rollout) -> Tensor:
    """float32 [N]: log p - log reference of each completion, nats. Its mean over completions is the
    k1 estimate of the policy's divergence from the reference."""
    assert rollout.ref_logp is not None
    return ((rollout.logp - rollout.ref_logp) * rollout.mask).sum(1)


def _in_parts(rollout: Rollout, look: Callable[[Rollout], Tensor]) -> Tensor:
    """float32 [N, T]: ``look`` at parts of similar length, on a CPU a thread for each."""
    out = torch.zeros_like(rollout.logp)
    order = torch.argsort(rollout.mask.sum(1), stable=True)
    cut = order.split(max(1, TOKENS_AT_ONCE // out.shape[1]))

    def work(rows: Tensor) -> Tensor:
        with torch.no_grad():  # which torch sets for each thread
            return look(rollout.rows(rows))

    sharded = ranks.here().size > 1  # whose passes are made together, in one order
    threads = torch.get_num_threads() if out.device.type == "cpu" and not sharded else 1
    for rows, found in zip(cut, Workers(threads).map(work, cut), strict=True):
        out[rows, :found.shape[1]] = found
    return out
