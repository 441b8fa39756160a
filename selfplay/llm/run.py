"""A language-model run: its folder, its stages by recipe, all of them resumable.

runs/NAME/
    config.json   what was asked for        progress.json   seconds spent, stages done
    sft/          checkpoints, history      tb/             TensorBoard events
    evaluation.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.config import read, to_dict
from selfplay.console import Bar, say
from selfplay.errors import UserError
from selfplay.files import locked
from selfplay.llm import store
from selfplay.llm.config import TextConfig
from selfplay.llm.evaluate import evaluate, table
from selfplay.llm.generate import Sampling, TorchGenerator
from selfplay.llm.models import Lora, character_tokenizer, end_tokens, load, small_model
from selfplay.llm.sft import best, train_sft
from selfplay.llm.tasks import Task, make_task
from selfplay.llm.traces import SHORT
from selfplay.runs import Clock, read_json, write_json

#: Settings that say how long, where, or how it is judged: they may change within a run.
FREE = ("minutes", "device", "eval")


@dataclass(frozen=True)
class TextRun:
    """An opened run folder."""

    folder: Path
    config: TextConfig
    task: Task


@dataclass(frozen=True)
class Stage:
    """A part of a recipe: does its work within ``clock.left(name)`` seconds, from what the folder
    holds, and leaves its result there."""

    name: str
    run: Callable[[TextRun, Clock, str], None]
    share: float  #: of the minutes


@dataclass(frozen=True)
class Budget:
    """What a Clock asks for: a run's folder and, as its config, this object itself."""

    folder: Path
    minutes: float
    shares: tuple[float, ...]

    @property
    def config(self) -> Budget:
        return self


def stored_config(folder: Path) -> TextConfig | None:
    """The config of the run in ``folder``; None where there is no such folder or it is empty.

    Raises UserError if it holds something else.
    """
    path = folder / "config.json"
    if path.exists():
        return read(TextConfig, read_json(path), str(path))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: holds other files, not a language-model run; give --run "
                        "another name")
    return None


def open_run(folder: Path, config: TextConfig) -> TextRun:
    """Create the run, or continue it; nothing is written yet.

    Raises UserError for a recipe or a task that does not exist, and for settings other than
    those of the run that is there.
    """
    if config.recipe not in RECIPES:
        raise UserError(f"--recipe {config.recipe}: one of {', '.join(RECIPES)} wanted")
    stored = stored_config(folder)
    if stored is not None:
        new, old = to_dict(config), to_dict(stored)
        for key in new:
            if key not in FREE and new[key] != old[key]:
                raise UserError(f"{folder}: was started with {_difference(key, old[key], new[key])}"
                                "; give --run another name")
    return TextRun(folder, config, task_of(config))


def task_of(config: TextConfig) -> Task:
    """The task of a run's settings."""
    style = config.data.style
    if style == "auto":
        terse = not config.model and config.task.split("(")[0].strip() in SHORT
        style = "short" if terse else "answer"
    return make_task(config.task, style=style, seed=config.seed, wrong=config.data.wrong)


def train(run: TextRun, device: str) -> None:
    """Run the stages of the run's recipe.

    Raises UserError before anything is made if another process works on the run.
    """
    stages = RECIPES[run.config.recipe]
    with locked(run.folder):
        write_json(run.folder / "config.json", to_dict(run.config))
        budget = Budget(run.folder, run.config.minutes, tuple(s.share for s in stages))
        clock = Clock(budget, stages=[stage.name for stage in stages])
        for stage in stages:
            with clock.running(stage.name):
                stage.run(run, clock, device)


def start(run: TextRun) -> tuple[Any, Any]:
    """(model, tokenizer) that the run begins with."""
    config = run.config
    lora = Lora(config.lora.rank, config.lora.alpha, config.lora.dropout)
    if config.model:
        return load(config.model, lora if lora.rank else None)
    if lora.rank:
        raise UserError("lora.rank: adapters want a model that has learnt; give --model")
    tokenizer = character_tokenizer(run.task.texts())
    return small_model(config.net, tokenizer, config.seed), tokenizer


