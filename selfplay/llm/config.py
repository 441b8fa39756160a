"""Every setting of a language-model run: frozen dataclasses, one for each stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from selfplay.common import settings
from selfplay.common.errors import UserError
from selfplay.common.limits import Amount, Count, Limit, Part, Plies, Positive, Seed, Share, Whole
from selfplay.common.settings import replace_key, set_key
from selfplay.learn.config import ALGORITHMS, PastSelves, PGConfig, algorithm
from selfplay.learn.plateau_config import PlateauConfig
from selfplay.llm.preferences.config import DPOConfig, PairConfig, RewardConfig, RLHFConfig


@dataclass(frozen=True)
class GoldConfig:
    """The true reward: weights of the verifier's parts (``rewards.reward``)."""

    accuracy: Amount = 1.0  #: weight of a right answer; of what reward functions give, with those
    partial: Amount = 0.0  #: weight of an answer that is nearly right
    format: Amount = 0.0  #: weight of a completion in the form asked for
    length_cost: Amount = 0.0  #: taken off for each character

    def weights(self) -> dict[str, float]:
        """Part -> weight, without the parts of weight 0."""
        parts = {"accuracy": self.accuracy, "partial": self.partial, "format": self.format,
                 "length": -self.length_cost}
        return {part: weight for part, weight in parts.items() if weight}


Recipe = Literal["sft", "rl", "grpo", "ppo", "three-stages", "r1-zero", "r1", "distill", "dpo",
                 "rlhf", "overoptimise"]
#: recipe -> its stages in order and the share of the minutes that each has. A stage's folder has
#: its name; what the stages do is in ``recipes``.
RECIPES: dict[Recipe, dict[str, float]] = {
    "sft": {"sft": 0.9, "eval": 0.1},
    "rl": {"rl": 0.95, "eval": 0.05},
    "grpo": {"sft": 0.35, "rl": 0.6, "eval": 0.05},
    "ppo": {"sft": 0.35, "rl": 0.6, "eval": 0.05},
    "three-stages": {"base": 0.4, "sft": 0.15, "rl": 0.4, "eval": 0.05},
    "r1-zero": {"base": 0.35, "rl": 0.6, "eval": 0.05},
    "r1": {"sft": 0.2, "rl": 0.3, "own": 0.15, "rl2": 0.3, "eval": 0.05},
    "distill": {"sft": 0.25, "rl": 0.4, "student": 0.3, "eval": 0.05},
    "dpo": {"sft": 0.35, "dpo": 0.6, "eval": 0.05},
    "rlhf": {"sft": 0.35, "rm": 0.2, "rlhf": 0.4, "eval": 0.05},
    "overoptimise": {"sft": 0.3, "rm": 0.2, "free": 0.25, "rlhf": 0.2, "eval": 0.05},
}
AGAINST_A_MODEL = ("rlhf", "overoptimise")  #: recipes whose RL is that of settings rlhf
ELSEWHERE = ("vllm-server",)  #: engines in other processes, which answer while a run learns
RATE = 1e-3  #: learning rate of policy gradients, for the embedded model
#: What differs for texts, by algorithm: an update of these is many optimizer steps.
BY_ALGORITHM: dict[str, dict[str, Any]] = {
    name: {"learning_rate": 2e-4} for name in ("ppo", "dapo", "cispo")}
DYNAMIC = ("dapo", "cispo")  #: ask other prompts in place of those without a signal

#: Learning rates for a model that was given and has learnt before, where all its weights learn.
GIVEN = {"sft.learning_rate": 1e-5, "pg.learning_rate": 1e-6, "rlhf.learning_rate": 1e-6,
         "rm.learning_rate": 1e-5, "dpo.learning_rate": 1e-6}
ADAPTERS = 10.0  #: times that rate for adapters (Schulman et al. 2025, LoRA Without Regret)


