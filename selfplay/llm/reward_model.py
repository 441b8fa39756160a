"""A reward model: which of two completions is the better one, learnt from preferences.

A backbone of the policy's kind with a scalar head, read at the text's last real token, trained by
the likelihood of Bradley and Terry (Christiano et al. 2017, arXiv:1706.03741, sec. 2.2.3; Ouyang
et al. 2022, arXiv:2203.02155, eq. 1). Axes: N texts of L tokens, M pairs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from selfplay.common.errors import UserError
from selfplay.common.files import must_be_as_saved
from selfplay.common.stats import wilson
from selfplay.learn import checkpoint
from selfplay.learn.config import PlateauConfig
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import Lesson
from selfplay.llm.config import RewardConfig
from selfplay.llm.models import (
    ValueModel,
    bare_backbone,
    complete,
    merged,
    render,
    small_model,
    value_model,
)
from selfplay.llm.policy import Completions, Reward
from selfplay.llm.preferences import Pair
from selfplay.llm.rewards import Example
from selfplay.models.transformer import positions_of

BINS = 10  #: of the calibration
TEXTS = 256  #: read at once where nothing is learnt


class Texts(NamedTuple):
    """Texts as tokens; ``last`` is derived, padding may lie on either side."""

    tokens: Tensor  #: int64 [N, L]
    mask: Tensor  #: bool [N, L], real tokens

    def to(self, device: torch.device) -> Texts:
        return Texts(self.tokens.to(device), self.mask.to(device))


class RewardModel(nn.Module):
    """``score`` = (scalar at the last real token - shift) / scale; raw until ``normalise``."""

    shift: Tensor
    scale: Tensor

    def __init__(self, body: ValueModel) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, texts: Texts) -> Tensor:
        """float32 [N]: the reward of each text."""
        tokens, mask = texts
        scalars = self.body(tokens, mask.long(), positions_of(mask))
        return (scalars.gather(1, last_real(mask)[:, None])[:, 0] - self.shift) / self.scale

    @torch.no_grad()
    def score(self, texts: Texts) -> Tensor:
        """``forward`` without a gradient, some texts at a time; texts of like length together.

        ``texts`` may be on any device; the rewards are where the weights are.
        """
        texts = texts.to(self.shift.device)
        lengths = texts.mask.sum(1)
        order = torch.argsort(lengths)
        out = torch.empty(len(lengths), device=lengths.device)
        for rows in order.split(TEXTS):
            out[rows] = self(_trimmed(Texts(texts.tokens[rows], texts.mask[rows])))
        return out

    def normalised(self, rewards: Tensor) -> RewardModel:
        """A copy in whose eyes texts of ``rewards`` float [N] are 0 in the mean with deviation 1
        (preferences fix a reward up to a constant only)."""
        other, deviation = copy.deepcopy(self), float(rewards.std())
        other.shift += self.scale * rewards.mean()
        other.scale *= deviation if deviation > 1e-6 else 1.0
        return other


def last_real(mask: Tensor) -> Tensor:
    """int64 [N]: the place of each row's last real token. Raises ValueError where one has none."""
    if not bool(mask.any(1).all()):
        raise ValueError("a text without a token")
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(1)


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[M]: -log sigmoid(r_chosen - r_rejected), rewards [M] each."""
    if chosen.shape != rejected.shape:
        raise ValueError(f"rewards {list(chosen.shape)} and {list(rejected.shape)} differ in shape")
    return F.softplus(rejected - chosen)


def reward_model(policy: nn.Module, config: RewardConfig, tokenizer: Any, seed: int) -> RewardModel:
    """An untrained one: the policy's own backbone, adapters merged, or the small net
    ``config.net``; both with a head that begins at 0."""
    source = small_model(config.net, tokenizer, seed) if config.net else policy
    return RewardModel(value_model(merged(source)))


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> Texts:
    """Texts of token lists, none empty."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.tensor(list(row), dtype=torch.int64)
        mask[i, :len(row)] = True
    return Texts(tokens, mask)


