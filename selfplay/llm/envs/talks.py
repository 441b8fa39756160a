"""Conversations between a model and an environment, many at once, as what is learnt from.

Axes: n seeds, G conversations a seed, N = n G conversations of at most T tokens behind the first
prompt: the model's own, and between its turns those of the environment, which are read and never
learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.learn.rollout import Rollout
from selfplay.llm.envs.chat import between_turns
from selfplay.llm.evaluate import Answers
from selfplay.llm.generate import Generator, Sampling, TorchGenerator
from selfplay.llm.judges.processes import GRACE, Lost, Talk
from selfplay.llm.models import chat_tokens, completion_texts, padded_tokens, written
from selfplay.llm.policy import Completions, Prompts, SampledBatch, TextPolicy
from selfplay.llm.rewards import Example
from selfplay.llm.stage_config import EnvConfig


@dataclass
class Conversation:
    """One conversation so far. tokens: all behind the first prompt; own, logp and reward are of
    the same length, with nothing at the environment's tokens."""

    number: int
    seed: int
    template: dict[str, Any]
    system: list[dict[str, str]]  #: what the settings put before the first message
    messages: list[dict[str, str]] = field(default_factory=list)
    opening: int = 0  #: messages before the model's first turn
    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    turns: int = 0
    over: bool = False
    ended: bool = False  #: whether the environment said so
    failed: str = ""  #: why the environment could not go on

    def add(self, tokens: Sequence[int], logp: Sequence[float] | None = None) -> None:
        """Tokens of the model, with their log-probabilities, or of the environment."""
        self.tokens += tokens
        self.own += [logp is not None] * len(tokens)
        self.logp += [0.0] * len(tokens) if logp is None else logp
        self.reward += [0.0] * len(tokens)

    def opened(self) -> str:
        """What was said before the model's first turn."""
        return "\n".join(message["content"] for message in self.messages[:self.opening])

    def earn(self, reward: float) -> None:
        """A reward for the turn that the model has just ended."""
        self.reward[-1] += reward

    def fail(self, why: str, reward: float) -> None:
        """End it with the stated reward in place of all that it has earned."""
        self.failed, self.over = why, True
        self.reward = [0.0] * (len(self.reward) - 1) + [reward]

    def parts(self, text: str) -> dict[str, float]:
        """What ``rewards.reward`` says of a completion, and earned, turns and failed. It counts as
        right where 1 or more is earned."""
        earned = sum(self.reward)
        return {"accuracy": float(earned >= 1 and not self.failed),
                "partial": min(max(earned, 0.0), 1.0), "format": float(not self.failed),
                "length": float(len(text)), "ended": float(self.ended), "earned": earned,
                "turns": float(self.turns), "failed": float(bool(self.failed))}


