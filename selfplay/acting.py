"""The weights that play: an evaluator for every group of a crew, in the arithmetic chosen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray
from torch import nn

from selfplay import arithmetic
from selfplay.arithmetic import Agreement
from selfplay.config import RLConfig
from selfplay.crew import group_sizes
from selfplay.errors import UserError
from selfplay.games.base import Game
from selfplay.inference import Dtype, Evaluator, load_all
from selfplay.models import choose_dtype
from selfplay.runs import read_json, write_json
from selfplay.threads import torch_alone


class Acting:
    """One evaluator a group; new weights are loaded into all of them at once.

    note: the file that keeps the choice of ``rl.dtype=auto``. positions: [n, C, H, W], real ones,
    on which dtypes are compared.
    Raises UserError for a damaged note, and where the dtype cannot be had here.
    """

    def __init__(
        self, game: Game, net: nn.Module, config: RLConfig, note: Path, device: str,
        positions: NDArray[Any],
    ) -> None:
        self.game, self.device, self.note = game, device, note
        self._ranges = arithmetic.random_positions(game)
        sizes = group_sizes(config.games, device)
        self.said = ""  #: what there is to say of a choice just made
        self.agreement: Agreement | None = None  #: of these weights in int8
        dtype = self._choice(net, positions, sizes[0]) if config.dtype == "auto" else config.dtype
        self.evaluators = [Evaluator(None, game, device, dtype,
                                     cache_mb=config.cache_mb / len(sizes)) for _ in sizes]
        self.load(net, positions)

    def load(self, net: nn.Module, positions: NDArray[Any]) -> None:
        """Play by the weights of ``net``; in bfloat16 or float32 from now on, should these
        weights in int8 say something else than in float32."""
        load_all(self.evaluators, net, self._ranges)
        if self.evaluators[0].dtype_name != "int8":
            return
        with torch_alone():
            expected = Evaluator(net, self.game, dtype="float32").forward(positions)
        self.agreement = arithmetic.agree(expected, self.evaluators[0].run(positions))
        if not self.agreement.good():
            self.said = f"int8 has only {self.agreement}: it is left for good"
            self.agreement = None
            for evaluator in self.evaluators:
                evaluator.change(choose_dtype("auto", self.device))
            load_all(self.evaluators, net)

    def figures(self) -> dict[str, float]:
        """For the history: int8's agreement with float32, where it plays."""
        found = {} if self.agreement is None else asdict(self.agreement)
        return {f"int8_{key}": value for key, value in found.items()}

    def _choice(self, net: nn.Module, positions: NDArray[Any], batch: int) -> Dtype:
        """What the run began in; else what is fastest here, which is then written down."""
        if self.note.exists():
            found = read_json(self.note)
            dtype = found.get("dtype") if isinstance(found, dict) else None
            if dtype not in get_args(Dtype):
                raise UserError(f"{self.note}: damaged; delete it and run the same command again")
            return dtype
        if "int8" not in arithmetic.candidates(self.device):
            return "auto"
        trials = arithmetic.trials(net, self.game, positions,
                                   arithmetic.candidates(self.device), batch)
        best = arithmetic.choose(trials)
        self.said = (f"self-play in {best.dtype}, {best.rate / trials[0].rate:.1f} times float32's "
                     f"speed, {best.agreement}")
        write_json(self.note, {"dtype": best.dtype, "trials": [asdict(t) for t in trials]})
        return best.dtype
