"""Every setting of a language-model run: frozen dataclasses, one a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from selfplay.config import Limits
from selfplay.llm.rlhf_config import GoldConfig, PairConfig, RewardConfig, RLHFConfig


@dataclass(frozen=True)
class TaskConfig:
    """How the task asks and what the demonstrations are like."""

    style: str = "auto"
    #: short (tersely, for models that learn characters), marked, answer (in words; the format of
    #: the completion); auto: short for the embedded model where the task can, else answer
    wrong: float = 0.0  #: share of the demonstrations' steps that are wrong
    held_out: int = 512  #: questions held out for measuring, at most


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021); rank 0 trains all weights."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0


@dataclass(frozen=True)
class SampleConfig:
    """How completions are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64


@dataclass(frozen=True)
class TextSFTConfig:
    """Supervised learning on demonstrations."""

    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: int = 50  #: steps over which the rate rises from 0
    grad_clip: float = 1.0
    on: Literal["completion", "text"] = "completion"  #: tokens learnt; text: the question as well
    evaluate_every: int = 100  #: steps between two looks at what is held out
    gain: float = 0.005  #: share of the held-out loss that must go ...
    patience: int = 4  #: ... within so many looks, or the rate drops
    drops: int = 2  #: rate drops before the curve counts as flat
    max_steps: int = 100_000
    looked_at: int = 128  #: held-out questions answered at a look
    keep: int = 8  #: checkpoints kept


@dataclass(frozen=True)
class TextEvalConfig:
    """What is measured at the end."""

    samples: tuple[int, ...] = (1, 2, 4, 8, 16)  #: k of pass@k and of the majority of k


@dataclass(frozen=True)
class TextConfig:
    """A whole run; frozen into ``config.json`` of its folder."""

    task: str
    recipe: str = "sft"
    seed: int = 0
    minutes: float = 30.0
    model: str = ""  #: folder or hub id to start from; empty: the embedded model, from nothing
    net: str = "3x96"  #: layers x width of the embedded model
    device: str = "auto"
    data: TaskConfig = field(default_factory=TaskConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    sft: TextSFTConfig = field(default_factory=TextSFTConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    rm: RewardConfig = field(default_factory=RewardConfig)
    rlhf: RLHFConfig = field(default_factory=RLHFConfig)
    eval: TextEvalConfig = field(default_factory=TextEvalConfig)

    LIMITS: ClassVar[Limits] = Limits("task", positive=frozenset((
        "minutes", "data.held_out", "sample.max_new_tokens", "sample.top_p", "sft.batch_size",
        "sft.learning_rate", "sft.grad_clip", "sft.evaluate_every", "sft.patience",
        "sft.max_steps", "sft.looked_at", "sft.keep", "eval.samples",
        "pairs.count", "rm.batch_size", "rm.learning_rate", "rm.epochs", "rm.patience",
        "rlhf.prompts", "rlhf.group", "rlhf.steps", "rlhf.epochs", "rlhf.minibatches",
        "rlhf.learning_rate", "rlhf.evaluate_every", "rlhf.held_prompts", "rlhf.held_samples",
    )), shares=frozenset(("data.wrong", "sample.top_p", "lora.dropout", "sft.gain", "pairs.noise",
                          "pairs.held_out")))
