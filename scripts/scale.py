"""What more machines give: self-play over a cluster, simulated from measured figures, and texts.

    python scripts/scale.py                     # the tables of docs/scale.md
    python scripts/scale.py --chart docs/scale.png

Machines play in shards and hand them to one learner; weights go to every machine once a version.
The simulation walks through iterations: when each machine begins a shard, when the shard has
crossed the learner's network card, when the learner has enough, when its weights have reached all.
Everything else is arithmetic on ``Setup``. scripts/bench_ingest.py measures what goes in; figures
that were not measured say so in docs/scale.md.
"""

from __future__ import annotations

import argparse
import heapq
import math
from pathlib import Path
from typing import NamedTuple

MACHINES = (1, 10, 100, 1000)
DAY = 86_400.0


class Setup(NamedTuple):
    """A cluster and what it learns. Seconds, bytes, positions (rows that are learnt from)."""

    name: str
    rate: float  #: positions a second that one machine makes
    shard: float  #: positions in a shard
    size: float  #: bytes of a position on its way
    kept: float  #: bytes of a position on disk
    weights: float  #: bytes of a version
    learner: float  #: positions a second that the learner takes, each time that it learns one
    reuse: float  #: times that a position is learnt
    iteration: float  #: positions of an iteration
    staleness: int = 1  #: iterations that may be played ahead
    ingest: float = 2.0e9  #: bytes a second that the driver takes out of the store and keeps
    network: float = 1.25e9  #: bytes a second of a machine's network card: 10 Gbit/s
    spread: float = 0.15  #: how much shards differ in their time, relative


class Found(NamedTuple):
    """Of a simulation, once it is under way."""

    positions: float  #: learnt a second, each once
    waiting: float  #: share of the machines' time in which they wait
    learning: float  #: share of the learner's time in which it learns
    broadcast: float  #: seconds until a version has reached all machines
    store: float  #: bytes of shards that lie in the store at most
    traffic: float  #: bytes a second into the learner's machine
    limit: str  #: what is full first


def broadcast_seconds(setup: Setup, machines: int, tree: bool = True) -> float:
    """Until ``machines`` have the weights: whoever has them hands them on (log2 rounds), or one
    hands them to all in turn."""
    once = setup.weights / setup.network
    rounds = math.ceil(math.log2(machines + 1)) if tree else machines
    return once * rounds


