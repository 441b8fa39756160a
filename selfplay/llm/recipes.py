"""The stages of a language-model run: each works within its share of the time, from what the folder
holds, and leaves checkpoints in a folder of its name.

sft       demonstrations, learnt by the model that the run begins with
base      texts of one task or several, read by the embedded model: its pretraining
rl, rl2   reinforcement learning of an earlier stage's model
own       a policy's own right answers, learnt by the SFT model (rejection sampling)
student   the same answers, or those of another run's policy (own.of), learnt by a smaller model
          from nothing (distillation)
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

from selfplay.common import ranks
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.files import locked, write_json
from selfplay.common.history import read_history
from selfplay.common.settings import to_dict
from selfplay.common.words import command, counted
from selfplay.learn import checkpoint
from selfplay.llm.config import stages_of
from selfplay.llm.embedded import (
    character_tokenizer,
    number_tokenizer,
    piece_tokenizer,
    small_model,
    word_tokenizer,
)
from selfplay.llm.engines.choose import must_have_engine
from selfplay.llm.envs.episodes import Episodes
from selfplay.llm.evaluate import accuracies_said, speed_said
from selfplay.llm.folder import (
    TextRun,
    best_checkpoint,
    engine_for,
    fit_to_model,
    lora_of,
    memory_of,
    model_of,
    open_learner,
    sampling_of,
    train_learner,
)
from selfplay.llm.models import load_model, load_tokenizer
from selfplay.llm.play.learner import GameLearner
from selfplay.llm.play.lessons import GameTask
from selfplay.llm.play.words import DRAWN, Notation
from selfplay.llm.preferences.reward_model import by_reward
from selfplay.llm.preferences.stages import (
    learn_directly,
    learn_preferences,
    learn_rlhf,
    learn_unbound,
)
from selfplay.llm.rewards import Questions
from selfplay.llm.rl import FIRST, RewardedTask, TextLearner
from selfplay.llm.sft import train_texts
from selfplay.llm.stage_config import PREFIX
from selfplay.llm.summary import measure, step_of
from selfplay.llm.tasks.corpus import GAMES_SHARE, Corpus, other_task
from selfplay.llm.teach.answers import must_read, must_teach, own_answers, policy_of
from selfplay.run.clock import Clock
from selfplay.run.keep import Row
from selfplay.run.stage import Desk, NotYet, Stage, Work, run_stages

#: The stages that go on from a stage's model: once one of them has begun, the model stays as it is.
AFTER = {"sft": ("rl", "own", "dpo", "rm", "free", "rlhf"), "base": ("sft", "rl"),
         "rl": ("own", "student"), "own": ("rl2",), "rl2": ("student",)}


def run_recipe(run: TextRun, device: str) -> None:
    """Run the stages of the run's recipe.

    Raises UserError before anything is made if another process works on the run, or an engine was
    asked for that is not there.
    """
    must_have_engine(run.config.sample, run.config.model)
    _must_be_shardable(run)
    run = fit_to_model(run)
    if run.task.note:
        say(run.task.note)
    if run.config.own.of:
        must_teach(run)
    if run.config.eval.rm:  # rather a mistake found now than after RL
        _must_rate(run)
    shares = stages_of(run.config)
    ranks.here().meet()  # all have opened it as it was
    with locked(run.folder):
        write_json(run.folder / "config.json", to_dict(run.config))
        if isinstance(run.task, GameTask):
            run.task.make(GAMES_SHARE * 60 * run.config.minutes)
        run_stages(run, {name: STAGES[name] for name in shares}, Clock(run, shares), device)


def _must_rate(run: TextRun) -> None:
    """Raises UserError where ``eval.rm`` has no reward model that can read the run's answers."""
    named = f"eval.rm={run.config.eval.rm}"
    if isinstance(run.task, GameTask):
        raise UserError(f"{named}: rates answers to questions, not moves; leave it out with --game")
    rm = by_reward(run.folder, run.config)
    if rm is not None:
        must_read(run, rm.tokenizer, named)


