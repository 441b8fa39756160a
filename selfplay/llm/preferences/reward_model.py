"""A reward model: which of two completions is the better one, learnt from preferences.

A backbone of the policy's kind with a scalar head, read at the text's last real token, trained by
the likelihood of Bradley and Terry (Christiano et al. 2017, arXiv:1706.03741, sec. 2.2.3; Ouyang
et al. 2022, arXiv:2203.02155, eq. 1). Axes: N texts of L tokens, M pairs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.files import must_be_as_saved
from selfplay.common.words import clip
from selfplay.learn import checkpoint
from selfplay.learn.optimizer import OptimizerConfig, Trainer
from selfplay.learn.plateau import Lesson
from selfplay.learn.plateau_config import PlateauConfig
from selfplay.llm.config import AGAINST_A_MODEL, TextConfig
from selfplay.llm.embedded import small_model
from selfplay.llm.evaluate import Answers
from selfplay.llm.models import (
    Asked,
    bare_backbone,
    complete,
    load_tokenizer,
    merged,
    padded_tokens,
    prompt_of,
    trimmed,
)
from selfplay.llm.policy import (
    Completions,
    Judge,
    Reward,
    ValueModel,
    value_model,
)
from selfplay.llm.preferences.config import RewardConfig
from selfplay.llm.preferences.overoptimism import judged
from selfplay.llm.preferences.pairs import Pair
from selfplay.llm.rewards import Example, Questions
from selfplay.llm.rl import RewardedTask
from selfplay.models.transformer import positions_of
from selfplay.run.keep import Kept, Row, learn_until_flat

TEXTS = 256  #: read at once where nothing is learnt


class Texts(NamedTuple):
    """Texts as tokens; padding may stand on either side."""

    tokens: Tensor  #: int64 [N, L]
    mask: Tensor  #: bool [N, L], real tokens

    def to(self, device: torch.device) -> Texts:
        return Texts(self.tokens.to(device), self.mask.to(device))

    def rows(self, index: Tensor) -> Texts:
        """Some of the texts, without the columns that are padding in all of them."""
        return Texts(*trimmed(self.tokens[index], self.mask[index]))


class RewardModel(nn.Module):
    """``score`` = (scalar at the last real token - shift) / scale; raw before ``normalised``."""

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
        scalars: Tensor = self.body(tokens, mask.long(), positions_of(mask))
        return (scalars.gather(1, last_real(mask)[:, None])[:, 0] - self.shift) / self.scale

    @torch.no_grad()
    def score(self, texts: Texts) -> Tensor:
        """``forward`` without a gradient, for any number of texts on any device; the rewards are on
        the device of the weights."""
        texts = texts.to(self.shift.device)
        lengths = texts.mask.sum(1)
        order = torch.argsort(lengths)  # texts of similar length together
        out = torch.empty(len(lengths), device=lengths.device)
        for rows in order.split(TEXTS):
            out[rows] = ranks.here().within(self, partial(self, texts.rows(rows)))
        return out

    def normalised(self, rewards: Tensor) -> RewardModel:
        """A copy that gives the texts that have ``rewards`` float [N] here rewards of mean 0 and
        deviation 1: preferences fix a reward only up to a constant."""
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
    """An untrained reward model: a copy of the policy's backbone with adapters merged, or the small
    net ``config.net``, with a head that begins at 0."""
    source = small_model(config.net, tokenizer, seed) if config.net else policy
    return RewardModel(value_model(merged(source)))


def read_texts(
    tokenizer: Any, asked: Sequence[Asked], completions: Sequence[str],
    ended: Sequence[bool] | None = None,
) -> Texts:
    """Prompts with their completions as the policy writes them: with the end token, unless
    ``ended`` says that they were cut off."""
    rows = []
    for i, (one, completion) in enumerate(zip(asked, completions, strict=True)):
        tokens = complete(tokenizer, completion)
        cut = ended is not None and not ended[i]
        rows.append(prompt_of(tokenizer, one) + (tokens[:-1] if cut else tokens))
    return Texts(*padded_tokens(rows, tokenizer.pad_token_id))


def proxy_reward(model: RewardModel, tokenizer: Any) -> Reward:
    """``model`` as a reward to learn from. Its parts: proxy, the model's score, and cut, 1 where a
    completion was cut off before its end."""
    def parts(completions: Completions, examples: Sequence[Example]) -> dict[str, Tensor]:
        proxy = model.score(read_texts(tokenizer, examples, *completions))
        ended = torch.tensor(completions.ended, dtype=torch.float32, device=proxy.device)
        return {"proxy": proxy, "cut": 1 - ended}

    return parts


def proxy_task(
    task: Questions, model: RewardModel, tokenizer: Any, gold: Judge, cut_penalty: float = 0.0
) -> RewardedTask:
    """``task`` rewarded by ``model`` in place of ``gold``, less ``cut_penalty`` for a completion
    that was cut off."""
    return RewardedTask(task, proxy_reward(model, tokenizer),
                        {"proxy": 1.0, "cut": -cut_penalty}, gold)


# ---------------------------------------------------------------------------------------- training


def pair_texts(tokenizer: Any, pairs: Sequence[Pair]) -> tuple[Texts, Texts]:
    """(texts of the chosen, texts of the rejected) completions of ``pairs``."""
    return (read_texts(tokenizer, pairs, [pair.chosen for pair in pairs]),
            read_texts(tokenizer, pairs, [pair.rejected for pair in pairs]))


class PairBatch(NamedTuple):
    """Pairs to learn from."""

    chosen: Texts
    rejected: Texts
    share: float = 1.0  #: of the batch that they are a part of


class RewardTrainer:
    """A reward model in training, where an epoch is a step; ``checkpoint.save`` can save it."""

    def __init__(self, model: RewardModel, config: RewardConfig) -> None:
        self.model, self.steps = model, 0
        self.learning_rate = config.learning_rate  #: which does not drop
        self.scored = torch.zeros(2)  #: rewards of the held-out texts at the last look
        self.trainer = Trainer(model, _pair_loss, OptimizerConfig(
            config.learning_rate, config.weight_decay, decay_all=True, betas=(0.9, 0.999),
            fused=False), parts=_for_processes if ranks.here().size > 1 else None, one_by_one=True,
            called="reward model's step")

    def step(self, batches: Sequence[PairBatch]) -> dict[str, float]:
        """Learn batches once; the mean loss of a pair."""
        sizes = [len(pairs.chosen.tokens) for pairs in batches]
        losses = [self.trainer.step(pairs)["loss"] for pairs in batches]
        self.steps += 1
        return {"loss": float(np.average(losses, weights=sizes))}

    def look(self, chosen: Texts, rejected: Texts) -> dict[str, Any]:
        """``judged`` of held-out pairs."""
        sides = [self.model.score(side) for side in (chosen, rejected)]
        self.scored = torch.cat(sides)
        return judged(*sides)

    def inference_net(self) -> nn.Module:
        """The model as it is used: normalised over the held-out texts. Where several processes
        share it out, the first one has it whole and the others nothing."""
        here, model = ranks.here(), self.model
        if here.sharded(model):
            weights = {name: here.kept(t.detach()) for name, t in model.state_dict().items()}
            if not ranks.leads():
                return nn.Module()
            model = empty_reward_model(model.body.backbone.config.to_diff_dict())
            model.load_state_dict(weights)
        return model.normalised(self.scored)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """``Trainer.state`` and the epochs."""
        tensors, numbers = self.trainer.state()
        return tensors, {**numbers, "epochs": self.steps}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a ``state``; also from one of versions before 0.2, which counted epochs as
        steps and kept the steps beside each moment. Raises UserError for another net's."""
        steps = {key: int(value) for key, value in tensors.items() if key.startswith("step.")}
        self.steps = int(numbers.get("epochs", numbers["steps"]))
        self.trainer.load_state(
            {key: value for key, value in tensors.items() if key not in steps},
            {**numbers, "steps": max(steps.values(), default=numbers["steps"])})


