"""Text stages in their folders: what a start finds there, goes on from, and leaves.

ckpt-STEP (``save_checkpoint``), history.jsonl, best.json, samples.jsonl of a stage that learns from
rewards
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from selfplay.common.errors import UserError
from selfplay.common.files import refused, sync_folder, write_state
from selfplay.learn import checkpoint
from selfplay.learn.config import PGConfig
from selfplay.llm import rlhf
from selfplay.llm.config import RewardConfig, RLHFConfig, TextRLConfig, TextSFTConfig
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.models import Lora, load, reference_of
from selfplay.llm.models import save as save_pretrained
from selfplay.llm.preferences import Pair
from selfplay.llm.reward_model import RewardModel, RewardTrainer, pair_lesson, spec_of
from selfplay.llm.rl import FIRST, RewardedTask, TextLearner, improve
from selfplay.llm.rlhf import RLHFLearner, RLHFObjective, best_row, name_of
from selfplay.llm.sft import sft_lesson, text_trainer
from selfplay.llm.tasks import Task
from selfplay.run.keep import Kept, Row, Watch, append, learn_until_flat, rows_up_to

Engine = Callable[[nn.Module, Any], Generator | None]
Show = Callable[[list[Row]], None]


def save_checkpoint(
    path: Path, model: nn.Module, tokenizer: Any,
    training: tuple[dict[str, Tensor], dict[str, Any]], meta: Mapping[str, Any],
) -> None:
    """Write ``path``, in place of what is there: what ``models.save`` writes, so that any tool of
    Hugging Face reads the folder, with the files of ``learn.checkpoint``.

    training: what a trainer's ``state`` returns. meta: JSON types; at least "kind", "step" and
    "compute" belong in it. Raises UserError where the disk refuses.
    """
    with checkpoint.replacing(path) as folder:
        try:
            folder.mkdir(parents=True)
            save_pretrained(folder, model, tokenizer)
            for file in folder.iterdir():
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise refused(path, error) from error
        checkpoint.write_training(folder, *training)
        checkpoint.write_meta(folder, {**meta, "net": {"model": type(model).__name__}})
        sync_folder(folder)


# ------------------------------------------------------------------------------------------- SFT


def train_sft(
    model: nn.Module, tokenizer: Any, task: Task, config: TextSFTConfig, folder: Path, *,
    held_out: int, sampling: Sampling, seed: int, device: str = "cpu", **hooks: Any,
) -> Path:
    """Learn ``task``; the best checkpoint by held-out loss. ``model`` is only where it began where
    the folder has a newer one. hooks: see ``keep.learn_until_flat``."""
    newest = checkpoint.newest(folder)
    if newest is not None:
        model, tokenizer = load(newest)
    trainer = text_trainer(model.to(device), config, seed)
    lesson = sft_lesson(trainer, tokenizer, task, config, held_out=held_out, sampling=sampling,
                        seed=seed)

    def save(path: Path, row: Row) -> None:
        save_checkpoint(path, model, tokenizer, trainer.state(), {
            "kind": "sft", "step": row["step"],
            "compute": {key: row[key] for key in ("seconds", "flops", "tokens")},
            "metrics": {"loss": row["loss"], "greedy": row["greedy"]["accuracy"],
                        "sampled": row["sampled"]["accuracy"]}})

    kept = Kept(folder, save, keep=max(config.keep, checkpoint.LAST),
                breakdown=("--model", "sft.learning_rate", config.learning_rate))
    return learn_until_flat(trainer, lesson, config, kept, **hooks)  # type: ignore[arg-type]


def best(folder: Path) -> Path:
    """The checkpoint of the lowest held-out loss; UserError if none has been saved yet."""
    found = checkpoint.best(folder, "loss")
    if found is None:
        raise UserError(f"{folder}: no SFT checkpoint yet; make one with selfplay llm train")
    return found


# -------------------------------------------------------------------------------------- rewards


class KeptTextLearner(TextLearner):
    """Learning from rewards in a folder: begins where the newest checkpoint was taken, else from
    ``init``, a folder or hub id of a model."""

    def __init__(
        self, job: RewardedTask, init: str | Path, folder: Path, config: TextRLConfig,
        pg: PGConfig, *,
        sampling: Sampling, device: str = "cpu", seed: int = 0, lora: Lora | None = None,
        dtype: str = "float32", first: int = FIRST,
        engine: Engine = lambda model, tokenizer: None,
    ) -> None:
        """lora: adapters for a model that has none yet. first: number of the first batch of
        prompts. engine: of (model, tokenizer), who writes completions if it is not torch."""
        newest = checkpoint.newest(folder)
        model, tokenizer = load(newest or init, None if newest else lora, dtype)
        model = model.to(device).eval()
        reference = None
        if pg.kl_weight > 0:
            reference = reference_of(model, init, newest is not None, lora, dtype)
        super().__init__(
            job, model, tokenizer, config, pg, sampling=sampling, device=device, seed=seed,
            number=first, reference=reference,
            first=lambda: load(init, None, dtype)[0])
        self.folder = folder
        self.kept = Kept(
            folder, partial(_save, self, "rl"), every=config.checkpoint_every,
            keep=max(config.keep, checkpoint.LAST), seconds="total_seconds", parts=True,
            watch=Watch(device), breakdown=("--model", "pg.learning_rate", pg.learning_rate))
        if newest is not None:
            self.optimizer.load_state(*checkpoint.load_training(newest))
            meta = checkpoint.read_meta(newest)
            self.step = int(meta["step"])
            self.compute |= {key: meta["compute"][key] for key in self.compute}
            self.kept.before = float(meta["compute"]["seconds"])
            self.kept.resume(self.step)
        self.policy.generator = engine(model, tokenizer)

    @property
    def history(self) -> list[Row]:
        return self.kept.history


def train_rl(
    learner: KeptTextLearner, *, left: Callable[[], float] = lambda: math.inf,
    log: Callable[[Row], None] = lambda row: None, show: Show = lambda samples: None,
) -> Path | None:
    """``rl.improve`` within ``left()`` seconds, kept: a row a step, completions at every look. The
    newest checkpoint, None if there is none. Where learning breaks down (UserError) nothing more
    is saved, and the newest checkpoint is the last good one."""
    kept, told = learner.kept, _told(learner.folder, learner.step, show)
    return kept.go_on(improve(learner, stop=lambda: left() <= 0, show=told, watch=kept.watch), log)


def _save(learner: Any, kind: str, path: Path, row: Row) -> None:
    seconds = {"seconds": row.get("total_seconds", row.get("seconds"))}
    job = learner.job if kind == "rl" else learner.aim
    save_checkpoint(path, learner.policy.net.policy, learner.tokenizer, learner.optimizer.state(), {
        "kind": kind, "step": row["step"], "task": job.task.name,
        "compute": {**seconds, **learner.compute}, "metrics": row})


def _told(folder: Path, step: int, show: Show) -> Show:
    """Completions go into samples.jsonl, where those of undone steps are dropped first."""
    folder.mkdir(parents=True, exist_ok=True)
    rows_up_to(folder / "samples.jsonl", step)

    def told(samples: list[Row]) -> None:
        append(folder / "samples.jsonl", samples)
        show(samples)

    return told


# ---------------------------------------------------------------------------------- preferences


def train_reward_model(
    model: RewardModel, tokenizer: Any, pairs: Sequence[Pair], held: Sequence[Pair],
    config: RewardConfig, folder: Path, *, seed: int, **hooks: Any,
) -> Path:
    """Train until the held-out loss has not gone down for ``patience`` epochs; the checkpoint of
    the lowest. An epoch makes a row and a checkpoint ``ckpt-EPOCH``; of these the best and the
    newest are kept. The model is trained in place. hooks: see ``keep.learn_until_flat``."""
    training = RewardTrainer(model.eval(), config)
    lesson, plateau = pair_lesson(training, tokenizer, pairs, held, config, seed)

    def save(path: Path, row: Row) -> None:
        checkpoint.save(path, training, spec_of(model), {  # type: ignore[arg-type]
            "kind": "reward model", "step": row["step"],
            "compute": {"pairs": len(pairs), "seconds": row["seconds"]},
            "metrics": {key: row[key] for key in ("loss", "accuracy", "calibration_error")}})

    kept = Kept(folder, save, keep=1, breakdown=("", "rm.learning_rate", config.learning_rate))
    return learn_until_flat(training, lesson, plateau, kept, **hooks)


def best_checkpoint(folder: Path) -> Path:
    """The reward model of the lowest held-out loss in a folder of ``train_reward_model``."""
    found = checkpoint.best(folder, "loss")
    if found is None:
        raise UserError(f"{folder}: no reward model there; give a folder such as runs/NAME/rm")
    return found


class KeptRLHFLearner(RLHFLearner):
    """A climb in a folder: begins where the newest checkpoint was taken, else from ``init``, the
    folder of a policy, which is the reference as well."""

    def __init__(
        self, aim: RLHFObjective, init: str | Path, folder: Path, config: RLHFConfig, *,
        sampling: Sampling, seed: int = 0, device: str = "cpu", markers: Sequence[str] = (),
        engine: Engine = lambda model, tokenizer: None,
    ) -> None:
        """engine: of (model, tokenizer), who writes completions if it is not torch."""
        newest = checkpoint.newest(folder)
        self.folder, self.compute = folder, dict[str, float]()
        self.kept = Kept(folder, partial(_save, self, "rlhf"), keep=1, note=self._note, parts=True,
                         watch=Watch(device),
                         breakdown=("--model", "rlhf.learning_rate", config.learning_rate))
        step = int(checkpoint.read_meta(newest)["step"]) if newest else 0
        if newest is not None:
            self.kept.history = rows_up_to(folder / "history.jsonl", step)
        model, tokenizer = load(newest or init)
        model = model.to(device).eval()
        super().__init__(
            aim, model, tokenizer, reference_of(model, init, newest is not None), config,
            sampling=sampling, seed=seed, device=device, markers=markers,
            generator=engine(model, tokenizer),
            length=self.history[0]["length"] if self.history else None)
        if newest is not None:
            self.optimizer.load_state(*checkpoint.load_training(newest))
            self.step, self.kl = step, self.history[-1]["kl"]
            self.policy.refresh()

    @property
    def history(self) -> list[Row]:
        return self.kept.history

    def _note(self, history: Sequence[Row], ended: str = "time") -> Mapping[str, Any]:
        row = best_row(history, self.config.kl_budget)
        return {"checkpoint": name_of(row), "ended": ended,
                **{key: row[key] for key in ("step", "gold", "gold_low", "gold_high", "proxy",
                                             "kl")}}


def train_rlhf(
    learner: KeptRLHFLearner, *, left: Callable[[], float] = lambda: math.inf,
    log: Callable[[Row], None] = lambda row: None, show: Show = lambda samples: None,
) -> Path:
    """``rlhf.climb`` within ``left()`` seconds, kept; the checkpoint of the best gold reward within
    the budget, which best.json names, with why the climb ended."""
    kept = learner.kept
    told = _told(learner.folder, -1 if learner.kl is None else learner.step, show)
    kept.go_on(rlhf.climb(learner, stop=lambda: left() <= 0, show=told, watch=kept.watch), log)
    note = learner._note(learner.history, learner.ended(lambda: True))
    write_state(learner.folder / checkpoint.BEST, note)
    return learner.folder / note["checkpoint"]
