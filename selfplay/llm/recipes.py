"""The parts of recipes: each works within its share of the time, from what the folder holds, and
leaves checkpoints in a folder of its name.

sft       demonstrations, from the model that the run begins with
base      the same model reads texts in which most answers are guesses: pretraining, for the
          embedded model, which nobody has pretrained
rl, rl2   reinforcement learning from an earlier stage's model
own       supervised learning on what a policy has answered rightly (rejection sampling)
student   the same, by a smaller model from nothing (distillation)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.common.console import Bar, say
from selfplay.common.errors import UserError
from selfplay.common.files import read_history, write_atomic
from selfplay.learn import checkpoint
from selfplay.llm.evaluate import answers
from selfplay.llm.folder import NotYet, TextRun, lora_of, sampling_of, task_of
from selfplay.llm.models import character_tokenizer, load, small_model
from selfplay.llm.rewards import Example
from selfplay.llm.rl import FIRST, RewardedTask, TextLearner, train_rl
from selfplay.llm.sft import best, train_sft
from selfplay.llm.vllm import engine_of, generator_of
from selfplay.run.folder import Clock

#: Stages that go on from what a stage has made: once one of them has begun, that stays as it is.
AFTER = {"sft": ("rl", "own", "rm", "free", "rlhf"), "base": ("rl",), "rl": ("own", "student"),
         "own": ("rl2",), "rl2": ("student",)}
OWN = 1 << 21  #: number of the first batch of prompts whose own answers are learnt


def start(run: TextRun) -> tuple[Any, Any]:
    """(model, tokenizer) that the run begins with."""
    config, lora = run.config, lora_of(run.config)
    if config.model:
        return load(config.model, lora)
    if lora:
        raise UserError("lora.rank: adapters want a model that has learnt; give --model")
    tokenizer = character_tokenizer(run.task.texts())
    return small_model(config.net, tokenizer, config.seed), tokenizer


def built_on(folder: Path, name: str) -> bool:
    """Whether a later stage of the run in ``folder`` has gone on from that of ``name``."""
    return any(any(folder.glob(f"{later}/ckpt-*")) for later in AFTER.get(name, ()))


def sft_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Learn the demonstrations until the held-out curve is flat or the share is used up."""
    _learn_texts(run, clock, device, "sft", lambda: start(run), lambda: run.task)


def base_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Pretrain the embedded model; a model that was given is pretrained."""
    if run.config.model:
        say(f"base: {run.config.model}")
        return
    _learn_texts(run, clock, device, "base", lambda: start(run),
                 lambda: task_of(run.config, guessed=run.config.data.guessed), on="text")


def own_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Teach the model of stage sft the right answers of that of stage rl."""
    before = _before(run, "own", ("rl",))
    _learn_texts(run, clock, device, "own", lambda: load(_before(run, "own", ("sft",))),
                 lambda: own_task(run, before, device))


def student_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Teach a smaller model the right answers of the newest policy."""
    before = _before(run, "student", ("rl2", "rl"))

    def student() -> tuple[Any, Any]:
        tokenizer = load(before)[1]
        return small_model(run.config.own.net, tokenizer, run.config.seed), tokenizer

    _learn_texts(run, clock, device, "student", student, lambda: own_task(run, before, device))


def rl_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Reinforcement learning from SFT's model, or from the base."""
    _learn_rewards(run, clock, device, "rl", ("sft", "base"), FIRST)


def rl2_stage(run: TextRun, clock: Clock, device: str) -> None:
    """Reinforcement learning from the model that has learnt its own answers, on new prompts."""
    _learn_rewards(run, clock, device, "rl2", ("own",), FIRST + (FIRST >> 1))


def _before(run: TextRun, name: str, stages: Sequence[str]) -> Path:
    """The model of the first of ``stages`` that has left one, or the one the run was given."""
    for stage in stages:
        found = checkpoint.chosen(run.folder / stage)
        if found is not None:
            return found
    if run.config.model and "base" in stages:
        return Path(run.config.model)
    raise NotYet(f"{run.folder}: stage {name} has no model to go on from; give it more --minutes")


def _learn_texts(
    run: TextRun, clock: Clock, device: str, name: str, begin: Callable[[], tuple[Any, Any]],
    task: Callable[[], Any], on: str = "",
) -> None:
    """SFT of what ``begin`` gives, in folder ``name``, on ``task``; on: what of it, if not what
    the settings say."""
    folder, config = run.folder / name, run.config
    sft = replace(config.sft, on=on or config.sft.on)
    if name in clock.done or built_on(run.folder, name):
        say(f"{name}: finished, best checkpoint {best(folder).name}")
        return
    writer, last = tensorboard(run.folder), {"text": "no look yet"}

    def log(row: dict[str, Any]) -> None:
        log_row(writer, name, row)
        last["text"] = look_text(row)

    with Bar(name, clock.budget(name)) as bar:
        found = train_sft(
            *begin(), task(), sft, folder, held_out=config.data.held_out,
            sampling=sampling_of(config), seed=config.seed, device=device,
            left=lambda: clock.left(name), log=log,
            progress=lambda step, _: bar.at(clock.spent(name), f"step {step:,}  {last['text']}"))
    writer.close()
    flat = checkpoint.note(folder)["flat"]
    if flat:
        clock.finish(name)
    say(f"{name}: {'flat' if flat else 'not flat yet'}, best checkpoint {found.name}, "
        f"{last['text']}")


