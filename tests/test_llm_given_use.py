"""RL straight from a model, and models in use: measured on any task, talked to, exported."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from command import Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from given_llm import SHORT, TASK, odd, saved
from hub_server import OTHERS, hub_server
from test_llm_cli import TINY

from selfplay.common.errors import UserError
from selfplay.llm.folder import open_text_run, stored_text_config
from selfplay.llm.generate import TorchGenerator
from selfplay.llm.given.export import push
from selfplay.llm.given.measure import tasks_of
from selfplay.llm.models import load_model
from selfplay.llm.summary import run_record


@pytest.fixture(autouse=True)
def offline_and_generous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)


def greedy(model: Any, words: Any, most: int = 12) -> list[list[int]]:
    """By transformers' own generate."""
    found = []
    for text in ("1+1=", "What is 7?", "a longer question"):
        asked = words(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        out = model.eval().generate(asked, attention_mask=torch.ones_like(asked), do_sample=False,
                                    max_new_tokens=most, pad_token_id=words.pad_token_id)
        found.append(out[0, asked.shape[1]:].tolist())
    return found


def test_rl_straight_from_a_model_and_its_exports(run: Command) -> None:
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved(Path("base"), "qwen2")
    done = run("llm", "train", "--task", TASK, "--model", "base", "--recipe", "rl", "--run", "r",
               *SHORT, "--set", "lora.rank=4", "--set", "pg.learning_rate=0.05")
    assert done.code == 0, done.err
    assert not Path("r/sft").exists() and "tokens/s" in done.out
    evaluation = json.loads(Path("r/evaluation.json").read_text())
    assert list(evaluation["stages"]) == ["base", "rl"]
    assert evaluation["stages"]["base"]["checkpoint"] == "base"
    config = stored_text_config(Path("r"))
    assert config is not None
    record = run_record(open_text_run(Path("r"), config), evaluation["stages"], "cpu")
    first = record["points"][0]
    assert (first["stage"], first["step"], first["flops"]) == ("base", 0, 0.0)
    assert first["accuracy"] == 100 * evaluation["stages"]["base"]["sampled"]["accuracy"]
    later = [point for point in record["points"] if point["stage"] == "rl" and not point["sims"]]
    assert later[-1]["flops"] > 0 and record["baselines"] == []
    assert "RL and Base" in done.out or "Base" in done.out
    assert run("llm", "train", "--run", "r").code == 0, "it goes on"

    for kind in ("merged", "adapter"):
        said = run("llm", "export", "r", f"--{kind}", f"out/{kind}")
        assert said.code == 0 and "ckpt-000003" in said.out, said.err
    ours, words = load_model(Path("r/rl/ckpt-000003"))
    wanted = greedy(ours, words)
    assert wanted != greedy(load_model("base")[0], words), "it has learnt something"
    whole = AutoModelForCausalLM.from_pretrained("out/merged")
    assert not any("lora" in name for name, _ in whole.named_parameters())
    assert greedy(whole, AutoTokenizer.from_pretrained("out/merged")) == wanted
    described = json.loads(Path("out/adapter/adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "../../base"
    under = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "out/adapter")
    assert greedy(under, words) == wanted
    here = os.getcwd()
    os.chdir("out/adapter")
    assert greedy(AutoPeftModelForCausalLM.from_pretrained("."), words) == wanted
    os.chdir(here)
    Path("moved").mkdir()
    for name in ("base", "out"):
        Path(name).rename(Path("moved") / name)
    assert greedy(load_model("moved/out/adapter")[0], words) == wanted, "moved together"
    Path("moved/base").rename("elsewhere")
    run("llm", "eval", "--model", "moved/out/adapter", "--tasks", TASK).mistake("which is gone")
    run("llm", "export", "r", "--merged", "moved").mistake("is there already")
    run("llm", "export", "r").mistake("--merged DIR")


def test_whole_weights_are_exported_whole(run: Command) -> None:
    from transformers import AutoModelForCausalLM

    done = run("llm", "train", "--task", TASK, "--run", "r", *TINY)
    assert done.code == 0, done.err
    assert run("llm", "export", "r", "--merged", "out").code == 0
    ours = load_model(Path("r/sft/ckpt-000004"))[0]
    theirs = AutoModelForCausalLM.from_pretrained("out")
    tokens = torch.arange(5, 25)[None]
    torch.testing.assert_close(theirs(tokens).logits, ours(tokens).logits, atol=1e-4, rtol=1e-4)
    run("llm", "export", "r", "--adapter", "other").mistake("has no adapter")
    assert not Path("other").exists()


def test_what_was_exported_goes_to_the_hub_and_nowhere_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hub's own client, against a server on this machine."""
    from huggingface_hub import constants

    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 8)
    wanted = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert push(tmp_path, "me/mine") == f"{hub.url}/me/mine"
        assert hub.files == wanted and hub.tokens == {"Bearer hf_mine"}
        made = hub.made.pop()
        assert (made["organization"], made["name"], made["visibility"]) == ("me", "mine", "private")
        with pytest.raises(UserError, match=r"403 Forbidden.*hf auth login") as told:
            push(tmp_path, f"{OTHERS}/theirs")
        assert "\n" not in str(told.value)
        del hub.made[:]
        (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
        with pytest.raises(UserError, match="on this disk alone"):
            push(tmp_path, "me/mine")
        assert hub.made == []


def test_a_run_is_measured_as_by_itself_and_budgets_only_cut(run: Command) -> None:
    done = run("llm", "train", "--task", TASK, "--run", "r", *TINY)
    assert done.code == 0, done.err
    own = json.loads(Path("r/evaluation.json").read_text())
    words = ("llm", "eval", "--model", "r", "--tasks", f"{TASK},{TASK}", "--samples", "1,2",
             "--questions", "8", "--out")
    assert run(*words, "all.json", "--budget", "3,8").code == 0
    found = json.loads(Path("all.json").read_text())["tasks"][TASK]
    for key in ("greedy", "sampled", "pass", "majority"):
        assert found["8"][key] == own[key]
    assert found["3"]["sampled"]["tokens"] <= 3 < found["8"]["sampled"]["tokens"]
    assert run(*words, "three.json", "--budget", "3").code == 0
    assert json.loads(Path("three.json").read_text())["tasks"][TASK]["3"] == found["3"]


def test_a_conversation_is_remembered(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(Path("m"), "qwen2")
    asked: list[str] = []
    real = TorchGenerator.__call__

    def heard(self: Any, prompts: Any, *words: Any) -> Any:
        asked.append(self.tokenizer.decode(prompts[0]))
        return real(self, prompts, *words)

    monkeypatch.setattr(TorchGenerator, "__call__", heard)
    monkeypatch.setattr("sys.stdin", io.StringIO("first\nsecond\n\n"))
    talk = run("llm", "chat", "--model", "m", "--set", "sample.max_new_tokens=3",
               "--set", "data.system=Be brief.")
    assert talk.code == 0, talk.err
    head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nfirst<|im_end|>\n"
    assert asked[0] == head + "<|im_start|>assistant\n"
    assert asked[1].startswith(asked[0]) and "user\nsecond<|im_end|>" in asked[1]


@pytest.mark.parametrize(("words", "says"), [
    (["eval"], "--tasks TASK,TASK"),
    (["eval", "--model", "m"], "give --tasks"),
    (["eval", "--model", "m", "r"], "give a run's folder, or --model"),
    (["eval", "--model", "m", "--tasks", ","], "--tasks ,"),
    (["eval", "--model", "m", "--tasks", "chain_sun"], "did you mean"),
    (["eval", "--model", "m", "--tasks", "gcd", "--budget", "x"], "--budget x"),
    (["eval", "--model", "nowhere/at/all", "--tasks", "gcd"], "no such folder"),
    (["chat"], "give a run's folder, or --model"),
    (["check", "nowhere.py:Task"], "no such file"),
    (["train", "--task", TASK, "--recipe", "rl"], "give --model"),
])
def test_mistakes(run: Command, words: list[str], says: str) -> None:
    saved(Path("m"), "qwen2")
    run("llm", *words).mistake(says)


def test_a_list_of_tasks_may_have_parameters() -> None:
    assert tasks_of("chain_sum(min_terms=2,max_terms=3), gcd,my.jsonl") == [
        "chain_sum(min_terms=2,max_terms=3)", "gcd", "my.jsonl"]
