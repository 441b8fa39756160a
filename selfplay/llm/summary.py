"""What a run of texts has shown: it is measured, and put into the report that games have too.

Points of the chart are accuracies in percent: those of each stage's looks at held-out questions,
and those measured at the end, with more questions and with majorities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import AGAIN, DAMAGE, read_json, write_json
from selfplay.common.history import finite_float, read_history
from selfplay.common.machine import hardware
from selfplay.common.settings import assignments, to_dict
from selfplay.common.stats import wilson
from selfplay.common.words import clip, command
from selfplay.learn.checkpoint import note, reached_plateau
from selfplay.llm.config import TextConfig, stages_of, with_algorithm, with_model, with_recipe
from selfplay.llm.engines.choose import generator_of, must_have_engine
from selfplay.llm.evaluate import (
    BudgetForcing,
    budget_table,
    evaluate_model,
    evaluation_table,
    on_a_bar,
)
from selfplay.llm.folder import (
    TextRun,
    fit_to_model,
    model_of,
    newest_model,
    sampling_of,
    task_of,
)
from selfplay.llm.models import load_model
from selfplay.llm.play.lessons import GameTask
from selfplay.llm.preferences.overoptimism import PICTURE
from selfplay.llm.preferences.reward_model import ByReward, by_reward
from selfplay.llm.rewards import Questions, marked_steps, reward
from selfplay.llm.tasks.corpus import other_task
from selfplay.llm.teach.answers import taught_by
from selfplay.report.axis import ACCURACY, Record, finite
from selfplay.report.ceilings import ceilings
from selfplay.report.page import write_report
from selfplay.report.style import STAGES
from selfplay.report.text import headlines
from selfplay.report.verdict import LEARNERS, POINTS, SIGNAL

DEMONSTRATIONS = 1000  #: looked at, to know how often the teacher is right
LOOKS = 16  #: of a stage on the chart, at most
FIRST_RIGHT = 500  #: steps until the embedded model is assumed to answer rightly at times
SHOWN = 6  #: answers to read, a stage
#: What helps RL from a model that is never right.
NO_USE = ("RL learns from what is right now and then, and more time brings it nothing else: ask "
          "something easier, show an answer in the question, let answers be longer "
          "(sample.max_new_tokens), raise rl.group, or teach the model first (--recipe grpo)")
#: What a row of answers drawn has of the best by reward.
BEST = {"best": "accuracy", "best_low": "low", "best_high": "high"}
COLUMNS = ("reward", "entropy", "sample_kl", "ref_kl", "clip_fraction", "length", "aha",
           "no_signal")


def measure(
    run: TextRun, ks: tuple[int, ...], device: str, every: bool = False
) -> dict[str, Any]:
    """Evaluate a run's newest model, or ``every`` stage's, write ``evaluation.json`` and the
    report, and say what came out.

    The file has the newest model's figures, and by stage those of all that were measured.
    """
    must_have_engine(run.config.sample, run.config.model)
    run = fit_to_model(run)
    newest = newest_model(run.folder)
    planned = list(stages_of(run.config))
    models = {name: path for name in planned if (path := model_of(run.folder, name))}
    if run.config.recipe == "rl":  # what it began with is what it is compared with
        models = {"base": Path(run.config.model), **models}
    asked = models if every else {newest.parent.name: newest}
    rm = by_reward(run.folder, run.config, device)
    measured = {name: _measured(run, path, ks, device, rm) for name, path in asked.items()}
    measured = with_earlier(run.folder, measured, models)
    result = {**measured[newest.parent.name], "stages": measured}
    write_json(run.folder / "evaluation.json", result)
    expert = teacher(run)
    shown = run_record(run, {**measured, "teacher": expert} if expert else measured, device,
                       planned)
    say("\n".join(["", *headlines(write_report(run.folder, shown))]))
    say(f"chart: {run.folder / 'chart.png'}   report: {run.folder / 'report.html'}")
    return result


def _measured(
    run: TextRun, path: Path, ks: tuple[int, ...], device: str, rm: ByReward | None
) -> dict[str, Any]:
    config, how = run.config, sampling_of(run.config)
    model, tokenizer = load_model(path)
    given = "" if path.parent.name == "student" else config.model
    generator = generator_of(model, tokenizer, config.sample, given, device)

    def asked(task: Questions, name: str) -> dict[str, Any]:
        examples = task.held_out(config.data.held_out)
        with on_a_bar(generator, f"answers of {path}", len(examples) * (1 + max(ks))) as write:
            found = evaluate_model(write, tokenizer, examples, how, ks, config.seed, rm)
        say(f"{path}: {len(examples)} held-out questions of {name}")
        say(evaluation_table(found))
        return found

    result = {"checkpoint": path_in_run(run.folder, path), "task": config.task,
              "engine": generator.name, **asked(run.task, config.task)}
    if rm:
        result["rm"] = path_in_run(run.folder, rm.path)
    if config.eval.budgets:
        forcing = BudgetForcing(generator, tokenizer, run.task.held_out(config.data.held_out), how,
                          config.seed, config.eval.go_on)
        result["budgets"] = forcing.by_budget(config.eval.budgets)
        say(budget_table(result["budgets"]))
    if config.eval.also:
        result["also"] = {name: asked(other_task(config, name, run.folder), name)
                          for name in config.eval.also}
    return result


def path_in_run(folder: Path, path: Path) -> str:
    """A checkpoint's path from its run's folder; that of a model from elsewhere as it is."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def run_record(
    run: TextRun, measured: dict[str, Any], device: str, planned: Sequence[str] = ()
) -> Record:
    """What ``report.page`` shows of a run.

    measured: stage -> figures of ``evaluate.evaluate_model`` with "checkpoint", and under "teacher"
    those of ``teacher`` where there is one. planned: the stages of the run's recipe.
    """
    stages = {name: rows for name in STAGES if (rows := history(run.folder / name))}
    before = spent_before(run, stages)
    learner = next((name for name in LEARNERS if name in stages), "sft")
    expert = measured.get("teacher")
    enough, outlook = minutes_needed(run, learner, stages.get(learner, []))
    more = without_caps(run.config)
    longer, first = (training_command(run.folder, replace(more, minutes=minutes))
                     for minutes in (2 * run.config.minutes, enough))
    signal = {} if outlook == NO_USE else {SIGNAL: first}
    found: Record = {
        "game": run.config.task.split("(")[0], "rules": run.config.task, "measure": ACCURACY.key,
        "hardware": hardware(device),
        "run": str(run.folder), "seed": run.config.seed, "recipe": run.config.recipe,
        "commands": [training_command(run.folder, run.config), command(
            "selfplay", "llm", "eval", run.folder, "--samples",
            ",".join(map(str, run.config.eval.samples)))],
        "remedies": {**dict.fromkeys((POINTS, *planned), longer), **signal},
        "outlook": {SIGNAL: outlook},
        "points": accuracy_points(run.folder, stages, before, measured),
        "baselines": [{**percent(expert), "player": expert["player"], "expert": True}]
        if expert else [],
        "samples": [row for name in STAGES if name in measured
                    for row in majorities(name, measured[name])],
        "budgets": [row for name in STAGES if name in measured
                    for row in by_budget(name, measured[name])],
        "also": [{"task": task, **row} for name in STAGES if name in measured
                 for task, here in measured[name].get("also", {}).items()
                 for row in majorities(name, here)],
        "completions": [row for name in stages for row in last_answers(run, name)],
        "sft_flat": run.config.recipe == "rl" or reached_plateau(run.folder / learner),
        "sft_history": [{"step": row["step"], "policy_loss": row["loss"],
                         **added(row, before[learner])} for row in stages.get(learner, [])],
        "rl_history": [{key: row[key] for key in COLUMNS if key in row} | added(row, before[name])
                       | {"step": row["step"]}
                       for name in ("rl", "rl2") for row in stages.get(name, [])],
        "pictures": [{"title": "Proxy against true reward", "file": str(path)} for path in
                     [run.folder / PICTURE] if path.exists()],
        "config": to_dict(run.config),
    }
    return {**found, "curves": ceilings(found)}


