"""Preference pairs: a user's file, or made of a policy's own samples and labelled by the gold
reward, which is known, so that what is learnt from them can be compared with the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from selfplay.common.errors import UserError
from selfplay.common.files import parse_json, text_lines
from selfplay.common.words import clip
from selfplay.llm.policy import Judge, TextPolicy, sample_batch
from selfplay.llm.preferences.config import PairConfig
from selfplay.llm.tasks.task import Task

PROMPTS = 64  #: answered at once where pairs are made
FIRST_PAIRS = 3 << 20  #: number of the first batch of prompts that pairs are made of
SIDES = ("prompt", "chosen", "rejected")  #: what every line of a file of pairs has


class Pair(NamedTuple):
    """Two completions of a prompt, texts without the end token. messages, template: as an
    ``Example`` has them."""

    prompt: str
    chosen: str
    rejected: str
    messages: tuple[Mapping[str, str], ...] = ()
    template: Mapping[str, Any] = MappingProxyType({})


class MadePairs(NamedTuple):
    """What ``make_pairs`` made, and from how many samples."""

    pairs: list[Pair]
    draws: int  #: pairs of samples that were looked at
    flipped: int  #: labels turned the wrong way round


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON-lines file; other keys are ignored, empty lines skipped.

    Raises UserError naming the file and the first line that is no pair.
    """
    pairs = [_parse_pair(line, f"{path}, line {number}")
             for number, line in text_lines(path, "preference pairs")]
    if len({pair.prompt for pair in pairs}) < 2:
        raise UserError(f"{path}: pairs of 2 different prompts at least are needed, "
                        "as some are held out")
    return pairs


def in_the_way_of(task: Task, pairs: Sequence[Pair]) -> list[Pair]:
    """``pairs`` asked as ``task`` asks: behind its system prompt where they have none, with its
    arguments of the chat template."""
    def messages_of(pair: Pair) -> tuple[Mapping[str, str], ...]:
        if not task.system or any(m["role"] == "system" for m in pair.messages):
            return pair.messages
        asked = pair.messages or ({"role": "user", "content": pair.prompt},)
        return ({"role": "system", "content": task.system}, *asked)

    return [pair._replace(messages=messages_of(pair), template=dict(task.template))
            for pair in pairs]


def not_held_out(pairs: Sequence[Pair], task: Task, path: Path) -> tuple[list[Pair], int]:
    """(the pairs of ``path`` whose prompt ``task`` does not hold out, how many were left out).

    From a reward model that has learnt the answers to held-out questions, a policy would learn them
    too. Raises UserError where fewer than 2 different prompts are left.
    """
    kept = [pair for pair in pairs if not task.is_held_out(pair.prompt)]
    if len({pair.prompt for pair in kept}) < 2:
        raise UserError(f"{path}: {len(pairs) - len(kept)} of {len(pairs)} pairs are of held-out "
                        "questions, and pairs of 2 other prompts at least are needed; add some")
    return kept, len(pairs) - len(kept)


def _parse_pair(line: str, where: str) -> Pair:
    try:
        data = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({clip(str(error), 80)}); mend or delete "
                        "that line") from None
    wanted = ('{"prompt": ..., "chosen": ..., "rejected": ...} wanted, each a text or messages; '
              "mend or delete that line")
    if not isinstance(data, dict):
        raise UserError(f"{where}: {wanted}")
    messages = data.get("messages") or ()
    if isinstance(data.get("prompt"), list):
        messages, data["prompt"] = data["prompt"], "\n".join(
            str(m.get("content")) for m in data["prompt"] if isinstance(m, dict))
    if not isinstance(messages, list | tuple) or not all(map(_is_message, messages)):
        raise UserError(f"{where}: messages are lists of role and content; {wanted}")
    for key in SIDES:
        said = data.get(key)  # an answer may be a list of one message
        if isinstance(said, list) and len(said) == 1 and _is_message(said[0]):
            data[key] = said[0]["content"]
        if not isinstance(data.get(key), str):
            raise UserError(f"{where}: no text {key!r}; {wanted}")
    if not data["prompt"]:
        raise UserError(f"{where}: an empty prompt; mend or delete that line")
    if data["chosen"] == data["rejected"]:
        raise UserError(f"{where}: chosen and rejected are the same, which says nothing; "
                        "delete that line")
    kept = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    return Pair(data["prompt"], data["chosen"], data["rejected"], kept)


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(key), str)
                                         for key in ("role", "content"))


def to_lines(pairs: Sequence[Pair]) -> bytes:
    """What ``read_pairs`` reads."""
    def line(pair: Pair) -> str:
        more = {"messages": pair.messages} if pair.messages else {}
        return json.dumps({key: getattr(pair, key) for key in SIDES} | more) + "\n"

    return "".join(map(line, pairs)).encode()


def split_pairs(pairs: Sequence[Pair], held_out: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(pairs to learn from, held-out pairs), at least one of each; all pairs of a prompt are on the
    same side, which ``seed`` decides."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(prompts) < 2:
        raise UserError("preference pairs of 2 different prompts at least are needed")
    order = np.random.default_rng([seed, 0x9A]).permutation(len(prompts))
    count = min(max(1, round(len(prompts) * held_out)), len(prompts) - 1)
    apart = {prompts[i] for i in order[:count]}
    return ([pair for pair in pairs if pair.prompt not in apart],
            [pair for pair in pairs if pair.prompt in apart])


def make_pairs(
    policy: TextPolicy, tokenizer: Any, task: Task, gold: Judge, config: PairConfig, seed: int,
    told: Callable[[int], None] = lambda pairs: None,
) -> MadePairs:
    """``config.count`` pairs of a policy's own samples, two a prompt, labelled by ``gold``.

    Left out are pairs of equal gold reward or equal text, and those with a sample that was cut off
    before its end. A label is turned round with probability ``config.noise``. told: hears how many
    there are. Raises UserError where hardly any pair is left, and says what most of them were left
    out for.
    """
    asker, rng = replace(policy, group=2), np.random.default_rng([seed, 0x9B])
    pairs: list[Pair] = []
    draws = flipped = whole = 0
    for number in range(2 + 40 * config.count // PROMPTS):
        examples = task.batch(FIRST_PAIRS + number, PROMPTS)
        batch = sample_batch(asker, tokenizer, examples, lambda c, e: {"gold": gold(c, e)},
                             {"gold": 1.0}, seed * 1_000_003 + number)
        (texts, ended), values = batch.completions, batch.parts["gold"].tolist()
        turned = rng.random(PROMPTS) < config.noise
        for i, example in enumerate(examples):
            a, b = 2 * i, 2 * i + 1
            draws += 1
            whole += ended[a] and ended[b]
            if values[a] == values[b] or texts[a] == texts[b] or not (ended[a] and ended[b]):
                continue
            if (values[a] < values[b]) != bool(turned[i]):
                a, b = b, a
            flipped += int(turned[i])
            pairs.append(Pair(example.prompt, texts[a], texts[b], tuple(example.messages)))
            if len(pairs) == config.count:
                return MadePairs(pairs, draws, flipped)
        told(len(pairs))
    head = f"pairs.count={config.count}: of {draws} pairs of samples "
    if 50 * whole < draws:  # of those few it would say nothing that they are alike
        raise UserError(f"{head}{draws - whole} have one that was cut off after "
                        f"{policy.sampling.max_new_tokens} tokens; raise "
                        "--set sample.max_new_tokens, or give SFT more time, so that it learns to "
                        "end")
    raise UserError(f"{head}only {len(pairs)} differ in their reward; ask for fewer, or take a "
                    "task that the policy solves sometimes and not always")
