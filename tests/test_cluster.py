"""Self-play on a cluster: the same games and weights whoever makes them, whatever dies."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Command, save_net
from farm_here import Here
from script import load

from selfplay.arena.match import play_match
from selfplay.arena.records import read_records
from selfplay.board.config import RLConfig
from selfplay.board.policy import BoardPolicy
from selfplay.board.value import Policies, play_shard
from selfplay.cli.options import farm_of
from selfplay.cluster import farm as farms
from selfplay.cluster.actor import Key, Order
from selfplay.cluster.connect import connected
from selfplay.cluster.farm import Farm
from selfplay.cluster.matches import SpreadMatches
from selfplay.cluster.selfplay import SpreadGames, WholeGames
from selfplay.cluster.stages import OnFarm
from selfplay.common.errors import UserError
from selfplay.common.threads import Workers
from selfplay.games import make
from selfplay.inference.evaluator import Evaluator
from selfplay.learn import checkpoint
from selfplay.models import build, seeded, spec_for
from selfplay.run.boards import KeptLearner, ShardedGames, train_rl
from selfplay.run.config import RayConfig, preset
from selfplay.run.folder import Run
from selfplay.run.shards import load_shard

GAME = make("tictactoe")
SPEC = spec_for(GAME, "1x8")
SMALL = RLConfig(sims=4, cheap_sims=2, games=16, positions=200, iterations=3, opening=(0, 2),
                 temperature_plies=3, batch_size=32, reuse=1.0, cache_mb=1, dtype="float32")
SHARD = 12  #: games
BENCH = load("bench_ray")


# --------------------------------------------------------------------------------- a shard


def shard(games: int, at_once: int, group: int = 0) -> Any:
    net = seeded(1, lambda: build(SPEC))
    config = replace(SMALL, games=at_once)
    return WholeGames(GAME, Evaluator(net, GAME), config, 5, group, games).play()


def test_a_shard_is_whole_games_and_always_the_same() -> None:
    first, second, other = shard(20, 8), shard(20, 8), shard(20, 8, group=1)
    assert len(first.ends) == 20 == len(other.ends)
    for a, b in zip((*first.columns, *first[1:]), (*second.columns, *second[1:]), strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first.actions, other.actions)
    for moves, value in zip(np.split(first.actions, first.ends[:-1]), first.values, strict=True):
        states = GAME.new(1)
        for move in moves:
            assert not GAME.result(states)[0][0] and GAME.legal(states)[0, move]
            GAME.step(states, np.array([move]))
        done, result = GAME.result(states)
        assert done[0] and result[0] == value


# ------------------------------------------------------------------- iterations, without Ray


def learner(folder: Path, config: RLConfig = SMALL) -> KeptLearner:
    return KeptLearner(GAME, SPEC, config, folder, init=None, device="cpu", seed=3)


def trained(folder: Path, farm: Any, config: RLConfig = SMALL,
            stop: Callable[[], bool] = lambda: False) -> KeptLearner:
    found = learner(folder, config)
    found.games = SpreadGames(folder / "records", farm, found, "tictactoe", "1x8", SHARD)
    train_rl(found, left=lambda: -1.0 if stop() else 1e9)
    return found


def weights(folder: Path) -> bytes:
    return (folder / "ckpt-000003/weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")
    trained(folder, Here(0))
    return folder


def same_run(folder: Path, undisturbed: Path) -> None:
    """The same games in the same order, each once, and the same weights."""
    for k in (1, 2, 3):
        a, b = (load_shard(run / f"records/{k:06d}.npz") for run in (folder, undisturbed))
        assert len(a.ends) % SHARD == 0
        for x, y in zip((*a.columns, *a[1:]), (*b.columns, *b[1:]), strict=True):
            assert np.array_equal(x, y)
    assert weights(folder) == weights(undisturbed)
    assert not list(folder.glob("records/*.parts"))


def test_neither_order_nor_doubles_matter(tmp_path: Path, undisturbed: Path) -> None:
    farm = Here(7, late=True)
    row = trained(tmp_path, farm).history[-1]
    same_run(tmp_path, undisturbed)
    keys = [piece.key for piece in farm.made]
    assert len(set(keys)) == len(keys) and row["staleness"] == 0
    assert row["shards"] == sum(number == 3 for number, _ in keys)
    assert row["evaluations"] == sum(piece.output.figures["evaluations"] for piece in farm.made
                                     if piece.key[0] == 3)


def test_a_start_after_a_kill_asks_for_what_is_missing(tmp_path: Path, undisturbed: Path) -> None:
    made: list[Key] = []
    for k in range(6):
        farm, asked = Here(k), iter(range(1000))
        trained(tmp_path, farm, stop=lambda asked=asked, k=k: next(asked) > 3 + k)
        made += [piece.key for piece in farm.made]
    trained(tmp_path, last := Here(9))
    made += [piece.key for piece in last.made]
    same_run(tmp_path, undisturbed)
    assert len(set(made)) == len(made), "a shard on disk was made again"


def test_games_of_a_start_without_ray_are_kept(tmp_path: Path, undisturbed: Path) -> None:
    alone = learner(tmp_path)
    asked = iter(range(1000))
    path = tmp_path / "records/000001.npz"
    alone.games._play(path, alone, lambda: next(asked) > 2, lambda n: None)
    assert not path.exists()
    stops = iter([False] * 4 + [True] * 9)
    trained(tmp_path, Here(1), replace(SMALL, iterations=1), stop=stops.__next__)
    part = path.with_suffix(".parts")
    before = {file.name for file in part.glob("*.npz")}
    assert any(name.startswith("shard-") for name in before)
    again = learner(tmp_path, replace(SMALL, iterations=1))
    ShardedGames(tmp_path / "records")(again, lambda: False, lambda n: None)
    kept = load_shard(path)
    assert len(kept.columns.value) >= SMALL.positions


@pytest.mark.parametrize("bound", [1, 2])
def test_staleness_is_bounded_and_logged(tmp_path: Path, undisturbed: Path, bound: int) -> None:
    farm = Here(3)
    found = trained(tmp_path, farm, replace(SMALL, max_staleness=bound, iterations=4))
    behind = [number - 1 - version for number, version in
              ((piece.key[0], piece.version) for piece in farm.made)]
    assert max(behind) <= bound and max(behind) > 0
    assert [row["iteration"] for row in found.history] == [1, 2, 3, 4]
    assert 0 < max(row["staleness"] for row in found.history) <= bound


def test_games_for_the_value_net_are_those_of_one_machine(tmp_path: Path) -> None:
    config = replace(preset("tictactoe"), net="1x8")
    run = Run(tmp_path, config, GAME)
    paths = [tmp_path / "before", tmp_path / "after"]
    for path in paths:
        save_net(path, "tictactoe")
    found = dict(OnFarm(Here(4, late=True)).value_games(run, paths, [1, 0], lambda: False))
    net, _ = checkpoint.load_net(paths[0], GAME)
    policy = BoardPolicy(net, GAME.obs_shape, GAME.num_actions, "cpu").frozen()
    alone = play_shard(GAME, Policies(policy, policy), 1, GAME.max_moves, config.seed, Workers(1))
    assert alone is not None and set(found) == {0, 1}
    for mine, theirs in zip((*found[1].columns, *found[1][1:]), (*alone.columns, *alone[1:]),
                            strict=True):
        assert np.array_equal(mine, theirs)
    asked = Here(5)
    assert not dict(OnFarm(asked).value_games(run, paths, [1], lambda: True))


# ------------------------------------------------------------------------------ on Ray itself


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node, with room for one actor each; their processes find the tests' modules."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")
    places = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        yield from started_cluster()


def started_cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    BENCH.patient()
    try:
        found = Cluster(initialize_head=True, head_node_args=BENCH.room(include_dashboard=False))
        found.node = found.add_node(**BENCH.room())
        found.wait_for_nodes()
    except Exception as error:  # nothing of ours has run yet
        pytest.skip(f"Ray's own processes do not start on this machine: {error}")
    yield found
    import ray

    ray.shutdown()
    found.shutdown()


@pytest.fixture
def farm(cluster: Any) -> Iterator[Farm]:
    found = Farm(cluster.address, RayConfig(cpus=1.0))
    yield found
    found.close()


def test_actors_on_ray_give_the_same_whatever_dies(
    tmp_path: Path, undisturbed: Path, cluster: Any, farm: Farm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An actor is killed, a node goes, another comes: the weights of an undisturbed run."""
    events: list[tuple[int, Callable[[], object]]] = [
        (1, lambda: os.kill(pids(cluster)[0], signal.SIGKILL)),
        (3, lambda: cluster.remove_node(cluster.node, allow_graceful=False)),
        (3, lambda: cluster.add_node(**BENCH.room()))]

    def stop() -> bool:
        if events and sum(node.done["pieces"] for node in farm.nodes.values()) >= events[0][0]:
            events.pop(0)[1]()
        return False

    found = trained(tmp_path, farm, stop=stop)
    same_run(tmp_path, undisturbed)
    assert not events and farm.restarts >= 1
    assert sum(row["moved_mb"] for row in found.history) > 0
    said = capsys.readouterr().out
    while "has come, with room for 1 actor" not in said or (
            all(node.alive for node in farm.nodes.values())):  # Ray may take its time to see it go
        farm.poll(0.2)
        said += capsys.readouterr().out
    assert "Traceback" not in said and "node " in said
    assert sum(not node.alive for node in farm.nodes.values()) == 1
    assert set(found.history[-1]["nodes"]) <= {node.name for node in farm.nodes.values()}


