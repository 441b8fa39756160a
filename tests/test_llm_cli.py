"""selfplay llm: a whole small run, its evaluation, a chat, and mistakes in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import Command

from selfplay.cli.llm import run_name_of

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

TASK = "chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)"
TINY = ["--set", "net=1x32", "--set", "sft.max_steps=4", "--set", "sft.evaluate_every=2",
        "--set", "sft.batch_size=8", "--set", "data.held_out=8", "--set", "sft.looked_at=4",
        "--set", "sample.max_new_tokens=8", "--set", "eval.samples=1,2"]


def test_a_run_its_evaluation_and_a_chat(run: Command, tmp_path: Path, monkeypatch) -> None:
    done = run("llm", "train", "--task", TASK, "--run", "runs/a", *TINY)
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "a"
    assert (folder / "sft" / "ckpt-000004" / "model.safetensors").exists()
    assert list((folder / "tb").iterdir())
    assert set(json.loads((folder / "evaluation.json").read_text())["pass"]) == {"1", "2"}
    again = run("llm", "train", "--run", "runs/a")
    assert again.code == 0, again.err
    assert len((folder / "sft" / "history.jsonl").read_text().splitlines()) == 2
    found = run("llm", "eval", "runs/a", "--samples", "1,4")
    assert found.code == 0 and "pass@k" in found.out
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("1+1=\n¿2+€2?\n"))  # then the input ends
    talk = run("llm", "chat", "runs/a")
    assert talk.code == 0 and talk.out.count("answer:") == 1
    assert "the only kind that the embedded model knows" in talk.out.splitlines()[0]
    assert "never met '¿' '€'; ask" in talk.out
    monkeypatch.setattr("builtins.input", lambda prompt: _interrupted())
    assert run("llm", "chat", "runs/a")[::2] == (0, "")
    monkeypatch.setattr("selfplay.llm.generate.TorchGenerator.__call__", _interrupted)
    monkeypatch.setattr("builtins.input", lambda prompt: "1+1=")
    ended = run("llm", "chat", "runs/a")
    assert (ended.code, ended.err.strip()) == (130, "stopped")
    run("llm", "train", "--run", "runs/a", "--set", "net=2x32").mistake("net=1x32", "--run")


def _interrupted(*words: object) -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("words", "says"), [
    (["train"], "--task"),
    (["train", "--task", "chain_sun"], "did you mean"),
    (["train", "--task", TASK, "--recipe", "magic"], "--recipe magic"),
    (["train", "--task", TASK, "--set", "sft.batchsize=3"], "did you mean sft.batch_size"),
    (["train", "--task", TASK, "--set", "task=gcd"], "--task"),
    (["train", "--task", TASK, "--set", "net=3x97"], "net=3x97: LAYERSxWIDTH"),
    (["train", "--task", TASK, "--recipe", "distill", "--set", "own.net=1x48"], "own.net=1x48"),
    (["train", "--task", TASK, "--model", "/no/such/folder"], "no such folder"),
    (["train", "--task", TASK, "--model", "no/such/folder"], "no/such/folder: no such folder"),
    (["train", "--task", TASK, "--model", "no-such/hub-id"], "a hub id with the network there"),
    (["train", "--task", TASK, "--model", "."], "config.json is missing"),
    (["train", "--task", TASK, "--recipe", "ppo", "--algo", "grpo"], "--recipe grpo"),
    (["train", "--task", TASK, "--recipe", "rlhf", "--algo", "dapo"], "rlhf.algorithm"),
    (["train", "--task", TASK, "--recipe", "grpo", "--set", "sample.temperature=0"],
     "sample.temperature=0"),
    (["train", "--task", TASK, "--recipe", "grpo", "--set", "rl.group=1"], "rl.group=1"),
    (["train", "--task", TASK, "--set", "lora.rank=4"], "give --model"),
    (["train", "--task", TASK, "--set", "sft.lr=3"], "did you mean sft.learning_rate"),
    (["train", "--task", TASK, "--set", "pg.kl_horizon=0"], "pg.kl_horizon"),
    (["train", "--task", TASK, "--set", "pg.kl_target=0.1"], "pg.kl_weight"),
    (["train", "--task", TASK, "--recipe", "rlhf", "--set", "rlhf.adapt=true"], "rlhf.kl_budget"),
    (["train", "--task", "mine.jsonl", "--set", "data.wrong=0.5"], "data.wrong"),
    (["eval", "nowhere"], "no language-model run"),
    (["chat", "nowhere"], "no language-model run"),
])
def test_mistakes(
    run: Command, words: list[str], says: str, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read at its import
    run("llm", *words).mistake(says)
    assert "--model" not in words or not (tmp_path / "runs").exists()


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_half_a_model_is_refused_before_anything_is_made(
    run: Command, tmp_path: Path, lost: str
) -> None:
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.models import save_model

    tokenizer = character_tokenizer()
    save_model(tmp_path / "model", small_model("1x32", tokenizer, 0), tokenizer)
    (tmp_path / "model/train.safetensors").write_bytes(b"no model's")
    (tmp_path / "model" / lost).unlink()
    wanted = "tokenizer" if "tokenizer" in lost else lost.removeprefix("model.")
    run("llm", "train", "--task", TASK, "--model", "model").mistake("--model model: no", wanted)
    assert not (tmp_path / "runs").exists()


def test_every_task_has_a_folder_with_a_short_name() -> None:
    assert run_name_of("chain_sum") == "chain-sum"
    assert run_name_of("chain_sum(min_terms=5,max_terms=5)") == "chain-sum-min-terms-5-max-terms-5"
    assert run_name_of("data/sums.jsonl") == "data-sums-jsonl"
    long = "chain_sum(min_terms={},max_terms={},min_digits=1,max_digits=1)"
    assert run_name_of(long.format(5, 5)).startswith("chain-sum-minter5-maxter5")
    far = [f"/data/{folder}/of/mine/that/has/a/rather/long/name/sums.jsonl" for folder in "ab"]
    tasks = [long.format(a, b) for a in range(2, 5) for b in range(2, 12)] + far + [
        "gcd(low=-1)", "gcd(low=1)", "a_data_set_whose_name_alone_is_longer_than_that(x=1)"]
    names = [run_name_of(task) for task in tasks]
    assert len(set(names)) == len(tasks)
    for name in names:
        assert len(name) <= 40 and re.fullmatch("[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name), name


def test_without_the_extra_one_line_says_what_to_install(run: Command, monkeypatch) -> None:
    monkeypatch.setattr("selfplay.cli.llm.find_spec", lambda name: None)
    run("llm", "train", "--task", TASK).mistake('pip install -e ".[llm]"')


def test_runs_of_games_and_of_texts_are_told_apart(run: Command, tmp_path: Path) -> None:
    for name, config in (("texts", {"task": TASK}), ("game", {"game": "tictactoe"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    run("compare", "texts").mistake("one of texts, for selfplay llm eval")
    run("llm", "eval", "game").mistake("one of a game, for selfplay compare")
