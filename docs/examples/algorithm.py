"""A policy-gradient algorithm of your own: settings, not code.

    selfplay rl --game tictactoe --algo docs/examples/algorithm.py:CAUTIOUS --init random
"""

#: PPO's clip with a leave-one-out baseline, no critic, and a leash to the first policy.
CAUTIOUS = {
    "like": "rloo",  # what these are changes of
    "clip_low": 0.1,
    "clip_high": 0.1,
    "epochs": 2,
    "kl_weight": 0.05,
    "pool.opponents": 2,  # a setting of another stage has its name in front
}