def read_texts(
    tokenizer: Any, prompts: Sequence[str], completions: Sequence[str],
    ended: Sequence[bool] | None = None,
) -> Texts:
    """Prompts with their completions, as the policy writes them: with the end token, but for
    those that ``ended`` says were cut off."""
    rows = []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens = complete(tokenizer, completion)
        cut = ended is not None and not ended[i]
        rows.append(render(tokenizer, prompt) + (tokens[:-1] if cut else tokens))
    return right_padded(rows, tokenizer.pad_token_id)


def proxy_reward(model: RewardModel, tokenizer: Any) -> Reward:
    """``model`` as a reward to learn from, with the parts proxy (its score) and cut (1 where a
    completion was cut off before its end)."""
    def judge(completions: Completions, examples: Sequence[Example]) -> dict[str, Tensor]:
        prompts = [example.prompt for example in examples]
        proxy = model.score(read_texts(tokenizer, prompts, *completions))
        ended = torch.tensor(completions.ended, dtype=torch.float32, device=proxy.device)
        return {"proxy": proxy, "cut": 1 - ended}

    return judge


def _trimmed(texts: Texts) -> Texts:
    """Without the columns that are padding in every row."""
    real = texts.mask.any(0).nonzero()
    first, end = int(real[0]), int(real[-1]) + 1
    return Texts(texts.tokens[:, first:end], texts.mask[:, first:end])


# ---------------------------------------------------------------------------------------- training


def judged(chosen: Tensor, rejected: Tensor) -> dict[str, Any]:
    """How well rewards [M] of the chosen and [M] of the rejected tell them apart.

    loss: mean Bradley-Terry loss; accuracy, with its 95% interval low and high (a tie is half
    right); calibration_error: expected |confidence - accuracy| over BINS bins of the confidence
    sigmoid(|margin|) (Guo et al. 2017, arXiv:1706.04599, eq. 3); calibration: (mean confidence,
    accuracy, pairs) of each bin that has any; pairs; margin: the mean difference.
    """
    margin = (chosen - rejected).double().cpu().numpy()
    right = (margin > 0) + 0.5 * (margin == 0)
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    place = np.minimum((2 * (confidence - 0.5) * BINS).astype(int), BINS - 1)
    rows = [[float(confidence[place == k].mean()), float(right[place == k].mean()),
             int((place == k).sum())] for k in range(BINS) if (place == k).any()]
    low, high = wilson(float(right.mean()), len(margin))
    return {"loss": float(np.logaddexp(0, -margin).mean()), "accuracy": float(right.mean()),
            "low": low, "high": high, "pairs": len(margin), "margin": float(margin.mean()),
            "calibration_error": sum(n * abs(c - a) for c, a, n in rows) / len(margin),
            "calibration": rows}


def pair_texts(tokenizer: Any, pairs: Sequence[Pair]) -> tuple[Texts, Texts]:
    """(texts of the chosen, texts of the rejected) completions of ``pairs``."""
    prompts = [pair.prompt for pair in pairs]
    return (read_texts(tokenizer, prompts, [pair.chosen for pair in pairs]),
            read_texts(tokenizer, prompts, [pair.rejected for pair in pairs]))