@dataclass(frozen=True)
class TaskConfig:
    """How the task asks, and what its demonstrations are like."""

    style: str = "auto"
    #: short (tersely, for models that learn characters), marked, answer, boxed, number, plain (in
    #: words; the format of the completion); auto: short for the embedded model where the task can,
    #: what a task of one's own names, else answer
    instruction: str = ""  #: put behind each question in place of the style's own words
    find: str = ""  #: a regular expression or path.py:NAME that finds a completion's answer
    system: str = ""  #: a system prompt before each question
    template: tuple[str, ...] = ()  #: key=value for the chat template: enable_thinking=false
    prompt: str = ""  #: the column with the question [prompt, question or the like]
    answer: str = ""  #: the column with the answer [answer, target or the like]
    demonstration: str = ""  #: the column with the way there [demonstration or the like]
    answer_in: str = ""
    #: where in its column the answer stands: a style (marked for GSM8K), a regular expression or
    #: path.py:NAME; what comes before it is the demonstration. Empty: the column is the answer
    checker: str = "exact"  #: exact, number, of rows that name none
    test: str = ""  #: held-out questions: a file, or a split of the data set; empty: a tenth
    wrong: Share = 0.0  #: share of the demonstrations' steps that are wrong
    slips: Literal["any", "carry"] = "any"
    #: where they are wrong: anywhere, or where a ten is carried (chain_sum), which at a share above
    #: one half makes the likeliest step the wrong one
    guessed: Share = 0.7
    #: what pretraining reads: share of the texts that guess an answer instead of working it out
    corpus: tuple[str, ...] = ()
    #: tasks whose texts pretraining reads, as many of each; a task may be game:NAME. Empty: the
    #: run's own task
    pieces: Whole = 0
    #: the embedded model's tokenizer: so many pieces of words that fit its texts (byte-pair
    #: encoding: Sennrich et al. 2016, arXiv:1508.07909); 0: characters, of games cells and moves
    held_out: Count = 512  #: questions held out for measuring, at most


MOST = 1e6  #: size of a reward
Earned = Annotated[float, Limit(lambda value: abs(value) <= MOST, "at most 1e6 in size")]


@dataclass(frozen=True)
class JudgeConfig:
    """Reward functions of one's own, in processes of their own."""

    functions: tuple[str, ...] = ()  #: path.py:NAME of each, beside those of the task
    weights: tuple[str, ...] = ()  #: NAME=WEIGHT of parts; of one that is not named it is 1
    seconds: Positive = 10.0  #: that a call may take
    workers: Count = 2  #: processes, each with a share of the completions
    failed: Earned = 0.0
    #: reward of a completion that a function failed to judge
    most_failed: Share = 0.5  #: share of a batch that may fail; above it the run stops


@dataclass(frozen=True)
class EnvConfig:
    """Conversations with an environment of one's own."""

    turns: Count = 8  #: of the model in a conversation, at most
    tokens: Count = 1024  #: of a conversation behind its first messages, at most
    seconds: Positive = 10.0  #: that the environment may take for an answer
    workers: Count = 2  #: processes, each with a share of the conversations
    failed: Earned = 0.0  #: reward of a conversation in which the environment failed
    most_failed: Share = 0.5  #: share of a batch that may fail; above it the run stops


PREFIX = "game:"  #: of a task that is a game
SELF = "self"  #: the opponent that is the pool of past selves


