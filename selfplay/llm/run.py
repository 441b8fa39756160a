"""A language-model run: its folder, its stages by recipe, all of them resumable.

runs/NAME/
    config.json   what was asked for        progress.json   seconds spent, stages done
    sft/, rl/ ..  checkpoints, history      tb/             TensorBoard events
    evaluation.json   chart.png   report.html   summary.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.common.console import say
from selfplay.common.errors import UserError, command
from selfplay.common.files import locked, read_json, write_json
from selfplay.common.settings import read, to_dict
from selfplay.llm import recipes, rlhf_stages, summary, vllm
from selfplay.llm.config import AGAINST_A_MODEL, TextConfig, fixed, must_fit
from selfplay.llm.evaluate import evaluate, table
from selfplay.llm.folder import TextRun, fitting, model_of, sampling_of, task_of
from selfplay.llm.generate import TorchGenerator
from selfplay.llm.models import (
    POSITIONS,
    character_tokenizer,
    load,
    must_be_there,
    reads,
    render,
    shape_of,
)
from selfplay.llm.preferences import read_pairs
from selfplay.llm.rl import groups_must_fit
from selfplay.llm.tasks import Lines
from selfplay.report.page import write_report
from selfplay.report.text import headlines
from selfplay.run.clock import Clock
from selfplay.run.stage import Stage, run_stages


@dataclass(frozen=True)
class Part:
    """A stage of a recipe."""

    name: str
    run: Stage
    share: float  #: of the minutes


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

    Raises UserError for a task that does not exist, and for settings other than those of the run
    that is there.
    """
    must_fit(config)
    if config.recipe not in ("sft", *AGAINST_A_MODEL):
        groups_must_fit(config.rl, config.pg)
    shape_of(config.net)
    shape_of(config.own.net, "own.net")  # better heard of now than after RL
    stored = stored_config(folder)
    if stored is not None:
        new, old = to_dict(fixed(config)), to_dict(fixed(stored))
        for key in new:
            if new[key] != old[key]:
                raise UserError(f"{folder}: was started with {_difference(key, old[key], new[key])}"
                                "; give --run another name")
    if config.model and stored is None:
        must_be_there(config.model)
    if config.pairs.file and stored is None:  # a bad line is better heard of now than after SFT
        read_pairs(Path(config.pairs.file))
    return TextRun(folder, config, task_of(config))


def fit_to_model(run: TextRun) -> TextRun:
    """``run`` without the questions that its model cannot see whole, with room for an answer."""
    config = run.config
    if not isinstance(run.task.source, Lines):
        return run
    if config.model:
        tokenizer, most = reads(config.model)
    else:
        tokenizer, most = character_tokenizer(), POSITIONS
    if most is None:
        return run
    return replace(run, task=fitting(run.task, lambda text: len(render(tokenizer, text)),
                                     most - config.sample.max_new_tokens))


def train(run: TextRun, device: str) -> None:
    """Run the stages of the run's recipe.

    Raises UserError before anything is made if another process works on the run, or vLLM was
    asked for and is not there.
    """
    planned = RECIPES[run.config.recipe]
    vllm.must_be_there(run.config.sample, run.config.model)
    run = fit_to_model(run)
    if run.task.note:
        say(run.task.note)
    with locked(run.folder):
        write_json(run.folder / "config.json", to_dict(run.config))
        clock = Clock(run, {stage.name: stage.share for stage in planned})
        run_stages(run, {stage.name: stage.run for stage in planned}, clock, device)


def newest_model(folder: Path) -> Path:
    """The checkpoint that speaks for a run (of its last stage), or the folder itself if it is one.

    Raises UserError if there is none.
    """
    if (folder / "meta.json").is_file() or any(folder.glob("*.safetensors")):
        return folder
    config = stored_config(folder) if folder.is_dir() else None
    for stage in reversed(RECIPES[config.recipe]) if config else ():
        found = model_of(folder, stage.name)
        if found is not None:
            return found
    raise UserError(f"{folder}: no model there; train one with "
                    f"{command('selfplay', 'llm', 'train', '--run', folder)}")


