"""A loss term of your own beside an algorithm's: confidence beyond a floor of entropy costs.

    selfplay rl --game tictactoe --algo grpo --set pg.extra_loss=docs/examples/term.py:floor
"""

from torch import Tensor

import selfplay as sp

FLOOR, WEIGHT = 0.3, 1.0  # nats a step


def floor(columns, evaluated) -> Tensor:
    """The mean over real steps of how far the entropy is below FLOOR."""
    return WEIGHT * ((FLOOR - evaluated.entropy).clamp(min=0) * columns.share).sum()


def main(iterations: int = 3) -> list[float]:
    """The same from Python; what the term has cost in each iteration."""
    game = sp.make("tictactoe")
    policy = sp.policy(game, sp.net(game, "1x8"))
    rows = sp.policy_gradient(policy, sp.rollouts(game, policy, games=16), "reinforce",
                              extra_loss=floor)
    return [row["extra_loss"] for row, _ in zip(rows, range(iterations), strict=False)]


if __name__ == "__main__":
    print(main())
