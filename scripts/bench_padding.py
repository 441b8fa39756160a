"""How much of what a language model reads is padding, and what packing makes of it.

    .venv/bin/python scripts/bench_padding.py            # shares, and processor time of SFT steps

SFT: batches of 64 demonstrations, padded to the longest; cut by like length (``sft.part_tokens``);
with several texts in a row (``sft.pack``). RL: answers of 512, as long as demonstrations, in the
parts of an update on a CPU, and lengths of a lognormal distribution in parts of some sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfplay.learn.policy_gradient import PART_STEPS, PARTS
from selfplay.learn.rollout import parts_of
from selfplay.llm.embedded import character_tokenizer, small_model
from selfplay.llm.sft import (
    Sequences,
    lengths_of,
    packed,
    parts_of_texts,
    sequences_of,
    text_trainer,
)
from selfplay.llm.stage_config import TextSFTConfig
from selfplay.llm.tasks.corpus import Corpus
from selfplay.llm.tasks.task import make_task

TASKS = ("chain_sum(min_terms=5,max_terms=5,min_digits=1,max_digits=1)",
         "chain_sum(min_terms=2,max_terms=6,min_digits=1,max_digits=3)", "gcd", "basic_arithmetic")
WAYS: dict[str, dict[str, Any]] = {"padded": {}, "part_tokens=512": {"part_tokens": 512},
                                   "pack": {"pack": True}}


def padding(batches: Sequence[Sequences]) -> dict[str, float]:
    """Share of the tokens read that are padding, each way."""
    real = sum(int(lengths_of(texts).sum()) for texts in batches)
    read = {"padded": sum(texts.tokens.numel() for texts in batches),
            "part_tokens=512": sum(part.tokens.numel() for texts in batches
                                   for part in parts_of_texts(texts, 512)),
            "pack": sum(packed(texts).tokens.numel() for texts in batches)}
    return {way: 1 - real / count for way, count in read.items()}


def seconds(batches: Sequence[Sequences], tokenizer: Any, net: str) -> dict[str, float]:
    """Processor time of a step, each way: the median of three rounds."""
    trainers = {way: text_trainer(small_model(net, tokenizer, 0), TextSFTConfig(**more))
                for way, more in WAYS.items()}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(3):
        for way, trainer in trainers.items():
            began = time.process_time()
            for texts in batches:
                trainer.step(texts)
            spent[way].append((time.process_time() - began) / len(batches))
    return {way: float(np.median(some)) for way, some in spent.items()}


def of_parts(lengths: Tensor, fewest: int, most: int) -> str:
    """The padding of completions of such lengths, in parts as an update has them."""
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    parts = parts_of(mask, fewest, most)
    read = sum(len(rows) * int(lengths[rows].max()) for rows in parts)
    return f"{1 - int(lengths.sum()) / read:.1%} in {len(parts)} parts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="3x96")
    parser.add_argument("--batches", type=int, default=6)
    words = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = character_tokenizer()
    tasks = [make_task(name, style="short") for name in TASKS]
    every: list[tuple[str, Any, str]] = [
        (name, task, "completion") for name, task in zip(TASKS, tasks, strict=True)]
    for name, task, on in (*every, ("all four, as pretraining", Corpus(tasks, 0), "text")):
        batches = [sequences_of(task.batch(k, 64), tokenizer, on) for k in range(words.batches)]
        shares, spent = padding(batches), seconds(batches, tokenizer, words.net)
        print(f"SFT {name}: " + ", ".join(
            f"{way} {shares[way]:.0%} padding {1e3 * spent[way]:.0f} ms" for way in WAYS),
            flush=True)
    for name, task, on in every:
        lengths = sequences_of(task.batch(100, 512), tokenizer, on).learnt.sum(1)
        print(f"RL {name}: padding of answers {of_parts(lengths, PARTS['cpu'], PART_STEPS['cpu'])}")
    for sigma in (0.5, 1.0):
        drawn = np.exp(np.random.default_rng(0).normal(5, sigma, 1024)).clip(1, 2048)
        lengths = torch.from_numpy(drawn.astype(np.int64))
        found = [f"part_steps={most}: {of_parts(lengths, 1, most)}"
                 for most in (PART_STEPS["cuda"], 32768, 8192)]
        print(f"1,024 answers, lognormal with sigma {sigma}: " + "; ".join(found))


if __name__ == "__main__":
    main()
