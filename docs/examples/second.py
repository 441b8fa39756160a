"""A task for a small model that was given: the second of three numbers, with one shown answer.

    selfplay llm train --task docs/examples/second.py:Second --model smollm2 --recipe rl
"""

import random

SHOWN = [{"role": "system", "content": "Say the second number."},
         {"role": "user", "content": "25 74 31"}, {"role": "assistant", "content": "74"}]


class Second:
    """n -> three different numbers of two digits; those of n below 0 are held out."""

    style = "plain"  # the answer is all that is written

    def __init__(self, held_out: int = 512):
        self.test = [self(-1 - n) for n in range(held_out)]

    def __call__(self, n):
        numbers = list(map(str, random.Random(n).sample(range(10, 100), 3)))
        asked = {"role": "user", "content": " ".join(numbers)}
        return {"prompt": [*SHOWN, asked], "answer": numbers[1]}
