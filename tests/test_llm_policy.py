"""Text behind the seam: what was drawn is evaluated to the same numbers, with their gradient."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, MODELS, PAD, prompts

from selfplay.learn.rollout import Rollout
from selfplay.llm.generate import Sampling, sample_completions
from selfplay.llm.policy import Net, Prompts, TextPolicy, value_model

ENDS = (EOS, *range(20, 40))


def acted(name: str, value: bool = False) -> tuple[TextPolicy, Rollout]:
    model = MODELS[name]()
    net = Net(model, value_model(model) if value else None)
    policy = TextPolicy(net, ENDS, PAD, Sampling(temperature=0.8, max_new_tokens=12), group=4)
    batch = Prompts(*prompts(), seed=5)
    actions = policy.act(batch)
    n = len(actions.action)
    rollout = Rollout(policy.inputs(batch), actions.action, actions.mask, actions.logp,
                      torch.zeros(actions.mask.shape), torch.arange(n) // 4)
    return policy, rollout


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_repeats_what_act_said(name: str) -> None:
    policy, rollout = acted(name)
    assert len(rollout.action) == 16 and not rollout.mask.all()
    found = policy.evaluate(rollout)
    torch.testing.assert_close(found.logp, rollout.logp, atol=2e-4, rtol=1e-4)
    assert found.value is None
    assert (found.entropy[rollout.mask] > 0).all() and (found.entropy[~rollout.mask] == 0).all()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_act_is_generate_bit_by_bit(name: str) -> None:
    """Whatever stands between the policy and torch's sampling, the draws are the same."""
    policy, rollout = acted(name)
    direct = sample_completions(policy.net.policy, *prompts(), 4, policy.sampling, 5, ENDS, PAD)
    assert torch.equal(direct.action, rollout.action) and torch.equal(direct.logp, rollout.logp)
    assert torch.equal(direct.mask, rollout.mask)
    policy.refresh()  # nothing to do


def test_a_part_of_a_batch_is_evaluated_alike() -> None:
    """Rows without the longest prompt and completion: less padding, the same numbers."""
    policy, rollout = acted("llama", value=True)
    torch.nn.init.normal_(policy.net.value.head.weight)
    whole, part = policy.evaluate(rollout), policy.evaluate(rollout.rows(slice(0, 4)))
    width = part.logp.shape[1]
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(one[:4, :width], other, atol=1e-4, rtol=1e-4)


def test_values_know_the_text_before_the_token_only() -> None:
    policy, rollout = acted("llama", value=True)
    assert (policy.evaluate(rollout).value == 0).all(), "the head begins at 0"
    torch.nn.init.normal_(policy.net.value.head.weight)
    before = policy.evaluate(rollout).value
    changed = rollout.action.clone()
    changed[:, 2] = 50
    after = policy.evaluate(Rollout(rollout.inputs, changed, rollout.mask, rollout.logp,
                                    rollout.reward, rollout.group)).value
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_the_gradient_is_finite_and_of_all_weights() -> None:
    policy, rollout = acted("llama", value=True)
    found = policy.evaluate(rollout)
    torch.nn.init.normal_(policy.net.value.head.weight)
    found = policy.evaluate(rollout)
    (found.logp.sum() + found.entropy.sum() + found.value.sum()).backward()
    for name, parameter in policy.net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_of_a_lora_model_only_the_adapters_learn() -> None:
    policy, rollout = acted("lora")
    policy.evaluate(rollout).logp.sum().backward()
    learnt = {name for name, p in policy.net.named_parameters() if p.grad is not None}
    assert learnt and all("lora_" in name for name in learnt)
