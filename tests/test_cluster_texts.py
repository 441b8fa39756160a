"""Completions on a cluster: those of one process, however they are cut and whoever dies."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
pytest.importorskip("ray", reason='pip install -e ".[ray]"')

from farm_here import Here, commands_get
from given_llm import TASK
from script import load

from selfplay.cli import cli
from selfplay.cluster.texts import RayGenerator, text_engine
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.learn.config import algorithm
from selfplay.llm.embedded import character_tokenizer, small_model
from selfplay.llm.folder import no_engine, open_learner
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import save_model
from selfplay.llm.rl import RewardedTask
from selfplay.llm.stage_config import TextRLConfig
from selfplay.llm.tasks.task import make_task

ROWS = [[5, 6, 7], [8, 9, 10, 11, 12], [5, 6, 7], [30], [8, 9]]


@pytest.mark.parametrize("alive", [1, 3, 9])
def test_completions_are_those_of_one_process(alive: int) -> None:
    """To the bit: tokens, ends and padding, with the same prompt twice; new weights as well."""
    model = small_model("1x32", character_tokenizer(), 0).eval()
    farm: Any = Here(alive, late=True)
    farm.alive = alive
    ends = tuple(range(20, 40))
    away, here = RayGenerator(farm, ends, 0, model), TorchGenerator(model, ends, 0)
    for how in (Sampling(max_new_tokens=6), Sampling(temperature=0.0, max_new_tokens=4)):
        one, other = away(ROWS, 3, how, 7), here(ROWS, 3, how, 7)
        for name in ("action", "mask", "ended", "prompt"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        torch.testing.assert_close(one.logp, other.logp, atol=1e-5, rtol=1e-5)
    assert farm.puts == 1, "the model once a version"
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    how = Sampling(max_new_tokens=6)
    assert not torch.equal(here(ROWS, 3, how, 7).action, away(ROWS, 3, how, 7).action)
    away.refresh(model)
    assert torch.equal(here(ROWS, 3, how, 7).action, away(ROWS, 3, how, 7).action)
    assert farm.puts == 2 and away.figures() == {"actors": alive, "restarts": 0}


def test_without_an_actor_for_long_it_is_said_what_to_start(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("1x32", character_tokenizer(), 0).eval()
    farm: Any = Here(1)
    farm.alive, farm.poll = 0, lambda seconds: []
    monkeypatch.setattr("selfplay.cluster.texts.ALONE", 0.01)
    with pytest.raises(UserError, match=r"no actor has been there .*ray start --address"):
        RayGenerator(farm, (20,), 0, model)(ROWS, 1, Sampling(max_new_tokens=2), 7)


def learnt(folder: Path, model: str, farm: Any, staleness: int = 0) -> list[dict[str, float]]:
    """The rows of a few steps of GRPO."""
    config = TextRLConfig(prompts=2, group=4, steps=3, evaluate_every=3, evaluate_prompts=4,
                          checkpoint_every=100)
    learner, _ = open_learner(
        RewardedTask(make_task(TASK, style="short")), model, folder, config,
        algorithm("grpo", learning_rate=1e-2), sampling=Sampling(max_new_tokens=6), seed=2,
        staleness=staleness, engine=text_engine(farm) if farm is not None else no_engine)
    return list(learner.rows())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = character_tokenizer()
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_model("1x32", tokenizer, 0), tokenizer)
    return str(folder)


def test_in_turn_the_rewards_are_those_of_one_process(tmp_path: Path, model: str) -> None:
    alone = learnt(tmp_path / "alone", model, None)
    for name, seed in (("one", 1), ("other", 2)):
        rows = learnt(tmp_path / name, model, Here(seed, late=True))
        assert [row["reward"] for row in rows] == [row["reward"] for row in alone]
        assert [row["tokens"] for row in rows] == [row["tokens"] for row in alone]
        assert rows[-1]["sampled_accuracy"] == alone[-1]["sampled_accuracy"]
        assert rows[-1]["policy_loss"] == pytest.approx(alone[-1]["policy_loss"], abs=1e-4)
        assert rows[0]["actors"] == 2


def test_ahead_the_answers_are_one_step_old(tmp_path: Path, model: str) -> None:
    rows = learnt(tmp_path / "a", model, Here(1), staleness=1)
    assert [row["staleness"] for row in rows] == [0, 1, 1]
    again = learnt(tmp_path / "b", model, Here(7, late=True), staleness=1)
    assert [row["reward"] for row in rows] == [row["reward"] for row in again]


def test_the_benchmark_has_the_same_run_three_ways(tmp_path: Path, model: str) -> None:
    bench, found = load("bench_texts"), []
    words = Namespace(prompts=2, group=2, tokens=4)
    for way in bench.WAYS:
        learner = bench.learner_of(way, model, tmp_path, Here(1), words)
        found.append(bench.measured(learner, 0.0))
        assert len(found[-1][0]) == bench.STEPS + 1 and found[-1][1] > 0
    alone, turn, ahead = ([row["reward"] for row in rows] for rows, _ in found)
    assert alone == turn
    assert [row["staleness"] for row in found[2][0]] == [0, 1, 1, 1] and len(ahead) == 4


def test_the_command_lets_actors_write(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --ray, and without it again in its own process."""
    commands_get(farm := Here(0), monkeypatch)
    words = ["llm", "train", "--run", str(tmp_path / "run")]
    more = [f"--set={setting}" for setting in (
        "rl.steps=1", "rl.prompts=2", "rl.group=2", "rl.evaluate_prompts=2", "eval.samples=1",
        "sample.max_new_tokens=4", "sample.max_staleness=1", "data.held_out=4")]
    said = CliRunner().invoke(cli, [*words, "--model", model, "--task", TASK, "--recipe", "rl",
                                    "--ray", "local", *more])
    assert said.exit_code == 0, said.output
    assert farm.made and read_history(tmp_path / "run/rl/history.jsonl")[0]["actors"] == 2
    made = len(farm.made)
    said = CliRunner().invoke(cli, [*words, "--set=rl.steps=2"])
    assert said.exit_code == 0, said.output
    assert len(read_history(tmp_path / "run/rl/history.jsonl")) == 2 and len(farm.made) == made
    said = CliRunner().invoke(cli, [*words, "--ray", "local", "--set=sample.engine=torch"])
    assert "--ray: its actors write the completions, not sample.engine=torch" in str(said.exception)
