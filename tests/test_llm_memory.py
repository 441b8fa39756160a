"""Less memory, the same numbers: heads by parts, micro-batches, checkpoints, bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from test_llm_policy import acted
from tiny_llm import MODELS, TOKENIZER, llama, qwen
from torch import Tensor

from selfplay.common.errors import UserError
from selfplay.learn import optimizer
from selfplay.learn.config import algorithm
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import memory
from selfplay.llm.config import TextConfig, TextSFTConfig, override
from selfplay.llm.folder import open_learner, open_text_run
from selfplay.llm.judges.ready import must_be_of_use
from selfplay.llm.memory import Memory, head_logp, linear_head
from selfplay.llm.models import Lora, save_model
from selfplay.llm.policy import TextPolicy
from selfplay.llm.sft import Sequences, text_loss, text_trainer


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the logits of two or three tokens at once."""
    monkeypatch.setitem(memory.ENTRIES, "cpu", 300)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_a_head_by_parts_is_the_head_of_all(few: None, bias: bool, temperature: float) -> None:
    """Against log_softmax of all logits, in double precision."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight, shift = (torch.randn(*size, generator=draw)
                             for size in ((17, 8), (101, 8), (101,)))
    action = torch.randint(101, (17,), generator=draw)
    of_logp, of_entropy = torch.randn(17, generator=draw), torch.randn(17, generator=draw)

    def gradients(double: bool) -> list[Tensor]:
        leaves = [t.double() if double else t.clone() for t in (hidden, weight, shift)]
        for leaf in leaves:
            leaf.requires_grad_()
        h, w, b = leaves
        if double:
            z = torch.log_softmax((h @ w.t() + (b if bias else 0)) / temperature, -1)
            logp, spread = z.gather(1, action[:, None])[:, 0], -(z.exp() * z).sum(1)
        else:
            logp, spread = head_logp(h, w, action, bias=b if bias else None,
                                     temperature=temperature)
        (logp * of_logp + spread * of_entropy).sum().backward()
        return [logp, spread, h.grad, w.grad, *([b.grad] if bias else [])]

    for mine, theirs in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=5e-6, rtol=1e-5)


def learnt(policy: TextPolicy, rollout: Rollout) -> list[Tensor]:
    """Log-probabilities, entropies and all gradients of a sum over the real tokens."""
    policy.net.zero_grad()
    found = policy.evaluate(rollout)
    (found.logp.sum() + 0.1 * found.entropy.sum()).backward()
    return [found.logp, found.entropy,
            *(p.grad.clone() for p in policy.net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_a_policy_by_parts_is_the_policy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollout = acted(name)
    whole = learnt(policy, rollout)
    monkeypatch.setitem(memory.ENTRIES, "cpu", 300)
    assert (linear_head(policy.net.policy) is None) == (name == "gemma2")  # whose head caps
    for mine, theirs in zip(learnt(policy, rollout), whole, strict=True):
        assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_the_logits_of_all_tokens_are_never_held(name: str, few: None) -> None:
    """Nothing of tokens x vocabulary is saved for the gradient, in RL or in SFT."""
    policy, rollout = acted(name)
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel() if tensor.shape[-1:] == (len(TOKENIZER),) else 0)
        return tensor

    texts = Sequences(rollout.action, torch.ones_like(rollout.mask))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.evaluate(rollout).logp.sum()
        text_loss(policy.net.policy, texts)
    assert max(saved) < int(rollout.mask.sum()) * len(TOKENIZER)


def test_a_loss_of_texts_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(3, 90, (4, 9), generator=torch.Generator().manual_seed(1))
    texts = Sequences(tokens, torch.arange(9)[None] > torch.tensor([[2], [3], [1], [5]]))
    for model in (llama(), qwen()):
        whole = float(text_loss(model, texts).detach())
        monkeypatch.setitem(memory.ENTRIES, "cpu", 300)
        assert float(text_loss(model, texts).detach()) == pytest.approx(whole, abs=1e-5)
        monkeypatch.undo()


def test_a_head_that_does_more_is_told_apart() -> None:
    """Gemma 2 caps its logits: all of them are computed, as by its own forward."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    small = dict(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                 num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    assert linear_head(Gemma2ForCausalLM(Gemma2Config(**small))) is None
    assert linear_head(Gemma2ForCausalLM(Gemma2Config(**small, final_logit_softcapping=None)))


