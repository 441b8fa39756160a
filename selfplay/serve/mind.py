"""Who thinks: a net, or random rollouts, with a budget, under one name.

    mind_of("runs/go9x9@64")      a run's net with 64 simulations a move
    mind_of("go9x9@64")           a net that came with the package
    mind_of("mcts:1000", game)    no net: rollouts
    mind_of("llm:runs/words")     a language model, by the likelihood of legal moves
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selfplay.arena.spec import Budget, checkpoint_of, game_of
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import Game, side, take
from selfplay.inference.evaluator import Evaluator
from selfplay.inference.spread import Symmetric, spread
from selfplay.learn.checkpoint import load_net, spec_of, symmetries_of
from selfplay.models import NetOutput, NetSpec, build
from selfplay.search.rollouts import rollout_evaluate
from selfplay.search.search import Evaluate, SearchConfig
from selfplay.serve.analysis import Analysis

SIMS = 200  #: of a move where nobody says how many
LEAVES = 8  #: of a lone game's tree at once, at most, where nobody says
SEEN = 10  #: moves whose ownership and score are looked at

class Said(NamedTuple):
    """What a net says of one position, for the side to move: logits float32 [A] of all actions,
    ownership float32 [H*W] in [-1, 1], score a lead in points; None where it has no such head."""

    logits: NDArray[np.float32]
    value: float
    ownership: NDArray[np.float32] | None
    score: float | None


Heads = tuple[NDArray[np.float32], NDArray[np.float32]]  #: (ownership [n, H*W], score [n])


@dataclass
class Mind:
    """Who thinks. Several thinkers may share one, in threads of their own: calls take turns.

    name: for people. game: that it plays. sims: simulations of a move; 0 is the raw policy.
    net: None for rollouts. leaves: of a tree at once, as the words have it; 0 where they say
    nothing. spec: of the net, where it is known. symmetries: views of the board where
    nothing is searched. evaluations: positions evaluated so far.
    """

    name: str
    game: Game
    evaluate: Evaluate
    config: SearchConfig
    sims: int
    net: nn.Module | None = None
    device: str = "cpu"
    leaves: int = 0
    spec: NetSpec | None = None
    symmetries: int = 1
    evaluations: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, states: Any, legal: NDArray[np.bool_]) -> Any:
        """As ``Evaluate``: (logits [n, A], value [n])."""
        with self._turn:
            self.evaluations += len(legal)
            return self.evaluate(states, legal)

    def apart(self, count: int) -> list[Mind]:
        """``count`` minds with this one's weights, which may all think at once, each in a thread of
        its own; this one alone where that is not possible (a GPU, rollouts, a language model)."""
        if not isinstance(self.evaluate, Evaluator) or self.device != "cpu" or count == 1:
            return [self]
        return [replace(self, evaluate=self.evaluate.twin(), evaluations=0, _turn=threading.Lock())
                for _ in range(count)]

    def heads(self, states: Any) -> Heads | None:
        """Of n positions, for the side to move: (ownership float32 [n, H*W] in [-1, 1], score
        float32 [n], a lead in points); None where the net has no such heads."""
        if self.net is None or not self.game.has_ownership:
            return None
        out = self._forward(self.game.observe(states))
        if out.ownership is None or out.score is None:
            return None
        return out.ownership.tanh().cpu().numpy(), out.score.cpu().numpy()

    def turned(self, states: Any, symmetry: int) -> Said:
        """What the net says of one row when it sees it turned, turned back."""
        turn = self.game.symmetries()
        planes = self.game.observe(states)
        obs = planes.reshape(1, len(planes[0]), -1)[:, :, turn.cells[symmetry]]
        out = self._forward(obs.reshape(planes.shape))
        logits = np.empty(self.game.num_actions, np.float32)
        logits[turn.actions[symmetry]] = out.policy[0].cpu().numpy()
        owned, score = None, None if out.score is None else float(out.score[0])
        if out.ownership is not None:
            owned = np.empty(self.game.cells, np.float32)
            owned[turn.cells[symmetry]] = out.ownership[0].tanh().cpu().numpy()
        return Said(logits, float(out.value[0].tanh()), owned, score)

    def owned(self, states: Any) -> NDArray[np.float64] | None:
        """float64 [H*W] in [-1, 1], who will own each point of one row, +1 player 0: the mean over
        the board's symmetries. None where the net has no such head."""
        if self.net is None or not self.game.has_ownership:
            return None
        turns = range(len(self.game.symmetries().cells))
        views = [view for k in turns if (view := self.turned(states, k).ownership) is not None]
        if not views:
            return None
        return np.stack(views).mean(0, np.float64) * side(states)[0]

    def _forward(self, obs: NDArray[Any]) -> NetOutput:
        assert self.net is not None
        planes = torch.from_numpy(np.ascontiguousarray(obs)).to(self.device)
        with self._turn, torch.inference_mode():
            out: NetOutput = self.net(planes.float())
        return out

    def plays(self, game: Game) -> bool:
        """Whether there is a mind ``playing`` this."""
        if self.net is None:
            return self.config.rule == "uct" or game.name == self.game.name
        any_of_kin = self.spec is not None and self.spec.any_board
        return game.name == self.game.name or (any_of_kin and game.kin == self.game.kin)

    def playing(self, game: Game) -> Mind:
        """The same mind for another game: another komi, and another size of board where the net
        takes any. Raises UserError where it cannot play that."""
        if game.name == self.game.name:
            return self
        if not self.plays(game):
            raise UserError(f"{self.name}: a net for {self.game.name}, not for {game.name}")
        if self.net is None or self.spec is None:
            return rollout_mind(game, self.sims, self.leaves)
        if game.board_shape == self.game.board_shape:  # the states bring the komi
            return replace(self, game=game)
        spec = replace(self.spec, obs_shape=game.obs_shape, num_actions=game.num_actions)
        net = build(spec)
        net.load_state_dict(self.net.state_dict())
        return of_net(net.to(self.device).eval(), game, self.name, self.sims, self.leaves,
                      self.device, spec, self.symmetries)


