"""Tiny models of Hugging Face's kinds in folders, as somebody else would have saved them: random
weights, a byte-level BPE tokenizer, an end that is not the padding, or no padding at all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch

TASK = "chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)"
#: Settings for a run of a few seconds, in which every stage does all that it can do.
SHORT = [word for setting in (
    "sft.learning_rate=2e-3", "pg.learning_rate=1e-3", "sft.max_steps=2",
    "sft.evaluate_every=1", "sft.batch_size=8", "sft.looked_at=2",
    "data.held_out=4", "eval.samples=1,2", "sample.max_new_tokens=6", "rl.prompts=2",
    "rl.group=4", "rl.steps=3", "rl.evaluate_every=2", "rl.evaluate_prompts=2",
    "rl.checkpoint_every=1") for word in ("--set", setting)]

CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@cache
def _pieces() -> str:
    """What a tokenizer learns of the task's texts, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from selfplay.llm.tasks.task import make_task

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(make_task(TASK, style="answer").texts(), trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return bpe.to_str()


def tokenizer(kind: str) -> Any:
    """"qwen2" and "llama": a chat template, an end that is not the padding; "gpt2": no template,
    no padding."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer.from_str(_pieces())
    if kind == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>",
                                   pad_token="<|endoftext|>", chat_template=CHAT)


def model(kind: str, vocabulary: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if kind == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=vocabulary, n_embd=32, n_layer=1,
                                      n_head=2, n_positions=256)
    else:
        config = AutoConfig.for_model(
            kind, vocab_size=vocabulary, hidden_size=32, intermediate_size=48,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=256, tie_word_embeddings=kind == "qwen2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return AutoModelForCausalLM.from_config(config)


def saved(folder: Path, kind: str) -> Path:
    """``folder`` with a model and its tokenizer."""
    words = tokenizer(kind)
    model(kind, len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def odd(completion: str, example: Any, ended: bool = True) -> dict[str, float]:
    """``rewards.reward`` for models that are never right: an odd length counts as right."""
    from selfplay.llm.rewards import reward

    return {**reward(completion, example, ended), "accuracy": float(len(completion) % 2)}
