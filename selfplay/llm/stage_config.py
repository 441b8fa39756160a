"""Settings of each stage of a language-model run; a whole run's are in ``config``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from selfplay.common.files import read_json
from selfplay.common.limits import Amount, Count, Limit, Part, Plies, Positive, Share, Whole
from selfplay.learn.plateau_config import PlateauConfig


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
    numbers: bool = False
    #: the embedded model's tokenizer has a token for each number below 100 beside characters
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


def game_learnt(folder: Path) -> str:
    """The game that the run of texts in ``folder`` learns; "" where there is no such run."""
    path = folder / "config.json"
    task = read_json(path, dict).get("task") if path.is_file() else None
    return task.removeprefix(PREFIX) if isinstance(task, str) and task.startswith(PREFIX) else ""


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
    engine: Literal["auto", "torch", "vllm", "vllm-server", "ray"] = "auto"
    #: what writes completions at evaluations, in RL and for own answers: auto is vLLM where it is
    #: installed, the run is on a GPU and the model was given with --model, else torch; vllm-server
    #: is a server of vLLM's at url, ray (which --ray brings) actors of torch's on a Ray cluster
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
    pack: bool = False
    #: several texts in a row where they fit, each seeing itself alone; the update is the same
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
    of: str = ""
    #: a run, or a checkpoint of one, whose policy teaches: recipe distill then has the student
    #: alone. Empty: the run's own RL


Counts = Annotated[tuple[Count, ...], Limit(lambda counts: len(counts) > 0, "at least one")]


@dataclass(frozen=True)
class TextEvalConfig:
    """What is measured at the end."""

    samples: Counts = (1, 2, 4, 8, 16)  #: k of pass@k and of the majority of k
    rm: str = ""
    #: a run with a reward model, or a checkpoint of one, that picks the best of k as well. Empty:
    #: the run's own, in recipes rlhf and overoptimise
    budgets: tuple[Count, ...] = ()
    #: tokens that a chain of thought may have: it is cut off there, or made to go on until there,
    #: and answers then; none: not measured
    go_on: str = ""
    #: what takes the place of a thought's end that comes too early; empty: a space where the task
    #: is asked tersely, else "Wait"
    also: tuple[str, ...] = ()
    #: other tasks whose held-out questions are asked as well, such as harder ones


@dataclass(frozen=True)
class MemoryConfig:
    """How a model that was given with --model is held while it learns."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    #: of matrix products and of weights that do not learn; those that learn stay in float32
    checkpointing: bool = False
    #: compute a layer again for the gradient in place of keeping what is in it (Chen et al. 2016,
    #: arXiv:1604.06174): less memory, a third more work
