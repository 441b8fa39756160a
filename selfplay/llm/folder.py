"""A language-model run on disk: its settings and task, its models, and learners that go on.

runs/NAME/
    config.json   what was asked for        progress.json   seconds spent, stages done
    sft/, rl/ ..  a stage's ckpt-STEP, history.jsonl, best.json, samples.jsonl
    tb/           TensorBoard events        evaluation.json, chart.png, report.html, summary.json
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.files import read_json, refused, sync_folder
from selfplay.common.settings import to_dict, validated
from selfplay.common.words import command
from selfplay.games import own
from selfplay.learn import checkpoint
from selfplay.learn.config import PGConfig
from selfplay.llm.config import (
    AGAINST_A_MODEL,
    TextConfig,
    fixed,
    must_not_contradict,
    stages_of,
)
from selfplay.llm.embedded import POSITIONS, character_tokenizer, shape_of
from selfplay.llm.engines.ahead import Ahead
from selfplay.llm.engines.choose import engine_of
from selfplay.llm.envs.episodes import episodes
from selfplay.llm.generate import Generator, Sampling
from selfplay.llm.judges.ready import must_be_of_use, must_start
from selfplay.llm.memory import Memory
from selfplay.llm.models import (
    Lora,
    load_model,
    load_tokenizer,
    must_be_a_model,
    prompt_of,
    reference_of,
    render,
    save_model,
)
from selfplay.llm.play.lessons import GameTask, game_task
from selfplay.llm.preferences.config import RLHFConfig
from selfplay.llm.preferences.pairs import read_pairs
from selfplay.llm.preferences.rlhf import RLHFLearner, best_row
from selfplay.llm.rl import (
    FIRST,
    RewardedTask,
    RewardLearner,
    Show,
    TextLearner,
    groups_must_fit,
)
from selfplay.llm.stage_config import PREFIX, TextRLConfig
from selfplay.llm.tasks.gym import SHORT
from selfplay.llm.tasks.rows import Lines
from selfplay.llm.tasks.task import Task, make_task
from selfplay.run.keep import Kept, Row, Watch, append, rows_up_to

#: Of (model, tokenizer): what writes completions in torch's place, if anything does.
Engine: TypeAlias = Callable[[nn.Module, Any], Generator | None]


@dataclass(frozen=True)
class TextRun:
    """An opened run folder. engine: writes completions elsewhere, while there is one."""

    folder: Path
    config: TextConfig
    task: Task
    engine: Engine | None = None


def stored_text_config(folder: Path) -> TextConfig | None:
    """The config of the run in ``folder``; None where there is no such folder or it is empty.

    Raises UserError if it holds something else.
    """
    path = folder / "config.json"
    if path.exists():
        return validated(TextConfig, read_json(path), str(path))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: holds other files, not a language-model run; name another "
                        "folder")
    return None


def open_text_run(folder: Path, config: TextConfig) -> TextRun:
    """A new run, or the one in ``folder``; nothing is written yet.

    Raises UserError for a task or a model that does not exist, and for settings other than those of
    the run that is there.
    """
    must_not_contradict(config)
    if config.recipe not in ("sft", "dpo", *AGAINST_A_MODEL):
        groups_must_fit(config.rl, config.pg)
    shape_of(config.net)
    shape_of(config.own.net, "own.net")  # rather a mistake found now than after RL
    stored = stored_text_config(folder)
    if stored is not None:
        new, old = to_dict(fixed(config)), to_dict(fixed(stored))
        for key in new:
            if new[key] != old[key]:
                raise UserError(f"{folder}: was started with "
                                f"{_changed_setting(key, old[key], new[key])}; give --run "
                                "another name")
    if config.model and stored is None:
        must_be_a_model(config.model)
    if config.pairs.file and stored is None:  # rather a mistake found now than after SFT
        read_pairs(Path(config.pairs.file))
    task = task_of(config, folder=folder)
    if isinstance(task, GameTask) and config.sample.max_staleness:
        raise UserError("sample.max_staleness: the moves of a game wait for each other; leave it "
                        "out")
    if stored is None:  # rather a mistake found now than after SFT
        must_be_of_use(config, task)
        must_start(task)
    also = config.eval.also if stored is None or stored.eval != config.eval else ()
    for name in (*(config.data.corpus if stored is None else ()), *also):
        task_of(replace(config, task=name), folder=folder)
    return TextRun(folder, config, task)


def _changed_setting(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict):
        name = next(name for name in new if new[name] != old.get(name))
        return f"{key}.{name}={old.get(name)}, not {new[name]}"
    return f"{key}={old}, not {new}"


def task_of(config: TextConfig, guessed: float = 0.0, folder: Path | None = None) -> Task:
    """The task of a run's settings. guessed: see ``make_task``; other demonstrations are then all
    right. folder: the run's, where a game's positions are; UserError for a game without one."""
    if config.task.startswith("env:"):
        return episodes(config)
    if config.task.startswith(PREFIX):
        if folder is None:
            raise UserError(f"{config.task}: a game's positions are a run's; train one with "
                            f"{command('selfplay', 'llm', 'train', '--game', 'NAME')}, then see "
                            "selfplay llm eval RUN, or selfplay judge RUN")
        return game_task(config, folder)
    style, wrong, slips = config.data.style, config.data.wrong, config.data.slips
    if style == "auto":
        terse = not config.model and config.task.split("(")[0].strip() in SHORT
        style = "short" if terse else "full"
    if guessed:
        wrong, slips = 0.0, "any"
    return make_task(config.task, style=style, seed=config.seed, wrong=wrong, slips=slips,
                     guessed=guessed, data=config.data, judge=config.judge)


def fit_to_model(run: TextRun) -> TextRun:
    """``run`` without the questions that its model cannot see whole, with room for an answer."""
    config = run.config
    if not isinstance(run.task.source, Lines):
        return run
    if config.model:
        tokenizer, most = load_tokenizer(config.model)
    else:
        tokenizer, most = character_tokenizer(), POSITIONS
    if most is None:
        return run
    first = run.task.batch(0, 1)[0]
    more = len(prompt_of(tokenizer, first)) - len(render(tokenizer, first.prompt))
    return replace(run, task=fitting(run.task, lambda text: more + len(render(tokenizer, text)),
                                     most - config.sample.max_new_tokens))


def fitting(task: Task, tokens: Callable[[str], int], most: int) -> Task:
    """``task`` without the questions of a file that are longer than ``most`` tokens: one of them
    would end a run whenever it came up. The task's note counts them.

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


