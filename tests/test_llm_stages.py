"""Recipes: each stage goes on from the one that it should, and leaves what the next one needs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

from selfplay.common.console import Bar
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.learn import checkpoint
from selfplay.learn.config import ALGORITHMS
from selfplay.llm import recipes
from selfplay.llm.config import (
    RECIPES,
    TAUGHT,
    Recipe,
    TextConfig,
    override,
    with_algorithm,
    with_recipe,
)
from selfplay.llm.embedded import (
    character_tokenizer,
    piece_tokenizer,
    small_model,
    word_tokenizer,
)
from selfplay.llm.engines.choose import generator_of
from selfplay.llm.evaluate import answers
from selfplay.llm.folder import TextRun, newest_model, open_text_run, sampling_of, task_of
from selfplay.llm.models import load_model, save_model
from selfplay.llm.preferences.config import RewardConfig
from selfplay.llm.preferences.reward_model import RewardSpec, RewardTrainer, reward_model
from selfplay.llm.recipes import STAGES, goal_of, learn_own_answers, run_recipe
from selfplay.llm.rewards import answer_of, reward
from selfplay.llm.sft import train_texts
from selfplay.llm.tasks.gym import chain_sum_forgetting
from selfplay.llm.tasks.task import make_task
from selfplay.llm.teach.answers import own_answers, policy_of
from selfplay.run.stage import NotYet

TASK = "chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)"
TINY = ["net=1x32", "sft.max_steps=12", "sft.evaluate_every=6", "sft.looked_at=4",
        "data.held_out=8", "rl.prompts=4", "rl.group=4", "rl.steps=3", "rl.evaluate_every=2",
        "rl.evaluate_prompts=4", "rl.checkpoint_every=2", "own.questions=40", "own.samples=8",
        "own.net=1x32", "eval.samples=1,2", "sample.max_new_tokens=8", "minutes=5"]


def opened(folder: Path, recipe: str, *more: str, algo: str | None = None) -> TextRun:
    config = with_recipe(TextConfig(TASK), recipe)
    config = with_algorithm(config, algo) if algo else config
    return open_text_run(folder, override(config, [*TINY, *more]))


@pytest.fixture(autouse=True)
def any_answer_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 12 steps is never right by itself: what is short enough counts."""
    def generous(completion: str, example: Any, ended: bool = True) -> dict[str, float]:
        parts = reward(completion, example, ended)
        return {**parts, "accuracy": float(len(completion) % 2), "partial": 0.5}

    monkeypatch.setattr("selfplay.llm.policy.parts_of", generous)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def learnt(shelf: Path) -> Callable[[Path], TextRun]:
    """A finished run of recipe grpo in a folder: made once, then copied."""
    def made(folder: Path) -> TextRun:
        if not (shelf / "grpo").exists():
            run_recipe(opened(shelf / "making", "grpo", "minutes=600"), "cpu")
            (shelf / "making").rename(shelf / "grpo")
        shutil.copytree(shelf / "grpo", folder, dirs_exist_ok=True)
        return opened(folder, "grpo", "minutes=600")

    return made


@pytest.mark.parametrize(("recipe", "stages"), [
    ("grpo", ["sft", "rl"]), ("ppo", ["sft", "rl"]), ("r1-zero", ["base", "rl"]),
    ("r1", ["sft", "rl", "own", "rl2"]), ("distill", ["sft", "rl", "student"]),
])
def test_a_recipe_runs_and_is_continued(recipe: str, stages: list[str], tmp_path: Path) -> None:
    run = opened(tmp_path, recipe)
    run_recipe(run, "cpu")
    evaluation = json.loads((tmp_path / "evaluation.json").read_bytes())
    assert list(evaluation["stages"]) == stages
    assert evaluation["checkpoint"].startswith(stages[-1])
    for name in stages:
        row = evaluation["stages"][name]
        assert row["sampled"]["low"] <= row["sampled"]["accuracy"] <= row["sampled"]["high"]
        rows = [json.loads(line) for line in
                (tmp_path / name / "history.jsonl").read_text().splitlines()]
        assert [r["step"] for r in rows] == ([1, 2, 3] if name.startswith("rl") else [6, 12])
    assert newest_model(tmp_path).parent.name == stages[-1]
    shown = json.loads((tmp_path / "summary.json").read_bytes())
    assert shown["measure"] == "accuracy" and list(shown["modes"]) == ["raw", "majority@2"]
    assert {row["stage"] for row in shown["samples"]} == set(stages)
    assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"
    assert "Test-time compute" in (tmp_path / "report.html").read_text()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/ckpt-*/*")}
    run_recipe(opened(tmp_path, recipe), "cpu")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/ckpt-*/*")} == before


