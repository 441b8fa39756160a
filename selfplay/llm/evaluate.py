"""What a model can do on held-out questions: accuracy, pass@k, the majority of k, the best of k by
a reward model, and accuracy by the length of the chain of thought."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from math import comb
from typing import Any, ClassVar

from torch import nn

from selfplay.common.console import Bar
from selfplay.common.stats import wilson
from selfplay.llm.generate import Generator, Samples, Sampling
from selfplay.llm.models import completion_texts, prompt_of, written
from selfplay.llm.policy import Completions, judged_parts
from selfplay.llm.rewards import Example, Format, answer_of, parsed_number, step_figures

AT_ONCE = 1024  #: completions sampled side by side


@dataclass(frozen=True)
class Answers:
    """``group`` completions of each example, one after another."""

    examples: list[Example]  #: [n]
    texts: list[list[str]]  #: [n][group], without the end token
    parts: list[list[dict[str, float]]]  #: [n][group], of ``rewards.reward``
    tokens: float  #: mean length

    def right(self) -> list[int]:
        """Right answers of each example's group."""
        return [sum(p["accuracy"] >= 1 for p in row) for row in self.parts]

    def mean(self, part: str) -> float:
        """The mean of a part over all completions."""
        values = [p[part] for row in self.parts for p in row]
        return sum(values) / max(len(values), 1)


def answers(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], group: int,
    sampling: Sampling, seed: int,
) -> Answers:
    """Answer each example ``group`` times and judge the answers."""
    most = sampling.max_new_tokens
    return answers_within(generator, tokenizer, examples, group, sampling, seed, (most,))[most]


def answers_within(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], group: int,
    sampling: Sampling, seed: int, budgets: Sequence[int],
) -> dict[int, Answers]:
    """``answers`` as each budget of tokens cuts them off: a completion with fewer tokens is the
    beginning of the one with more, so that all are written once."""
    if examples and examples[0].world is not None:
        world = examples[0].world
        return {most: world.answers(generator, tokenizer, examples, group,
                                    replace(sampling, max_new_tokens=most), seed)
                for most in budgets}
    sampling = replace(sampling, max_new_tokens=max(budgets))
    found = {most: Answers(list(examples), [], [], 0.0) for most in budgets}
    tokens, size = dict.fromkeys(budgets, 0), max(AT_ONCE // group, 1)
    for start in range(0, len(examples), size):
        some = examples[start:start + size]
        samples = generator([prompt_of(tokenizer, e) for e in some], group, sampling, seed)
        for most, whole in found.items():
            mask = samples.mask[:, :most]
            ended = samples.ended & (samples.mask.sum(1) <= most)
            texts = completion_texts(tokenizer, samples.action[:, :most], mask, ended,
                                     sampling.stop)
            tokens[most] += int(mask.sum())
            judged = judged_parts(Completions(texts, ended.tolist()),
                                  [e for e in some for _ in range(group)])
            for first in range(0, len(texts), group):
                whole.texts.append(texts[first:first + group])
                whole.parts.append(judged[first:first + group])
    count = max(len(examples) * group, 1)
    return {most: replace(whole, tokens=tokens[most] / count) for most, whole in found.items()}


@dataclass
class Counted:
    """A generator whose answers and tokens are counted. told: is called after each batch."""

    name: ClassVar[str] = "counted"
    generator: Generator
    told: Callable[[Counted], None] = lambda counted: None
    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __call__(
        self, prompts: Sequence[Sequence[int]], group: int, sampling: Sampling, seed: int
    ) -> Samples:
        start = time.perf_counter()
        found = self.generator(prompts, group, sampling, seed)
        self.seconds += time.perf_counter() - start
        self.answers += len(found.mask)
        self.tokens += int(found.mask.sum())
        self.told(self)
        return found

    def said(self) -> str:
        """For a line of progress."""
        return f"{self.answers:,} answers, {speed_said(self.tokens, self.seconds)}"

    def refresh(self, model: nn.Module) -> None:
        self.generator.refresh(model)

    def figures(self) -> dict[str, float]:
        return self.generator.figures()


@contextmanager
def on_a_bar(generator: Generator, title: str, count: int) -> Iterator[Generator]:
    """``generator`` behind a bar. count: answers that are wanted of it."""
    with Bar(title, count, "answers") as bar:
        yield Counted(generator, lambda counted: bar.at(counted.answers, counted.said()))


def greedy_and_sampled(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], group: int,
    sampling: Sampling, seed: int,
) -> tuple[Answers, Answers]:
    """(the best answer to each example, ``group`` answers to each as ``sampling`` says)."""
    best = answers(generator, tokenizer, examples, 1, replace(sampling, temperature=0.0), seed)
    return best, answers(generator, tokenizer, examples, group, sampling, seed)