def memory_of(config: TextConfig) -> Memory:
    return Memory(**vars(config.memory), shared_out=config.shard == "fsdp")


def lora_of(config: TextConfig) -> Lora | None:
    lora = Lora(config.lora.rank, config.lora.alpha, config.lora.dropout, config.seed)
    return lora if lora.rank else None


def sampling_of(config: TextConfig) -> Sampling:
    sample = config.sample
    return Sampling(sample.temperature, sample.top_p, sample.max_new_tokens,
                    tuple(text.replace("\\n", "\n") for text in sample.stop))


# ------------------------------------------------------------------------------------- checkpoints


def model_of(folder: Path, stage: str) -> Path | None:
    """The checkpoint that a stage of the run in ``folder`` hands on; None where it has none, and
    for a reward model, which writes no text."""
    return None if stage == "rm" else checkpoint.chosen(folder / stage)


def newest_model(folder: Path) -> Path:
    """The checkpoint of a run's last stage that has one, or the folder itself if it is a model.

    Raises UserError if there is none.
    """
    if (folder / "meta.json").is_file() or any(folder.glob("*.safetensors")):
        return folder
    config = stored_text_config(folder) if folder.is_dir() else None
    for stage in reversed(stages_of(config)) if config else ():
        found = model_of(folder, stage)
        if found is not None:
            return found
    raise UserError(f"{folder}: no model there; train one with "
                    f"{command('selfplay', 'llm', 'train', '--run', folder)}")


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the lowest held-out loss in the folder of a stage that learns from
    demonstrations or preferences; UserError if none has been saved yet."""
    found = checkpoint.best(folder, "loss")
    if found is None:
        raise UserError(f"{folder}: no checkpoint there yet; make one with selfplay llm train")
    return found


def save_checkpoint(
    path: Path, model: nn.Module, tokenizer: Any,
    training: tuple[dict[str, Tensor], dict[str, Any]], meta: Mapping[str, Any],
) -> None:
    """Write ``path``, in place of what is there: what ``models.save_model`` writes, so that any
    tool of Hugging Face reads the folder, and the files of ``learn.checkpoint``.

    training: what a trainer's ``state`` returns. meta: JSON types; at least "kind", "step" and
    "compute" belong in it. Raises UserError where the disk refuses.
    """
    with checkpoint.replacing(path) as folder:
        try:
            save_model(folder, model, tokenizer)
            for file in folder.glob("*") if ranks.leads() else ():
                sync_folder(file)  # which flushes a file as well
        except OSError as error:
            raise refused(path, error) from error
        checkpoint.write_training(folder, *training)
        kind = type(model).__name__.removeprefix("FSDP")  # as its class is called while sharded
        checkpoint.write_meta(folder, {**meta, "net": {"model": kind}})
        if ranks.leads():
            sync_folder(folder)


# --------------------------------------------------------------------------- learning from rewards


def reference_of_step(folder: Path, pg: PGConfig, step: int) -> Path | None:
    """The reference that step number ``step`` of the stage in ``folder`` was learnt by; None where
    it was still the first one. Raises UserError where it is gone."""
    last = (step - 1) // pg.reset_every * pg.reset_every if pg.reset_every else 0
    path = folder / f"reference-{last:06d}"  # the reset comes before the step behind it
    if last > 0 and not path.is_dir():
        raise UserError(f"{path}: gone, and the run was learning near it; give --run another name")
    return path if last > 0 else None


def engine_for(run: TextRun, device: str) -> Engine:
    """What writes the completions of a run's model, by its settings."""
    if run.engine is not None:
        return run.engine
    return lambda model, tokenizer: engine_of(model, tokenizer, run.config.sample,
                                              run.config.model, device)


