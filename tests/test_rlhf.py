"""Climbing a reward model: the divergence, its budget, what goes on after a kill, the curve."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import TOKENIZER, llama

from selfplay.common.errors import UserError
from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.llm import policy as rollouts
from selfplay.llm.folder import open_rlhf_learner, train_learner
from selfplay.llm.generate import Sampling
from selfplay.llm.models import render, save_model
from selfplay.llm.policy import completion_kl, gold_of
from selfplay.llm.preferences.config import RewardConfig, RLHFConfig
from selfplay.llm.preferences.overoptimism import Looked, best_of_n, figures, interval, turn
from selfplay.llm.preferences.reward_model import RewardModel, Texts, proxy_task, reward_model
from selfplay.llm.preferences.rlhf import RLHFLearner, best_row
from selfplay.llm.rewards import Example
from selfplay.llm.rl import RewardedTask
from selfplay.llm.tasks.task import Task
from selfplay.report.panels import draw_overoptimisation
from selfplay.run.keep import Kept

LIKED = "abcdefghi"  # so many that none has to be met by luck
TOKENS = torch.tensor(TOKENIZER(LIKED)["input_ids"])


def liked(text: str) -> int:
    return sum(text.count(letter) for letter in LIKED)


class Letters:
    """Prompts to which anything is an answer."""

    count = 400

    def item(self, index: int) -> Example:
        return Example(f"{index}", "")


class Counting(RewardModel):
    """Likes each liked letter, were it the thousandth."""

    @torch.no_grad()
    def score(self, texts: Texts) -> torch.Tensor:
        return (torch.isin(texts.tokens, TOKENS) & texts.mask).sum(1).float()


def counting() -> Counting:
    return Counting(reward_model(llama("1x32"), RewardConfig(), TOKENIZER, 0).body)


#: The truth: two of them are best, each further one does harm.
GOLD = gold_of({"a": 1.0}, lambda completions, examples: {"a": torch.tensor(
    [2.0 - abs(liked(text) - 2) for text in completions.texts])})
def rewarded(cut_penalty: float = 0.0) -> RewardedTask:
    return proxy_task(Task("letters", Letters()), counting(), TOKENIZER, GOLD, cut_penalty)


SMALL = RLHFConfig(prompts=8, group=4, epochs=3, minibatches=2, steps=4, evaluate_every=2,
                   held_prompts=12, held_samples=4, kl_weight=0.0, learning_rate=1e-3)
SAMPLING = Sampling(max_new_tokens=6)


def begun(folder: Path, seed: int = 3) -> Path:
    save_model(folder, llama("1x32", seed), TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("init"))


def opened(init: Path, folder: Path, sampling: Sampling = SAMPLING, seed: int = 0,
           cut_penalty: float = 0.0, **changes: Any) -> tuple[RLHFLearner, Kept]:
    return open_rlhf_learner(rewarded(cut_penalty), init, folder, replace(SMALL, **changes),
                             sampling=sampling, seed=seed)


# ------------------------------------------------------------------------------------ divergence


def test_the_divergence_is_the_kl_of_the_distributions(init: Path, tmp_path: Path) -> None:
    """With completions of one token it can be summed over the vocabulary."""
    made, _ = opened(init, tmp_path, sampling=Sampling(max_new_tokens=1))
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in made.policy.net.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    example = made.held_out[0]
    tokens = torch.tensor([render(TOKENIZER, example.prompt)])
    with torch.no_grad():
        p, q = (torch.log_softmax(net(input_ids=tokens).logits[0, -1].double(), -1)
                for net in (made.policy.net.policy, made.reference))
    exact = float((p.exp() * (p - q)).sum())
    policy = replace(made.policy, group=8000)
    batch = made.ask([example], 1, policy)
    drawn = completion_kl(rollouts.evaluated(batch.rollout, policy, made.reference))
    error = float(drawn.std()) / math.sqrt(8000)
    assert exact > 10 * error
    assert abs(float(drawn.mean()) - exact) < 4 * error


def test_the_untrained_policy_is_the_reference(init: Path, tmp_path: Path) -> None:
    made, kept = opened(init, tmp_path, steps=0)
    train_learner(made, kept)
    (row,) = made.history
    assert row["kl"] == pytest.approx(0, abs=1e-4)
    assert (row["step"], row["held_prompts"], row["held_samples"]) == (0, 12, 4)


# -------------------------------------------------------------------------------------- climbing


@pytest.mark.learns
@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_the_proxy_rises_and_the_truth_turns(
    tmp_path: Path, algorithm: str, learn_seed: int
) -> None:
    init, folder = begun(tmp_path / "init", learn_seed), tmp_path / "climb"
    made, kept = opened(init, folder, seed=learn_seed, algorithm=algorithm, steps=40,
                   evaluate_every=8, learning_rate=5e-3)
    best = train_learner(made, kept)
    rows = made.history
    assert rows[-1]["proxy"] > 4.5 > 1 > rows[0]["proxy"]
    assert rows[-1]["gold"] < max(row["gold"] for row in rows) - 0.5
    found = turn(rows)
    assert found["proxy_rise"] > 0 < found["loss"]
    assert best.name == f"ckpt-{found['step']:06d}"
    assert read_json(folder / "best.json")["ended"] == "steps"
    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {best.name, "ckpt-000040"}


@pytest.mark.learns
def test_the_kl_budget_ends_the_run(tmp_path: Path, learn_seed: int) -> None:
    made, kept = opened(begun(tmp_path / "init", learn_seed), tmp_path / "climb", seed=learn_seed,
                   steps=60, evaluate_every=3, learning_rate=5e-3, kl_budget=2.0)
    best = train_learner(made, kept)
    note, kls = read_json(tmp_path / "climb" / "best.json"), [row["kl"] for row in made.history]
    assert note["ended"] == "kl budget"
    assert made.step < 60
    assert kls[-1] > 2 >= max(kls[:-1])
    assert note["kl"] <= 2
    within = [row["gold"] for row in made.history[:-1]]
    assert note["gold"] == max(within)
    assert best.is_dir()
    assert best.name == note["checkpoint"]


def test_a_run_over_budget_from_the_start_names_the_reference() -> None:
    rows = [{"step": 0, "kl": 0.0, "gold": 1.0}, {"step": 5, "kl": 9.0, "gold": 5.0}]
    assert best_row(rows, 1.0)["step"] == 0
    assert best_row(rows, 0.0)["step"] == 5


@pytest.mark.learns
def test_a_kl_weight_holds_the_policy_back(tmp_path: Path, learn_seed: int) -> None:
    init, gone = begun(tmp_path / "init", learn_seed), {}
    for weight in (0.0, 1.0):
        made, kept = opened(init, tmp_path / str(weight), seed=learn_seed, steps=15,
                            evaluate_every=15, learning_rate=5e-3, kl_weight=weight)
        train_learner(made, kept)
        gone[weight] = made.history[-1]["kl"]
    assert gone[1.0] < 0.5 * gone[0.0]


@pytest.mark.learns
def test_the_weight_is_steered_to_half_the_budget(tmp_path: Path, learn_seed: int) -> None:
    config = replace(SMALL, kl_budget=3.0, kl_weight=0.01, adapt=True)
    assert config.objective(6.0).kl_target == pytest.approx(0.25)
    made, kept = opened(begun(tmp_path / "init", learn_seed), tmp_path / "climb", seed=learn_seed,
                   steps=10, evaluate_every=10, learning_rate=5e-3, kl_budget=3.0, kl_weight=0.01,
                   adapt=True)
    train_learner(made, kept)
    assert made.optimizer.kl_weight > 0.01
    assert replace(config, adapt=False).objective(6.0).kl_target == 0


def test_a_killed_run_goes_on_as_if_nothing_had_been(init: Path, tmp_path: Path) -> None:
    whole, kept = opened(init, tmp_path / "whole", kl_weight=0.1)
    train_learner(whole, kept)
    first, kept = opened(init, tmp_path / "parts", kl_weight=0.1, steps=2)
    train_learner(first, kept)
    first.history.append({**first.history[-1], "step": 4})  # a row whose checkpoint never came
    (tmp_path / "parts" / "history.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in first.history))
    shutil.copytree(tmp_path / "parts" / "ckpt-000002", tmp_path / "parts" / "ckpt-000004")
    (tmp_path / "parts" / "ckpt-000004" / "model.safetensors").write_bytes(b"half")
    again, kept = opened(init, tmp_path / "parts", kl_weight=0.1)
    assert again.step == 2
    train_learner(again, kept)
    a, b = (made.policy.net.state_dict() for made in (whole, again))
    assert all(torch.equal(a[key], b[key]) for key in a)
    rows = [[{k: v for k, v in row.items() if not k.endswith(("seconds", "_mb"))}
             for row in read_history(tmp_path / name / "history.jsonl")]
            for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [0, 2, 4]


def test_completions_are_written_down_and_figures_of_every_step(
    init: Path, tmp_path: Path
) -> None:
    told: list[list[dict[str, Any]]] = []
    made, kept = open_rlhf_learner(rewarded(), init, tmp_path, SMALL, sampling=SAMPLING,
                                   markers=("a", "b"))
    asked: list[rollouts.SampledBatch] = []
    with pytest.MonkeyPatch.context() as patch:
        def noted(*given: Any) -> rollouts.SampledBatch:
            found = sample(*given)
            asked.extend([found] if given[0].group == 4 and len(given[2]) == 8 else [])
            return found

        sample = rollouts.sample_batch
        patch.setattr(rollouts, "sample_batch", noted)
        train_learner(made, kept, show=told.append)
    rows = read_history(tmp_path / "samples.jsonl")
    assert rows == [row for some in told for row in some]
    assert [some[0]["step"] for some in told] == [0, 2, 4]
    held = {e.prompt: e.answer for e in made.held_out}
    for row in rows:
        assert held[row["prompt"]] == row["wanted"]
        count = liked(row["completion"])
        assert (row["proxy"], row["gold"]) == (count, 2 - abs(count - 2))
    first = asked[:2]
    train = made.history[1]["train"]
    texts = [[liked(t) for t in b.completions.texts] for b in first]
    assert train["reward_proxy"] == pytest.approx(np.mean(texts))
    assert train["length"] == pytest.approx(
        np.mean([float(b.rollout.mask.sum()) / 32 for b in first]))
    alike = np.array(texts).reshape(2, 8, 4)
    assert train["no_signal"] == pytest.approx(np.mean(alike.min(2) == alike.max(2)), abs=1e-6)
    words = [t.lower().split() for b in first for t in b.completions.texts]
    assert train["markers"] >= sum(w.count("a") + w.count("b") for w in words) / 64


def test_a_breakdown_says_what_goes_on(init: Path, tmp_path: Path) -> None:
    made, kept = opened(init, tmp_path)
    with torch.no_grad():
        next(iter(made.reference.parameters())).fill_(torch.nan)
    made.optimizer.config = replace(made.optimizer.config, kl_weight=0.1)
    with pytest.raises(UserError, match=r"go on from it with --model .*/ckpt-000000 --run NEW "
                                        r"--set rlhf\.learning_rate=0\.00033$"):
        train_learner(made, kept)


def test_completions_of_a_killed_run_come_once(init: Path, tmp_path: Path) -> None:
    train_learner(*opened(init, tmp_path / "whole"))
    parts = tmp_path / "parts"
    train_learner(*opened(init, parts, steps=2))
    with (parts / "samples.jsonl").open("a") as file:  # of a step whose checkpoint never came
        file.write(json.dumps({"step": 4, "prompt": "p", "completion": "", "wanted": ""}) + "\n{")
    train_learner(*opened(init, parts))
    names = [folder / "samples.jsonl" for folder in (tmp_path / "whole", parts)]
    assert names[0].read_text() == names[1].read_text()


def test_what_was_cut_off_costs_the_penalty(init: Path, tmp_path: Path) -> None:
    made, _ = opened(init, tmp_path, cut_penalty=7.0, sampling=Sampling(max_new_tokens=60))
    batch = made.ask(made.held_out, 0)
    ended = torch.tensor(batch.completions.ended)
    found = batch.rollout.reward.sum(1)
    count = torch.tensor([float(liked(t)) for t in batch.completions.texts])
    assert 0 < int(ended.sum()) < len(ended)
    assert torch.equal(found, count - 7.0 * (~ended).float())


# ------------------------------------------------------------------------------------- the curve


def looked(proxy: Any, gold: Any) -> Looked:
    proxy, gold = np.array(proxy, float), np.array(gold, float)
    return Looked(proxy, gold, np.full_like(proxy, 0.25), proxy * 0 + 3, proxy * 0 + 1)


def test_best_of_n_is_the_mean_over_all_choices_of_n() -> None:
    rng = np.random.default_rng(0)
    made = looked(rng.normal(size=(5, 6)), rng.normal(size=(5, 6)))
    rows = best_of_n(made)
    assert [row["n"] for row in rows] == [1, 2, 4]
    for row in rows:
        by_hand = [[gold[max(chosen, key=lambda i: proxy[i])]
                    for chosen in itertools.combinations(range(6), row["n"])]
                   for proxy, gold in zip(made.proxy, made.gold, strict=True)]
        assert row["gold"] == pytest.approx(float(np.mean([np.mean(h) for h in by_hand])))
    assert rows[0]["kl"] == 0
    assert rows[2]["kl"] == pytest.approx(math.log(4) - 0.75)


def test_figures_and_intervals_over_prompts() -> None:
    gold = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    row = figures(looked(np.zeros((4, 2)), gold))
    half = 1.959964 * np.std([0.5, 1, 0, 0.5], ddof=1) / 2
    assert (row["gold"], row["gold_low"]) == (0.5, pytest.approx(0.5 - half))
    assert row["gold_high"] == pytest.approx(0.5 + half)
    assert (row["kl"], row["kl_root"]) == (0.25, 0.5)
    rng = np.random.default_rng(1)  # 95% of intervals hold the truth
    held = [interval(rng.normal(size=(40, 1)) + rng.normal(size=(40, 3))) for _ in range(2000)]
    assert 0.92 < np.mean([low < 0 < high for _, low, high in held]) < 0.97


def test_the_turn_of_a_curve() -> None:
    rows = [{"step": s, "kl": float(s), "gold": g, "gold_high": g + 0.03, "gold_low": g - 0.03,
             "proxy": p} for s, g, p in ((0, 0.5, 0.0), (1, 0.7, 1.0), (2, 0.4, 2.0))]
    found = turn(rows)
    assert (found["step"], found["kl"]) == (1, 1.0)
    assert found["gain"] == pytest.approx(0.2)
    assert found["loss"] == pytest.approx(0.3)
    assert found["loss_high"] - found["loss"] == pytest.approx(0.03 * math.sqrt(2))
    assert found["proxy_rise"] == 1.0


def test_the_picture_is_a_png_with_every_curve() -> None:
    row = figures(looked(np.zeros((4, 2)), np.ones((4, 2))))
    plain = draw_overoptimisation({"one": [row, {**row, "kl_root": 1.0}]},
                                  "a title with $two$ dollars")
    full = draw_overoptimisation({"one": [row], "other": [row]}, "t", budget=4.0,
                                 best_of=[{**row, "n": 1}])
    for data in (plain, full):
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(data) > 10_000
