"""Supervised learning of texts: next-token cross-entropy until the held-out curve is flat.

On demonstrations it learns the completions; with ``on="text"`` questions as well, which is what
pretraining is. Step k depends on (seed, k) and the weights alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.learn.losses import gather_logp, masked_mean
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import Lesson
from selfplay.llm.config import TextSFTConfig
from selfplay.llm.evaluate import accuracy, answers
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import complete, end_tokens, render
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


def sft_lesson(
    trainer: Trainer, tokenizer: Any, task: Task, config: TextSFTConfig, *, held_out: int,
    sampling: Sampling, seed: int,
) -> Lesson:
    """What ``trainer`` (``text_trainer``) learns, for ``plateau.until_flat``.

    Rows have tokens, loss (held out, which must fall), greedy and sampled (``accuracy``'s
    figures), shown (prompt, completion).
    """
    model, examples = trainer.net, task.held_out(held_out)
    held = [texts_of(examples[i:i + HELD_AT_ONCE], tokenizer, config.on)
            for i in range(0, len(examples), HELD_AT_ONCE)]
    generator = TorchGenerator(model, end_tokens(model, tokenizer), tokenizer.pad_token_id)

    def batches(step: int) -> Iterator[Sequences]:
        for number in itertools.count(step):
            yield texts_of(task.batch(number, config.batch_size), tokenizer, config.on)

    def look() -> dict[str, Any]:
        return {"loss": held_loss(model, held),
                **_looked(generator, tokenizer, examples[:config.looked_at], sampling, seed)}

    return Lesson(
        batches, look, "loss", unit="tokens", flops=6 * sum(p.numel() for p in model.parameters()),
        size=lambda texts: int((texts.tokens != tokenizer.pad_token_id).sum()))


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
