"""The stages of learning from preferences.

runs/NAME/
    rm/      pairs.jsonl, checkpoints of the reward model, history.jsonl, best_of_n.json
    free/    the climb that nothing holds back (recipe overoptimise alone)
    rlhf/    the climb under the KL weight and budget; best.json marks the best true reward
    overoptimisation.png
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.common.console import say
from selfplay.common.files import read_history, read_json, write_atomic, write_json
from selfplay.learn import checkpoint
from selfplay.llm.config import RLHFConfig
from selfplay.llm.evaluate import best_of_n, turn
from selfplay.llm.folder import PICTURE, TextRun, sampling_of
from selfplay.llm.kept import (
    KeptRLHFLearner,
    best,
    best_checkpoint,
    train_reward_model,
    train_rlhf,
)
from selfplay.llm.models import Net, end_tokens, load
from selfplay.llm.policy import TextPolicy
from selfplay.llm.preferences import (
    Pair,
    gold_of,
    not_held_out,
    read_pairs,
    split,
    synthesise,
    to_lines,
)
from selfplay.llm.reward_model import load_reward_model, reward_model
from selfplay.llm.rlhf import RLHFLearner, RLHFObjective
from selfplay.llm.vllm import engine_of
from selfplay.report.panels import draw_overoptimisation
from selfplay.run.clock import Clock
from selfplay.run.stage import Desk, Work


def rm_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pairs, and a reward model that learns them, until its held-out loss goes up again."""
    folder, config = run.folder / "rm", run.config
    if "rm" in clock.done:
        return f"reward model: finished, best checkpoint {best_checkpoint(folder).name}"
    policy, tokenizer = _policy(run, device)
    train, held = split(_pairs(run, policy, tokenizer), config.pairs.held_out, config.seed)
    model = reward_model(policy.net.policy, config.rm, tokenizer, config.seed).to(device)

    def learn(at: Desk) -> Path:
        return train_reward_model(model, tokenizer, train, held, config.rm, folder,
                                  seed=config.seed, left=at.left, log=at.log,
                                  progress=lambda epoch, _: at.at(f"epoch {epoch}"))

    def said(found: Path) -> str:
        row = next(row for row in read_history(folder / "history.jsonl")
                   if found.name.endswith(f"-{row['step']:06d}"))
        return (f"reward model: {len(train):,} pairs learnt, {_judged(row)}, "
                f"checkpoint {found.name}")

    # were the time up as well: what is climbed must not move
    return Work("reward model", learn, _judged, said, ended=lambda found: True)


def free_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """The climb without a KL weight and without a budget, to see where the truth turns."""
    config = replace(run.config.rlhf, kl_weight=0.0, kl_budget=0.0, adapt=False)
    return _climb(run, clock, device, "free", config)


def rlhf_stage(run: TextRun, clock: Clock, device: str) -> Work | str:
    """The climb as the settings hold it back."""
    return _climb(run, clock, device, "rlhf", run.config.rlhf)


def _climb(
    run: TextRun, clock: Clock, device: str, stage: str, config: RLHFConfig
) -> Work | str:
    folder = run.folder / stage
    if stage in clock.done:
        return f"{stage}: finished, {_best_text(folder)}"
    proxy, _ = load_reward_model(best_checkpoint(run.folder / "rm"))
    aim = RLHFObjective(run.task, proxy.to(device), gold_of(run.config.gold.weights()))
    learner = KeptRLHFLearner(
        aim, best(run.folder / "sft"), folder, config, sampling=sampling_of(run.config),
        seed=run.config.seed, device=device, markers=run.config.rl.markers,
        engine=lambda model, tokenizer: engine_of(
            model, tokenizer, run.config.sample, run.config.model, device))
    _best_of(learner, run.folder / "rm" / "best_of_n.json", config.best_of)

    def learn(at: Desk) -> None:
        def log(row: dict[str, Any]) -> None:
            at.log(row)
            at.at(f"step {row['step']}")

        train_rlhf(learner, left=at.left, log=log, show=at.show)

    def said(found: None) -> str:
        picture(run.folder, run.config.rlhf, run.config.task)
        return f"{stage}: {_best_text(folder)}\n{_turn_text(learner.history)}"

    return Work(
        stage, learn, said=said, ended=lambda found: checkpoint.note(folder)["ended"] != "time",
        look=lambda row: (f"proxy {row['proxy']:.2f}, true {row['gold']:.3f}, "
                          f"{row['kl']:.2f} nats"))