def _pair_loss(model: nn.Module, pairs: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    loss: Tensor = ranks.here().within(model, lambda: bradley_terry(
        model(pairs.chosen), model(pairs.rejected)).mean())
    return pairs.share * loss, {}


def _for_processes(pairs: PairBatch) -> list[PairBatch]:
    """A part of a batch for each process, as far as there are so many pairs."""
    count = len(pairs.chosen.tokens)
    cut = torch.arange(count).tensor_split(min(ranks.here().size, count))
    return [PairBatch(pairs.chosen.rows(rows), pairs.rejected.rows(rows), len(rows) / count)
            for rows in cut]


def epochs_from(
    chosen: Texts, rejected: Texts, size: int, seed: int, epoch: int, device: torch.device
) -> Generator[list[PairBatch], None, None]:
    """The batches of epoch number ``epoch`` and of all after it; the order of an epoch follows from
    (seed, its number) alone."""
    for number in itertools.count(epoch):
        rng = np.random.default_rng([seed, 0x9C, number])
        order = torch.from_numpy(rng.permutation(len(chosen.tokens)))
        yield [PairBatch(chosen.rows(rows).to(device), rejected.rows(rows).to(device))
               for rows in order.split(size)]


def train_reward_model(
    model: RewardModel, tokenizer: Any, pairs: Sequence[Pair], held_out: Sequence[Pair],
    config: RewardConfig, folder: Path, *, seed: int, **hooks: Any,
) -> Path:
    """Train ``model`` in place until the held-out loss has not gone down for ``patience`` epochs;
    the checkpoint of the lowest loss.

    Each epoch makes a row (pairs, train: the mean loss, and ``judged`` of the held-out pairs) and a
    checkpoint ``ckpt-EPOCH``, of which the best and the newest are kept. hooks: see
    ``run.keep.learn_until_flat``.
    """
    training = RewardTrainer(model.eval(), config)
    sides, looked_at = pair_texts(tokenizer, pairs), pair_texts(tokenizer, held_out)
    lesson = Lesson(
        lambda epoch: epochs_from(*sides, config.batch_size, seed, epoch, model.shift.device),
        lambda: training.look(*looked_at), "loss", size=lambda batches: len(pairs), unit="learnt")
    plateau = PlateauConfig(
        batch_size=config.batch_size, learning_rate=config.learning_rate, evaluate_every=1,
        gain=0.0, patience=config.patience, drops=0, max_steps=config.epochs)
    spec: Any = RewardSpec(model.body.backbone.config.to_diff_dict())

    def save(path: Path, row: Row) -> None:
        checkpoint.save(path, training, spec, {
            "kind": "reward model", "step": row["step"],
            "compute": {"pairs": len(pairs), "seconds": row["seconds"]},
            "metrics": {key: row[key] for key in ("loss", "accuracy", "calibration_error")}})

    kept = Kept(folder, save, keep=1, breakdown=("", "rm.learning_rate", config.learning_rate))
    return learn_until_flat(training, lesson, plateau, kept, **hooks)


@dataclass(frozen=True)
class RewardSpec:
    """The net in a checkpoint's meta: the configuration of its backbone."""

    backbone: dict[str, Any]


def empty_reward_model(described: dict[str, Any]) -> RewardModel:
    """One with random weights, see ``models.bare_backbone``."""
    backbone: Any = bare_backbone(described)
    return RewardModel(ValueModel(backbone, backbone.config.hidden_size))


def load_reward_model(path: Path) -> tuple[RewardModel, dict[str, Any]]:
    """(the reward model of a checkpoint, in eval mode; its meta). Raises UserError if it is missing
    or damaged, or holds something else."""
    meta = checkpoint.read_meta(path)
    if meta.get("kind") != "reward model":
        raise UserError(f"{path}: no reward model; give a checkpoint such as "
                        "runs/NAME/rm/ckpt-000010")
    try:
        model = empty_reward_model(meta["net"]["backbone"])
        model.load_state_dict(load_file(path / checkpoint.WEIGHTS))
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 160)}); delete {path} and make it "
                        "again") from None
    must_be_as_saved(path, [checkpoint.WEIGHTS])
    return model.eval(), meta