def minutes_needed(run: TextRun, name: str, rows: Sequence[Record]) -> tuple[float, str]:
    """(minutes that the run should have for first right answers, why in words) by the rows of its
    first stage; twice as many as now, and no words, where its speed or its model tells nothing, and
    NO_USE where they would bring nothing."""
    config, share = run.config, stages_of(run.config).get(name, 0.0)
    if config.recipe == "rl":
        return 2 * config.minutes, NO_USE
    if not rows or not share or config.model or rows[-1]["step"] >= FIRST_RIGHT:
        return 2 * config.minutes, ""
    last, before = rows[-1], rows[-2] if len(rows) > 1 else {"step": 0, "seconds": 0.0}
    pace = (last["seconds"] - before["seconds"]) / max(last["step"] - before["step"], 1)
    enough = math.ceil(FIRST_RIGHT * pace / 60 / share)
    if enough <= config.minutes:
        return 2 * config.minutes, ""
    return enough, (f"{STAGES[name].name} made {last['step']:,} of the about {FIRST_RIGHT} steps "
                    f"that first right answers take; at this speed {enough} minutes are needed")


def without_caps(config: TextConfig) -> TextConfig:
    """``config`` without caps on steps that leave no time for first right answers."""
    sft, rl = config.sft, config.rl
    if sft.max_steps < FIRST_RIGHT:
        sft = replace(sft, max_steps=type(sft)().max_steps)
    if rl.steps < FIRST_RIGHT:
        rl = replace(rl, steps=type(rl)().steps)
    return replace(config, sft=sft, rl=rl)


