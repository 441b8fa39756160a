"""Reward functions of one's own: what they may do, and what becomes of their failures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import TOKENIZER, llama

from selfplay.common.errors import UserError
from selfplay.llm.judges.functions import Judge
from selfplay.llm.policy import (
    Completions,
    Net,
    SampledBatch,
    TextPolicy,
    judged_parts,
    sample_batch,
    verifier,
)
from selfplay.llm.rewards import Example
from selfplay.llm.stage_config import JudgeConfig

Judged = Callable[..., list[dict[str, float]]]


@pytest.fixture
def judged(tmp_path: Path) -> Any:
    """Judge texts by functions ``f``, ``g``... of a file with the body; the judge is ended."""
    made: list[Judge] = []

    def judge(body: str, texts: list[str], names: str = "f", answer: str = "",
              **config: Any) -> list[dict[str, float]]:
        (tmp_path / "mine.py").write_text(body)
        one = Judge(tuple(f"{tmp_path}/mine.py:{name}" for name in names.split()),
                    JudgeConfig(**{"seconds": 1.0, "workers": 1, **config}))
        made.append(one)
        examples = [Example(f"q{i}", answer, judge=one) for i in range(len(texts))]
        return judged_parts(Completions(texts, [True] * len(texts)), examples)

    yield judge
    for one in made:
        for talk in one.talks:
            talk.stop()


def test_names_weights_and_what_a_function_sees(judged: Judged) -> None:
    body = ("def f(completions, examples):\n"
            "    return {'same': [c == e['prompt'] for c, e in zip(completions, examples)],\n"
            "            'size': [len(c) for c in completions]}\n"
            "def g(completions, examples, bonus=1):\n    return [bonus for _ in completions]\n")
    rows = judged(body, ["q0", "q2", ""], "f g(bonus=3)", weights=("size=0.5", "g=2"))
    assert [row["earned"] for row in rows] == [1 + 1 + 6, 0 + 1 + 6, 6]
    assert [row["g"] for row in rows] == [3, 3, 3]
    assert [row["accuracy"] for row in rows] == [1, 1, 1], "1 or more is earned"
    assert all(row["failed"] == 0 for row in rows)


def test_the_answer_judges_accuracy_where_there_is_one(judged: Judged) -> None:
    rows = judged("def f(c, e): return [5.0 for _ in c]", ["#a", "#b"], answer="a")
    assert [row["accuracy"] for row in rows] == [1, 0]
    rows = judged("def f(c, e): return {'accuracy': [0, 1]}", ["#a", "#b"], answer="a")
    assert [row["accuracy"] for row in rows] == [0, 1], "the function's own word"


def test_an_async_function_and_one_that_prints(judged: Judged) -> None:
    body = ("import asyncio, sys\n"
            "async def one(c):\n    await asyncio.sleep(0.01)\n    return len(c)\n"
            "async def f(c, e):\n    print('hello'); print(sys.stdin.read(), end='')\n"
            "    return {'n': await asyncio.gather(*map(one, c))}\n")
    assert [row["n"] for row in judged(body, ["a", "bb"])] == [1, 2]


FAILING = {
    "raises": "if 'x' in t: raise ValueError('no x')\n        ",
    "hangs": "while 'x' in t: pass\n        ",
    "swallows the alarm": ("while 'x' in t:\n            try:\n                time.sleep(9)\n"
                           "            except BaseException: pass\n        "),
    "ends the process": "if 'x' in t: os._exit(3)\n        ",
    "is killed": "if 'x' in t: os.kill(os.getpid(), 9)\n        ",
    "is no number": "t = None if 'x' in t else t\n        ",
    "is NaN": "if 'x' in t:\n            out.append(float('nan')); continue\n        ",
    "is infinite": "if 'x' in t:\n            out.append(-float('inf')); continue\n        ",
    "is a text": "if 'x' in t:\n            out.append('many'); continue\n        ",
}


def failing(how: str) -> str:
    return ("import os, time\ndef f(completions, examples):\n    out = []\n"
            "    for t in completions:\n"
            f"        {FAILING[how]}out.append(None if t is None else len(t))\n"
            "    return {'n': out}\n")


@pytest.mark.parametrize("how", FAILING)
def test_a_failure_is_one_completions(
    how: str, judged: Judged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others earn what they are worth; the one gets the stated reward, and is counted."""
    monkeypatch.setattr("selfplay.llm.judges.functions.GRACE", 1.5)
    rows = judged(failing(how), ["a", "bb", "x", "cccc"], failed=-2.0, workers=2)
    assert [row["earned"] for row in rows] == [1, 2, -2, 4]
    assert [row["failed"] for row in rows] == [0, 0, 1, 0]
    assert rows[2]["n"] == 0 and rows[2]["accuracy"] == 0
    assert [row.keys() for row in rows] == [rows[0].keys()] * 4
    said = capsys.readouterr().out
    assert "1 of 4 completions could not be judged" in said and "each earns -2" in said


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_where_most_fail_the_run_stops_soon(how: str, judged: Judged) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="64 of 64 completions could not be judged") as caught:
        judged(failing(how), ["x"] * 64, seconds=0.1)
    assert time.monotonic() - start < 20
    assert "\n" not in str(caught.value) and "judge.most_failed" in str(caught.value)


