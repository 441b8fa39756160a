"""Models of somebody else's through the command line: Qwen2 and GPT-2, all weights and LoRA."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from command import Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

import torch
from given_llm import SHORT, TASK, model, odd, saved, tokenizer
from safetensors.torch import load_file

from selfplay.common.errors import UserError
from selfplay.learn.rollout import Rollout
from selfplay.llm import rl
from selfplay.llm.config import TextConfig, with_model
from selfplay.llm.generate import Sampling
from selfplay.llm.models import (
    Lora,
    adapt,
    complete,
    copy_of,
    load_model,
    must_attend,
    plain_weights,
    prompt_of,
    render,
)
from selfplay.llm.policy import Net, Prompts, TextPolicy, value_model
from selfplay.llm.rewards import FORMATS, reward
from selfplay.llm.tasks import make_task


@pytest.fixture(autouse=True)
def offline_and_generous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)


def trained(run: Command, kind: str, name: str, *words: str) -> None:
    done = run("llm", "train", "--task", TASK, "--model", kind, "--run", name, *SHORT, *words)
    assert done.code == 0, done.err


def killed(run: Command, monkeypatch: pytest.MonkeyPatch, kind: str, *words: str) -> None:
    """Train "cut", interrupted in its third step of RL, then go on."""
    advance, steps = rl.TextLearner.advance, []

    def interrupted(learner: rl.TextLearner, watch: Any) -> dict[str, Any]:
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return advance(learner)

    monkeypatch.setattr(rl.TextLearner, "advance", interrupted)
    run("llm", "train", "--task", TASK, "--model", kind, "--run", "cut", *SHORT, *words)
    assert not Path("cut/rl/ckpt-000003").exists()
    monkeypatch.setattr(rl.TextLearner, "advance", advance)
    trained(run, kind, "cut", *words)


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def weights(path: str) -> dict[str, torch.Tensor]:
    return load_file(next(Path(path).glob("*model*.safetensors")))


def test_qwen_with_adapters(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """GRPO of adapters alone, near to a reference, cut and continued as if it had not been."""
    saved(Path("qwen2"), "qwen2")
    settings = ("--recipe", "grpo", "--set", "lora.rank=4", "--set", "pg.kl_weight=0.1")
    trained(run, "qwen2", "whole", *settings)
    killed(run, monkeypatch, "qwen2", *settings)
    whole, cut = (weights(f"{name}/rl/ckpt-000003") for name in ("whole", "cut"))
    first = weights("whole/sft/ckpt-000002")
    assert whole.keys() == first.keys() and all("lora_" in name for name in whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(not torch.equal(whole[name], first[name]) for name in whole), "RL moves adapters"
    rates = json.loads(Path("whole/config.json").read_bytes())
    assert rates["sft"]["learning_rate"] == 2e-3, "as asked for"
    assert rates["rlhf"]["learning_rate"] == pytest.approx(1e-5), "of adapters"
    found = rows("whole/rl/history.jsonl")
    assert found[0]["ref_kl"] == pytest.approx(0, abs=1e-6) and found[-1]["ref_kl"] > 0
    assert found[-1]["ref_kl"] == rows("cut/rl/history.jsonl")[-1]["ref_kl"]

    done = run("llm", "eval", "whole", "--samples", "1,2")
    assert done.code == 0 and "pass@k" in done.out
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 + 1?\n"))
    talk = run("llm", "chat", "whole", "--device", "cpu")
    assert talk.code == 0 and "answer:" in talk.out

    Path("qwen2").rename("moved")
    run("llm", "eval", "whole").mistake(str(Path("qwen2").resolve()), "adapter_config.json")
    Path("qwen2").symlink_to("moved")
    assert run("llm", "eval", "whole", "--samples", "1").code == 0


def test_qwen_with_all_weights(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(Path("qwen2"), "qwen2")
    trained(run, "qwen2", "sft", "--recipe", "sft")
    first, last = rows("sft/sft/history.jsonl")
    assert last["loss"] < first["loss"]
    killed(run, monkeypatch, "qwen2", "--recipe", "ppo")
    assert [row["step"] for row in rows("cut/rl/history.jsonl")] == [1, 2, 3]
    before, after = weights("qwen2"), weights("cut/rl/ckpt-000003")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_gpt2_without_padding_and_template(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO of adapters, whose critic has adapters as well."""
    saved(Path("gpt2"), "gpt2")
    settings = ("--recipe", "ppo", "--set", "lora.rank=4")
    killed(run, monkeypatch, "gpt2", *settings)
    assert all("lora_" in name for name in weights("cut/rl/ckpt-000003"))
    critic = [name for name in load_file("cut/rl/ckpt-000003/train.safetensors")
              if name.startswith("net.value.")]
    assert critic and all("lora_" in name or ".head." in name for name in critic)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 + 1?\n"))
    asked: list[str] = []
    monkeypatch.setattr("selfplay.llm.models.prompt_of", lambda words, example: asked.append(
        example.prompt) or prompt_of(words, example))
    talk = run("llm", "chat", "cut")
    assert "answer:" in talk.out and "Think step" not in talk.out
    assert asked == [f"What is 1 + 1?\n{FORMATS['answer'].instruction}"], "as in training"


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_demonstrations_are_what_the_reward_wants(kind: str) -> None:
    """After a way through the tokenizer and back, in the format that models are asked for."""
    words = tokenizer(kind)
    for example in make_task(TASK, style="answer").batch(0, 20):
        tokens = complete(words, example.demonstration)
        assert tokens[-1] == words.eos_token_id and words.eos_token_id not in tokens[:-1]
        text = words.decode(tokens[:-1], skip_special_tokens=True)
        parts = reward(text, example)
        assert parts["accuracy"] == parts["format"] == 1
        asked = words.decode(render(words, example.prompt))
        assert example.prompt in asked
        assert asked.endswith("<|im_start|>assistant\n" if kind == "qwen2" else "\n")


