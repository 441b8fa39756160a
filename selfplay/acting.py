"""The weights that play: an evaluator for every group of a crew, in the arithmetic chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from selfplay import arithmetic
from selfplay.arithmetic import Agreement
from selfplay.config import RLConfig
from selfplay.crew import group_sizes
from selfplay.errors import UserError
from selfplay.games.base import Game
from selfplay.inference import Dtype, Evaluator, load_all
from selfplay.models import has_fast_bfloat16
from selfplay.runs import read_json, write_json
from selfplay.threads import torch_alone

DTYPES_NOTED = ("float32", "bfloat16", "int8")


class Acting:
    """One evaluator a group; new weights are loaded into all of them at once.

    note: the file that keeps the dtype that the run evaluates in. fresh: nothing has been played
    yet, so that ``rl.dtype=auto`` may choose. positions: makes observations [n, C, H, W] of real
    games, on which dtypes are compared.
    Raises UserError for a damaged note, and where a dtype that is named cannot be had here.
    """

    def __init__(
        self, game: Game, net: nn.Module, config: RLConfig, note: Path, device: str,
        positions: Callable[[], NDArray[Any]], fresh: bool = True,
    ) -> None:
        self.game, self.device, self.note = game, device, note
        self._positions = positions
        sizes = group_sizes(config.games, device)
        self.said = ""  #: what there is to say of a choice just made
        self.agreement: Agreement | None = None  #: of these weights in int8
        dtype = self._dtype(net, config.dtype, sizes[0], fresh)
        self.said = self.said or f"self-play in {_plain(device) if dtype == 'auto' else dtype}"
        self._ranges = arithmetic.random_positions(game) if dtype == "int8" else None
        self.evaluators = [Evaluator(None, game, device, dtype,
                                     cache_mb=config.cache_mb / len(sizes)) for _ in sizes]
        self.load(net)

    def load(self, net: nn.Module) -> None:
        """Play by the weights of ``net``; in bfloat16 or float32 for the rest of the run, should
        these weights in int8 say something else than in float32."""
        load_all(self.evaluators, net, self._ranges)
        if self.evaluators[0].dtype_name != "int8":
            return
        positions = self._positions()
        with torch_alone():
            expected = Evaluator(net, self.game, dtype="float32").forward(positions)
        self.agreement = arithmetic.agree(expected, self.evaluators[0].run(positions))
        if not self.agreement.good():
            plain = _plain(self.device)
            self.said = f"int8 has only {self.agreement}: {plain} from now on"
            self.agreement = None
            write_json(self.note, {"dtype": plain, "left": "int8"})
            for evaluator in self.evaluators:
                evaluator.change(plain)
            load_all(self.evaluators, net)

    def figures(self) -> dict[str, float]:
        """For the history: int8's agreement with float32, where it plays."""
        found = {} if self.agreement is None else asdict(self.agreement)
        return {f"int8_{key}": value for key, value in found.items()}

    def _dtype(self, net: nn.Module, named: Dtype, batch: int, fresh: bool) -> Dtype:
        """What the run has played in; else what is named, else what is fastest here."""
        noted = self._noted()
        if named not in ("auto", "int8"):
            return named
        if noted.get("left") == "int8":
            return noted["dtype"]
        if named == "int8":
            return named
        known: list[Dtype] = ["float32", *arithmetic.candidates(self.device)]
        dtype: Dtype = noted.get("dtype") or _plain(self.device)
        if dtype not in known:
            self.said = f"{dtype} cannot be had here: {_plain(self.device)} from now on"
            dtype = _plain(self.device)
        trials: list[arithmetic.Trial] = []
        if fresh and not noted and "int8" in known:
            trials = arithmetic.trials(net, self.game, self._positions(), known[1:], batch)
            best = arithmetic.choose(trials)
            dtype = best.dtype
            self.said = (f"self-play in {dtype}, {best.rate / trials[0].rate:.1f} times "
                         f"float32's speed, {best.agreement}")
        elif fresh and not noted and (advice := arithmetic.without_openvino(self.device)):
            self.said = f"self-play in {dtype}; {advice}"
        write_json(self.note, {"dtype": dtype, "trials": [asdict(t) for t in trials]})
        return dtype

    def _noted(self) -> dict[str, Any]:
        if not self.note.exists():
            return {}
        found = read_json(self.note)
        if not isinstance(found, dict) or found.get("dtype") not in DTYPES_NOTED:
            raise UserError(f"{self.note}: damaged; delete it and run the same command again")
        return found


def _plain(device: str) -> Dtype:
    """torch's own choice."""
    return "bfloat16" if has_fast_bfloat16(device) else "float32"
