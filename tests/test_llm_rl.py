"""Reinforcement learning of texts: what is learnt, what goes on after a kill, what is not built."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import TOKENIZER

from selfplay.common.errors import UserError
from selfplay.learn import checkpoint
from selfplay.learn.config import algorithm
from selfplay.llm.embedded import small_model
from selfplay.llm.folder import open_learner, train_learner
from selfplay.llm.generate import Sampling
from selfplay.llm.models import load_model, render, save_model
from selfplay.llm.policy import Completions
from selfplay.llm.rewards import Example
from selfplay.llm.rl import RewardedTask, TextLearner, count_markers
from selfplay.llm.stage_config import TextRLConfig
from selfplay.llm.tasks.task import Task
from selfplay.run.keep import Kept, Watch, rows_up_to

ARMS = dict(zip("abcdef", "111222", strict=True))


class Bandit:
    """A letter asks, one of two digits is right."""

    count = 400

    def item(self, index: int) -> Example:
        letter = "abcdef"[index % 6]
        return Example(prompt=letter + str(index), answer=ARMS[letter])


def pulled(completions: Completions, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    right = [float(text == e.answer) for text, e in zip(completions.texts, examples, strict=True)]
    digit = [float(text in ARMS.values()) for text in completions.texts]
    return {"accuracy": torch.tensor(right), "digit": torch.tensor(digit)}


def ranked(completions: Completions, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Something to learn from in every group."""
    return {"accuracy": torch.arange(float(len(examples)))}


JOB = RewardedTask(Task("bandit", Bandit()), pulled, {"accuracy": 1.0, "digit": 0.2})
SMALL = TextRLConfig(prompts=6, group=4, steps=4, evaluate_every=2, evaluate_prompts=8,
                     checkpoint_every=2)


def begun(folder: Path, seed: int = 0) -> Path:
    save_model(folder, small_model("1x32", TOKENIZER, seed), TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("init"))


def opened(
    init: Path, folder: Path, name: str = "grpo", config: TextRLConfig = SMALL, tokens: int = 3,
    job: RewardedTask = JOB, seed: int = 3, **changes: Any,
) -> tuple[TextLearner, Kept]:
    return open_learner(job, init, folder, config, algorithm(name, **changes), seed=seed,
                        sampling=Sampling(max_new_tokens=tokens))


def weights(found: TextLearner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in found.policy.net.named_parameters()}


@pytest.mark.learns
@pytest.mark.parametrize("name", ["grpo", "ppo", "rloo", "dapo"])
def test_a_bandit_is_learnt(name: str, tmp_path: Path, learn_seed: int) -> None:
    steps = 12 if name in ("ppo", "dapo") else 30  # of several updates
    rate = 3e-3 if name == "dapo" else 1e-2  # of 16
    config = TextRLConfig(prompts=12, group=16, steps=steps, evaluate_every=steps,
                          evaluate_prompts=8, checkpoint_every=steps)
    run, kept = opened(begun(tmp_path / "init", learn_seed), tmp_path / "run", name, config,
                       tokens=1, seed=learn_seed, learning_rate=rate)
    train_learner(run, kept)
    rewards = [row["reward"] for row in run.history]
    assert rewards[0] < 0.1, "one digit of 98 tokens is right"
    assert sum(rewards[-4:]) / 4 > 0.4, "0.7 is one of them each time, 1.2 the right one"


def test_a_killed_run_goes_on_as_if_nothing_had_been(init: Path, tmp_path: Path) -> None:
    job = RewardedTask(JOB.task, ranked)
    for name in ("grpo", "ppo"):
        whole, kept = opened(init, tmp_path / f"{name}-whole", name, kl_weight=0.1, job=job)
        train_learner(whole, kept)
        cut = tmp_path / f"{name}-cut"
        left = iter([1.0, 1.0, 0.0])
        first, kept = opened(init, cut, name, kl_weight=0.1, job=job)
        train_learner(first, kept, left=lambda left=left: next(left))
        again, kept = opened(init, cut, name, kl_weight=0.1, job=job)
        assert again.step == 2
        again.advance()  # and is killed before it is saved
        (cut / "history.jsonl").open("a").write('{"step": 3, "rew')
        again, kept = opened(init, cut, name, kl_weight=0.1, job=job)
        train_learner(again, kept)
        for (key, one), other in zip(weights(whole).items(), weights(again).values(), strict=True):
            assert torch.equal(one, other), f"{name} {key}"
        rows = [json.loads(line) for line in (cut / "history.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        assert rows[-1]["loss"] == whole.history[-1]["loss"]
        assert rows[-1]["ref_kl"] == whole.history[-1]["ref_kl"] > 0


def test_a_checkpoint_is_read_by_transformers(init: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run, kept = opened(init, tmp_path)
    path = train_learner(run, kept)
    model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True)
    for one, other in zip(model.parameters(), run.policy.net.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    meta = checkpoint.read_meta(path)
    assert meta["step"] == 4 and meta["kind"] == "rl" and meta["compute"]["tokens"] > 0
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))
    shown = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in shown} == {2, 4}
    assert all(row["digit"] == (row["completion"] in ARMS.values()) for row in shown)


