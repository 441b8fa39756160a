"""Matches, expert games and policy gradient's games on a cluster: those of one machine."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command import drop_sums, save_net
from farm_here import Here, commands_get

from selfplay.arena.contest.sprt import Trial, parse_sprt
from selfplay.arena.expert import generate
from selfplay.arena.match import MatchResult, play_match
from selfplay.arena.players import parse_player
from selfplay.arena.records import GameRecord, read_records
from selfplay.cli import cli
from selfplay.cluster import matches
from selfplay.cluster.actor import Order
from selfplay.cluster.matches import SpreadMatches, carried
from selfplay.cluster.stages import OnFarm
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.models import spec_for
from selfplay.run.boards import KeptPolicyLearner, train_pg
from selfplay.run.config import override, preset
from selfplay.run.folder import Run

GAME = make("tictactoe")
FAKE = f"gtp:{sys.executable} {Path(__file__).with_name('fake_gtp.py')} good"

pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfplay-lab[ray]'")


def played(folder: Path, a: str, b: str, away: Any, games: int = 14, **how: Any
           ) -> tuple[MatchResult, list[GameRecord]]:
    result = play_match(GAME, a, b, games=games, seed=5, opening=(0, 3), folder=folder, away=away,
                        **how)
    return result, sorted(read_records(folder / "games.jsonl"), key=lambda one: one.index)


def spread(seed: int = 0) -> SpreadMatches:
    return SpreadMatches(Here(seed, late=True), "tictactoe")  # type: ignore[arg-type]


@pytest.mark.parametrize(("a", "b"), [("mcts:8", "net:rl/one@4"), ("policy:rl/one", "random")])
def test_a_match_is_that_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: str, b: str
) -> None:
    """Game by game, however they are cut; a net is named from the folder that the command is in."""
    save_net(tmp_path / "rl/one", "tictactoe")
    monkeypatch.chdir(tmp_path)
    here, records = played(tmp_path / "here", a, b, None, home=tmp_path)
    away, others = played(tmp_path / "away", a, b, spread(), home=tmp_path)
    assert others == records and len(records) == 14
    assert away.total == here.total and (away.a, away.b) == (here.a, here.b) == (a, b)


def test_an_interrupted_match_is_gone_on_with(tmp_path: Path) -> None:
    """What had begun is played out; the next start, without a cluster or with one, plays the rest
    of the same games."""
    _, records = played(tmp_path / "here", "mcts:4", "random", None)
    asked = iter([False] * 2 + [True] * 99)
    _, some = played(tmp_path / "away", "mcts:4", "random", spread(), stop=asked.__next__)
    assert 0 < len(some) < len(records)
    more = spread(3)
    assert played(tmp_path / "away", "mcts:4", "random", more)[1] == records
    again = [number for piece in more.farm.made for number in piece.key]  # type: ignore[attr-defined]
    assert not {one.index for one in some} & set(again)
    farm = spread()
    played(tmp_path / "drop", "mcts:4", "random", farm, drop=lambda: True)
    assert not farm.farm.made  # type: ignore[attr-defined]


def test_a_test_ends_as_on_one_machine(tmp_path: Path) -> None:
    decided = []
    for away in (None, spread(), spread(1)):
        trial = Trial(parse_sprt("0,300", 0.1, 0.1))
        result, _ = played(tmp_path / f"{len(decided)}", "mcts:16", "random", away, games=400,
                           trial=trial)
        decided.append((trial.decision, trial.games, result.total))
    assert decided[0][0] == "H1" and decided[0][1] < 400
    assert decided[0] == decided[1] == decided[2]


@pytest.mark.parametrize("player", ["mcts:8", "policy:one"])
def test_expert_games_are_those_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: str
) -> None:
    """A net, whose checkpoint travels, is one player for both sides as well."""
    save_net(tmp_path / "one", "tictactoe")
    monkeypatch.chdir(tmp_path)
    files = []
    for away in (None, spread()):
        files.append(tmp_path / f"{len(files)}.jsonl.gz")
        made = generate(GAME, player, 30, files[-1], seed=3, opening=(1, 4), away=away)
        assert made.wanted == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_engine_plays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On actors whose machine has it; where none has, on the command's own."""
    game, both = make("go5x5"), []
    monkeypatch.setattr(matches, "PATIENCE", 0.0)
    for able in (2, 0):
        farm = Here(1)
        farm.able = able
        away = SpreadMatches(farm, "go5x5")  # type: ignore[arg-type]
        both.append(play_match(game, FAKE, "random", games=4, seed=1, away=away,
                               folder=tmp_path / f"{able}"))
        assert farm.job.programs == (FAKE.removeprefix("gtp:"),)
        assert len(farm.made) == (2 if able else 0)
        for actor in farm.actors:  # another job ends the engines
            if farm.made and actor._idle:
                engine = actor._idle[0][0].players[0]
                assert engine._engines
                with pytest.raises(TypeError):  # it is none that can be made
                    actor._take(Order("selfplay.cluster.actor:Maker", {}))
                assert not engine._engines
    assert both[0].total == both[1].total