class World:
    """The environment that ``path.py:NAME`` names, in processes of its own."""

    def __init__(self, words: str, config: EnvConfig) -> None:
        self.words, self.config = words, config
        self.told: set[str] = set()
        self.processes = [Talk("selfplay.llm.envs.worker.hold_conversations", {"words": [words]})
                          for _ in range(config.workers)]

    def start(self) -> None:
        """Raises UserError where the environment cannot be used."""
        self.processes[0].start()

    def sample(
        self, policy: TextPolicy, tokenizer: Any, examples: Sequence[Example], seed: int
    ) -> SampledBatch:
        """``policy.group`` conversations from each start, to learn from."""
        write = policy.generator or TorchGenerator(policy.net.policy, policy.ends, policy.pad,
                                                   tokenizer)
        talks = self.converse(write, tokenizer, examples, policy.group, policy.sampling, seed)
        device = next(policy.net.parameters()).device
        prompts = Prompts(*padded_tokens([talk.prompt for talk in talks], policy.pad, left=True),
                          seed)
        action, real = padded_tokens([talk.tokens for talk in talks], policy.pad)
        own, logp, reward = (_padded_column([getattr(talk, name) for talk in talks], real.shape[1])
                             for name in ("own", "logp", "reward"))
        texts = transcripts(tokenizer, talks)
        parts = [talk.parts(text) for talk, text in zip(talks, texts, strict=True)]
        group = torch.arange(len(examples)).repeat_interleave(policy.group)
        rollout = Rollout(
            replace(policy, group=1).inputs(prompts), action.to(device), own.bool().to(device),
            logp.to(device), reward.to(device), group.to(device))
        asked = [replace(example, prompt=talk.opened()) for example, talk in zip(
            [e for e in examples for _ in range(policy.group)], talks, strict=True)]
        return SampledBatch(asked, Completions(texts, [talk.ended for talk in talks]),
                            {key: torch.tensor([p[key] for p in parts]) for key in parts[0]},
                            rollout)

    def answers(
        self, generator: Any, tokenizer: Any, examples: Sequence[Example], group: int,
        sampling: Sampling, seed: int,
    ) -> Answers:
        """``group`` conversations from each start, to measure."""
        talks = self.converse(generator, tokenizer, examples, group, sampling, seed)
        texts = transcripts(tokenizer, talks)
        parts = [talk.parts(text) for talk, text in zip(talks, texts, strict=True)]
        cut = range(0, len(talks), group)
        return Answers(list(examples), [texts[i:i + group] for i in cut],
                       [parts[i:i + group] for i in cut],
                       sum(sum(talk.own) for talk in talks) / max(len(talks), 1))

    # ---------------------------------------------------------------------- the conversations

    def converse(
        self, generator: Any, tokenizer: Any, examples: Sequence[Example], group: int,
        sampling: Sampling, seed: int,
    ) -> list[Conversation]:
        """Let them all talk until each is over."""
        asked = [e for e in examples for _ in range(group)]
        talks = [Conversation(i, int(e.metadata["seed"]), dict(e.template),
                              [dict(m) for m in e.messages if m["role"] == "system"])
                 for i, e in enumerate(asked)]
        self._reset(talks, tokenizer)
        alike = all(talk.prompt == talks[i - i % group].prompt for i, talk in enumerate(talks))
        going = talks
        for turn in range(self.config.turns):
            size = group if turn == 0 and alike else 1
            self._write(going, generator, tokenizer, size, sampling, seed + (turn << 32))
            self._answer([talk for talk in going if not talk.over], tokenizer,
                         turn + 1 == self.config.turns, sampling.max_new_tokens)
            going = [talk for talk in going if not talk.over]
            if not going:
                break
        self._tell([talk.failed for talk in talks if talk.failed], len(talks))
        return talks

    def _reset(self, talks: list[Conversation], tokenizer: Any) -> None:
        found = self._call({talk.number: ("reset", talk.seed) for talk in talks}, fresh=True)
        for talk, outcome in zip(talks, found.values(), strict=True):
            if "failed" in outcome:
                raise UserError(f"{self.words}: reset({talk.seed}): {outcome['failed']}")
            said = outcome["value"]["messages"]
            talk.messages = said if said[0]["role"] == "system" else [*talk.system, *said]
            talk.opening = len(talk.messages)
            talk.prompt = chat_tokens(tokenizer, talk.messages, talk.template)

    def _write(
        self, talks: list[Conversation], generator: Generator, tokenizer: Any, group: int,
        sampling: Sampling, seed: int,
    ) -> None:
        """The model's next turn in each. A turn that the limit cuts off ends the conversation."""
        prompts = [talk.prompt + talk.tokens for talk in talks[::group]]
        samples = generator(prompts, group, sampling, seed)
        texts = completion_texts(tokenizer, samples.action, samples.mask, samples.ended,
                                 sampling.stop)
        lengths = samples.mask.sum(1).tolist()
        for i, talk in enumerate(talks):
            n = lengths[i]
            talk.add(samples.action[i, :n].tolist(), samples.logp[i, :n].tolist())
            talk.messages.append({"role": "assistant", "content": texts[i]})
            talk.turns += 1
            talk.over = not bool(samples.ended[i])

    def _answer(
        self, talks: list[Conversation], tokenizer: Any, last: bool, room: int
    ) -> None:
        """The environment's answer in each. last: no turn follows. room: tokens of a turn."""
        calls = {talk.number: ("step", talk.messages[-1]["content"]) for talk in talks}
        for talk, outcome in zip(talks, self._call(calls).values(), strict=True):
            if "failed" in outcome:
                talk.fail(outcome["failed"], self.config.failed)
                continue
            found = outcome["value"]
            talk.earn(found["reward"])
            talk.ended = found["done"]
            talk.over = talk.ended or last
            if talk.over:
                continue
            more = between_turns(tokenizer, talk.messages[:-1], found["messages"], talk.template,
                                 talk.tokens[-1])
            if len(talk.tokens) + len(more) + room > self.config.tokens:
                talk.over = True
                continue
            talk.add(more)
            talk.messages += found["messages"]

    def _call(
        self, calls: dict[int, tuple[str, Any]], fresh: bool = False
    ) -> dict[int, dict[str, Any]]:
        """The outcome of each call, by the conversation's number. A process that has to be ended
        takes its conversations with it."""
        count = len(self.processes)
        shares = [[number for number in calls if number % count == k] for k in range(count)]
        found: dict[int, dict[str, Any]] = {number: {} for number in calls}
        lost: dict[int, str] = {}
        for k, (process, share) in enumerate(zip(self.processes, shares, strict=True)):
            try:
                process.start()
                process.send({"calls": [[i, *calls[i]] for i in share], "fresh": fresh,
                              "seconds": self.config.seconds})
            except Lost as error:
                lost[k] = str(error)
        for k, (process, share) in enumerate(zip(self.processes, shares, strict=True)):
            if k in lost:
                outcomes = [{"failed": lost[k]}] * len(share)
            else:
                try:
                    outcomes = process.receive(self.config.seconds * max(len(share), 1) + GRACE)
                except Lost as error:
                    outcomes = [{"failed": str(error)}] * len(share)
            found |= dict(zip(share, outcomes, strict=True))
        return found

    def _tell(self, failures: list[str], count: int) -> None:
        """Say what failed, each kind once. Raises UserError where too much did."""
        if not failures:
            return
        why = max(set(failures), key=failures.count)
        share = f"{self.words}: {len(failures)} of {count} conversations failed ({why})"
        if len(failures) > self.config.most_failed * count:
            raise UserError(f"{share}; mend the environment, or raise --set env.seconds or "
                            "env.most_failed")
        if why not in self.told:
            self.told.add(why)
            say(f"{share}; each earns {self.config.failed:g}")


def transcripts(tokenizer: Any, talks: Sequence[Conversation]) -> list[str]:
    """Everything behind the first prompt of each, as text."""
    return written(tokenizer, [talk.tokens for talk in talks])


def _padded_column(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """float32 [N, width], 0 behind what is there."""
    return torch.tensor([[float(value) for value in row] + [0.0] * (width - len(row))
                         for row in rows])
