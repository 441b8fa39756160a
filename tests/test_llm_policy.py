"""Text behind the seam: what was drawn is evaluated to the same numbers, with their gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, MODELS, PAD, prompts

from selfplay.learn.rollout import Rollout, parts_of
from selfplay.llm import memory, passes
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


def learnt(policy: TextPolicy, rollout: Rollout) -> list[torch.Tensor]:
    policy.net.zero_grad()
    found = policy.evaluate(rollout)
    (found.logp.sum() + 0.1 * found.entropy.sum() + found.value.sum()).backward()
    return [found.logp, found.entropy, found.value, torch.cat(
        [p.grad.flatten() for p in policy.net.parameters() if p.grad is not None])]


@pytest.mark.parametrize("head", [1 << 40, 300])
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"llama"}))
def test_a_prompt_is_read_once_a_group(
    name: str, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers and gradients of whole texts, also where layers see a window only."""
    monkeypatch.setitem(memory.ENTRIES, "cpu", head)
    policy, rollout = acted(name, value=True)
    torch.nn.init.normal_(policy.net.value.head.weight)
    memory.linear_head(policy.net.policy)  # which is found out by trying
    tokens: list[int] = []
    embedding = policy.net.policy.get_input_embeddings()
    embedding.register_forward_hook(lambda module, given, out: tokens.append(given[0].numel()))
    once = learnt(policy, rollout)
    prompt, steps = rollout.inputs["prompt"].shape[1], rollout.action.shape[1]
    assert tokens == [4 * prompt, 16 * (steps - 1)]
    monkeypatch.setattr(passes, "shares", lambda model, again: False)
    for mine, theirs in zip(once, learnt(policy, rollout), strict=True):
        assert float((mine - theirs).detach().norm()) <= 1e-4 * float(theirs.detach().norm())
    assert tokens[2:] == [16 * (prompt + steps - 1)]


def test_parts_are_of_groups_where_that_reads_less() -> None:
    """Prompts of 20 tokens, answers of 2 and 4: 4 x 20 + 32 tokens by groups, 8 x 20 + 24 by
    length; of one token each 4 + 32 against 8 + 24."""
    mask = torch.arange(4)[None] < torch.tensor([2, 4] * 4)[:, None]
    none = torch.zeros(mask.shape)
    policy = TextPolicy(Net(MODELS["gpt2"]()), ENDS, PAD)
    for width in (20, 1):
        asked = torch.ones(8, width)
        rollout = Rollout({"prompt": asked.long(), "prompt_mask": asked.bool()}, none.long(), mask,
                          none, none, torch.arange(8) // 2)
        parts = policy.parts(rollout, 2, 8192, True)
        assert sorted(torch.cat(parts).tolist()) == list(range(8))
        groups = [set(rollout.group[rows].tolist()) for rows in parts]
        assert sum(map(len, groups)) == (4 if width == 20 else 8)
        assert len(parts) == 2
        alone = policy.parts(replace(rollout, group=torch.zeros(8)), 2, 8192, True)
        assert len(alone) == (1 if width == 20 else 2), "one prompt, one part"
    plain = TextPolicy(Net(MODELS["llama"]()), ENDS, PAD)
    for one, other in zip(plain.parts(rollout, 2, 8192, True), parts_of(mask, 2, 8192),
                          strict=True):
        assert torch.equal(one, other)