def accuracy(found: Answers) -> dict[str, float]:
    """accuracy with its 95% interval (Wilson, over questions: a group counts by its mean), the
    shares of completions in the form asked for and of those that ended, the mean tokens, what
    ``rewards.step_figures`` says where steps are written, and of games the share of legal moves."""
    rate = found.mean("accuracy")
    low, high = wilson(rate, len(found.examples))
    return {"accuracy": rate, "low": low, "high": high, "format": found.mean("format"),
            "ended": found.mean("ended"), "tokens": found.tokens,
            "questions": float(len(found.examples)), **checked_steps(found),
            **({"legal": found.mean("legal")} if "legal" in found.parts[0][0] else {})}


def checked_steps(found: Answers) -> dict[str, float]:
    """``rewards.step_figures`` of all completions; {} where no step is written out."""
    figures = step_figures([text for row in found.texts for text in row],
                           [part["accuracy"] >= 1 for row in found.parts for part in row])
    return figures if figures["steps"] else {}


def pass_at(k: int, right: int, samples: int) -> float:
    """Unbiased estimate, from ``samples`` tries of which ``right`` were right, of the chance that
    one of k is: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority_vote(answered: Sequence[str | None]) -> int | None:
    """The place of the first answer that says what most say. Equal numbers are the same answer, and
    a completion without an answer has no vote. None without votes."""
    names = [None if a is None else _vote(a) for a in answered]
    votes = Counter(name for name in names if name is not None)
    if not votes:
        return None
    return names.index(max(votes, key=lambda name: votes[name]))  # of equals the first


def majority_at(k: int, found: Answers) -> float:
    """Share of the blocks of k completions whose commonest answer is right. Where nothing says
    what the answer is, a completion is one as a whole."""
    wins = blocks = 0
    for example, texts, parts in zip(found.examples, found.texts, found.parts, strict=True):
        for start in range(0, len(texts) - k + 1, k):
            named = [answer_of(texts[i], example.format, parts[i]["ended"] >= 1)
                     if example.answer else texts[i].strip() for i in range(start, start + k)]
            winner = majority_vote(named)
            wins += winner is not None and parts[start + winner]["accuracy"] >= 1
            blocks += 1
    return wins / max(blocks, 1)


#: Of answers [n][group] the rewards that a reward model gives them, [n][group].
Rater = Callable[[Answers], list[list[float]]]


def best_at(k: int, rewards: Sequence[float], right: Sequence[bool]) -> float:
    """The chance that the answer of the highest reward is right, among k drawn from these without
    replacement; of equal rewards each answer is as likely to be taken. Unbiased: the mean over all
    subsets (Nakano et al. 2021, arXiv:2112.09332): the highest of k is among the r lowest in
    C(r, k) of C(n, k) subsets."""
    if not 1 <= k <= len(rewards):
        raise ValueError(f"best of {k} among {len(rewards)}")
    found, below = 0.0, 0
    ranked = sorted(zip(rewards, right, strict=True))
    for _, equal in groupby(ranked, key=lambda one: one[0]):
        good = [bool(one[1]) for one in equal]
        upto = below + len(good)
        found += (comb(upto, k) - comb(below, k)) * sum(good) / len(good)
        below = upto
    return found / comb(len(rewards), k)


def best_by_reward(ks: Sequence[int], found: Answers, rate: Rater) -> dict[str, float]:
    """k -> the mean of ``best_at`` over questions."""
    right = [[part["accuracy"] >= 1 for part in row] for row in found.parts]
    rewards = rate(found)
    return {str(k): sum(best_at(k, *row) for row in zip(rewards, right, strict=True)) / len(right)
            for k in ks}


def evaluate_model(
    generator: Generator, tokenizer: Any, examples: Sequence[Example], sampling: Sampling,
    ks: Sequence[int], seed: int, rate: Rater | None = None,
) -> dict[str, Any]:
    """greedy and sampled: ``accuracy``'s figures; pass, majority and, with ``rate``, best (of k by
    reward): k -> rate."""
    best, sampled = greedy_and_sampled(generator, tokenizer, examples, max(ks), sampling, seed)
    found = evaluation_of(best, sampled, ks)
    return {**found, "best": best_by_reward(ks, sampled, rate)} if rate else found


def evaluation_of(best: Answers, sampled: Answers, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of ``evaluate_model``, of a best answer and max(ks) sampled ones to each."""
    right, count = sampled.right(), max(ks)
    return {"greedy": accuracy(best), "sampled": accuracy(sampled),
            "pass": {str(k): sum(pass_at(k, c, count) for c in right) / len(right) for k in ks},
            "majority": {str(k): majority_at(k, sampled) for k in ks}}


def evaluation_table(result: dict[str, Any]) -> str:
    """An evaluation for a terminal."""
    def line(name: str) -> str:
        row = result[name]
        steps = (f", {row['steps']:.1f} steps ({row['wrong_steps']:.1%} wrong), {row['aha']:.1%} "
                 "went back and ended right" if "steps" in row else "")
        return (f"{name:<8}{row['accuracy']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]  "
                f"format {row['format']:.1%}, {row['tokens']:.1f} tokens{steps}")

    head = f"{'k':<10}" + "".join(f"{k:>8}" for k in result["pass"])
    rows = [f"{name:<10}" + "".join(f"{v:8.1%}" for v in result[key].values())
            for name, key in (("pass@k", "pass"), ("majority", "majority"), ("by reward", "best"))
            if key in result]
    return "\n".join([line("greedy"), line("sampled"), head, *rows])


