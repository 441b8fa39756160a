"""The stages of a language-model run: each works within its share of the time, from what the folder
holds, and leaves checkpoints in a folder of its name.

sft       demonstrations, learnt by the model that the run begins with
base      texts in which most answers are guesses, read by the embedded model: its pretraining
rl, rl2   reinforcement learning of an earlier stage's model
own       a policy's own right answers, learnt by the SFT model (rejection sampling)
student   the same answers, learnt by a smaller model from nothing (distillation)
dpo       the SFT model, learning from preference pairs without RL: pairs.jsonl
rm        a reward model, learnt from preference pairs: pairs.jsonl, best_of_n.json
free      RL against the reward model that nothing holds back
rlhf      the same under the KL weight and the budget; best.json names the best true reward
eval      every stage's model, measured
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from selfplay.common.console import say
from selfplay.common.errors import command
from selfplay.common.files import locked, read_history, write_atomic, write_json
from selfplay.common.settings import to_dict
from selfplay.learn import checkpoint
from selfplay.llm.config import RECIPES, RLHFConfig
from selfplay.llm.embedded import character_tokenizer, small_model
from selfplay.llm.folder import (
    Engine,
    TextRun,
    best_checkpoint,
    fit_to_model,
    lora_of,
    model_of,
    open_learner,
    open_rlhf_learner,
    sampling_of,
    task_of,
    train_learner,
)
from selfplay.llm.memory import Memory
from selfplay.llm.models import end_tokens, load_model, load_tokenizer
from selfplay.llm.overoptimism import best_of_n, turn
from selfplay.llm.policy import Net, TextPolicy, gold_of
from selfplay.llm.preferences.dpo import train_dpo
from selfplay.llm.preferences.pairs import (
    Pair,
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
from selfplay.llm.rewards import Questions
from selfplay.llm.rl import FIRST, RewardedTask
from selfplay.llm.sft import own_answers, train_texts
from selfplay.llm.summary import draw_picture, measure
from selfplay.llm.vllm import engine_of, must_have_vllm
from selfplay.run.clock import Clock
from selfplay.run.keep import Row
from selfplay.run.stage import Desk, NotYet, Stage, Work, run_stages

#: The stages that go on from a stage's model: once one of them has begun, the model stays as it is.
AFTER = {"sft": ("rl", "own", "dpo", "rm", "free", "rlhf"), "base": ("rl",),
         "rl": ("own", "student"), "own": ("rl2",), "rl2": ("student",)}


def run_recipe(run: TextRun, device: str) -> None:
    """Run the stages of the run's recipe.

    Raises UserError before anything is made if another process works on the run, or vLLM was
    asked for and is not there.
    """
    must_have_vllm(run.config.sample, run.config.model)
    run = fit_to_model(run)
    if run.task.note:
        say(run.task.note)
    shares = RECIPES[run.config.recipe]
    with locked(run.folder):
        write_json(run.folder / "config.json", to_dict(run.config))
        run_stages(run, {name: STAGES[name] for name in shares}, Clock(run, shares), device)


def measure_stages(run: TextRun, clock: Clock, device: str) -> None:
    """Measure every stage's model on the held-out questions."""
    measure(run, run.config.eval.samples, device, every=True)
    say(f"ask it: {command('selfplay', 'llm', 'chat', run.folder)}   curves and completions: "
        f"tensorboard --logdir {run.folder / 'tb'}")


def built_on(folder: Path, name: str) -> bool:
    """Whether a later stage of the run in ``folder`` has gone on from that of ``name``."""
    return any(any(folder.glob(f"{later}/ckpt-*")) for later in AFTER.get(name, ()))


def first_model_of(run: TextRun, name: str, stages: Sequence[str]) -> Path:
    """The model of the first of ``stages`` that has one, or the model that the run was given, for
    the stage ``name``. Raises NotYet where there is none."""
    for stage in stages:
        found = model_of(run.folder, stage)
        if found is not None:
            return found
    if run.config.model and "base" in stages:
        return Path(run.config.model)
    raise NotYet(f"{run.folder}: stage {name} has no model to go on from; give it more --minutes")


def _engine_for(run: TextRun, device: str) -> Engine:
    return lambda model, tokenizer: engine_of(model, tokenizer, run.config.sample,
                                              run.config.model, device)


# -------------------------------------------------------------------------------- supervised stages