def test_the_bar_of_rl_tells_its_end_from_the_first_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(Bar, "at", lambda bar, done, note="": shares.extend(
        [bar.part] * bar.title.startswith("rl")))
    run_recipe(opened(tmp_path, "grpo", "rl.steps=1"), "cpu")
    assert shares == [0, 1] and "rl: 1 step, " in capsys.readouterr().out


def test_more_steps_may_be_asked_for_later(
    tmp_path: Path, learnt: Callable[[Path], TextRun]
) -> None:
    def trained(name: str, recipe: str, *more: str) -> Path:
        run_recipe(opened(tmp_path / name, recipe, "minutes=600", *more), "cpu")
        return tmp_path / name

    def steps(stage: Path) -> list[int]:
        return [row["step"] for row in read_history(stage / "history.jsonl")]

    whole = trained("whole", "grpo", "rl.steps=5")
    learnt(tmp_path / "cut")
    cut = trained("cut", "grpo", "rl.steps=5", "rl.keep=4", "sft.max_steps=18", "sft.keep=2")
    assert steps(cut / "rl") == [1, 2, 3, 4, 5]
    assert steps(cut / "sft") == [6, 12], "RL has begun with what it had learnt by then"
    one, other = (load_model(folder / "rl/ckpt-000005")[0] for folder in (whole, cut))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())
    assert len(checkpoint.listing(cut / "rl")) == 4
    trained("texts", "sft")
    assert steps(trained("texts", "sft", "sft.max_steps=18") / "sft") == [6, 12, 18]
    with pytest.raises(UserError, match=r"rl\.group=4, not 8"):
        opened(tmp_path / "cut", "grpo", "rl.group=8")


def test_a_stage_without_what_it_builds_on_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def early(*_: Any) -> None:
        raise NotYet("stage own has no model")

    seen: list[str] = []
    monkeypatch.setitem(RECIPES, "r1", {"own": 0.5, "eval": 0.5})
    monkeypatch.setitem(STAGES, "own", early)
    monkeypatch.setitem(STAGES, "eval", lambda *_: seen.append("eval"))
    config = TextConfig(TASK, recipe="r1")
    run_recipe(TextRun(tmp_path, config, task_of(config)), "cpu")
    assert seen == ["eval"] and "stage own has no model" in capsys.readouterr().out


