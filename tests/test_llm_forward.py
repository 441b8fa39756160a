"""Prompts read once: Hugging Face's hidden states and gradients."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import MODELS, gpt2, prompts

from selfplay.llm import forward
from selfplay.llm.models import positions_of

KNOWN = ("llama", "grouped", "qwen")


def rows(steps: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts in no order, some of them several times, and what follows them."""
    tokens, mask = prompts()
    index = torch.tensor([2, 0, 1, 0, 3, 2, 2])
    action = torch.randint(3, 90, (7, steps), generator=torch.Generator().manual_seed(1))
    return tokens[index], mask[index], action


def theirs(backbone, prompt, mask, action):
    tokens = torch.cat([prompt, action], 1)[:, :-1]
    seen = torch.cat([mask, torch.ones_like(action, dtype=torch.bool)], 1)[:, :-1]
    out = backbone(input_ids=tokens, attention_mask=seen.long(), position_ids=positions_of(seen),
                   use_cache=False).last_hidden_state
    return out[:, prompt.shape[1] - 1:]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("steps", [1, 5])
def test_states_and_gradients_are_transformers_own(name: str, steps: int) -> None:
    backbone = MODELS[name]().model
    assert forward.reads(backbone)
    prompt, mask, action = rows(steps)
    read = forward.shared(prompt, mask, action)
    assert len(read.prompt) == 4 and torch.equal(read.prompt[read.prompt_of], prompt)
    weight = torch.randn(len(action), steps, backbone.config.hidden_size)
    found = []
    for out in (forward.states(backbone, read), theirs(backbone, prompt, mask, action)):
        backbone.zero_grad()
        (out * weight).sum().backward()
        found.append((out, {n: p.grad.clone() for n, p in backbone.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    for key, wanted in found[1][1].items():
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found[0][1][key], wanted, atol=2e-4 * max(scale, 1e-3),
                                   rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_other_models_are_left_to_transformers() -> None:
    assert not forward.reads(gpt2().transformer)
    llama = MODELS["llama"]().model
    llama.config.hidden_act = "gelu"
    assert not forward.reads(llama)