def accuracies_said(greedy: float, sampled: float) -> str:
    """Two accuracies for a line of progress."""
    return f"held-out greedy {greedy:.1%}, sampled {sampled:.1%}"


def speed_said(tokens: float, seconds: float) -> str:
    """How fast a model writes, for a line of progress."""
    return f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"


def _vote(answer: str) -> str:
    value = parsed_number(answer)
    return answer if value is None else str(value)


# --------------------------------------------------------------------------------- budget forcing

ANSWER = 64  #: tokens of an answer, at most
ROUNDS = 64  #: times that a thought is made to go on, at most

Thought = list[int]  #: its tokens


@dataclass(frozen=True)
class BudgetForcing:
    """A model, and questions that it thinks about. A thought is cut off at a budget of tokens, or
    made to go on until there, and answers right after it (Muennighoff et al. 2025, s1,
    arXiv:2501.19393, sec. 3.1).

    go_on: what takes the place of a thought's end; empty: a space where tasks are asked tersely,
    else "Wait".
    """

    generator: Generator
    tokenizer: Any
    examples: Sequence[Example]
    sampling: Sampling
    seed: int
    go_on: str = ""

    def by_budget(self, budgets: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of mode, budget and ``evaluate.accuracy``'s figures, with the mean tokens of a
        thought as tokens. mode: "cut" for thoughts that end after ``budget`` tokens at the latest,
        "forced" for those that end there and not before."""
        most, rows = max(budgets), list[dict[str, Any]]()
        own = self._written([[] for _ in self.examples], most)
        for mode, thoughts in (("cut", own), ("forced", self._gone_on(own, most))):
            for budget in sorted(budgets):  # what is written first does not depend on the rest
                kept = [thought[:budget] for thought in thoughts]
                rows.append({"mode": mode, "budget": budget, **accuracy(self._answered(kept)),
                             "tokens": sum(map(len, kept)) / len(kept)})
        return rows

    def _written(self, thoughts: Sequence[Thought], most: int) -> list[Thought]:
        """``thoughts`` as the model continues them, to its answer or to ``most`` tokens."""
        found = [list(thought) for thought in thoughts]
        short = [i for i, thought in enumerate(thoughts) if len(thought) < most]
        if short:
            room = most - min(len(thoughts[i]) for i in short)
            texts, _ = self._continued(short, [thoughts[i] for i in short], room)
            for i, text in zip(short, texts, strict=True):
                form = self.examples[i].format
                end = form.chain[1] or form.open
                thought = text.partition(end)[0].rstrip("\n") if end else text
                found[i] = (found[i] + self._tokens(thought))[:most]
        return found

    def _gone_on(self, thoughts: Sequence[Thought], most: int) -> list[Thought]:
        """``thoughts`` with ``go_on`` in place of their ends, until they have ``most`` tokens."""
        found = list(thoughts)
        for _ in range(ROUNDS):
            if min(map(len, found)) >= most:
                break
            found = self._written([
                thought if len(thought) >= most else thought + self._tokens(
                    self.go_on or (" " if example.format.name == "short" else "\nWait,"))
                for thought, example in zip(found, self.examples, strict=True)], most)
        return found

    def _answered(self, thoughts: Sequence[Thought]) -> Answers:
        """The answers given right after ``thoughts``, judged."""
        marks = [answer_mark(example.format) for example in self.examples]
        texts, ended = self._continued(
            range(len(thoughts)), [thought + self._tokens(mark) for thought, mark in
                                   zip(thoughts, marks, strict=True)], ANSWER)
        whole = [thought + mark + text for thought, mark, text in
                 zip(written(self.tokenizer, thoughts), marks, texts, strict=True)]
        parts = judged_parts(Completions(whole, ended), list(self.examples))
        return Answers(list(self.examples), [[text] for text in whole],
                       [[part] for part in parts], 0.0)

    def _continued(
        self, which: Sequence[int], begun: Sequence[Thought], room: int
    ) -> tuple[list[str], list[bool]]:
        """(the best continuations of what is begun, whether they ended)."""
        samples = self.generator(
            [prompt_of(self.tokenizer, self.examples[i]) + list(thought)
             for i, thought in zip(which, begun, strict=True)], 1,
            replace(self.sampling, temperature=0.0, max_new_tokens=room), self.seed)
        return completion_texts(self.tokenizer, samples.action, samples.mask, samples.ended,
                                self.sampling.stop), samples.ended.tolist()

    def _tokens(self, text: str) -> Thought:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def answer_mark(form: Format) -> str:
    """What ends a thought and opens its answer."""
    return form.chain[1] + ("" if form.name == "short" else "\n") + form.open


def budget_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of ``BudgetForcing.by_budget`` for a terminal."""
    return "\n".join(f"{row['mode']:<7}{row['budget']:>6} tokens  {row['accuracy']:6.1%}  "
                     f"[{row['low']:.1%}, {row['high']:.1%}]  thought {row['tokens']:.1f} tokens"
                     for row in rows)