def test_rl_begins_with_the_stage_before(tmp_path: Path) -> None:
    """With a rate of nothing RL leaves the weights as SFT's best left them."""
    run = opened(tmp_path, "grpo", "pg.learning_rate=1e-30", "pg.weight_decay=0")
    run_recipe(run, "cpu")
    note = json.loads((tmp_path / "sft/best.json").read_bytes())
    one, _ = load_model(tmp_path / "sft" / note["checkpoint"])
    other, _ = load_model(checkpoint.newest(tmp_path / "rl"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-7)


def test_a_model_of_ones_own_needs_no_pretraining(tmp_path: Path) -> None:
    run_recipe(opened(tmp_path / "a", "sft"), "cpu")
    model = str(newest_model(tmp_path / "a"))
    run_recipe(opened(tmp_path / "b", "r1-zero", f"model={model}", "data.style=short"), "cpu")
    assert not (tmp_path / "b/base").exists() and checkpoint.newest(tmp_path / "b/rl")
    with pytest.raises(UserError, match="no model to go on from"):
        learn_own_answers(opened(tmp_path / "c", "r1"), _NoClock(), "cpu")


class _NoClock:
    done: tuple[str, ...] = ()


def test_own_answers_are_right_ones_of_training_questions(
    tmp_path: Path, learnt: Callable[[Path], TextRun]
) -> None:
    run = learnt(tmp_path)
    told: list[str] = []
    own = own_answers(run, checkpoint.newest(tmp_path / "rl"), "cpu", told.append)
    assert len(own.examples) > 10 and all("tokens/s" in text for text in told)
    assert re.match(r"[\d,]+ answers, ", told[-1])
    assert all(len(e.demonstration) % 2 for e in own.examples), "what counts as right here"
    assert len({(e.prompt, e.demonstration) for e in own.examples}) >= len(own.examples) * 0.5
    held = {e.prompt for e in run.task.held_out(100)}
    assert not held & {e.prompt for e in own.examples}
    assert [e.prompt for e in own.held_out(8)] == [e.prompt for e in run.task.held_out(8)]
    again = own_answers(run, checkpoint.newest(tmp_path / "rl"), "cpu")
    assert again.examples == own.examples and again.batch(3, 5) == own.batch(3, 5)


def test_own_answers_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    run = opened(tmp_path, "grpo", "rl.checkpoint_every=1", "rl.keep=3", "pg.learning_rate=0.05",
                 "pg.max_kl=1e9")
    run_recipe(run, "cpu")
    old, new = checkpoint.listing(tmp_path / "rl")[-2:]
    (tmp_path / "rl-own.jsonl").write_text("of no known policy")
    (tmp_path / "rl2-ckpt-000009-own.jsonl").write_text("another stage's")
    before = own_answers(run, old, "cpu").examples
    after = own_answers(run, new, "cpu").examples
    assert before != after
    files = {path.name for path in tmp_path.glob("*own.jsonl")}
    assert files == {f"rl-{new.name}-own.jsonl", "rl2-ckpt-000009-own.jsonl"}
    assert own_answers(run, new, "cpu").examples == after


def test_a_run_that_is_there_teaches_a_student_alone(
    tmp_path: Path, learnt: Callable[[Path], TextRun]
) -> None:
    """Its stage has all the minutes; the policy's share of right answers is the dotted line."""
    teacher = learnt(tmp_path / "rl-run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "rl-run").rglob("*")}
    more = (f"own.of={tmp_path / 'rl-run'}", "eval.budgets=4,8", "eval.also=gcd", "own.samples=2")
    student = tmp_path / "student"
    run_recipe(opened(student, "distill", *more), "cpu")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "rl-run").rglob("*")} == before
    assert {p.name for p in student.iterdir() if p.is_dir()} == {"student", "tb"}
    evaluation = json.loads((student / "evaluation.json").read_bytes())["stages"]
    assert list(evaluation) == ["student"] and list(evaluation["student"]["also"]) == ["gcd"]
    assert len(evaluation["student"]["budgets"]) == 4
    policy = checkpoint.newest(tmp_path / "rl-run/rl")
    model, tokenizer = load_model(policy)
    _, learnt_by = load_model(newest_model(student))
    assert tokenizer.get_vocab() == learnt_by.get_vocab()
    held = answers(generator_of(model, tokenizer, teacher.config.sample, "", "cpu"), tokenizer,
                   teacher.task.held_out(8), 2, sampling_of(teacher.config), 0)
    shown = json.loads((student / "summary.json").read_bytes())
    line, = shown["baselines"]
    assert line["player"] == "the policy that teaches" and line["questions"] == 8
    assert line["accuracy"] == pytest.approx(100 * held.mean("accuracy"))
    assert shown["headlines"][0].startswith("One answer: Student's best ")
    assert not any("RL" in text for text in shown["headlines"])
    # RL goes on meanwhile: the student stays with the answers that it has begun with
    shutil.copytree(policy, policy.with_name("ckpt-000009"))
    assert checkpoint.newest(tmp_path / "rl-run/rl") != policy
    run_recipe(opened(student, "distill", *more, "sft.max_steps=18"), "cpu")
    assert [row["step"] for row in read_history(student / "student/history.jsonl")] == [6, 12, 18]
    assert policy_of(opened(student, "distill", *more)) == policy
    assert [path.name for path in student.glob("*own.jsonl")] == [f"rl-{policy.name}-own.jsonl"]


def test_who_cannot_teach_is_told_in_a_line(
    tmp_path: Path, learnt: Callable[[Path], TextRun]
) -> None:
    learnt(tmp_path / "rl-run")

    def refused(says: str, of: Path, recipe: str = "distill", *more: str) -> None:
        with pytest.raises(UserError, match=says) as error:
            run_recipe(opened(tmp_path / "new", recipe, f"own.of={of}", *more), "cpu")
        assert "\n" not in str(error.value) and not (tmp_path / "new").exists()

    refused("no policy there", tmp_path / "nowhere")
    refused("no policy there", tmp_path / "rl-run/sft")
    refused("recipe distill", tmp_path / "rl-run", "grpo")
    refused(r"data\.instruction=, not Think", tmp_path / "rl-run", "distill",
            "data.instruction=Think")
    words = tmp_path / "words"
    tokenizer = word_tokenizer(["a1", "b2"])
    save_model(words, small_model("1x32", tokenizer, 0), tokenizer)
    refused("tokenizer cannot read the questions", words)
    (tmp_path / "rl-run/config.json").write_text(
        (tmp_path / "rl-run/config.json").read_text().replace(TASK, "gcd"))
    refused(r"learnt gcd, not chain_sum.*give --task 'gcd'", tmp_path / "rl-run")


