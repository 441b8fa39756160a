"""Evaluation of any model on any tasks, by the number of answers and by their length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.common.errors import UserError
from selfplay.llm.config import TextConfig, override
from selfplay.llm.embedded import TEMPLATE
from selfplay.llm.engines.choose import generator_of, must_have_engine
from selfplay.llm.evaluate import answers_within, evaluation_of, evaluation_table, on_a_bar
from selfplay.llm.folder import newest_model, sampling_of, stored_text_config, task_of
from selfplay.llm.generate import Generator
from selfplay.llm.judges.ready import must_start
from selfplay.llm.models import load_model, must_be_a_model


@dataclass(frozen=True)
class Opened:
    """A model, and the settings by which it is asked."""

    name: str
    generator: Generator
    tokenizer: Any
    config: TextConfig


def open_model(name: str, device: str, assignments: Sequence[str] = ()) -> Opened:
    """The newest model of a run, the model in a folder, or that of a hub id, which answers on
    ``device``.

    How it samples is as in its run; the rest is as ``assignments`` change the defaults. Raises
    UserError where there is no model.
    """
    path, config = Path(name), TextConfig("none", model=name)
    if path.is_dir():
        path = newest_model(path)
        if (Path(name) / "config.json").is_file() and path != Path(name):
            stored = stored_text_config(Path(name)) or config
            config = replace(config, model=stored.model, sample=stored.sample, seed=stored.seed)
    else:
        must_be_a_model(name)
    config = override(config, assignments)
    must_have_engine(config.sample, config.model)
    model, tokenizer = load_model(path)
    if tokenizer.chat_template == TEMPLATE:  # the embedded model is asked tersely
        config = replace(config, model="")
    return Opened(str(path), generator_of(model, tokenizer, config.sample, config.model, device),
                  tokenizer, config)


def evaluate_tasks(
    opened: Opened, tasks: Sequence[str], ks: Sequence[int], budgets: Sequence[int], count: int
) -> dict[str, dict[str, Any]]:
    """task -> budget of tokens -> figures of ``evaluate.evaluate_model``, on ``count`` held-out
    questions at most of each task. budgets: none for that of the settings."""
    sampling, seed = sampling_of(opened.config), opened.config.seed
    budgets = sorted(budgets) or [sampling.max_new_tokens]
    found: dict[str, dict[str, Any]] = {}
    for name in tasks:
        task = task_of(replace(opened.config, task=name))
        must_start(task)
        examples = task.held_out(count)
        with on_a_bar(opened.generator, name, len(examples) * (1 + max(ks))) as write:
            best, sampled = (
                answers_within(write, opened.tokenizer, examples, group, how, seed, budgets)
                for group, how in ((1, replace(sampling, temperature=0.0)), (max(ks), sampling)))
        found[name] = {str(most): evaluation_of(best[most], sampled[most], ks)
                       for most in budgets}
    return found


def tasks_of(text: str) -> list[str]:
    """The tasks of a list with commas, which parameters in parentheses may have as well. Raises
    UserError for none."""
    found = [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]
    if not found:
        raise UserError(f"--tasks {text}: tasks such as chain_sum,gcd,my.jsonl wanted")
    return found


def evaluation_tables(found: dict[str, dict[str, Any]]) -> str:
    """For a terminal: a table a task and budget."""
    lines = []
    for task, rows in found.items():
        for most, result in rows.items():
            lines += [f"\n{task}: {int(result['sampled']['questions'])} held-out questions, "
                      f"{most} tokens an answer", evaluation_table(result)]
    return "\n".join(lines).strip()
