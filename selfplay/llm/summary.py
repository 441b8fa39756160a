"""What a run of texts has shown, as an evaluation for the report that games have too.

Points are accuracies in percent: those of the looks at held-out questions in every stage's
history, and at the end of stages those measured with more questions and with majorities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.common.errors import command
from selfplay.common.files import read_history, read_json
from selfplay.common.machine import hardware
from selfplay.common.settings import assignments, to_dict
from selfplay.common.stats import wilson
from selfplay.learn.checkpoint import note, reached_plateau
from selfplay.llm import folder as rlhf_stages
from selfplay.llm.config import TextConfig, with_algorithm, with_model, with_recipe
from selfplay.llm.folder import TextRun, task_of
from selfplay.llm.rewards import reward
from selfplay.report.axis import ACCURACY, Record, finite
from selfplay.report.style import STAGES
from selfplay.report.verdict import LEARNERS, POINTS, SIGNAL

DEMONSTRATIONS = 1000  #: looked at, to know how often the teacher is right
LOOKS = 16  #: of a stage on the chart, at most
SHOWN = 6  #: answers to read, a stage
COLUMNS = ("reward", "entropy", "sample_kl", "ref_kl", "clip_fraction", "length", "no_signal")


def evaluation(
    run: TextRun, measured: dict[str, Any], device: str, planned: Sequence[str] = ()
) -> Record:
    """What ``report.page`` shows of a run.

    measured: stage -> figures of ``evaluate.evaluate`` with "checkpoint", and under "teacher"
    those of ``teacher`` where there is one. planned: the stages of the run's recipe.
    """
    stages = {name: rows for name in STAGES if (rows := history(run.folder / name))}
    before = handed_over(run, stages)
    learner = next((name for name in LEARNERS if name in stages), "sft")
    expert = measured.get("teacher")
    longer = replace(run.config, minutes=2 * run.config.minutes)
    return {
        "game": run.config.task.split("(")[0], "rules": run.config.task, "measure": ACCURACY.key,
        "hardware": hardware(device),
        "run": str(run.folder), "seed": run.config.seed, "recipe": run.config.recipe,
        "commands": [train_command(run.folder, run.config), command(
            "selfplay", "llm", "eval", run.folder, "--samples",
            ",".join(map(str, run.config.eval.samples)))],
        "remedies": dict.fromkeys((POINTS, SIGNAL, *planned), train_command(run.folder, longer)),
        "points": points(run.folder, stages, before, measured),
        "baselines": [{**percent(expert), "player": expert["player"], "expert": True}]
        if expert else [],
        "samples": [row for name in stages if name in measured
                    for row in samples(name, measured[name])],
        "completions": [row for name in stages for row in shown(run, name)],
        "sft_flat": reached_plateau(run.folder / learner),
        "sft_history": [{"step": row["step"], "policy_loss": row["loss"],
                         **added(row, before[learner])} for row in stages.get(learner, [])],
        "rl_history": [{key: row[key] for key in COLUMNS if key in row} | added(row, before[name])
                       | {"step": row["step"]}
                       for name in ("rl", "rl2") for row in stages.get(name, [])],
        "pictures": [{"title": "Proxy against true reward", "file": str(path)} for path in
                     [run.folder / rlhf_stages.PICTURE] if path.exists()],
        "config": to_dict(run.config),
    }


def history(folder: Path) -> list[Record]:
    """The rows of a stage, each with its cumulative cost in the stage: flops (None where it is not
    known) and seconds."""
    return [{**row, "flops": row.get("total_flops", row.get("flops")),
             "seconds": row.get("total_seconds", row.get("seconds"))}
            for row in read_history(folder / "history.jsonl")]


def handed_over(run: TextRun, stages: dict[str, list[Record]]) -> dict[str, Record]:
    """What had been spent when each stage began: its predecessors to the checkpoint that they
    handed over, the reward model as well. Both climbs of RLHF begin where SFT ended."""
    found: dict[str, Record] = {}
    spent: Record = {"flops": 0.0, "seconds": 0.0}
    for name, rows in stages.items():
        judge = history(run.folder / "rm")[-1:] if name in ("free", "rlhf") else []
        start = added(judge[0], spent) if judge else spent
        found[name] = found["free"] if name == "rlhf" and "free" in found else start
        spent = added(handed(run.folder / name, rows), found[name])
    return found


def handed(folder: Path, rows: Sequence[Record]) -> Record:
    """The row of the checkpoint that a stage hands over: the best by its note, else the last."""
    best = note(folder)
    step = step_of(best["checkpoint"]) if best else rows[-1]["step"]
    return next((row for row in rows if row["step"] == step), rows[-1])


def added(row: Record, spent: Record) -> Record:
    """{flops, seconds} of a row on top of what was spent before; None where one is not known."""
    return {key: row[key] + spent[key] if finite(row.get(key)) and finite(spent[key]) else None
            for key in ("flops", "seconds")}


def points(
    folder: Path, stages: dict[str, list[Record]], before: dict[str, Record],
    measured: dict[str, Any],
) -> list[Record]:
    """Looks and measurements of all stages; where a checkpoint was measured, the look gives way.

    Without a known compute in one stage none is told of any: the chart then goes by time.
    """
    found = []
    for name, rows in stages.items():
        costs = {row["step"]: added(row, before[name]) for row in rows}
        looks = {0: looked(rows[0], "start_")} | {row["step"]: looked(row) for row in rows}
        costs[0] = costs.get(0, before[name])
        here = measured.get(name)
        step = step_of(here["checkpoint"]) if here else None
        seen = [at for at, look in looks.items() if look and at != step]
        found += [{**about(folder, name, at), **costs[at], **looks[at], "sims": 0, "look": True}
                  for at in thinned(seen, LOOKS)]
        if here and step in costs:
            most = max(map(int, here["majority"]))
            known = {**about(folder, name, step), **costs[step]}
            found.append({**known, **percent(here["sampled"]), "sims": 0})
            if most > 1:
                found.append({**known, **majority(here, most), "sims": most})
    if not all(finite(point["flops"]) for point in found):
        found = [{**point, "flops": None} for point in found]
    return found


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of ``steps``, the first and the last among them, evenly."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def about(folder: Path, name: str, step: int) -> Record:
    return {"player": str(folder / name / f"ckpt-{step:06d}"), "stage": name, "step": step}


def looked(row: Record, prefix: str = "") -> Record:
    """A look's accuracy of answers that are drawn, in percent; {} where the row has none."""
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