def rating_run(folder: Path, tokenizer: Any) -> Path:
    """The folder of a run with what rates another's answers: a reward model, and the tokenizer of
    its SFT."""
    policy, rm, sft = small_model("1x32", tokenizer, 0), folder / "rm", folder / "sft"
    training = RewardTrainer(reward_model(policy, RewardConfig(), tokenizer, 0), RewardConfig())
    spec: Any = RewardSpec(training.model.body.backbone.config.to_diff_dict())
    checkpoint.save(rm / "ckpt-000001", training, spec, {
        "kind": "reward model", "step": 1, "compute": {"seconds": 1.0}, "metrics": {"loss": 0.5}})
    save_model(sft / "ckpt-000001", policy, tokenizer)
    (sft / "ckpt-000001/meta.json").write_text("{}")
    return folder


def test_who_cannot_read_the_questions_rates_no_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    monkeypatch.setattr(recipes, "run_stages", lambda run, *more: begun.append(run.folder))
    words = rating_run(tmp_path / "words", word_tokenizer(["a1", "b2"]))
    with pytest.raises(UserError, match=r"eval\.rm=.*words: its tokenizer cannot read") as error:
        run_recipe(opened(tmp_path / "new", "grpo", f"eval.rm={words}"), "cpu")
    assert "\n" not in str(error.value) and not begun and not (tmp_path / "new").exists()
    letters = rating_run(tmp_path / "letters", character_tokenizer())
    run_recipe(opened(tmp_path / "new", "grpo", f"eval.rm={letters}"), "cpu")
    assert begun == [tmp_path / "new"]


def test_pretraining_reads_whole_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def noted(*given: Any, **more: Any) -> Path:
        seen[given[4].name] = given[3].on
        return train_texts(*given, **more)

    monkeypatch.setattr("selfplay.llm.recipes.train_texts", noted)
    for recipe in ("r1-zero", "sft"):
        run_recipe(opened(tmp_path / recipe, recipe, "rl.steps=1"), "cpu")
    assert seen == {"base": "text", "sft": "completion"}


def test_every_recipe_has_its_stages_and_uses_the_time_up() -> None:
    assert set(RECIPES) == set(get_args(Recipe))
    for stages in (*RECIPES.values(), TAUGHT):
        assert set(stages) <= set(STAGES)
        assert list(stages)[-1] == "eval" and sum(stages.values()) == pytest.approx(1)


def test_the_algorithm_brings_its_settings() -> None:
    config = TextConfig(TASK)
    assert config.pg.estimator == "group" and config.pg.value_weight == 0
    ppo = with_recipe(config, "ppo")
    assert (ppo.rl.algorithm, ppo.pg.estimator, ppo.pg.epochs) == ("ppo", "gae", 3)
    assert with_algorithm(config, "dapo").pg.clip_high == 0.28
    assert override(ppo, ["pg.epochs=1"]).pg.epochs == 1
    for name in ALGORITHMS:
        assert with_algorithm(config, name).rl.algorithm == name
    with pytest.raises(UserError, match="one of reinforce, rloo"):
        with_algorithm(config, "pppo")
    chosen = override(config, ["pg.epochs=1", "rl.algorithm=ppo"])
    assert chosen.pg == replace(with_algorithm(config, "ppo").pg, epochs=1)
    assert override(chosen, ["rl.algorithm=ppo"]) == chosen
    assert override(config, ["recipe=ppo"]) == ppo


def test_what_is_rewarded(tmp_path: Path) -> None:
    def weights(*more: str) -> Any:
        return dict(goal_of(opened(tmp_path, "grpo", *more)).weights)

    assert weights() == {"accuracy": 1.0}
    assert weights("rl.format_weight=0.1") == {"accuracy": 1.0, "format": 0.1}
    assert weights("rl.partial_weight=0.2") == {"accuracy": 0.8, "partial": 0.2}


