"""Several processes beside as many threads, and what a process holds of a sharded model.

    .venv/bin/python scripts/bench_distributed.py                    # positions/s, 2 beside 2
    .venv/bin/python scripts/bench_distributed.py --shard 1 2 4      # bytes and updates

The first: training steps of a board's net by --processes processes and by as many threads of one,
in turn, on as many free cores. The second: a GRPO update of a random model of Qwen2's shape by each
number of processes, the bytes of weights and moments that one of them holds, and how far the
weights are from those of the first number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfplay.common import ranks
from selfplay.learn.distributed import in_company

HERE = Path(__file__).resolve()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--game", default="go9x9")
    parser.add_argument("--net", default="6x64")
    parser.add_argument("--shard", type=int, nargs="+", default=[])
    parser.add_argument("--width", type=int, default=256, help="of the sharded model")
    parser.add_argument("--child", choices=("boards", "texts"))
    parser.add_argument("--out", type=Path, default=Path("found.json"))
    return parser.parse_args()


def by(processes: int, threads: int, *words: str) -> dict[str, Any]:
    """What this script as a child of so many processes and threads finds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        subprocess.run([sys.executable, *(launch if processes > 1 else []), str(HERE), *words,
                        "--out", str(out)], check=True,
                       env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        found: dict[str, Any] = json.loads(out.read_text())
        if (weights := out.with_suffix(".npy")).exists():
            found["weights"] = np.load(weights)
        return found


def boards(options: argparse.Namespace) -> dict[str, Any]:
    """Positions/s of training steps of 256 random rows."""
    from selfplay.board.data import Batch
    from selfplay.board.trainer import TrainConfig, board_trainer
    from selfplay.games import make
    from selfplay.models import build, seeded, spec_for

    game, rng, rows = make(options.game), np.random.default_rng(0), 256
    spec = spec_for(game, options.net)
    cells = game.board_shape[0] * game.board_shape[1]
    batch = Batch(
        obs=rng.integers(0, 2, (rows, *game.obs_shape)).astype(np.float32),
        policy=rng.dirichlet(np.ones(game.num_actions), rows).astype(np.float32),
        policy_weight=np.ones(rows, np.float32), value=rng.choice([-1, 1], rows).astype(np.float32),
        ownership=rng.choice([-1, 1], (rows, cells)).astype(np.float32),
        score=rng.normal(0, 9, rows).astype(np.float32), aux_weight=np.ones(rows, np.float32))
    trainer = board_trainer(seeded(0, lambda: build(spec)), TrainConfig())
    trainer.step(batch)
    start = time.perf_counter()
    while ranks.here().first(time.perf_counter() - start) < options.seconds:
        trainer.step(batch)
    return {"rate": rows * (trainer.steps - 1) / (time.perf_counter() - start)}


def texts(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes of weights and moments here after an update, and the update's figures."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from selfplay.learn.config import algorithm
    from selfplay.learn.policy_gradient import PolicyOptimizer
    from selfplay.learn.rollout import Rollout
    from selfplay.llm.memory import Memory
    from selfplay.llm.policy import Net, TextPolicy, evaluated

    torch.manual_seed(0)
    net = Net(Qwen2ForCausalLM(Qwen2Config(
        vocab_size=1000, hidden_size=options.width, intermediate_size=3 * options.width,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)).eval())
    count, steps = 16, 24
    prompt, action = torch.randint(0, 1000, (count, 8)), torch.randint(0, 1000, (count, steps))
    mask = torch.arange(steps)[None] < torch.randint(4, steps + 1, (count, 1))
    Memory(shared_out=True).shard(net.policy)
    policy = TextPolicy(net, (1,), 0)
    rollout = Rollout({"prompt": prompt, "prompt_mask": torch.ones_like(prompt).bool()}, action,
                      mask, torch.zeros(mask.shape), mask * torch.randn(count, 1),
                      torch.arange(count) // 4)
    with torch.no_grad():
        alone = evaluated(rollout, policy, None)
        alone.logp.copy_(policy.evaluate(rollout).logp)
    optimizer = PolicyOptimizer(policy, algorithm("grpo", learning_rate=1e-4))
    figures = optimizer(alone, np.random.default_rng(0))
    tensors, _ = optimizer.state()
    if ranks.leads():
        np.save(options.out.with_suffix(".npy"), torch.cat(
            [t.flatten().cpu() for name, t in tensors.items() if name.startswith("net.")]).numpy())
    held = optimizer.trainer.held_bytes()
    return {"bytes": held, "loss": figures["loss"], "grad_norm": figures["grad_norm"]}


def main() -> None:
    options = arguments()
    if options.child:
        with in_company():
            found = boards(options) if options.child == "boards" else texts(options)
            if ranks.leads():
                options.out.write_text(json.dumps(found))
        return
    if options.shard:
        first: dict[str, Any] = {}
        print("processes  bytes a process  share  loss        farthest weight")
        for count in options.shard:
            row = by(count, 1, "--child", "texts", "--width", str(options.width))
            first = first or row
            far = float(np.abs(row["weights"] - first["weights"]).max())
            print(f"{count:9d}  {row['bytes']:15,d}  {row['bytes'] / first['bytes']:5.3f}  "
                  f"{row['loss']:10.7f}  {far:.1e}")
        return
    words = ("--child", "boards", "--game", options.game, "--net", options.net, "--seconds",
             str(options.seconds))
    for _ in range(options.pairs):
        several = by(options.processes, 1, *words)["rate"]
        threads = by(1, options.processes, *words)["rate"]
        print(f"{options.processes} processes {several:7.1f} positions/s, as many threads "
              f"{threads:7.1f}: {several / threads:.3f}", flush=True)


if __name__ == "__main__":
    main()