@dataclass(frozen=True)
class PlayConfig:
    """A board game played in text (--game)."""

    expert: str = "mcts:100"  #: the player whose games against itself SFT learns; any player
    games: Count = 2000  #: games of the expert, made when the run starts
    files: tuple[str, ...] = ()  #: records of games to learn in place of those: files or folders
    opening: Plies = (0, 6)  #: fewest and most random plies before a game, the expert's and RL's
    symmetries: bool = True  #: learn each game turned and mirrored as well, as the board allows
    thought: Literal["none", "line"] = "none"
    #: what is written before a move: nothing, or the line that a search expects, and how it ends
    sims: Count = 200  #: simulations of the search whose line is written
    plies: Count = 4  #: moves of a line, at most
    opponents: tuple[str, ...] = (SELF,)
    #: whom RL plays, each in an equal share of the games: self (past selves, by the settings of
    #: pool), random, mcts:1000, net:RUN, any player (--opponent)
    rival: str = "mcts:100"  #: the player against whom games are played at every look
    looked_at: Whole = 50  #: games against it, without draws of its own moves; 0: none


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021); rank 0 trains all weights."""

    rank: Whole = 0  #: of the adapters; 0 trains all weights
    alpha: Amount = 32.0  #: they are scaled by this over their rank
    dropout: Share = 0.0  #: share of their inputs left out in training


@dataclass(frozen=True)
class SampleConfig:
    """How completions are sampled."""

    temperature: Amount = 1.0  #: of the softmax; 0 takes the best token
    top_p: Part = 1.0  #: sample from the likeliest tokens that hold this share of the probability
    max_new_tokens: Count = 64  #: of a completion, which is cut off there
    stop: tuple[str, ...] = ()  #: texts that end a completion, and belong to it; \n is a line's end
    engine: Literal["auto", "torch", "vllm", "vllm-server"] = "auto"
    #: what writes completions at evaluations, in RL and for own answers: auto is vLLM where it is
    #: installed, the run is on a GPU and the model was given with --model, else torch; vllm-server
    #: is a server of vLLM's at url
    memory: Part = 0.3  #: share of the GPU that vLLM takes for itself, beside the training
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"  #: arithmetic of vLLM
    url: str = ""  #: http://HOST:PORT of engine=vllm-server
    max_staleness: Whole = 0
    #: steps of learning that may lie between the weights that answer and those that learn from it,
    #: while both work at once; 0: they take turns. Wants an engine elsewhere


@dataclass(frozen=True)
class TextSFTConfig(PlateauConfig):
    """Supervised learning on demonstrations."""

    batch_size: Count = 64  #: demonstrations a step
    part_tokens: Whole = 0
    #: of a part of a batch, about; 0: all at once. The update is the same
    evaluate_every: Count = 100  #: steps between two looks at the held-out questions
    warmup: Whole = 50  #: steps over which the rate rises from 0
    grad_clip: Positive = 1.0  #: largest norm of the gradient
    on: Literal["completion", "text"] = "completion"  #: tokens learnt; text: the question as well
    looked_at: Count = 256  #: held-out questions answered at a look
    keep: Count = 8  #: checkpoints kept


@dataclass(frozen=True)
class TextRLConfig:
    """What a step asks, and when a run is measured; how it learns is in PGConfig."""

    algorithm: Literal["reinforce", "rloo", "ppo", "grpo", "dr_grpo", "dapo", "gspo", "cispo",
                       "maxrl"] = "grpo"
    #: chosen by --algo, which sets pg accordingly
    prompts: Count = 32  #: prompts a step
    group: Count = 16  #: completions a prompt
    steps: Count = 100_000  #: steps at most
    format_weight: Amount = 0.0  #: weight in the reward of a completion in the form asked for
    partial_weight: Amount = 0.0  #: weight of what is nearly right; of what is right it is 1
    no_signal: Literal["keep", "drop", "resample"] = "keep"
    #: groups whose answers all have the same reward: kept; left out; left out and other prompts
    #: asked until there are enough (DAPO's dynamic sampling: Yu et al. 2025, arXiv:2503.14476,
    #: sec. 3.2)
    draws: Count = 4  #: batches of prompts asked in a step at most, when resampling
    evaluate_every: Count = 20  #: steps between two looks at the held-out prompts
    evaluate_prompts: Count = 256  #: held-out prompts looked at
    watch_kl: bool = True
    #: at a look, measure the divergence from the first model, which is read from disk for it;
    #: with a KL weight it is known at every step
    checkpoint_every: Count = 20  #: steps between checkpoints on disk
    keep: Count = 3  #: checkpoints kept
    shown: Whole = 4  #: completions written down at a look
    markers: tuple[str, ...] = ("wait", "check", "again", "verify", "mistake")
    #: words that are counted in completions, as signs of reflection; they earn no reward


@dataclass(frozen=True)
class OwnAnswersConfig:
    """Learning from a policy's own right answers."""

    questions: Count = 2000  #: training questions asked
    samples: Count = 4  #: answers to each
    net: str = "2x64"  #: layers x width of the student, in recipe distill


Counts = Annotated[tuple[Count, ...], Limit(lambda counts: len(counts) > 0, "at least one")]


@dataclass(frozen=True)
class TextEvalConfig:
    """What is measured at the end."""

    samples: Counts = (1, 2, 4, 8, 16)  #: k of pass@k and of the majority of k