def eval_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Measure every stage's model on the held-out questions."""
    measure(run, run.config.eval.samples, device, every=True)
    say(f"ask it: {command('selfplay', 'llm', 'chat', run.folder)}   curves and completions: "
        f"tensorboard --logdir {run.folder / 'tb'}")


def measure(
    run: TextRun, ks: tuple[int, ...], device: str, every: bool = False
) -> dict[str, Any]:
    """Evaluate a run's model, or ``every`` stage's, write ``evaluation.json`` and the report, say
    what came out.

    The file has the newest model's figures, and all that were measured by stage.
    """
    vllm.must_be_there(run.config.sample, run.config.model)
    run = fit_to_model(run)
    newest = newest_model(run.folder)
    models = {stage.name: path for stage in RECIPES[run.config.recipe]
              if (path := model_of(run.folder, stage.name))}
    asked = models if every else {newest.parent.name: newest}
    measured = {name: _measured(run, path, ks, device) for name, path in asked.items()}
    measured = summary.with_earlier(run.folder, measured, models)
    result = {**measured[newest.parent.name], "stages": measured}
    write_json(run.folder / "evaluation.json", result)
    expert = summary.teacher(run)
    shown = summary.evaluation(run, {**measured, "teacher": expert} if expert else measured, device,
                               [stage.name for stage in RECIPES[run.config.recipe]])
    say("\n".join(["", *headlines(write_report(run.folder, shown))]))
    say(f"chart: {run.folder / 'chart.png'}   report: {run.folder / 'report.html'}")
    return result


def _measured(run: TextRun, path: Path, ks: tuple[int, ...], device: str) -> dict[str, Any]:
    model, tokenizer = load(path)
    given = "" if path.parent.name == "student" else run.config.model
    generator = vllm.generator_of(model, tokenizer, run.config.sample, given, device)
    examples = run.task.held_out(run.config.data.held_out)
    result = {"checkpoint": str(path.relative_to(run.folder)), "task": run.config.task,
              "engine": "torch" if isinstance(generator, TorchGenerator) else "vllm",
              **evaluate(generator, tokenizer, examples, sampling_of(run.config), ks,
                         run.config.seed)}
    say(f"{path}: {len(examples)} held-out questions of {run.config.task}")
    say(table(result))
    return result


#: recipe -> its stages in order; their folders have their names.
RECIPES: dict[str, tuple[Part, ...]] = {
    "sft": (Part("sft", recipes.sft_stage, 0.9), Part("eval", eval_stage, 0.1)),
    "grpo": (Part("sft", recipes.sft_stage, 0.35), Part("rl", recipes.rl_stage, 0.6),
             Part("eval", eval_stage, 0.05)),
    "ppo": (Part("sft", recipes.sft_stage, 0.35), Part("rl", recipes.rl_stage, 0.6),
            Part("eval", eval_stage, 0.05)),
    "r1-zero": (Part("base", recipes.base_stage, 0.35), Part("rl", recipes.rl_stage, 0.6),
                Part("eval", eval_stage, 0.05)),
    "r1": (Part("sft", recipes.sft_stage, 0.2), Part("rl", recipes.rl_stage, 0.3),
           Part("own", recipes.own_stage, 0.15), Part("rl2", recipes.rl2_stage, 0.3),
           Part("eval", eval_stage, 0.05)),
    "distill": (Part("sft", recipes.sft_stage, 0.25), Part("rl", recipes.rl_stage, 0.4),
                Part("student", recipes.student_stage, 0.3), Part("eval", eval_stage, 0.05)),
    "rlhf": (Part("sft", recipes.sft_stage, 0.35), Part("rm", rlhf_stages.rm_stage, 0.2),
             Part("rlhf", rlhf_stages.rlhf_stage, 0.4), Part("eval", eval_stage, 0.05)),
    "overoptimise": (Part("sft", recipes.sft_stage, 0.3), Part("rm", rlhf_stages.rm_stage, 0.2),
                     Part("free", rlhf_stages.free_stage, 0.25),
                     Part("rlhf", rlhf_stages.rlhf_stage, 0.2),
                     Part("eval", eval_stage, 0.05)),
}


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict):
        name = next(name for name in new if new[name] != old.get(name))
        return f"{key}.{name}={old.get(name)}, not {new[name]}"
    return f"{key}={old}, not {new}"