def simulate(setup: Setup, machines: int, iterations: int = 12, tree: bool = True) -> Found:
    """Iterations of ``machines`` and a learner; the first half does not count.

    Iteration k is played by weights of version k - 1 - staleness at the earliest; a machine begins
    a shard as soon as it is free and one is wanted, the learner learns an iteration as soon as all
    its shards are there.
    """
    shards = max(1, math.ceil(setup.iteration / setup.shard))
    send = setup.shard * setup.size / min(setup.network, setup.ingest)
    make, learn = setup.shard / setup.rate, setup.iteration * setup.reuse / setup.learner
    reach = broadcast_seconds(setup, machines, tree)
    free = [(0.0, machine) for machine in range(machines)]
    heapq.heapify(free)
    version_at = [0.0] * (setup.staleness + 1)  # when version v is with all machines
    wire, learner_free, waited, played = 0.0, 0.0, 0.0, 0.0
    done: list[float] = []  # when iteration k has been learnt
    arrivals: list[tuple[float, float]] = []  # (came into the store, left it)
    half, began = iterations // 2, 0.0
    for k in range(iterations):
        ready = version_at[k]  # iteration k may not begin before
        came = []
        for n in range(shards):
            at, machine = heapq.heappop(free)
            start = max(at, ready)
            # machines differ in a way that repeats itself: no randomness in a table
            factor = 1 + setup.spread * math.sin(12.9898 * (machine + 1) + 78.233 * (n + 1) + k)
            end = start + make * factor
            heapq.heappush(free, (end, machine))
            if k >= half:
                waited, played = waited + start - at, played + end - start
            came.append(end)
        last = 0.0
        for end in sorted(came):
            wire = max(wire, end) + send
            arrivals.append((end, wire))
            last = wire
        begin = max(last, learner_free)
        learner_free = begin + learn
        done.append(learner_free)
        version_at.append(learner_free + reach)
        if k == half - 1:
            began = learner_free
    spent = max(done[-1] - began, 1e-12)
    count = (iterations - half) * shards * setup.shard
    idle = waited / max(waited + played, 1e-12)
    learning = (iterations - half) * learn / spent
    moving = (iterations - half) * shards * send / spent
    parts = {"the learner": learning, "the learner's network card or the driver": moving,
             "the machines": 1 - idle}
    rates = count / spent
    return Found(rates, idle, learning, reach, _most_at_once(arrivals) * setup.shard * setup.size,
                 rates * setup.size, max(parts, key=lambda part: parts[part])
                 if max(parts.values()) > 0.6 else "waiting for weights")


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of the spans (from, to) overlap at most."""
    events = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


# -------------------------------------------------------------------------------------- the setups

CORES = 16
#: 6x64 on 9x9: 73 MFLOP a pass (RESULTS.md); three times that to learn a position.
SMALL_FLOP = 73e6
#: 20 blocks of 256 on 19x19, the smaller net of AlphaGo Zero: 2 x 20 x 2 x 9 x 256^2 x 361.
ZERO_FLOP = 2 * 20 * 2 * 9 * 256**2 * 361.0
#: FLOP/s of an H100 in bfloat16: its data sheet's dense peak, and shares of it that are taken here.
H100, LARGE, TINY = 989e12, 0.4, 0.05

#: Evaluations behind a row: a full search of 32, and 8 for each of the two moves between, which the
#: playout cap leaves out of what is learnt (``RLConfig``); roots come on top. No evaluation is
#: remembered, which in Connect Four saves a half.
PER_ROW = 33 + (1 / 0.33 - 1) * 9
#: On 2 cores self-play in int8 makes 8,478 evaluations/s, the learner takes 926 positions/s
#: (RESULTS.md).
BOARD = Setup(
    "go9x9 6x64 by 16 cores each", rate=CORES * 8_478 / 2 / PER_ROW, shard=16 * 20.0, size=511.0,
    kept=112.0, weights=2.0e6, learner=CORES * 926 / 2, reuse=5.0, iteration=100_000.0)


def with_gpu(setup: Setup) -> Setup:
    """The same by machines with an H100, whose learner has one too. The search's own cost on the 16
    cores (2.85 us a simulation, RESULTS.md) and the net's on the GPU go on side by side."""
    evaluations = min(CORES / 2.85e-6, H100 * TINY / SMALL_FLOP)
    return setup._replace(
        name="go9x9 6x64 by H100s", rate=evaluations / PER_ROW,
        learner=H100 * TINY / (3 * SMALL_FLOP), iteration=1e6, shard=64 * 20.0)


ZERO = Setup(
    "AlphaGo Zero's (19x19, 20x256, 1,600 simulations) by H100s",
    rate=min(CORES / 6e-6, H100 * LARGE / ZERO_FLOP) / 1600, shard=8 * 200.0, size=2_200.0,
    kept=480.0, weights=2 * 23.5e6, learner=H100 * LARGE / (3 * ZERO_FLOP), reuse=1.46,
    iteration=25_000 * 200.0)


def faster_learner(setup: Setup, times: int) -> Setup:
    """With a learner sharded over ``times`` GPUs, larger iterations and network cards of 100
    Gbit/s."""
    return setup._replace(
        name=f"{setup.name}, learner on {times}", learner=setup.learner * times,
        iteration=setup.iteration * 8, network=12.5e9, ingest=setup.ingest * times)


# ------------------------------------------------------------------------------------- the tables


def rows_of(setup: Setup) -> list[str]:
    lines = [f"| {setup.name}: machines | positions/s learnt | machines wait | learner learns | "
             "weights reach all | store at most | into the learner | full first |",
             "|---|---|---|---|---|---|---|---|"]
    for machines in MACHINES:
        found = simulate(setup, machines)
        lines.append(
            f"| {machines:,} | {found.positions:,.0f} | {found.waiting:.0%} | "
            f"{found.learning:.0%} | {found.broadcast:.2g} s | {found.store / 1e6:,.0f} MB | "
            f"{found.traffic / 1e6:,.1f} MB/s | {found.limit} |")
    return lines


#: A game of AlphaGo Zero has about so many positions (19x19, resigned games are shorter).
ZERO_GAMES, ZERO_LENGTH, ZERO_STEPS, ZERO_BATCH = 4.9e6, 200.0, 700_000.0, 2048.0


