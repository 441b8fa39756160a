"""An environment of your own: a number is guessed in a few turns.

    selfplay llm train --env docs/examples/guess.py:Guess --model ORGANISATION/NAME --minutes 60
"""

import random
import re


class Guess:
    """Higher, lower, or right; a bit for a number at all, 1 for the right one."""

    def __init__(self, top: int = 20):
        self.top = top

    def reset(self, seed):
        self.secret = random.Random(seed).randint(1, self.top)
        return f"Guess my number from 1 to {self.top}. Answer with a number alone."

    def step(self, text):
        guess = re.fullmatch(r"\s*(\d+)\s*", text)
        if not guess:
            return "A number alone, please.", -0.1, False
        if int(guess[1]) == self.secret:
            return "", 1.0, True
        return ("Higher." if int(guess[1]) < self.secret else "Lower."), 0.0, False