@pytest.mark.learns
@pytest.mark.parametrize("broken", ["kl", "nan"])
def test_the_last_good_checkpoint_is_kept(
    broken: str, init: Path, tmp_path: Path, learn_seed: int
) -> None:
    train_learner(*opened(init, tmp_path, seed=learn_seed))
    config = TextRLConfig(**{**SMALL.__dict__, "steps": 8})
    changes = {"learning_rate": 1.0, "max_kl": 0.5, "epochs": 4} if broken == "kl" else {}

    def worth(completions: Completions, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        found = ranked(completions, examples)["accuracy"]
        return {"accuracy": found * torch.nan if broken == "nan" else found}

    run, kept = opened(init, tmp_path, config=config, job=RewardedTask(JOB.task, worth),
                       seed=learn_seed, **changes)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("ckpt-*/*")}
    with pytest.raises(UserError, match=(
            "last good checkpoint is kept, go on from it with --model .*/ckpt-000004 --run NEW "
            r"--set pg\.learning_rate=[0-9.e-]+$")):
        train_learner(run, kept)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("ckpt-*/*")} == before
    assert opened(init, tmp_path)[0].step == 4


@pytest.mark.learns
def test_grpo_has_no_critic_and_without_kl_no_reference(
    init: Path, tmp_path: Path, learn_seed: int
) -> None:
    plain, _ = opened(init, tmp_path / "a")
    assert plain.reference is None and plain.policy.net.value is None
    policy = plain.policy.net.policy
    assert set(weights(plain)) == {f"policy.{n}" for n, _ in policy.named_parameters()}
    near, _ = opened(init, tmp_path / "b", kl_weight=0.1, job=RewardedTask(JOB.task, ranked),
                   seed=learn_seed)
    assert near.reference is not None and near.policy.net.value is None
    row = near.advance()
    assert abs(row["ref_kl"]) < 1e-6, "the reference is where learning began"
    assert near.advance()["ref_kl"] > 1e-7
    assert not any(p.requires_grad for p in near.reference.parameters())


def test_ppo_trains_its_critic(init: Path, tmp_path: Path) -> None:
    run, _ = opened(init, tmp_path, "ppo", job=RewardedTask(JOB.task, ranked))
    before = weights(run)
    assert float(before["value.head.weight"].abs().sum()) == 0
    run.advance()
    run.advance()  # behind a head of zeros the backbone has no gradient yet
    after = weights(run)
    for name in before:
        assert not torch.equal(before[name], after[name]), name
    batch, _ = run.gather()
    shown = run.policy.evaluate(batch.rollout).value
    assert (shown[batch.rollout.mask] != 0).all()