def no_engine(model: nn.Module, tokenizer: Any) -> None:
    """An ``Engine`` that leaves writing to torch."""


def open_learner(
    goal: RewardedTask, init: str | Path, folder: Path, config: TextRLConfig, pg: PGConfig, *,
    sampling: Sampling, device: str = "cpu", seed: int = 0, lora: Lora | None = None,
    first_batch: int = FIRST, engine: Engine = no_engine, memory: Memory | None = None,
    staleness: int = 0,
    learner_of: Callable[..., TextLearner] = TextLearner,
) -> tuple[TextLearner, Kept]:
    """(a learner as it was at the newest checkpoint in ``folder``, else at the model ``init``, a
    folder or hub id; how its rows are kept in ``folder``).

    lora: adapters for a model that has none yet. first_batch: see ``rl.TextLearner``. staleness:
    see ``engines.ahead``; 0: no answers are asked ahead. learner_of: what makes the learner.
    """
    newest, memory = checkpoint.newest(folder), memory or Memory()
    model, tokenizer = load_model(newest or init, None if newest else lora)
    model = memory.held(model.to(device).eval())
    step = int(checkpoint.read_meta(newest)["step"]) if newest else 0
    near = reference_of_step(folder, pg, step) or init
    reference = reference_of(model, near, newest is not None, lora) if pg.kl_weight > 0 else None
    learner = learner_of(
        goal, model, tokenizer, config, pg, sampling=sampling, device=device, seed=seed,
        first_batch=first_batch, reference=reference, first_model=lambda: load_model(init)[0],
        memory=memory, ahead=partial(Ahead, staleness=staleness) if staleness else None)
    kept = Kept(
        folder, lambda path, row: _save_learner(learner, "rl", path, row),
        every=config.checkpoint_every, keep=max(config.keep, checkpoint.LAST),
        seconds="total_seconds", parts=True, watch=Watch(device),
        breakdown=("--model", "pg.learning_rate", pg.learning_rate))
    if newest is not None:
        meta = checkpoint.read_meta(newest)
        learner.compute |= {key: meta["compute"][key] for key in learner.compute}
        kept.before = float(meta["compute"]["seconds"])
        _load_state(learner, kept, newest)
    learner.history = kept.history
    if pg.extra_loss:
        learner.optimizer.extra = own.object_of(pg.extra_loss, "a loss term", UserError)

    def keep_reference() -> None:
        there = [learner.step, *(int(path.name[-6:]) for path in checkpoint.listing(folder))]
        for old in folder.glob("reference-*"):  # learning may go on from one of the last two
            if ranks.leads() and int(old.name[-6:]) + pg.reset_every < sorted(there)[-3:][0]:
                shutil.rmtree(old)
        with checkpoint.replacing(folder / f"reference-{learner.step:06d}") as path:
            save_model(path, learner.policy.net.policy, tokenizer)

    learner.on_reset = keep_reference
    learner.policy.generator = engine(model, tokenizer)
    return learner, kept


