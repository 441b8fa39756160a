"""An environment with a tool: Python in a process that can do nothing but compute.

    selfplay llm train --env docs/examples/calculator.py:Calculator --model ORGANISATION/NAME
"""

import random
import re

from selfplay.llm.envs.sandbox import sandboxed

ASKED = ("What is {a} * {b} + {c}? Write <python>an expression</python> to have it worked out, "
         "and at the end <answer>the number</answer>.")


class Calculator:
    """The tool's output is said by the user; 1 for the right answer."""

    def reset(self, seed):
        rng = random.Random(seed)
        a, b, c = (rng.randrange(100, 1000) for _ in range(3))
        self.wanted = a * b + c
        return [{"role": "user", "content": ASKED.format(a=a, b=b, c=c)}]

    def step(self, text):
        answer = re.search(r"<answer>\s*(-?\d+)\s*</answer>", text)
        code = re.search(r"<python>(.*?)</python>", text, re.DOTALL)
        if answer or not code:
            return "", float(bool(answer) and int(answer[1]) == self.wanted), True
        return [{"role": "user", "content": "Output: " + sandboxed(code[1])}], 0.0, False
