"""Numbered pieces of work, made on the machines of a cluster: the transport, and no more.

The driver asks for pieces (``ask``) and takes what has been made (``poll``). A piece depends on its
number, the job and the weights of one version. What an actor had under way when it or its node died
is asked for again, with the same weights; what comes twice is dropped. An actor has at most so many
calls in flight as it has threads. Weights go into the object store once a version.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from selfplay.cluster.actor import Key, Order, Output, RayActor, size, sources
from selfplay.cluster.connect import connected
from selfplay.common.console import say
from selfplay.common.errors import UserError
from selfplay.common.words import clip, counted
from selfplay.run.config import RayConfig

TEND = 1.0  #: seconds between two looks at the cluster's nodes
MOST_LOST = 20  #: times that a piece may be lost: then it is the piece that kills
STRAY: Key = ()  #: of a piece that nobody waits for any longer
PATIENCE = 3.0  #: seconds after which an actor that is gone was not its node's death
REST = 30.0  #: seconds that an actor gets no work whose object store or disk is full


class Delivery(NamedTuple):
    """What ``poll`` hands over; its arrays can only be read, and keep the object store's memory."""

    key: Key
    version: int
    output: Output


@dataclass
class _Hand:
    """An actor as the driver knows it."""

    actor: Any
    hello: Any = None  #: the call that says that it is there; None: it is
    node: str = ""
    able: bool = True  #: its machine has the programs of the job
    rests: float = 0.0  #: until then it gets no work
    calls: dict[Any, Key] = field(default_factory=dict)


@dataclass
class Machine:
    """A machine of the cluster, since it was first seen."""

    name: str
    places: int  #: actors that it has room for
    alive: bool = True
    refused: bool = False  #: it has another commit
    done: Counter[str] = field(default_factory=Counter)  #: pieces, games, evaluations
    versions: set[int] = field(default_factory=set)


