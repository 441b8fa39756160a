"""Tasks: what is held out stays out, answers are reasoning-gym's, traces are worked by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

from selfplay.common.errors import UserError
from selfplay.llm.rewards import reward
from selfplay.llm.tasks.gym import chain_sum
from selfplay.llm.tasks.task import make_task

SMALL = "chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)"  # 200 questions
FIVE = "chain_sum(min_terms=5, max_terms=5, min_digits=1, max_digits=1)"


def test_no_question_that_is_held_out_is_learnt_from() -> None:
    task = make_task(SMALL, style="short", seed=3)
    held = {e.prompt for e in task.held_out(100)}
    learnt = {e.prompt for k in range(20) for e in task.batch(k, 64)}
    assert 5 < len(held) < 40
    assert not held & learnt
    assert len(held | learnt) > 190
    other = make_task(SMALL, style="short", seed=4)  # its model may be given to the first
    assert not held & {e.prompt for k in range(20) for e in other.batch(k, 64)}


def test_batches_are_those_of_their_number() -> None:
    one, other = make_task(FIVE, style="short"), make_task(FIVE, style="short")
    other.batch(0, 8)
    assert one.batch(7, 16) == other.batch(7, 16) != one.batch(8, 16)
    assert len({e.prompt for e in one.batch(7, 64)}) > 60
    assert [e.prompt for e in one.held_out(50)] == [e.prompt for e in other.held_out(50)]


@pytest.mark.parametrize("style", ["short", "marked", "answer"])
def test_demonstrations_are_right_and_well_formed(style: str) -> None:
    for example in make_task(FIVE, style=style).batch(0, 50):
        assert example.demonstration is not None
        found = reward(example.demonstration, example)
        assert (found["accuracy"], found["format"]) == (1, 1)


def test_a_trace_by_hand() -> None:
    entry = {"metadata": {"expression": "4 - 1 + 7 - 12"}}
    assert chain_sum(entry, 0.0, np.random.default_rng(0)) == ("3 10 -2", "-2")


def test_wrong_steps_are_as_many_as_asked_for_and_are_carried_along() -> None:
    """Of four steps, each wrong with probability 0.2, all are right in 0.8^4 = 41%."""
    task = make_task(FIVE, style="short", wrong=0.2)
    examples = [e for k in range(20) for e in task.batch(k, 50)]
    right = wrong = steps = 0
    for example in examples:
        chain, answer = example.demonstration.split("#")
        totals = [int(t) for t in chain.split()]
        terms = [int(t) for t in re.findall(r"[+-]?\d+", example.prompt)]
        before = [terms[0], *totals]
        slips = [total != start + term
                 for start, term, total in zip(before, terms[1:], totals, strict=False)]
        assert int(answer) == totals[-1]
        wrong, steps = wrong + sum(slips), steps + len(slips)
        right += not any(slips)
    assert steps == 4000
    assert abs(wrong / steps - 0.2) < 0.03
    assert abs(right / len(examples) - 0.8**4) < 0.06


@pytest.mark.parametrize("name", ["gcd", "countdown", "basic_arithmetic", "number_sorting",
                                  "spell_backward", "simple_equations"])
def test_data_sets_accept_their_own_answers(name: str) -> None:
    for example in make_task(name).batch(0, 5):
        text = f"<think></think><answer>{example.answer}</answer>"
        assert reward(text, example)["accuracy"] == 1
        assert reward("<think></think><answer>qq</answer>", example)["accuracy"] == 0


def test_answers_are_not_run() -> None:
    """Some data sets score by evaluating the answer as Python: such a text gets nowhere."""
    for name in ("spiral_matrix", "simple_integration", "puzzle24", "string_insertion"):
        example = make_task(name).batch(0, 1)[0]
        path = Path("/tmp/selfplay-was-run")
        attack = f"open('{path}', 'w').close()"
        assert reward(f"<answer>{attack}</answer>", example)["partial"] == 0
        assert not path.exists()


def test_a_file_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"{a}*{b}=", "answer": str(a * b), "checker": "number"}
            for a in range(10) for b in range(10)]
    rows[0]["demonstration"] = "nought#0"
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    task = make_task(str(file), style="short")
    held = {e.prompt for e in task.held_out(1000)}
    learnt = {e.prompt: e for k in range(30) for e in task.batch(k, 64)}
    assert held and not held & set(learnt) and len(held) + len(learnt) == 100
    twelve = next(e for e in learnt.values() if e.answer == "12")
    assert reward("#012", twelve)["accuracy"] == 1
    assert (held | set(learnt)) == {row["prompt"] for row in rows}


@pytest.mark.parametrize("style", ["short", "answer", "marked"])
def test_a_demonstration_of_ones_own_gets_the_form_that_is_asked_for(
    style: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    formed = {"short": "by heart#7", "marked": "by heart\n#### 7",
              "answer": "<think>by heart</think>\n<answer>7</answer>"}[style]
    rows = [{"prompt": f"{k}{i} 3+4", "answer": "7", "demonstration": shown}
            for i in range(40) for k, shown in enumerate(("3 and 4 make 7", formed))]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = {e.demonstration for e in make_task(str(file), style=style).batch(0, 400)}
    assert formed in found and len(found) == 2
    other, = found - {formed}
    assert "3 and 4 make 7" in other
    for example in make_task(str(file), style=style).batch(0, 40):
        parts = reward(example.demonstration, example)
        assert parts["accuracy"] == parts["format"] == 1


@pytest.mark.parametrize(("line", "says"), [
    ("{}", "line 2"), ("no json", "line 2"), ("[]", "line 2"),
    ('{"prompt": "a", "answer": 1, "checker": "fuzzy"}', "exact, number"),
    ('{"prompt": "a", "answer": 1, "checker": "countdown"}', "numbers and target"),
    ('{"prompt": "a", "answer": 1, "checker": "reasoning-gym", "task": "chain_sun"}', "chain_sum"),
    ('{"prompt": "a", "answer": null}', "bad.jsonl, line 2: answer null; a text or a number"),
    ('{"prompt": "a", "answer": NaN}', "line 2: answer nan; a number that is finite"),
    ('{"prompt": "a", "answer": 1e400}', "line 2: answer inf; a number that is finite"),
    ('{"prompt": "a", "answer": [1], "checker": "number"}', r"line 2: answer \[1\]; a text"),
    ('{"prompt": "a", "answer": {"b": 1}}', "line 2: answer .*; a text or a number wanted"),
    ('{"prompt": "a", "answer": "five", "checker": "number"}', 'line 2: answer "five" is no num'),
    ('{"prompt": "a", "answer": "$6", "checker": "number"}', "line 2.*; write one, or use check"),
    ('{"prompt": "a", "answer": 1, "metadata": [1, 2]}', "line 2: metadata .*an object wanted"),
])
def test_a_file_that_cannot_be_used(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "x", "answer": "y"}\n' + line)
    with pytest.raises(UserError, match=says):
        make_task(str(file))


@pytest.mark.parametrize(("spec", "says"), [
    ("chain_sun", "did you mean 'chain_sum'"), ("chain_sum(terms=3)", "min_terms"),
    ("chain_sum(min_terms)", "key=value"), ("chain_sum(min_terms=0)", "positive"),
    ("nowhere.jsonl", "cannot be read"), ("", "wanted"),
])
def test_a_task_that_is_none(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_task(spec)


def test_only_tasks_with_demonstrations_can_have_wrong_ones() -> None:
    with pytest.raises(UserError, match="chain_sum"):
        make_task("countdown", wrong=0.1)
