"""A vLLM server as the generator: what it is asked, that it has the new weights, answers asked for
ahead of their learning, and servers that are not what they should be.

The server is a stand-in (``fake_vllm_server``) behind real HTTP; no GPU has run any of this.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

import fake_vllm
import fake_vllm_server
import torch
from given_llm import SHORT, TASK, odd, saved

from selfplay.common.errors import Absent, UserError
from selfplay.learn.advantages import sampler_figures
from selfplay.learn.config import algorithm
from selfplay.llm.config import TextConfig, fixed, override
from selfplay.llm.engines import choose
from selfplay.llm.engines.ahead import Ahead
from selfplay.llm.engines.server import link_to
from selfplay.llm.folder import open_learner
from selfplay.llm.generate import Sampling
from selfplay.llm.models import plain_weights
from selfplay.llm.rl import RewardedTask, TextLearner
from selfplay.llm.stage_config import SampleConfig, TextRLConfig
from selfplay.llm.tasks.task import make_task
from selfplay.run.keep import Kept

ROWS = [[5, 6, 7], [8, 9, 10, 11, 12], [5, 6, 7], [30]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("models") / "qwen2", "qwen2"))


@pytest.fixture
def server(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fake_vllm_server.installed(monkeypatch)
    monkeypatch.setattr("selfplay.llm.policy.parts_of", odd)
    monkeypatch.setattr("selfplay.llm.engines.server.PROBED", 4)
    link_to.cache_clear()
    running = fake_vllm_server.Running(folder)
    yield running
    running.close()


def sample(url: str, **changes: Any) -> SampleConfig:
    return replace(SampleConfig(engine="vllm-server", dtype="float32", url=url), **changes)


def opened(
    folder: str, path: Path, sample: SampleConfig, staleness: int = 0, steps: int = 3,
    **changes: Any,
) -> tuple[TextLearner, Kept]:
    config = TextRLConfig(prompts=2, group=2, steps=steps, evaluate_every=2, evaluate_prompts=2,
                          checkpoint_every=100)
    return open_learner(
        RewardedTask(make_task(TASK, style="answer")), folder, path, config,
        algorithm("grpo", learning_rate=1e-2, mismatch="truncate", **changes),
        sampling=Sampling(max_new_tokens=4), seed=2, staleness=staleness,
        engine=lambda model, words: choose.engine_of(model, words, sample, folder, "cpu"))


def weights(learner: TextLearner) -> dict[str, Any]:
    return {name: w.clone() for name, w in plain_weights(learner.policy.net.policy)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_as_with_vllm_in_the_process(
    server: Any, folder: str, tmp_path: Path
) -> None:
    """To the bit: the same answers, the same weights at every step, the same figures."""
    inside, _ = opened(folder, tmp_path / "a", sample("", engine="vllm"))
    apart, _ = opened(folder, tmp_path / "b", sample(server.url))
    before = weights(apart)
    timed = {"handover_seconds"}
    for one, other in zip(inside.rows(), apart.rows(), strict=True):
        assert same(weights(inside), weights(apart))
        assert other["greedy_same"] == 1 and other["greedy_worse"] == 0
        assert 0 <= other["act_kl"] < 1e-6 and other["mismatch_ratio"] == pytest.approx(1, abs=1e-5)
        assert {key: other[key] for key in one if key not in timed} == one
    assert not same(before, weights(apart))
    loads = server.state.inside.loads
    assert len(loads) == 1 + 3 and loads[-1] == set(before), "all of them, after every update"
    mine = dict(server.state.inside.model.named_parameters())
    assert all(torch.equal(mine[name], w) for name, w in weights(apart).items())


def test_answers_ahead_are_of_the_weights_of_that_many_steps_ago(
    server: Any, folder: str, tmp_path: Path
) -> None:
    """Staleness 1: while a step is learnt, the next one's answers are written; they are of the
    weights before it, and the weights that come out do not depend on who was faster."""
    learner, _ = opened(folder, tmp_path / "a", sample(server.url), staleness=1)
    learning, inner = threading.Event(), learner.learn
    overlapped = []

    def learn(*words: Any) -> Any:
        found = inner(*words)
        learning.set()
        return found

    def before(number: int) -> None:
        if learner.step == 0 and server.state.inside.loads and number > probes + looked + 2:
            overlapped.append(learning.wait(10.0))  # in turn this would wait for ever

    probes, looked = 2, 4  # greedy tokens for two prompts, a look at two, sampled and greedy
    server.state.before = before
    learner.learn = learn  # type: ignore[method-assign]
    rows = list(learner.rows())
    assert overlapped and all(overlapped)
    assert [row["staleness"] for row in rows] == [0, 1, 1]
    again, _ = opened(folder, tmp_path / "b", sample(server.url), staleness=1)
    server.state.before = None
    last = list(again.rows())[-1]
    assert same(weights(learner), weights(again))
    assert last["act_kl"] > 1e-6 and last["mismatch_highest"] > 1.001, "older weights wrote it"


def test_ahead_keeps_its_order() -> None:
    """Weights and batches in the order in which they were asked for, whatever the staleness."""
    for staleness in (1, 3):
        version = [torch.tensor(0.0)]
        net = torch.nn.Linear(1, 1, bias=False)

        def hand_over(model: Any, version: list[Any] = version) -> None:
            version[0] = model.weight.item()

        net.weight.data.fill_(0.0)
        ahead = Ahead(lambda step, v=version: (step, float(v[0])), hand_over, 0, staleness)
        for step in range(6):
            stale, found = ahead.batch(step)
            assert found == (step, float(max(0, step - staleness))) and stale <= staleness
            net.weight.data.fill_(step + 1.0)
            ahead.hand_over(net, step + 1)
            net.weight.data.fill_(-1.0)  # what comes later does not reach the copy
        assert ahead.in_turn(lambda v=version: v[0]) == 6.0
        ahead.close()


def test_a_server_with_other_weights_is_found_out(
    server: Any, folder: str, tmp_path: Path
) -> None:
    learner, _ = opened(folder, tmp_path, sample(server.url), steps=9)
    rows = learner.rows()
    next(rows)
    with torch.no_grad():
        for weight in learner.policy.net.policy.parameters():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    server.state.deaf = True
    learner.policy.refresh()
    with pytest.raises(UserError, match=r"greedy tokens are not the trainer's \(one is .* nats"):
        next(rows)
    assert not server.state.paused


def test_a_server_that_dies_loses_nothing(server: Any, folder: str, tmp_path: Path) -> None:
    """In the middle of step 3: the run ends in one line with two steps kept, and goes on to the
    weights of one that was never disturbed."""
    whole, _ = opened(folder, tmp_path / "a", sample(server.url))
    list(whole.rows())
    learner, kept = opened(folder, tmp_path / "b", sample(server.url))

    def gone(number: int) -> None:
        if learner.step == 2:
            raise ConnectionError

    server.state.before = gone
    with pytest.raises(Absent, match=r"no vLLM server answers there .* the same command again"):
        kept.go_on(learner.rows())
    assert [path.name for path in (tmp_path / "b").glob("ckpt-*")] == ["ckpt-000002"]
    rows = (tmp_path / "b" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in rows] == [1, 2]
    assert "sampled_accuracy" not in json.loads(rows[1]), "the look is what was not answered"
    link_to.cache_clear()
    other = fake_vllm_server.Running(folder)  # it starts with the weights of the folder
    again, kept = opened(folder, tmp_path / "b", sample(other.url))
    kept.go_on(again.rows())
    other.close()
    assert again.step == 3 and same(weights(again), weights(whole))


def test_a_run_with_it(server: Any, folder: str, run: Command) -> None:
    """RL asks ahead; evaluation asks as well; torch may go on."""
    words = ("llm", "train", "--task", TASK, "--model", folder, "--run", "a", "--recipe", "rl",
             *SHORT, "--set", "rl.steps=2", "--set", "data.held_out=2", "--set", "eval.samples=1",
             "--set", "sample.dtype=float32")
    here = ("--set", "sample.engine=vllm-server", "--set", f"sample.url={server.url}/v1",
            "--set", "sample.max_staleness=1")
    done = run(*words, *here)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("a/rl/history.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows] == [0, 1]
    assert json.loads(Path("a/evaluation.json").read_bytes())["engine"] == "vllm-server"
    assert json.loads(Path("a/config.json").read_bytes())["pg"]["mismatch"] == "truncate"
    asked = server.state.asked
    assert run(*words, "--set", "sample.engine=torch", "--set", "sample.url=", "--set",
               "sample.max_staleness=0").code == 0
    assert server.state.asked == asked


def test_servers_that_are_none(
    server: Any, folder: str, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("llm", "train", "--task", TASK, "--model", folder, "--run", "a", "--recipe", "rl",
             "--set", "sample.engine=vllm-server")
    run(*words).mistake("sample.url", "http://localhost:8000")
    run(*words, "--set", "sample.url=localhost:8000").mistake("sample.url", "such as")
    run(*words, "--set", "sample.url=http://127.0.0.1:1").mistake("127.0.0.1:1", "no vLLM server")
    run(*words[:-1], "sample.url=http://127.0.0.1:1").mistake("sample.engine=vllm-server")
    run(*words[:-1], "sample.max_staleness=1").mistake("sample.max_staleness", "elsewhere")
    run("llm", "train", "--game", "tictactoe", "--model", folder, "--run", "a", "--set",
        "sample.engine=vllm-server", "--set", f"sample.url={server.url}", "--set",
        "sample.max_staleness=1").mistake("sample.max_staleness", "moves of a game")
    other = fake_vllm_server.Running(folder, name="someone/else")
    link_to.cache_clear()
    run(*words, "--set", f"sample.url={other.url}").mistake("serves someone/else", "vllm serve")
    other.close()
    run("llm", "train", "--task", TASK, "--run", "a", "--set", "sample.engine=vllm-server",
        "--set", f"sample.url={server.url}").mistake("--model")
    assert not Path("a").exists()


def test_what_an_engine_brings() -> None:
    """The correction, which may be taken off; and both may change between two starts."""
    config = override(TextConfig("t"), ["sample.engine=vllm-server"])
    assert config.pg.mismatch == "truncate"
    off = override(TextConfig("t"), ["pg.mismatch=ignore", "sample.engine=vllm-server"])
    assert off.pg.mismatch == "ignore"
    assert fixed(config) == fixed(off) == fixed(TextConfig("t"))


def test_figures_of_the_correction_by_hand() -> None:
    """Ratios 2, 1/2 of one trajectory; 4 of another."""
    logp = torch.tensor([[2.0, 0.5], [4.0, 9.0]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    found = {kind: sampler_figures(logp, torch.zeros(2, 2), mask, kind, 1.5)
             for kind in ("truncate", "mask", "ignore")}
    assert all(row["mismatch_ratio"] == pytest.approx(6.5 / 3) for row in found.values())
    assert all(row["mismatch_highest"] == pytest.approx(4) for row in found.values())
    assert found["truncate"]["mismatch_cut"] == pytest.approx(2 / 3)
    assert found["mask"]["mismatch_cut"] == pytest.approx(1 / 2)
    assert found["ignore"]["mismatch_cut"] == 0


def test_the_stand_in_is_strict(server: Any) -> None:
    """A start without a pause is refused, and said in one line."""
    link = link_to(server.url)
    with pytest.raises(Absent, match=r"vLLM refuses, 500 .*out of order"):
        link.server.start_weight_update()
    assert fake_vllm.STARTED == []
