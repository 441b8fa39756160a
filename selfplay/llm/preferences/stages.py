"""The stages that learn from preferences: DPO, a reward model, and RLHF against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.common import ranks
from selfplay.common.console import Bar, say
from selfplay.common.files import write_atomic, write_json
from selfplay.common.history import read_figure_rows, read_history
from selfplay.learn import checkpoint
from selfplay.llm.evaluate import Counted, accuracies_said, speed_said
from selfplay.llm.folder import (
    TextRun,
    best_checkpoint,
    engine_for,
    memory_of,
    open_rlhf_learner,
    sampling_of,
    train_learner,
)
from selfplay.llm.generate import TorchGenerator
from selfplay.llm.models import end_tokens, load_model, load_tokenizer
from selfplay.llm.policy import Judge, Net, TextPolicy, gold_of
from selfplay.llm.preferences.config import RLHFConfig
from selfplay.llm.preferences.dpo import train_dpo
from selfplay.llm.preferences.overoptimism import PICTURE, best_of_n, turn
from selfplay.llm.preferences.pairs import (
    Pair,
    in_the_way_of,
    make_pairs,
    not_held_out,
    read_pairs,
    split_pairs,
    to_lines,
)
from selfplay.llm.preferences.reward_model import (
    load_reward_model,
    proxy_task,
    reward_model,
    train_reward_model,
)
from selfplay.report.panels import CLIMBED, draw_overoptimisation
from selfplay.run.clock import Clock
from selfplay.run.keep import Row
from selfplay.run.stage import Desk, Work


def _sampler(run: TextRun, device: str) -> tuple[TextPolicy, Any]:
    """(the SFT model as it samples, its tokenizer)."""
    model, tokenizer = load_model(best_checkpoint(run.folder / "sft"))
    return TextPolicy(Net(model).to(device).eval(), end_tokens(model, tokenizer),
                      tokenizer.pad_token_id, sampling_of(run.config),
                      generator=engine_for(run, device)(model, tokenizer),
                      tokenizer=tokenizer), tokenizer


def learn_directly(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pairs, and DPO of the SFT model on them until its held-out loss falls no more."""
    folder, config = run.folder / "dpo", run.config
    if "dpo" in clock.done:
        return f"dpo: finished, best checkpoint {best_checkpoint(folder).name}"
    pairs = _pairs(run, folder, *_sampler(run, device))
    learnt, apart = split_pairs(pairs, config.pairs.held_out, config.seed)

    def learn(at: Desk) -> str:
        found = train_dpo(
            best_checkpoint(run.folder / "sft"), learnt, apart, run.task, config.dpo, folder,
            questions=config.dpo.looked_at, sampling=sampling_of(config), seed=config.seed,
            device=device, memory=memory_of(config), left=at.left, log=at.log,
            progress=at.step)
        return f"{len(learnt):,} pairs learnt, best checkpoint {found.name}, {at.latest}"

    def look(row: Row) -> str:
        return f"pairs {row['accuracy']:.1%}, " + accuracies_said(
            row["greedy"]["accuracy"], row["sampled"]["accuracy"])

    return Work("dpo", learn, look, lambda found: f"dpo: {found}",
                ended=lambda found: checkpoint.reached_plateau(folder), first="no look yet")


