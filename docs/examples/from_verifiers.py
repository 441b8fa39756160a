"""Environments of the verifiers package (0.1), with turns, as environments of selfplay.

    selfplay llm train --env "docs/examples/from_verifiers.py:Verifiers(name=wordle)" --model NAME
"""

import functools

import verifiers


@functools.cache  # once in a process, which has many conversations
def loaded(name):
    env = verifiers.load_environment(name)
    return env, env.get_dataset()


class Verifiers:
    """A row of the data set for a seed; the rubric's reward at the end."""

    def __init__(self, name: str = "wordle"):
        self.env, self.rows = loaded(name)

    async def reset(self, seed):
        row = dict(self.rows[seed % len(self.rows)])
        self.state = await self.env.init_state(row, client=None, model="", sampling_args={})
        self.state = await self.env.setup_state(self.state)
        self.said = list(self.state["prompt"])
        return self.said

    async def step(self, text):
        prompt, turn = list(self.said), {"role": "assistant", "content": text}
        self.said.append(turn)
        self.state["trajectory"].append({"prompt": prompt, "completion": [turn]})
        if not await self.env.is_completed(self.state):
            answer = await self.env.env_response(self.said, self.state)
            if not await self.env.is_completed(self.state):
                self.said += answer
                return answer, 0.0, False
        self.state["completion"] = self.said[len(self.state["prompt"]):]
        await self.env.rubric.score_rollout(self.state)
        return "", self.state["reward"], True
