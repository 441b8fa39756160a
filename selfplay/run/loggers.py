"""What a run shows while it learns: TensorBoard, and any other logger that is asked for.

A logger has four methods (``Logger``). ``--log wandb``, ``mlflow`` or ``trackio`` uses the library
of that name if it is installed; ``--log path.py:NAME`` uses one of your own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from selfplay.common.errors import UserError
from selfplay.common.files import make_folder, refused
from selfplay.games import own
from selfplay.games.base import Game
from selfplay.inference.evaluator import Evaluator
from selfplay.report import board


class Logger(Protocol):
    """Where figures go. It is made by ``NAME(folder=..., settings=...)``, with the run's folder and
    its settings as JSON types."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Figures by name (``rl loss/policy_loss``) at ``step``."""

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture uint8 [height, width, 3]."""

    def text(self, name: str, text: str, step: int) -> None:
        """Markdown."""

    def close(self) -> None: ...


#: Group -> (what it shows, figure -> what it is); the groups are the headings of TensorBoard.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "strength": ("how well it plays", {
        "score": "points a game against the pool, 0 to 1", "score_first": "as first player",
        "score_second": "as second player", "gate": "of new weights against those that play",
        "expert_top1": "expert's moves that the policy likes best, on held-out games",
        "top1": "moves on which the policy agrees with its target", "top5": "... among its first 5",
        "expert_top5": "expert's moves among its first 5",
        "value_accuracy": "positions whose winner is foreseen",
        "expert_value_accuracy": "... in held-out expert games",
    }),
    "loss": ("what is minimised; lower is better", {
        "loss": "their weighted sum", "policy_loss": "cross-entropy, or the surrogate, in nats",
        "value_loss": "of the winner", "ownership_loss": "of every point's owner",
        "score_loss": "of the lead in points", "expert_policy_loss": "on held-out expert games",
        "value_mse": "squared error of the value", "expert_value_mse": "... on expert games",
        "value_error": "squared error of the critic", "train_mse": "... where it has learnt",
    }),
    "policy": ("how the policy changes", {
        "entropy": "nats a move; near 0 it always plays the same", "grad_norm": "of the update",
        "clip_fraction": "moves whose gradient the clip has cut off",
        "sample_kl": "nats a move from the policy that played", "act_kl": "... by rounding",
        "ref_kl": "nats a move from the first policy", "kl_weight": "of the penalty for it",
        "explained_variance": "of the results, by the critic", "learning_rate": "now",
        "updates": "of the optimizer",
        **{f"int8_{name}": "of int8 with float32, where it plays" for name in
           ("same", "kl", "value")}, "no_signal": "groups whose games all ended alike",
    }),
    "games": ("what is played", {
        "mean_length": "moves a game", "draws": "share", "games": "finished", "moves": "made",
        "first_player_score": "points a game of the first player", "window": "positions kept",
        "rows": "positions looked at",
        "cached": "positions known from before", "evaluations": "positions asked of the net",
    }),
    "cost": ("time and memory", {
        "seconds": "of training in all", "flops": "operations in all", "positions": "learnt from",
        "play_seconds": "of this iteration", "learn_seconds": "of this iteration",
        "evaluations_per_second": "speed of play", "rss_mb": "memory in megabytes",
        "play_rss_mb": "... while it plays", "learn_rss_mb": "... while it learns",
    }),
    "cluster": ("the machines of --ray", {
        "actors": "alive", "shards": "of games that the iteration has",
        "staleness": "iterations that weights were behind", "restarts": "of actors, in all",
        "moved_mb": "weights there and games back", "wait_seconds": "that the learner waited",
        "games_per_second": "of a node",
    }),
}
_GROUP_OF = {name: group for group, (_, names) in GROUPS.items() for name in names}
STAGES = ("sft", "rl", "value")
PLOTTED = ("strength", "loss", "policy")  #: groups with a plot of all their curves
SAMPLED = (1, 2, 5)  #: iterations with a sample game, beside every SAMPLED_EVERYth
SAMPLED_EVERY = 10


class Loggers:
    """All the loggers of a run, TensorBoard first."""

    def __init__(self, folder: Path, settings: dict[str, Any], names: tuple[str, ...] = ()) -> None:
        """Raises UserError for a logger that does not exist or cannot be made."""
        self.grouped = "game" in settings  #: figures of texts keep their plain names
        self.loggers: list[Logger] = [TensorBoard(folder, settings)]
        self.loggers += [_logger(name, folder, settings) for name in names]

    def log(self, stage: str, row: dict[str, Any]) -> None:
        """A row of a stage's history; ``shown`` pairs (prompt, completion) go as text."""
        step = int(row.get("step", 0))
        figures = {named(stage, name) if self.grouped else f"{stage}/{name}": value
                   for name, value in _flat(row) if name not in ("step", "iteration")}
        lines = [f"    {prompt}\n    {text}" for prompt, text in row.get("shown", ())]
        for logger in self.loggers:
            logger.log(figures, step)
            if lines:
                logger.text(f"{stage}/completions", "\n\n".join(lines), step)

    def sample(self, stage: str, game: Game, net: nn.Module, device: str, iteration: int,
               step: int) -> None:
        """Log, now and then, a game of the raw policy against itself as text and pictures."""
        if iteration not in SAMPLED and iteration % SAMPLED_EVERY:
            return
        played = sample_game(game, net, device)
        for logger in self.loggers:
            logger.text(f"{stage} sample/game", played.text, step)
            for name, pixels in played.pictures.items():
                logger.image(f"{stage} sample/{name}", pixels, step)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def named(stage: str, figure: str) -> str:
    """A figure's name under its group, ``rl loss/policy_loss``, or without one, ``rl/reward``."""
    group = _GROUP_OF.get(figure.rpartition("/")[2])
    return f"{stage} {group}/{figure}" if group else f"{stage}/{figure}"


