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

from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import read_history, write_atomic
from selfplay.learn import checkpoint
from selfplay.llm.evaluate import answers
from selfplay.llm.folder import TextRun, lora_of, model_of, sampling_of, task_of
from selfplay.llm.kept import KeptTextLearner, best, train_rl, train_sft
from selfplay.llm.models import character_tokenizer, load, small_model
from selfplay.llm.rewards import Example
from selfplay.llm.rl import FIRST, RewardedTask
from selfplay.llm.vllm import engine_of, generator_of
from selfplay.run.clock import Clock
from selfplay.run.stage import Desk, NotYet, Work

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


def sft_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Learn the demonstrations until the held-out curve is flat or the share is used up."""
    return _learn_texts(run, clock, device, "sft", lambda: start(run), lambda: run.task)


def base_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pretrain the embedded model; a model that was given is pretrained."""
    if run.config.model:
        return f"base: {run.config.model}"
    return _learn_texts(run, clock, device, "base", lambda: start(run),
                        lambda: task_of(run.config, guessed=run.config.data.guessed), on="text")


def own_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach the model of stage sft the right answers of that of stage rl."""
    before = _before(run, "own", ("rl",))
    return _learn_texts(run, clock, device, "own", lambda: load(_before(run, "own", ("sft",))),
                        lambda: own_task(run, before, device))


def student_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach a smaller model the right answers of the newest policy."""
    before = _before(run, "student", ("rl2", "rl"))

    def student() -> tuple[Any, Any]:
        tokenizer = load(before)[1]
        return small_model(run.config.own.net, tokenizer, run.config.seed), tokenizer

    return _learn_texts(run, clock, device, "student", student,
                        lambda: own_task(run, before, device))


def rl_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Reinforcement learning from SFT's model, or from the base."""
    return _learn_rewards(run, clock, device, "rl", ("sft", "base"), FIRST)


def rl2_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Reinforcement learning from the model that has learnt its own answers, on new prompts."""
    return _learn_rewards(run, clock, device, "rl2", ("own",), FIRST + (FIRST >> 1))


def _before(run: TextRun, name: str, stages: Sequence[str]) -> Path:
    """The model of the first of ``stages`` that has left one, or the one the run was given."""
    for stage in stages:
        found = model_of(run.folder, stage)
        if found is not None:
            return found
    if run.config.model and "base" in stages:
        return Path(run.config.model)
    raise NotYet(f"{run.folder}: stage {name} has no model to go on from; give it more --minutes")


def _learn_texts(
    run: TextRun, clock: Clock, device: str, name: str, begin: Callable[[], tuple[Any, Any]],
    task: Callable[[], Any], on: str = "",
) -> Work | str:
    """SFT of what ``begin`` gives, in folder ``name``, on ``task``; on: what of it, if not what
    the settings say."""
    folder, config = run.folder / name, run.config
    sft = replace(config.sft, on=on or config.sft.on)
    if name in clock.done or built_on(run.folder, name):
        return f"{name}: finished, best checkpoint {best(folder).name}"

    def learn(at: Desk) -> str:
        found = train_sft(
            *begin(), task(), sft, folder, held_out=config.data.held_out,
            sampling=sampling_of(config), seed=config.seed, device=device, left=at.left,
            log=at.log, progress=at.step)
        return f"best checkpoint {found.name}, {at.latest}"

    def flat(found: Any = None) -> bool:
        return checkpoint.reached_plateau(folder)

    return Work(name, learn, look_text, ended=flat, first="no look yet", said=lambda found: (
        f"{name}: {'flat' if flat() else 'not flat yet'}, {found}"))


def _learn_rewards(
    run: TextRun, clock: Clock, device: str, name: str, before: Sequence[str], first: int
) -> Work | str:
    """RL of an earlier stage's model, in folder ``name``, from batch ``first`` of prompts on."""
    folder, config = run.folder / name, run.config
    newest = checkpoint.newest(folder)
    done = newest is not None and checkpoint.read_meta(newest)["step"] >= config.rl.steps
    if (name in clock.done and done) or built_on(run.folder, name):
        return f"{name}: finished, checkpoint {newest}"
    learner = KeptTextLearner(
        job_of(run), _before(run, name, before), folder, config.rl, config.pg,
        sampling=sampling_of(config), device=device, seed=config.seed, lora=lora_of(config),
        first=first, engine=lambda model, tokenizer: engine_of(
            model, tokenizer, config.sample, config.model, device))

    def learn(at: Desk) -> str:
        def log(row: dict[str, Any]) -> None:
            at.log(row)
            at.at(f"step {row['step']:,}  reward {row['reward']:.3f}, {row['length']:.1f} tokens")

        train_rl(learner, left=at.left, log=log, show=at.show)
        return f"{name}: {learner.step:,} steps, {at.latest}"

    def said(found: str) -> str:
        if learner.history and all(row["no_signal"] >= 1 for row in learner.history):
            found += (f"\n{name}: in every group all answers were worth the same: nothing to learn "
                      "from; give SFT more time, or raise --set rl.group")
        return found

    return Work(f"{name} by {config.rl.algorithm}", learn, _accuracies, said,
                ended=lambda found: learner.step >= config.rl.steps, first="no look yet")


def _accuracies(row: dict[str, Any]) -> str:
    if "greedy_accuracy" not in row:
        return ""
    return (f"held-out greedy {row['greedy_accuracy']:.1%}, "
            f"sampled {row['sampled_accuracy']:.1%}")


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
