"""Supervised learning of texts: next-token cross-entropy until the held-out curve is flat.

On demonstrations it learns the completions; with ``on="text"`` the questions as well, as in
pretraining. Step k depends on (seed, k) and the weights alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.learn import checkpoint
from selfplay.learn.losses import gather_logp, masked_mean
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import Lesson
from selfplay.learn.rollout import parts_of
from selfplay.llm.evaluate import accuracy, greedy_and_sampled
from selfplay.llm.folder import save_checkpoint
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.memory import Memory, head_logp, hidden_states, many_logits
from selfplay.llm.models import complete, end_tokens, load_model, padded_tokens, prompt_of
from selfplay.llm.rewards import Example, Questions
from selfplay.llm.stage_config import TextSFTConfig
from selfplay.llm.tasks.gym import demonstration
from selfplay.models.transformer import Transformer
from selfplay.run.keep import Kept, Row, learn_until_flat

SHOWN = 4  #: completions written down at a look
HELD_AT_ONCE = 64  #: held-out texts of one forward pass


class Sequences(NamedTuple):
    """B texts, padded on the right, or B rows of several texts (``in_shared_rows``).
    The first token of a text is not learnt."""

    tokens: Tensor  #: int64 [B, L]
    learnt: Tensor  #: bool [B, L], tokens that the loss is about
    share: float = 1.0  #: of the learnt tokens of the batch that this is a part of
    number: int = 0  #: of the part
    text: Tensor | None = None
    #: int64 [B, L], which of the row's texts a token is of, from 1; 0: padding. None: one a row


def text_trainer(
    model: nn.Module, config: TextSFTConfig, seed: int = 0,
    memory: Memory = Memory(),  # noqa: B008 - it never changes
) -> Trainer:
    """A trainer of ``Sequences``; parameters without a gradient stay as they are. seed: of
    dropout. memory: whether layers are computed again for the gradient."""
    device = next(model.parameters()).device

    def loss(net: nn.Module, texts: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        with _seeded_step(device, seed, trainer.steps, texts.number), memory.at_work(net):
            return texts.share * text_loss(net, in_shared_rows(texts) if config.pack else texts), {}

    def parts(texts: Sequences) -> list[Sequences]:
        return parts_of_texts(texts, config.part_tokens, ranks.here().size)

    trainer = Trainer(model, loss, OptimizerConfig(
        config.learning_rate, config.weight_decay, grad_clip=config.grad_clip,
        warmup=config.warmup), device=str(device), parts=parts, one_by_one=True, mode=True,
        called="SFT step")
    return trainer


def parts_of_texts(texts: Sequences, most: int, fewest: int = 1) -> list[Sequences]:
    """``texts`` in at least ``fewest`` parts, of about ``most`` tokens each (0: any number), texts
    of like length together. Weighed by ``share`` their losses add up to the loss of the whole,
    however it is cut: each learnt token counts the same."""
    if not most and fewest == 1:
        return [texts]
    lengths = lengths_of(texts)
    real = torch.arange(texts.tokens.shape[1]) < lengths[:, None]
    count, found = float(texts.learnt[:, 1:].sum()), []
    for number, rows in enumerate(parts_of(real, fewest, most or real.numel())):
        width = int(lengths[rows].max())
        tokens, learnt = texts.tokens[rows, :width], texts.learnt[rows, :width]
        share = float(learnt[:, 1:].sum()) / max(count, 1.0)
        found.append(Sequences(tokens, learnt, share, number))
    return found


def lengths_of(texts: Sequences) -> Tensor:
    """int64 [B]: the tokens up to the last that is learnt."""
    return texts.learnt.shape[1] - texts.learnt.flip(1).int().argmax(1)


def in_shared_rows(texts: Sequences) -> Sequences:
    """The same in fewer rows, as long as the longest text: the others stand one behind the other
    where they fit, the longer ones first. The loss is the same, and so are its gradients."""
    lengths = lengths_of(texts).tolist()
    width, rows, room = max(lengths), list[list[int]](), list[int]()
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    tokens, learnt, text = (torch.zeros(len(rows), width, dtype=kind)
                            for kind in (torch.int64, torch.bool, torch.int64))
    for row, some in enumerate(rows):
        start = 0
        for number, i in enumerate(some, 1):
            place = slice(start, start := start + lengths[i])
            tokens[row, place] = texts.tokens[i, :lengths[i]]
            learnt[row, place] = texts.learnt[i, :lengths[i]]
            text[row, place] = number
    return texts._replace(tokens=tokens, learnt=learnt, text=text)


def _inputs_of(model: nn.Module, texts: Sequences, device: torch.device) -> dict[str, Tensor]:
    """What ``model`` is given. Of several texts in a row each has places from 0 on, from which
    transformers finds them; the embedded model is told their numbers."""
    found = {"input_ids": texts.tokens.to(device)}
    if texts.text is None:
        return found
    text = texts.text.to(device)
    place = torch.arange(text.shape[1], device=device).expand_as(text)
    begins = torch.cat([text.new_ones(len(text), 1), text.diff(dim=1)], 1) != 0
    found["position_ids"] = place - torch.where(begins, place, 0).cummax(1).values
    return found | ({"attention_mask": text} if isinstance(model, Transformer) else {})


@torch.no_grad()
def must_keep_apart(model: Any) -> None:
    """Raises UserError for a model that looks from a text of a row into the one before it, which is
    found out by trying."""
    device, learning = next(model.parameters()).device, [m for m in model.modules() if m.training]
    model.eval()  # without dropout both passes are one
    tokens = torch.tensor([[1, 2, 3, 4, 1, 2]])
    both = Sequences(tokens, tokens > 0, text=torch.tensor([[1, 1, 1, 2, 2, 2]]))
    together = model(use_cache=False, **_inputs_of(model, both, device)).logits[:, 3:]
    alone = model(use_cache=False, input_ids=tokens[:, 3:].to(device)).logits
    for module in learning:
        module.training = True
    if not torch.allclose(together, alone, atol=1e-3 * float(alone.abs().max())):
        raise UserError("sft.pack=true: this model does not keep the texts of a row apart; leave "
                        "it out, and take --set sft.part_tokens=1024 to pad less")


@contextmanager
def _seeded_step(device: torch.device, seed: int, step: int, part: int) -> Iterator[None]:
    """In the block torch's random numbers follow from (seed, step, part); its generators are then
    as they were before."""
    words = [seed, 0xD0, step, *([part] if part else [])]
    number = int(np.random.SeedSequence(words).generate_state(1)[0])
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(number)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def sequences_of(
    examples: Iterable[Example], tokenizer: Any, on: str = "completion"
) -> Sequences:
    """The prompts of examples with what to learn behind them (``completion_to_learn``). on:
    "completion" or "text", see ``TextSFTConfig``."""
    rows = [(prompt_of(tokenizer, e), complete(tokenizer, completion_to_learn(e)))
            for e in examples]
    tokens, learnt = padded_tokens([a + b for a, b in rows], tokenizer.pad_token_id)
    for i, (prompt, _) in enumerate(rows):
        learnt[i, :1 if on == "text" else len(prompt)] = False
    return Sequences(tokens, learnt)


def completion_to_learn(example: Example) -> str:
    """Its demonstration; its bare answer where it has none."""
    if example.demonstration is not None:
        return example.demonstration
    return demonstration("", example.answer, example.format)


def text_loss(model: nn.Module, texts: Sequences) -> Tensor:
    """Scalar: mean cross-entropy of the learnt tokens, nats a token.

    There is no mask: padding stands on the right, where no learnt token of a causal model sees it.
    """
    return ranks.here().within(model, lambda: _text_loss(model, texts))


def _text_loss(model: nn.Module, texts: Sequences) -> Tensor:
    device = next(model.parameters()).device
    inputs, learnt = _inputs_of(model, texts, device), texts.learnt.to(device)
    tokens = inputs["input_ids"]
    if head := many_logits(model, tokens):
        hidden, rows = hidden_states(model, **inputs)[:, :-1], learnt[:, 1:]
        logp, _ = head_logp(hidden[rows], head.weight, tokens[:, 1:][rows], bias=head.bias)
        return masked_mean(-logp, torch.ones_like(logp))
    logits = model(use_cache=False, **inputs).logits[:, :-1]
    return masked_mean(-gather_logp(logits, tokens[:, 1:]), learnt[:, 1:].float())


@torch.no_grad()
def held_out_loss(model: nn.Module, parts: Sequence[Sequences]) -> float:
    """``text_loss`` of all held-out texts, in which every token counts the same."""
    model.eval()
    counts = [float(t.learnt[:, 1:].sum()) for t in parts]
    sums = [float(text_loss(model, t)) * n for t, n in zip(parts, counts, strict=True)]
    return sum(sums) / max(sum(counts), 1.0)


def text_lesson(
    trainer: Trainer, tokenizer: Any, task: Questions, config: TextSFTConfig, *, held_out: int,
    sampling: Sampling, seed: int,
) -> Lesson:
    """What ``trainer`` (of ``text_trainer``) learns, for ``plateau.until_flat``.

    Rows have tokens, loss (held out, which must fall), greedy and sampled (the figures of
    ``evaluate.accuracy``), shown (pairs of prompt and completion).
    """
    model, examples = trainer.net, task.held_out(held_out)
    parts = [sequences_of(examples[i:i + HELD_AT_ONCE], tokenizer, config.on)
             for i in range(0, len(examples), HELD_AT_ONCE)]
    generator = TorchGenerator(model, end_tokens(model, tokenizer), tokenizer.pad_token_id,
                               tokenizer)

    def batches(step: int) -> Generator[Sequences, None, None]:
        for number in itertools.count(step):
            yield sequences_of(task.batch(number, config.batch_size), tokenizer, config.on)

    def look() -> dict[str, Any]:
        some = examples[:config.looked_at]
        loss = held_out_loss(model, parts)
        best, sampled = greedy_and_sampled(generator, tokenizer, some, 4, sampling, seed)
        return {"loss": loss, "greedy": accuracy(best), "sampled": accuracy(sampled),
                "shown": [[e.prompt, texts[0]] for e, texts in
                          zip(some[:SHOWN], sampled.texts, strict=False)]}

    return Lesson(
        batches, look, "loss", unit="tokens", flops=6 * sum(p.numel() for p in model.parameters()),
        size=lambda texts: int((texts.tokens != tokenizer.pad_token_id).sum()))


def train_texts(
    model: nn.Module, tokenizer: Any, task: Questions, config: TextSFTConfig, folder: Path, *,
    held_out: int, sampling: Sampling, seed: int, device: str = "cpu",
    memory: Memory = Memory(), **hooks: Any,  # noqa: B008 - it never changes
) -> Path:
    """Learn ``task`` in a stage's ``folder``; the checkpoint of the lowest held-out loss. Goes on
    from the folder's newest checkpoint; ``model`` is where it begins without one. hooks: see
    ``run.keep.learn_until_flat``."""
    newest = checkpoint.newest(folder)
    if newest is not None:
        model, tokenizer = load_model(newest)
    model = model.to(device)
    if config.pack:
        must_keep_apart(model)
    model = memory.shard(model)
    trainer = text_trainer(model, config, seed, memory)
    lesson = text_lesson(trainer, tokenizer, task, config, held_out=held_out, sampling=sampling,
                         seed=seed)

    def save(path: Path, row: Row) -> None:
        save_checkpoint(path, model, tokenizer, trainer.state(), {
            "kind": "sft", "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "tokens")},
            "metrics": {"loss": row["loss"], "greedy": row["greedy"]["accuracy"],
                        "sampled": row["sampled"]["accuracy"]}})

    kept = Kept(folder, save, keep=max(config.keep, checkpoint.LAST),
                breakdown=("--model", "sft.learning_rate", config.learning_rate))
    return learn_until_flat(trainer, lesson, config, kept, **hooks)