class Sample(NamedTuple):
    text: str  #: Markdown
    pictures: dict[str, NDArray[np.uint8]]


def sample_game(game: Game, net: nn.Module, device: str = "cpu") -> Sample:
    """A game of most probable moves, with pictures of the policy at the start and half-way."""
    evaluate, states = Evaluator(net, game, device), game.new(1)
    made: list[int] = []
    words: list[str] = []
    shots: list[board.BoardView] = []
    while not game.result(states)[0][0]:
        legal = game.legal(states)
        logits, value = evaluate(states, legal)
        shares = np.where(legal[0], np.exp(logits[0] - logits[0][legal[0]].max()), 0.0)
        shares /= shares.sum()
        last = made[-1] if made else -1
        shots.append(board.board_view(game, states, 0, shares, value=float(value[0]), last=last))
        made.append(int(shares.argmax()))
        words.append(game.action_to_text(states, 0, made[-1]))
        game.step(states, np.array([made[-1]]))
    end = board.board_view(game, states, 0, last=made[-1])
    text = f"{' '.join(words)}\n\n{end.words}\n\n```\n{end.drawing}\n```"
    shown = {"first position": shots[0], "middle position": shots[len(shots) // 2]}
    return Sample(text, {name: board.pixels(board.shapes(shot)) for name, shot in shown.items()})


def _flat(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) for each number in a row; those of an inner row are named ``outer/name``."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}/")
        elif isinstance(value, (int, float)):
            yield f"{before}{key}", value


class TensorBoard:
    """Events in ``tb/`` of the run's folder, in explained groups."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tb"
        make_folder(place)
        if not os.access(place, os.W_OK):  # its own thread would print a traceback
            raise refused(place, OSError(errno.EROFS, os.strerror(errno.EROFS)))
        self.writer = SummaryWriter(str(place))
        self.explained = "game" not in settings

    def log(self, row: Mapping[str, float], step: int) -> None:
        if not self.explained:
            self._explain()
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def _explain(self) -> None:
        """Add a page that shows the curves of a group together, and one that explains them."""
        self.explained = True
        self.writer.add_custom_scalars({
            stage: {group: ["Multiline", [f"{stage} {group}/.*"]] for group in PLOTTED}
            for stage in STAGES})
        lines = [f"| **{group}** | {about} |\n" + "\n".join(
                 f"| {name} | {what} |" for name, what in names.items())
                 for group, (about, names) in GROUPS.items()]
        self.writer.add_text("what the curves show", "| | |\n|---|---|\n" + "\n".join(lines))

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases; ``trackio`` has the same functions."""

    def __init__(self, folder: Path, settings: dict[str, Any], module: str = "wandb") -> None:
        self.library = _imported(module)
        self.library.init(project="selfplay", name=folder.name, config=settings)

    def log(self, row: Mapping[str, float], step: int) -> None:
        self.library.log({**row, "step": step})  # each stage counts its own steps

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.library.log({name: self.library.Image(pixels), "step": step})

    def text(self, name: str, text: str, step: int) -> None:
        """Not logged: there is no place for texts among the curves."""

    def close(self) -> None:
        self.library.finish()


class Trackio(Wandb):
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(folder, settings, "trackio")


class Mlflow:
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.library = _imported("mlflow")
        self.library.set_experiment("selfplay")
        self.library.start_run(run_name=folder.name)
        self.library.log_dict(settings, "config.json")

    def log(self, row: Mapping[str, float], step: int) -> None:
        self.library.log_metrics({name.replace("@", " at "): v for name, v in row.items()}, step)

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self.library.log_image(pixels, f"{name}/{step:06d}.png")

    def text(self, name: str, text: str, step: int) -> None:
        self.library.log_text(text, f"{name}/{step:06d}.md")

    def close(self) -> None:
        self.library.end_run()


LOGGERS: dict[str, Callable[..., Logger]] = {"wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow}


def must_be_logger(name: str) -> None:
    """Raises UserError if there is no logger of that name, before anything is made."""
    if own.is_own(name):
        own.object_of(name, "a logger", UserError)
    elif name not in LOGGERS:
        raise UserError(f"--log {name}: {', '.join(LOGGERS)} or path.py:NAME wanted")
    else:
        _imported(name)


def _logger(name: str, folder: Path, settings: dict[str, Any]) -> Logger:
    must_be_logger(name)
    if not own.is_own(name):
        return LOGGERS[name](folder, settings)
    maker = own.object_of(name, "a logger", UserError)
    more = own.keywords(name, own.arguments_of(name), maker, ("folder", "settings"), UserError)
    made: Logger = maker(folder=folder, settings=settings, **more)
    return made


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--log {name}: not installed; pip install {name}, or leave it out"
                        ) from None
