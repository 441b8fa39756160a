"""Reinforcement learning of a language model by the results of games.

A trajectory is what the model writes at one of its moves: the prompt is the board, the reward is
the result of the game for who wrote it, -1 for a loss, and for what is no legal move, which loses
the game. All games of a step are in flight together: a round is one batch of completions for all
of them, then a move of every opponent. Opponents are players of the arena, or past selves of the
pool that boards have (``arena.pool``). A step follows from (seed, its number), the weights and the
pool alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay.arena.play import play_games
from selfplay.arena.players import Player, parse_player
from selfplay.arena.pool import FolderPool
from selfplay.common.stats import wilson
from selfplay.games.base import Game, put, take
from selfplay.games.openings import deal
from selfplay.learn import advantages, checkpoint
from selfplay.learn.config import PastSelves
from selfplay.learn.rollout import Rollout
from selfplay.llm.generate import Sampling
from selfplay.llm.models import completion_texts, load_model, padded_tokens, save_model
from selfplay.llm.play.player import Choosing, LanguagePlayer, fine, model_of_policy
from selfplay.llm.play.words import FORMAT, Notation
from selfplay.llm.policy import Completions, Net, Prompts, SampledBatch, TextPolicy, joined_batches
from selfplay.llm.rewards import Example
from selfplay.llm.rl import TextLearner, batch_figures
from selfplay.llm.stage_config import SELF, PlayConfig

LOST = -1.0  #: what an illegal move earns: it loses the game


class TextPool(FolderPool[TextPolicy]):
    """Past selves of a language model, as folders that Hugging Face's tools read."""

    def __init__(self, folder: Path, like: TextPolicy, config: PastSelves) -> None:
        super().__init__(folder, config)
        self.like = like

    def save(self, path: Path, step: int, policy: TextPolicy) -> None:
        with checkpoint.replacing(path) as folder:
            folder.mkdir(parents=True)
            save_model(folder, policy.net.policy, policy.tokenizer)

    def load(self, path: Path) -> TextPolicy:
        model, tokenizer = load_model(path)
        device = next(self.like.net.parameters()).device
        return replace(self.like, net=Net(model).to(device).eval(), generator=None, group=1,
                       tokenizer=tokenizer)


@dataclass
class Tables:
    """n games under way. side: int8 [n], the learner's; group: int64 [n], games with the same
    opening, side and opponent; opponent: int64 [n], its number."""

    game: Game
    states: Any
    side: NDArray[np.int8]
    group: NDArray[np.int64]
    opponent: NDArray[np.int64]
    seeds: NDArray[np.int64]
    live: NDArray[np.bool_]
    score: NDArray[np.float32]  #: for the learner: 1, 0 or -1, once a game is over

    def turn(self, mine: bool) -> NDArray[np.int64]:
        """The games in which the learner, or its opponent, is to move."""
        return np.flatnonzero(self.live & ((self.states.to_play == self.side) == mine))

    def move(self, rows: NDArray[np.int64], actions: NDArray[np.int64], mine: bool
             ) -> NDArray[np.bool_]:
        """Make the moves of one side in ``rows``. Returns which are legal; by the others their
        side has lost."""
        legal = fine(self.game.legal(take(self.states, rows)), actions)
        everywhere = np.full(len(self.live), -1, np.int64)
        everywhere[rows[legal]] = actions[legal]
        self.game.step(self.states, everywhere)
        done, value = self.game.result(self.states)
        over = self.live & done
        self.score[over] = np.where(self.side == 0, value, -value)[over]
        self.live &= ~done
        self.score[rows[~legal]] = LOST if mine else -LOST
        self.live[rows[~legal]] = False
        return legal


def dealt(game: Game, groups: int, size: int, opponents: int, opening: tuple[int, int], seed: int
          ) -> Tables:
    """``groups`` groups of ``size`` games, shared out evenly among the opponents, one after
    another; the learner is player 0 in even groups."""
    states, count = game.new(groups * size), groups * size
    seeds = np.random.default_rng([seed, 1]).integers(2**31 - 1, size=count)
    for group in range(groups):
        one = game.new(1)
        game.replay(one, np.array([deal(game, seed, group, opening, False).actions],
                                  np.int64).reshape(1, -1))
        put(states, slice(group * size, (group + 1) * size), take(one, np.zeros(size, np.int64)))
    of = np.repeat(np.arange(groups), size)
    return Tables(game, states, (of % 2).astype(np.int8), of, of * opponents // groups, seeds,
                  np.ones(count, np.bool_), np.zeros(count, np.float32))