def picture(folder: Path, config: RLHFConfig, title: str) -> None:
    """Draw ``PICTURE`` of what there is in a run's ``folder``."""
    held = f"{config.algorithm}, KL weight {config.kl_weight:g}"
    names = {"free": f"{config.algorithm}, not held back",
             "rlhf": held + (f", {config.kl_budget:g} nats at most" if config.kl_budget else "")}
    climbs = {text: rows for name, text in names.items()
              if (rows := read_history(folder / name / "history.jsonl"))}
    best_of = folder / "rm" / "best_of_n.json"
    write_atomic(folder / PICTURE, draw_overoptimisation(
        climbs, f"Proxy against true reward\n{title[:80]}", budget=config.kl_budget,
        best_of=read_json(best_of) if best_of.exists() else []))


def _pairs(run: TextRun, policy: TextPolicy, tokenizer: Any) -> list[Pair]:
    """The run's pairs, made or read once."""
    path, config = run.folder / "rm" / "pairs.jsonl", run.config.pairs
    if path.exists():
        return read_pairs(path)
    if config.file:
        pairs, dropped = not_held_out(read_pairs(Path(config.file)), run.task, Path(config.file))
        say(f"pairs: {len(pairs):,} of {config.file}, {dropped:,} left out as their prompts are "
            "held-out questions")
    else:
        say(f"pairs: answers of the SFT policy are drawn until {config.count:,} pairs differ")
        made = synthesise(policy, tokenizer, run.task, gold_of(run.config.gold.weights()), config,
                          run.config.seed)
        pairs = made.pairs
        say(f"pairs: {len(pairs):,} of {made.draws:,} drawn differ in their true reward, "
            f"{made.flipped:,} labels turned round")
    write_atomic(path, to_lines(pairs))
    return pairs


def _best_of(learner: RLHFLearner, path: Path, samples: int) -> None:
    """Best-of-n by the proxy, which needs no learning: what RLHF has to beat."""
    if samples and not path.exists():
        write_json(path, best_of_n(learner.look(samples, learner.reference)))


def _policy(run: TextRun, device: str) -> tuple[TextPolicy, Any]:
    model, tokenizer = load(best(run.folder / "sft"))
    engine = engine_of(model, tokenizer, run.config.sample, run.config.model, device)
    return TextPolicy(Net(model).to(device).eval(), end_tokens(model, tokenizer),
                      tokenizer.pad_token_id, sampling_of(run.config),
                      generator=engine), tokenizer


def _judged(row: dict[str, Any]) -> str:
    return (f"held-out pairs {row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}] of "
            f"{row['pairs']}, calibration error {row['calibration_error']:.3f}")


def _best_text(folder: Path) -> str:
    note = checkpoint.note(folder)
    return (f"ended by {note['ended']}; best true reward {note['gold']:.3f} "
            f"[{note['gold_low']:.3f}, {note['gold_high']:.3f}] at {note['kl']:.2f} nats, "
            f"{note['checkpoint']}")


def _turn_text(rows: list[dict[str, Any]]) -> str:
    found = turn(rows)
    return (f"true reward {rows[0]['gold']:.3f} at first, {found['gold']:.3f} at its best, "
            f"{rows[-1]['gold']:.3f} at last (lost {found['loss']:.3f} "
            f"[{found['loss_low']:.3f}, {found['loss_high']:.3f}]) while the proxy went from "
            f"{rows[0]['proxy']:.2f} to {rows[-1]['proxy']:.2f}")