def _must_be_shardable(run: TextRun) -> None:
    """Raises UserError for several processes where one does all the work."""
    config = run.config
    if ranks.here().size == 1:
        return
    alone = {f"--env {config.task[4:]}": config.task.startswith("env:"),
             config.task: isinstance(run.task, GameTask),
             "data.corpus with a game": any(name.startswith(PREFIX) for name in config.data.corpus),
             f"sample.engine={config.sample.engine}": (
                 config.sample.engine not in ("auto", "torch") or config.sample.max_staleness > 0)}
    for what, is_alone in alone.items():
        if is_alone:
            raise UserError(f"{what}: is the work of one process; start it without torchrun")


def measure_stages(run: TextRun, clock: Clock, device: str) -> None:
    """Measure every stage's model on the held-out questions."""
    measure(run, run.config.eval.samples, device, every=True)
    words = ("--model", run.folder) if isinstance(run.task, Episodes) else (run.folder,)
    say(f"ask it: {command('selfplay', 'llm', 'chat', *words)}   curves and completions: "
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


# -------------------------------------------------------------------------------- supervised stages


def start(run: TextRun) -> tuple[Any, Any]:
    """(model, tokenizer) that the run begins with."""
    config, lora = run.config, lora_of(run.config)
    if config.model:
        return load_model(config.model, lora)
    tokenizer = _new_tokenizer(run)
    return small_model(config.net, tokenizer, config.seed), tokenizer


def _new_tokenizer(run: TextRun) -> Any:
    """A new tokenizer, for the embedded model."""
    data, task = run.config.data, run.task
    if not (data.pieces or data.corpus) and isinstance(task, GameTask) and (
            task.game.board_style in DRAWN):
        return word_tokenizer(Notation(task.game).words())
    texts = [*task.texts(), *(corpus_of(run).texts() if data.corpus else [])]
    if data.pieces:
        return piece_tokenizer(texts, data.pieces)
    return number_tokenizer(texts) if data.numbers else character_tokenizer(texts)


def corpus_of(run: TextRun) -> Corpus:
    """What pretraining reads."""
    config = run.config
    tasks = [other_task(config, name, run.folder, config.data.guessed)
             for name in config.data.corpus or (config.task,)]
    return Corpus(tasks, config.seed)


def learn_demonstrations(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Learn the demonstrations until the held-out curve is flat or the share is used up."""
    pretrained = "base" in stages_of(run.config) and not run.config.model

    def begin() -> tuple[Any, Any]:
        return load_model(first_model_of(run, "sft", ("base",))) if pretrained else start(run)

    return _learn_texts(run, clock, device, "sft", begin, lambda at: run.task)


def pretrain(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Pretrain the embedded model; a model that was given has been pretrained."""
    if run.config.model:
        return f"base: {run.config.model}"
    return _learn_texts(run, clock, device, "base", lambda: start(run),
                        lambda at: corpus_of(run), on="text")


def learn_own_answers(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach the model of stage sft the right answers of that of stage rl."""
    policy = first_model_of(run, "own", ("rl",))
    return _learn_texts(run, clock, device, "own",
                        lambda: load_model(first_model_of(run, "own", ("sft",))),
                        lambda at: own_answers(run, policy, device, at.at))


def teach_student(run: TextRun, clock: Clock, device: str) -> Work | str:
    """Teach a smaller model the right answers of the newest policy, or of that of own.of."""
    policy = policy_of(run) if run.config.own.of else first_model_of(run, "student", ("rl2", "rl"))

    def student() -> tuple[Any, Any]:
        tokenizer = load_tokenizer(policy)[0]
        return small_model(run.config.own.net, tokenizer, run.config.seed), tokenizer

    return _learn_texts(run, clock, device, "student", student,
                        lambda at: own_answers(run, policy, device, at.at))


def _learn_texts(
    run: TextRun, clock: Clock, device: str, name: str, begin: Callable[[], tuple[Any, Any]],
    task: Callable[[Desk], Questions], on: Literal["", "text"] = "",
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
            *begin(), task(at), sft, folder, held_out=config.data.held_out,
            sampling=sampling_of(config), seed=config.seed, device=device,
            memory=replace(memory_of(config), dtype="float32"),
            left=at.left, log=at.log, progress=at.step)
        best = step_of(found.name)
        row = next((row for row in read_history(folder / "history.jsonl") if row["step"] == best),
                   None)
        return f"best checkpoint {found.name}" + (f", {look(row)}" if row else "")

    def flat(found: Any = None) -> bool:
        return checkpoint.reached_plateau(folder)

    def look(row: Row) -> str:
        return accuracies_said(row["greedy"]["accuracy"], row["sampled"]["accuracy"])

    return Work(name, learn, lambda row: f"last look: {look(row)}", ended=flat,
                first="no look yet", said=lambda found: (
        f"{name}: {'flat' if flat() else 'not flat yet'}, {found}"))


# --------------------------------------------------------------------------- learning from rewards


def goal_of(run: TextRun) -> RewardedTask:
    """What RL is rewarded for: the verifier's parts, weighed, or what functions of the user's own
    give, and the form."""
    if isinstance(run.task, GameTask):
        return RewardedTask(run.task)  # what games earn
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
    learner_of: Callable[..., TextLearner] = TextLearner
    if isinstance(run.task, GameTask):
        learner_of = partial(GameLearner, game=run.task.game, play=config.play, pool=config.pool,
                             folder=folder)
    learner, kept = open_learner(
        goal_of(run), first_model_of(run, name, before), folder, config.rl, config.pg,
        sampling=sampling_of(config), device=device, seed=config.seed, lora=lora_of(config),
        first_batch=first, engine=engine_for(run, device), memory=memory_of(config),
        staleness=config.sample.max_staleness, learner_of=learner_of)

    def learn(at: Desk) -> str:
        at.steps = config.rl.steps

        def log(row: Row) -> None:
            at.log(row)
            at.made(row["step"], at.steps)
            spent = row.get("generate_seconds")  # not of a row that was made before an interruption
            speed = f", {speed_said(row['tokens'], spent)}" if spent else ""
            at.at(f"step {row['step']:,}  reward {row['reward']:.3f}, {row['length']:.1f} tokens"
                  f"{speed}")

        at.step(learner.step)
        train_learner(learner, kept, left=at.left, log=log, show=at.show)
        return f"{name}: {counted(learner.step, 'step')}, {at.latest}"

    def look(row: Row) -> str:
        if "greedy_accuracy" not in row:
            return ""
        return accuracies_said(row["greedy_accuracy"], row["sampled_accuracy"])

    def said(found: str) -> str:
        if learner.history and all(row["no_signal"] >= 1 for row in learner.history):
            remedy = ("ask what the model can answer now and then" if config.recipe == "rl" else
                      "give SFT more time")
            found += (f"\n{name}: in every group all answers were worth the same: nothing to learn "
                      f"from; {remedy}, or raise --set rl.group")
        return found

    return Work(f"{name} by {config.rl.algorithm}", learn, look, said,
                ended=lambda found: learner.step >= config.rl.steps, first="no look yet")


STAGES: Mapping[str, Stage] = {
    "sft": learn_demonstrations, "base": pretrain, "own": learn_own_answers,
    "student": teach_student,
    "rl": partial(learn_rewards, name="rl", before=("sft", "base"), first=FIRST),
    # new prompts for the model that has learnt its own answers
    "rl2": partial(learn_rewards, name="rl2", before=("own",), first=FIRST + (FIRST >> 1)),
    "dpo": learn_directly, "rm": learn_preferences, "free": learn_unbound, "rlhf": learn_rlhf,
    "eval": measure_stages,
}