def history(folder: Path) -> list[Record]:
    """The rows of a stage, each with what the stage has cost so far: flops (None where that is not
    known) and seconds."""
    return [{**row, "flops": row.get("total_flops", row.get("flops")),
             "seconds": row.get("total_seconds", row.get("seconds"))}
            for row in read_history(folder / "history.jsonl")]


def spent_before(run: TextRun, stages: dict[str, list[Record]]) -> dict[str, Record]:
    """What had been spent when each stage began: on the stages before it, up to the checkpoint that
    each handed on, and on the reward model. Both stages of RLHF begin where SFT ended."""
    found: dict[str, Record] = {}
    spent: Record = {"flops": 0.0, "seconds": 0.0}
    for name, rows in stages.items():
        rm = history(run.folder / "rm")[-1:] if name in ("free", "rlhf") else []
        start = added(rm[0], spent) if rm else spent
        found[name] = found["free"] if name == "rlhf" and "free" in found else start
        spent = added(handed_on(run.folder / name, rows), found[name])
    return found


def handed_on(folder: Path, rows: Sequence[Record]) -> Record:
    """The row of the checkpoint that a stage hands on: the best, if one is noted, or the last."""
    best = note(folder)
    step = step_of(best["checkpoint"]) if best else rows[-1]["step"]
    return next((row for row in rows if row["step"] == step), rows[-1])


def added(row: Record, spent: Record) -> Record:
    """{flops, seconds} of a row on top of what was spent before; None where one is not known."""
    return {key: row[key] + spent[key] if finite(row.get(key)) and finite(spent[key]) else None
            for key in ("flops", "seconds")}


def accuracy_points(
    folder: Path, stages: dict[str, list[Record]], before: dict[str, Record],
    measured: dict[str, Any],
) -> list[Record]:
    """Looks and measurements of all stages; a measurement replaces the look at its checkpoint.

    Where the compute of one stage is not known, no point has any: the chart then goes by time.
    """
    found = []
    if "base" in measured and "base" not in stages:  # a model that was given: it cost nothing here
        here = measured["base"]
        known = {"player": here["checkpoint"], "stage": "base", "step": 0, "flops": 0.0,
                 "seconds": 0.0}
        found += measured_points(known, here)
    for name, rows in stages.items():
        costs = {row["step"]: added(row, before[name]) for row in rows}
        looks = {0: looked(rows[0], "start_")} | {row["step"]: looked(row) for row in rows}
        costs[0] = costs.get(0, before[name])
        here = measured.get(name)
        step = step_of(here["checkpoint"]) if here else -1
        seen = [at for at, look in looks.items() if look and at != step]
        found += [{**point_of(folder, name, at), **costs[at], **looks[at], "sims": 0, "look": True}
                  for at in thinned(seen, LOOKS)]
        if here and step in costs:
            found += measured_points({**point_of(folder, name, step), **costs[step]}, here)
    if not all(finite(point["flops"]) for point in found):
        found = [{**point, "flops": None} for point in found]
    return found


def measured_points(known: Record, here: Record) -> list[Record]:
    """The points of a measurement: one answer, and the majority of the most."""
    most = max(map(int, here["majority"]))
    found = [{**known, **percent(here["sampled"]), "sims": 0}]
    return [*found, {**known, **majority_of(here, most), "sims": most}] if most > 1 else found


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``steps``, evenly, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def point_of(folder: Path, name: str, step: int) -> Record:
    return {"player": str(folder / name / f"ckpt-{step:06d}"), "stage": name, "step": step}


def looked(row: Record, prefix: str = "") -> Record:
    """A look's accuracy of sampled answers, in percent; {} where the row has none."""
    if not prefix and isinstance(row.get("sampled"), dict):
        return percent(row["sampled"])
    head = f"{prefix}sampled_"
    if f"{head}accuracy" not in row:
        return {}
    return percent({"questions": row[f"{head}n"],
                    **{key: row[f"{head}{key}"] for key in ("accuracy", "low", "high")}})


def percent(row: Record) -> Record:
    return {**{key: 100.0 * row[key] for key in ("accuracy", "low", "high")},
            "questions": int(row["questions"])}


def majority_of(here: Record, k: int, how: str = "majority") -> Record:
    """The majority of k answers, with its 95% interval over questions (Wilson). how: what else is
    taken of k answers, a key of the figures."""
    rate, count = here[how][str(k)], int(here["sampled"]["questions"])
    low, high = wilson(rate, count)
    return percent({"accuracy": rate, "low": low, "high": high, "questions": count})


