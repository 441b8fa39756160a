"""A sweep of two settings with optuna (pip install optuna).

    python docs/examples/sweep.py
"""

import optuna

import selfplay as sp


def objective(trial: optuna.Trial, iterations: int = 8, games: int = 100) -> float:
    """How well a net plays after a few iterations of self-play, in points a game."""
    net = sp.net("tictactoe", "2x16")
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    sims = trial.suggest_int("sims", 8, 32)
    for row in sp.alphazero("tictactoe", net, sims=sims, learning_rate=rate, positions=512):
        trial.report(-row["policy_loss"], row["iteration"])
        if row["iteration"] == iterations or trial.should_prune():
            break
    return sp.match("tictactoe", net, "mcts:50", games=games, opening=(0, 2)).score


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=20)
    print(study.best_params, study.best_value)
