"""vLLM as the generator: what it is asked, how it is understood, and that it has the new weights.

vLLM is a stand-in here (``fake_vllm``); on a GPU nothing of this has been run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

import fake_vllm
import torch
from given_llm import SHORT, TASK, odd, saved

from selfplay.common.errors import UserError
from selfplay.learn.config import algorithm
from selfplay.learn.rollout import Rollout
from selfplay.llm.engines import choose, vllm
from selfplay.llm.folder import newest_model, open_learner
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import Lora, end_tokens, load_model, plain_weights
from selfplay.llm.policy import Net, Prompts, TextPolicy
from selfplay.llm.preferences.pairs import Pair, to_lines
from selfplay.llm.rl import RewardedTask, TextLearner
from selfplay.llm.stage_config import SampleConfig, TextRLConfig
from selfplay.llm.tasks.task import make_task
from selfplay.run.keep import Kept

EXACT = SampleConfig(engine="vllm", dtype="float32")
ROWS = [[5, 6, 7], [8, 9, 10, 11, 12], [5, 6, 7], [30]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("models") / "qwen2", "qwen2"))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return fake_vllm.installed(monkeypatch)


def engine(folder: str, ends: tuple[int, ...] | None = None) -> tuple[Any, Any]:
    model, tokenizer = load_model(folder)
    found = choose.engine_of(model, tokenizer, EXACT, folder, "cpu")
    assert found is not None and found.ends == end_tokens(model, tokenizer)
    return model, vllm.VllmGenerator(found.engine, ends or found.ends, found.pad, found.config)


def test_its_answers(folder: str, engines: list[Any]) -> None:
    """Groups in order, ends and padding in place, log-probabilities those of the tokens."""
    ends = tuple(range(100, 220))
    model, write = engine(folder, ends)
    samples = write(ROWS, 3, Sampling(temperature=0.7, max_new_tokens=6), 4)
    assert samples.action.shape[0] == 12 and samples.prompt.shape == (4, 5)
    assert [row[m].tolist() for row, m in
            zip(samples.prompt, samples.prompt_mask, strict=True)] == ROWS
    lengths = samples.mask.sum(1)
    assert 1 <= int(lengths.min()) < int(lengths.max()) == samples.action.shape[1]
    for row, n, over in zip(samples.action.tolist(), lengths.tolist(), samples.ended, strict=True):
        assert [t in ends for t in row[:n]] == [False] * (n - 1) + [bool(over)]
        assert all(t == write.pad for t in row[n:])
    policy = TextPolicy(Net(model), ends, write.pad, Sampling(temperature=0.7), group=3)
    batch = Prompts(samples.prompt, samples.prompt_mask, 4)
    again = policy.evaluate(Rollout(policy.inputs(batch), samples.action, samples.mask,
                                    samples.logp, torch.zeros(samples.mask.shape),
                                    torch.arange(12) // 3))
    torch.testing.assert_close(samples.logp, again.logp, atol=1e-5, rtol=1e-4)
    texts = [tuple(row[:n]) for row, n in zip(samples.action.tolist(), lengths, strict=True)]
    assert texts[:3] != texts[6:9], "the same prompt again is answered anew"
    assert torch.equal(samples.action, write(ROWS, 3, Sampling(0.7, 1.0, 6), 4).action)
    other = write(ROWS, 3, Sampling(0.7, 1.0, 6), 5).action
    assert other.shape != samples.action.shape or not torch.equal(other, samples.action)


def test_an_end_at_the_limit_is_an_end(folder: str, engines: list[Any]) -> None:
    _, write = engine(folder, tuple(range(400)))
    samples = write(ROWS, 1, Sampling(temperature=0.0, max_new_tokens=1), 0)
    assert samples.action.shape == (4, 1) and samples.ended.all()


def test_greedy_is_torchs(folder: str, engines: list[Any]) -> None:
    model, write = engine(folder)
    greedy = Sampling(temperature=0.0, max_new_tokens=5)
    one, other = write(ROWS, 1, greedy, 0), TorchGenerator(model, write.ends, write.pad)(
        ROWS, 1, greedy, 0)
    assert torch.equal(one.action, other.action) and torch.equal(one.ended, other.ended)
    with pytest.raises(UserError, match="the model sees 256"):
        write(ROWS, 1, Sampling(max_new_tokens=252), 0)


def opened(
    folder: str, path: Path, sample: SampleConfig = EXACT, rank: int = 0, **changes: Any
) -> tuple[TextLearner, Kept]:
    config = TextRLConfig(prompts=2, group=4, steps=3, evaluate_every=2, evaluate_prompts=2,
                          checkpoint_every=1)
    return open_learner(
        RewardedTask(make_task(TASK, style="answer")), folder, path, config,
        algorithm("grpo", learning_rate=1e-2, **changes),
        sampling=Sampling(max_new_tokens=6), seed=2, lora=Lora(rank) if rank else None,
        engine=lambda model, words: choose.engine_of(model, words, sample, folder, "cpu"))


def has_the_weights_of(inside: Any, model: Any) -> bool:
    """All of them, and in the last handing over."""
    mine, theirs = dict(plain_weights(model)), dict(inside.model.named_parameters())
    return inside.loads[-1] == set(mine) == set(theirs) and all(
        torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("rank", [0, 4])
def test_it_has_the_new_weights_after_every_update(
    rank: int, folder: str, engines: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)
    run, kept = opened(folder, tmp_path, rank=rank)
    inside, model = engines[0].inside, run.policy.net.policy
    assert len(inside.loads) == 1 and has_the_weights_of(inside, model)
    for count in (2, 3):
        before = {name: w.clone() for name, w in plain_weights(model)}
        row = run.advance()
        assert len(inside.loads) == count and has_the_weights_of(inside, model)
        assert any(not torch.equal(before[n], w) for n, w in plain_weights(model))
        assert 0 <= row["act_kl"] < 1e-6, "the same arithmetic in this test"
    kept.save(kept.path(row), {**row, "total_seconds": 0.0})
    again, _ = opened(folder, tmp_path, rank=rank)
    assert again.step == 2 and len(engines) == 1, "one engine a process"
    assert has_the_weights_of(inside, again.policy.net.policy)


def test_the_ratio_is_of_the_trainers_arithmetic(
    folder: str, engines: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine rounds to bfloat16: a figure says how far, and the update does not see it."""
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)
    run, _ = opened(folder, tmp_path, SampleConfig(engine="vllm", dtype="bfloat16"), epochs=1,
                  minibatches=1)
    row = run.advance()
    assert 1e-9 < row["act_kl"] < 1e-2
    assert row["sample_kl"] < 1e-9 and row["clip_fraction"] == 0


