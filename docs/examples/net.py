"""A net of your own: a function that takes a NetSpec and returns a torch module.

    selfplay train --game tictactoe --net docs/examples/net.py:build --minutes 2
    selfplay match net:runs/tictactoe mcts:100 --game tictactoe --net docs/examples/net.py:build
"""

import math

from torch import Tensor, nn

from selfplay import NetOutput, NetSpec


class Perceptron(nn.Module):
    """Two hidden layers. float [B, C, H, W] -> logits [B, A] and a value [B], a logit."""

    def __init__(self, spec: NetSpec, width: int) -> None:
        super().__init__()
        cells = spec.obs_shape[1] * spec.obs_shape[2]
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(spec.obs_shape), width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU())
        self.policy = nn.Linear(width, spec.num_actions)
        self.value = nn.Linear(width, 1)
        self.owner = nn.Linear(width, cells) if spec.ownership else None  # Go only
        self.score = nn.Linear(width, 1) if spec.ownership else None

    def forward(self, obs: Tensor) -> NetOutput:
        x = self.body(obs)
        return NetOutput(self.policy(x), self.value(x)[:, 0],
                         self.owner(x) if self.owner else None,
                         self.score(x)[:, 0] if self.score else None)


def build(spec: NetSpec, width: int = 64) -> nn.Module:
    return Perceptron(spec, width)
