"""selfplay llm: the commands for language models. Nothing heavy is imported until one is used."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import click

from selfplay.cli.options import (
    Commands,
    Number,
    OneOf,
    Whole,
    device_of,
    log_option,
    minutes_option,
    seed_option,
)
from selfplay.common.errors import UserError, command
from selfplay.learn.config import ALGORITHMS
from selfplay.llm.config import Recipe

NEEDED = ("transformers", "tokenizers", "reasoning_gym", "peft")
NAMED = 40  #: characters of a folder's name


@click.group(cls=Commands)
def llm() -> None:
    """Language models on the same core: SFT, RL on verifiable rewards, measured on held-out tasks.

    \b
    selfplay llm train --task chain_sum --recipe sft --minutes 5
    selfplay llm eval runs/chain-sum      accuracy, pass@k, majority of k
    selfplay llm chat runs/chain-sum      ask it yourself
    """


@llm.command()
@click.option("--task", default=None, metavar="NAME|FILE",
              help='A data set of reasoning-gym, such as "chain_sum(min_terms=5)", your file '
                   "(.jsonl, .parquet), hf:NAME, or your own: path.py:NAME.")
@click.option("--reward", "rewards", multiple=True, metavar="FILE.py:NAME",
              help="A reward function of your own beside the task's (repeatable).")
@click.option("--recipe", default=None, metavar="NAME", type=OneOf(get_args(Recipe)),
              help=f"{', '.join(get_args(Recipe))} [sft].")
@click.option("--algo", default=None, metavar="NAME", type=OneOf(ALGORITHMS),
              help=f"How RL learns: {', '.join(ALGORITHMS)} [by recipe].")
@click.option("--model", default=None, metavar="PATH|HUB-ID",
              help="What to start from [the embedded model, from nothing].")
@minutes_option
@click.option("--run", "folder", type=click.Path(path_type=Path), default=None,
              help="The run's folder [runs/TASK].")
@click.option("--device", default=None, metavar="auto|cpu|cuda", help="Where it runs [auto].")
@seed_option
@log_option
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Any setting, such as sft.batch_size=32 (repeatable).")
def train(
    folder: Path | None, assignments: tuple[str, ...], algo: str | None, recipe: str | None,
    rewards: tuple[str, ...], **top: Any,
) -> None:
    """Train by a recipe; the same command continues the run."""
    _must_be_installed()
    from selfplay.common.console import say
    from selfplay.common.settings import replace_key, set_key
    from selfplay.games.own import located
    from selfplay.llm.config import TextConfig, new_settings, override, with_algorithm, with_recipe
    from selfplay.llm.folder import open_text_run, stored_text_config
    from selfplay.llm.recipes import run_recipe

    if folder is None:
        if top["task"] is None:
            raise UserError("give --task NAME for a new run, or --run FOLDER for one on disk")
        folder = Path("runs") / name_of(top["task"])
    top["task"] = top["task"] and located(top["task"])
    config = stored_text_config(folder)
    new = config is None
    if config is None:
        if top["task"] is None:
            raise UserError(f"{folder}: no run there; start one with --task NAME")
        config = TextConfig(top["task"])
    for key, value in top.items():
        if value not in (None, ()):
            config = set_key(config, key, value)
    if recipe is not None:
        config = with_recipe(config, recipe)
    if algo is not None:
        config = with_algorithm(config, algo)
    if rewards:
        config = replace_key(config, "judge.functions", tuple(map(located, rewards)))
    config = new_settings(config, assignments) if new else override(config, assignments)
    run = open_text_run(folder, config)
    device = device_of(run.config.device)
    say(f"run {folder}, task {run.config.task}, recipe {run.config.recipe}, "
        f"{run.config.model or 'embedded model ' + run.config.net}, seed {run.config.seed}, "
        f"{run.config.minutes:g} minutes")
    run_recipe(run, device)


@llm.command(name="eval")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--samples", default=None, metavar="K,K,...", help="k of pass@k [1,2,4,8,16].")
@click.option("--device", default="auto", metavar="auto|cpu|cuda", help="Where it runs [auto].")
@click.option("--engine", type=OneOf(("auto", "torch", "vllm")), default=None,
              help="Who writes the answers [the run's sample.engine].")
def evaluate(folder: Path, samples: str | None, device: str, engine: str | None) -> None:
    """Measure accuracy on held-out questions (with a 95% interval), pass@k and majority of k."""
    _must_be_installed()
    from selfplay.common.files import locked
    from selfplay.common.settings import replace_key
    from selfplay.llm.summary import measure

    run = _stored(folder)
    if engine is not None:
        run = replace(run, config=replace_key(run.config, "sample.engine", engine))
    with locked(run.folder):
        measure(run, run.config.eval.samples if samples is None else _ks(samples),
                device_of(device))


@llm.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--temperature", type=Number(0, 10), default=0.0, show_default=True,
              help="0 takes the best token.")
@click.option("--device", default="auto", metavar="auto|cpu|cuda", help="Where it runs [auto].")
def chat(folder: Path, temperature: float, device: str) -> None:
    """Type a question and see how the model works it out."""
    _must_be_installed()
    from selfplay.llm.embedded import TEMPLATE
    from selfplay.llm.folder import newest_model, sampling_of
    from selfplay.llm.generate import TorchGenerator
    from selfplay.llm.models import completion_texts, end_tokens, load_model, render, unknown_in
    from selfplay.llm.rewards import answer_of

    run = _stored(folder)
    model, tokenizer = load_model(newest_model(folder))
    generator = TorchGenerator(model.to(device_of(device)), end_tokens(model, tokenizer),
                               tokenizer.pad_token_id)
    sampling = replace(sampling_of(run.config), temperature=temperature)
    example = run.task.batch(0, 1)[0]
    ending = example.format.instruction  # every question of the task ends with it
    shown = example.prompt.removesuffix(ending).strip()
    only = ", the only kind that the embedded model knows" * (tokenizer.chat_template == TEMPLATE)
    click.echo(f"ask a question such as {shown!r}{only}; an empty line ends")
    for seed in range(2**31):
        try:
            question = input("question: ")
        except (EOFError, KeyboardInterrupt):
            return click.echo()
        if not question.strip():
            return
        if unknown := unknown_in(tokenizer, question):
            click.echo(f"the model has never met {' '.join(map(repr, unknown))}; ask as in "
                       f"{shown!r}")
            continue
        asked = render(tokenizer, f"{question}\n{ending}" if ending else question)
        samples = generator([asked], 1, sampling, seed)
        text = completion_texts(tokenizer, samples.action, samples.mask, samples.ended)[0]
        answer = answer_of(text, example.format, bool(samples.ended[0]))
        click.echo(f"{text}\nanswer: {'none' if answer is None else answer}")


@llm.command()
@click.argument("task")
@click.option("--reward", "rewards", multiple=True, metavar="FILE.py:NAME",
              help="A reward function of your own beside the task's (repeatable).")
@click.option("--questions", type=Whole(1, 10_000), default=20, show_default=True,
              help="Questions that are answered.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Settings of data and judge, such as data.style=boxed (repeatable).")
def check(task: str, rewards: tuple[str, ...], questions: int, assignments: tuple[str, ...]
          ) -> None:
    """What known-good, empty, cut-off, hedging, echoing and adversarial answers earn."""
    _must_be_installed()
    from selfplay.common.settings import replace_key
    from selfplay.llm.config import TextConfig, override
    from selfplay.llm.folder import task_of
    from selfplay.llm.judges.check import check_rewards, earned_table, findings

    config = replace_key(TextConfig(task), "judge.functions", rewards)
    config = replace_key(config, "judge.most_failed", 1.0)  # it is said, and does not stop
    rows = check_rewards(task_of(override(config, assignments)), questions)
    click.echo(earned_table(rows))
    if found := findings(rows):
        raise UserError(f"{task}: " + "; ".join(found))
    click.echo(f"{task}: known-good answers are right, and nothing else earns as much")


def name_of(task: str) -> str:
    """A folder name for a run of ``task``, of at most NAMED characters: the words of the task, or,
    if they are too long or a minus sign would be lost, abbreviations of them and a hash."""
    plain = _words(task)
    if len(plain) <= NAMED and "-" not in task:
        return plain
    data, _, parameters = task.partition("(")
    short = [re.sub(r"([A-Za-z]{1,3})[A-Za-z]*[^A-Za-z0-9]*", r"\1", part)
             for part in parameters.split(",")]
    digest = hashlib.blake2b(task.encode(), digest_size=3).hexdigest()
    name = _words("-".join([Path(data).stem, *short]))
    return f"{name[:NAMED - len(digest) - 1].strip('-')}-{digest}"


def _words(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def _stored(folder: Path) -> Any:
    from selfplay.llm.folder import open_text_run, stored_text_config

    config = stored_text_config(folder) if folder.is_dir() else None
    if config is None:
        new = command("selfplay", "llm", "train", "--task", "NAME", "--run", folder)
        raise UserError(f"{folder}: no language-model run; train one with {new}")
    return open_text_run(folder, config)


def _ks(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[1-9][0-9]{0,3}", part) for part in parts):
        raise UserError(f"--samples {text}: counts such as 1,2,4,8,16 wanted")
    return tuple(sorted({int(part) for part in parts}))


def _must_be_installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f'language models need {", ".join(missing)}; pip install -e ".[llm]"')
