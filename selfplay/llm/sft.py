"""Supervised learning of texts: next-token cross-entropy until the held-out curve is flat.

On demonstrations it learns the completions; with ``on="text"`` questions as well, which is what
pretraining is. Step k depends on (seed, k) and the weights alone, so that a run that was killed
goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common.errors import UserError, advise_on_breakdown
from selfplay.common.files import read_history, write_history, write_json
from selfplay.learn import checkpoint
from selfplay.learn.losses import gather_logp, masked_mean
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import DROP, LATEST, HeldOutCurve, replayed
from selfplay.llm import store
from selfplay.llm.config import TextSFTConfig
from selfplay.llm.evaluate import accuracy, answers
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import complete, end_tokens, load, render
from selfplay.llm.rewards import Example
from selfplay.llm.tasks import Task, demonstration

SHOWN = 4  #: completions written down at a look
HELD_AT_ONCE = 64  #: held-out texts of one forward pass


class Sequences(NamedTuple):
    """B texts, padded on the right."""

    tokens: Tensor  #: int64 [B, L]
    learnt: Tensor  #: bool [B, L], tokens that the loss is about


def text_trainer(model: nn.Module, config: TextSFTConfig, seed: int = 0) -> Trainer:
    """A trainer of ``Sequences``; only what wants a gradient learns. seed: of what steps draw,
    which is dropout."""
    device = next(model.parameters()).device

    def loss(net: nn.Module, texts: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        with _drawing(device, seed, trainer.steps):
            return text_loss(net, texts), {}

    trainer = Trainer(model, loss, OptimizerConfig(
        config.learning_rate, config.weight_decay, grad_clip=config.grad_clip,
        warmup=config.warmup), device=str(device), mode=True, called="SFT step")
    return trainer


@contextmanager
def _drawing(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """What torch draws in the block follows from (seed, step) and leaves its generators alone."""
    number = int(np.random.SeedSequence([seed, 0xD0, step]).generate_state(1)[0])
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(number)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def texts_of(examples: Iterable[Example], tokenizer: Any, on: str = "completion") -> Sequences:
    """What to learn from examples: their demonstrations, or their bare answers where they have
    none, behind their prompts. on: "completion" or "text", see ``TextSFTConfig``."""
    rows = [(render(tokenizer, e.prompt), complete(tokenizer, shown(e))) for e in examples]
    width = max(len(a) + len(b) for a, b in rows)
    tokens = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
    learnt = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[i, :end] = torch.tensor(prompt + completion)
        learnt[i, (1 if on == "text" else len(prompt)):end] = True
    return Sequences(tokens, learnt)


def shown(example: Example) -> str:
    """The completion to learn."""
    if example.demonstration is not None:
        return example.demonstration
    return demonstration("", example.answer, example.format)


def text_loss(model: nn.Module, texts: Sequences) -> Tensor:
    """Scalar: mean cross-entropy of the learnt tokens, nats a token.

    Padding stands on the right, where a causal model sees it from nowhere that counts: no mask.
    """
    device = next(model.parameters()).device
    tokens, learnt = texts.tokens.to(device), texts.learnt.to(device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return masked_mean(-gather_logp(logits, tokens[:, 1:]), learnt[:, 1:].float())


@torch.no_grad()
def held_loss(model: nn.Module, held: Sequence[Sequences]) -> float:
    """``text_loss`` over all held-out texts, token by token alike."""
    model.eval()
    counts = [float(t.learnt[:, 1:].sum()) for t in held]
    sums = [float(text_loss(model, t)) * n for t, n in zip(held, counts, strict=True)]
    return sum(sums) / max(sum(counts), 1.0)


def train_sft(
    model: nn.Module, tokenizer: Any, task: Task, config: TextSFTConfig, folder: Path, *,
    held_out: int, sampling: Sampling, seed: int, device: str = "cpu",
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Callable[[int, dict[str, float]], None] = lambda step, row: None,
) -> Path:
    """Train until the held-out curve is flat, ``max_steps``, or ``left()`` seconds are used up,
    but for one look at what is held out at least.

    Every look saves ``ckpt-STEP`` and a row of ``history.jsonl``: step, seconds, flops, tokens,
    learning_rate, loss (held out), greedy and sampled (``accuracy``'s figures), train, shown
    (prompt, completion). A later call in the same folder goes on from the newest; ``model`` is
    then only where it began. Returns the best checkpoint by held-out loss.
    """
    newest, history = checkpoint.newest(folder), []
    if newest is not None:
        model, tokenizer = load(newest)
    trainer = text_trainer(model.to(device), config, seed)
    curve, spent = HeldOutCurve(), 0.0
    if newest is not None:
        trainer.load_state(*checkpoint.load_training(newest))
        found = read_history(folder / "history.jsonl")
        history = [row for row in found if row["step"] <= trainer.steps]
        curve = replayed(history, "loss", config.learning_rate, config.gain, config.patience)
        spent = history[-1]["seconds"] if history else 0.0
        write_json(folder / "best.json", curve.note(config.drops))
    tokens = history[-1]["tokens"] if history else 0
    examples = task.held_out(held_out)
    held = [texts_of(examples[i:i + HELD_AT_ONCE], tokenizer, config.on)
            for i in range(0, len(examples), HELD_AT_ONCE)]
    generator = TorchGenerator(model, end_tokens(model, tokenizer), tokenizer.pad_token_id)
    size = sum(p.numel() for p in model.parameters())
    started, remaining = time.monotonic(), left()
    time_in_all, over = spent + remaining, bool(history) and remaining <= 0
    while curve.drops <= config.drops and trainer.steps < config.max_steps and not over:
        if curve.drops < config.drops and remaining < time_in_all * LATEST ** (curve.drops + 1):
            curve.drop()
        trainer.learning_rate = config.learning_rate * DROP**curve.drops
        texts = texts_of(task.batch(trainer.steps, config.batch_size), tokenizer, config.on)
        with advise_on_breakdown(lambda: checkpoint.newest(folder), "--model", "sft.learning_rate",
                                  trainer.learning_rate):
            metrics = trainer.step(texts)
        tokens += int((texts.tokens != tokenizer.pad_token_id).sum())
        progress(trainer.steps, metrics)
        remaining = left()
        over = remaining <= 0
        if trainer.steps % config.evaluate_every and trainer.steps < config.max_steps and not over:
            continue
        row = {"step": trainer.steps, "seconds": spent + time.monotonic() - started,
               "flops": 6 * size * tokens, "tokens": tokens,
               "learning_rate": trainer.learning_rate, "loss": held_loss(model, held),
               **_looked(generator, tokenizer, examples[:config.looked_at], sampling, seed),
               "train": metrics}
        history.append(row)
        write_history(folder / "history.jsonl", history)  # first: a row too many is left out later
        _save(folder, model, tokenizer, trainer, row)
        curve.look(row["step"], row["loss"], config.gain, config.patience)
        write_json(folder / "best.json", curve.note(config.drops))
        checkpoint.thin(folder, max(config.keep, checkpoint.LAST), best(folder))
        log(row)
    return best(folder)


def best(folder: Path) -> Path:
    """The checkpoint of the lowest held-out loss; UserError if none has been saved yet."""
    found = checkpoint.best(folder, "loss")
    if found is None:
        raise UserError(f"{folder}: no SFT checkpoint yet; make one with selfplay llm train")
    return found


def _looked(
    generator: TorchGenerator, tokenizer: Any, examples: Sequence[Example], sampling: Sampling,
    seed: int,
) -> dict[str, Any]:
    greedy = Sampling(0.0, 1.0, sampling.max_new_tokens)
    best_answers = answers(generator, tokenizer, examples, 1, greedy, seed)
    drawn = answers(generator, tokenizer, examples, 4, sampling, seed)
    return {"greedy": accuracy(best_answers), "sampled": accuracy(drawn),
            "shown": [[e.prompt, texts[0]] for e, texts in
                      zip(examples[:SHOWN], drawn.texts, strict=False)]}


def _save(
    folder: Path, model: nn.Module, tokenizer: Any, trainer: Trainer, row: dict[str, Any]
) -> None:
    meta = {"kind": "sft", "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "tokens")},
            "metrics": {"loss": row["loss"], "greedy": row["greedy"]["accuracy"],
                        "sampled": row["sampled"]["accuracy"]}}
    store.save(folder / f"ckpt-{row['step']:06d}", model, tokenizer, trainer.state(), meta)