class GameLearner(TextLearner):
    """``TextLearner`` whose completions are moves, and whose rewards are results of games."""

    def __init__(
        self, *args: Any, game: Game, play: PlayConfig, pool: PastSelves, folder: Path,
        **kwargs: Any,
    ) -> None:
        """folder: of the stage; past selves are in its folder ``pool``."""
        super().__init__(*args, **kwargs)
        self.game, self.play, self.notation = game, play, Notation(game)
        self.pool = TextPool(folder / "pool", self.policy, pool)
        self.players: dict[str, Player] = {}  #: opponents that do not learn

    # -------------------------------------------------------------------- the games of a step

    def gather(self) -> tuple[SampledBatch | None, dict[str, float]]:
        if not self.step:
            self.pool.add(0, self.policy)
        seed = int(np.random.SeedSequence([self.seed, self.step, 0x6A]).generate_state(1)[0])
        opponents = self._opponents(seed)
        tables = dealt(self.game, max(self.config.prompts, len(opponents)), self.config.group,
                       len(opponents), self.play.opening, seed)
        for number, player in enumerate(opponents):
            slots = np.flatnonzero(tables.opponent == number)
            player.start(np.arange(len(slots)), tables.seeds[slots])
        parts: list[tuple[NDArray[np.int64], SampledBatch]] = []
        turn = 0
        while tables.live.any():
            rows = tables.turn(True)
            if len(rows):
                parts.append((rows, self._move(tables, rows, seed + (turn << 32))))
            for number, player in enumerate(opponents):
                self._answer(tables, player, number)
            turn += 1
        results = {"games": float(len(tables.score)),
                   "score": float((tables.score.mean() + 1) / 2),
                   "lost": float((tables.score < 0).mean()),
                   "drawn": float((tables.score == 0).mean())}
        if not parts:  # every opponent's first move was none
            return None, NOTHING | results
        batch = joined_batches([part for _, part in parts])
        rows = np.concatenate([rows for rows, _ in parts])
        score = torch.from_numpy(tables.score[rows])
        mask = batch.rollout.mask
        batch = replace(batch, parts={**batch.parts, "result": score}, rollout=replace(
            batch.rollout, group=torch.from_numpy(tables.group[rows]).to(mask.device),
            reward=advantages.on_last_step(score.to(mask.device), mask)))
        found = batch_figures(batch, self.markers)
        return batch, found | {
            **results, "prompt_tokens": self.read_tokens(batch.rollout),
            "illegal": 1 - float(batch.parts["legal"].mean())}

    def read_tokens(self, rollout: Rollout) -> float:
        """Each prompt of a game is read by itself."""
        return float(rollout.inputs["prompt_mask"].sum())

    def _move(self, tables: Tables, rows: NDArray[np.int64], seed: int) -> SampledBatch:
        """A move of the learner in the games ``rows``, with nothing earned yet."""
        now, policy = take(tables.states, rows), replace(self.policy, group=1)
        tokens, seen = padded_tokens(self.notation.prompts(now, self.tokenizer), policy.pad,
                                     left=True)
        prompts = Prompts(tokens, seen, seed)
        acted = policy.act(prompts)
        last = torch.where(acted.mask, acted.action, -1)
        ended = torch.isin(last, torch.tensor(policy.ends, device=last.device)).any(1)
        texts = self._texts(acted.action, acted.mask, ended)
        named = [self.notation.move(now, i, text) if end else None
                 for i, (text, end) in enumerate(zip(texts, ended.tolist(), strict=True))]
        actions = np.array([-1 if action is None else action for action in named], np.int64)
        legal = torch.from_numpy(tables.move(rows, actions, True)).float()
        rollout = Rollout(policy.inputs(prompts), acted.action, acted.mask, acted.logp,
                          torch.zeros_like(acted.logp), torch.zeros(len(rows), dtype=torch.int64))
        return SampledBatch([WRITTEN] * len(rows), Completions(texts, ended.tolist()),
                            {"legal": legal}, rollout)

    def _texts(self, action: torch.Tensor, mask: torch.Tensor, ended: torch.Tensor) -> list[str]:
        """Completions as text; equal ones, which are many, are put into words once."""
        rows = [(tuple(row[:n]), end) for row, n, end in zip(
            action.tolist(), mask.sum(1).tolist(), ended.tolist(), strict=True)]
        first = {row: i for i, row in enumerate(rows)}
        some = torch.tensor(list(first.values()))
        known = dict(zip(first, completion_texts(self.tokenizer, action[some], mask[some],
                                                 ended[some]), strict=True))
        return [known[row] for row in rows]

    def _answer(self, tables: Tables, player: Player, number: int) -> None:
        """A move of an opponent wherever it is to move."""
        seats = np.flatnonzero(tables.opponent == number)
        rows = np.intersect1d(tables.turn(False), seats)
        if len(rows):
            actions = player.act(take(tables.states, rows), np.searchsorted(seats, rows))
            tables.move(rows, actions, False)

    def _opponents(self, seed: int) -> list[Player]:
        """Those of a step: past selves that draw their moves, and players of the settings."""
        rng, found = np.random.default_rng([seed, 0]), list[Player]()
        for name in self.play.opponents:
            if name == SELF:
                found += [self._past(step, seed + k)
                          for k, step in enumerate(self.pool.draw(self.step + 1, rng))]
            else:
                found.append(self._player(name))
        return found

    def _past(self, step: int, seed: int) -> Player:
        model = model_of_policy(self.pool.member(step), self.tokenizer)
        return DrawingPlayer(f"past self {step}", self.game, model,
                       Choosing(1, self.policy.sampling), seed)

    def _player(self, name: str) -> Player:
        if name not in self.players:
            games = max(self.config.prompts, len(self.play.opponents)) * self.config.group
            device = str(next(self.policy.net.parameters()).device)
            self.players[name] = parse_player(name, self.game, seed=self.seed, device=device,
                                              slots=max(games, self.play.looked_at))
        return self.players[name]

    # ---------------------------------------------------------------------------- its progress

    def advance(self, *args: Any) -> dict[str, Any]:
        row = super().advance(*args)
        if self.pool.joins(self.step):
            self.pool.add(self.step, self.policy)
        return row

    def look(self) -> dict[str, float]:
        return {**super().look(), **self.against_rival()}

    def against_rival(self) -> dict[str, float]:
        """How the likeliest moves fare against the settings' rival: score, with its interval, share
        of games lost, and of moves that are none."""
        if not self.play.looked_at:
            return {}
        sampling = Sampling(max_new_tokens=self.policy.sampling.max_new_tokens)
        mine = LanguagePlayer("learner", self.game, model_of_policy(self.policy, self.tokenizer),
                              Choosing(1, sampling), self.seed)
        games = list(play_games(
            self.game, mine, self._player(self.play.rival), games=self.play.looked_at,
            seed=self.seed, opening=self.play.opening, slots=self.play.looked_at))
        value = [g.value if g.players[0] == "learner" else -g.value for g in games]
        score = (sum(value) / len(value) + 1) / 2
        low, high = wilson(score, len(value))
        return {"rival_score": score, "rival_low": low, "rival_high": high,
                "rival_lost": sum(v < 0 for v in value) / len(value),
                "rival_illegal": mine.illegal / max(mine.moves, 1)}


#: The figures of a step in which the model had nothing to write.
NOTHING = {"reward": 0.0, "length": 0.0, "tokens": 0.0, "prompt_tokens": 0.0, "no_signal": 1.0}
WRITTEN = Example("", "", format=FORMAT)  #: what a move in a game is, as an example


class DrawingPlayer(LanguagePlayer):
    """Draws each move by itself, in equal positions too, as the learner does."""

    def act(self, states: Any, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        prompts: Sequence[Sequence[int]] = self.notation.prompts(states, self.model.tokenizer)
        self.seed += 1
        samples = self.model.write(prompts, 1, self.choosing.sampling, self.seed << 32)
        texts = completion_texts(self.model.tokenizer, samples.action, samples.mask,
                                 samples.ended)
        named = [self.notation.move(states, i, text) if end else None for i, (text, end)
                 in enumerate(zip(texts, samples.ended.tolist(), strict=True))]
        return np.array([-1 if move is None else move for move in named], np.int64)
