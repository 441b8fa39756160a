"""A reward model: which of two completions is the better one, learnt from preferences.

A backbone of the policy's kind with a scalar head, read at the text's last real token, trained by
the likelihood of Bradley and Terry (Christiano et al. 2017, arXiv:1706.03741, sec. 2.2.3; Ouyang
et al. 2022, arXiv:2203.02155, eq. 1). Axes: N texts of L tokens, M pairs.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Sequence
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
from selfplay.common.files import read_history, write_history
from selfplay.common.stats import wilson
from selfplay.learn import checkpoint
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


class Training:
    """A reward model in training: what ``checkpoint.save`` asks for."""

    def __init__(self, model: RewardModel, config: RewardConfig) -> None:
        self.model, self.config, self.epochs = model, config, 0
        self.scored = torch.zeros(2)  #: rewards of the texts looked at last
        self.named = dict(model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.named.values(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def epoch(self, chosen: Texts, rejected: Texts, seed: int) -> float:
        """Go once through the pairs; the mean loss. The order depends on (seed, epoch) alone."""
        rng, total = np.random.default_rng([seed, 0x9C, self.epochs]), 0.0
        order = torch.from_numpy(rng.permutation(len(chosen.tokens)))
        for rows in order.split(self.config.batch_size):
            sides = [self.model(_trimmed(Texts(side.tokens[rows], side.mask[rows])).to(
                self.model.shift.device)) for side in (chosen, rejected)]
            loss = bradley_terry(*sides).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.named.values(), 1.0)
            self.optimizer.step()
            total += float(loss.detach()) * len(rows)
        self.epochs += 1
        return total / len(order)

    def look(self, chosen: Texts, rejected: Texts) -> dict[str, Any]:
        """``judged`` of held-out pairs."""
        sides = [self.model.score(side) for side in (chosen, rejected)]
        self.scored = torch.cat(sides)
        return judged(*sides)

    def inference_net(self) -> RewardModel:
        """As it is used: normalised over the held-out texts."""
        return self.model.normalised(self.scored)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"net.{name}": p.detach() for name, p in self.named.items()}
        for name, parameter in self.named.items():
            found = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": value for key, value in found.items()}
        return tensors, {"steps": self.epochs, "learning_rate": self.config.learning_rate}

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from a ``state``. Raises UserError if it is of another net."""
        if {n for n in tensors if n.startswith("net.")} != {f"net.{n}" for n in self.named}:
            raise UserError("the reward model's training state is of another net; give --run "
                            "another name")
        self.epochs = int(numbers["steps"])
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[f"net.{name}"])
                self.optimizer.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to(
                        "cpu" if key == "step" else parameter.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors}


def train_reward_model(
    model: RewardModel, tokenizer: Any, pairs: Sequence[Pair], held: Sequence[Pair],
    config: RewardConfig, folder: Path, *, seed: int,
    left: Callable[[], float] = lambda: math.inf,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Train until the held-out loss has not gone down for ``patience`` epochs, or ``epochs`` are
    done, or ``left()`` seconds are used up; the checkpoint of the lowest held-out loss.

    An epoch makes a row of ``history.jsonl`` (step is the epoch, seconds so far, train_loss, and
    ``judged`` of the held-out pairs) and a checkpoint ``ckpt-EPOCH``; a later call in the same
    folder goes on from the newest. The model is trained in place.
    """
    training, history = Training(model.eval(), config), []
    newest = checkpoint.newest(folder)
    if newest is not None:
        training.load_state(*checkpoint.load_training(newest))
        found = read_history(folder / "history.jsonl")
        history = [row for row in found if row["step"] <= training.epochs]
    sides, looked_at = pair_texts(tokenizer, pairs), pair_texts(tokenizer, held)
    began = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    while not history or not (_over(history, config) or left() <= 0):
        loss = training.epoch(*sides, seed)
        row = {"step": training.epochs, "seconds": time.monotonic() - began, "train_loss": loss,
               **training.look(*looked_at)}
        history.append(row)
        write_history(folder / "history.jsonl", history)  # first: a row too many is left out later
        meta = {"kind": "reward model", "step": row["step"],
                "compute": {"pairs": len(pairs), "seconds": row["seconds"]},
                "metrics": {key: row[key] for key in ("loss", "accuracy", "calibration_error")}}
        checkpoint.save(_path(folder, row["step"]), training, spec_of(model), meta)
        for step in range(1, row["step"]):
            if step != _best(history):
                shutil.rmtree(_path(folder, step), ignore_errors=True)
        log(row)
    return _path(folder, _best(history))


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the lowest held-out loss in a folder of ``train_reward_model``."""
    history = read_history(folder / "history.jsonl")
    if not history or not _path(folder, _best(history)).is_dir():
        raise UserError(f"{folder}: no reward model there; give a folder such as runs/NAME/rm")
    return _path(folder, _best(history))


def _over(history: list[dict[str, Any]], config: RewardConfig) -> bool:
    return (len(history) >= config.epochs
            or history[-1]["step"] - _best(history) >= config.patience)


def _best(history: list[dict[str, Any]]) -> int:
    return min(history, key=lambda row: row["loss"])["step"]


def _path(folder: Path, step: int) -> Path:
    return folder / f"ckpt-{step:06d}"


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
    return model.eval(), meta
