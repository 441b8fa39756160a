"""Learning from preferences from the command line: the stages, their files, a second start."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

from command import Command, Said
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.llm.evaluate import Answers
from selfplay.llm.folder import best_checkpoint, newest_model, stored_text_config
from selfplay.llm.models import load_tokenizer
from selfplay.llm.preferences.pairs import Pair, read_pairs, to_lines
from selfplay.llm.preferences.reward_model import by_reward, load_reward_model, read_texts
from selfplay.llm.tasks.task import make_task

#: The shorter the better, so that any sampler that ends has something to prefer.
SETTINGS = ("net=1x32", "sft.max_steps=80", "sft.evaluate_every=80", "sft.looked_at=4",
            "data.held_out=16", "sample.max_new_tokens=24", "gold.accuracy=0",
            "gold.length_cost=0.1", "pairs.count=60", "rm.epochs=2", "rlhf.prompts=4",
            "rlhf.group=2", "rlhf.steps=2",
            "rlhf.evaluate_every=1", "rlhf.held_prompts=6", "rlhf.held_samples=2",
            "rlhf.best_of=4", "eval.samples=1,2")


def train(run: Command, recipe: str, *settings: str) -> Said:
    return run("llm", "train", "--task", "chain_sum(min_terms=2,max_terms=2,max_digits=1)",
               "--recipe", recipe, "--run", "made", "--device", "cpu", "--minutes", "5",
               *(word for s in (*SETTINGS, *settings) for word in ("--set", s)))


def test_the_recipe_leaves_what_it_promises_and_starts_twice(run: Command) -> None:
    said = train(run, "overoptimise", "rlhf.kl_budget=50")
    assert said.code == 0, said.err
    made = Path("made")
    assert len(read_pairs(made / "rm" / "pairs.jsonl")) == 60
    for title in ("pairs", "free", "rlhf"):  # how fast answers come
        assert re.search(rf"^{title} +\d+%.* [\d,]+ tokens/s", said.out, re.MULTILINE), title
    for stage in ("free", "rlhf"):
        rows = read_history(made / stage / "history.jsonl")
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert all(row["gold_low"] <= row["gold"] <= row["gold_high"] for row in rows)
        assert (made / stage / read_json(made / stage / "best.json")["checkpoint"]).is_dir()
    assert [row["n"] for row in read_json(made / "rm" / "best_of_n.json")] == [1, 2, 4]
    assert (made / "overoptimisation.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(made / "tb")).Reload()
    assert [e.step for e in events.Scalars("rlhf/gold")] == [0, 1, 2]
    assert {"rm/accuracy", "free/proxy", "rlhf/kl"} <= set(events.Tags()["scalars"])
    assert {"rlhf/train/reward_proxy", "rlhf/train/length", "rlhf/train/no_signal",
            "rlhf/train/markers"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Tensors("rlhf/completions/text_summary")] == [0, 1, 2]
    assert {row["step"] for row in read_history(made / "rlhf" / "samples.jsonl")} == {0, 1, 2}
    assert newest_model(made).parent.name == "rlhf"
    judged_by_its_own(made)
    before = (made / "rlhf" / "history.jsonl").read_bytes()
    said = train(run, "overoptimise", "rlhf.kl_budget=50")
    assert said.code == 0, said.err
    assert (made / "rlhf" / "history.jsonl").read_bytes() == before
    made.rename("judge")
    judges_another_run(run)


def judged_by_its_own(made: Path) -> None:
    """The best of k by the run's reward model is in figures, table and summary, of each stage."""
    stages = read_json(made / "evaluation.json")["stages"]
    assert list(stages) == ["sft", "free", "rlhf"]
    for row in stages.values():
        assert row["rm"] == f"rm/{read_json(made / 'rm' / 'best.json')['checkpoint']}"
        assert list(row["best"]) == ["1", "2"]
        assert row["best"]["1"] == pytest.approx(row["pass"]["1"])
        assert row["best"]["2"] <= row["pass"]["2"] + 1e-9
    for row in read_json(made / "summary.json")["samples"]:
        assert row["best"] == pytest.approx(100 * stages[row["stage"]]["best"][str(row["k"])])
        assert row["best_low"] <= row["best"] <= row["best_high"]
    assert "best by reward (%)" in (made / "report.html").read_text()


def judges_another_run(run: Command) -> None:
    """Its rewards there are those that it gives each text alone."""
    train(run, "sft", "sft.max_steps=6", "eval.rm=nowhere").mistake("eval.rm=nowhere", "rlhf")
    run("llm", "train", "--game", "tictactoe", "--recipe", "sft", "--run", "made",
        "--set", "eval.rm=judge").mistake("eval.rm=judge", "--game")
    assert not Path("made").exists()
    said = train(run, "sft", "sft.max_steps=6", "eval.rm=judge")
    assert said.code == 0 and "by reward" in said.out, said.err
    rm = best_checkpoint(Path("judge/rm"))
    assert read_json(Path("made/evaluation.json"))["rm"] == str(rm)
    config = stored_text_config(Path("made"))
    assert config is not None
    rate = by_reward(Path("made"), config)
    assert rate is not None
    asked = make_task(config.task, style="short").held_out(2)
    texts, ends = [["#1", "#1"], ["#2", "12 #3"]], [[True, False], [True, True]]
    parts = [[{"ended": float(end)} for end in row] for row in ends]
    found = rate(Answers(asked, texts, parts, 1.0))
    model, (tokenizer, _) = load_reward_model(rm)[0], load_tokenizer(best_checkpoint(
        Path("judge/sft")))
    alone = [[float(model.score(read_texts(tokenizer, [asked[i]], [texts[i][j]], [ends[i][j]])))
              for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert found[0][0] != found[0][1], "one that was cut off has no end"


def test_a_users_own_pairs(run: Command) -> None:
    task = make_task("chain_sum(min_terms=2,max_terms=2,max_digits=1)", style="short")
    held = [e.prompt for e in task.held_out(3)]
    learnt = list(dict.fromkeys(e.prompt for e in task.batch(0, 300)))[:30]
    Path("mine.jsonl").write_bytes(
        to_lines([Pair(prompt, "#1", "#23") for prompt in (*held, *learnt)]))
    said = train(run, "rlhf", "pairs.file=mine.jsonl")
    assert said.code == 0, said.err
    assert "pairs: 30 of mine.jsonl, 3 left out" in said.out + said.err
    assert [pair.prompt for pair in read_pairs(Path("made/rm/pairs.jsonl"))] == learnt
    assert read_history(Path("made/rm/history.jsonl"))[0]["pairs"] == 6


def test_bad_pairs_are_heard_of_before_anything_is_made(run: Command) -> None:
    Path("mine.jsonl").write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "q"}\n')
    train(run, "rlhf", "pairs.file=mine.jsonl").mistake("mine.jsonl, line 2: ", "'chosen'")
    assert not Path("made").exists()