def test_a_match_on_ray_is_that_of_one_machine(tmp_path: Path, farm: Farm) -> None:
    """Whose net's checkpoint comes with the job; no machine has the other engine."""
    save_net(tmp_path / "net", "tictactoe")
    both = []
    for away in (None, SpreadMatches(farm, "tictactoe")):
        folder = tmp_path / f"{len(both)}"
        play_match(GAME, "mcts:8", f"net:{tmp_path / 'net'}@4", games=10, seed=1, folder=folder,
                   away=away)
        both.append(sorted(read_records(folder / "games.jsonl"), key=lambda one: one.index))
    assert both[0] == both[1] and len(both[0]) == 10
    farm.begin(Order("selfplay.cluster.actor:Maker", {}, ("no-such-engine --gtp",)))
    while farm.alive < 1:
        farm.poll(0.2)
    assert not farm.able


def test_completions_on_ray_are_those_of_one_process(farm: Farm) -> None:
    pytest.importorskip("transformers", reason='pip install -e ".[llm]"')
    from selfplay.cluster.texts import RayGenerator
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.generate import Sampling, TorchGenerator

    model = small_model("1x32", character_tokenizer(), 0).eval()
    ends, rows = tuple(range(20, 40)), [[5, 6, 7], [8, 9, 10, 11, 12], [30]]
    away, here = RayGenerator(farm, ends, 0, model), TorchGenerator(model, ends, 0)
    for seed in (1, 2):
        one, other = (write(rows, 3, Sampling(max_new_tokens=6), seed) for write in (away, here))
        assert torch.equal(one.action, other.action) and torch.equal(one.ended, other.ended)
        torch.testing.assert_close(one.logp, other.logp, atol=1e-5, rtol=1e-5)
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.3 * torch.randn(weight.shape, generator=drawn)
        away.refresh(model)


