"""Preferences without RL: the loss by hand and against TRL's, what is learnt, the recipe."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from command import Command
from given_llm import CHAT, tokenizer
from test_reward_model import TASK
from tiny_llm import EOS, PAD, TOKENIZER, llama, qwen
from torch import Tensor

from selfplay.common.errors import UserError
from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.learn.rollout import Evaluated, Rollout
from selfplay.llm.config import TextConfig
from selfplay.llm.embedded import small_model
from selfplay.llm.folder import newest_model
from selfplay.llm.generate import Sampling
from selfplay.llm.memory import Memory
from selfplay.llm.models import load_model, save_model
from selfplay.llm.policy import Completions, Net, TextPolicy
from selfplay.llm.preferences import dpo
from selfplay.llm.preferences.config import DPOConfig
from selfplay.llm.preferences.pairs import Pair, in_the_way_of, read_pairs, to_lines
from selfplay.llm.preferences.stages import gold_for
from selfplay.llm.rewards import FORMATS, Example


@dataclass
class Says:
    """A policy with given log-probabilities, one row after another."""

    logp: Tensor

    def evaluate(self, rollout: Rollout) -> Evaluated:
        index = rollout.action[:, 0]
        return Evaluated(self.logp[index, :rollout.mask.shape[1]], torch.zeros(1), None)


def sides(ref: Tensor, mask: Tensor) -> dpo.Sides:
    """The first half of the rows chosen, the second rejected; a row's action is its number."""
    n = len(mask) // 2
    rows = torch.arange(2 * n)[:, None].expand(mask.shape)
    none = torch.zeros(mask.shape)
    both = [Rollout({}, rows[part], mask[part], none[part], none[part], torch.arange(n),
                    ref_logp=ref[part]) for part in (slice(0, n), slice(n, None))]
    return dpo.Sides(*both, n)


def test_the_loss_by_hand() -> None:
    """0.5 nats up for the chosen answer, 0.3 down for the rejected: 0.1 (0.5 + 0.3) = 0.08."""
    mask = torch.tensor([[True, True], [True, False]])
    ref = torch.tensor([[-1.0, -1.0], [-1.0, math.nan]])
    policy: Any = Says(torch.tensor([[-0.8, -0.7], [-1.3, math.nan]]).requires_grad_())
    loss, figures = dpo.dpo_loss(policy, sides(ref, mask), 0.1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.08)))
    assert figures["margin"].item() == pytest.approx(0.08) and figures["accuracy"] == 1
    loss.backward()
    slope = 0.1 / (1 + math.exp(0.08))  # beta sigmoid(-margin): eq. 7's gradient
    torch.testing.assert_close(policy.logp.grad, torch.tensor([[-slope, -slope], [slope, 0.0]]))


def test_loss_and_gradient_are_trls() -> None:
    DPOTrainer = pytest.importorskip("trl", reason="TRL is a test dependency").DPOTrainer
    draw = torch.Generator().manual_seed(0)
    n, steps = 5, 6
    mask = torch.arange(steps)[None] < torch.randint(1, steps + 1, (2 * n, 1), generator=draw)
    ref = torch.randn(2 * n, steps, generator=draw) * mask
    now = (ref + torch.randn(2 * n, steps, generator=draw)).requires_grad_()
    ours, _ = dpo.dpo_loss(Says(now), sides(ref, mask), 0.3)  # type: ignore[arg-type]

    def model(**_: Any) -> Any:
        none = torch.zeros(2 * n, steps)
        return SimpleNamespace(log_probs=now * mask, entropy=none, mean_logits=none,
                               is_top1=none.bool())

    trainer: Any = object.__new__(DPOTrainer)
    settings = dict(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=["sigmoid"],
        loss_weights=[1.0], beta=0.3, label_smoothing=0.0, use_weighting=False,
        _total_train_tokens=0, _tp_size=1, _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x,
                                    gather_for_metrics=lambda x: x))
    for key, value in settings.items():
        object.__setattr__(trainer, key, value)
    seen = torch.cat([torch.zeros(2 * n, 1, dtype=torch.bool), mask], 1)
    refs = ref.sum(1).chunk(2)
    theirs = trainer._compute_loss(model, {
        "input_ids": torch.zeros(seen.shape, dtype=torch.long), "completion_mask": seen.long(),
        "attention_mask": torch.ones(seen.shape), "ref_chosen_logps": refs[0],
        "ref_rejected_logps": refs[1]}, False)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    mine, other = (torch.autograd.grad(loss, now)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine, other)