def majorities(name: str, here: Record) -> list[Record]:
    """The accuracy of a stage's model by how many answers it gives to a question."""
    rows = []
    for k in map(int, here["majority"]):
        found = majority_of(here, k)
        passed = here["pass"][str(k)]
        low, high = wilson(passed, found["questions"])
        best = majority_of(here, k, "best") if str(k) in here.get("best", {}) else {}
        rows.append({"stage": name, "k": k, "majority": found["accuracy"], "low": found["low"],
                     "high": found["high"], "pass": 100.0 * passed,
                     "pass_low": 100.0 * low, "pass_high": 100.0 * high,
                     **{key: best[at] for key, at in BEST.items() if best}})
    return rows


def by_budget(name: str, here: Record) -> list[Record]:
    """The accuracy of a stage's model, greedy, by the tokens that it thinks."""
    return [{"stage": name, "mode": row["mode"], "budget": int(row["budget"]),
             "tokens": row["tokens"], **percent(row)} for row in here.get("budgets", [])]


def last_answers(run: TextRun, name: str) -> list[Record]:
    """Some of a stage's last answers."""
    path = run.folder / name / "samples.jsonl"
    if path.exists():
        rows = read_history(path)[-SHOWN:]
        return [_answer(name, row["prompt"], row["completion"], row["wanted"]) for row in rows]
    last = [row for row in history(run.folder / name) if row.get("shown")][-1:]
    wanted = {e.prompt: e.answer for e in run.task.held_out(SHOWN)}
    return [_answer(name, prompt, text, wanted.get(prompt, ""))
            for row in last for prompt, text in row["shown"][:SHOWN]]


def _answer(name: str, prompt: str, text: str, wanted: str) -> Record:
    return {"stage": name, "prompt": prompt, "completion": marked_steps(text), "wanted": wanted}


def teacher(run: TextRun) -> Record | None:
    """The accuracy, with its interval, of what the run's first stage learns from: demonstrations,
    or another run's policy. None where there is nothing of that kind."""
    if run.config.own.of:
        found = taught_by(run)
        return {"player": "the policy that teaches", **found} if found else None
    if run.config.recipe == "rl":
        return None
    base = run.config.recipe == "r1-zero"
    task = task_of(run.config, run.config.data.guessed, run.folder) if base else run.task
    solved = isinstance(task, GameTask)  # of large games only what is held out
    examples = task.held_out(DEMONSTRATIONS) if solved else task.batch(0, DEMONSTRATIONS)
    if (base and run.config.model) or any(e.demonstration is None for e in examples):
        return None
    right = [reward(e.demonstration or "", e)["accuracy"] >= 1 for e in examples]
    rate = sum(right) / len(right)
    low, high = wilson(rate, len(right))
    return {"player": "what the base read" if base else "the teacher", "accuracy": rate, "low": low,
            "high": high, "questions": len(right)}


def step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def training_command(folder: Path, config: TextConfig) -> str:
    """The command that makes the same run again."""
    start = with_recipe(TextConfig(config.task), config.recipe)
    known = with_algorithm(start, config.rl.algorithm)
    known = with_model(known, config.lora.rank > 0) if config.model else known
    now, default = to_dict(config), to_dict(known)
    default["rl"]["algorithm"] = start.rl.algorithm
    default["recipe"] = TextConfig.recipe
    dials = ("task", "recipe", "model", "minutes", "seed", "device")
    words: list[object] = ["selfplay", "llm", "train", "--run", folder]
    for key in dials:
        if key in ("task", "recipe") or now[key] != default[key]:
            words += [f"--{key}", now[key]]
    return command(*words, *assignments(now, default, dials))


def with_earlier(folder: Path, found: dict[str, Any], models: dict[str, Path]) -> dict[str, Any]:
    """``found`` and what evaluation.json has of other stages, where it is of the checkpoints that
    they hand on now (``models``)."""
    path = folder / "evaluation.json"
    try:
        old = read_json(path, dict).get("stages", {}) if path.exists() else {}
        kept = {name: row for name, row in old.items()
                if name in models and row["checkpoint"] == path_in_run(folder, models[name])}
        for name, row in found.items():  # fewer samples do not replace more
            before = kept.get(name, {})
            same = "rm" in row and row["rm"] == before.get("rm")  # what judged the best
            for key in ("majority", "pass", *["best"] * same):
                known = before.get(key, {})
                more = {k: finite_float(rate) for k, rate in known.items()
                        if int(k) > max(map(int, row[key]))}
                row[key] = {**row[key], **more}
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({clip(str(error), 60)}); {AGAIN}") from None
    return {**kept, **found}
