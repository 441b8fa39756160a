"""A policy's own right answers, which the model that it came from or a smaller one learns, and the
policy of another run (``own.of``) that may teach."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.common import ranks
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import write_atomic
from selfplay.common.history import read_history
from selfplay.common.stats import wilson
from selfplay.llm.config import TextConfig
from selfplay.llm.engines.choose import generator_of
from selfplay.llm.evaluate import Counted, answers
from selfplay.llm.folder import TextRun, model_of, sampling_of, stored_text_config
from selfplay.llm.models import load_model, load_tokenizer, prompt_of
from selfplay.llm.play.lessons import GameTask
from selfplay.llm.rewards import Example

FIRST_OWN = 1 << 21  #: number of the first batch of prompts whose own answers are learnt
POLICIES = ("rl2", "rlhf", "dpo", "rl")  #: stages whose model teaches, the first that is there
WRITTEN = "-own.jsonl"  #: how the files of answers end
#: Settings of data that say what is asked, and what is held out.
ASKED = ("style", "instruction", "find", "system", "template", "prompt", "answer", "answer_in",
         "checker", "test")


@dataclass(frozen=True)
class OwnAnswers:
    """Questions with a policy's own right answers as demonstrations; a ``Questions``."""

    name: str
    examples: list[Example]
    apart: list[Example]  #: those held out
    seed: int

    def batch(self, number: int, size: int) -> list[Example]:
        rng = np.random.default_rng([self.seed, 0x7B, number])
        return [self.examples[i] for i in rng.integers(len(self.examples), size=size)]

    def held_out(self, count: int) -> list[Example]:
        return self.apart[:count]


def own_answers(
    run: TextRun, policy: Path, device: str, told: Callable[[str], None] = lambda text: None,
) -> OwnAnswers:
    """The right answers of ``policy`` to ``own.questions`` training questions, each answered
    ``own.samples`` times, without repetitions; of held-out questions the first right answer.

    They are kept in the run's folder, in STAGE-ckpt-NNNNNN-own.jsonl, which is named after the
    policy; those of the stage's other checkpoints are deleted. told: hears how many there are.
    Raises UserError where none is right.
    """
    config, stage = run.config, policy.parent.name
    path = run.folder / f"{stage}-{policy.name}{WRITTEN}"
    for outdated in list(run.folder.glob(f"{stage}-*own.jsonl")):
        if outdated != path:
            outdated.unlink(missing_ok=True)
    asked = {"train": run.task.batch(FIRST_OWN, config.own.questions),
             "held": run.task.held_out(config.data.held_out)}
    if not ranks.here().first(path.exists()):
        _write_answers(run, policy, path, asked, device, told)
    ranks.here().meet()  # it is on disk
    chosen: list[Example] = []
    apart: dict[int, Example] = {}
    for row in read_history(path):
        example = replace(asked[row["kind"]][row["question"]], demonstration=row["completion"])
        if row["kind"] == "train":
            chosen.append(example)
        else:
            apart.setdefault(row["question"], example)
    if not chosen:
        raise UserError(f"{policy}: answers none of {config.own.questions} questions rightly; "
                        "give it more --minutes, or --set own.questions more")
    say(f"{len(chosen):,} right answers of {stage} to learn")
    return OwnAnswers(f"right answers of {stage}", chosen,
                      [apart.get(i, e) for i, e in enumerate(asked["held"])], config.seed)


def _write_answers(
    run: TextRun, policy: Path, path: Path, asked: dict[str, list[Example]], device: str,
    told: Callable[[str], None],
) -> None:
    """A line of ``path`` for each right answer: kind and number of its question, the completion,
    and how many times it was given."""
    config = run.config
    model, tokenizer = load_model(policy)
    generator = Counted(generator_of(model, tokenizer, config.sample, config.model, device),
                        lambda counted: told(counted.said()))
    lines = []
    for kind, examples in asked.items():
        found = answers(generator, tokenizer, examples, config.own.samples, sampling_of(config),
                        config.seed)
        for i, (texts, parts) in enumerate(zip(found.texts, found.parts, strict=True)):
            right = Counter(t for t, p in zip(texts, parts, strict=True) if p["accuracy"] >= 1)
            lines += [json.dumps({"kind": kind, "question": i, "completion": text, "times": times})
                      for text, times in right.items()]
    write_atomic(path, "".join(line + "\n" for line in lines).encode())


# ----------------------------------------------------------------------------- another run's policy


def policy_of(run: TextRun) -> Path:
    """The checkpoint that ``own.of`` names: itself, or that of a run's last RL. Once its answers
    are written down it stays the one that they are of, even if that run has gone on since.

    Raises UserError where there is none.
    """
    of = Path(run.config.own.of)
    if (of / "meta.json").is_file() or any(of.glob("*.safetensors")):
        return of
    for written in run.folder.glob(f"*{WRITTEN}"):
        stage, _, name = written.name.removesuffix(WRITTEN).partition("-")
        return of / stage / name
    for stage in POLICIES:
        found = model_of(of, stage)
        if found is not None:
            return found
    raise UserError(f"own.of={of}: no policy there; give a run that has done RL, or a checkpoint "
                    "such as RUN/rl/ckpt-000100")


def must_teach(run: TextRun) -> None:
    """Raises UserError where ``own.of`` has no policy, one that was asked otherwise than this run
    asks, or one that cannot read its questions."""
    config = run.config
    policy = policy_of(run)
    if any(run.folder.glob(f"*{WRITTEN}")):
        return  # it has taught
    home = policy.parent.parent
    if (policy / "meta.json").is_file() and (home / "config.json").is_file():
        told = stored_text_config(home)
        assert told is not None
        _must_be_asked_alike(config, told)
    if not isinstance(run.task, GameTask):
        must_read(run, load_tokenizer(policy)[0], f"own.of={config.own.of}")


def must_read(run: TextRun, tokenizer: Any, named: str) -> None:
    """Raises UserError if the tokenizer of the model that ``named`` names cannot read the run's
    questions."""
    for example in run.task.held_out(64):
        tokens: Sequence[int] = prompt_of(tokenizer, example)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
            raise UserError(f"{named}: its tokenizer cannot read the questions of "
                            f"{run.config.task}; name a run that has learnt them")


def _must_be_asked_alike(config: TextConfig, told: TextConfig) -> None:
    """Raises UserError for another task than that of a policy's run, or one asked otherwise."""
    of = f"own.of={config.own.of}"
    if told.task != config.task:
        raise UserError(f"{of}: has learnt {told.task}, not {config.task}; give --task "
                        f"'{told.task}'")
    data = told.data
    if told.model and data.style == "auto":  # not the terse one of the embedded model
        data = replace(data, style="full")
    for key in ASKED:
        was, now = getattr(data, key), getattr(config.data, key)
        if was != now:
            raise UserError(f"{of}: was asked with data.{key}={was}, not {now}; give "
                            f"--set data.{key}={was}")


def taught_by(run: TextRun) -> dict[str, float]:
    """The accuracy of the policy of ``own.of`` on the held-out questions, of its ``own.samples``
    answers to each, with its 95% interval (Wilson, over questions); {} before it has answered."""
    count = len(run.task.held_out(run.config.data.held_out))
    for path in run.folder.glob(f"*{WRITTEN}"):
        rows = read_history(path, ("times",))
        right = sum(row["times"] for row in rows if row["kind"] == "held")
        rate = right / (count * run.config.own.samples)
        low, high = wilson(rate, count)
        return {"accuracy": rate, "low": low, "high": high, "questions": float(count)}
    return {}