def newest_model(folder: Path) -> Path:
    """The checkpoint that speaks for a run (of its last stage), or the folder itself if it is one.

    Raises UserError if there is none.
    """
    if (folder / "meta.json").is_file() or any(folder.glob("*.safetensors")):
        return folder
    config = stored_config(folder) if folder.is_dir() else None
    for stage in reversed(RECIPES[config.recipe]) if config else ():
        if stage.name == "sft" and (folder / "sft" / "best.json").exists():
            return best(folder / "sft")
        found = store.newest(folder / stage.name)
        if found is not None:
            return found
    raise UserError(f"{folder}: no model there; train one with selfplay llm train --run {folder}")


def sampling_of(config: TextConfig) -> Sampling:
    return Sampling(config.sample.temperature, config.sample.top_p, config.sample.max_new_tokens)


def sft_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Learn the demonstrations until the held-out curve is flat or the share is used up."""
    folder, config = run.folder / "sft", run.config
    if "sft" in clock.done:
        say(f"SFT: finished, best checkpoint {best(folder).name}")
        return
    writer, last = tensorboard(run.folder), {"text": "first look soon"}

    def log(row: dict[str, Any]) -> None:
        log_row(writer, "sft", row)
        last["text"] = look_text(row)

    model, tokenizer = start(run)
    with Bar("SFT", clock.budget("sft")) as bar:
        found = train_sft(
            model, tokenizer, run.task, config.sft, folder, held_out=config.data.held_out,
            sampling=sampling_of(config), seed=config.seed, device=device,
            left=lambda: clock.left("sft"), log=log,
            progress=lambda step, _: bar.at(clock.spent("sft"), f"step {step:,}  {last['text']}"))
    writer.close()
    flat = read_json(folder / "best.json")["flat"]
    if flat:
        clock.finish("sft")
    say(f"SFT: {'flat' if flat else 'not flat yet'}, best checkpoint {found.name}, "
        f"{last['text']}")


def eval_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Measure the newest model on the held-out questions."""
    measure(run, run.config.eval.samples, device)


def measure(run: TextRun, ks: tuple[int, ...], device: str) -> dict[str, Any]:
    """Evaluate a run's model, write ``evaluation.json``, say what came out."""
    path = newest_model(run.folder)
    model, tokenizer = load(path)
    generator = TorchGenerator(model.to(device), end_tokens(model, tokenizer),
                               tokenizer.pad_token_id)
    examples = run.task.held_out(run.config.data.held_out)
    result = {"checkpoint": str(path.relative_to(run.folder)), "task": run.config.task,
              **evaluate(generator, tokenizer, examples, sampling_of(run.config), ks,
                         run.config.seed)}
    write_json(run.folder / "evaluation.json", result)
    say(f"{path}: {len(examples)} held-out questions of {run.config.task}")
    say(table(result))
    return result


def look_text(row: dict[str, Any]) -> str:
    """A look at what is held out, in a few words."""
    return (f"held-out greedy {row['greedy']['accuracy']:.1%}, "
            f"sampled {row['sampled']['accuracy']:.1%}")


def tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tb"))


def log_row(writer: Any, stage: str, row: dict[str, Any], step: int | None = None) -> None:
    """A row of history: numbers as scalars, ``shown`` pairs (prompt, completion) as text."""
    step = row["step"] if step is None else step
    for key, value in row.items():
        if isinstance(value, dict):
            log_row(writer, f"{stage}/{key}", value, step)
        elif isinstance(value, (int, float)):
            writer.add_scalar(f"{stage}/{key}", value, step)
        elif key == "shown":
            lines = [f"    {prompt}\n    {text}" for prompt, text in value]
            writer.add_text(f"{stage}/completions", "\n\n".join(lines), step)
    writer.flush()


#: recipe -> its stages in order; their folders have their names.
RECIPES: dict[str, tuple[Stage, ...]] = {
    "sft": (Stage("sft", sft_stage, 0.9), Stage("eval", eval_stage, 0.1)),
}


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict):
        name = next(name for name in new if new[name] != old.get(name))
        return f"{key}.{name}={old.get(name)}, not {new[name]}"
    return f"{key}={old}, not {new}"
