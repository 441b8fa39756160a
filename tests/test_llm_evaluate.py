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
    evaluate_model,
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