def zero_lines() -> list[str]:
    """What AlphaGo Zero's 4.9 million games take."""
    positions = ZERO_GAMES * ZERO_LENGTH
    gpu_days = positions / ZERO.rate / DAY
    learner_days = ZERO_STEPS * ZERO_BATCH / ZERO.learner / DAY
    lines = [f"{ZERO_GAMES / 1e6:.1f} million games, {positions / 1e6:,.0f} million positions of "
             f"{1600:,} simulations: {gpu_days:,.0f} days of one H100; the learner's "
             f"{ZERO_STEPS:,.0f} batches of {ZERO_BATCH:,.0f}: {learner_days:.1f} days of one. "
             f"Shards: {positions * ZERO.kept / 1e9:,.0f} GB on disk, "
             f"{positions * ZERO.size / 1e9:,.0f} GB through the store.", "",
             "| machines of one H100 | days | learners |", "|---|---|---|"]
    for machines in MACHINES:
        days = gpu_days / machines
        lines.append(f"| {machines:,} | {max(days, 0):,.1f} | {learner_days / days:,.2f} |")
    return lines


class Texts(NamedTuple):
    """A run of a language model against a verifier."""

    steps: float
    answers: float  #: a step
    tokens: float  #: of an answer, on average over the run
    active: float  #: parameters that a token passes
    weights: float  #: bytes of a version, as the samplers hold it


#: DeepSeek-R1-Zero as its paper tells it (512 answers a step, 10,400 steps, 37 billion parameters
#: active of 671); 6,000 tokens an answer is a guess between its first and its last.
R1_ZERO = Texts(10_400, 512, 6_000, 37e9, 671e9)


def text_lines(run: Texts, gpus: tuple[int, ...] = (8, 64, 512, 4096)) -> list[str]:
    """Hours of a run by the share of GPUs that answer: writing a token is 2 FLOP a parameter at a
    tenth of the peak, learning it 6, and 2 more for the trainer's own log-probabilities."""
    tokens = run.steps * run.answers * run.tokens
    write, learn = (flop * run.active * tokens / (H100 * share) / 3600
                    for flop, share in ((2, 0.1), (8, 0.35)))
    lines = [f"{tokens / 1e9:,.0f} billion tokens: {write:,.0f} hours of one H100 to write, "
             f"{learn:,.0f} to learn; {run.weights / 1e9:,.0f} GB of weights, {run.steps:,.0f} "
             "times.", "",
             "| GPUs | writing : learning | hours, in turn | hours, one step stale | weights, tree "
             "over 400 Gbit/s |", "|---|---|---|---|---|"]
    for count in gpus:
        writers = count * write / (write + learn)
        hand = run.weights / 50e9 * math.ceil(math.log2(max(writers / 8, 1) + 1)) / 3600 * run.steps
        # in turn every GPU does both, and weights move within it; a step waits for its longest
        # answer, some three times the mean
        turn = (write * 1.8 + learn) / count + hand
        apart = max(write / writers, learn / (count - writers)) + 0.1 * hand
        lines.append(f"| {count:,} | {writers:,.0f} : {count - writers:,.0f} | {turn:,.0f} | "
                     f"{apart:,.0f} | {hand / run.steps * 3600:,.0f} s |")
    return lines


def chart(path: Path, setups: list[Setup]) -> None:
    """Positions/s over machines, with what the learner can take."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [round(10 ** (e / 6)) for e in range(19)]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for setup in setups:
        found = [simulate(setup, count) for count in counts]
        line, = left.plot(counts, [one.positions for one in found], label=setup.name)
        left.axhline(setup.learner / setup.reuse, color=line.get_color(), ls=":", lw=0.8)
        right.plot(counts, [100 * one.waiting for one in found], color=line.get_color())
    left.set(xscale="log", yscale="log", xlabel="machines", ylabel="positions/s learnt (once)")
    right.set(xscale="log", xlabel="machines", ylabel="% of the machines' time spent waiting")
    left.legend(fontsize=7, frameon=False, loc="lower right")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chart", type=Path, help="draw the chart there")
    args = parser.parse_args()
    setups = [BOARD, with_gpu(BOARD), faster_learner(with_gpu(BOARD), 8), ZERO]
    for setup in setups:
        print("\n".join([*rows_of(setup), ""]))
    print("\n".join([*zero_lines(), "", *text_lines(R1_ZERO)]))
    if args.chart:
        chart(args.chart, setups)


if __name__ == "__main__":
    main()
