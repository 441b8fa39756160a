"""The same games and weights for any number of threads, beyond tic-tac-toe."""

from __future__ import annotations

import pytest
import torch
from attacking import Attack

import selfplay as sp

GAMES = ("go5x5", "openspiel:breakthrough(rows=5,columns=4)", "connect4",
         "openspiel:clobber(rows=4,columns=4)")


@pytest.mark.attack
def test_one_thread_or_two(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.inference.actors.GROUP_GAMES", {"cpu": 3})
    monkeypatch.setattr("selfplay.board.trainer.SHARD_ROWS", {"cpu": 5})
    for number in range(attack.count(2, 16)):
        rng, game = attack.rng(number), GAMES[number % len(GAMES)]
        words = {"games": rng.choice((5, 8)), "positions": 48, "batch_size": 16, "sims": 6,
                 "cheap_sims": 3, "reuse": 2, "window_min": 32, "window_max": 64, "cache_mb": 1,
                 "dtype": "float32", "algorithm": rng.choice(("puct", "gumbel"))}
        league = rng.random() < 0.3
        what = f"{game}, {'policy gradient' if league else words}, seed {number}"

        def learnt(threads: int, game: str = game, words: dict = words, seed: int = number,
                   league: bool = league) -> list[torch.Tensor]:
            torch.set_num_threads(threads)
            net = sp.net(game, "1x8", seed=seed)
            rows = (sp.league(game, net, "ppo", iterations=2, seed=seed, pool_games=12) if league
                    else sp.alphazero(game, net, iterations=2, seed=seed, **words))
            assert len(list(rows)) == 2
            return list(net.state_dict().values())

        with attack.variant(what):
            before = list(sp.net(game, "1x8", seed=number).state_dict().values())
            one, two = learnt(1), learnt(2)
            assert all(map(torch.equal, one, two)), "other weights"
            assert not all(map(torch.equal, one, before)), "nothing was learnt"
    assert attack.came["held"] == attack.tried, "nothing may be refused"
    attack.must_have_held()