@pytest.mark.parametrize(("body", "says"), [
    ("def f(c, e): return {'n': [1.0]}", r"mine.py:f: f gave 1 values of n for 3 completions"),
    ("def f(c, e): return {'n': [1.0] * 9}", r"mine.py:f: f gave 9 values of n for 3 completions"),
    ("def f(c, e): return {}", "parts none"),
    ("def f(c, e): return {'length': [1] * len(c)}", "a part called length"),
    ("def f(c, e): return None", "None returned, where lists of numbers"),
    ("def f(c, e): return {'n': 3}", "where lists of numbers"),
    ("f = 7", "a function"),
    ("def g(c, e): return []", "no f in it; it has g"),
    ("def f(c, e) return 1", "line 1: SyntaxError"),
    ("def f(c, e, k=1 / 0): return 1", "line 1: ZeroDivisionError"),
])
def test_what_no_repetition_mends_stops_with_a_line(
    body: str, says: str, judged: Judged
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        judged(body, ["a", "b", "c"])
    assert "\n" not in str(caught.value)


def test_other_names_and_two_of_a_name_stop(judged: Judged) -> None:
    body = ("def f(c, e): return {'a' if 'x' in c else 'b': [0] * len(c)}\n"
            "def g(c, e): return {'b': [0] * len(c)}\n")
    with pytest.raises(UserError, match="parts b, where a are wanted"):
        judged(body, ["x", "y"], workers=2)
    with pytest.raises(UserError, match="a part b, as another function gives"):
        judged(body, ["y"], "f g")
    with pytest.raises(UserError, match="no part 'c'; there are b"):
        judged(body, ["y"], weights=("c=1",))
    with pytest.raises(UserError, match="NAME=WEIGHT"):
        judged(body, ["y"], weights=("b",))


def test_processes_end_with_their_judge(judged: Judged, tmp_path: Path) -> None:
    body = "import os\ndef f(c, e): return {'pid': [float(os.getpid()) for _ in c]}\n"
    pids = {int(row["pid"]) for row in judged(body, ["a", "b"], workers=2)}
    assert len(pids) == 2 and os.getpid() not in pids
    one = Judge((f"{tmp_path}/mine.py:f",), JudgeConfig(workers=1))
    one.start()
    process = one.talks[0].process
    assert process is not None and process.poll() is None
    del one
    import gc

    gc.collect()
    assert process.poll() is not None


# ------------------------------------------------------------------------- what is learnt from it


def test_never_a_wrong_gradient(judged: Judged, tmp_path: Path) -> None:
    """The rewards that learning sees are those worked out here, failures included."""
    (tmp_path / "mine.py").write_text(failing("raises"))
    judge = Judge((f"{tmp_path}/mine.py:f",), JudgeConfig(workers=1, failed=0.25, most_failed=1.0))
    policy = TextPolicy(Net(llama()), (TOKENIZER.eos_token_id,), TOKENIZER.pad_token_id, group=16)
    examples = [Example(f"{n}+1=", "", judge=judge) for n in range(4)]
    batch: SampledBatch = sample_batch(policy, TOKENIZER, examples, verifier, {"earned": 1.0}, 0)
    wanted = [0.25 if "x" in text else len(text) for text in batch.completions.texts]
    assert 0.25 in wanted and len(set(wanted)) > 4
    assert torch.allclose(batch.rollout.reward.sum(1), torch.tensor(wanted))
    last = batch.rollout.mask.sum(1) - 1
    assert torch.equal(batch.rollout.reward != 0,
                       (torch.arange(batch.rollout.mask.shape[1]) == last[:, None])
                       & (torch.tensor(wanted)[:, None] != 0))


def test_a_run_with_a_function_beside_the_checker(run: Command) -> None:
    Path("mine.py").write_text(
        "import os\ndef tens(completions, examples):\n"
        "    if os.path.exists('broken'): raise RuntimeError('the judge is away')\n"
        "    return {'tens': [len(c) % 2 for c in completions]}\n")
    words = ["llm", "train", "--task", "chain_sum(min_terms=2,max_terms=2,max_digits=1)",
             "--recipe", "grpo", "--run", "r", "--reward", "mine.py:tens",
             *(word for setting in (
                 "net=1x32", "sft.max_steps=2", "sft.evaluate_every=2", "sft.looked_at=2",
                 "rl.steps=2", "rl.prompts=2", "rl.group=4", "rl.evaluate_prompts=2",
                 "rl.format_weight=0.5", "data.held_out=4", "sample.max_new_tokens=4",
                 "eval.samples=1", "judge.weights=tens=2") for word in ("--set", setting))]
    done = run(*words)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("r/rl/history.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["reward"] == pytest.approx(2 * row["reward_tens"] + 0.5 * row["reward_format"])
    Path("broken").touch()
    words[words.index("r")] = "s"
    run(*words).mistake("could not be judged", "the judge is away, mine.py line 3")
    run("llm", "train", "--task", "gcd", "--set", "judge.weights=tens=2").mistake(
        "no reward function that judge.weights would weigh")
    run("llm", "train", "--task", "gcd", "--reward", "mine.py:nothing").mistake(
        "no nothing in it; it has tens")