def start(run: TextRun) -> tuple[Any, Any]:
    """(model, tokenizer) that the run begins with."""
    config, lora = run.config, lora_of(run.config)
    if config.model:
        return load_model(config.model, lora)
    tokenizer = character_tokenizer(run.task.texts())
    return small_model(config.net, tokenizer, config.seed), tokenizer


def learn_demonstrations(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Learn the demonstrations until the held-out curve is flat or the share is used up."""
    return _learn_texts(run, clock, device, "sft", lambda: start(run), lambda: run.task)


def pretrain(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pretrain the embedded model; a model that was given has been pretrained."""
    if run.config.model:
        return f"base: {run.config.model}"
    return _learn_texts(run, clock, device, "base", lambda: start(run),
                        lambda: task_of(run.config, guessed=run.config.data.guessed), on="text")


def learn_own_answers(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach the model of stage sft the right answers of that of stage rl."""
    policy = first_model_of(run, "own", ("rl",))
    return _learn_texts(run, clock, device, "own",
                        lambda: load_model(first_model_of(run, "own", ("sft",))),
                        lambda: own_answers(run, policy, device))


def teach_student(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach a smaller model the right answers of the newest policy."""
    policy = first_model_of(run, "student", ("rl2", "rl"))

    def student() -> tuple[Any, Any]:
        tokenizer = load_tokenizer(policy)[0]
        return small_model(run.config.own.net, tokenizer, run.config.seed), tokenizer

    return _learn_texts(run, clock, device, "student", student,
                        lambda: own_answers(run, policy, device))


def _learn_texts(
    run: TextRun, clock: Clock, device: str, name: str, begin: Callable[[], tuple[Any, Any]],
    task: Callable[[], Questions], on: Literal["", "text"] = "",
) -> Work | str:
    """SFT on ``task`` of the (model, tokenizer) that ``begin`` gives, in folder ``name``. on: what
    of the texts is learnt, if it is not what the settings say."""
    folder, config = run.folder / name, run.config
    sft = replace(config.sft, on=on or config.sft.on)
    if name in clock.done or built_on(run.folder, name):
        return f"{name}: finished, best checkpoint {best_checkpoint(folder).name}"

    def learn(at: Desk) -> str:
        at.steps = sft.max_steps
        found = train_texts(
            *begin(), task(), sft, folder, held_out=config.data.held_out,
            sampling=sampling_of(config), seed=config.seed, device=device, left=at.left,
            log=at.log, progress=at.step)
        return f"best checkpoint {found.name}, {at.latest}"

    def flat(found: Any = None) -> bool:
        return checkpoint.reached_plateau(folder)

    def look(row: Row) -> str:
        return _accuracies(row["greedy"]["accuracy"], row["sampled"]["accuracy"])

    return Work(name, learn, look, ended=flat, first="no look yet", said=lambda found: (
        f"{name}: {'flat' if flat() else 'not flat yet'}, {found}"))


def _accuracies(greedy: float, sampled: float) -> str:
    return f"held-out greedy {greedy:.1%}, sampled {sampled:.1%}"


# --------------------------------------------------------------------------- learning from rewards


def goal_of(run: TextRun) -> RewardedTask:
    """What RL is rewarded for: the verifier's parts, weighed, or what functions of the user's own
    give, and the form."""
    rl = run.config.rl
    own = run.task.judge is not None
    weights = {"earned" if own else "accuracy": 1.0, "format": rl.format_weight}
    if rl.partial_weight and not own:  # a right answer has 1 of it as well
        weights |= {"accuracy": 1.0 - rl.partial_weight, "partial": rl.partial_weight}
    turns = run.config.env.turns if run.config.task.startswith("env:") else 1
    return RewardedTask(run.task, weights={key: value for key, value in weights.items() if value},
                        turns=turns)


def learn_rewards(
    run: TextRun, clock: Clock, device: str, *, name: str, before: Sequence[str], first: int
) -> Work | str:
    """RL of the model of the first of the stages ``before`` that has one, in folder ``name``, on
    prompts from batch ``first`` on."""
    folder, config = run.folder / name, run.config
    newest = checkpoint.newest(folder)
    done = newest is not None and checkpoint.read_meta(newest)["step"] >= config.rl.steps
    if (name in clock.done and done) or built_on(run.folder, name):
        return f"{name}: finished, checkpoint {newest}"
    learner, kept = open_learner(
        goal_of(run), first_model_of(run, name, before), folder, config.rl, config.pg,
        sampling=sampling_of(config), device=device, seed=config.seed, lora=lora_of(config),
        first_batch=first, engine=_engine_for(run, device),
        memory=Memory(**vars(config.memory)))

    def learn(at: Desk) -> str:
        def log(row: Row) -> None:
            at.log(row)
            at.made(row["step"], config.rl.steps)
            spent = row.get("generate_seconds")  # not of a row that was made before an interruption
            speed = f", {row['tokens'] / spent:,.0f} tokens/s" if spent else ""
            at.at(f"step {row['step']:,}  reward {row['reward']:.3f}, {row['length']:.1f} tokens"
                  f"{speed}")

        train_learner(learner, kept, left=at.left, log=log, show=at.show)
        return f"{name}: {learner.step:,} steps, {at.latest}"

    def look(row: Row) -> str:
        if "greedy_accuracy" not in row:
            return ""
        return _accuracies(row["greedy_accuracy"], row["sampled_accuracy"])

    def said(found: str) -> str:
        if learner.history and all(row["no_signal"] >= 1 for row in learner.history):
            remedy = ("ask what the model can answer now and then" if config.recipe == "rl" else
                      "give SFT more time")
            found += (f"\n{name}: in every group all answers were worth the same: nothing to learn "
                      f"from; {remedy}, or raise --set rl.group")
        return found

    return Work(f"{name} by {config.rl.algorithm}", learn, look, said,
                ended=lambda found: learner.step >= config.rl.steps, first="no look yet")


# ----------------------------------------------------------------------- learning from preferences


def _sampler(run: TextRun, device: str) -> tuple[TextPolicy, Any]:
    """(the SFT model as it samples, its tokenizer)."""
    model, tokenizer = load_model(best_checkpoint(run.folder / "sft"))
    return TextPolicy(Net(model).to(device).eval(), end_tokens(model, tokenizer),
                      tokenizer.pad_token_id, sampling_of(run.config),
                      generator=_engine_for(run, device)(model, tokenizer),
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
            device=device, left=at.left, log=at.log, progress=at.step)
        return f"{len(learnt):,} pairs learnt, best checkpoint {found.name}, {at.latest}"

    def look(row: Row) -> str:
        return f"pairs {row['accuracy']:.1%}, " + _accuracies(
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
    if path.exists():
        return read_pairs(path)
    if config.file:
        pairs, left_out = not_held_out(read_pairs(Path(config.file)), run.task, Path(config.file))
        say(f"pairs: {len(pairs):,} of {config.file}, {left_out:,} left out as their prompts are "
            "held-out questions")
    else:
        say(f"pairs: the SFT policy answers until {config.count:,} pairs of answers differ")
        made = make_pairs(policy, tokenizer, run.task, gold_of(run.config.gold.weights()), config,
                          run.config.seed)
        pairs = made.pairs
        say(f"pairs: {len(pairs):,} of {made.draws:,} made differ in their true reward, "
            f"{made.flipped:,} labels turned round")
    write_atomic(path, to_lines(pairs))
    return pairs


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
    init = best_checkpoint(run.folder / "sft")
    proxy, _ = load_reward_model(best_checkpoint(run.folder / "rm"))
    goal = proxy_task(run.task, proxy.to(device), load_tokenizer(init)[0],
                     gold_of(run.config.gold.weights()), config.cut_penalty)
    learner, kept = open_rlhf_learner(
        goal, init, folder, config, sampling=sampling_of(run.config), seed=run.config.seed,
        device=device, markers=run.config.rl.markers, engine=_engine_for(run, device))
    best_of = run.folder / "rm" / "best_of_n.json"
    if config.best_of and not best_of.exists():  # without learning: what RLHF has to beat
        write_json(best_of, best_of_n(learner.look(config.best_of, learner.reference)))

    def learn(at: Desk) -> None:
        def log(row: Row) -> None:
            at.log(row)
            at.made(row["step"], config.steps)
            at.at(f"step {row['step']}")

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


STAGES: Mapping[str, Stage] = {
    "sft": learn_demonstrations, "base": pretrain, "own": learn_own_answers,
    "student": teach_student,
    "rl": partial(learn_rewards, name="rl", before=("sft", "base"), first=FIRST),
    # new prompts for the model that has learnt its own answers
    "rl2": partial(learn_rewards, name="rl2", before=("own",), first=FIRST + (FIRST >> 1)),
    "dpo": learn_directly, "rm": learn_preferences, "free": learn_unbound, "rlhf": learn_rlhf,
    "eval": measure_stages,
}