def majority(here: Record, k: int) -> Record:
    """The majority of k answers, with its 95% interval over questions (Wilson)."""
    rate, count = here["majority"][str(k)], int(here["sampled"]["questions"])
    low, high = wilson(rate, count)
    return percent({"accuracy": rate, "low": low, "high": high, "questions": count})


def samples(name: str, here: Record) -> list[Record]:
    """Accuracy against the answers drawn, of a stage's model."""
    rows = []
    for k in map(int, here["majority"]):
        found = majority(here, k)
        rows.append({"stage": name, "k": k, "majority": found["accuracy"], "low": found["low"],
                     "high": found["high"], "pass": 100.0 * here["pass"][str(k)]})
    return rows


def shown(run: TextRun, name: str) -> list[Record]:
    """Some of a stage's last answers."""
    path = run.folder / name / "samples.jsonl"
    if path.exists():
        rows = read_history(path)[-SHOWN:]
        return [{"stage": name, **{key: row[key] for key in ("prompt", "completion", "wanted")}}
                for row in rows]
    last = [row for row in history(run.folder / name) if row.get("shown")][-1:]
    wanted = {e.prompt: e.answer for e in run.task.held_out(SHOWN)}
    return [{"stage": name, "prompt": prompt, "completion": text, "wanted": wanted.get(prompt, "")}
            for row in last for prompt, text in row["shown"][:SHOWN]]


def teacher(run: TextRun) -> Record | None:
    """How often what the run's first stage reads is right: its accuracy with the interval; None
    where no demonstrations are given."""
    base = run.config.recipe == "r1-zero"
    task = task_of(run.config, guessed=run.config.data.guessed) if base else run.task
    examples = task.batch(0, DEMONSTRATIONS)
    if (base and run.config.model) or any(e.demonstration is None for e in examples):
        return None
    right = [reward(e.demonstration or "", e)["accuracy"] >= 1 for e in examples]
    rate = sum(right) / len(right)
    low, high = wilson(rate, len(right))
    return {"player": "what the base read" if base else "the teacher", "accuracy": rate, "low": low,
            "high": high, "questions": len(right)}


def step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def train_command(folder: Path, config: TextConfig) -> str:
    """The command that makes a run again."""
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
            words += [f"--{key}", str(now[key])]
    return command(*words, *assignments(now, default, dials))


def with_earlier(folder: Path, found: dict[str, Any], models: dict[str, Path]) -> dict[str, Any]:
    """``found`` and what evaluation.json has of other stages, as far as it is of the checkpoints
    that speak for them now."""
    path = folder / "evaluation.json"
    old = read_json(path).get("stages", {}) if path.exists() else {}
    kept = {name: row for name, row in old.items()
            if name in models and row["checkpoint"] == str(models[name].relative_to(folder))}
    for name, row in found.items():  # fewer samples do not replace more
        for key in ("majority", "pass"):
            known = kept.get(name, {}).get(key, {})
            more = {k: rate for k, rate in known.items() if int(k) > max(map(int, row[key]))}
            row[key] = {**row[key], **more}
    return {**kept, **found}