PAIRS = [Pair(f"{i}?", "yes" if i % 2 else "si", "no" + "o" * (i % 3)) for i in range(48)]


def test_parts_add_up_and_the_preferred_get_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = TextPolicy(Net(small_model("1x32", TOKENIZER, 0)).eval(), (EOS,), PAD)
    whole = dpo.sides_of(TOKENIZER, PAIRS, policy, small_model("1x32", TOKENIZER, 0))
    config = DPOConfig(learning_rate=1e-2, warmup=1, batch_size=24)
    assert float(dpo.dpo_loss(policy, whole, 0.1)[0]) == pytest.approx(math.log(2), abs=1e-5)
    trainer = dpo.dpo_trainer(policy, config, "cpu")
    with torch.no_grad():
        policy.net.policy.model.norm.weight.mul_(1.2)  # off the reference
    figures = trainer.gradient(whole)  # of three parts
    found = [p.grad.clone() for p in policy.net.parameters()]
    policy.net.zero_grad()
    loss, _ = dpo.dpo_loss(policy, whole, 0.1)
    loss.backward()
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-6)
    for mine, parameter in zip(found, policy.net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)
    batches = dpo.dpo_batches(whole, 24, 0, 0)
    rows = [trainer.step(next(batches)) for _ in range(12)]
    assert rows[-1]["accuracy"] == 1 and rows[-1]["loss"] < 0.5
    later = dpo.dpo_batches(whole, 24, 0, 3)  # an epoch has two
    for _ in range(12 - 3):
        next(later)
    for one, other in zip(next(batches)[:2], next(later)[:2], strict=True):
        assert torch.equal(one.action, other.action)