def open_rlhf_learner(
    goal: RewardedTask, init: Path, folder: Path, config: RLHFConfig, *,
    sampling: Sampling, device: str = "cpu", seed: int = 0, markers: Sequence[str] = (),
    engine: Engine = no_engine, memory: Memory | None = None,
) -> tuple[RLHFLearner, Kept]:
    """As ``open_learner``; the policy in ``init`` is the reference as well. best.json names the
    checkpoint of the best gold reward within the budget, and why learning ended."""
    newest = checkpoint.newest(folder)
    model, tokenizer = load_model(newest or init)
    memory = memory or Memory()
    model = memory.held(model.to(device).eval())
    step = int(checkpoint.read_meta(newest)["step"]) if newest else -1
    before = rows_up_to(folder / "history.jsonl", step)
    learner = RLHFLearner(
        goal, model, tokenizer, reference_of(model, init, newest is not None), config,
        sampling=sampling, device=device, seed=seed, markers=markers,
        generator=engine(model, tokenizer), length=before[0]["length"] if before else None,
        memory=memory)

    def note(history: Sequence[Row]) -> Mapping[str, Any]:
        row = best_row(history, config.kl_budget)
        return {"checkpoint": kept.path(row).name, "ended": learner.ended(lambda: True),
                **{key: row[key] for key in ("step", "gold", "gold_low", "gold_high", "proxy",
                                             "kl")}}

    kept = Kept(folder, lambda path, row: _save_learner(learner, "rlhf", path, row), keep=1,
                note=note, parts=True, watch=Watch(device),
                breakdown=("--model", "rlhf.learning_rate", config.learning_rate))
    if newest is not None:
        learner.kl = before[-1]["kl"]
        _load_state(learner, kept, newest)
        learner.policy.refresh()
    learner.history = kept.history
    return learner, kept


def _load_state(learner: RewardLearner, kept: Kept, newest: Path) -> None:
    learner.optimizer.load_state(*checkpoint.load_training(newest))
    learner.step = int(checkpoint.read_meta(newest)["step"])
    kept.resume(learner.step)


def _save_learner(learner: RewardLearner, kind: str, path: Path, row: Row) -> None:
    seconds = {"seconds": row.get("total_seconds", row.get("seconds"))}
    save_checkpoint(path, learner.policy.net.policy, learner.tokenizer, learner.optimizer.state(), {
        "kind": kind, "step": row["step"], "task": learner.goal.task.name,
        "compute": {**seconds, **learner.compute}, "metrics": row})


def train_learner(
    learner: TextLearner | RLHFLearner, kept: Kept, *,
    left: Callable[[], float] = lambda: math.inf, log: Callable[[Row], None] = lambda row: None,
    show: Show = lambda samples: None,
) -> Path | None:
    """``learner.rows`` within ``left()`` seconds, kept; completions go to samples.jsonl and to
    ``show``. Returns the checkpoint that best.json names, else the newest, None if there is none.
    Where learning breaks down (UserError) the newest checkpoint is the last good one."""
    path = kept.folder / "samples.jsonl"
    kept.folder.mkdir(parents=True, exist_ok=True)
    rows_up_to(path, learner.step if kept.history else -1)

    def written_down(samples: list[Row]) -> None:
        append(path, samples)
        show(samples)

    kept.go_on(learner.rows(stop=lambda: ranks.here().first(left() <= 0), show=written_down,
                            watch=kept.watch), log)
    return checkpoint.chosen(kept.folder)
