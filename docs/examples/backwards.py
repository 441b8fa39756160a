"""A task of your own with its reward: numbers written backwards.

    selfplay llm check docs/examples/backwards.py:Backwards
    selfplay llm train --task "docs/examples/backwards.py:Backwards(digits=3)" --recipe grpo
"""

import random


class Backwards:
    """n -> a question, with those from 500 to 599 held out."""

    weights = {"right": 1.0, "short": 0.1}  # of the reward's parts
    test = [{"prompt": f"{n} backwards:", "answer": str(n)[::-1]} for n in range(500, 600)]

    def __init__(self, digits: int = 3):
        self.digits = digits

    def __call__(self, n):
        number = str(random.Random(n).randrange(10 ** (self.digits - 1), 10**self.digits))
        return {"prompt": f"{number} backwards:", "answer": number[::-1]}

    def reward(self, completions, examples):
        pairs = list(zip(completions, examples, strict=True))
        right = [text.strip() == row["answer"] for text, row in pairs]
        short = [ok and len(text) <= 4 for ok, (text, _) in zip(right, pairs, strict=True)]
        return {"right": right, "short": short}
