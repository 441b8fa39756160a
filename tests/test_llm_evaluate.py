"""pass@k and majority by hand, and answers of a generator that is no model."""

from __future__ import annotations

from itertools import combinations

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, PAD, TOKENIZER

from selfplay.llm.evaluate import (
    Answers,
    accuracy,
    answers,
    best_at,
    evaluate_model,
    evaluation_table,
    majority_at,
    majority_vote,
    pass_at,
)
from selfplay.llm.generate import Samples, Sampling
from selfplay.llm.models import padded_tokens
from selfplay.llm.rewards import FORMATS, Example

QUESTIONS = [Example("1+1=", "2", "number"), Example("2+2=", "4", "number")]


def scripted(completions: dict[str, list[str]]):
    """A generator that answers from a list, one text a sample."""

    def generate(prompts, group, sampling, seed):
        tokens, mask = padded_tokens(prompts, PAD, left=True)
        rows = []
        for prompt in prompts:
            question = TOKENIZER.decode(prompt).strip()
            rows += [[*TOKENIZER(completions[question][g])["input_ids"], EOS]
                     for g in range(group)]
        width = max(map(len, rows))
        action = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        drawn = torch.arange(width) < lengths[:, None]
        return Samples(tokens, mask, action, drawn, torch.zeros(action.shape),
                       torch.ones(len(rows), dtype=torch.bool))

    return generate


def test_pass_at_k_is_the_share_of_all_choices_of_k() -> None:
    for samples in range(1, 7):
        for right in range(samples + 1):
            for k in range(1, samples + 1):
                chosen = list(combinations([i < right for i in range(samples)], k))
                wanted = sum(map(any, chosen)) / len(chosen)
                assert pass_at(k, right, samples) == pytest.approx(wanted)
    with pytest.raises(ValueError):
        pass_at(3, 1, 2)


@pytest.mark.parametrize("rewards", [(3, 1, 2, 5, 4), (1, 1, 2, 2, 2), (0, 3, 3, 3, 1)])
def test_the_best_of_k_by_reward_is_the_mean_over_all_choices_of_k(
    rewards: tuple[float, ...]
) -> None:
    """Each choice by trying; of equal rewards any may be taken."""
    right = [True, False, True, False, True]
    for k in range(1, 6):
        shares = []
        for chosen in combinations(range(5), k):
            top = [i for i in chosen if rewards[i] == max(rewards[j] for j in chosen)]
            shares.append(sum(right[i] for i in top) / len(top))
        assert best_at(k, rewards, right) == pytest.approx(sum(shares) / len(shares))
    with pytest.raises(ValueError):
        best_at(6, rewards, right)


def test_the_best_by_reward_by_hand() -> None:
    """Of 2 among 3 the highest is in two of the choices, the second in one."""
    assert best_at(2, [0.1, 0.9, 0.5], [True, True, False]) == pytest.approx(2 / 3)
    assert best_at(2, [0.1, 0.9, 0.5], [True, False, True]) == pytest.approx(1 / 3)


def test_one_who_knows_gives_pass_at_k_and_one_who_knows_nothing_gives_one_answer() -> None:
    script = {"1+1=": ["#2", "#3", "#3", "2"], "2+2=": ["#4", "4#4", "#5", "#4"]}
    args = scripted(script), TOKENIZER, QUESTIONS, Sampling(), (1, 2, 4), 0
    knows = evaluate_model(
        *args, lambda found: [[p["accuracy"] for p in row] for row in found.parts])
    assert knows["best"] == pytest.approx(knows["pass"])
    same = evaluate_model(*args, lambda found: [[0.5] * 4 for _ in found.parts])
    assert same["best"] == pytest.approx(dict.fromkeys(same["pass"], same["pass"]["1"]))
    assert "by reward" in evaluation_table(same)
    plain = evaluate_model(*args)
    assert "best" not in plain and "by reward" not in evaluation_table(plain)
    assert {key: row for key, row in same.items() if key != "best"} == plain


def test_majority_by_hand() -> None:
    assert majority_vote(["3", "4", "4.0", None]) == 1
    assert majority_vote(["5", "4", "4", "5"]) == 0  # of equals the first
    assert majority_vote(["red", "blue", "blue"]) == 1
    assert majority_vote([None, None]) is None


def test_an_evaluation_by_hand() -> None:
    script = {"1+1=": ["#2", "#3", "#3", "2"], "2+2=": ["#4", "4#4", "#5", "#4"]}
    found = answers(scripted(script), TOKENIZER, QUESTIONS, 4, Sampling(), 0)
    assert found.right() == [1, 3]
    assert found.texts[1][1] == "4#4"
    figures = accuracy(found)
    assert figures["accuracy"] == 0.5 and figures["format"] == 7 / 8
    assert figures["low"] < 0.5 < figures["high"]
    assert found.tokens == (3 + 3 + 3 + 2 + 3 + 5 - 1 + 3 + 3) / 8
    assert majority_at(4, found) == 0.5  # 3 beats 2; 4 wins
    assert majority_at(1, found) == 0.5
    whole = evaluate_model(scripted(script), TOKENIZER, QUESTIONS, Sampling(), (1, 2, 4), 0)
    assert whole["greedy"]["accuracy"] == 1.0
    assert whole["pass"] == {"1": 0.5, "2": pytest.approx((0.5 + 1) / 2), "4": 1.0}


def test_where_no_answer_is_known_whole_completions_vote() -> None:
    """Two of three say the same, and that counts as right though it was cut off."""
    example = Example("say something", "", format=FORMATS["answer"])
    parts = [{"accuracy": float(text == "a"), "ended": 0.0} for text in ("b", "a", "a")]
    assert majority_at(3, Answers([example], [["b", "a", "a "]], [parts], 1.0)) == 1


def test_nothing_is_no_answers() -> None:
    assert Answers([], [], [], 0.0).mean("accuracy") == 0