def test_pairs_are_asked_as_the_task_asks(tmp_path: Path) -> None:
    """Behind its system prompt, with its template's arguments; conversations stay what they are."""
    words = tokenizer("qwen2")
    words.chat_template = CHAT.replace("assistant\n", "assistant{{ thinking }}\n")
    task = replace(TASK, system="Be brief.", template=(("thinking", "!"),))
    talk = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"},
            {"role": "user", "content": "3?"}]
    lines = [{"prompt": "4?", "chosen": "5", "rejected": "6"},
             {"prompt": talk, "chosen": [{"role": "assistant", "content": "7"}], "rejected": "8"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_pairs(tmp_path / "p.jsonl")
    assert read[1][:3] == ("1?\n2\n3?", "7", "8") and read[1].messages == tuple(talk)
    (tmp_path / "q.jsonl").write_bytes(to_lines(read))
    assert read_pairs(tmp_path / "q.jsonl") == read
    policy = TextPolicy(Net(small_model("1x32", words, 0)).eval(), (1,), 0)
    found = dpo.sides_of(words, in_the_way_of(task, read), policy, policy.net.policy).chosen.inputs
    for row, mask, said in zip(found["prompt"], found["prompt_mask"],
                               ([{"role": "user", "content": "4?"}], talk), strict=True):
        assert words.decode(row[mask]) == words.apply_chat_template(
            [{"role": "system", "content": "Be brief."}, *said], tokenize=False, thinking="!",
            add_generation_prompt=True)
    (tmp_path / "p.jsonl").write_text(json.dumps({**lines[1], "prompt": [{"role": "user"}]}))
    with pytest.raises(UserError, match="line 1: messages are lists"):
        read_pairs(tmp_path / "p.jsonl")


def test_functions_of_ones_own_say_what_is_preferred() -> None:
    """The true reward is what they give, where there are any."""
    def judge(texts: list[str], examples: Any, parts: Any) -> list[dict[str, float]]:
        return [{"earned": float(len(text)), "accuracy": 0.0} for text in texts]

    for one, wanted in ((None, [1.0, 0.0]), (judge, [1.0, 3.0])):
        run: Any = SimpleNamespace(config=TextConfig("x"), task=replace(TASK, judge=one))
        asked = [Example("?", "2", format=FORMATS["plain"], judge=one)] * 2
        assert gold_for(run)(Completions(["2", "333"], [True] * 2), asked).tolist() == wanted


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    save_model(tmp_path / "init", llama("1x32"), TOKENIZER)
    config = DPOConfig(batch_size=16, evaluate_every=2, max_steps=4, learning_rate=1e-3)

    def train(name: str, left: Any = lambda: math.inf) -> list[Any]:
        dpo.train_dpo(tmp_path / "init", PAIRS[:32], PAIRS[32:], TASK, config, tmp_path / name,
                      questions=2, sampling=Sampling(max_new_tokens=3, stop=("a", "bc")), seed=1,
                      left=left)
        return read_history(tmp_path / name / "history.jsonl")

    whole = train("whole")
    left = iter([9.0, 9.0, 0.0, 0.0, 0.0])
    assert [row["step"] for row in train("cut", lambda: next(left))] == [2]
    again = train("cut")
    assert [row["step"] for row in again] == [2, 4]
    assert [row["loss"] for row in again] == [row["loss"] for row in whole]
    for one, other in zip(load_model(tmp_path / "whole/ckpt-000004")[0].parameters(),
                          load_model(tmp_path / "cut/ckpt-000004")[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_that_was_given_is_held_as_asked(tmp_path: Path) -> None:
    """In bfloat16 the loss is nearly the same, and not to the bit."""
    save_model(tmp_path / "init", qwen(), TOKENIZER)
    config = DPOConfig(batch_size=8, evaluate_every=1, max_steps=1, learning_rate=1e-3)
    found = []
    for name, memory in (("plain", Memory()), ("less", Memory("bfloat16", True))):
        dpo.train_dpo(tmp_path / "init", PAIRS[:8], PAIRS[8:12], TASK, config, tmp_path / name,
                      questions=1, sampling=Sampling(max_new_tokens=2), seed=1, memory=memory)
        found.append(read_history(tmp_path / name / "history.jsonl")[0]["loss"])
    assert found[0] != found[1] == pytest.approx(found[0], abs=0.05)


def test_the_recipe(run: Command) -> None:
    said = run("llm", "train", "--task", "chain_sum(min_terms=2,max_terms=2,max_digits=1)",
               "--recipe", "dpo", "--run", "made", "--device", "cpu", "--minutes", "5",
               *(word for s in ("net=1x32", "sft.max_steps=60", "sft.evaluate_every=60",
                                "sft.looked_at=4", "data.held_out=8", "sample.max_new_tokens=24",
                                "gold.accuracy=0", "gold.length_cost=0.1", "pairs.count=40",
                                "dpo.max_steps=4", "dpo.evaluate_every=2", "dpo.looked_at=4",
                                "dpo.batch_size=8", "eval.samples=1") for word in ("--set", s)))
    assert said.code == 0, said.err
    made = Path("made")
    assert len(read_pairs(made / "dpo/pairs.jsonl")) == 40
    assert newest_model(made).parent.name == "dpo"
    assert set(read_json(made / "evaluation.json")["stages"]) == {"sft", "dpo"}
    assert "dpo:" in said.out and (made / "chart.png").exists()
