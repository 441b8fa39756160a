"""``llm:RUN``: a language model that plays, wherever a player is named.

    llm:RUN         the likeliest completion; RUN may also be a checkpoint, RUN/sft/ckpt-000100
    llm:RUN@8       eight completions at temperature 1 vote, those that are no legal move left out
    llm:RUN,mask    only legal moves are chosen among (as a board net's are); also RUN@8,mask

Without ``mask`` what is no legal move is played as it is, and loses the game.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay.arena.engines import NO_MOVE
from selfplay.arena.players import Setup, SlotPlayer
from selfplay.common.errors import UserError
from selfplay.games.base import Game, take
from selfplay.learn.rollout import Rollout
from selfplay.llm.config import TextConfig
from selfplay.llm.folder import newest_model, sampling_of, stored_text_config
from selfplay.llm.generate import Generator, Sampling, TorchGenerator
from selfplay.llm.models import complete, completion_texts, end_tokens, load_model, padded_tokens
from selfplay.llm.play.words import MARK, Notation
from selfplay.llm.policy import Net, TextPolicy
from selfplay.llm.stage_config import PREFIX

MOST = 4096  #: completions written at once
UNLIKELY = 20.0  #: nats that a move is below the one that was chosen
PLAYED = re.compile(r"(.*?)(?:@([1-9][0-9]{0,3}))?(,mask)?")


class Choosing(NamedTuple):
    """How a model plays: the votes of so many completions (1: the likeliest), how they are sampled,
    and whether only legal moves are chosen among."""

    votes: int = 1
    sampling: Sampling = Sampling()
    mask: bool = False


class PlayerWords(NamedTuple):
    """What follows ``llm:``."""

    path: Path
    votes: int
    mask: bool

    def __str__(self) -> str:
        return f"{self.path}" + f"@{self.votes}" * (self.votes > 1) + ",mask" * self.mask


@dataclass(frozen=True)
class Model:
    """A causal language model, its tokenizer, and what writes with its weights."""

    policy: TextPolicy
    write: Generator
    tokenizer: Any


class LanguagePlayer(SlotPlayer):
    """A language model's moves. Equal positions are asked once and answered alike, so that a move
    does not depend on the games beside it.

    moves, illegal: how many it has made, and how many of them were none.
    """

    def __init__(
        self, name: str, game: Game, model: Model, choosing: Choosing, seed: int = 0
    ) -> None:
        self.name, self.notation, self.model, self.choosing = name, Notation(game), model, choosing
        self.seed, self.moves, self.illegal = seed, 0, 0

    def act(self, states: Any, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        prompts = self.notation.prompts(states, self.model.tokenizer)
        first = {tuple(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
        chosen = dict[tuple[int, ...], int]()
        keys = list(first)
        size = max(MOST // self.choosing.votes, 1)
        for start in range(0, len(keys), size):
            some = keys[start:start + size]
            found = self._choose(take(states, [first[key] for key in some]), some)
            chosen |= dict(zip(some, found, strict=True))
        actions = np.array([chosen[tuple(prompt)] for prompt in prompts], np.int64)
        legal = self.notation.game.legal(states)
        self.moves += len(actions)
        self.illegal += int((~fine(legal, actions)).sum())
        return actions

    def _choose(self, states: Any, prompts: Sequence[Sequence[int]]) -> list[int]:
        votes, mask = self.choosing.votes, self.choosing.mask
        temperature = self.choosing.sampling.temperature if votes > 1 else 0.0
        sampling = replace(self.choosing.sampling, temperature=temperature)
        group = [list(prompt) for prompt in prompts]
        if mask:
            sampling = replace(sampling, stop=(MARK,))
        samples = self.model.write(group, votes, sampling, self.seed)
        texts = completion_texts(self.model.tokenizer, samples.action, samples.mask, samples.ended)
        if mask:
            return self._among_legal(states, group, texts)
        named = [self.notation.move(states, i // votes, text) if ended else None for i, (
            text, ended) in enumerate(zip(texts, samples.ended.tolist(), strict=True))]
        legal = self.notation.game.legal(states)
        return [_voted(named[i * votes:(i + 1) * votes], legal[i]) for i in range(len(prompts))]

    def _among_legal(
        self, states: Any, prompts: list[list[int]], texts: Sequence[str]
    ) -> list[int]:
        """For each position the legal move that most votes are for. A vote is the likeliest legal
        move behind one of its thoughts, or, without a thought, a draw among the legal moves."""
        notation, votes = self.notation, self.choosing.votes
        legal = [notation.legal(states, i) for i in range(len(prompts))]
        heads = [f"{text.partition(MARK)[0].rstrip()} {MARK} ".lstrip() if MARK in text else ""
                 for text in texts]
        asked = dict.fromkeys((i // votes, head) for i, head in enumerate(heads))
        logp = log_likelihoods(self.model, [
            (prompts[i], head, legal[i]) for i, head in asked])
        known = dict(zip(asked, logp, strict=True))
        chosen = []
        for i in range(len(prompts)):
            rng, votes_for = np.random.default_rng([self.seed, *prompts[i]]), Counter[int]()
            for head in heads[i * votes:(i + 1) * votes]:
                score = known[i, head]
                if votes > 1 and not head:
                    score = score + rng.gumbel(size=len(score))
                votes_for[int(score.argmax())] += 1
            move = notation.move(states, i, legal[i][votes_for.most_common(1)[0][0]])
            assert move is not None
            chosen.append(move)
        return chosen


@dataclass(frozen=True)
class LanguageEvaluator:
    """A language model asked as a board net is: how likely it finds each legal move. It has no
    value. Equal positions are asked once."""

    game: Game
    model: Model

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(log-likelihoods float32 [n, A], of legal moves; zeros float32 [n])."""
        notation = Notation(self.game)
        prompts = notation.prompts(states, self.model.tokenizer)
        moves = [[self.game.action_to_text(states, i, int(a)) for a in np.flatnonzero(row)]
                 for i, row in enumerate(legal)]
        found = log_likelihoods(self.model, [
            (prompt, "", texts) for prompt, texts in zip(prompts, moves, strict=True)])
        logits = np.full(legal.shape, -np.inf, np.float32)
        for row, may, logp in zip(logits, legal, found, strict=True):
            row[may] = logp
        return logits, np.zeros(len(legal), np.float32)


