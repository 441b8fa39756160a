"""What a run of texts shows: costs that add up over stages, and how often the teacher is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

from selfplay.common.files import write_json
from selfplay.llm import summary
from selfplay.llm.config import TextConfig
from selfplay.llm.folder import TextRun, task_of
from selfplay.llm.stage_config import TaskConfig

TASK = "chain_sum(min_terms=3,max_terms=3,min_digits=1,max_digits=1)"


def run_in(folder: Path, recipe: str = "grpo", **data: Any) -> TextRun:
    config = TextConfig(TASK, recipe=recipe, data=TaskConfig(**data))
    return TextRun(folder, config, task_of(config))


def rows(folder: Path, found: list[dict[str, Any]], best: int | None = None) -> None:
    folder.mkdir()
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    if best is not None:
        write_json(folder / "best.json", {"checkpoint": f"ckpt-{best:06d}", "flat": True})


def taught(step: int, accuracy: float) -> dict[str, Any]:
    right = {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1,
             "questions": 128.0}
    return {"step": step, "flops": step * 10, "seconds": step * 1.0, "loss": 1 / step,
            "sampled": right, "greedy": right, "shown": [["1 + 2 =", "3"]]}


def rewarded(step: int, accuracy: float | None = None) -> dict[str, Any]:
    look = {f"sampled_{key}": value for key, value in
            (("accuracy", accuracy), ("low", 0.0), ("high", 1.0), ("n", 256))}
    return {"step": step, "total_flops": step * 7.0, "total_seconds": step * 2.0, "entropy": 0.5,
            "clip_fraction": 0.0, **(look if accuracy is not None else {})}


def measured(checkpoint: str) -> dict[str, Any]:
    right = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "questions": 200.0}
    return {"checkpoint": checkpoint, "greedy": right, "sampled": right,
            "pass": {"1": 0.5, "4": 0.9}, "majority": {"1": 0.5, "4": 0.7}}


def test_costs_add_up_from_the_checkpoint_that_was_handed_over(tmp_path: Path) -> None:
    """SFT's best is step 2 of 3: RL begins at 20 flops and 2 s."""
    rows(tmp_path / "sft", [taught(1, 0.1), taught(2, 0.3), taught(3, 0.2)], best=2)
    first = {f"start_{key}": value for key, value in rewarded(1, 0.3).items()
             if key.startswith("sampled")}
    rows(tmp_path / "rl", [{**rewarded(1), **first}, rewarded(2, 0.6), rewarded(3, 0.8)])
    found = summary.run_record(run_in(tmp_path), {"rl": measured("rl/ckpt-000003")}, "cpu")
    points = {(p["stage"], p["step"], p["sims"]): p for p in found["points"]}
    assert sorted(points) == [("rl", 0, 0), ("rl", 2, 0), ("rl", 3, 0), ("rl", 3, 4),
                              ("sft", 1, 0), ("sft", 2, 0), ("sft", 3, 0)]
    costs = {key: (p["flops"], p["seconds"]) for key, p in points.items()}
    assert costs["sft", 3, 0] == (30, 3)
    assert costs["rl", 0, 0] == (20, 2)
    assert costs["rl", 3, 4] == (20 + 21, 2 + 6)
    assert points["rl", 2, 0]["accuracy"] == 60 and points["rl", 2, 0]["look"]
    assert points["rl", 3, 0]["accuracy"] == 50 and "look" not in points["rl", 3, 0]
    assert points["rl", 3, 4]["accuracy"] == pytest.approx(70)
    assert points["rl", 3, 4]["questions"] == 200
    assert [(s["k"], s["majority"], s["pass"]) for s in found["samples"]] == [
        (1, 50, 50), (4, 70, 90)]
    assert found["sft_flat"] is True
    assert [row["flops"] for row in found["rl_history"]] == [27, 34, 41]


