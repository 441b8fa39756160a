"""Small language models with random weights, and prompts of several lengths for them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from torch import Tensor

from selfplay.llm.embedded import character_tokenizer, small_model
from selfplay.llm.models import padded_tokens
from selfplay.models.transformer import Transformer

TOKENIZER = character_tokenizer()
PAD, EOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id


def sharp(model: Any) -> Any:
    """Larger weights, so that some tokens are likelier than others."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def llama(dial: str = "2x64", seed: int = 0) -> Any:
    return sharp(small_model(dial, TOKENIZER, seed))


def hugging_face(model: Any) -> Any:
    """The embedded model as transformers loads what was saved of it; any other as it is."""
    from transformers import AutoModelForCausalLM, PreTrainedModel

    from selfplay.llm.models import save_model

    if not isinstance(model, Transformer):
        return model
    with TemporaryDirectory() as folder:
        save_model(Path(folder), model, TOKENIZER)
        found = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(found, PreTrainedModel)
    return found


def grouped() -> Any:
    """Llama whose four query heads share two keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return sharp(LlamaForCausalLM(LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None)))


def qwen() -> Any:
    """Qwen2: biases on queries, keys and values."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(2)
    model = sharp(Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None)))
    with torch.no_grad():
        for layer in model.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                part.bias.normal_()
            layer.input_layernorm.weight.uniform_(0.5, 2)
    return model


def gpt2() -> Any:
    """Not a Llama: learned positions, LayerNorms."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    return sharp(GPT2LMHeadModel(GPT2Config(
        vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=2, n_positions=128,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=EOS)))


def of_kind(kind: str, seed: int, **more: Any) -> Any:
    """A model of Hugging Face's of that type, with grouped keys and a window of 8 tokens where the
    type has windows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    return sharp(AutoModelForCausalLM.from_config(AutoConfig.for_model(
        kind, vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, **more)))


def qwen3() -> Any:
    """Norms of queries and keys."""
    return of_kind("qwen3", 5, tie_word_embeddings=False)


def gemma() -> Any:
    """Scaled embeddings, norms that add 1."""
    return of_kind("gemma", 6)


def gemma2() -> Any:
    """Capped scores, and every second layer sees a window only."""
    return of_kind("gemma2", 7, sliding_window=8, query_pre_attn_scalar=16)


def lora() -> Any:
    from selfplay.llm.models import Lora, load_model, save_model

    with TemporaryDirectory() as folder:
        save_model(Path(folder), llama(), TOKENIZER)
        model = load_model(folder, Lora(rank=4))[0]
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


MODELS = {"llama": llama, "grouped": grouped, "qwen": qwen, "gpt2": gpt2, "lora": lora,
          "qwen3": qwen3, "gemma": gemma, "gemma2": gemma2}

QUESTIONS = ["1+1=", "12+30-7=", "9=", "a rather longer prompt"]


def prompts(questions: list[str] = QUESTIONS) -> tuple[Tensor, Tensor]:
    return padded_tokens([TOKENIZER(q)["input_ids"] for q in questions], PAD, left=True)