class Views:
    """What a net's ownership and score heads say of a position, one row, and of the positions after
    its first moves; each is asked once."""

    def __init__(self, mind: Mind, states: Any, root: Heads) -> None:
        self.mind, self.states, self.root = mind, states, root
        self.known: dict[int, tuple[NDArray[np.float32], float]] = {}

    @staticmethod
    def of(positions: Sequence[Any], mind: Mind) -> list[Views | None]:
        """Of positions of one row each, their roots asked for in one call; None where the net has
        no such heads."""
        if mind.net is None or not mind.game.has_ownership:
            return [None] * len(positions)
        rows = type(positions[0])(*(np.concatenate(field) for field in
                                    zip(*positions, strict=True)))
        heads = mind.heads(rows)
        if heads is None:
            return [None] * len(positions)
        return [Views(mind, states, (heads[0][k : k + 1], heads[1][k : k + 1]))
                for k, states in enumerate(positions)]

    def add(self, found: Analysis, detail: bool = True) -> Analysis:
        """``found`` with ownership and score: of its first SEEN moves that have visits, and of the
        root, the mean of these and its own by visits. detail=False: of the root alone, its own."""
        if not detail:
            return replace(found, ownership=self.root[0][0], score=float(self.root[1][0]))
        shown = [m for m in found.moves[:SEEN] if m.visits]
        self._ask([m.action for m in shown if m.action not in self.known])
        owned, score, visits = self.root[0][0].copy(), float(self.root[1][0]), 1
        moves = list(found.moves)
        for place, move in enumerate(shown):
            ownership, lead = self.known[move.action]
            owned, score = owned + move.visits * ownership, score + move.visits * lead
            visits += move.visits
            moves[place] = replace(move, score=lead, ownership=ownership)
        return replace(found, moves=tuple(moves), ownership=owned / visits, score=score / visits)

    def _ask(self, actions: list[int]) -> None:
        if not actions:
            return
        game = self.mind.game
        after = take(self.states, [0] * len(actions))
        game.step(after, np.array(actions, np.int64))
        owned, score = self.mind.heads(after)  # type: ignore[misc]  # the root had them
        signs = 1 - 2 * (after.to_play != self.states.to_play[0])
        for row, action in enumerate(actions):
            if game.result(take(after, [row]))[0][0]:
                one = take(after, [row])
                mine = signs[row] * side(one)[0]
                self.known[action] = game.ownership(one)[0] * mine, float(game.score(one)[0] * mine)
            else:
                self.known[action] = owned[row] * signs[row], float(score[row] * signs[row])