def test_rates_of_what_has_learnt_before() -> None:
    """Those of the embedded model would undo it."""
    whole, adapters = (with_model(TextConfig(TASK), flag) for flag in (False, True))
    assert (whole.sft.learning_rate, whole.pg.learning_rate) == (1e-5, 1e-6)
    assert adapters.pg.learning_rate == pytest.approx(1e-5)
    assert adapters.rm.learning_rate == whole.rm.learning_rate == 1e-5
    assert TextConfig(TASK).sft.learning_rate == 2e-3


def adapted(kind: str) -> Any:
    """A LoRA model whose adapters do something."""
    found = adapt(model(kind, 300), Lora(rank=4)).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return found


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("lora", [False, True])
def test_weights_to_hand_over(kind: str, lora: bool, tmp_path: Path) -> None:
    """They make of a plain model one that says the same; names are those of a checkpoint."""
    one = adapted(kind) if lora else model(kind, 300).eval()
    before = {name: p.clone() for name, p in one.named_parameters()}
    handed = dict(plain_weights(one))
    model(kind, 300).save_pretrained(tmp_path)
    assert set(handed) == set(weights(str(tmp_path)))
    other = model(kind, 300)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    left = other.load_state_dict(handed, strict=False)
    assert not left.unexpected_keys
    other.tie_weights()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(one(tokens).logits, other.eval()(tokens).logits,
                                   atol=1e-5, rtol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in one.named_parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_critic_of_adapters_learns_its_own(kind: str) -> None:
    policy = adapted(kind)
    critic = value_model(policy)
    torch.nn.init.normal_(critic.head.weight)
    net = Net(policy, critic)
    learner = TextPolicy(net, (2,), 0, Sampling(max_new_tokens=5), group=2)
    batch = Prompts(torch.arange(10, 22).reshape(2, 6), torch.ones(2, 6, dtype=torch.bool), 0)
    acted = learner.act(batch)
    rollout = Rollout(learner.inputs(batch), acted.action, acted.mask, acted.logp,
                      torch.zeros(acted.mask.shape), torch.arange(4) // 2)
    found = learner.evaluate(rollout)
    text = torch.cat([rollout.inputs["prompt"], acted.action], 1)
    own = critic.backbone(input_ids=text).last_hidden_state
    own = critic.head(own)[:, 5:-1, 0]
    torch.testing.assert_close(found.value, own * acted.mask, atol=1e-5, rtol=1e-4)
    found.value.sum().backward()
    learnt = {name for name, p in net.named_parameters() if p.grad is not None}
    assert any("value.backbone" in name and "lora_A" in name for name in learnt)
    assert all(name.startswith("value.") and ("lora_" in name or ".head." in name)
               for name in learnt)
    frozen = {id(p) for p in policy.parameters() if not p.requires_grad}
    assert {id(p) for p in critic.parameters() if not p.requires_grad} <= frozen, "no copy of it"


def test_a_copy_shares_what_does_not_learn() -> None:
    one = adapted("qwen2")
    other = copy_of(one)
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (mine is theirs) == (not mine.requires_grad), name
        assert torch.equal(mine, theirs)


def test_an_adapter_finds_its_model_from_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "base", "qwen2")
    one, words = load_model("base", Lora(rank=2))
    one.save_pretrained("adapter")
    words.save_pretrained("adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    other, _ = load_model(tmp_path / "adapter")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [
    "mamba", "mamba2", "rwkv", "recurrent_gemma", "qwen3_next", "granitemoehybrid", "nemotron_h",
    "falcon_h1", "jamba"])
def test_models_with_a_state_are_refused_in_one_line(kind: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(UserError, match=f"{kind} model has layers of .* attention in every layer"):
        must_attend(AutoConfig.for_model(kind), "x")
    for fine in ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2"):
        must_attend(AutoConfig.for_model(fine), "x")