def batch(policy: TextPolicy, rollout: Rollout) -> Rollout:
    draw = torch.Generator().manual_seed(2)
    return replace(rollout, reward=torch.randn(rollout.mask.shape, generator=draw) * rollout.mask)


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_micro_batches_change_no_update(name: str) -> None:
    """The gradient of a batch in parts of few tokens is that of the whole, to 1e-6 of its norm."""
    found = []
    for steps in (4, 10_000):
        policy, rollout = acted(name)
        with torch.no_grad():
            for parameter in policy.net.parameters():  # less sharp: rounding is a weight's size
                parameter.div_(3)
        made = PolicyOptimizer(policy, algorithm("grpo", part_steps=steps))
        made.trainer.descend = lambda: 0.0  # type: ignore[method-assign]
        made(batch(policy, rollout), np.random.default_rng(0))
        found.append(torch.cat([p.grad.flatten() for p in policy.net.parameters()]))
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-6


def test_checkpoints_change_no_gradient_and_keep_less() -> None:
    kept, found = [], []
    for on in (False, True):
        policy, rollout = acted("qwen")
        policy.memory = Memory(checkpointing=on)
        held: dict[int, int] = {}

        def keep(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            policy.evaluate(rollout)
        kept.append(sum(held.values()))
        found.append(learnt(policy, rollout))
        assert "forward" not in vars(policy.net.policy.model.layers[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert kept[1] < kept[0] / 2


def test_checkpoints_change_no_step_of_sft() -> None:
    tokens = torch.randint(3, 90, (4, 9), generator=torch.Generator().manual_seed(1))
    texts, found, kept = Sequences(tokens, torch.ones_like(tokens).bool()), [], []
    for on in (False, True):
        model, held = qwen(), dict[int, int]()

        def keep(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.data_ptr()] = tensor.numel()
            return tensor

        trainer = text_trainer(model, TextSFTConfig(), memory=Memory(checkpointing=on))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.step(texts)
        kept.append(sum(held.values()))
        found.append(list(model.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert kept[1] < kept[0]


def test_a_large_net_has_one_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit what gradients apart and then added give, on one thread."""
    found = []
    for most in (optimizer.APART_BYTES, 0):
        monkeypatch.setattr(optimizer, "APART_BYTES", most)
        policy, rollout = acted("qwen")
        made = PolicyOptimizer(policy, algorithm("grpo"))
        made(batch(policy, rollout), np.random.default_rng(0))
        assert len(made.trainer._replicas) == (4 if most else 1)
        found.append([p.detach() for p in policy.net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_bfloat16_holds_what_does_not_learn(tmp_path: Path) -> None:
    from test_llm_rl import JOB, SMALL, ranked

    from selfplay.llm.generate import Sampling
    from selfplay.llm.rl import RewardedTask

    save_model(tmp_path / "init", qwen(), TOKENIZER)
    job: Any = RewardedTask(JOB.task, ranked)
    run, _ = open_learner(job, tmp_path / "init", tmp_path / "run", SMALL,
                          algorithm("grpo", kl_weight=0.01), sampling=Sampling(max_new_tokens=4),
                          lora=Lora(rank=2), memory=Memory("bfloat16", True))
    kinds = {p.dtype: p.requires_grad for p in run.policy.net.parameters()}
    assert kinds == {torch.bfloat16: False, torch.float32: True}
    row = run.advance()
    assert row["sample_kl"] == 0, "ratios begin at 1 exactly, whatever sampling had rounded to"
    assert run.advance()["grad_norm"] > 0


def test_sft_alone_has_no_bfloat16() -> None:
    task: Any = SimpleNamespace(judge=None)
    with pytest.raises(UserError, match="SFT learns in float32"):
        must_be_of_use(override(TextConfig("x", model="m"), ["memory.dtype=bfloat16"]), task)


def test_the_embedded_model_is_not_held_otherwise(tmp_path: Path) -> None:
    for word in ("memory.dtype=bfloat16", "memory.checkpointing=true"):
        with pytest.raises(UserError, match="given with --model"):
            open_text_run(tmp_path / "new", override(TextConfig("chain_sum"), [word]))
