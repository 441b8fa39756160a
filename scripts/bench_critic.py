"""PPO with its critic beside GRPO without, from one checkpoint, on the same prompts and samples.

    .venv/bin/selfplay llm train --task "chain_sum(min_terms=5,max_terms=5,max_digits=1)" \\
        --recipe sft --minutes 5 --run runs/taught --set data.wrong=0.6 --set data.slips=carry
    .venv/bin/python scripts/bench_critic.py runs/taught --steps 100

Each algorithm has a process of its own and its own settings (``selfplay.llm.config``), so as many
optimizer steps a batch as it has by default; ``--set pg.epochs=1 --set pg.minibatches=1`` gives
both one. Accuracy is on held-out questions, with its 95% interval. Seconds a step are medians,
processor time of all and wall time of generating and learning apart. ``state`` is what has to be
held: parameters and the optimizer's moments; ``peak`` the most resident memory of the process in a
step, ``above`` what of it is more than before the first step (torch itself is most of the rest).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from selfplay.bench.arguments import positive


def side(args: argparse.Namespace) -> dict[str, Any]:
    """Learn by ``args.side``; what it has cost and brought."""
    from dataclasses import replace

    from selfplay.common.machine import rss_mb
    from selfplay.common.settings import override
    from selfplay.learn.checkpoint import chosen
    from selfplay.llm.config import with_algorithm
    from selfplay.llm.folder import (
        open_learner,
        open_text_run,
        sampling_of,
        stored_text_config,
    )
    from selfplay.llm.recipes import goal_of
    from selfplay.run.keep import Watch

    stored, taught = stored_text_config(args.run), chosen(args.run / "sft")
    if stored is None or taught is None:
        sys.exit(f"{args.run}: no run with an SFT; make one as the top of this script says")
    run = open_text_run(args.run, stored)
    config = override(with_algorithm(stored, args.side), args.assignments)
    with tempfile.TemporaryDirectory() as folder:
        learner, _ = open_learner(
            goal_of(replace(run, config=config)), taught, Path(folder),
            replace(config.rl, evaluate_prompts=args.questions), config.pg,
            sampling=sampling_of(config), seed=args.seed)
        start, before = learner.look(), rss_mb()
        rows, watch = [], Watch()
        for _ in range(args.steps):
            began = time.process_time()
            row = learner.advance(watch)
            rows.append({**row, **watch.take(), "cpu": time.process_time() - began})
        tensors, _ = learner.optimizer.state()
        peak = max(max(row["generate_rss_mb"], row["update_rss_mb"]) for row in rows)
        return {
            "start": start, "end": learner.look(),
            "completions": sum(r["completions"] for r in rows),
            "cpu": median(r["cpu"] for r in rows),
            "generate": median(r["generate_seconds"] for r in rows),
            "update": median(r["update_seconds"] for r in rows),
            "updates": sum(r.get("updates", 0.0) for r in rows) / len(rows),
            "state": sum(t.numel() * t.element_size() for t in tensors.values()) / 2**20,
            "peak": peak, "above": peak - before,
            "explained": rows[-1].get("explained_variance")}


def shown(name: str, found: dict[str, Any]) -> str:
    end = found["end"]
    rates = "  ".join(f"{kind} {end[f'{kind}_accuracy']:.1%} [{end[f'{kind}_low']:.1%}, "
                      f"{end[f'{kind}_high']:.1%}]" for kind in ("sampled", "greedy"))
    critic = "" if found["explained"] is None else f"  explained {found['explained']:.2f}"
    return (f"{name:<6}{rates}\n      {found['completions']:,.0f} completions, "
            f"{found['updates']:.1f} optimizer steps a step{critic}\n"
            f"      a step: {found['cpu']:.3f} s of processor time ({found['generate']:.3f} "
            f"generating, {found['update']:.3f} learning, by the wall)\n"
            f"      state {found['state']:.1f} MB, peak {found['peak']:.0f} MB, above "
            f"{found['above']:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose SFT both begin with")
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--questions", type=positive, default=512,
                        help="held-out ones measured on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--side", choices=("ppo", "grpo"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(side(args)))
        return
    for name in ("ppo", "grpo"):
        words = [sys.executable, __file__, *sys.argv[1:], "--side", name]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        if done.returncode:  # it has said why
            sys.exit(done.returncode)
        found = json.loads(done.stdout.splitlines()[-1])
        if name == "ppo":
            start = found["start"]
            print(f"start sampled {start['sampled_accuracy']:.1%}, greedy "
                  f"{start['greedy_accuracy']:.1%} of {args.questions} questions")
        print(shown(name, found), flush=True)


if __name__ == "__main__":
    main()