def test_a_run_without_a_right_answer_or_without_rl_says_how_to_go_on(tmp_path: Path) -> None:
    from selfplay.report.text import headlines
    from selfplay.report.verdict import verdict_of

    rows(tmp_path / "sft", [taught(1, 0.3)], best=1)
    again = (f"selfplay llm train --run {tmp_path} --task '{TASK}' --recipe grpo "
             "--minutes 60")
    stages = ("sft", "rl", "eval")
    told = headlines(verdict_of(summary.run_record(run_in(tmp_path), {}, "cpu", stages)))
    assert told[0] == f"No RL checkpoint has been rated: {again}"
    rows(tmp_path / "rl", [rewarded(1, 0.5)])
    told = headlines(verdict_of(summary.run_record(run_in(tmp_path), {}, "cpu", stages)))
    assert told[0].startswith("One answer: ")
    for stage, row in (("sft", taught(1, 0.0)), ("rl", rewarded(1, 0.0))):
        (tmp_path / stage / "history.jsonl").write_text(json.dumps(row) + "\n")
    told = headlines(verdict_of(summary.run_record(run_in(tmp_path), {}, "cpu", stages)))
    assert told[0] == ("No question has been answered rightly yet, so there is nothing to compare: "
                       + again)
    assert not any("undecided" in line for line in told)


def test_a_run_too_short_for_a_right_answer_names_the_minutes(tmp_path: Path) -> None:
    """20 steps after a start of 9 s, 6 s each: 500 take 50 minutes, 35% of 143."""
    from selfplay.report.text import headlines
    from selfplay.report.verdict import verdict_of

    rows(tmp_path / "sft", [{**taught(10, 0.0), "seconds": 69.0},
                            {**taught(20, 0.0), "seconds": 129.0}], best=20)
    run = run_in(tmp_path)
    told = headlines(verdict_of(summary.run_record(run, {}, "cpu", ("sft", "rl", "eval"))))
    assert told[0].startswith(
        "No question has been answered rightly yet, so there is nothing to compare. SFT made 20 of "
        "the about 500 steps that first right answers take; at this speed 143 minutes are needed: "
        f"selfplay llm train --run {tmp_path} ") and told[0].endswith(" --minutes 143")
    capped = replace(run.config, sft=replace(run.config.sft, max_steps=20),
                     rl=replace(run.config.rl, steps=2))
    told = headlines(verdict_of(summary.run_record(
        replace(run, config=capped), {}, "cpu", ("sft", "rl", "eval"))))
    assert "--minutes 143" in told[0] and "max_steps" not in told[0] + told[1]
    assert "rl.steps" not in told[0] + told[1]
    with_model = TextRun(run.folder, replace(run.config, model="some/model"), run.task)
    assert summary.minutes_needed(with_model, "sft", [taught(20, 0.0)]) == (60.0, "")
    straight = replace(with_model, config=replace(with_model.config, recipe="rl"))
    (tmp_path / "sft/history.jsonl").unlink()
    rows(tmp_path / "rl", [rewarded(1, 0.0)])
    told = headlines(verdict_of(summary.run_record(straight, {}, "cpu", ("rl", "eval"))))
    assert "show an answer in the question" in told[0] and "--minutes" not in told[0]


def test_without_a_known_compute_the_chart_goes_by_time(tmp_path: Path) -> None:
    rows(tmp_path / "sft", [taught(1, 0.1)], best=1)
    rows(tmp_path / "rl", [{key: value for key, value in rewarded(2, 0.6).items()
                            if key != "total_flops"}])
    found = summary.run_record(run_in(tmp_path), {}, "cpu")
    assert {p["flops"] for p in found["points"]} == {None}
    assert [p["seconds"] for p in found["points"]] == [1, 5]


