"""Countdown as a written search, steps checked by arithmetic, and budgets of thought."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, PAD, TOKENIZER

from selfplay.common.errors import UserError
from selfplay.common.files import write_json
from selfplay.common.settings import to_dict
from selfplay.learn import checkpoint
from selfplay.llm.config import TextConfig, must_not_contradict, override
from selfplay.llm.embedded import number_tokenizer
from selfplay.llm.evaluate import BudgetForcing
from selfplay.llm.folder import open_text_run
from selfplay.llm.generate import Samples, Sampling
from selfplay.llm.models import padded_tokens, save_model
from selfplay.llm.recipes import start
from selfplay.llm.rewards import FORMATS, Example, marked_steps, reward, step_figures, steps_of
from selfplay.llm.summary import measure
from selfplay.llm.tasks.task import make_task

SEARCH = " 3+4=7 7+2=9 7-2=5 7*2=14#(3+4)*2"


def asked(spec: str = "countdown_search", count: int = 60, **more) -> list[Example]:
    return make_task(spec, style="short", **more).batch(0, count)


def can_be_made(numbers: list[int], target: int) -> bool:
    """By trying all orders, signs and brackets."""
    for a, b, c in itertools.permutations(map(str, numbers)):
        for s, t in itertools.product("+-*", repeat=2):
            if target in (eval(f"({a}{s}{b}){t}{c}"), eval(f"{a}{s}({b}{t}{c})")):
                return True
    return False


def test_a_search_ends_at_the_first_right_answer_and_all_its_steps_are_right() -> None:
    for example in asked():
        thought, _, answer = (example.demonstration or "").partition("#")
        assert reward(example.demonstration or "", example)["accuracy"] == 1
        steps = thought.split()
        assert all(eval(step.partition("=")[0]) == int(step.partition("=")[2]) for step in steps)
        assert int(steps[-1].partition("=")[2]) == example.metadata["target"] == eval(answer)
        assert can_be_made(example.metadata["numbers"], example.metadata["target"])
        values = [int(step.partition("=")[2]) for step in steps]
        assert max(values) <= 99


def test_a_search_that_is_given_up_is_shorter_and_often_wrong() -> None:
    lengths, right = {}, {}
    for name, more in {"whole": {}, "given up": {"spec": "countdown_search(give_up=0.3)"},
                       "guessed": {"guessed": 1.0}}.items():
        examples = asked(count=200, **more)
        lengths[name] = sum(len(e.demonstration or "") for e in examples) / 200
        right[name] = sum(reward(e.demonstration or "", e)["accuracy"] for e in examples) / 200
        assert all(reward(e.demonstration or "", e)["partial"] >= 0.05 for e in examples)
    assert lengths["whole"] > 2 * lengths["given up"] > 3 * lengths["guessed"]
    assert right["whole"] == 1 and 0.02 < right["guessed"] < right["given up"] < 0.5


def test_four_numbers_and_other_targets() -> None:
    for example in asked("countdown_search(numbers=4,min_target=60,max_target=99)", 5):
        assert len(example.metadata["numbers"]) == 4 and 60 <= example.metadata["target"] <= 99
        assert reward(example.demonstration or "", example)["accuracy"] == 1
    for spec, says in {"(numbers=9)": "numbers from 2", "(max_value=1)": "hardly any",
                       "(give_up=2)": "give_up from 0", "(signs=2)": "give_up"}.items():
        with pytest.raises(UserError, match=says):
            make_task(f"countdown_search{spec}", style="short")


def test_numbers_are_tokens() -> None:
    tokenizer = number_tokenizer()
    tokens = tokenizer("12,99=100\nä")["input_ids"]
    assert len(tokens) == 8 and tokens[-1] == tokenizer.unk_token_id
    assert tokenizer.decode(tokenizer(SEARCH)["input_ids"]) == SEARCH
    assert len(tokenizer(SEARCH)["input_ids"]) == 4 * 6 + 8


def test_steps_are_checked_by_arithmetic() -> None:
    assert [(step.right, step.left) for step in steps_of(SEARCH)] == [
        (True, False), (True, True), (True, True), (True, False)]
    text = "so 3 + 4 - 2 = 5, then 5*2=11; 2=3+4=7 and 1/0=1, version 1.2-1=3, 1-2=-1"
    assert marked_steps(text) == text.replace("5*2=11", "5*2=11✗").replace("1/0=1", "1/0=1✗")
    assert marked_steps(SEARCH).count("↩") == 2 and marked_steps("no steps") == "no steps"


def test_who_went_back_and_ended_right_is_counted() -> None:
    straight, mended = " 7*2=14#7*2", " 3+4=8 3+4=7 7*2=14#(3+4)*2"
    found = step_figures([SEARCH, straight, mended, SEARCH, "#1"], [True, True, True, False, True])
    assert found == {"steps": 12 / 5, "wrong_steps": 1 / 12, "aha": 2 / 5, "mended": 1 / 5}
    assert step_figures([], []) == {"steps": 0, "wrong_steps": 0, "aha": 0, "mended": 0}


class Counter:
    """Thinks one more digit for each that it has thought, stops at STOPS of them, and answers with
    the number of digits. It is made to go on by a space."""

    STOPS = 3
    name = "counter"

    def __call__(self, prompts, group, sampling, seed):
        assert group == 1 and sampling.temperature == 0
        rows, ended = [], []
        for prompt in prompts:
            thought, mark, _ = TOKENIZER.decode(prompt).partition("\n")[2].partition("#")
            if mark:
                text = str(len(thought.replace(" ", "")))
            else:
                left = max(self.STOPS - len(thought), 1 if thought.endswith(" ") else 0)
                text = "x" * left + "#0"
            row = [*TOKENIZER(text)["input_ids"], EOS][:sampling.max_new_tokens]
            rows.append(row)
            ended.append(row[-1] == EOS)
        action, mask = padded_tokens(rows, PAD)
        tokens, seen = padded_tokens(prompts, PAD, left=True)
        return Samples(tokens, seen, action, mask, torch.zeros(action.shape), torch.tensor(ended))


def test_a_thought_is_cut_off_or_made_to_go_on() -> None:
    examples = [Example("a", "2", "number"), Example("b", "3", "number"),
                Example("c", "5", "number")]
    rows = BudgetForcing(Counter(), TOKENIZER, examples, Sampling(), 0).by_budget((2, 8, 3))
    found = {(row["mode"], row["budget"]): (row["accuracy"], row["tokens"]) for row in rows}
    assert found == {("cut", 2): (1 / 3, 2), ("cut", 3): (1 / 3, 3), ("cut", 8): (1 / 3, 3),
                     ("forced", 2): (1 / 3, 2), ("forced", 3): (1 / 3, 3),
                     ("forced", 8): (1 / 3, 8)}  # "xxx x x "
    words = BudgetForcing(Counter(), TOKENIZER, [replace(examples[0], answer="5",
                                                   format=FORMATS["short"])], Sampling(), 0, " ")
    assert [row["accuracy"] for row in words.by_budget((7,))] == [0, 1]  # "xxx x x"


def test_budgets_are_of_thoughts() -> None:
    config = TextConfig("game:tictactoe")
    with pytest.raises(UserError, match=r"eval\.budgets"):
        must_not_contradict(override(config, ["eval.budgets=16,32"]))


def test_a_run_is_measured_by_budget_and_on_other_tasks(tmp_path: Path) -> None:
    harder, games = "countdown_search(numbers=4)", {"game:tictactoe", "game:hex5x5"}
    config = override(TextConfig("countdown_search"), [
        "net=1x32", "data.numbers=true", "data.held_out=4", "sample.max_new_tokens=12",
        "eval.budgets=3,6", f"eval.also={harder},{','.join(sorted(games))}", "play.games=4",
        "play.expert=random"])
    run = open_text_run(tmp_path / "run", config)
    tokens = len(start(run)[1])
    assert tokens == 3 + 96 + 90  # marks, characters, numbers of two digits
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/config.json", to_dict(config))
    save_model(tmp_path / "run/sft/ckpt-000001", *start(run))
    checkpoint.write_meta(tmp_path / "run/sft/ckpt-000001", {"step": 1})
    found = measure(run, (1, 2), "cpu")
    assert [(row["mode"], row["budget"], row["questions"]) for row in found["budgets"]] == [
        (mode, budget, 4) for mode in ("cut", "forced") for budget in (3, 6)]
    assert set(found["also"]) == {harder, *games}
    assert all("legal" in found["also"][game]["sampled"] for game in games)
    assert {path.parent.name for path in tmp_path.rglob("positions.jsonl")} == {
        "run", "game-tictactoe"}, "each game has its own, the first the run's folder"
    assert set(found["also"][harder]["pass"]) == {"1", "2"}
    shown = json.loads((tmp_path / "run/summary.json").read_text())
    assert [row["budget"] for row in shown["budgets"]] == [3, 6, 3, 6]
    assert {row["task"] for row in shown["also"]} == {harder, *games}
    with pytest.raises(UserError, match="unknown task 'countdwn'"):
        open_text_run(tmp_path / "new", override(config, ["eval.also=countdwn"]))
    with pytest.raises(UserError, match="unknown task 'countdwn'"):  # not after hours of RL
        open_text_run(tmp_path / "run", override(config, ["eval.also=countdwn"]))