@dataclass(frozen=True)
class MemoryConfig:
    """How a model that was given with --model is held while it learns."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    #: of matrix products and of weights that do not learn; those that learn stay in float32
    checkpointing: bool = False
    #: compute a layer again for the gradient in place of keeping what is in it (Chen et al. 2016,
    #: arXiv:1604.06174): less memory, a third more work


@dataclass(frozen=True)
class TextConfig:
    """A whole run; written to ``config.json`` of its folder at the start."""

    task: str  #: a data set of reasoning-gym with its parameters, or a file of questions
    recipe: Recipe = "sft"  #: which stages there are, and what they learn from
    seed: Seed = 0  #: of all random numbers
    minutes: Positive = 30.0  #: time to spend on all stages together
    model: str = ""  #: folder or hub id to start from; empty: the embedded model, from nothing
    net: str = "3x96"  #: layers x width of the embedded model
    device: str = "auto"  #: where it runs: auto, cpu or cuda
    shard: Literal["none", "fsdp"] = "none"
    #: fsdp: each of the processes that torchrun has started holds a part of the weights
    log: tuple[str, ...] = ()  #: loggers beside TensorBoard: wandb, mlflow, trackio, path.py:NAME
    data: TaskConfig = field(default_factory=TaskConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    sft: TextSFTConfig = field(default_factory=TextSFTConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    rl: TextRLConfig = field(default_factory=TextRLConfig)
    pg: PGConfig = field(default_factory=lambda: of_algorithm("grpo"))
    own: OwnAnswersConfig = field(default_factory=OwnAnswersConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    rm: RewardConfig = field(default_factory=RewardConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    rlhf: RLHFConfig = field(default_factory=RLHFConfig)
    eval: TextEvalConfig = field(default_factory=TextEvalConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
    pool: PastSelves = field(default_factory=PastSelves)


def of_algorithm(name: str) -> PGConfig:
    """The settings for texts of an algorithm. Raises KeyError for an unknown name."""
    return algorithm(name, **{"learning_rate": RATE, **BY_ALGORITHM.get(name, {})})


def with_algorithm(config: TextConfig, name: str) -> TextConfig:
    """``config`` with the algorithm ``name`` and, where that is a change, its default settings."""
    if config.recipe in AGAINST_A_MODEL:
        return set_key(config, "rlhf.algorithm", name)
    if name == config.rl.algorithm:
        return config
    if name in ALGORITHMS:
        plain = TextRLConfig.no_signal
        config = replace(config, pg=of_algorithm(name), rl=replace(
            config.rl, no_signal="resample" if name in DYNAMIC else plain))
        if config.model:
            config = with_rate(config, "pg.learning_rate", config.lora.rank > 0)
    return set_key(config, "rl.algorithm", name)


def with_model(config: TextConfig, adapters: bool) -> TextConfig:
    """``config`` with learning rates for a model that was given. adapters: only these learn, except
    in a reward model, where all weights do."""
    for key in GIVEN:
        config = with_rate(config, key, adapters)
    return config


def with_rate(config: TextConfig, key: str, adapters: bool) -> TextConfig:
    """``config`` with the learning rate ``key`` for a model that was given."""
    more = ADAPTERS if adapters and key != "rm.learning_rate" else 1.0
    return replace_key(config, key, GIVEN[key] * more)


def with_recipe(config: TextConfig, name: str) -> TextConfig:
    """``config`` with the recipe ``name`` and, where that is a change, its algorithm."""
    if name == config.recipe:
        return config
    config = set_key(config, "recipe", name)
    if name in AGAINST_A_MODEL:
        return config
    return with_algorithm(config, "ppo" if name == "ppo" else "grpo")


def with_engine(config: TextConfig, name: str) -> TextConfig:
    """``config`` with the engine ``name``; what one elsewhere writes is corrected for."""
    config = set_key(config, "sample.engine", name, text=True)
    return replace_key(config, "pg.mismatch", "truncate") if name in ELSEWHERE else config


def new_settings(config: TextConfig, assignments: Sequence[str]) -> TextConfig:
    """A new run's settings: ``override``, after the settings that its algorithm and model bring."""
    whole = override(config, assignments)
    if whole.model:
        config = with_recipe(config, whole.recipe)
        if config.recipe not in AGAINST_A_MODEL:
            config = with_algorithm(config, whole.rl.algorithm)
        config = with_model(config, whole.lora.rank > 0)
    return override(config, assignments)


