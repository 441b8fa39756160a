"""A logger of your own beside TensorBoard: four methods.

    selfplay train --game tictactoe --minutes 2 --log docs/examples/logger.py:Lines
"""

import json


class Lines:
    """Every figure as a line of JSON in the run's folder."""

    def __init__(self, folder, settings, file: str = "figures.jsonl") -> None:
        self.file = (folder / file).open("a")
        self.log({"seed": settings["seed"]}, 0)

    def log(self, row, step):
        self.file.write(json.dumps({"step": step, **row}) + "\n")

    def image(self, name, pixels, step):
        self.log({name: list(pixels.shape)}, step)

    def text(self, name, text, step):
        self.log({name: text.splitlines()[0]}, step)

    def close(self):
        self.file.close()
