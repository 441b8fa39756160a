"""Preferences: of two completions of a prompt the better one, from a file or labelled on the spot.

Labels made here come from a reward that is known (the gold reward), so that what a reward model
learns from them can be held against the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from selfplay.common.errors import UserError
from selfplay.common.files import parse_json, text_lines
from selfplay.llm.config import PairConfig
from selfplay.llm.policy import Completions, Reward, TextPolicy, sample, verifier, weighed
from selfplay.llm.rewards import Example
from selfplay.llm.tasks import Task

BATCH = 64  #: prompts that are answered at once
FIRST = 3 << 20  #: number of the first batch of prompts that pairs are made of

#: The true reward: (N completions, the examples that they answer) -> float32 [N].
Judge = Callable[[Completions, Sequence[Example]], Tensor]


class Pair(NamedTuple):
    """Two completions of a prompt, texts without the end token."""

    prompt: str
    chosen: str
    rejected: str


class Made(NamedTuple):
    """What ``synthesise`` made, and from how many samples."""

    pairs: list[Pair]
    draws: int  #: pairs of samples that were looked at
    flipped: int  #: labels turned round


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON-lines file; other keys are ignored, empty lines skipped.

    Raises UserError naming the file and the first line that is no pair.
    """
    pairs = [_pair(line, f"{path}, line {number}")
             for number, line in text_lines(path, "preference pairs")]
    if len({pair.prompt for pair in pairs}) < 2:
        raise UserError(f"{path}: pairs of 2 different prompts at least are needed, "
                        "as some are held out")
    return pairs


def not_held_out(pairs: Sequence[Pair], task: Task, path: Path) -> tuple[list[Pair], int]:
    """(the pairs of ``path`` whose prompt ``task`` does not hold out, how many were left out).

    A reward model that has learnt the answers to what a policy is measured on would tell it them.
    Raises UserError where fewer than 2 different prompts are left.
    """
    kept = [pair for pair in pairs if not task.is_held_out(pair.prompt)]
    if len({pair.prompt for pair in kept}) < 2:
        raise UserError(f"{path}: {len(pairs) - len(kept)} of {len(pairs)} pairs are of held-out "
                        "questions, and pairs of 2 other prompts at least are needed; add some")
    return kept, len(pairs) - len(kept)


def _pair(line: str, where: str) -> Pair:
    try:
        data = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({' '.join(str(error).split())[:80]}); mend or delete "
                        "that line") from None
    wanted = ('{"prompt": ..., "chosen": ..., "rejected": ...} wanted, each a text; mend or '
              "delete that line")
    if not isinstance(data, dict):
        raise UserError(f"{where}: {wanted}")
    for key in Pair._fields:
        if not isinstance(data.get(key), str):
            raise UserError(f"{where}: no text {key!r}; {wanted}")
    if not data["prompt"]:
        raise UserError(f"{where}: an empty prompt; mend or delete that line")
    if data["chosen"] == data["rejected"]:
        raise UserError(f"{where}: chosen and rejected are the same, which says nothing; "
                        "delete that line")
    return Pair(data["prompt"], data["chosen"], data["rejected"])


def to_lines(pairs: Sequence[Pair]) -> bytes:
    """What ``read_pairs`` reads."""
    return "".join(json.dumps(pair._asdict()) + "\n" for pair in pairs).encode()


def split(pairs: Sequence[Pair], held_out: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, held-out pairs): whole prompts, drawn by ``seed``; one of each at least."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(prompts) < 2:
        raise UserError("preference pairs of 2 different prompts at least are needed")
    order = np.random.default_rng([seed, 0x9A]).permutation(len(prompts))
    count = min(max(1, round(len(prompts) * held_out)), len(prompts) - 1)
    held = {prompts[i] for i in order[:count]}
    return ([pair for pair in pairs if pair.prompt not in held],
            [pair for pair in pairs if pair.prompt in held])


def gold_of(weights: Mapping[str, float], reward: Reward = verifier) -> Judge:
    """The weighted sum of the parts of a reward that is known."""
    return lambda completions, examples: weighed(reward(completions, examples), weights)


def synthesise(
    policy: TextPolicy, tokenizer: Any, task: Task, gold: Judge, config: PairConfig, seed: int,
) -> Made:
    """``config.count`` pairs of a policy's own samples, two a prompt, labelled by ``gold``.

    Pairs that gold holds for equal, or whose texts are the same, and samples that were cut off
    before their end, are left out. A label is turned round with probability ``config.noise``.
    Raises UserError where hardly any two samples differ in their reward.
    """
    asker, rng = replace(policy, group=2), np.random.default_rng([seed, 0x9B])
    pairs: list[Pair] = []
    draws = flipped = 0
    for number in range(2 + 40 * config.count // BATCH):
        examples = task.batch(FIRST + number, BATCH)
        batch = sample(asker, tokenizer, examples, lambda c, e: {"gold": gold(c, e)},
                       {"gold": 1.0}, seed * 1_000_003 + number)
        (texts, ended), values = batch.completions, batch.parts["gold"].tolist()
        turned = rng.random(BATCH) < config.noise
        for i, example in enumerate(examples):
            a, b = 2 * i, 2 * i + 1
            draws += 1
            if values[a] == values[b] or texts[a] == texts[b] or not (ended[a] and ended[b]):
                continue
            if (values[a] < values[b]) != bool(turned[i]):
                a, b = b, a
            flipped += int(turned[i])
            pairs.append(Pair(example.prompt, texts[a], texts[b]))
            if len(pairs) == config.count:
                return Made(pairs, draws, flipped)
    raise UserError(f"pairs.count={config.count}: in {draws} pairs of samples only {len(pairs)} "
                    "differ in their reward; ask for fewer, or take a task that the policy "
                    "solves sometimes and not always")
