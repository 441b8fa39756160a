"""The Python front door from end to end; paste the parts into cells of a notebook.

    python docs/examples/notebook.py
"""

import numpy as np

import selfplay as sp

# A game is a set of functions over a batch of states.
game = sp.make("connect4")
states = game.new(2)
game.step(states, np.array([3, 0]))  # the middle column in the first, the edge in the second

# A net, and a search with it. In a notebook `found` shows both boards with their moves.
net = sp.net(game, "1x16")
found = sp.search(game, states, net, sims=64)
print(found)
visits, policy, value, action = found
board = found.board(0)  # `board` alone in a cell is a picture
print(board)

# Learning, an iteration a row; stop anywhere.
for row in sp.alphazero(game, net, sims=8, positions=128, games=16):
    print(f"iteration {row['iteration']}: policy loss {row['policy_loss']:.2f}")
    if row["iteration"] == 2:
        break

# Without search: games of the policy against itself, learnt from by PPO.
learner = sp.policy(game, net)
rows = sp.policy_gradient(learner, sp.rollouts(game, learner, games=16), "ppo")
print("entropy", round(next(rows)["entropy"], 2))

# A match, with its interval; in a notebook the score is a bar.
result = sp.match(game, sp.player(game, net, sims=16, name="mine"), "random", games=20)
print(result)