class Farm:
    """The actors of a cluster. address: as for ``connect.connected``; actors: how many, at most;
    None: as many as there is room for.

    Raises UserError where there is no room for a single one.
    """

    def __init__(self, address: str, config: RayConfig, actors: int | None = None) -> None:
        self.ray, page = connected(address)
        self.config, self.wanted = config, actors
        self.threads = max(1, math.floor(config.cpus))
        self.device = "cuda" if config.gpus > 0 else "cpu"
        self.job: Order | None = None
        self.nodes: dict[str, Machine] = {}
        self.hands: list[_Hand] = []
        self.queue: deque[Key] = deque()
        self.wait_seconds, self.moved, self.restarts = 0.0, 0, 0
        self._weights: dict[int, tuple[list[Any], int]] = {}  # references and bytes
        self._version = -1
        self._asked: dict[Key, int] = {}  # the version that a piece is made by, -1: the newest
        self._lost: Counter[Key] = Counter()
        self._deaths: list[tuple[float, str, str]] = []
        self._tended = -math.inf
        self._remote = self.ray.remote(
            num_cpus=config.cpus, num_gpus=config.gpus, max_restarts=-1, max_task_retries=0,
            max_concurrency=self.threads + 1)(RayActor)
        self._tend()
        self._say_of_start(address, page)

    # ------------------------------------------------------------------------------ asking

    def begin(self, job: Order) -> None:
        """From now on pieces are of ``job``; what was asked for is forgotten."""
        before, self.job, self._version = self.programs, job, -1
        for hand in self.hands:  # what is under way comes for nobody
            hand.calls = dict.fromkeys(hand.calls, STRAY)
            if before != job.programs:
                self._greet(hand)
        for node in self.nodes.values():
            node.versions.clear()
        for kept in (self.queue, self._asked, self._weights, self._lost):
            kept.clear()

    def put(self, thing: Any) -> Any:
        """A reference to ``thing`` in the object store. Raises UserError where that is full."""
        errors = self.ray.exceptions
        try:
            return self.ray.put(thing)
        except (errors.ObjectStoreFullError, errors.OutOfDiskError):
            raise UserError("Ray's object store is full, and so is the disk that it goes on to; "
                            "start Ray with more of it (ray start --object-store-memory=BYTES), or "
                            "make room under /tmp/ray, then run the same command again: what has "
                            "come is kept") from None

    def publish(self, version: int, weights: Any) -> None:
        """Pieces that are begun from now on are made by ``weights``: arrays and plain data."""
        self._weights[version] = ([self.put(weights)], size(weights))
        self._version = version
        self._forget()

    def ask(self, key: Key) -> None:
        """Let a piece be made."""
        if key not in self._asked:
            self._asked[key] = -1
            self.queue.append(key)

    @property
    def programs(self) -> tuple[str, ...]:
        """What a machine must have for the job."""
        return self.job.programs if self.job is not None else ()

    @property
    def alive(self) -> int:
        """How many actors are there."""
        return sum(hand.hello is None for hand in self.hands)

    @property
    def able(self) -> int:
        """How many of them can do the job."""
        return sum(hand.hello is None and hand.able for hand in self.hands)

    @property
    def expected(self) -> int:
        """The same with those that are still to come, as far as there is room for them."""
        return min(sum(hand.able for hand in self.hands), self._places())

    @property
    def asked(self) -> int:
        """How many pieces have been asked for and not come."""
        return len(self._asked)

    def poll(self, seconds: float) -> list[Delivery]:
        """The pieces that have come; waits for the first for so long at most.

        Raises UserError where the work itself fails on an actor.
        """
        began = time.monotonic()
        self._tend()
        self._send()
        waited = {ref: hand for hand in self.hands for ref in
                  ([hand.hello] if hand.hello is not None else [*hand.calls])}
        found: list[Delivery] = []
        if waited:
            refs = list(waited)
            ready, rest = self.ray.wait(refs, num_returns=1, timeout=seconds)
            if ready and rest:
                ready += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            for ref in ready:
                hand = waited[ref]
                if ref == hand.hello or ref in hand.calls:  # else its actor has just died
                    found += self._take(hand, ref)
            self._send()
        else:
            time.sleep(seconds)
        self.wait_seconds += time.monotonic() - began
        return found

    # ---------------------------------------------------------------------------- the actors

    def _send(self) -> None:
        """Hand out what is waiting, to whoever has the least to do."""
        now = time.monotonic()
        free = [h for h in self.hands if h.hello is None and h.able and h.rests <= now]
        while self.queue and free:
            hand = min(free, key=lambda hand: len(hand.calls))
            if len(hand.calls) >= self.threads:
                return
            key = self.queue.popleft()
            if self._asked[key] < 0:
                self._asked[key] = self._version
            version = self._asked[key]
            refs = self._weights[version][0] if version >= 0 else []
            hand.calls[hand.actor.make.remote(self.job, version, refs, key)] = key

    def _take(self, hand: _Hand, ref: Any) -> list[Delivery]:
        """What a call has brought: a piece, or none where the actor has died or only says hello."""
        errors = self.ray.exceptions
        hello, key = ref == hand.hello, hand.calls.pop(ref, STRAY)
        try:
            found = self.ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (errors.ObjectLostError, errors.ObjectStoreFullError,
                                        errors.OutOfDiskError)):
                self._full(hand, error.cause)
                self._again(hand, key, error.cause)
                return []
            if key not in self._asked and not hello:
                return []
            raise self._failed(hand, error) from None
        except errors.ActorDiedError as error:
            if "creation task" in str(error):  # its own __init__ has failed, and would again
                raise UserError(f"Ray: an actor does not start: {clip(str(error), 600)}") from None
            self._gone(hand, key, error)
            return []
        except (errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError,
                errors.RaySystemError, errors.NodeDiedError, errors.WorkerCrashedError) as error:
            self._gone(hand, key, error)
            return []
        if hello:
            self._greeted(hand, found)
            return []
        version = self._asked.pop(key, None)
        if version is None:  # of an earlier job, or come already
            return []
        output = Output(*found)
        node = self.nodes[hand.node]
        node.done.update({"pieces": 1, "games": int(output.figures.get("games", 0)),
                          "evaluations": int(output.figures.get("evaluations", 0))})
        if version not in node.versions:  # a node's actors share what has come to it
            node.versions.add(version)
            self.moved += self._weights[version][1] if version in self._weights else 0
        self.moved += size(output.piece)
        self._forget()
        return [Delivery(key, version, output)]

    def _gone(self, hand: _Hand, key: Key, error: Exception) -> None:
        """An actor has died, or cannot be reached. It says hello when it is there again; all that
        it had under way is asked for again."""
        self.restarts += 1
        self._deaths.append((time.monotonic(), hand.node, str(error)))
        self._greet(hand)
        for lost in (key, *hand.calls.values()):
            self._again(hand, lost, error)
        hand.calls.clear()

    def _full(self, hand: _Hand, error: Exception) -> None:
        """An actor's machine has no room for what it has made: others have its work for a while."""
        now = time.monotonic()
        if hand.rests <= now and not isinstance(error, self.ray.exceptions.ObjectLostError):
            why = clip(str(error).splitlines()[0], 80)
            say(f"Ray: {self._name(hand)} has no room for what it makes ({why}); make room on its "
                f"disk (/tmp/ray). It is asked again in {REST:.0f} s, others meanwhile")
            hand.rests = now + REST

    def _again(self, hand: _Hand, key: Key, error: Exception) -> None:
        if key not in self._asked:
            return
        self._lost[key] += 1
        if self._lost[key] > MOST_LOST:
            raise UserError(f"Ray: a piece of work was lost {MOST_LOST} times, the last time on "
                            f"{self._name(hand)} ({clip(str(error), 200)}); mend it, then run the "
                            "same command again: what has been made is kept")
        self.queue.appendleft(key)

    def _failed(self, hand: _Hand, error: Any) -> Exception:
        """What the work itself has raised on an actor, to be raised here."""
        cause = error.cause
        told = f"on {self._name(hand)}: {clip(str(cause), 400)}"
        if isinstance(cause, FloatingPointError):
            return FloatingPointError(told)
        if isinstance(cause, (UserError, OSError, ImportError)) or (
                isinstance(cause, ValueError) and type(cause) is not ValueError):
            return UserError(told)
        return RuntimeError(f"on {self._name(hand)}: {error}")

    def _greet(self, hand: _Hand) -> None:
        """Ask an actor to say that it is there, and what it can do."""
        hand.able = True
        hand.hello = hand.actor.hello.options(max_task_retries=-1).remote(self.programs)

    def _greeted(self, hand: _Hand, facts: dict[str, Any]) -> None:
        """An actor is there: it gets work, unless its machine has other sources than ours."""
        hand.node, hand.able = facts["node"], facts["able"]
        node = self.nodes.setdefault(hand.node, Machine(hand.node[:8], 0))
        if facts["sources"] == sources():
            hand.hello = None
            return
        self.hands.remove(hand)
        self.ray.kill(hand.actor, no_restart=True)
        if not node.refused:
            node.refused = True
            say(f"Ray: {node.name} has another selfplay than this machine and gets no work; install"
                " the same commit there, and start its Ray again")
        if all(other.refused for other in self.nodes.values() if other.alive and other.places):
            raise UserError("Ray: no machine has the selfplay of this one; install the same commit "
                            "on all, start Ray again (ray stop, ray start), then run the same "
                            "command again")

    def _tend(self) -> None:
        """Look at the nodes now and then: who has come and gone, and make actors for the room."""
        now = time.monotonic()
        if now - self._tended < TEND:
            return
        self._tended = now
        try:
            alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        except (self.ray.exceptions.RayError, ConnectionError, TimeoutError):
            return  # the head cannot be reached now; actors do without it
        self._say_of_nodes(alive)
        self._say_of_deaths(now, alive)
        bad = [key for key, node in self.nodes.items() if node.refused and node.alive]
        apart = {"label_selector": {"ray.io/node-id": f"!in({','.join(bad)})"}} if bad else {}
        wanted = self._places() if self.wanted is None else self.wanted
        for _ in range(len(self.hands), wanted):
            hand = _Hand(self._remote.options(**apart).remote(self.device))
            self._greet(hand)
            self.hands.append(hand)

    def _say_of_nodes(self, alive: dict[str, dict[str, Any]]) -> None:
        """A line for every node that has gone or come since the last look."""
        for key, node in self.nodes.items():
            if node.alive and key not in alive:
                node.alive = False
                lost = sum(hand.node == key for hand in self.hands)
                say(f"Ray: {node.name} is gone, with {counted(lost, 'actor')}; what was under way "
                    "there is asked for again")
        for key, about in alive.items():
            if key not in self.nodes:
                node = Machine(self._new_name(about), _room(about, self.config))
                self.nodes[key] = node
                if self.hands:
                    say(f"Ray: {node.name} has come, with room for "
                        f"{counted(node.places, 'actor')}")

    def _say_of_deaths(self, now: float, alive: dict[str, dict[str, Any]]) -> None:
        """A line for every actor that has died alone, not with its node."""
        for died, key, why in self._deaths:
            if now - died > PATIENCE and key in alive:
                say(f"Ray: an actor on {self.nodes[key].name} has died and is started again "
                    f"({clip(why, 160)})")
        self._deaths = [death for death in self._deaths if now - death[0] <= PATIENCE]

    def _new_name(self, about: dict[str, Any]) -> str:
        """The address of a machine; with a number where several nodes have it."""
        base, names = str(about["NodeManagerAddress"]), {n.name for n in self.nodes.values()}
        return next(name for k in range(1, len(names) + 2)
                    if (name := base if k == 1 else f"{base}#{k}") not in names)

    def _name(self, hand: _Hand) -> str:
        return self.nodes[hand.node].name if hand.node in self.nodes else "an actor"

    def _places(self) -> int:
        return sum(n.places for n in self.nodes.values() if n.alive and not n.refused)

    def _say_of_start(self, address: str, page: str) -> None:
        room, each = self._places(), f"ray.cpus={self.config.cpus:g}"
        if self.config.gpus:
            each += f", ray.gpus={self.config.gpus:g}"
        if not room:
            raise UserError(f"--ray {address}: no machine of the cluster has room for an actor of "
                            f"{each}; make it smaller (--set ray.cpus=1 --set ray.gpus=0), or "
                            "start larger machines")
        alive = sum(node.alive for node in self.nodes.values())
        say(f"Ray: {counted(alive, 'node')}, room for {counted(room, 'actor')} of {each}"
            + (f", its dashboard at http://{page}" if page else ""))
        if self.wanted is not None and self.wanted > room:
            say(f"Ray: --actors {self.wanted}: {counted(room, 'actor')} begin; the others wait for "
                "machines (ray start --address=… on more of them), or make --actors smaller")

    def _forget(self) -> None:
        """Let weights go that no piece will be made by."""
        used = {self._version, *self._asked.values()}
        self._weights = {v: kept for v, kept in self._weights.items() if v in used}

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        for hand in self.hands:
            self.ray.kill(hand.actor, no_restart=True)
        self.hands = []
        self.ray.shutdown()


def _room(about: dict[str, Any], config: RayConfig) -> int:
    """How many actors fit on a node."""
    def has(what: str) -> float:
        return float(about["Resources"].get(what, 0.0))

    room = [has("CPU") / config.cpus] + ([has("GPU") / config.gpus] if config.gpus else [])
    return math.floor(min(room) + 1e-9)