def pids(cluster: Any) -> list[int]:
    """Processes of the cluster's actors."""
    raylets = {info.process.pid for node in cluster.list_all_nodes()
               for info in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            name = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent in raylets and name.startswith(b"ray::RayActor"):
            found.append(int(path.name))
    return found


# -------------------------------------------------------------------------------- bad input


def refused(address: str, *words: str) -> None:
    with pytest.raises(UserError) as error:
        connected(address)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_where_no_ray_answers_is_one_line() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")
    refused("127.0.0.1:1", "--ray 127.0.0.1:1: no Ray answers", "ray start --head --port=1")
    refused("a..b:6379", "--ray a..b:6379: no Ray answers")
    for nonsense in ("ray://127.0.0.1:10001", "somewhere", "host:port", "host:99999", "host:²"):
        refused(nonsense, f"--ray {nonsense}: auto, local or HOST:PORT wanted")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_program_than_ray_is_one_line(said: bytes) -> None:
    """Such as its dashboard. Ray itself would ask it for five minutes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer() -> None:
            with server.accept()[0] as line:
                line.recv(100)
                line.sendall(said)

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(answer)
            address = f"127.0.0.1:{server.getsockname()[1]}"
            refused(address, f"--ray {address}: no Ray answers")
            other.result()


def test_without_ray_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused("auto", "Ray is not installed", "pip install 'selfplay-lab[ray]'")


def test_a_cluster_of_another_version(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.__version__", "1.2.3")
    refused(cluster.address, "another version of Ray or Python", "1.2.3", "install the same")


def test_too_few_cpus(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"room for an actor of ray\.cpus=64; make it smaller"):
        Farm(cluster.address, RayConfig(cpus=64.0))
    Farm(cluster.address, RayConfig(cpus=0.5), actors=9).close()
    assert "--actors 9: 4 actors begin; the others wait for machines" in capsys.readouterr().out


def test_another_commit_gets_no_work(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(farms, "sources", lambda: "another")
    found = Farm(cluster.address, RayConfig(cpus=1.0))
    with pytest.raises(UserError, match="no machine has the selfplay of this one; install the"):
        while True:
            found.poll(0.5)
    found.close()
    assert "has another selfplay than this machine and gets no work" in capsys.readouterr().out


def test_work_that_fails_on_an_actor_is_one_line(farm: Farm) -> None:
    farm.begin(Order("selfplay.cluster.selfplay:ShardMaker", {
        "game": "chess", "net": "1x8", "spec": SPEC, "config": SMALL, "seed": 0, "games": 1}))
    farm.ask((1, 0))
    with pytest.raises(UserError, match=r"^on [\d.#]+: .*chess"):
        while True:
            farm.poll(0.5)


def test_a_node_without_room_loses_nothing(
    tmp_path: Path, farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others make what it could not; its own turn comes later."""
    while farm.alive < 2:
        farm.poll(0.5)
    farm.begin(Order("farm_here:FullDisk", {"folder": str(tmp_path)}))
    for k in range(3):
        farm.ask((k,))
    came: list[Any] = []
    while len(came) < 3:
        came += farm.poll(0.5)
    assert {piece.key for piece in came} == {(0,), (1,), (2,)}
    assert (tmp_path / "first").read_text() not in {piece.output.piece for piece in came}
    said = capsys.readouterr().out
    assert said.count("has no room for what it makes (Local disk is full") == 1
    assert "make room on its disk" in said


def test_a_full_store_is_one_line(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ObjectStoreFullError", "OutOfDiskError"):
        def full(thing: Any, name: str = name) -> Any:
            raise getattr(farm.ray.exceptions, name)("full")

        monkeypatch.setattr(farm.ray, "put", full)
        with pytest.raises(UserError, match=r"object store is full.*--object-store-memory") as told:
            farm.publish(0, np.zeros(9))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("words", [
    ("rl", "--init", "random"), ("match", "random", "random"),
    ("expert", "--player", "random", "--out", "x.jsonl.gz")])
def test_actors_want_a_cluster(run: Command, words: tuple[str, ...]) -> None:
    said = run(*words, "--game", "tictactoe", "--actors", "2")
    said.mistake("--actors", "give --ray as well")


def test_torchrun_wants_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="leave out torchrun, or --ray"), farm_of("local", None):
        pass
