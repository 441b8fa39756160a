"""selfplay llm: the commands for language models. Nothing heavy is imported until one is used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import click

from selfplay.cli.options import (
    Commands,
    NewFile,
    Number,
    OneOf,
    Whole,
    actors_option,
    counts_of,
    device_of,
    farm_of,
    log_option,
    minutes_option,
    ray_option,
    seed_option,
)
from selfplay.common.errors import UserError
from selfplay.common.words import command, counted
from selfplay.learn.config import ALGORITHMS
from selfplay.llm.config import Recipe
from selfplay.llm.stage_config import PREFIX

NEEDED = ("transformers", "tokenizers", "reasoning_gym", "peft")
NAMED = 40  #: characters of a folder's name


@click.group(cls=Commands)
def llm() -> None:
    """Language models on the same core: SFT, RL on verifiable rewards, measured on held-out tasks.

    \b
    selfplay llm train --task chain_sum --recipe sft --minutes 5
    selfplay llm train --game tictactoe --opponent self --recipe grpo
    selfplay llm eval runs/chain-sum      accuracy, pass@k, majority of k
    selfplay llm chat runs/chain-sum      ask it yourself
    """


@llm.command()
@click.option("--task", default=None, metavar="NAME|FILE",
              help='A data set of reasoning-gym, such as "chain_sum(min_terms=5)", your file '
                   "(.jsonl, .parquet), hf:NAME, or your own: path.py:NAME.")
@click.option("--reward", "rewards", multiple=True, metavar="FILE.py:NAME",
              help="A reward function of your own beside the task's (repeatable).")
@click.option("--env", default=None, metavar="FILE.py:NAME",
              help="An environment of several turns of your own, in place of a task.")
@click.option("--game", default=None, metavar="NAME",
              help="A board game to play in text, in place of a task (see: selfplay games).")
@click.option("--opponent", "opponents", multiple=True, metavar="self|PLAYER",
              help="Of RL with --game: past selves, random, mcts:1000, net:RUN, any player; each "
                   "has an equal share of the games (repeatable) [self].")
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
@ray_option
@actors_option
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Any setting, such as sft.batch_size=32 (repeatable).")
def train(
    folder: Path | None, assignments: tuple[str, ...], algo: str | None, recipe: str | None,
    rewards: tuple[str, ...], env: str | None, game: str | None, opponents: tuple[str, ...],
    ray: str | None, actors: int | None, **top: Any,
) -> None:
    """Train by a recipe; the same command continues the run."""
    _must_be_installed()
    from selfplay.common.console import say
    from selfplay.common.settings import replace_key, set_key
    from selfplay.games.own import located
    from selfplay.llm.config import TextConfig, new_settings, override, with_algorithm, with_recipe
    from selfplay.llm.folder import open_text_run, stored_text_config
    from selfplay.llm.recipes import run_recipe

    if (env, game, top["task"]).count(None) < 2:
        raise UserError("give one of --task, --env and --game")
    if env is not None:
        top["task"], recipe = f"env:{env}", recipe or "rl"
    if game is not None:
        top["task"] = PREFIX + game
    if folder is None:
        if top["task"] is None:
            raise UserError("give --task NAME for a new run, or --run FOLDER for one on disk")
        folder = Path("runs") / run_name_of(top["task"])
    top["task"] = top["task"] and _located(top["task"])
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
    if opponents:
        config = replace_key(config, "play.opponents", opponents)
    if rewards:
        config = replace_key(config, "judge.functions", tuple(map(located, rewards)))
    if ray is not None:
        assignments = ("sample.engine=ray", *assignments)
    config = new_settings(config, assignments) if new else override(config, assignments)
    if ray is not None and config.sample.engine != "ray":
        raise UserError(f"--ray: its actors write the completions, not sample.engine="
                        f"{config.sample.engine}; leave out one of them")
    if ray is None and config.sample.engine == "ray":  # torch goes on, in turn
        config = replace(config, sample=replace(config.sample, engine="auto", max_staleness=0))
    run = open_text_run(folder, config)
    device = device_of(run.config.device)
    own = run.config.own
    made = f"student {own.net} of {own.of}" if own.of else f"embedded model {run.config.net}"
    say(f"run {folder}, task {run.config.task}, recipe {run.config.recipe}, "
        f"{run.config.model or made}, seed {run.config.seed}, "
        f"{counted(run.config.minutes, 'minute')}")
    with farm_of(ray, actors) as farm:
        if farm is not None:
            from selfplay.cluster.texts import text_engine

            run = replace(run, engine=text_engine(farm))
        run_recipe(run, device)


@llm.command(name="eval")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--model", default=None, metavar="PATH|RUN|HUB-ID",
              help="Any model, on --tasks, in place of a run on its own task.")
@click.option("--tasks", default=None, metavar="TASK,TASK,...",
              help="What it is asked, as --task of train names it [the run's own task].")
@click.option("--samples", default=None, metavar="K,K,...", help="k of pass@k [1,2,4,8,16].")
@click.option("--budget", default=None, metavar="N,N,...",
              help="Tokens of an answer; with several, what each would have cut off "
                   "[sample.max_new_tokens].")
@click.option("--questions", type=Whole(1, 1_000_000), default=256, show_default=True,
              help="Held-out questions of each of the --tasks, at most.")
@click.option("--out", type=NewFile(), default=None, metavar="FILE.json",
              help="Where the figures of --tasks go as well.")
@click.option("--device", default="auto", metavar="auto|cpu|cuda", help="Where it runs [auto].")
@click.option("--engine", type=OneOf(("auto", "torch", "vllm", "vllm-server")), default=None,
              help="Who writes the answers [the run's sample.engine].")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Settings of data, judge, env and sample for --tasks (repeatable).")
def evaluate(
    folder: Path | None, model: str | None, tasks: str | None, samples: str | None,
    budget: str | None, engine: str | None, **rest: Any,
) -> None:
    """Measure accuracy on held-out questions (with a 95% interval), pass@k and majority of k."""
    _must_be_installed()
    name = model or (str(folder) if folder else "")
    if not name or (model and folder):
        raise UserError("give a run's folder, or --model PATH with --tasks TASK,TASK")
    ks = None if samples is None else counts_of("--samples", samples)
    new = command("selfplay", "llm", "train", "--task", "NAME", "--run", Path(name))
    if tasks is None and (budget or rest["assignments"] or rest["out"] or not _is_run(Path(name))):
        raise UserError(f"{name}: give --tasks TASK,TASK as well; without them a run is measured "
                        "on its own task, by its own settings" if Path(name).exists() else
                        f"{name}: no language-model run; give --model with --tasks, or train one "
                        f"with {new}")
    if tasks is None:
        _measure_run(Path(name), ks, engine, rest["device"])
        return
    from selfplay.common.files import write_json
    from selfplay.llm.given.measure import (
        evaluate_tasks,
        evaluation_tables,
        open_model,
        tasks_of,
    )

    assignments = [*rest["assignments"], *([f"sample.engine={engine}"] if engine else [])]
    opened = open_model(name, device_of(rest["device"]), assignments)
    budgets = counts_of("--budget", budget, 5) if budget else ()
    found = evaluate_tasks(opened, [_located(task) for task in tasks_of(tasks)],
                           ks or opened.config.eval.samples, budgets, rest["questions"])
    click.echo(f"{opened.name}\n\n{evaluation_tables(found)}")
    if rest["out"]:
        write_json(rest["out"], {"model": opened.name, "tasks": found})


def _measure_run(folder: Path, ks: tuple[int, ...] | None, engine: str | None, device: str
                 ) -> None:
    from selfplay.common.files import locked
    from selfplay.common.settings import replace_key
    from selfplay.llm.summary import measure

    run = _stored(folder)
    if engine is not None:
        run = replace(run, config=replace_key(run.config, "sample.engine", engine))
    with locked(run.folder):
        measure(run, ks or run.config.eval.samples, device_of(device))


@llm.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--model", default=None, metavar="PATH|RUN|HUB-ID",
              help="Any model, in place of a run: a conversation, not a task's questions.")
@click.option("--temperature", type=Number(0, 10), default=0.0, show_default=True,
              help="0 takes the best token.")
@click.option("--device", default="auto", metavar="auto|cpu|cuda", help="Where it runs [auto].")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Settings for --model, such as data.system=... or sample.max_new_tokens=512.")
def chat(
    folder: Path | None, model: str | None, temperature: float, device: str,
    assignments: tuple[str, ...],
) -> None:
    """Type a question and see how the model works it out."""
    _must_be_installed()
    if (folder is None) == (model is None):
        raise UserError("give a run's folder, or --model PATH")
    if folder is not None:
        _ask_run(folder, temperature, device)
        return
    from selfplay.llm.given.talk import replies

    assert model is not None
    click.echo("say something; an empty line ends")
    reply = replies(model, temperature, device_of(device), assignments)
    next(reply)
    for said in _lines_typed("you: "):
        click.echo(reply.send(said))


def _lines_typed(prompt: str) -> Iterator[str]:
    """The lines that are typed, up to an empty one."""
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            return click.echo()
        if not line.strip():
            return
        yield line


def _ask_run(folder: Path, temperature: float, device: str) -> None:
    from selfplay.llm.embedded import TEMPLATE
    from selfplay.llm.folder import newest_model, sampling_of
    from selfplay.llm.generate import TorchGenerator
    from selfplay.llm.models import (
        completion_texts,
        end_tokens,
        load_model,
        prompt_of,
        unknown_in,
    )
    from selfplay.llm.rewards import answer_of

    run = _stored(folder)
    if run.config.task.startswith("env:"):
        raise UserError(f"{folder}: it talks to an environment; ask it with --model {folder}")
    model, tokenizer = load_model(newest_model(folder))
    generator = TorchGenerator(model.to(device_of(device)), end_tokens(model, tokenizer),
                               tokenizer.pad_token_id, tokenizer)
    sampling = replace(sampling_of(run.config), temperature=temperature)
    example = run.task.batch(0, 1)[0]
    ending = example.format.instruction  # every question of the task ends with it
    shown = example.prompt.removesuffix(ending).strip()
    only = ", the only kind that the embedded model knows" * (tokenizer.chat_template == TEMPLATE)
    click.echo(f"ask a question such as {shown!r}{only}; an empty line ends")
    for seed, question in enumerate(_lines_typed("question: ")):
        if unknown := unknown_in(tokenizer, question):
            click.echo(f"the model has never met {' '.join(map(repr, unknown))}; ask as in "
                       f"{shown!r}")
            continue
        asked = prompt_of(tokenizer, run.task.asked(
            f"{question}\n{ending}" if ending else question, example))
        samples = generator([asked], 1, sampling, seed)
        text = completion_texts(tokenizer, samples.action, samples.mask, samples.ended,
                                sampling.stop)[0]
        answer = answer_of(text, example.format, bool(samples.ended[0]))
        click.echo(f"{text}\nanswer: {'none' if answer is None else answer}")


@llm.command(name="check")
@click.argument("task")
@click.option("--reward", "rewards", multiple=True, metavar="FILE.py:NAME",
              help="A reward function of your own beside the task's (repeatable).")
@click.option("--questions", type=Whole(1, 10_000), default=20, show_default=True,
              help="Questions that are answered.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Settings of data and judge, such as data.style=boxed (repeatable).")
def check_task(
    task: str, rewards: tuple[str, ...], questions: int, assignments: tuple[str, ...]
) -> None:
    """What known-good, empty, cut-off, hedging, echoing and adversarial answers earn."""
    _must_be_installed()
    from selfplay.common.settings import replace_key
    from selfplay.llm.config import TextConfig, override
    from selfplay.llm.folder import must_start, task_of
    from selfplay.llm.judges.check import check_rewards, earned_table, findings

    config = replace_key(TextConfig(task), "judge.functions", rewards)
    config = replace_key(config, "judge.most_failed", 1.0)  # it is said, and does not stop
    asked = task_of(override(config, assignments))
    must_start(asked)
    rows = check_rewards(asked, questions)
    click.echo(earned_table(rows))
    if found := findings(rows):
        raise UserError(f"{task}: " + "; ".join(found))
    click.echo(f"{task}: known-good answers are right, and nothing else earns as much")


@llm.command(name="export")
@click.argument("source", metavar="RUN|PATH", type=click.Path(path_type=Path))
@click.option("--merged", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="A whole model, adapters merged, that transformers loads.")
@click.option("--adapter", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="The adapter alone, for peft, beside the model that it is for.")
@click.option("--push", "hub", default=None, metavar="ORGANISATION/NAME",
              help="Upload it to the Hugging Face hub as well, to a private repository if it is "
                   "new.")
def export_texts(
    source: Path, merged: Path | None, adapter: Path | None, hub: str | None
) -> None:
    """A run's newest model for other programs, in Hugging Face's form."""
    _must_be_installed()
    from selfplay.llm.given.export import export_model, push

    if merged is None and adapter is None:
        raise UserError("give --merged DIR, or --adapter DIR for adapters alone")
    if hub and merged and adapter:
        raise UserError("--push: one of the two; give --merged or --adapter")
    for folder, merge in ((merged, True), (adapter, False)):
        if folder is not None:
            click.echo(export_model(source, folder, merge))
            if hub:
                click.echo(f"pushed to {push(folder, hub)}")


def run_name_of(task: str) -> str:
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


def _is_run(folder: Path) -> bool:
    from selfplay.llm.folder import stored_text_config

    return folder.is_dir() and not any(folder.glob("*.safetensors")) and (
        stored_text_config(folder) is not None)


def _located(task: str) -> str:
    """A task with the whole path of the file that it names, if it does."""
    from selfplay.games.own import located

    kind = next((kind for kind in ("env:", PREFIX) if task.startswith(kind)), "")
    return kind + located(task.removeprefix(kind))


def _must_be_installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f'language models need {", ".join(missing)}; pip install -e ".[llm]"')
