"""Files of questions and of pairs as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

from selfplay.common.errors import UserError
from selfplay.llm.embedded import character_tokenizer
from selfplay.llm.folder import fitting
from selfplay.llm.models import render, written
from selfplay.llm.preferences.pairs import read_pairs
from selfplay.llm.rewards import reward
from selfplay.llm.tasks.task import make_task

FILES = Path(__file__).parent / "data" / "llm"


def read(name: str):
    task = make_task(str(FILES / name))
    return task, [task.source.item(k) for k in range(task.source.count)]


@pytest.mark.parametrize("name", ["bom.jsonl", "u2028.jsonl", "messages.jsonl"])
def test_every_line_is_a_question(name: str) -> None:
    """A byte order mark is no text, and U+2028 is none of JSON's line ends."""
    task, examples = read(name)
    lines = (FILES / name).read_bytes().decode("utf-8-sig").rstrip("\n").split("\n")
    assert len(examples) == len(lines) == 100 and task.note == ""
    for example, line in zip(examples, lines, strict=True):
        asked = json.loads(line)["prompt"]
        asked = asked if isinstance(asked, str) else asked[0]["content"]
        assert example.prompt.startswith(asked)


def test_every_demonstration_of_a_question_is_kept() -> None:
    task, examples = read("many-per-question.jsonl")
    assert len(examples) == 400 and len({e.prompt for e in examples}) == 100 and not task.note
    assert len(task.held_out(50)) == len({e.prompt for e in task.held_out(50)})


def test_another_answer_to_a_question_is_counted() -> None:
    task, examples = read("same-question-other-answer.jsonl")
    assert len(examples) == 100
    assert "100 with another answer to a question than at first: left out" in task.note


def test_a_whole_number_is_answered_without_its_point() -> None:
    _, examples = read("float-answer.jsonl")
    assert examples[0].answer == "4"
    assert reward("<think></think>\n<answer>4</answer>", examples[0])["accuracy"] == 1


def test_a_json_array_and_its_damaged_item(tmp_path: Path) -> None:
    items = [{"prompt": f"{k}?", "answer": k % 2 == 0} for k in range(4)]
    (tmp_path / "x.json").write_text(json.dumps(items, indent=1))
    task = make_task(str(tmp_path / "x.json"))
    assert [task.source.item(k).answer for k in range(4)] == ["true", "false", "true", "false"]
    (tmp_path / "x.json").write_text(json.dumps([*items, 5]))
    with pytest.raises(UserError, match="item 5"):
        make_task(str(tmp_path / "x.json"))


@pytest.mark.parametrize(("line", "words"), [
    ('{"prompt": "\\ud800", "answer": "1"}', ["line 2", "half a letter"]),
    ("[" * 100_000, ["line 2", "wanted"]),
    ('{"prompt": [1, 2], "answer": "1"}', ["line 2", "wanted"]),
    ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", ["line 2", "wanted"]),
])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, words: list[str]) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "1"}\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        make_task(str(tmp_path / "x.jsonl"))
    assert all(word in str(caught.value) for word in words)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_pairs_are_read_by_lines_alike(tmp_path: Path) -> None:
    rows = [{"prompt": f"{k}\u2028?", "chosen": "a\x85b", "rejected": "b"} for k in range(3)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [pair.prompt for pair in read_pairs(tmp_path / "x.jsonl")] == [r["prompt"] for r in rows]


@pytest.mark.parametrize("spec", ["chain_sum(size=1e400)", "chain_sum(min_terms=1000000000)",
                                  "chain_sum(min_terms=50000,max_terms=50000)"])
def test_a_task_that_asks_for_too_much_is_refused_soon(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfplay.llm.tasks.gym.PATIENCE", 0.5)
    with pytest.raises(UserError) as caught:
        make_task(spec)
    assert "\n" not in str(caught.value)


def test_a_question_that_the_model_cannot_see_is_left_out_and_counted() -> None:
    task, examples = read("long-prompt.jsonl")
    longest = max(len(example.prompt) for example in examples)
    kept = fitting(task, len, longest - 1)
    assert kept.source.count == task.source.count - 1
    assert "1 questions longer than" in kept.note
    assert fitting(task, len, longest) is task
    with pytest.raises(UserError, match=r"lower --set sample\.max_new_tokens"):
        fitting(task, len, 1)


def test_marks_that_are_special_tokens_are_read_and_none_is_opened_for_the_model() -> None:
    """Some tokenizers have <think> as a token of their own, and templates that open it."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    text = "<think>1+1</think>2"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) == 6
    assert written(tokenizer, [[*tokens, tokenizer.eos_token_id, tokenizer.pad_token_id]]) == [text]
    plain = render(tokenizer, "1+1?")
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert render(tokenizer, "1+1?") == plain
