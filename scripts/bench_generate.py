#!/usr/bin/env python3
"""Completions of a model that was given: ours beside `transformers.generate`, in alternating pairs.

    python scripts/bench_generate.py models/smollm2 --prompts 4 --group 8 --tokens 64
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/bench_generate.py models/smollm2

Both sample ``--group`` completions of each prompt at temperature 1 and of ``--tokens`` tokens each,
none of which ends (no token is an end token), in float32, in one process with the same number of
torch's threads. ``--shown`` examples in each prompt make it longer. ``ratio`` is the median of the
pairs' ratios of tokens a second and says how many times faster ours is; the memory is the most
resident of the side, less what there was before it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from selfplay.bench.arguments import positive


def sides(args: argparse.Namespace) -> tuple[dict[str, Callable[[int], int]], int]:
    """(name -> what writes with a seed and counts the tokens, tokens of a prompt)."""
    import torch

    from selfplay.llm.generate import Sampling, TorchGenerator
    from selfplay.llm.models import chat_tokens, load_model

    model, tokenizer = load_model(args.model)
    model.eval()
    prompts = [chat_tokens(tokenizer, [{"role": "user", "content": " ".join(
        f"What is {i + k} plus {7 * i + 10}?" for k in range(1, args.shown + 1))}])
        for i in range(10, 10 + args.prompts)]
    ours = TorchGenerator(model, (), tokenizer.pad_token_id, tokenizer)
    sampling = Sampling(max_new_tokens=args.tokens)
    asked: Any = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")

    def mine(seed: int) -> int:
        return int(ours(prompts, args.group, sampling, seed).mask.sum())

    def theirs(seed: int) -> int:
        torch.manual_seed(seed)
        with torch.no_grad():
            found = model.generate(
                **asked, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                num_return_sequences=args.group, min_new_tokens=args.tokens,
                max_new_tokens=args.tokens, pad_token_id=tokenizer.pad_token_id)
        return len(found) * (found.shape[1] - asked["input_ids"].shape[1])

    return {"ours": mine, "transformers": theirs}, max(map(len, prompts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of save_pretrained, or a hub id")
    parser.add_argument("--prompts", type=positive, default=4)
    parser.add_argument("--group", type=positive, default=8)
    parser.add_argument("--tokens", type=positive, default=64)
    parser.add_argument("--shown", type=positive, default=4)
    parser.add_argument("--pairs", type=positive, default=3)
    args = parser.parse_args()

    from selfplay.common.machine import peak_mb, reset_peak, rss_mb

    both, length = sides(args)
    speed: dict[str, list[float]] = {name: [] for name in both}
    memory: dict[str, list[float]] = {name: [] for name in both}
    for pair in range(args.pairs + 1):  # the first does not count
        for name in list(both)[:: 1 if pair % 2 else -1]:
            reset_peak()
            before, start = rss_mb(), time.perf_counter()
            tokens = both[name](pair)
            speed[name].append(tokens / (time.perf_counter() - start))
            memory[name].append(peak_mb() - before)
    for name in both:
        print(f"{name:<14}{median(speed[name][1:]):8.1f} tokens/s  {max(memory[name]):6.0f} MB")
    ratios = [a / b for a, b in zip(*(rates[1:] for rates in speed.values()), strict=True)]
    print(f"ratio {median(ratios):.2f}  spread {min(ratios):.2f}-{max(ratios):.2f}  ({args.pairs} "
          f"pairs; {args.prompts} prompts of {length} tokens, {args.group} completions of "
          f"{args.tokens})")


if __name__ == "__main__":
    main()
