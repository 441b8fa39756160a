"""Completions by actors on Ray beside one process: steps/s of GRPO of the embedded model.

    .venv/bin/python scripts/bench_texts.py                 # 2 actors, 2 rounds of 20 s each
    .venv/bin/python scripts/bench_texts.py --niceness 15   # actors as low as Ray starts them

The same run three ways, in turn: one process with a thread a core; actors that write while the
trainer waits (its rewards must be those of one process); actors that write the next step's
completions while the trainer learns (``sample.max_staleness=1``). A way's first step in a round,
in which it begins, does not count.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

TASK = "chain_sum(min_terms=3,max_terms=3,min_digits=1,max_digits=1)"
WAYS = ("one process", "actors, in turn", "actors, one step ahead")
STEPS = 3  #: whose rewards must be the same; later ones may part by rounding


def started(folder: Path, net: str, steps: int) -> str:
    """A model that has learnt demonstrations for a little: some of its answers are right."""
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.models import save_model
    from selfplay.llm.sft import sequences_of, text_trainer
    from selfplay.llm.stage_config import TextSFTConfig
    from selfplay.llm.tasks.task import make_task

    tokenizer, task = character_tokenizer(), make_task(TASK, style="short")
    model = small_model(net, tokenizer, 0)
    trainer = text_trainer(model, TextSFTConfig())
    for step in range(steps):
        trainer.step(sequences_of(task.batch(step, 64), tokenizer))
    save_model(folder, model.eval(), tokenizer)
    return str(folder)


def learner_of(way: str, init: str, folder: Path, farm: Any, words: argparse.Namespace) -> Any:
    from selfplay.cluster.texts import text_engine
    from selfplay.learn.config import algorithm
    from selfplay.llm.folder import no_engine, open_learner
    from selfplay.llm.generate import Sampling
    from selfplay.llm.rl import RewardedTask
    from selfplay.llm.stage_config import TextRLConfig
    from selfplay.llm.tasks.task import make_task

    away = way != WAYS[0]
    config = TextRLConfig(prompts=words.prompts, group=words.group, evaluate_every=1 << 30,
                          evaluate_prompts=2, shown=0, watch_kl=False)
    found, _ = open_learner(
        RewardedTask(make_task(TASK, style="short")), init, folder / way, config,
        algorithm("grpo", learning_rate=1e-4, mismatch="truncate" if away else "ignore"),
        sampling=Sampling(max_new_tokens=words.tokens), seed=1,
        engine=text_engine(farm) if away else no_engine, staleness=int(way == WAYS[2]))
    return found


def measured(learner: Any, seconds: float) -> tuple[list[dict[str, float]], float]:
    """(the rows of so many seconds behind the first, steps a second of them)."""
    from selfplay.run.keep import Watch

    watch, rows, at = Watch(), list[dict[str, float]](), list[float]()
    for row in learner.rows(watch=watch, stop=lambda: len(at) > STEPS and at[-1] - at[0] > seconds):
        rows.append({**row, **watch.take()})
        at.append(time.perf_counter())
    return rows, (len(rows) - 1) / (at[-1] - at[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--niceness", type=int, default=0, help="of actors; Ray's own is 15")
    parser.add_argument("--net", default="3x96")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="of a completion, at most")
    parser.add_argument("--sft", type=int, default=150, help="steps of SFT before")
    words = parser.parse_args()
    os.environ.update({"RAY_worker_niceness": str(words.niceness)})  # read when Ray starts
    from selfplay.cluster.farm import Farm
    from selfplay.run.config import RayConfig

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    farm = Farm("local", RayConfig(cpus=1.0), actors=words.actors)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    rewards: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            init = started(folder / "init", words.net, words.sft)
            while farm.alive < words.actors:
                farm.poll(0.5)
            learners = {way: learner_of(way, init, folder, farm, words) for way in WAYS}
            print(f"{cores} cores, {words.actors} actors of niceness {words.niceness}, "
                  f"{words.net}, {words.prompts} x {words.group} completions", flush=True)
            for k in range(words.rounds):
                for way in WAYS if k % 2 == 0 else WAYS[::-1]:
                    rows, rate = measured(learners[way], words.seconds)
                    rates[way].append(rate)
                    rewards[way] += [row["reward"] for row in rows]
                    mean = {key: np.mean([row[key] for row in rows[1:]]) for key in (
                        "generate_seconds", "update_seconds", "length", "reward")}
                    print(f"{way:<24} {rate:6.3f} steps/s, waits {mean['generate_seconds']:.2f} s "
                          f"for completions of {mean['length']:.1f} tokens, learns "
                          f"{mean['update_seconds']:.2f} s, reward {mean['reward']:.3f}",
                          flush=True)
    finally:
        farm.close()
    alone, turn = rewards[WAYS[0]], rewards[WAYS[1]]
    same = sum(a == b for a, b in zip(alone, turn, strict=False))
    print(f"rewards of {same} of {min(len(alone), len(turn))} steps are those of one process, "
          f"in turn")
    assert alone[:STEPS] == turn[:STEPS], (alone[:STEPS], turn[:STEPS])
    base = np.mean(rates[WAYS[0]])
    for way in WAYS[1:]:
        ratios = [a / b for a, b in zip(rates[way], rates[WAYS[0]], strict=True)]
        print(f"{way}: {np.mean(rates[way]) / base:.2f} of one process's steps/s "
              f"({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
