"""One GRPO step of a small model: ours beside TRL's GRPOTrainer, in alternating pairs.

    .venv/bin/pip install -c constraints.txt -e ".[llm,dev]"
    python scripts/bench_trl.py                              # every core this process may use
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/bench_trl.py --clock cpu     # one, busy or not

A step is the same on both sides: ``--prompts`` questions of a task, ``--group`` completions of each
at temperature 1 and of at most ``--tokens`` tokens, the task's verifier, advantages within the
group, one optimizer step over all of them, without KL and without logging. Model, tokenizer,
weights, prompts, dtype (float32) and number of torch's threads are the same; TRL generates through
transformers, without gradient checkpointing, and keeps its other defaults. The learning rate is so
small (1e-7) that completions keep their length. Without ``--model`` the weights are random, so that
nearly every completion is as long as it may be; with a trained one most end early.

Each side has a process of its own that sleeps on a pipe while the other works, and makes
``--warm`` steps that do not count. ``ratio`` is the median of the pairs' ratios of steps a second
and says how many times faster ours is, ``spread`` is its lowest and highest. ``tokens`` are those
generated a step, which shows that both did the same work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from selfplay.bench.arguments import positive

Sample = dict[str, float]  #: of some steps: wall and cpu seconds, tokens a step, peak megabytes
RATE = 1e-7


def make_model(folder: Path, dial: str) -> None:
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.models import save_model

    tokenizer = character_tokenizer()
    save_model(folder, small_model(dial, tokenizer, 0), tokenizer)


class Clock:
    """Waits for the word, and says what the steps since then have cost."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.done, self.tokens = args, 0, 0.0
        self.wall = self.cpu = 0.0

    def step(self, tokens: float) -> bool:
        """Count a step that has ended; False where no more are wanted."""
        from selfplay.common.machine import peak_mb

        self.done += 1
        self.tokens += tokens
        if self.done < self.args.warm:
            return True
        if self.done > self.args.warm:
            if (self.done - self.args.warm) % self.args.steps:
                return True
            print(json.dumps({"wall": time.perf_counter() - self.wall,
                              "cpu": time.process_time() - self.cpu,
                              "tokens": self.tokens / self.args.steps, "mb": peak_mb()}),
                  flush=True)
        else:
            print(json.dumps({"ready": True}), flush=True)
        if not sys.stdin.readline().strip():
            return False
        self.tokens, self.wall, self.cpu = 0.0, time.perf_counter(), time.process_time()
        return True


def our_side(args: argparse.Namespace) -> None:
    from selfplay.learn.config import algorithm
    from selfplay.llm.folder import open_learner
    from selfplay.llm.generate import Sampling
    from selfplay.llm.rl import RewardedTask
    from selfplay.llm.stage_config import TextRLConfig
    from selfplay.llm.tasks.task import make_task

    job = RewardedTask(make_task(args.task, style="short"))
    config = TextRLConfig(prompts=args.prompts, group=args.group, evaluate_prompts=1)
    with tempfile.TemporaryDirectory() as folder:
        learner, _ = open_learner(job, args.model, Path(folder), config,
                                  algorithm("grpo", learning_rate=RATE), device=args.device,
                                  sampling=Sampling(max_new_tokens=args.tokens))
        clock = Clock(args)
        while clock.step(learner.advance()["tokens"]):
            pass


