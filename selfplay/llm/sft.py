"""Supervised learning of texts: next-token cross-entropy until the held-out curve is flat.

On demonstrations it learns the completions; with ``on="text"`` questions as well, which is what
pretraining is. Step k depends on (seed, k) and the weights alone, so that a run that was killed
goes on as if it had not been.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common.errors import Breakdown, UserError, advise_on_breakdown
from selfplay.common.files import read_history, read_json, write_history, write_json
from selfplay.learn import checkpoint
from selfplay.learn.losses import gather_logp, masked_mean
from selfplay.learn.plateau import DROP, LATEST, HeldOutCurve, replayed
from selfplay.llm import store
from selfplay.llm.config import TextSFTConfig
from selfplay.llm.evaluate import accuracy, answers
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import complete, end_tokens, load, render
from selfplay.llm.rewards import Example
from selfplay.llm.tasks import Task, demonstration

_MOMENTS = ("exp_avg", "exp_avg_sq")
SHOWN = 4  #: completions written down at a look
HELD_AT_ONCE = 64  #: held-out texts of one forward pass


class Sequences(NamedTuple):
    """B texts, padded on the right."""

    tokens: Tensor  #: int64 [B, L]
    learnt: Tensor  #: bool [B, L], tokens that the loss is about


class TextTrainer:
    """A model in training and its optimizer (AdamW); only what wants a gradient learns."""

    def __init__(self, model: nn.Module, config: TextSFTConfig, seed: int = 0) -> None:
        """seed: of what steps draw, which is dropout."""
        self.model, self.config, self.seed = model, config, seed
        self.steps, self.learning_rate = 0, config.learning_rate
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        parameters = list(self.named.values())
        self._optimizer = torch.optim.AdamW(
            [{"params": [p for p in parameters if p.ndim > 1],
              "weight_decay": config.weight_decay},
             {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}],
            lr=config.learning_rate, betas=(0.9, 0.95), fused=True)

    def step(self, texts: Sequences) -> dict[str, float]:
        """Train on one batch: loss (nats a token) and grad_norm.

        Raises Breakdown where one of them is not finite; the weights are then as they were.
        """
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with _drawing(next(self.model.parameters()).device, self.seed, self.steps):
            loss = text_loss(self.model, texts)
            loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), self.config.grad_clip))
        found = {"loss": float(loss.detach()), "grad_norm": norm}
        for name, value in found.items():
            if not math.isfinite(value):
                raise Breakdown(f"SFT step {self.steps + 1}: the {name} is {value}, which asks for "
                                f"a lower learning rate (it is {self.learning_rate:g})")
        rate = self.learning_rate * min(1.0, (self.steps + 1) / max(self.config.warmup, 1))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.steps += 1
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON types): all that training depends on beside its batches; tensors are
        named net.NAME, exp_avg.NAME, exp_avg_sq.NAME."""
        tensors = {f"net.{name}": p.detach() for name, p in self.named.items()}
        for name, parameter in self.named.items():
            held = self._optimizer.state[parameter]
            tensors |= {f"{key}.{name}": held[key] for key in _MOMENTS if key in held}
        return tensors, {"steps": self.steps, "learning_rate": self.learning_rate}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a ``state``. Raises UserError if it is of another model."""
        self.steps = int(numbers["steps"])
        self.learning_rate = float(numbers["learning_rate"])
        try:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    parameter.copy_(tensors[f"net.{name}"])
                    if self.steps:
                        self._optimizer.state[parameter] = {
                            "step": torch.tensor(float(self.steps), device=parameter.device),
                            **{key: tensors[f"{key}.{name}"].to(parameter.device, copy=True)
                               for key in _MOMENTS}}
        except (KeyError, RuntimeError):
            raise UserError("the training state is of another model; give --run another name"
                            ) from None


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
    newest, history = store.newest(folder), []
    if newest is not None:
        model, tokenizer = load(newest)
    trainer = TextTrainer(model.to(device), config, seed)
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
        with advise_on_breakdown(lambda: store.newest(folder), "--model", "sft.learning_rate",
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
        _thin(folder, config.keep)
        log(row)
    return best(folder)


def best(folder: Path) -> Path:
    """The checkpoint of the lowest held-out loss; UserError if none has been saved yet."""
    note = folder / "best.json"
    if note.exists():
        return folder / str(read_json(note)["checkpoint"])
    raise UserError(f"{folder}: no SFT checkpoint yet; make one with selfplay llm train")


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
    folder: Path, model: nn.Module, tokenizer: Any, trainer: TextTrainer, row: dict[str, Any]
) -> None:
    meta = {"kind": "sft", "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "tokens")},
            "metrics": {"loss": row["loss"], "greedy": row["greedy"]["accuracy"],
                        "sampled": row["sampled"]["accuracy"]}}
    store.save(folder / f"ckpt-{row['step']:06d}", model, tokenizer, trainer.state(), meta)


def _thin(folder: Path, keep: int) -> None:
    """The newest ``keep`` checkpoints and the best; only the last two can be gone on from."""
    kept = best(folder)
    found = store.listing(folder)
    for path in found[:-store.LAST]:
        checkpoint.drop_training(path)
    for path in found[:-max(keep, store.LAST)]:
        if path != kept:
            shutil.rmtree(path)
