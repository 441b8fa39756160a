"""Peak memory of an update of a language model, against its tokens and its vocabulary.

    .venv/bin/python scripts/bench_memory.py
    .venv/bin/python scripts/bench_memory.py --vocabulary 50000 --set pg.part_steps=1024
    .venv/bin/python scripts/bench_memory.py --given --set memory.checkpointing=true
    .venv/bin/python scripts/bench_memory.py --model smollm2 --tokens 1024 --group 32 --prompt 40

A model of ``--net`` with random weights and a vocabulary of its own size learns by GRPO from
completions of ``--length`` random tokens, as many as make ``--tokens``. ``whole`` holds the logits
of all tokens of a pass, ``parts`` those of a few at a time. Each row is a process of its own;
``peak`` is its most resident memory less what it had before the update, ``one`` what a single
tensor of tokens x vocabulary in float32 would take. ``--given`` takes transformers' Llama, as for a
model given with --model, in place of the embedded one; ``--model`` a real one with its own
vocabulary, after a small first update that makes the optimizer's moments. An update goes in four
parts, or in as many as there are prompts, if these are fewer.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from selfplay.bench.arguments import positive


def update(args: argparse.Namespace, tokens: int, vocabulary: int, whole: bool) -> float:
    """Megabytes that an update adds at its peak to what there was before it."""
    import numpy as np
    import torch

    from selfplay.common.machine import peak_mb, reset_peak, rss_mb
    from selfplay.common.settings import override
    from selfplay.learn.policy_gradient import PolicyOptimizer
    from selfplay.learn.rollout import Rollout
    from selfplay.llm import memory
    from selfplay.llm.config import TextConfig
    from selfplay.llm.embedded import shape_of
    from selfplay.llm.memory import Memory
    from selfplay.llm.policy import Net, TextPolicy
    from selfplay.models.transformer import Transformer, TransformerConfig

    torch.manual_seed(0)
    if args.model:
        from selfplay.llm.models import load_model

        model: torch.nn.Module = load_model(args.model)[0]
    else:
        layers, width = shape_of(args.net)
        config = TransformerConfig(vocabulary, width, layers, 3 * width, width // 32, 1024, 0, 1)
        model = Transformer(config)
    if args.given:
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(**config.to_diff_dict()))
    settings = override(TextConfig("chain_sum"), args.assignments)
    policy = TextPolicy(Net(model.eval()), (1,), 0, memory=Memory(**vars(settings.memory)))
    def rollout_of(tokens: int) -> Rollout:
        rows = max(tokens // args.length, 2)
        mask = torch.ones(rows, args.length, dtype=torch.bool)
        group = torch.arange(rows) // args.group
        asked = torch.full((rows, args.prompt), 2)
        asked[:, 0] += group % 1000  # each group has a prompt of its own
        old = -math.log(vocabulary)
        return Rollout({"prompt": asked, "prompt_mask": torch.ones_like(asked).bool()},
                       torch.randint(2, vocabulary, mask.shape), mask,
                       torch.full(mask.shape, old), torch.rand(mask.shape), group)

    if whole:
        memory.ENTRIES["cpu"] = 1 << 60
    made = PolicyOptimizer(policy, replace(settings.pg, max_kl=math.inf), cut=policy.parts)
    if args.model:
        made(rollout_of(64), np.random.default_rng(0))
    rollout = rollout_of(tokens)
    reset_peak()
    before = rss_mb()
    made(rollout, np.random.default_rng(0))
    return peak_mb() - before


def vocabulary_of(folder: str) -> int:
    return int(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="2x64", help="layers x width")
    parser.add_argument("--tokens", type=positive, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--vocabulary", type=positive, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--length", type=positive, default=64, help="tokens of a completion")
    parser.add_argument("--group", type=positive, default=2, help="completions of a prompt")
    parser.add_argument("--prompt", type=positive, default=4, help="tokens of a prompt")
    parser.add_argument("--given", action="store_true", help="a model of transformers'")
    parser.add_argument("--model", help="a folder's model, with its own vocabulary")
    parser.add_argument("--set", dest="assignments", action="append", default=[],
                        metavar="KEY=VALUE", help="settings of pg and memory")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        tokens, vocabulary, whole = json.loads(args.row)
        print(json.dumps(update(args, tokens, vocabulary, whole)))
        return
    vocabularies = [vocabulary_of(args.model)] if args.model else args.vocabulary
    print(f"{'tokens':>8}{'vocabulary':>12}{'one':>10}{'whole':>12}{'parts':>12}")
    for tokens, vocabulary in product(args.tokens, vocabularies):
        found = []
        for whole in (True, False):
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--row",
                 json.dumps([tokens, vocabulary, whole])],
                capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr.strip().splitlines()[-1])
            found.append(float(done.stdout))
        print(f"{tokens:>8,}{vocabulary:>12,}{4 * tokens * vocabulary / 2**20:>7,.0f} MB"
              + "".join(f"{mb:>9,.0f} MB" for mb in found), flush=True)


if __name__ == "__main__":
    main()
