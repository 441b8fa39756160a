"""Environments of the verifiers package (0.1), with turns, as environments of selfplay.

    selfplay llm train --env "docs/examples/from_verifiers.py:Verifiers(name=wordle)" --model NAME
"""

import contextlib
import functools
import inspect

import verifiers


@functools.cache  # once in a process, which has many conversations
def loaded(name):
    env = verifiers.load_environment(name)
    return env, env.get_dataset()


def plain(messages):
    """Messages of any of its versions as dicts."""
    return [{"role": m["role"], "content": m["content"]} for m in messages]


class Verifiers:
    """A row of the data set for a seed; the rubric's reward at the end."""

    def __init__(self, name: str = "wordle"):
        self.env, self.rows = loaded(name)

    async def reset(self, seed):
        row = dict(self.rows[seed % len(self.rows)])
        self.state = await self.env.init_state(row, client=None, model="", sampling_args={})
        self.state = await self.env.setup_state(self.state) or self.state
        self.said = plain(self.state["prompt"])
        self.asked = len(self.said)
        return self.said

    async def step(self, text):
        before, turn = list(self.said), {"role": "assistant", "content": text}
        self.said.append(turn)
        self.state["trajectory"].append({"prompt": before, "completion": [turn]})
        if not await self.env.is_completed(self.state):
            answer = plain(await self.env.env_response(self.said, self.state))
            self.said += answer
            if not await self.env.is_completed(self.state):
                return answer, 0.0, False
        self.state["completion"] = self.said[self.asked:]
        score = self.env.rubric.score_rollout
        slot = [contextlib.nullcontext()] * ("score_sem" in inspect.signature(score).parameters)
        await score(self.state, *slot)
        return "", self.state["reward"], True