# ---------------------------------------------------------------------------- the best of k answers


@dataclass(frozen=True)
class ByReward:
    """A reward model that rates answers: an ``evaluate.Rater``. path: its checkpoint."""

    path: Path
    model: RewardModel
    tokenizer: Any

    def __call__(self, found: Answers) -> list[list[float]]:
        scores = []
        for example, texts, parts in zip(found.examples, found.texts, found.parts, strict=True):
            ended = [part["ended"] >= 1 for part in parts]
            scores.append(self.model.score(read_texts(
                self.tokenizer, [example] * len(texts), texts, ended)).tolist())
        return scores


def by_reward(folder: Path, config: TextConfig, device: str = "cpu") -> ByReward | None:
    """What rates the answers of the run in ``folder``: the reward model of ``eval.rm``, or its own;
    None where there is none (yet). Its tokenizer is that of its run's SFT.

    Raises UserError where ``eval.rm`` names no reward model.
    """
    named = Path(config.eval.rm) if config.eval.rm else folder
    if not config.eval.rm and config.recipe not in AGAINST_A_MODEL:
        return None
    path = named if (named / checkpoint.META).is_file() else checkpoint.best(named / "rm", "loss")
    if path is None and not config.eval.rm:
        return None
    if path is None:
        raise UserError(f"eval.rm={named}: no reward model there; give a run of --recipe rlhf, or "
                        "a checkpoint such as RUN/rm/ckpt-000010")
    model, _ = load_reward_model(path)
    taught = checkpoint.chosen(path.parent.parent / "sft")
    if taught is None:
        raise UserError(f"{path}: no stage sft beside it, whose tokenizer it reads with; give it "
                        "in the folder of its run")
    return ByReward(path, model.to(device), load_tokenizer(taught)[0])