class Dying(Here):
    """Its last machine with the programs is gone after the first piece."""

    able = property(lambda self: 0 if self.made else 2)  # type: ignore[assignment]

    def poll(self, seconds: float) -> list[Any]:
        return super().poll(seconds) if self.able else []


def test_what_the_last_machine_with_an_engine_had_is_played_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where this one has the engine; else a line says so, and the games that came are kept."""
    monkeypatch.setattr(matches, "PATIENCE", 0.1)
    game, farm = make("go5x5"), Dying(1)
    away, here = (play_match(
        game, FAKE, "random", games=6, seed=1, folder=tmp_path / name,
        away=SpreadMatches(farm, "go5x5") if name == "away" else None)  # type: ignore[arg-type]
        for name in ("away", "here"))
    first, *_ = farm.made
    assert away.total == here.total and away.games == 6 > len(first.key)
    assert "no machine has gtp:" in capsys.readouterr().out
    monkeypatch.setattr(matches, "missing_engine", lambda spec: "not here")
    with pytest.raises(UserError, match="no machine of the cluster has this program now, nor has"):
        play_match(game, FAKE, "random", games=6, seed=1, folder=tmp_path / "kept",
                   away=SpreadMatches(Dying(1), "go5x5"))  # type: ignore[arg-type]
    assert len(list(read_records(tmp_path / "kept/games.jsonl"))) == len(first.key)


def test_a_match_is_cut_for_the_actors_that_are_to_come(tmp_path: Path) -> None:
    farm = Here(0, late=True)
    farm.alive, farm.able, farm.expected = 0, 0, 4
    played(tmp_path, "random", "mcts:2", SpreadMatches(farm, "tictactoe"),  # type: ignore[arg-type]
           games=32)
    assert max(len(piece.key) for piece in farm.made) == 32 // (4 * matches.EACH)


@pytest.mark.parametrize("words", [
    ("match", "random", "mcts:4", "--out", "m"),
    ("match", "random", "mcts:4", "mcts:2", "--out", "t"),
    ("expert", "--player", "mcts:4", "--out", "e.jsonl.gz")])
def test_commands_play_there(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands_get(farm := Here(0), monkeypatch)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli, [*words, "--game", "tictactoe", "--games", "6", "--ray",
                                    "local"])
    assert said.exit_code == 0, said.output
    games = 18 if "mcts:2" in words else 6
    assert sum(piece.output.figures["games"] for piece in farm.made) == games


def test_of_a_player_its_checkpoints_travel(tmp_path: Path) -> None:
    save_net(tmp_path, "tictactoe")
    files: dict[str, Any] = {}
    assert carried(f"net:{tmp_path}@8x2", "0", files) == f"net:{matches.CARRIED}/0@8x2"
    assert {name: data.tobytes() for name, data in files.items()} == {
        f"0/{name}": (tmp_path / name).read_bytes() for name in ("meta.json",
                                                                 "weights.safetensors")}
    for spec in ("random", "mcts:8", "net:connect4@8", "gtp:gnugo --mode gtp", "/x/own.py:Mine"):
        assert carried(spec, "1", files) == spec
    assert len(files) == 2


def test_a_policy_that_lies_elsewhere_travels_with_its_value_net(tmp_path: Path) -> None:
    """AlphaGo's value net names it by an absolute path where a run began from another's."""
    policy, value = tmp_path / "other/policy", tmp_path / "run/value/ckpt-000001"
    for path in (policy, value):
        save_net(path, "tictactoe")
    drop_sums(value)
    meta = json.loads((value / "meta.json").read_text())
    (value / "meta.json").write_text(json.dumps({**meta, "policies": {"rl": str(policy)}}))
    files: dict[str, Any] = {}
    spec = carried(f"alphago:{value}@4,prior=rl", "0", files)
    for name, data in files.items():  # as an actor unpacks them, on a machine without the run
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    shutil.rmtree(tmp_path / "other")
    shutil.rmtree(tmp_path / "run")
    there = spec.replace(matches.CARRIED, f"{tmp_path}/there")
    assert parse_player(there, GAME).name == there


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_games_by_policy_gradient_are_those_of_one_machine(tmp_path: Path, name: str) -> None:
    """So are the weights after learning from them, to the bit."""
    config = override(preset("tictactoe"), [
        f"rl.algorithm={name}", "net=1x8", "rl.iterations=3", "pool.games=24", "pool.every=1",
        "pool.opponents=3", "pool.group=4", "pg.minibatches=2"])
    run, ends = Run(tmp_path, config, GAME), []
    for farm in (None, Here(2, late=True)):
        learner = KeptPolicyLearner(GAME, spec_for(GAME, "1x8"), config, tmp_path / f"{len(ends)}",
                                    init=None, device="cpu", seed=4)
        if farm is not None:
            learner.plays = OnFarm(farm).league(run, learner)  # type: ignore[arg-type]
        newest = train_pg(learner)
        assert newest is not None
        rows = [{key: value for key, value in row.items()
                 if "seconds" not in key and "mb" not in key} for row in learner.history]
        ends.append(((newest / "weights.safetensors").read_bytes(), rows))
    assert ends[0] == ends[1]
    assert len(farm.made) == 9, "a piece an opponent"  # type: ignore[union-attr]
