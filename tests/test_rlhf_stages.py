"""Learning from preferences from the command line: the stages, their files, a second start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

from command import Command, Said
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfplay.common.files import read_json
from selfplay.common.history import read_history
from selfplay.llm.folder import newest_model
from selfplay.llm.preferences.pairs import Pair, read_pairs, to_lines
from selfplay.llm.tasks.task import make_task

#: The shorter the better, so that any sampler that ends has something to prefer.
SETTINGS = ("net=1x32", "sft.max_steps=80", "sft.evaluate_every=80", "sft.looked_at=4",
            "data.held_out=16", "sample.max_new_tokens=24", "gold.accuracy=0",
            "gold.length_cost=0.1", "pairs.count=60", "rm.epochs=2", "rlhf.prompts=4",
            "rlhf.group=2", "rlhf.steps=2",
            "rlhf.evaluate_every=1", "rlhf.held_prompts=6", "rlhf.held_samples=2",
            "rlhf.best_of=4", "eval.samples=1")


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
    before = (made / "rlhf" / "history.jsonl").read_bytes()
    said = train(run, "overoptimise", "rlhf.kl_budget=50")
    assert said.code == 0, said.err
    assert (made / "rlhf" / "history.jsonl").read_bytes() == before


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