def mind_of(words: str, game: Game | str | None = None, device: str = "cpu",
            visits: int | None = None) -> Mind:
    """The mind of PATH, PATH@64, NAME, NAME@64 (with or without ``net:``), llm:RUN,
    llm:RUN@8 or mcts:1000.

    game: what it must play; None is the net's own. visits: simulations where the words have no
    number (@0 is the raw policy). Raises UserError for words that name nobody, and for a net of
    another game.
    """
    wanted = make(game) if isinstance(game, str) else game
    prefix, _, text = words.strip().partition(":")
    sims = SIMS if visits is None else visits
    if prefix == "mcts":
        found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,4}))?", text)
        if found is None or not int(found[1]):
            raise UserError(f"--net {words}: a number of simulations from 1 wanted, as mcts:1000")
        if wanted is None:
            raise UserError(f"--net {words}: plays any game, so say which: --game go9x9")
        return rollout_mind(wanted, int(found[1]), max(1, int(found[2] or 1)))
    if prefix == "llm":
        return _language_mind(text, wanted, device)
    text = text if prefix == "net" else words.strip()
    folder, thought = checkpoint_of(text, f"net:{text}")
    net, meta = load_net(folder, wanted, device)
    budget = thought or Budget(0 if text.endswith("@0") else sims, 0)
    game = wanted or make(str(meta.get("game", "")))
    return of_net(net, game, text.rpartition("@")[0] or text, *budget, device=device,
                  spec=spec_of(meta), symmetries=symmetries_of(meta))


def _language_mind(text: str, wanted: Game | None, device: str) -> Mind:
    """A language model's likeliest legal move, or the one that it thinks of, or most votes are for.
    It has no value to search with."""
    from selfplay.llm.folder import newest_model
    from selfplay.llm.play.player import language_evaluator, parse_language_player

    words = parse_language_player(text)
    path = newest_model(words.path)
    name = game_of(f"llm:{text}") or (wanted.name if wanted else "")
    if not name or (wanted and wanted.name != name):
        raise UserError(f"--net llm:{text}: has learnt {name or 'no game that is known'}, not "
                        f"{wanted.name if wanted else 'one'}; give --game")
    game = wanted or make(name)
    return Mind(f"llm:{words._replace(path=path, mask=True)}", game,
                language_evaluator(text, path, game, device),
                SearchConfig(rule="puct", leaves=1, reuse=True), 0, device=device)


def of_net(net: nn.Module, game: Game, name: str, sims: int, leaves: int = 0,
           device: str = "cpu", spec: NetSpec | None = None, symmetries: int = 1) -> Mind:
    """The mind of a net in eval mode. leaves: of a tree at once; 0 chooses by ``sims``. spec: where
    it shall play other boards of its kin."""
    evaluate: Evaluate = spread(net, game, device)
    if symmetries > 1 and not sims:
        evaluate = Symmetric(spread(net, game, device), symmetries)
    config = SearchConfig(rule="puct", leaves=leaves or max(1, min(LEAVES, sims // 8)), reuse=True)
    return Mind(name, game, evaluate, config, sims, net, device, leaves, spec, symmetries)


def rollout_mind(game: Game, sims: int, leaves: int = 1, seed: int = 0) -> Mind:
    """Pure Monte Carlo tree search."""
    return Mind(f"mcts:{sims}", game, rollout_evaluate(game, seed),
                SearchConfig(rule="uct", leaves=leaves, reuse=True), sims, leaves=leaves)