def must_not_contradict(config: TextConfig) -> None:
    """Raises UserError for settings that contradict each other or would do nothing."""
    if config.recipe == "ppo" and config.rl.algorithm != "ppo":
        raise UserError(f"--recipe ppo: it learns by ppo, not by {config.rl.algorithm}; take "
                        "--recipe grpo")
    if config.lora.rank and not config.model:
        raise UserError("lora.rank: adapters need a model that has learnt; give --model")
    if config.memory != MemoryConfig() and not config.model:
        raise UserError("memory.dtype, memory.checkpointing: for a large model that is given with "
                        "--model; the embedded one needs neither")
    if config.shard == "fsdp" and config.recipe in ("dpo", *AGAINST_A_MODEL):
        raise UserError(f"shard=fsdp: not for --recipe {config.recipe}, whose reward model one "
                        "process holds; leave it out")
    if config.recipe == "rl" and not config.model:
        raise UserError("--recipe rl: it begins with a model that has learnt; give --model, or "
                        "take --recipe grpo, which teaches the embedded model first")
    sample = config.sample
    if sample.max_staleness and sample.engine not in ELSEWHERE:
        raise UserError(f"sample.max_staleness={sample.max_staleness}: for answers that are "
                        f"written elsewhere, by --set sample.engine={' or '.join(ELSEWHERE)}")
    if sample.max_staleness and config.recipe in AGAINST_A_MODEL:
        raise UserError(f"sample.max_staleness: --recipe {config.recipe} asks and learns in turn; "
                        "leave it out")
    if sample.url and sample.engine != "vllm-server":
        raise UserError("sample.url: of --set sample.engine=vllm-server; set both or none")
    if config.task.startswith("env:") and config.recipe != "rl":
        raise UserError(f"--recipe {config.recipe}: conversations have no demonstrations, and are "
                        "learnt by --recipe rl alone, with --model")
    if config.recipe != "sft" and config.sample.temperature == 0:
        raise UserError("sample.temperature=0: RL learns from answers that differ; above 0 wanted")
    rlhf = config.rlhf
    if rlhf.adapt and not (rlhf.kl_budget > 0 and rlhf.kl_weight > 0):
        raise UserError("rlhf.adapt: it steers rlhf.kl_weight towards rlhf.kl_budget; set both "
                        "above 0")
    if config.pg.reset_every and config.pg.kl_weight == 0:
        raise UserError("pg.reset_every: it resets the reference of pg.kl_weight, which is 0; set "
                        "it above 0")
    if config.pg.kl_target > 0 and config.pg.kl_weight == 0:
        raise UserError("pg.kl_target: it steers pg.kl_weight, which is 0; set it above 0")
    made_here = not re.search(r"\.(py:|jsonl?$|parquet$)|^hf:", config.task)
    if not made_here and (config.data.wrong or config.data.slips != "any"):
        raise UserError(f"{config.task}: data.wrong and data.slips change demonstrations that are "
                        "made here, not those of a file; leave them out")


def override(config: TextConfig, assignments: Iterable[str]) -> TextConfig:
    """``settings.override``, with what brings settings first."""
    return settings.override(config, assignments,
                             {"recipe": with_recipe, "rl.algorithm": with_algorithm,
                              "sample.engine": with_engine})


def fixed(config: TextConfig) -> TextConfig:
    """``config`` without what may change between two starts of a run: how long it learns, where,
    what writes completions and how that is corrected, how many checkpoints are kept, how it is
    evaluated."""
    plain = TextConfig(config.task)
    sample = replace(config.sample, **{key: getattr(plain.sample, key) for key in (
        "engine", "memory", "dtype", "url", "max_staleness")})
    pg = replace(config.pg, mismatch=plain.pg.mismatch, mismatch_most=plain.pg.mismatch_most)
    return replace(config, minutes=plain.minutes, device=plain.device, shard=plain.shard,
                   log=plain.log, eval=plain.eval, sample=sample, pg=pg,
                   judge=replace(config.judge, workers=1), env=replace(config.env, workers=1),
                   sft=replace(config.sft, max_steps=1, keep=1, part_tokens=0),
                   rl=replace(config.rl, steps=1, keep=1))
