"""The embedded model beside transformers' Llama: logits, gradients, folders, first weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import MODELS, PAD, TOKENIZER, hugging_face, llama, prompts

from selfplay.llm.embedded import shape_of, small_model
from selfplay.llm.models import bare_backbone, load_model, save_model
from selfplay.models.transformer import (
    Backbone,
    Transformer,
    config_of,
    positions_of,
    share_prompts,
)

SIZES = ("2x64", "1x32", "3x96")


def theirs(size: str, seed: int = 0) -> Any:
    """transformers' own Llama of the size, with its own random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width = shape_of(size)
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=width, num_hidden_layers=layers,
        intermediate_size=-(-8 * width // 3 // 32) * 32, num_attention_heads=width // 32,
        num_key_value_heads=width // 32, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=TOKENIZER.pad_token_id, eos_token_id=TOKENIZER.eos_token_id,
        bos_token_id=None, initializer_range=width**-0.5 / 2))


def rows(steps: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts in no order, some of them several times, and what follows them."""
    tokens, mask = prompts()
    index = torch.tensor([2, 0, 1, 0, 3, 2, 2])
    action = torch.randint(3, 90, (7, steps), generator=torch.Generator().manual_seed(1))
    return tokens[index], mask[index], action


def whole(backbone: Any, prompt: Any, mask: Any, action: Any) -> torch.Tensor:
    """The hidden states of whole texts, each with its prompt."""
    tokens = torch.cat([prompt, action], 1)[:, :-1]
    seen = torch.cat([mask, torch.ones_like(action, dtype=torch.bool)], 1)[:, :-1]
    out = backbone(input_ids=tokens, attention_mask=seen.long(), position_ids=positions_of(seen),
                   use_cache=False).last_hidden_state
    return out[:, prompt.shape[1] - 1:]


def alike(found: Any, wanted: Any) -> None:
    """Two (hidden states, gradients by name)."""
    torch.testing.assert_close(found[0], wanted[0], atol=1e-4, rtol=1e-4)
    assert found[1].keys() == wanted[1].keys()
    for key, gradient in wanted[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][key], gradient, atol=2e-4 * max(scale, 1e-3),
                                   rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [1, 5])
def test_hidden_states_and_gradients_are_transformers_own(size: str, steps: int) -> None:
    """Prompts read once, and texts read whole."""
    model = llama(size)
    backbone, other = model.model, hugging_face(model).model
    prompt, mask, action = rows(steps)
    texts = share_prompts(prompt, mask, action)
    assert len(texts.prompt) == 4 and torch.equal(texts.prompt[texts.prompt_of], prompt)
    weight = torch.randn(len(action), steps, backbone.config.hidden_size)
    found = []
    for net, read in ((backbone, lambda: backbone.hidden_states(texts)),
                      (backbone, lambda: whole(backbone, prompt, mask, action)),
                      (other, lambda: whole(other, prompt, mask, action))):
        net.zero_grad()
        out = read()
        (out * weight).sum().backward()
        found.append((out, {n: p.grad.clone() for n, p in net.named_parameters()}))
    alike(found[0], found[2])
    alike(found[1], found[2])


@pytest.mark.parametrize("size", SIZES)
def test_a_folder_is_read_by_both_alike(size: str, tmp_path: Path) -> None:
    """What was saved here is loaded by transformers, and the other way round, to the bit."""
    tokens = torch.randint(3, 90, (3, 17), generator=torch.Generator().manual_seed(0))
    ours, own = llama(size), theirs(size)
    save_model(tmp_path / "ours", ours, TOKENIZER)
    save_model(tmp_path / "theirs", own, TOKENIZER)
    for model, folder in ((ours, "ours"), (own, "theirs")):
        loaded = load_model(tmp_path / folder)[0]
        assert isinstance(loaded, Transformer) and not loaded.training
        again = hugging_face(loaded)
        assert type(again).__name__ == "LlamaForCausalLM"
        named = dict(model.named_parameters())
        for other in (loaded, again):
            assert [n for n, _ in other.named_parameters()] == list(named)
            assert all(torch.equal(p, named[n]) for n, p in other.named_parameters())
        with torch.no_grad():
            wanted = again(input_ids=tokens).logits
            for found in (loaded(input_ids=tokens).logits, model(input_ids=tokens).logits):
                torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(loaded(input_ids=tokens, logits_to_keep=2).logits,
                                       wanted[:, -2:], atol=1e-4, rtol=1e-4)
        assert again.generation_config.eos_token_id == TOKENIZER.eos_token_id
        assert again.config.pad_token_id == PAD and again.config.bos_token_id is None


@pytest.mark.parametrize("size", SIZES)
def test_a_seeds_first_weights_are_those_of_transformers(size: str) -> None:
    ours, other = small_model(size, TOKENIZER, 7), theirs(size, 7)
    for (name, p), (other_name, q) in zip(ours.named_parameters(), other.named_parameters(),
                                          strict=True):
        assert name == other_name and torch.equal(p, q), name


def test_models_that_differ_are_left_to_transformers() -> None:
    own = theirs("1x32").config
    assert config_of(own.to_dict()) == small_model("1x32", TOKENIZER, 0).config
    for change in ({"hidden_act": "gelu"}, {"attention_bias": True}, {"num_key_value_heads": 2},
                   {"tie_word_embeddings": False}, {"model_type": "qwen2"}, {"bos_token_id": 1},
                   {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
                   {"head_dim": 16}):
        assert config_of({**own.to_dict(), **change}) is None, change
    for name in ("grouped", "qwen", "gpt2"):
        assert config_of(MODELS[name]().config.to_dict()) is None
    assert isinstance(bare_backbone(own.to_diff_dict()), Backbone)
    assert isinstance(bare_backbone(llama().config.to_diff_dict()), Backbone)
    assert not isinstance(bare_backbone(MODELS["qwen"]().config.to_diff_dict()), Backbone)
