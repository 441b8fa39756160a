"""Every setting of a language-model run: frozen dataclasses, one for each stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from selfplay.common import settings
from selfplay.common.errors import UserError
from selfplay.common.limits import Positive, Seed
from selfplay.common.settings import replace_key, set_key
from selfplay.learn.config import ALGORITHMS, PastSelves, PGConfig, algorithm
from selfplay.llm.preferences.config import DPOConfig, PairConfig, RewardConfig, RLHFConfig
from selfplay.llm.stage_config import (
    PREFIX,
    EnvConfig,
    GoldConfig,
    JudgeConfig,
    LoraConfig,
    MemoryConfig,
    OwnAnswersConfig,
    PlayConfig,
    SampleConfig,
    TaskConfig,
    TextEvalConfig,
    TextRLConfig,
    TextSFTConfig,
)

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
TAUGHT = {"student": 0.95, "eval": 0.05}  #: stages and shares of distill with own.of
AGAINST_A_MODEL = ("rlhf", "overoptimise")  #: recipes whose RL is that of settings rlhf
ELSEWHERE = ("vllm-server", "ray")  #: engines in other processes, which answer while a run learns
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


def stages_of(config: TextConfig) -> dict[str, float]:
    """The stages of a run in order, and the share of the minutes that each has."""
    return TAUGHT if config.own.of else RECIPES[config.recipe]


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
    if config.recipe == "rl" and not config.model:
        raise UserError("--recipe rl: it begins with a model that has learnt; give --model, or "
                        "take --recipe grpo, which teaches the embedded model first")
    sample = config.sample
    if sample.max_staleness and sample.engine not in ELSEWHERE:
        raise UserError(f"sample.max_staleness={sample.max_staleness}: for answers that are "
                        "written elsewhere, with --set sample.engine=vllm-server or --ray")
    if sample.max_staleness and config.recipe in AGAINST_A_MODEL:
        raise UserError(f"sample.max_staleness: --recipe {config.recipe} asks and learns in turn; "
                        "leave it out")
    if sample.url and sample.engine != "vllm-server":
        raise UserError("sample.url: of --set sample.engine=vllm-server; set both or none")
    if config.own.of and (config.recipe != "distill" or config.model):
        raise UserError("own.of: its policy teaches a student made from nothing, in --recipe "
                        "distill without --model; give --recipe distill, without --model")
    if config.task.startswith("env:") and config.recipe != "rl":
        raise UserError(f"--recipe {config.recipe}: conversations have no demonstrations, and are "
                        "learnt by --recipe rl alone, with --model")
    if config.recipe != "sft" and config.sample.temperature == 0 and not config.own.of:
        raise UserError("sample.temperature=0: RL learns from answers that differ; above 0 wanted")
    if config.eval.budgets and config.task.startswith(("env:", PREFIX)):
        raise UserError("eval.budgets: of chains of thought before an answer, which conversations "
                        "and games are not; leave it out")
    if config.eval.rm and config.task.startswith("env:"):
        raise UserError("eval.rm: a reward model reads single answers, not conversations; leave it "
                        "out")
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
                   sft=replace(config.sft, max_steps=1, keep=1, part_tokens=0, pack=False),
                   rl=replace(config.rl, steps=1, keep=1))
