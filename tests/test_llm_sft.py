"""Supervised learning of texts: the loss is Hugging Face's own, and an interruption is not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import TOKENIZER, gpt2, hugging_face, llama, lora

from selfplay.common.errors import UserError
from selfplay.learn import checkpoint
from selfplay.llm.embedded import small_model
from selfplay.llm.folder import best_checkpoint
from selfplay.llm.generate import Sampling
from selfplay.llm.models import Lora, load_model, save_model
from selfplay.llm.sft import sequences_of, text_loss, text_trainer, train_texts
from selfplay.llm.stage_config import TextSFTConfig
from selfplay.llm.tasks.task import make_task

TASK = make_task("chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)", style="short")
CONFIG = TextSFTConfig(batch_size=16, evaluate_every=3, max_steps=6, looked_at=8, warmup=2)


@pytest.mark.parametrize("on", ["completion", "text"])
def test_the_loss_is_that_of_hugging_faces_labels(on: str) -> None:
    model, texts = llama(), sequences_of(TASK.batch(0, 12), TOKENIZER, on)
    labels = texts.tokens.masked_fill(~texts.learnt, -100)
    theirs = hugging_face(model)(
        input_ids=texts.tokens, attention_mask=(texts.tokens != 0).long(), labels=labels).loss
    torch.testing.assert_close(text_loss(model, texts), theirs)


def test_what_is_learnt() -> None:
    example = replace(TASK.batch(0, 1)[0], prompt="4-1=", demonstration="3#3")
    texts = sequences_of([example], TOKENIZER)
    learnt = texts.tokens[0][texts.learnt[0]]
    assert TOKENIZER.decode(learnt) == "3#3<eos>"
    assert TOKENIZER.decode(texts.tokens[0]) == "4-1=\n3#3<eos>"
    bare = sequences_of([replace(example, demonstration=None)], TOKENIZER)
    assert TOKENIZER.decode(bare.tokens[0]) == f"4-1=\n#{example.answer}<eos>"


def fit(folder: Path, steps: int, model=None, seed: int = 0) -> Path:
    return train_texts(model or small_model("1x32", TOKENIZER, seed), TOKENIZER, TASK,
                     replace(CONFIG, max_steps=steps), folder, held_out=16,
                     sampling=Sampling(max_new_tokens=8), seed=seed)


@pytest.mark.learns
def test_a_run_goes_on_as_if_nothing_had_been(tmp_path: Path, learn_seed: int) -> None:
    whole = fit(tmp_path / "whole", 6, seed=learn_seed)
    fit(tmp_path / "parts", 3, seed=learn_seed)
    parts = fit(tmp_path / "parts", 6, seed=learn_seed)
    assert whole.name == parts.name == "ckpt-000006"
    one, other = load_model(whole)[0].state_dict(), load_model(parts)[0].state_dict()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=0, rtol=0)
    rows = [json.loads(line) for line in
            (tmp_path / "parts" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[1]["loss"] < rows[0]["loss"]


def dropping(folder: Path) -> Any:
    """Adapters that drop out half of what they read."""
    save_model(folder / "base", small_model("1x32", TOKENIZER, 0), TOKENIZER)
    return load_model(folder / "base", Lora(rank=4, dropout=0.5))[0]


@pytest.mark.parametrize("make", [lambda folder: gpt2(), dropping], ids=["gpt2", "lora"])
def test_dropout_follows_from_the_seed_and_the_step(make: Any, tmp_path: Path) -> None:
    def weights(path: Path) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in load_model(path)[0].parameters()])

    torch.manual_seed(0)
    whole = weights(fit(tmp_path / "whole", 4, make(tmp_path)))
    fit(tmp_path / "parts", 2, make(tmp_path))
    torch.manual_seed(1)  # as in a process of its own
    assert torch.equal(whole, weights(fit(tmp_path / "parts", 4, make(tmp_path))))
    steps = [sequences_of(TASK.batch(k, 8), TOKENIZER) for k in range(2)]
    losses = []
    for seed in (0, 0, 1):  # on the same texts
        trainer = text_trainer(make(tmp_path), CONFIG, seed)
        losses.append([trainer.step(texts)["grad_norm"] for texts in steps])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_step_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    trainer = text_trainer(gpt2(), CONFIG)
    torch.manual_seed(5)
    trainer.step(sequences_of(TASK.batch(0, 8), TOKENIZER))
    assert torch.equal(torch.rand(3), expected)


def test_a_breakdown_says_what_goes_on(tmp_path: Path) -> None:
    broken = small_model("1x32", TOKENIZER, 0)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    with pytest.raises(UserError, match=r"SFT step 1: the loss is nan.*begin again with --run NEW "
                                        r"--set sft\.learning_rate=[0-9.e-]+$"):
        fit(tmp_path, 2, broken)


def test_a_checkpoint_is_a_folder_of_hugging_faces(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = fit(tmp_path, 3)
    assert {"config.json", "model.safetensors", "tokenizer.json", "meta.json",
            "train.safetensors", "train.json"} <= {p.name for p in path.iterdir()}
    assert not [p for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    model, tokenizer = (kind.from_pretrained(path) for kind in (AutoModelForCausalLM,
                                                               AutoTokenizer))
    assert tokenizer("4-1=\n")["input_ids"] == TOKENIZER("4-1=\n")["input_ids"]
    mine, _ = load_model(path)
    tokens = torch.tensor([TOKENIZER("4-1=\n")["input_ids"]])
    torch.testing.assert_close(model(tokens).logits, mine(tokens).logits)
    assert best_checkpoint(tmp_path) == path == checkpoint.newest(tmp_path)


@pytest.mark.learns
def test_the_held_out_loss_falls(learn_seed: int) -> None:
    model = small_model("1x32", TOKENIZER, learn_seed)
    trainer = text_trainer(model, replace(CONFIG, learning_rate=5e-3))
    first = trainer.step(sequences_of(TASK.batch(0, 64), TOKENIZER))["loss"]
    for k in range(1, 40):
        last = trainer.step(sequences_of(TASK.batch(k, 64), TOKENIZER))["loss"]
    assert last < 0.7 * first


def test_of_a_lora_model_only_the_adapters_are_saved_and_learnt() -> None:
    model = lora()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = text_trainer(model, CONFIG)
    trainer.step(sequences_of(TASK.batch(0, 8), TOKENIZER))
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in name for name in changed)
    assert all("lora_" in name for name in trainer.state()[0])