def their_side(args: argparse.Namespace) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from selfplay.llm.models import load_model
    from selfplay.llm.rewards import reward
    from selfplay.llm.tasks.task import make_task

    clock, written = Clock(args), [0]
    examples = make_task(args.task, style="short").batch(0, args.prompts * 256)
    known = {e.prompt: e for e in examples}
    model, tokenizer = load_model(args.model)

    def judge(
        prompts: Any, completions: Any, completion_ids: Any, **_: Any,
    ) -> list[float | None]:
        written[0] = sum(map(len, completion_ids))
        return [reward(c[0]["content"], known[p[0]["content"]])["accuracy"]
                for p, c in zip(prompts, completions, strict=True)]

    class Wait(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not clock.step(written[0])

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model, processing_class=tokenizer, reward_funcs=judge, callbacks=[Wait()],
            train_dataset=Dataset.from_list(
                [{"prompt": [{"role": "user", "content": p}]} for p in known]),
            args=GRPOConfig(
                output_dir=folder, use_cpu=args.device == "cpu", bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=args.prompts * args.group,
                num_generations=args.group, max_completion_length=args.tokens,
                temperature=1.0, beta=0.0, num_iterations=1, loss_type="grpo",
                learning_rate=RATE, lr_scheduler_type="constant", max_steps=1_000_000,
                logging_strategy="no", save_strategy="no", report_to="none",
                disable_tqdm=True))
        trainer.train()


def start(side: str, args: argparse.Namespace) -> subprocess.Popen[str]:
    words = [sys.executable, __file__, "--side", side]
    for name in ("model", "task", "prompts", "group", "tokens", "warm", "steps", "device"):
        words += [f"--{name}", str(getattr(args, name))]
    errors = Path(tempfile.gettempdir()) / f"bench-trl-{side}.err"
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               stderr=errors.open("w"))
    answer(process, errors)
    return process


def answer(process: subprocess.Popen[str], errors: Path | None = None) -> Sample:
    """The next JSON line; other lines are a library's."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    sys.exit(f"a side has failed; see {errors or tempfile.gettempdir()}")


def measure(process: subprocess.Popen[str]) -> Sample:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return answer(process)


def compare(args: argparse.Namespace) -> None:
    names = ["ours", "trl"] if find_spec("trl") else ["ours"]
    sides = {name: start(name, args) for name in names}
    pairs: list[dict[str, Sample]] = []
    for k in range(args.pairs):
        order = list(sides) if k % 2 == 0 else list(sides)[::-1]
        pairs.append({name: measure(sides[name]) for name in order})
    for process in sides.values():
        process.communicate("\n", timeout=120)
    if args.json:
        found: dict[str, Any] = {name: {
            key: median(pair[name][key] for pair in pairs) / over
            for key, over in (("wall", args.steps), ("cpu", args.steps), ("tokens", 1), ("mb", 1))}
            for name in names}
        if "trl" in names:
            found["ratio"] = median(pair["trl"][args.clock] / pair["ours"][args.clock]
                                    for pair in pairs)
        print(json.dumps(found))
        return
    for name in sides:
        print(f"{name:<6}" + "  ".join(
            f"{key} {median(pair[name][key] for pair in pairs) / over:8.3f} {unit}"
            for key, over, unit in (("wall", args.steps, "s/step"), ("cpu", args.steps, "s/step"),
                                    ("tokens", 1, "a step"), ("mb", 1, "MB at most"))))
    if "trl" not in names:
        print("trl is not installed: ours alone")
        return
    ratios = [pair["trl"][args.clock] / pair["ours"][args.clock] for pair in pairs]
    print(f"ratio {median(ratios):.2f}  spread {min(ratios):.2f}-{max(ratios):.2f}  "
          f"({args.clock} time, {len(pairs)} pairs of {args.steps} steps)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder of save_pretrained; default: random weights")
    parser.add_argument("--net", default="3x96", help="size of the random model")
    parser.add_argument("--task", default="chain_sum(min_terms=5,max_terms=5,max_digits=1)")
    parser.add_argument("--prompts", type=positive, default=32)
    parser.add_argument("--group", type=positive, default=16)
    parser.add_argument("--tokens", type=positive, default=32)
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--steps", type=positive, default=3, help="in each half of a pair")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of both")
    parser.add_argument("--json", action="store_true", help="the medians as one line")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        (our_side if args.side == "ours" else their_side)(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            make_model(Path(folder), args.net)
            args.model = folder
        compare(args)


if __name__ == "__main__":
    main()