class RewardTrainer:
    """A reward model in training, an epoch a step: what ``checkpoint.save`` asks for."""

    def __init__(self, model: RewardModel, config: RewardConfig) -> None:
        self.model, self.steps = model, 0
        self.learning_rate = config.learning_rate  #: it does not drop
        self.scored = torch.zeros(2)  #: rewards of the texts looked at last
        self.trainer = Trainer(model, _pair_loss, OptimizerConfig(
            config.learning_rate, config.weight_decay, decay_all=True, betas=(0.9, 0.999),
            fused=False), called="reward model's step")

    def step(self, batches: Sequence[tuple[Texts, Texts]]) -> dict[str, float]:
        """Go once through batches of pairs (chosen, rejected); the mean loss of a pair."""
        sizes = [len(chosen.tokens) for chosen, _ in batches]
        losses = [self.trainer.step(pairs)["loss"] for pairs in batches]
        self.steps += 1
        return {"loss": float(np.average(losses, weights=sizes))}

    def look(self, chosen: Texts, rejected: Texts) -> dict[str, Any]:
        """``judged`` of held-out pairs."""
        sides = [self.model.score(side) for side in (chosen, rejected)]
        self.scored = torch.cat(sides)
        return judged(*sides)

    def inference_net(self) -> RewardModel:
        """As it is used: normalised over the held-out texts."""
        return self.model.normalised(self.scored)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """``Trainer.state``, and epochs."""
        tensors, numbers = self.trainer.state()
        return tensors, {**numbers, "epochs": self.steps}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a ``state``, or from one of a version that counted epochs as steps and kept
        the steps beside each moment. Raises UserError if it is of another net."""
        steps = {key: int(value) for key, value in tensors.items() if key.startswith("step.")}
        self.steps = int(numbers.get("epochs", numbers["steps"]))
        self.trainer.load_state(
            {key: value for key, value in tensors.items() if key not in steps},
            {**numbers, "steps": max(steps.values(), default=numbers["steps"])})


def _pair_loss(model: nn.Module, pairs: tuple[Texts, Texts]) -> tuple[Tensor, dict[str, Tensor]]:
    return bradley_terry(*(model(side) for side in pairs)).mean(), {}


def epochs_of(
    chosen: Texts, rejected: Texts, size: int, seed: int, epoch: int, device: torch.device
) -> Iterator[list[tuple[Texts, Texts]]]:
    """The batches of epoch ``epoch`` and of all after it; the order of one depends on (seed, its
    number) alone."""
    for number in itertools.count(epoch):
        rng = np.random.default_rng([seed, 0x9C, number])
        order = torch.from_numpy(rng.permutation(len(chosen.tokens)))
        yield [tuple(_trimmed(Texts(side.tokens[rows], side.mask[rows])).to(device)
                     for side in (chosen, rejected)) for rows in order.split(size)]


def pair_lesson(
    training: RewardTrainer, tokenizer: Any, pairs: Sequence[Pair], held: Sequence[Pair],
    config: RewardConfig, seed: int,
) -> tuple[Lesson, PlateauConfig]:
    """What ``training`` learns, and when the held-out loss has not gone down for ``patience``
    epochs, or ``epochs`` are done, for ``plateau.until_flat``.

    Rows have pairs, train (the mean loss) and ``judged`` of the held-out pairs.
    """
    sides, looked_at = pair_texts(tokenizer, pairs), pair_texts(tokenizer, held)
    device = training.model.shift.device
    lesson = Lesson(
        lambda epoch: epochs_of(*sides, config.batch_size, seed, epoch, device),
        lambda: training.look(*looked_at), "loss", size=lambda batches: len(pairs), unit="learnt")
    return lesson, PlateauConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate, evaluate_every=1,
        gain=0.0, patience=config.patience, drops=0, max_steps=config.epochs)


# ---------------------------------------------------------------------------------------- on disk


@dataclass(frozen=True)
class RewardSpec:
    """What a checkpoint's meta says of the net: the backbone's configuration."""

    backbone: dict[str, Any]


def spec_of(model: RewardModel) -> RewardSpec:
    return RewardSpec(model.body.backbone.config.to_diff_dict())


def load_reward_model(path: Path) -> tuple[RewardModel, dict[str, Any]]:
    """(the reward model of a checkpoint, in eval mode; its meta). Raises UserError if it is
    missing, damaged or no reward model."""
    meta = checkpoint.read_meta(path)
    if meta.get("kind") != "reward model":
        raise UserError(f"{path}: no reward model; give a checkpoint such as "
                        "runs/NAME/rm/ckpt-000010")
    try:
        backbone = bare_backbone(meta["net"]["backbone"])
        model = RewardModel(ValueModel(backbone, backbone.config.hidden_size))
        model.load_state_dict(load_file(path / checkpoint.WEIGHTS))
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: damaged ({reason}); delete {path} and make it again") from None
    must_be_as_saved(path, [checkpoint.WEIGHTS])
    return model.eval(), meta
