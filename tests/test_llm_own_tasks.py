"""Tasks, data and answer formats of one's own: files, columns, splits, messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import ROOT, Command

pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

from given_llm import saved, tokenizer

from selfplay.common.errors import UserError
from selfplay.llm.models import prompt_of
from selfplay.llm.rewards import FORMATS, Example, answer_of, boxed, last_number, reward
from selfplay.llm.stage_config import JudgeConfig, TaskConfig
from selfplay.llm.tasks.task import make_task

EXAMPLE = f"{ROOT}/docs/examples/backwards.py:Backwards"
GSM = [{"question": f"{n} eggs and {n}?", "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>\n#### {2 * n:,}"}
       for n in range(500, 540)]


def rows_in(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def all_of(task) -> list[Example]:
    return [task.source.item(k) for k in range(task.source.count)]


# ---------------------------------------------------------------------------------- the task


def test_the_example_of_the_docs_is_short_and_sound(run: Command) -> None:
    text = Path(EXAMPLE.partition(":")[0]).read_text()
    assert len(text.splitlines()) < 30
    done = run("llm", "check", EXAMPLE)
    assert done.code == 0, done.err
    assert "nothing else earns as much" in done.out
    task = make_task(f"{EXAMPLE}(digits=3)")
    held = task.held_out(1000)
    assert sorted(e.prompt for e in held) == [f"{n} backwards:" for n in range(500, 600)]
    learnt = [e for k in range(5) for e in task.batch(k, 64)]
    assert not {e.prompt for e in held} & {e.prompt for e in learnt}
    for example in learnt:
        assert example.answer == re.match(r"\d+", example.prompt)[0][::-1]
    assert make_task(f"{EXAMPLE}(digits=5)").batch(0, 1)[0].prompt[5] == " "
    assert task.batch(3, 8) == task.batch(3, 8)


@pytest.mark.parametrize(("body", "count"), [
    ("T = [{'prompt': str(n), 'answer': n} for n in range(40)]", 40),
    ("def T(top=30): return ({'question': str(n), 'target': n} for n in range(top))", 30),
    ("def T(n): return {'problem': str(n), 'answer': n}", 2**30),
    ("class T:\n def __iter__(self): return iter([{'prompt': str(n), 'answer': n} "
     "for n in range(25)])", 25),
])
def test_what_a_task_may_be(body: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(body)
    task = make_task(f"{tmp_path}/mine.py:T")
    assert task.source.count == count
    for example in task.batch(0, 5):
        assert example.prompt.startswith(example.answer)
        assert "<answer>" in example.prompt, "the usual form, as nothing else judges"


@pytest.mark.parametrize(("body", "says"), [
    ("T = 3", "int; an iterable of examples"),
    ("T = [{'prompt': 'a', 'answer': 1}]", "1 question; at least 2"),
    ("T = [{'prompt': 'a', 'answer': 1}, {'answer': 2}]", "example 2: .*wanted"),
    ("T = [{'prompt': 'a'}, {'prompt': 'b'}]", "example 1: .*wanted"),
    ("def T(n): raise KeyError('x')", "example 0: KeyError: 'x', mine.py line 1"),
    ("def T(n): return {'prompt': 'a'}", "example 0: .*wanted"),
    ("def T():\n yield {'prompt': 'a', 'answer': 1}\n 1 / 0",
     "after 1 examples: ZeroDivisionError.*line 3"),
    ("class T:\n def __init__(self): self.x = 1 / 0", "ZeroDivisionError.*line 2"),
    ("class T:\n reward = 5\n def __iter__(self): return iter([{'prompt': 'a'}, 'b'])",
     "a function \\(completions, examples\\)"),
    ("class T:\n weights = 5\n def __iter__(self): return iter('ab')", "weights 5"),
    ("class T:\n style = 'odd'\n def __iter__(self): return iter('ab')", "style=odd"),
    ("class T:\n def reward(self, c, e): return []\n"
     " def __iter__(self): return iter([{'prompt': 'a', 'when': {1}}, 'b'])",
     "example 1: .*not JSON serializable"),
])
def test_what_a_task_may_not_be(body: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(body)
    with pytest.raises(UserError, match=says) as caught:
        task = make_task(f"{tmp_path}/mine.py:T")
        task.judge.start()  # type: ignore[union-attr]
    assert "\n" not in str(caught.value)


def test_a_run_of_the_docs_task(run: Command) -> None:
    """The embedded model learns it; what is earned is in the history, by parts."""
    done = run("llm", "train", "--task", EXAMPLE, "--recipe", "grpo", "--run", "r",
               *(word for setting in (
                   "net=1x32", "sft.max_steps=2", "sft.evaluate_every=2", "sft.looked_at=4",
                   "rl.steps=2", "rl.prompts=2", "rl.group=4", "rl.evaluate_every=1",
                   "rl.evaluate_prompts=4", "data.held_out=8", "sample.max_new_tokens=4",
                   "eval.samples=1,2", "judge.workers=1") for word in ("--set", setting)))
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("r/rl/history.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["reward"] == pytest.approx(row["reward_right"] + 0.1 * row["reward_short"])
        assert row["reward"] == row["reward_earned"] and row["reward_failed"] == 0
    assert json.loads(Path("r/config.json").read_text())["task"] == EXAMPLE
    again = run("llm", "train", "--run", "r")
    assert again.code == 0, again.err
    run("llm", "train", "--run", "r", "--set", "judge.seconds=3").mistake("judge.seconds=10")


# ------------------------------------------------------------------------------------ its data


def test_gsm8k_with_its_own_test_split(tmp_path: Path) -> None:
    train = rows_in(tmp_path / "train.jsonl", GSM[:30])
    test = rows_in(tmp_path / "t.jsonl", GSM[25:])
    data = TaskConfig(answer_in="marked", checker="number", test=test)
    task = make_task(train, style="boxed", data=data)
    assert {e.prompt for e in task.held_out(100)} == {
        f"{n} eggs and {n}?\n{FORMATS['boxed'].instruction}" for n in range(525, 540)}
    learnt = {e.prompt: e for k in range(20) for e in task.batch(k, 64)}
    assert len(learnt) == 25, "what is tested is not learnt"
    example = next(iter(learnt.values()))
    assert "," in example.answer or len(example.answer) == 4
    assert "####" not in example.demonstration
    assert reward(example.demonstration, example)["accuracy"] == 1
    assert reward(f"so \\boxed{{{example.answer.replace(',', '')}}}", example)["accuracy"] == 1


@pytest.mark.parametrize("row", [
    {"question": "1+1?", "answer": "2"}, {"problem": "1+1?", "solution": 2.0},
    {"input": "1+1?", "target": "2"}, {"prompt": "1+1?", "completion": "2"},
    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]},
    {"prompt": [{"role": "user", "content": "1+1?"}],
     "completion": [{"role": "assistant", "content": "2"}]},
])
def test_columns_have_their_usual_names(row: dict, tmp_path: Path) -> None:
    file = rows_in(tmp_path / "x.jsonl", [row, {"prompt": "1+2?", "answer": "3"}])
    first = all_of(make_task(file))[0]
    assert (first.prompt.partition("\n")[0], first.answer) == ("1+1?", "2")


def test_columns_are_named(tmp_path: Path) -> None:
    file = rows_in(tmp_path / "x.jsonl", [
        {"Q": f"{n}?", "A": n, "prompt": "no", "why": "as is"} for n in range(3)])
    data = TaskConfig(prompt="Q", answer="A", demonstration="why")
    examples = all_of(make_task(file, data=data))
    assert [(e.prompt.partition("\n")[0], e.answer) for e in examples] == [
        (f"{n}?", str(n)) for n in range(3)]
    assert examples[0].demonstration == "<think>as is</think>\n<answer>0</answer>"
    with pytest.raises(UserError, match=r"line 1: no column 'why2'; it has Q, A.*'why'"):
        make_task(file, data=TaskConfig(prompt="Q", answer="A", demonstration="why2"))


def test_parquet_and_datasets_are_read_like_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pieces = {"train": GSM[:30], "test": GSM[30:]}
    for split, rows in pieces.items():
        rows_in(tmp_path / f"{split}.jsonl", rows)
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    data = TaskConfig(answer_in="marked")
    lines = all_of(make_task(str(tmp_path / "train.jsonl"), data=data))
    assert all_of(make_task(str(tmp_path / "set/train.parquet"), data=data)) == lines
    hub = make_task(f"hf:{tmp_path}/set", data=TaskConfig(answer_in="marked", test="test"))
    assert all_of(hub) == lines
    assert {e.answer for e in hub.held_out(99)} == {f"{2 * n:,}" for n in range(530, 540)}
    with pytest.raises(UserError, match="cannot be loaded"):
        make_task(f"hf:{tmp_path}/none")
    with pytest.raises(UserError, match="split= and revision="):
        make_task(f"hf:{tmp_path}/set(splt=train)")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"bad\.parquet: cannot be read"):
        make_task(str(tmp_path / "bad.parquet"))


def test_messages_a_system_prompt_and_the_templates_arguments(tmp_path: Path) -> None:
    words = tokenizer("qwen2")
    words.chat_template = words.chat_template.replace(
        "<|im_start|>assistant\n", "<|im_start|>assistant\n{% if thinking is defined and not "
        "thinking %}<none>{% endif %}")
    talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"},
            {"role": "user", "content": "2"}]
    file = rows_in(tmp_path / "x.jsonl", [{"prompt": talk, "answer": "two"},
                                          {"prompt": "3", "answer": "three"}])
    data = TaskConfig(system="Count.", template=("thinking=false",), instruction="Say it.",
                      test=rows_in(tmp_path / "t.jsonl", [{"prompt": "9", "answer": "nine"}]))
    task = make_task(file, style="plain", data=data)
    asked = {words.decode(prompt_of(words, e)) for e in task.batch(0, 40)}
    head = "<|im_start|>system\nCount.<|im_end|>\n"
    tail = "\nSay it.<|im_end|>\n<|im_start|>assistant\n<none>"
    assert asked == {
        head + "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
               "<|im_start|>user\n2" + tail,
        head + "<|im_start|>user\n3" + tail}
    words.chat_template = "{{ raise_exception('no system prompts') }}"
    with pytest.raises(UserError, match=r"refuses the messages.*no system prompts"):
        prompt_of(words, task.batch(0, 1)[0])


# ------------------------------------------------------------------------------ answers' places


@pytest.mark.parametrize(("text", "wanted"), [
    (r"so \boxed{5}", "5"), (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
    (r"\boxed{5} and again \boxed{5}", "5"), (r"\boxed{5} or \boxed{6}", None),
    (r"\boxed{5", None), ("5", None), (r"\boxed{}", None), (r"\boxed{5} \boxed{6", None),
])
def test_a_boxed_answer(text: str, wanted: str | None) -> None:
    assert (boxed(text) or None) == wanted == answer_of(text, FORMATS["boxed"])
    assert answer_of(text, FORMATS["boxed"], ended=False) == wanted, "the box is closed"


@pytest.mark.parametrize(("text", "wanted"), [
    ("it is 5.", "5"), ("5 or -6.5!", "-6.5"), ("1,234 eggs", "1,234"), ("none", None),
    ("3/4 of it", "3/4"), ("a.5", ".5"), ("5, then", "5"),
])
def test_the_last_number(text: str, wanted: str | None) -> None:
    assert last_number(text) == wanted == answer_of(text, FORMATS["number"])
    assert answer_of(text, FORMATS["number"], ended=False) is None, "it may be half a number"


def test_an_expression_and_an_extractor_of_ones_own(tmp_path: Path) -> None:
    file = rows_in(tmp_path / "x.jsonl", [{"prompt": f"{n}?", "answer": n} for n in range(30)])
    (tmp_path / "mine.py").write_text(
        "def last(text):\n    return text.split('=')[1]\n"
        "def slow(text):\n    while True: pass\n")
    for find, right, wrong in (
        (r"Answer: (\w+)", "Answer: 9 no, Answer: {}", "Answer {}"),
        (f"{tmp_path}/mine.py:last", "x={}", "{}"),
    ):
        example = make_task(file, data=TaskConfig(find=find)).batch(0, 1)[0]
        assert reward(right.format(example.answer), example)["accuracy"] == 1
        assert reward(wrong.format(example.answer), example)["accuracy"] == 0
    with pytest.raises(UserError, match="unterminated"):
        make_task(file, data=TaskConfig(find="(a"))
    with pytest.raises(UserError, match="no such file"):
        make_task(file, data=TaskConfig(find="nowhere.py:last"))


@pytest.mark.parametrize("find", [r"(a+)+b", "mine.py:slow"])
def test_finding_an_answer_ends(
    find: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expression that backtracks, or a function that hangs, finds nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("selfplay.llm.tasks.own.FIND", 0.2)
    Path("mine.py").write_text("def slow(text):\n    while True: pass\n")
    file = rows_in(tmp_path / "x.jsonl", [{"prompt": f"{n}?", "answer": n} for n in range(30)])
    example = make_task(file, data=TaskConfig(find=find)).batch(0, 1)[0]
    assert reward("a" * 60, example)["accuracy"] == 0


def test_a_hedge_is_found_by_the_check(run: Command) -> None:
    done = run("llm", "check", "chain_sum", "--set", "data.style=number")
    assert done.code == 1 and "hedging: earns 1, as much as" in done.err
    assert run("llm", "check", "chain_sum", "--set", "data.style=boxed").code == 0
    run("llm", "check", "env:none.py:World").mistake("none.py", "no such file")
    run("llm", "check", "game:tictactoe").mistake("game:tictactoe", "llm eval RUN")


# --------------------------------------------------------------------------------- stop strings


def test_a_text_ends_a_completion(tmp_path: Path) -> None:
    """Against the same completions without it: the shortest beginning that has the text."""
    from selfplay.llm.evaluate import answers
    from selfplay.llm.generate import Sampling, TorchGenerator
    from selfplay.llm.models import end_tokens, load_model

    model, words = load_model(saved(tmp_path / "m", "qwen2"))
    generator = TorchGenerator(model, end_tokens(model, words), words.pad_token_id, words)
    examples = [Example(f"{n}+1", str(n + 1), format=FORMATS["plain"]) for n in range(6)]
    free = answers(generator, words, examples, 8, Sampling(max_new_tokens=24), 0)
    texts = [text for row in free.texts for text in row]
    common = max({text[i:i + 1] for text in texts for i in range(len(text))} - {"�"},
                 key=lambda char: sum(char in text for text in texts))
    bound = answers(generator, words, examples, 8, Sampling(max_new_tokens=24, stop=(common,)), 0)
    seen = 0
    for old, new, parts in zip(texts, [t for row in bound.texts for t in row],
                               [p for row in bound.parts for p in row], strict=True):
        assert old.startswith(new)
        if common in old:
            seen += 1
            assert common in new and parts["ended"] == 1
            assert new.index(common) + 12 > len(new), "but for the rest of its token"
        else:
            assert old == new
    assert seen >= 4


def test_stop_texts_reach_learning_and_are_refused_for_vllm(run: Command, tmp_path: Path) -> None:
    saved(tmp_path / "m", "qwen2")
    words = ("llm", "train", "--task", "gcd", "--model", "m", "--set", "sample.stop=</answer>")
    run(*words, "--set", "sample.engine=vllm").mistake("sample")


def test_judges_and_templates_are_settings() -> None:
    with pytest.raises(UserError, match=r"data\.template"):
        make_task("gcd", data=TaskConfig(template=("thinking",)))
    assert dict(make_task("gcd", data=TaskConfig(template=("a=false", "b=x"))).template) == {
        "a": False, "b": "x"}
    assert JudgeConfig().failed == 0


def test_the_example_with_a_shown_answer_holds_its_own_questions_out(run: Command) -> None:
    second = f"{ROOT}/docs/examples/second.py:Second"
    assert run("llm", "check", second).code == 0
    task = make_task(f"{second}(held_out=40)")
    example = task.batch(0, 1)[0]
    assert example.messages[-1]["content"].split()[1] == example.answer
    assert [m["role"] for m in example.messages] == ["system", "user", "assistant", "user"]
    held = {e.messages[-1]["content"] for e in task.held_out(100)}
    assert len(held) == 40
    assert not held & {e.messages[-1]["content"] for e in task.batch(1, 200)}