def _learn_rewards(
    run: TextRun, clock: Clock, device: str, name: str, before: Sequence[str], first: int
) -> None:
    """RL of an earlier stage's model, in folder ``name``, from batch ``first`` of prompts on."""
    folder, config = run.folder / name, run.config
    newest = checkpoint.newest(folder)
    done = newest is not None and checkpoint.read_meta(newest)["step"] >= config.rl.steps
    if (name in clock.done and done) or built_on(run.folder, name):
        say(f"{name}: finished, checkpoint {newest}")
        return
    learner = TextLearner(
        job_of(run), _before(run, name, before), folder, config.rl, config.pg,
        sampling=sampling_of(config), device=device, seed=config.seed, lora=lora_of(config),
        first=first, engine=lambda model, tokenizer: engine_of(
            model, tokenizer, config.sample, config.model, device))
    writer, last = tensorboard(run.folder), {"text": "no look yet"}

    def log(row: dict[str, Any]) -> None:
        log_row(writer, name, row)
        if "greedy_accuracy" in row:
            last["text"] = (f"held-out greedy {row['greedy_accuracy']:.1%}, "
                            f"sampled {row['sampled_accuracy']:.1%}")
        bar.at(clock.spent(name), f"step {row['step']:,}  reward {row['reward']:.3f}, "
                                  f"{row['length']:.1f} tokens  {last['text']}")

    with Bar(f"{name} by {config.rl.algorithm}", clock.budget(name)) as bar:
        train_rl(learner, left=lambda: clock.left(name), log=log,
                 show=lambda samples: log_samples(writer, name, samples))
    writer.close()
    if learner.step >= config.rl.steps:
        clock.finish(name)
    say(f"{name}: {learner.step:,} steps, {last['text']}")
    if learner.history and all(row["no_signal"] >= 1 for row in learner.history):
        say(f"{name}: in every group all answers were worth the same: nothing to learn from; give "
            "SFT more time, or raise --set rl.group")


def job_of(run: TextRun) -> RewardedTask:
    """What RL is rewarded for: the verifier's parts, weighed."""
    rl = run.config.rl
    weights = {"accuracy": 1.0, "format": rl.format_weight}
    if rl.partial_weight:  # of what is right it is 1 as well
        weights |= {"accuracy": 1.0 - rl.partial_weight, "partial": rl.partial_weight}
    return RewardedTask(run.task, weights={key: value for key, value in weights.items() if value})


@dataclass(frozen=True)
class OwnAnswers:
    """Questions with a policy's own right answers as demonstrations; held out as in the task."""

    examples: list[Example]
    held: list[Example]
    seed: int

    def batch(self, number: int, size: int) -> list[Example]:
        rng = np.random.default_rng([self.seed, 0x7B, number])
        return [self.examples[i] for i in rng.integers(len(self.examples), size=size)]

    def held_out(self, count: int) -> list[Example]:
        return self.held[:count]


def own_task(run: TextRun, policy: Path, device: str) -> OwnAnswers:
    """What ``policy`` answers rightly of ``own.questions`` training questions, drawn
    ``own.samples`` times each, different answers only; of held-out ones its first right answer.

    The answers are kept in the run's folder, in STAGE-ckpt-NNNNNN-own.jsonl, named after the
    policy; those of the stage's other checkpoints are dropped. Raises UserError where none is
    right.
    """
    config, stage = run.config, policy.parent.name
    path = run.folder / f"{stage}-{policy.name}-own.jsonl"
    for outdated in list(run.folder.glob(f"{stage}-*own.jsonl")):
        if outdated != path:
            outdated.unlink(missing_ok=True)
    asked = {"train": run.task.batch(OWN, config.own.questions),
             "held": run.task.held_out(config.data.held_out)}
    if not path.exists():
        model, tokenizer = load(policy)
        generator = generator_of(model, tokenizer, config.sample, config.model, device)
        lines = []
        for kind, examples in asked.items():
            found = answers(generator, tokenizer, examples, config.own.samples,
                            sampling_of(config), config.seed)
            for i, (texts, parts) in enumerate(zip(found.texts, found.parts, strict=True)):
                right = dict.fromkeys(t for t, p in zip(texts, parts, strict=True)
                                      if p["accuracy"] >= 1)
                lines += [json.dumps({"kind": kind, "question": i, "completion": text})
                          for text in right]
        write_atomic(path, "".join(line + "\n" for line in lines).encode())
    chosen, held = [], {}
    for row in read_history(path):
        example = replace(asked[row["kind"]][row["question"]], demonstration=row["completion"])
        if row["kind"] == "train":
            chosen.append(example)
        else:
            held.setdefault(row["question"], example)
    if not chosen:
        raise UserError(f"{policy}: answers none of {config.own.questions} questions rightly; "
                        "give it more --minutes, or --set own.questions more")
    say(f"{len(chosen):,} right answers of {policy.parent.name} to learn")
    return OwnAnswers(chosen, [held.get(i, e) for i, e in enumerate(asked["held"])], config.seed)


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


def log_samples(writer: Any, stage: str, samples: list[dict[str, Any]]) -> None:
    """Completions of a step (``rl.shown``) as text."""
    log_row(writer, stage, {"step": samples[0]["step"],
                            "shown": [[s["prompt"], s["completion"]] for s in samples]})
