"""Where the reward stands, what a batch is made of, what is looked at."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, PAD, QUESTIONS, TOKENIZER, llama
from torch.nn import functional as F

from selfplay.common.errors import UserError
from selfplay.learn.advantages import on_last_step
from selfplay.llm.generate import Sampling
from selfplay.llm.models import render
from selfplay.llm.policy import (
    Completions,
    Net,
    TextPolicy,
    evaluated,
    joined_batches,
    sample_batch,
    value_model,
    verifier,
    weighed,
    with_signal,
)
from selfplay.llm.rewards import Example

EXAMPLES = [Example(q, "2") for q in QUESTIONS]
ENDS = (EOS, *range(20, 60))


def policy(value: bool = False, tokens: int = 12) -> TextPolicy:
    model = llama()
    net = Net(model, value_model(model) if value else None)
    return TextPolicy(net, ENDS, PAD, Sampling(max_new_tokens=tokens), group=3)


def lengths(completions, examples):
    return {"length": torch.tensor([float(len(t)) for t in completions.texts]),
            "one": torch.ones(len(examples))}


def batch(seed=0, tokens=12, examples=EXAMPLES):
    return sample_batch(policy(tokens=tokens), TOKENIZER, examples, lengths,
                        {"length": 1.0, "one": 0.5}, seed)


def test_the_reward_stands_on_the_last_real_token() -> None:
    found = batch()
    rollout = found.rollout
    assert not rollout.mask.all() and len(set(rollout.mask.sum(1).tolist())) > 2
    for i in range(len(rollout)):
        last = int(rollout.mask[i].nonzero()[-1])
        wanted = torch.zeros(rollout.mask.shape[1])
        wanted[last] = len(found.completions.texts[i]) + 0.5
        torch.testing.assert_close(rollout.reward[i], wanted)
    torch.testing.assert_close(
        on_last_step(torch.tensor([2.0, 3.0]), torch.tensor([[True, False], [True, True]])),
        torch.tensor([[2.0, 0.0], [0.0, 3.0]]))


def test_texts_are_what_was_drawn() -> None:
    found = batch()
    for i, (text, ended) in enumerate(zip(*found.completions, strict=True)):
        tokens = found.rollout.action[i][found.rollout.mask[i]].tolist()
        assert ended == (tokens[-1] in ENDS)
        assert text == TOKENIZER.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        prompt = found.rollout.inputs["prompt"][i][found.rollout.inputs["prompt_mask"][i]].tolist()
        assert prompt == render(TOKENIZER, found.examples[i].prompt)
        assert found.examples[i] is EXAMPLES[i // 3] and int(found.rollout.group[i]) == i // 3


def test_parts_are_weighed() -> None:
    parts = {"accuracy": torch.ones(2), "format": torch.tensor([1.0, 0.0]),
             "length": torch.tensor([20.0, 0.0])}
    weights = {"accuracy": 1, "format": 0.2, "length": -0.01}
    torch.testing.assert_close(weighed(parts, weights), torch.tensor([1.0, 1.0]))
    with pytest.raises(UserError, match="no part 'beauty'"):
        weighed(parts, {"beauty": 1})


def test_a_completion_that_was_cut_off_is_not_right() -> None:
    examples = [Example("1+1=", "2")] * 3
    parts = verifier(Completions(["2#2", "2#2", "3#3"], [True, False, True]), examples)
    assert parts["accuracy"].tolist() == [1, 0, 0]
    assert parts["ended"].tolist() == [1, 0, 1]


def test_batches_of_several_widths_are_joined() -> None:
    parts = [batch(0, 12, EXAMPLES[:2]), batch(1, 5, EXAMPLES[2:])]
    whole = joined_batches(parts)
    assert whole.rollout.group.tolist() == [g for g in range(4) for _ in range(3)]
    assert whole.completions.texts == parts[0].completions.texts + parts[1].completions.texts
    for part, rows in ((parts[0], slice(0, 6)), (parts[1], slice(6, 12))):
        one, other = part.rollout, whole.rollout.rows(rows)
        for name in ("action", "logp", "reward"):
            width = int(one.mask.sum(1).max())
            torch.testing.assert_close(getattr(one, name)[:, :width], getattr(other, name))
        torch.testing.assert_close(policy().evaluate(one).logp, policy().evaluate(other).logp,
                                   atol=1e-4, rtol=1e-4)


def test_groups_with_signal_are_kept_whole() -> None:
    found = batch()
    same = torch.tensor([5.0] * 3 + [1.0, 2.0, 1.0] + [0.0] * 3 + [1.0, 1.0, 0.0])
    changed = found.rollout.__class__(**{**found.rollout.__dict__,
                                         "reward": on_last_step(same, found.rollout.mask)})
    kept = with_signal(type(found)(found.examples, found.completions, found.parts, changed))
    assert kept.rollout.group.tolist() == [1, 1, 1, 3, 3, 3]
    assert kept.completions.texts == found.completions.texts[3:6] + found.completions.texts[9:]
    alone = found.rows(torch.tensor([0, 1, 2]))
    flat = alone.rollout.__class__(**{**alone.rollout.__dict__,
                                      "reward": torch.zeros_like(alone.rollout.reward)})
    assert with_signal(type(found)(alone.examples, alone.completions, alone.parts, flat)) is None


def test_what_is_looked_at_is_the_models_own_view() -> None:
    """Values and reference log-probabilities, one text at a time and without padding."""
    learning, reference = policy(value=True), llama(seed=9)
    torch.nn.init.normal_(learning.net.value.head.weight)
    found = sample_batch(learning, TOKENIZER, EXAMPLES, lengths, {"length": 1.0}, 0)
    rollout = evaluated(found.rollout, learning, reference)
    for i in range(len(rollout)):
        prompt = rollout.inputs["prompt"][i][rollout.inputs["prompt_mask"][i]]
        action = rollout.action[i][rollout.mask[i]]
        text = torch.cat([prompt, action])[None]
        with torch.no_grad():
            logp = F.log_softmax(reference(input_ids=text).logits[0, :-1], -1)
            seen = learning.net.value.backbone(input_ids=text).last_hidden_state[0]
            value = learning.net.value.head(seen)[:, 0]
        own = logp.gather(1, text[0, 1:, None])[len(prompt) - 1:, 0]
        torch.testing.assert_close(rollout.ref_logp[i][rollout.mask[i]], own, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(rollout.value[i][rollout.mask[i]],
                                   value[len(prompt) - 1:-1], atol=2e-4, rtol=1e-4)
    for column in (rollout.ref_logp, rollout.value):
        assert (column[~rollout.mask] == 0).all()
    plain = evaluated(found.rollout, policy(), None)
    assert plain.value is None and plain.ref_logp is None