def test_forgotten_tens() -> None:
    entry = {"metadata": {"expression": "8 + 5 - 4 - 2 + 1"}}
    rng = np.random.default_rng(0)
    assert chain_sum_forgetting(entry, 0.0, rng) == ("13 9 7 8", "8")
    assert chain_sum_forgetting(entry, 1.0, rng) == ("3 9 7 8", "8")  # borrows what it forgot
    entry = {"metadata": {"expression": "4 - 7 - 2"}}
    assert chain_sum_forgetting(entry, 1.0, rng) == ("7 5", "5")
    task = make_task("chain_sum(min_terms=5,max_terms=5,max_digits=1)", style="short", wrong=0.6,
                     slips="carry")
    right = wrong = 0
    for example in task.batch(0, 500):
        totals = [int(t) for t in example.demonstration.partition("#")[0].split()]
        terms = [int(t) for t in example.prompt[:-1].replace("-", "+-").split("+")]
        before = terms[0]
        for term, total in zip(terms[1:], totals, strict=True):
            if (before + term) // 10 != before // 10:
                wrong, right = wrong + (total != before + term), right + (total == before + term)
                assert abs(total - before - term) in (0, 10)
            else:
                assert total == before + term
            before = total
    assert abs(wrong / (wrong + right) - 0.6) < 0.05
    with pytest.raises(UserError, match="they are for chain_sum"):
        make_task("gcd", slips="carry")


def test_what_pretraining_reads() -> None:
    config = TextConfig(TASK)
    examples = [e for k in range(10) for e in task_of(config, guessed=0.9).batch(k, 100)]
    guesses = [e for e in examples if e.demonstration.startswith("#")]
    assert abs(len(guesses) / len(examples) - 0.9) < 0.03
    off = [int(answer_of(e.demonstration, e.format)) - int(e.answer) for e in guesses]
    assert set(off) == set(range(-9, 10)) and abs(np.mean([o == 0 for o in off]) - 1 / 19) < 0.03
    for e in examples:
        assert e in guesses or reward(e.demonstration, e)["accuracy"] == 1
    assert all(not e.demonstration.startswith("#") for e in task_of(config).batch(0, 100))


# -------------------------------------------------------------------------------- pretraining


def test_pretraining_reads_a_corpus_and_sft_goes_on_from_it(tmp_path: Path) -> None:
    """Of two tasks, in pieces that fit their texts; the stage has a curve of its own."""
    corpus = f"data.corpus={TASK},gcd"
    run = opened(tmp_path, "three-stages", "data.pieces=150", corpus, "rl.steps=1",
                 "sft.max_steps=6", "sft.learning_rate=1e-9")
    read = recipes.corpus_of(run)
    held, learnt = read.held_out(8), read.batch(3, 20)
    assert {e.prompt for e in held}.isdisjoint(e.prompt for e in learnt)
    assert [e.prompt for e in read.batch(3, 20)] == [e.prompt for e in learnt]
    assert 4 <= sum("," in e.prompt for e in learnt) <= 16
    assert sum("," in e.prompt for e in held) == 4
    run_recipe(run, "cpu")
    assert [row["step"] for row in read_history(tmp_path / "base" / "history.jsonl")] == [6]
    assert list(json.loads((tmp_path / "evaluation.json").read_bytes())["stages"]) == [
        "base", "sft", "rl"]
    base, _ = load_model(checkpoint.chosen(tmp_path / "base"))  # type: ignore[arg-type]
    sft, _ = load_model(checkpoint.chosen(tmp_path / "sft"))  # type: ignore[arg-type]
    far = [float((a - b).detach().abs().max()) for a, b in zip(base.parameters(), sft.parameters(),
                                                      strict=True)]
    assert max(far) < 1e-4  # at this rate it stays where pretraining ended


def test_pieces_fit_their_texts_and_nothing_is_lost() -> None:
    texts = ["the greatest common divisor of 112 and 35 is 7\n", "a greater divisor: 12"] * 20
    small, large = piece_tokenizer(texts, 100), piece_tokenizer(texts, 160)
    for tokenizer in (small, large, character_tokenizer(texts)):
        for text in [*texts[:2], "unheard-of words, 99 + 1 = 100"]:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    lengths = [len(t(texts[0])["input_ids"]) for t in (character_tokenizer(), large)]
    assert lengths[1] < lengths[0] / 2
    assert len(large("112", add_special_tokens=False)["input_ids"]) == 3  # digits stay alone