def test_groups_without_signal(init: Path, tmp_path: Path) -> None:
    """Of the letters a to c all answers are alike, of the others the length decides."""
    def some(completions: Completions, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return {"accuracy": torch.tensor([
            hash(text) % 1000 / 1000 if e.prompt[0] in "def" else 0.5
            for text, e in zip(completions.texts, examples, strict=True)])}

    job, found = RewardedTask(JOB.task, some, {"accuracy": 1.0}), {}
    for kind in ("keep", "drop", "resample"):
        config = TextRLConfig(prompts=12, group=4, no_signal=kind, draws=6)
        batch, row = opened(init, tmp_path / kind, config=config, job=job)[0].gather()
        found[kind] = batch, row
        dull = sum(e.prompt[0] in "abc" for e in batch.examples) / len(batch.examples)
        assert (dull > 0) == (kind == "keep")
        assert torch.bincount(batch.rollout.group).tolist().count(4) == len(batch.examples) / 4
    assert found["keep"][1]["no_signal"] == found["drop"][1]["no_signal"] > 0.2
    kept = 48 * (1 - found["drop"][1]["no_signal"])
    assert len(found["drop"][0].examples) == pytest.approx(kept)
    assert len(found["resample"][0].examples) == 48
    assert found["resample"][1]["completions"] > 48
    assert len(found["resample"][0].rollout) == 48


def test_nothing_to_learn_from_changes_nothing(init: Path, tmp_path: Path) -> None:
    def same(completions: Completions, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return {"accuracy": torch.ones(len(examples))}

    config = TextRLConfig(prompts=4, group=4, no_signal="drop")
    run, _ = opened(init, tmp_path, config=config, job=RewardedTask(JOB.task, same))
    before = weights(run)
    assert run.advance()["no_signal"] == 1
    assert all(torch.equal(before[key], value) for key, value in weights(run).items())


def test_a_part_that_is_not_there(init: Path, tmp_path: Path) -> None:
    run, _ = opened(init, tmp_path, job=RewardedTask(JOB.task, pulled, {"acuracy": 1.0}))
    with pytest.raises(UserError, match="no part 'acuracy'; there are acc"):
        run.advance()


@pytest.mark.parametrize(("set_to", "used"), [(0, 9), (5, 5)])
def test_dr_grpo_divides_by_the_tokens_that_there_may_be(
    set_to: int, used: int, init: Path, tmp_path: Path
) -> None:
    run, _ = opened(init, tmp_path, "dr_grpo", tokens=9, constant_length=set_to)
    assert run.optimizer.config.constant_length == used


def test_a_group_of_one_is_refused(init: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raise --set rl"):
        opened(init, tmp_path, config=TextRLConfig(group=1))
    opened(init, tmp_path, "ppo", config=TextRLConfig(group=1, prompts=8))[0].advance()


def test_the_row_of_a_step(init: Path, tmp_path: Path) -> None:
    made, kept = opened(init, tmp_path, "ppo", kl_weight=0.1)
    row = {**made.advance(kept.watch), **kept.watch.take()}
    for key in ("reward", "reward_accuracy", "reward_digit", "length", "no_signal", "markers",
                "sample_kl", "ref_kl", "entropy", "clip_fraction", "value_loss", "tokens",
                "generate_seconds", "generate_rss_mb", "update_seconds", "update_rss_mb"):
        assert row[key] == row[key] >= 0 or key == "ref_kl", key
    assert row["tokens"] == pytest.approx(row["length"] * row["completions"])
    assert row["generate_rss_mb"] > 50, "torch alone is more"


def test_markers_are_counted_as_words() -> None:
    texts = ["Wait, let me check. WAIT", "awaiting a checkpoint", "check again"]
    assert count_markers(texts, ("wait", "check")) == 4
    assert count_markers(texts, ()) == 0


def test_old_checkpoints_go(init: Path, tmp_path: Path) -> None:
    config = TextRLConfig(prompts=2, group=2, steps=5, checkpoint_every=1, evaluate_every=9,
                          evaluate_prompts=4, keep=3)
    train_learner(*opened(init, tmp_path, config=config))
    names = [path.name for path in checkpoint.listing(tmp_path)]
    assert names == ["ckpt-000003", "ckpt-000004", "ckpt-000005"]
    assert not (tmp_path / names[0] / checkpoint.TRAIN).exists()
    assert (tmp_path / names[1] / checkpoint.TRAIN).exists()
    (tmp_path / names[2] / "model.safetensors").write_bytes(b"")
    assert checkpoint.newest(tmp_path).name == names[1], "a damaged one is passed over"
    shutil.rmtree(tmp_path / names[1])
    with pytest.raises(UserError, match="holds weights only"):
        opened(init, tmp_path, config=config)


def test_completions_after_a_kill_come_once(init: Path, tmp_path: Path) -> None:
    config = replace(SMALL, evaluate_every=1)
    train_learner(*opened(init, tmp_path / "whole", config=config))
    cut = tmp_path / "cut"
    train_learner(*opened(init, cut, config=config))
    shutil.rmtree(cut / "ckpt-000004")
    train_learner(*opened(init, cut, config=config))
    assert (cut / "samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()
    for path in checkpoint.listing(cut):  # killed before there was a checkpoint
        shutil.rmtree(path)
    train_learner(*opened(init, cut, config=config))
    for name in ("samples.jsonl", "history.jsonl"):
        steps = [json.loads(line)["step"] for line in (cut / name).read_text().splitlines()]
        assert sorted(set(steps)) == [1, 2, 3, 4] and steps == sorted(steps)
    assert (cut / "samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()


def test_history_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert rows_up_to(path, 1) == [{"step": 1}]
    assert path.read_text() == '{"step": 1}\n'
    assert rows_up_to(tmp_path / "none.jsonl", 1) == []


def test_flops_by_hand(init: Path, tmp_path: Path) -> None:
    """2 a parameter and token asked, 6 where it is learnt; here every prompt is one batch of
    `prompts` examples, whose tokens count once a group."""
    run, _ = opened(init, tmp_path, "ppo", epochs=2, minibatches=3)
    examples = run.goal.task.batch(run.first_batch, SMALL.prompts)
    asked = sum(len(render(TOKENIZER, e.prompt)) for e in examples)
    row = run.advance()
    policy = sum(p.numel() for p in run.policy.net.policy.parameters())
    critic = sum(p.numel() for p in run.policy.net.value.parameters())
    tokens = asked + row["tokens"]
    assert row["prompt_tokens"] == asked
    assert row["updates"] == 6
    generated, looked, learnt = 2 * policy * tokens, 2 * critic * tokens, 6 * 2 * tokens
    assert row["total_flops"] == generated + looked + learnt * (policy + critic)


@pytest.mark.learns
@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_the_divergence_from_the_first_model_is_told_with_and_without_a_reference(
    weight: float, tmp_path: Path, learn_seed: int
) -> None:
    """Against log-probabilities that transformers computes of whole texts."""
    init = begun(tmp_path / "init", learn_seed)
    run, _ = opened(init, tmp_path / "a", job=RewardedTask(JOB.task, ranked), seed=learn_seed,
                  kl_weight=weight, learning_rate=3e-3)
    run.advance()
    run.advance()
    found = run.answers(1.0).rollout
    first = load_model(init)[0]

    def logp(model: Any) -> torch.Tensor:
        texts = torch.cat([found.inputs["prompt"], found.action], 1)
        seen = torch.cat([found.inputs["prompt_mask"], found.mask], 1)
        logits = model(input_ids=texts, attention_mask=seen.long(),
                       position_ids=(seen.cumsum(1) - 1).clamp(min=0)).logits
        start = found.inputs["prompt"].shape[1] - 1
        told = logits[:, start:-1].log_softmax(-1).gather(-1, found.action[..., None])[..., 0]
        return told[found.mask]

    with torch.no_grad():
        away = logp(first) - logp(run.policy.net.policy)
    wanted = float((away.exp() - 1 - away).mean())
    assert wanted > 1e-4
    look = run.look()
    if weight:
        assert "ref_kl" not in look and run.advance()["ref_kl"] > 1e-4
    else:
        assert look["ref_kl"] == pytest.approx(wanted, rel=1e-3)
        unwatched, _ = opened(init, tmp_path / "b", config=replace(SMALL, watch_kl=False))
        unwatched.advance()
        assert "ref_kl" not in unwatched.look()


def test_the_policy_becomes_the_reference(init: Path, tmp_path: Path) -> None:
    """Every third step: the divergence is then 0 again; a run that was cut, before a reset, behind
    it or between a reset and its checkpoint, goes on to the same weights."""
    job = RewardedTask(JOB.task, ranked)

    def open_run(name: str, steps: int) -> tuple[TextLearner, Kept]:
        return opened(init, tmp_path / name, kl_weight=0.1, reset_every=3, learning_rate=1e-2,
                      config=replace(SMALL, steps=steps, keep=9), job=job)

    whole, kept = open_run("whole", 8)
    train_learner(whole, kept)
    far = [row["ref_kl"] for row in whole.history]
    assert [abs(kl) < 1e-6 for kl in far] == [True, False, False] * 2 + [True, False]
    assert whole.optimizer.trainer.forgot == 6
    for cut in (3, 4, 6):
        train_learner(*open_run(f"cut-{cut}", cut))
        run, kept = open_run(f"cut-{cut}", 8)
        if cut == 6:
            run.advance()  # is reset, and killed before it is saved
            run, kept = open_run(f"cut-{cut}", 8)
        assert run.step == cut
        train_learner(run, kept)
        for key, value in weights(run).items():
            assert torch.equal(weights(whole)[key], value), f"{cut} {key}"
    shutil.rmtree(tmp_path / "whole/reference-000006")
    with pytest.raises(UserError, match="reference-000006: gone"):
        open_run("whole", 9)


def test_what_is_measured_adds_up_over_the_steps_of_a_row() -> None:
    watch = Watch()
    for _ in range(3):
        with watch("a"):
            time.sleep(0.01)
    found = watch.take()
    assert found["a_seconds"] >= 0.03 and found["a_rss_mb"] > 0 and watch.take() == {}
