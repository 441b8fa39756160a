"""Games between players on a cluster: matches and expert games, the same as on one machine.

Game i follows from the seed, its number and the players, so that any actor can play it. A piece is
some games, which are played side by side; its number lists theirs. Checkpoints of nets go with the
job; a program plays where it is installed, and files of the user's own and language models must lie
at the same path on every machine.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.arena.play import Seats, play_games
from selfplay.arena.players import Player, missing_engine, parse_player
from selfplay.arena.records import GameRecord
from selfplay.arena.spec import net_parts, parse_alphago
from selfplay.cluster.actor import Key, Maker, Order
from selfplay.cluster.farm import Farm
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.games import make, own
from selfplay.games.base import Game
from selfplay.learn.checkpoint import META, WEIGHTS, read_meta
from selfplay.run.own_nets import use_net

POLL = 0.2  #: seconds between two looks at the clock and the bar
EACH = 2  #: pieces that a place has of a match, at least, so that all end at about the same time
PATIENCE = 20.0  #: seconds for actors that are to come, where none of those there has a program
CARRIED = "/carried-by-selfplay"  #: stands in a player's words for the folder that an actor makes

Files = dict[str, Any]  #: a path below CARRIED -> uint8 [bytes]


class MatchMaker(Maker):
    """Plays games on an actor. game, nets: in words. seats: as the match names its players; specs:
    the same players, their checkpoints below CARRIED. how: further words of ``play_games``."""

    def __init__(
        self, game: str, nets: tuple[str, ...], seats: Seats, specs: tuple[str, str],
        slots: int, how: dict[str, Any], device: str,
    ) -> None:
        for words in nets:
            use_net(words)
        self.game, self.slots, self.how, self.device = make(game), slots, how, device
        self.seats = seats._replace(specs=specs)
        self.open = ExitStack()
        self.players: tuple[Player, Player] | None = None

    def load(self, weights: Files) -> None:
        """The files of checkpoints."""
        self.close()
        with tempfile.TemporaryDirectory() as folder:
            for name, data in weights.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.tobytes())
            first, second = (spec.replace(CARRIED, folder) for spec in self.seats.specs)
            self.players = players_of(self.game, self.seats._replace(specs=(first, second)),
                                      self.slots, self.device, self.open)

    def make(self, key: Key) -> tuple[Any, dict[str, float]]:
        """The games of the numbers ``key``."""
        assert self.players is not None, "weights come first"
        wanted = set(key)
        found = list(play_games(
            self.game, *self.players, games=max(key) + 1, slots=self.slots,
            skip=[number for number in range(max(key)) if number not in wanted], **self.how))
        return found, {"games": len(found)}

    def close(self) -> None:
        self.open.close()


def players_of(
    game: Game, seats: Seats, slots: int, device: str, stack: ExitStack
) -> tuple[Player, Player]:
    """The players of ``seats``, which ``stack`` closes."""
    nets: dict[Path, Any] = {}
    made: list[Player] = []
    one = seats.specs[0] == seats.specs[1] and seats.seeds[0] == seats.seeds[1]
    for spec, name, seed in zip(*seats, strict=True):
        if one and made:
            return made[0], made[0]
        player = parse_player(spec, game, seed=seed, device=device, slots=slots, nets=nets)
        stack.enter_context(closing(player))
        player.name = name
        made.append(player)
    return made[0], made[1]


@dataclass(frozen=True)
class SpreadMatches:
    """``arena.play.Away`` on ``farm``. game, nets: in words, good from any folder."""

    farm: Farm
    game: str
    nets: tuple[str, ...] = ()

    @property
    def places(self) -> int:
        return max(self.farm.expected, 1) * self.farm.threads

    def __call__(
        self, game: Game, seats: Seats, *, games: int, slots: int, skip: Collection[int] = (),
        stop: Callable[[], bool] = lambda: False, drop: Callable[[], bool] = lambda: False,
        most: Callable[[], float] = lambda: math.inf,
        moved: Callable[[int, int], None] = lambda games, plies: None, **how: Any,
    ) -> Iterator[GameRecord]:
        engines = tuple(spec for spec in dict.fromkeys(seats.specs) if spec.startswith("gtp:"))
        slots = 1 if engines else slots  # an engine thinks on its own
        self._begin(seats, slots, how, tuple(spec.removeprefix("gtp:") for spec in engines))
        done = set(skip)
        waiting = deque(number for number in range(games) if number not in done)
        flying: set[Key] = set()
        since = time.monotonic()  # an actor could last play
        while not drop():
            if waiting and stop():
                waiting.clear()
            if self.farm.able or not engines:
                self._ask(waiting, flying, slots, most)
            if not flying and not waiting:
                return
            for found in self.farm.poll(POLL):
                if found.key in flying:
                    flying.discard(found.key)
                    yield from found.output.piece
            if self.farm.able or not self.farm.alive or not engines:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                break
        else:
            return
        _must_have(engines)
        left = {*waiting, *(number for key in flying for number in key)}
        with ExitStack() as stack:
            yield from play_games(
                game, *players_of(game, seats, slots, "cpu", stack), games=games, slots=slots,
                skip=[number for number in range(games) if number not in left], stop=stop,
                drop=drop, most=most, moved=moved, **how)

    def _begin(
        self, seats: Seats, slots: int, how: dict[str, Any], programs: tuple[str, ...]
    ) -> None:
        files: Files = {}
        specs = tuple(carried(spec, f"{seats.specs.index(spec)}", files)  # one stays one
                      for spec in seats.specs)
        self.farm.begin(Order(f"{__name__}:{MatchMaker.__name__}", {
            "game": self.game, "nets": self.nets, "seats": seats, "specs": specs, "slots": slots,
            "how": how}, programs))
        self.farm.publish(0, files)

    def _ask(
        self, waiting: deque[int], flying: set[Key], slots: int, most: Callable[[], float]
    ) -> None:
        """Let games begin while there are places for them."""
        under_way = sum(map(len, flying))
        while waiting and len(flying) < self.places and under_way < most():
            share = 2 * math.ceil((len(waiting) + under_way) / (2 * EACH * self.places))
            size = min(max(slots, 2), share, max(most() - under_way, 2), len(waiting))
            key = tuple(waiting.popleft() for _ in range(int(size)))
            self.farm.ask(key)
            flying.add(key)
            under_way += len(key)


def _must_have(engines: Sequence[str]) -> None:
    """Say that games are played here, as no machine of the cluster has ``engines``. Raises
    UserError where this one has not, either."""
    for spec in engines:
        if missing_engine(spec) is not None:
            raise UserError(f"{spec}: no machine of the cluster has this program now, nor has this "
                            "one; start Ray on one that has (ray start --address=HOST:PORT there), "
                            "then run the same command again: games that have come are kept")
    say(f"Ray: no machine has {' and '.join(engines)} now; this one plays the games that are left")


def carried(spec: str, at: str, files: Files) -> str:
    """``spec`` with its checkpoints below CARRIED/``at``, and their files in ``files``."""
    kind, _, text = spec.partition(":")
    if own.is_own(spec):
        return spec
    if kind == "alphago":
        words = parse_alphago(text)
        run = words.path.parent.parent
        meta = read_meta(words.path)
        _carry(run / meta["policies"][words.prior], f"{at}/policy", files)  # may lie elsewhere
        _carry(words.path, f"{at}/value/checkpoint", files)
        files[f"{at}/value/checkpoint/{META}"] = np.frombuffer(json.dumps(
            {**meta, "policies": {words.prior: "policy"}}).encode(), np.uint8)
        return f"alphago:{words._replace(path=Path(CARRIED, at, 'value', 'checkpoint'))}"
    if kind in ("net", "policy") and (path := net_parts(text)[0]).is_dir():
        _carry(path, at, files)
        thought = net_parts(text)[1]
        return f"{kind}:{CARRIED}/{at}" + (f"@{thought}" if thought else "")
    if kind == "llm":
        return f"llm:{Path(text).absolute()}"
    return spec


def _carry(folder: Path, at: str, files: Files) -> None:
    for name in (META, WEIGHTS):
        files[f"{at}/{name}"] = np.frombuffer((folder / name).read_bytes(), np.uint8)
