"""A loss term of your own, in a loop of your own: an entropy bonus beside the built-in losses.

    python docs/examples/loss.py
"""

import torch

import selfplay as sp


def main(steps: int = 20, weight: float = 0.01) -> float:
    """Imitate searches of 64 random positions; returns the last loss."""
    game, net = sp.make("tictactoe"), sp.net("tictactoe", "1x8")
    states = game.new(64)
    game.step(states, torch.arange(64).numpy() % 9)
    target = torch.from_numpy(sp.search(game, states, sims=100).policy)
    obs = torch.from_numpy(game.observe(states)).float()
    optimizer = torch.optim.AdamW(net.train().parameters(), 1e-2)
    for _ in range(steps):
        logp = torch.log_softmax(net(obs).policy, 1)
        entropy = -(logp.exp() * logp).sum(1).mean()
        loss = -(target * logp).sum(1).mean() - weight * entropy  # your term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss)


if __name__ == "__main__":
    print(main())