def learn_preferences(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pairs, and a reward model that learns them until its held-out loss goes up again."""
    folder, config = run.folder / "rm", run.config
    if "rm" in clock.done:
        return f"reward model: finished, best checkpoint {best_checkpoint(folder).name}"
    policy, tokenizer = _sampler(run, device)
    model, pairs = policy.net.policy, _pairs(run, folder, policy, tokenizer)
    learnt, apart = split_pairs(pairs, config.pairs.held_out, config.seed)
    rm = reward_model(model, config.rm, tokenizer, config.seed).to(device)
    replace(memory_of(config), dtype="float32").shard(rm)

    def learn(at: Desk) -> Path:
        return train_reward_model(rm, tokenizer, learnt, apart, config.rm, folder,
                                  seed=config.seed, left=at.left, log=at.log,
                                  progress=lambda epoch, _: at.at(f"epoch {epoch}"))

    def look(row: Row) -> str:
        return (f"held-out pairs {row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}] of "
                f"{row['pairs']}, calibration error {row['calibration_error']:.3f}")

    def said(found: Path) -> str:
        row = next(row for row in read_history(folder / "history.jsonl")
                   if found.name.endswith(f"-{row['step']:06d}"))
        return f"reward model: {len(learnt):,} pairs learnt, {look(row)}, checkpoint {found.name}"

    # also when the time is up: the reward model must not change under a policy that learns from it
    return Work("reward model", learn, look, said, ended=lambda found: True)


def _pairs(run: TextRun, folder: Path, policy: TextPolicy, tokenizer: Any) -> list[Pair]:
    """The run's pairs, made or read once, in a stage's ``folder``."""
    path, config = folder / "pairs.jsonl", run.config.pairs
    if ranks.here().first(path.exists()):
        return in_the_way_of(run.task, read_pairs(path))
    if config.file:
        pairs, left_out = not_held_out(read_pairs(Path(config.file)), run.task, Path(config.file))
        say(f"pairs: {len(pairs):,} of {config.file}, {left_out:,} left out as their prompts are "
            "held-out questions")
    else:
        say(f"pairs: the SFT policy answers until {config.count:,} pairs of answers differ")
        writes = policy.generator or TorchGenerator(policy.net.policy, policy.ends, policy.pad,
                                                    tokenizer)
        with Bar("pairs", config.count, "pairs") as bar:
            counted = Counted(writes)
            made = make_pairs(
                replace(policy, generator=counted), tokenizer, run.task, gold_for(run), config,
                run.config.seed, lambda pairs: bar.at(pairs, f"{pairs:,} pairs, {counted.said()}"))
        pairs = made.pairs
        say(f"pairs: {len(pairs):,} of {made.draws:,} made differ in their true reward, "
            f"{made.flipped:,} labels turned round")
    write_atomic(path, to_lines(pairs))
    return in_the_way_of(run.task, pairs)


def gold_for(run: TextRun) -> Judge:
    """The true reward: the settings' weights, where functions of the user's own judge with what
    they give in the place of accuracy."""
    weights = run.config.gold.weights()
    if run.task.judge is not None and "accuracy" in weights:
        weights["earned"] = weights.pop("accuracy")
    return gold_of(weights)


def learn_unbound(run: TextRun, clock: Clock, device: str) -> Work | str:
    """RLHF without a KL weight and a budget, to see where the true reward turns."""
    config = replace(run.config.rlhf, kl_weight=0.0, kl_budget=0.0, adapt=False)
    return _learn_proxy(run, clock, device, "free", config)


def learn_rlhf(run: TextRun, clock: Clock, device: str) -> Work | str:
    """RLHF with the KL weight and the budget of the settings."""
    return _learn_proxy(run, clock, device, "rlhf", run.config.rlhf)


def _learn_proxy(
    run: TextRun, clock: Clock, device: str, name: str, config: RLHFConfig
) -> Work | str:
    """RLHF of the SFT model in folder ``name``."""
    folder = run.folder / name
    if name in clock.done:
        return f"{name}: finished, {_best_text(folder)}"
    init, memory = best_checkpoint(run.folder / "sft"), memory_of(run.config)
    proxy, _ = load_reward_model(best_checkpoint(run.folder / "rm"))
    replace(memory, dtype="float32").shard(proxy.to(device))
    goal = proxy_task(run.task, proxy, load_tokenizer(init)[0], gold_for(run), config.cut_penalty)
    learner, kept = open_rlhf_learner(
        goal, init, folder, config, sampling=sampling_of(run.config), seed=run.config.seed,
        device=device, markers=run.config.rl.markers, engine=engine_for(run, device),
        memory=memory)
    best_of = run.folder / "rm" / "best_of_n.json"
    if config.best_of and not ranks.here().first(best_of.exists()):
        # without learning: what RLHF has to beat
        write_json(best_of, best_of_n(learner.look(config.best_of, learner.reference)))

    def learn(at: Desk) -> None:
        at.steps = config.steps

        def log(row: Row) -> None:
            at.log(row)
            at.made(row["step"], at.steps)
            speed = (f", {speed_said(row['tokens'], row['generate_seconds'])}"
                     if "tokens" in row else "")  # not before the first step
            at.at(f"step {row['step']}{speed}")

        at.step(learner.step)
        train_learner(learner, kept, left=at.left, log=log, show=at.show)

    def said(found: None) -> str:
        draw_picture(run.folder, run.config.rlhf, run.config.task)
        return f"{name}: {_best_text(folder)}\n{_turn_text(learner.history)}"

    return Work(
        name, learn, said=said, ended=lambda found: checkpoint.note(folder)["ended"] != "time",
        look=lambda row: (f"proxy {row['proxy']:.2f}, true {row['gold']:.3f}, "
                          f"{row['kl']:.2f} nats"))


def _best_text(folder: Path) -> str:
    note = checkpoint.note(folder)
    return (f"ended by {note['ended']}; best true reward {note['gold']:.3f} "
            f"[{note['gold_low']:.3f}, {note['gold_high']:.3f}] at {note['kl']:.2f} nats, "
            f"{note['checkpoint']}")


def _turn_text(rows: Sequence[Row]) -> str:
    found = turn(rows)
    return (f"true reward {rows[0]['gold']:.3f} at first, {found['gold']:.3f} at its best, "
            f"{rows[-1]['gold']:.3f} at last (lost {found['loss']:.3f} "
            f"[{found['loss_low']:.3f}, {found['loss_high']:.3f}]) while the proxy went from "
            f"{rows[0]['proxy']:.2f} to {rows[-1]['proxy']:.2f}")


def draw_picture(folder: Path, config: RLHFConfig, title: str) -> None:
    """Draw ``PICTURE`` of what there is in a run's ``folder``."""
    name = f"{config.algorithm}, KL weight {config.kl_weight:g}"
    names = {"free": f"{config.algorithm}, not held back",
             "rlhf": name + (f", {config.kl_budget:g} nats at most" if config.kl_budget else "")}
    curves: dict[str, Sequence[Row]] = {
        text: rows for stage, text in names.items()
        if (rows := read_history(folder / stage / "history.jsonl"))}
    best_of = folder / "rm" / "best_of_n.json"
    write_atomic(folder / PICTURE, draw_overoptimisation(
        curves, f"Proxy against true reward\n{title[:80]}", budget=config.kl_budget,
        best_of=read_figure_rows(best_of, CLIMBED) if best_of.exists() else []))
