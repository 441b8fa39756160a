"""A task for a small model that was given: the largest of three numbers, with one shown answer.

    selfplay llm train --task docs/examples/largest.py:Largest --model models/smollm2 --recipe rl
"""

import random

SHOWN = [{"role": "system", "content": "Say the largest."},
         {"role": "user", "content": "25 74 31"}, {"role": "assistant", "content": "74"}]


class Largest:
    """n -> three different numbers of two digits; the last 512 of the order are held out."""

    style = "plain"  # the answer is all that is written
    system = SHOWN[0]["content"]

    def __init__(self, held_out: int = 512):
        self.test = [self.row(-1 - n) for n in range(held_out)]

    def row(self, n):
        numbers = random.Random(n).sample(range(10, 100), 3)
        asked = {"role": "user", "content": " ".join(map(str, numbers))}
        return {"prompt": [*SHOWN, asked], "answer": str(max(numbers))}

    def __call__(self, n):
        return self.row(n)
