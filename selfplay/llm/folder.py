"""A language-model run as it lies on disk: its folder, its task, its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from selfplay.common.errors import UserError
from selfplay.learn import checkpoint
from selfplay.llm.config import TextConfig
from selfplay.llm.generate import Sampling
from selfplay.llm.models import Lora
from selfplay.llm.tasks import SHORT, Lines, Task, make_task


@dataclass(frozen=True)
class TextRun:
    """An opened run folder."""

    folder: Path
    config: TextConfig
    task: Task


def task_of(config: TextConfig, guessed: float = 0.0) -> Task:
    """The task of a run's settings; guessed: see ``make_task``, whose demonstrations are then
    right where they do not guess."""
    style = config.data.style
    if style == "auto":
        terse = not config.model and config.task.split("(")[0].strip() in SHORT
        style = "short" if terse else "answer"
    if guessed:
        return make_task(config.task, style=style, seed=config.seed, guessed=guessed)
    return make_task(config.task, style=style, seed=config.seed, wrong=config.data.wrong,
                     slips=config.data.slips)


def fitting(task: Task, tokens: Callable[[str], int], most: int) -> Task:
    """``task`` without the questions of a file that are longer than ``most`` tokens, which its note
    counts: one of them would end a run whenever it is drawn.

    Raises UserError where fewer than 2 are left.
    """
    assert isinstance(task.source, Lines)
    kept = [example for example in task.source.examples if tokens(example.prompt) <= most]
    out = len(task.source.examples) - len(kept)
    if not out:
        return task
    if len({example.prompt for example in kept}) < 2:
        raise UserError(f"{task.name}: {out} questions are longer than the {most} tokens that the "
                        "model sees beside its answer; lower --set sample.max_new_tokens, or give "
                        "shorter ones")
    note = f"{task.name}: {out} questions longer than {most} tokens: left out"
    return replace(task, source=Lines(kept), note="\n".join(filter(None, (task.note, note))))


def lora_of(config: TextConfig) -> Lora | None:
    lora = Lora(config.lora.rank, config.lora.alpha, config.lora.dropout, config.seed)
    return lora if lora.rank else None


def sampling_of(config: TextConfig) -> Sampling:
    return Sampling(config.sample.temperature, config.sample.top_p, config.sample.max_new_tokens)


def model_of(folder: Path, stage: str) -> Path | None:
    """The checkpoint of a language model that speaks for a stage of the run in ``folder``; None if
    there is none: a reward model does not speak."""
    return None if stage == "rm" else checkpoint.chosen(folder / stage)


PICTURE = "overoptimisation.png"