@pytest.mark.parametrize("climbs", [("free", "rlhf"), ("rlhf",)])
def test_all_climbs_of_rlhf_begin_behind_the_reward_model(
    climbs: tuple[str, ...], tmp_path: Path
) -> None:
    rows(tmp_path / "sft", [taught(1, 0.1)], best=1)
    rows(tmp_path / "rm", [{"step": 1, "seconds": 30.0}])
    for name in climbs:
        rows(tmp_path / name, [{"step": 1, "seconds": 4.0}])
    found = summary.run_record(run_in(tmp_path, "overoptimise"), {
        name: measured(f"{name}/ckpt-000001") for name in climbs}, "cpu")
    seconds = {p["stage"]: p["seconds"] for p in found["points"]}
    assert seconds == {"sft": 1, **dict.fromkeys(climbs, 1 + 30 + 4)}


def test_the_teacher_is_as_right_as_its_slips_allow(tmp_path: Path) -> None:
    """One in two steps wrong, two steps a sum: a quarter is right, and a few slips that cancel."""
    sure = summary.teacher(run_in(tmp_path))
    assert sure is not None and sure["accuracy"] == 1
    erring = summary.teacher(run_in(tmp_path, wrong=0.5))
    assert erring is not None and 0.2 < erring["accuracy"] < 0.35
    assert erring["low"] < erring["accuracy"] < erring["high"]
    guessed = summary.teacher(run_in(tmp_path, "r1-zero", guessed=0.9))
    assert guessed is not None and guessed["player"] == "what the base read"
    assert guessed["accuracy"] < 0.3


def test_a_file_without_demonstrations_has_no_teacher(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i} + 1", "answer": str(i + 1)}) + "\n"
                            for i in range(40)))
    config = TextConfig(str(file))
    assert summary.teacher(TextRun(tmp_path, config, task_of(config))) is None


def test_the_command_of_a_run_makes_it_again(tmp_path: Path) -> None:

    from selfplay.llm.config import new_settings, override, with_recipe

    config = override(with_recipe(TextConfig("gcd"), "ppo"), ["net=1x32", "data.wrong=0.5"])
    command = summary.training_command(Path("runs/x"), replace(config, minutes=3.0))
    assert command == ("selfplay llm train --run runs/x --task gcd --recipe ppo --minutes 3 "
                       "--set net=1x32 --set data.wrong=0.5")
    given = replace(TextConfig("gcd", recipe="grpo"), model="there")
    given = new_settings(given, ["rl.algorithm=dapo", "lora.rank=4", "sft.learning_rate=0.002"])
    assert given.pg.learning_rate == pytest.approx(1e-5)  # of adapters, whatever the algorithm
    assert summary.training_command(Path("runs/x"), given) == (
        "selfplay llm train --run runs/x --task gcd --recipe grpo --model there "
        "--set lora.rank=4 --set sft.learning_rate=0.002 --set rl.algorithm=dapo")
    assert new_settings(replace(TextConfig("gcd"), model="there", recipe="grpo"), [
        "lora.rank=4", "sft.learning_rate=0.002", "rl.algorithm=dapo"]) == given


def test_figures_of_a_checkpoint_that_no_longer_speaks_are_dropped(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation.json", {"stages": {
        "sft": measured("sft/ckpt-000001"), "rl": measured("rl/ckpt-000001")}})
    models = {"sft": tmp_path / "sft/ckpt-000001", "rl": tmp_path / "rl/ckpt-000002"}
    found = summary.with_earlier(tmp_path, {"rl": measured("rl/ckpt-000002")}, models)
    fewer = {**measured("sft/ckpt-000001"), "pass": {"1": 0.6}, "majority": {"1": 0.6}}
    again = summary.with_earlier(tmp_path, {"sft": fewer}, models)["sft"]
    assert again["pass"] == {"1": 0.6, "4": 0.9} and again["majority"] == {"1": 0.6, "4": 0.7}
    assert {name: row["checkpoint"] for name, row in found.items()} == {
        "sft": "sft/ckpt-000001", "rl": "rl/ckpt-000002"}
