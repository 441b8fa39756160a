"""Models of somebody else's through the command line: Qwen2 and GPT-2, all weights and LoRA."""

from __future__ import annotations

import io
import json
import re
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
from selfplay.llm.tasks.task import make_task


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


LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8, "linear_conv_kernel_dim": 2,
          "layer_types": ["linear_attention", "full_attention"]}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
           "shared_expert_intermediate_size": 16}
MAMBA = {"mamba_n_heads": 2, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 8,
         "mamba_d_conv": 2, "mamba_expand": 2, "mamba_d_ssm": 64, "mamba_chunk_size": 8}
#: Kinds with layers that carry a state, and what makes a model of each tiny.
STATES: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8}, "falcon_mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 4, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"attention_hidden_size": 32},
    "recurrent_gemma": {"lru_width": 32, "block_types": ["recurrent", "attention"],
                        "attention_window_size": 16},
    "qwen3_next": {**LINEAR, **EXPERTS}, "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": {**LINEAR, **EXPERTS},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 2,
                         "num_experts_per_tok": 1, "shared_intermediate_size": 16},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4,
                   "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "conv_kernel": 2,
                   "chunk_size": 8},
    "falcon_h1": MAMBA, "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
              "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "zamba2": {"n_mamba_heads": 2, "mamba_d_state": 8, "mamba_headdim": 32, "chunk_size": 8,
               "hybrid_layer_ids": [1], "layers_block_type": ["mamba", "hybrid"],
               "num_mem_blocks": 1, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_dim": 32},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2,
                "num_experts_per_tok": 1},
}


@pytest.mark.parametrize("kind", sorted(STATES))
def test_models_with_a_state_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """Tiny random ones, which work as such."""
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer("qwen2")
    config = AutoConfig.for_model(kind, **{
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "max_position_embeddings": 256, **STATES[kind]})
    given = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        assert given(input_ids=torch.arange(3, 9)[None]).logits.isfinite().all()
    given.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"a {kind} model has .* attention in every layer") as told:
        load_model(tmp_path)
    assert "\n" not in str(told.value)


def test_a_model_with_a_state_is_refused_before_anything_is_made(run: Command) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer("qwen2")
    AutoModelForCausalLM.from_config(AutoConfig.for_model(
        "mamba", vocab_size=len(words), hidden_size=32, num_hidden_layers=1,
        state_size=8)).save_pretrained("mamba")
    words.save_pretrained("mamba")
    run("llm", "train", "--task", TASK, "--model", "mamba", "--run", "none", *SHORT).mistake(
        "a mamba model has layers of state", "attention in every layer")
    assert not list(Path("none").glob("*/ckpt-*"))


def test_no_kind_with_a_state_passes_for_one_of_attention() -> None:
    """All that the installed transformers has, by its default settings: whatever keeps a state of
    another sort in its cache says so in its code."""
    import inspect

    from transformers import AutoModelForCausalLM

    classes: Any = AutoModelForCausalLM._model_mapping
    reviewed = {"granitemoeshared", "granitemoe_swa", "lfm2", "lfm2_moe"}  # by their settings
    passed, refused = set[str](), set[str]()
    for kind in list(classes):
        try:
            must_attend(kind(), "x")
            passed.add(kind.model_type)
        except UserError:
            refused.add(kind.model_type)
            continue
        except Exception:  # settings that need more than their defaults
            continue
        code = "".join(file.read_text() for file in
                       Path(inspect.getfile(kind)).parent.glob("modeling_*.py"))
        assert code, kind.model_type
        states = re.findall(r"conv_state|ssm_state|recurrent_state|rwkv|linear_attn", code)
        assert not states or kind.model_type in reviewed, (kind.model_type, states[:3])
    assert len(passed) > 50 and {"mamba", "rwkv", "qwen3_next", "qwen3_5_text"} <= refused
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2"} <= passed