@dataclass(frozen=True)
class ChosenMoves:
    """The same of a model that thinks or votes before it moves: it finds the move that ``player``
    makes likelier than all others. Its moves must be masked."""

    player: LanguagePlayer

    def __call__(
        self, states: Any, legal: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = np.arange(len(legal))
        logits = np.where(legal, -UNLIKELY, -np.inf).astype(np.float32)
        logits[rows, self.player.act(states, rows)] = 0.0
        return logits, np.zeros(len(legal), np.float32)


@torch.no_grad()
def log_likelihoods(
    model: Model, asked: Sequence[tuple[list[int], str, list[str]]]
) -> list[NDArray[np.float64]]:
    """For each (prompt, what has been written, moves) the log-likelihood of every move."""
    policy = model.policy
    rows = [(prompt, complete(model.tokenizer, head + move))
            for prompt, head, moves in asked for move in moves]
    prompt, seen = padded_tokens([row[0] for row in rows], policy.pad, left=True)
    action, mask = padded_tokens([row[1] for row in rows], policy.pad)
    device = next(policy.net.parameters()).device
    none = torch.zeros(action.shape, device=device)
    logp = policy.evaluate(Rollout(
        {"prompt": prompt.to(device), "prompt_mask": seen.to(device)}, action.to(device),
        mask.to(device), none, none, torch.arange(len(rows), device=device))).logp
    total = logp.sum(1).double().cpu().numpy()
    return np.split(total, np.cumsum([len(moves) for *_, moves in asked])[:-1])


def fine(legal: NDArray[np.bool_], actions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [n]: which of the actions int64 [n] are legal moves. legal: bool [n, A]."""
    known = (actions >= 0) & (actions < legal.shape[1])
    return known & legal[np.arange(len(actions)), np.where(known, actions, 0)]


def _voted(named: Sequence[int | None], legal: NDArray[np.bool_]) -> int:
    """The legal move that most name, of equals the first named; without one what was named first,
    or NO_MOVE."""
    votes = Counter(move for move in named if move is not None and legal[move])
    if votes:
        return votes.most_common(1)[0][0]
    return next((move for move in named if move is not None), NO_MOVE)


# ------------------------------------------------------------------------------------ the words


def parse_language_player(text: str) -> PlayerWords:
    """Raises UserError for a path where there is no run."""
    found = PLAYED.fullmatch(text.strip())
    path = Path(found[1]) if found else Path(text)
    if found is None or not found[1] or not path.is_dir():
        raise UserError(f"player 'llm:{text}': {path} is no folder of a language-model run; write "
                        "llm:RUN, llm:RUN@8 or llm:RUN@8,mask; 1 to 9999 answers vote")
    return PlayerWords(path, int(found[2] or 1), bool(found[3]))


def name_in_full(text: str) -> str:
    """``text`` with a run replaced by the checkpoint that it means now."""
    words = parse_language_player(text)
    return str(words._replace(path=newest_model(words.path)))


def game_played(text: str) -> str:
    """The game that the run of ``llm:text`` has learnt; empty where it is in no run."""
    return played(newest_model(parse_language_player(text).path))[0]


def language_player(text: str, setup: Setup) -> LanguagePlayer:
    """The player of ``llm:text``. Raises UserError."""
    words = parse_language_player(text)
    path = newest_model(words.path)
    game, config = played(path)
    if game not in ("", setup.game.name):
        raise UserError(f"player {setup.spec!r}: has learnt {game}, not {setup.game.name}")
    kept = {} if setup.nets is None else setup.nets
    if path not in kept:
        kept[path] = opened(path, setup.device)
    sampling = sampling_of(config) if config else Sampling()
    return LanguagePlayer(f"llm:{words._replace(path=path)}", setup.game, kept[path],
                          Choosing(words.votes, sampling, words.mask), setup.seed)


def language_evaluator(
    text: str, path: Path, game: Game, device: str
) -> LanguageEvaluator | ChosenMoves:
    """How ``llm:text``, whose checkpoint is ``path``, finds legal moves. Raises UserError."""
    votes, config, model = parse_language_player(text).votes, played(path)[1], opened(path, device)
    if votes == 1 and (config is None or config.play.thought == "none"):
        return LanguageEvaluator(game, model)
    sampling = sampling_of(config) if config else Sampling()
    return ChosenMoves(LanguagePlayer(text, game, model, Choosing(votes, sampling, True)))


def played(path: Path) -> tuple[str, TextConfig | None]:
    """(the game that a checkpoint's run has learnt, its settings); ("", None) where it lies in no
    run. Raises UserError for a run of questions."""
    config = settings_of(path)
    if config is None:
        return "", None
    if not config.task.startswith(PREFIX):
        raise UserError(f"player 'llm:{path}': has learnt {config.task}, which is no game")
    return config.task.removeprefix(PREFIX), config


def opened(path: Path, device: str) -> Model:
    """The model of a checkpoint."""
    model, tokenizer = load_model(path)
    policy = TextPolicy(Net(model).to(device).eval(), end_tokens(model, tokenizer),
                        tokenizer.pad_token_id, tokenizer=tokenizer)
    return model_of_policy(policy, tokenizer)


def model_of_policy(policy: TextPolicy, tokenizer: Any) -> Model:
    """A policy that learns, or a frozen one, as it writes now."""
    write = policy.generator or TorchGenerator(policy.net.policy, policy.ends, policy.pad,
                                               tokenizer)
    return Model(policy, write, tokenizer)


def settings_of(checkpoint: Path) -> TextConfig | None:
    """The settings of the run that a checkpoint lies in; None where it lies in none."""
    for folder in (checkpoint.parent.parent, checkpoint.parent.parent.parent):
        if (folder / "progress.json").is_file() or (folder / "positions.jsonl").is_file():
            return stored_text_config(folder)
    return None