def test_asked_on_a_gpu_and_for_a_model_given(folder: str, engines: list[Any]) -> None:
    model, words = load_model(folder)

    def chosen(engine: str, given: str, device: str) -> bool:
        sample = SampleConfig(engine=engine, dtype="float32")  # type: ignore[arg-type]
        return choose.engine_of(model, words, sample, given, device) is not None

    assert chosen("auto", folder, "cuda") and chosen("vllm", folder, "cpu")
    assert not chosen("auto", folder, "cpu") and not chosen("torch", folder, "cuda")
    assert not chosen("auto", "", "cuda") and not chosen("vllm", "", "cpu")
    sys.modules.pop("vllm")
    assert not chosen("auto", folder, "cuda"), "not installed"


def test_an_engine_that_does_not_start(
    folder: str, engines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise ValueError("No available memory\nfor the cache blocks")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    model, words = load_model(folder)
    with pytest.raises(UserError, match=r"memory for the cache blocks\); change --set"):
        choose.engine_of(model, words, EXACT, folder, "cpu")


def test_a_run_with_it(
    folder: str, engines: list[Any], run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RL, own answers and evaluation ask the engine; another engine may go on with the run."""
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)
    words = ("llm", "train", "--task", TASK, "--model", folder, "--run", "a", "--recipe", "r1",
             *SHORT, "--set", "own.questions=4", "--set", "own.samples=2", "--set", "rl.steps=1")
    done = run(*words, "--set", "sample.engine=vllm")
    assert done.code == 0, done.err
    asked = engines[0].calls
    assert len(engines) == 1
    rows = [json.loads(line) for line in Path("a/rl2/history.jsonl").read_text().splitlines()]
    assert rows[0]["act_kl"] > 0
    assert run("llm", "eval", "a", "--samples", "1", "--engine", "torch").code == 0
    assert engines[0].calls == asked
    assert json.loads(Path("a/evaluation.json").read_bytes())["engine"] == "torch"
    assert run("llm", "eval", "a", "--samples", "1").code == 0
    assert engines[0].calls == asked + 2, "greedy and sampled"
    assert json.loads(Path("a/evaluation.json").read_bytes())["engine"] == "vllm"
    assert run(*words, "--set", "sample.engine=torch").code == 0


def test_preferences_with_it_and_adapters(
    folder: str, engines: list[Any], run: Command
) -> None:
    """The climb asks it with the weights of each step, best-of-n asks the reference by torch; the
    reward model is made of a policy whose adapters are merged."""
    Path("mine.jsonl").write_bytes(
        to_lines([Pair(f"{i} + 1 =", str(i + 1), str(i)) for i in range(20)]))
    done = run("llm", "train", "--task", TASK, "--model", folder, "--run", "a", "--recipe", "rlhf",
               *SHORT, *(word for setting in (
                   "sample.engine=vllm", "sample.dtype=float32", "lora.rank=2",
                   "pairs.file=mine.jsonl", "rm.epochs=1", "rlhf.prompts=2", "rlhf.group=2",
                   "rlhf.steps=2", "rlhf.evaluate_every=1", "rlhf.held_prompts=2",
                   "rlhf.held_samples=2", "rlhf.best_of=2")
                   for word in ("--set", setting)))
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("a/rlhf/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    inside = engines[0].inside
    assert len(inside.loads) == 2 + 2 + 2, "of two stages, two steps and two evaluations"
    assert has_the_weights_of(inside, load_model(newest_model(Path("a")))[0])


def test_asking_for_what_is_not_there(run: Command, folder: str, engines: list[Any]) -> None:
    words = ("llm", "train", "--task", TASK, "--set", "sample.engine=vllm", "--run", "a")
    run(*words).mistake("sample.engine=vllm", "--model")
    sys.modules.pop("vllm")
    run(*words, "--model", folder).mistake("pip install vllm", "sample.engine=torch")
    assert not Path("a").exists() and not engines
