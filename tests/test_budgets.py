"""Time as a run spends it, on a clock that only moves when it is looked at or told to."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, TINY, Command, drop_sums

from selfplay.arena.match import MatchResult
from selfplay.arena.play import play_games
from selfplay.arena.players import parse_player
from selfplay.board.config import RLConfig
from selfplay.board.selfplay import SelfPlay
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common import compiling
from selfplay.common.compiling import working_seconds
from selfplay.common.console import Bar
from selfplay.common.errors import UserError
from selfplay.common.files import write_json
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.inference.evaluator import Evaluator
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded
from selfplay.run import boards, calibrate, compare, pipeline, teacher
from selfplay.run import clock as clocks
from selfplay.run.boards import KeptLearner, train_rl
from selfplay.run.calibrate import Speed, first_point, first_rows, prepare
from selfplay.run.clock import Clock
from selfplay.run.compare import Pairing
from selfplay.run.config import RunConfig, override, preset
from selfplay.run.folder import Run, open_run, stages, stored_config
from selfplay.run.keep import Kept
from selfplay.run.stage import Desk

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
T = ("--game", "tictactoe", "--run", "here")
Begun = Callable[[float], str]


class Ticking:
    """Stands in for the module ``time``: every look takes ``tick`` seconds."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 1000.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """A run's clock, 0.1 seconds a look, and nothing measured."""
    clock = Ticking(0.1)
    monkeypatch.setattr(clocks, "time", clock)
    monkeypatch.setattr(clocks, "working_seconds", clock.monotonic)
    monkeypatch.setattr(pipeline, "prepare", lambda run, clock, device: None)
    return clock


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bars show, all of it."""
    notes: list[str] = []
    monkeypatch.setattr(Bar, "at", lambda bar, done, note="": notes.append(f"{bar.title}: {note}"))
    return notes


def opened(folder: Path, *words: str) -> Run:
    return open_run(folder, override(preset("tictactoe"), words))


def train(run: Command, minutes: float, *words: str) -> str:
    said = run("train", *T, *TINY[2:], "--set", "rl.positions=24", "--set",
               "shares=0.1,0.2,0.5,0.2", "--minutes", f"{minutes:g}", *words)
    assert said.code == 0, said.err
    return said.out


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Runs that several tests begin with, and what was said."""
    return tmp_path_factory.mktemp("shelf"), {}


@pytest.fixture
def begun(
    run: Command, ticking: Ticking, tmp_path: Path, shelf: tuple[Path, dict[str, str]]
) -> Begun:
    """``train`` for so many minutes in an empty folder, once: the others have a copy of it."""
    def copied(minutes: float) -> str:
        folder, said = shelf[0] / f"{minutes}", shelf[1]
        if folder.name not in said:
            more = ("--set", "sft.max_steps=10000") if minutes < 1 else ()
            said[folder.name] = train(run, minutes, *more)
            shutil.copytree(tmp_path / "here", folder)
        else:
            shutil.copytree(folder, tmp_path / "here")
        return said[folder.name]

    return copied


def games(folder: Path) -> set[tuple[int, ...]]:
    found, _ = teacher.expert.read_expert([folder / "expert/games.jsonl.gz"], GAME)
    return {game.actions for game in found}


# --------------------------------------------------------------------- a budget that grows


def test_more_minutes_improve_every_stage(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    """A starved first start: some of the expert's games, a little SFT, one iteration of RL."""
    short = begun(0.5)
    here = tmp_path / "here"
    few = games(here)
    assert "of 40 made; more --minutes make the others" in short and len(few) < 30
    assert "SFT: not flat yet" in short
    learnt = read_history(here / "sft/history.jsonl")
    before = checkpoint.read_meta(checkpoint.newest(here / "sft"))["step"]
    seconds = json.loads((here / "progress.json").read_text())["seconds"]
    rl = (here / "rl/ckpt-000001/weights.safetensors").read_bytes()

    longer = train(run, 30, "--set", "sft.max_steps=200")
    assert few < games(here)  # all of those, and more
    assert "of 40 made" not in longer
    assert "SFT: goes on with more games; RL begins again from it" in longer
    rows = read_history(here / "sft/history.jsonl")
    assert rows[: len(learnt)] == learnt and rows[len(learnt)]["step"] > before
    assert rows[-1]["rows"] > learnt[-1]["rows"]
    assert (here / "earlier/1/rl/ckpt-000001/weights.safetensors").read_bytes() == rl
    assert (here / "rl/ckpt-000001/weights.safetensors").read_bytes() != rl
    met = [json.loads(path.read_text()) for path in here.glob("earlier/1/matches/*/match.json")]
    assert met and all("rl/" in f"{match['a']} {match['b']}" for match in met)
    after = json.loads((here / "progress.json").read_text())["seconds"]
    assert all(after[stage] > seconds[stage] for stage in seconds)

    again = train(run, 30, "--set", "sft.max_steps=200")  # nothing is left to grow
    assert "SFT: finished" in again and not (here / "earlier/2").exists()


def test_an_rl_that_has_cost_much_stays_and_the_command_is_named(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    begun(0.5)
    here = tmp_path / "here"
    spent = json.loads((here / "progress.json").read_text())
    del spent["crc32"]
    spent["seconds"]["rl"] = 1500.0  # of 30 minutes, of which it may have 24
    (here / "progress.json").write_text(json.dumps(spent))
    said = train(run, 30, "--set", "sft.max_steps=200")
    assert not (here / "earlier").exists()
    assert "It stays, though there are more games than it has learnt from" in said
    words = said.partition("again from that: ")[2].partition(", then the same")[0].split()
    assert words[:3] == ["selfplay", "sft", "--run"] and "--again" in words
    done = run(*words[1:])
    assert done.code == 0 and (here / "earlier/1/rl/ckpt-000001").is_dir(), done.err
    assert not (here / "rl").exists()
    assert "RL: 3 iterations" in train(run, 30, "--set", "sft.max_steps=200")


def test_sft_goes_on_where_its_share_of_more_minutes_is_less_than_it_has_had(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    """What a first start needed at the least was more than SFT's share of the next one is."""
    begun(0.5)
    here = tmp_path / "here"
    spent = json.loads((here / "progress.json").read_text())
    del spent["crc32"]
    spent["seconds"] |= {"sft": 36.0, "rl": 10.0}  # of 3 minutes, a tenth of which would be 18 s
    (here / "progress.json").write_text(json.dumps(spent))
    before = checkpoint.read_meta(checkpoint.newest(here / "sft"))["step"]
    few = ("--set", "shares=0.1,0.1,0.6,0.2")
    assert "RL begins again from it" in train(run, 3, *few, "--set", "sft.max_steps=10000")
    assert (here / "earlier/1/rl/ckpt-000001").is_dir()
    assert checkpoint.read_meta(checkpoint.newest(here / "sft"))["step"] > before
    after = json.loads((here / "progress.json").read_text())["seconds"]["sft"]
    assert after == pytest.approx(72, abs=2)  # as long again
    said = train(run, 3, *few, "--set", "sft.max_steps=10000")
    assert "It stays, though its curve is not flat yet" in said  # and not once more
    assert not (here / "earlier/2").exists()


@pytest.mark.parametrize("spent", [0.52, 0.6])
def test_with_twice_the_minutes_sft_goes_on_and_rl_begins_again(
    run: Command, begun: Begun, tmp_path: Path, spent: float
) -> None:
    """RL has then spent half of its time, and a little where it was late."""
    begun(0.5)
    here = tmp_path / "here"
    found = json.loads((here / "progress.json").read_text())
    del found["crc32"]
    few = ("--set", "shares=0,0.1,0.6,0.3", "--set", "sft.max_steps=10000")
    found["seconds"] |= {"expert": 0.0, "sft": 6.0, "rl": spent * 0.6 * 120, "eval": 18.0}
    (here / "progress.json").write_text(json.dumps(found))
    assert ("RL begins again from it" in train(run, 2, *few)) == (spent < 0.55)
    assert (here / "earlier/1/rl").is_dir() == (spent < 0.55)


def test_before_rl_has_begun_the_teacher_and_sft_grow_with_the_minutes(
    run: Command, begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starved first start has given them more than their shares of twice the minutes are."""
    begun(0.5)
    here = tmp_path / "here"
    spent = json.loads((here / "progress.json").read_text())
    del spent["crc32"]
    shutil.rmtree(here / "rl")
    assert spent["minutes"] == 0.5
    spent["seconds"] |= {"expert": 20.0, "sft": 20.0, "rl": 0.0}
    (here / "progress.json").write_text(json.dumps(spent))
    before, few = checkpoint.read_meta(checkpoint.newest(here / "sft"))["step"], games(here)
    monkeypatch.setattr(pipeline, "prepare",
                        lambda run, clock, device: calibrate._let_grow(run, clock, False))
    small = ("--set", "shares=0.05,0.05,0.7,0.2", "--set", "sft.max_steps=10000",
             "--set", "rl.iterations=1")
    for minutes, seconds in ((1, 20), (3, 40), (3, 40)):  # of the first 40 seconds are spent
        train(run, minutes, *small)
        after = json.loads((here / "progress.json").read_text())["seconds"]
        step = checkpoint.read_meta(checkpoint.newest(here / "sft"))["step"]
        assert after["sft"] == pytest.approx(seconds, abs=2)
        assert (games(here) > few, step > before) == (minutes == 3, minutes == 3)


def test_what_is_promised_to_a_stage_outlives_a_kill(tmp_path: Path) -> None:
    run = opened(tmp_path, "minutes=1")
    first = Clock(run, stages(run.config))
    first.seconds |= {"expert": 5.0, "sft": 8.0}
    first.save()
    longer = replace(run, config=replace(run.config, minutes=4.0))
    clock = Clock(longer, stages(run.config))
    calibrate._let_grow(longer, clock, False)
    assert clock.needs == {"sft": 8.0}  # no games of the teacher are there to grow
    clock.seconds["sft"] += 3.0
    clock.save()
    again = Clock(longer, stages(run.config))
    calibrate._let_grow(longer, again, False)
    assert again.needs == {"sft": pytest.approx(5.0)} and again.before == 4.0
    again.needs = {"rl": 300.0}
    calibrate._let_grow(replace(run, config=replace(run.config, minutes=5.0)), again, False)
    assert "sft" not in again.needs  # RL's first point comes first
    again.begin_anew("sft")
    assert again.seconds["sft"] == 0.0


def test_a_game_stays_on_its_side_when_more_come(tmp_path: Path) -> None:
    run, player = opened(tmp_path, "expert.held_out=0.2"), parse_player("random", GAME)
    every = [SimpleNamespace(actions=record.actions) for record in play_games(
        GAME, player, player, games=60, seed=0, opening=(0, 0), slots=60, paired=False)]
    learnt, held = teacher._split_grown(run, every[:20])
    for count in (21, 60, 60):
        more, kept = teacher._split_grown(run, every[:count])
        assert [game for game in more if game in every[:20]] == learnt
        assert [game for game in kept if game in every[:20]] == held
    assert len(more) + len(kept) == 60 and len(kept) == pytest.approx(12, abs=1)
    fresh = teacher.split(every[:20], 0.2, run.config.seed)
    assert (learnt, held) == fresh


def as_an_earlier_version_left_it(here: Path) -> None:
    """Without what a later start needs to make more games, and no note of what is held out."""
    for path in (*here.glob("expert/*.partial.*"), here / "expert/sides.json"):
        path.unlink()
    drop_sums(here)
    for path in here.glob("sft/ckpt-*/meta.json"):
        meta = json.loads(path.read_text())
        del meta["held_out"]
        path.write_text(json.dumps(meta))
    spent = json.loads((here / "progress.json").read_text())
    write_json(here / "progress.json", {"seconds": spent["seconds"], "done": ["expert"]})


def test_a_starved_run_of_an_earlier_version_grows_as_well(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    begun(0.5)
    here = tmp_path / "here"
    as_an_earlier_version_left_it(here)
    few, _ = teacher.expert.read_expert([here / "expert/games.jsonl.gz"], GAME)
    _, held = teacher.split(few, 0.1, 0)
    longer = train(run, 30, "--set", "sft.max_steps=200")
    assert {game.actions for game in few} < games(here)
    assert "SFT: goes on with more games; RL begins again from it" in longer
    sides = json.loads((here / "expert/sides.json").read_text())
    assert {teacher._id(game) for game in held} == {
        key for key, side in sides.items() if side == "held"} & set(map(teacher._id, few))
    assert "plays itself" not in train(run, 30, "--set", "sft.max_steps=200")


def test_games_held_out_stay_so_when_their_list_is_lost(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    begun(30)
    sides = tmp_path / "here/expert/sides.json"
    before = sides.read_bytes()
    sides.unlink()
    train(run, 30)
    assert sides.read_bytes() == before


def test_where_nobody_can_tell_what_was_held_out_the_run_says_so(
    run: Command, begun: Begun, tmp_path: Path
) -> None:
    begun(0.5)
    train(run, 30, "--set", "sft.max_steps=200")  # other games have come
    here = tmp_path / "here"
    (here / "expert/sides.json").unlink()
    words = ("train", *T, *TINY[2:], "--set", "rl.positions=24", "--set", "shares=0.1,0.2,0.5,0.2",
             "--minutes", "30", "--set", "sft.max_steps=20")
    said = run(*words)
    said.mistake(f"{Path('here/expert/sides.json')}: missing", "bring it back, or delete here/sft")
    assert not (here / "expert/sides.json").exists()
    for name in ("sft", "rl", "matches"):  # the remedy
        shutil.rmtree(here / name)
    assert run(*words).code == 0


@pytest.mark.parametrize("damage", ["a byte", "a line", "none of it"])
def test_the_remedy_for_damaged_games_of_the_run_works(
    run: Command, begun: Begun, tmp_path: Path, damage: str
) -> None:
    begun(30)
    file = tmp_path / "here/expert/games.jsonl.gz"
    data = file.read_bytes()
    lines = gzip.decompress(data).splitlines(keepends=True)
    file.write_bytes({
        "a byte": data[:60] + bytes([data[60] ^ 1]) + data[61:], "none of it": b"",
        "a line": gzip.compress(b"".join([*lines[:3], b"{}\n", *lines[4:]]))}[damage])
    words = ("train", *T, *TINY[2:], "--set", "rl.positions=24", "--set", "shares=0.1,0.2,0.5,0.2",
             "--minutes", "30")
    run(*words).mistake(f"{Path('here/expert/games.jsonl.gz')}: damaged",
                        "delete it and run the same command again")
    file.unlink()
    said = run(*words)
    assert said.code == 0 and gzip.decompress(file.read_bytes()) == b"".join(lines)
    assert "RL begins again" not in said.out


def test_games_in_the_making_that_are_damaged_are_made_again(tmp_path: Path) -> None:
    out = tmp_path / "games.jsonl.gz"

    def make_some(stop: bool = False) -> None:
        made: list[int] = []
        teacher.expert.generate(GAME, "mcts:4", 30, out, opening=(0, 3), slots=4,
                                stop=lambda: stop and len(made) > 8, progress=made.append)

    make_some(stop=True)
    partial = out.with_name(out.name + ".partial.jsonl")
    lines = partial.read_text().splitlines()
    row = json.loads(lines[2])
    for moves in ([*row["actions"][:1], row["actions"][0]], [12]):
        lines[2] = json.dumps({**row, "actions": moves, "opening": 0})
        partial.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError, match=f"{partial.name}: damaged .*delete it and {out} and"):
            make_some()
    partial.unlink()
    out.unlink()
    make_some()
    found = out.read_bytes()
    out.unlink()
    make_some()
    assert out.read_bytes() == found


def test_a_share_of_0_for_rl_leaves_it_out_and_the_remedies_work(
    run: Command, ticking: Ticking, tmp_path: Path
) -> None:
    said = train(run, 30, "--set", "shares=0.2,0.4,0,0.4")
    assert "RL: left out, its share of the time is 0" in said and "first point" not in said
    assert not list((tmp_path / "here/rl").glob("ckpt-*"))
    alone = shlex.split(said.partition("or alone with ")[2].splitlines()[0])
    assert run(*alone[1:], "--set", "rl.iterations=1").code == 0
    assert (tmp_path / "here/rl/ckpt-000001").is_dir()
    option = said.partition("go on with ")[2].partition(", or alone")[0]
    assert option == f"--set shares={','.join(map(str, RunConfig.shares))}"
    assert "RL: 3 iterations" in train(run, 30, *option.split())


def test_a_game_with_a_single_line_of_play(run: Command, tmp_path: Path) -> None:
    game = f"{ROOT}/docs/examples/pile.py:Pile(stones=1)"
    words = ("train", "--game", game, "--run", "one", *TINY, "--set", "rl.positions=8", "--set",
             "rl.opening=0,0", "--set", "eval.opening=0,0")
    said = run(*words)
    said.mistake("are the same one", "--init random")
    done = run(*words, "--init", "random")
    assert done.code == 0 and "RL: 3 iterations" in done.out, done.err


# ------------------------------------------------------------------- what the time is too short for

SLOW = Speed(plies=10, evaluation=1e-3, acting=1e-3, step=0.1, learning=0.2)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game of the expert takes 6 seconds, a thousand evaluations one."""
    monkeypatch.setattr(calibrate, "measure_speed", lambda *words: SLOW)
    monkeypatch.setattr(calibrate, "teacher_game", lambda *words: 6.0)


@pytest.mark.parametrize(("minutes", "player", "need", "given"), [
    (10, "mcts:1000", 120, 120),  # 20 games of 6 s, of a third of the time: 200 s
    (2, "mcts:250", 30, 30),  # 40 s: half of the simulations would take 60
    (0.1, "mcts:15", 1.8, 6 * 1.8 / 12.8),  # 2 s; SFT needs 5, evaluation 6 of the 6 that there are
])
def test_a_teacher_that_is_too_slow_is_stood_in_for(
    tmp_path: Path, slow: None, capsys: pytest.CaptureFixture[str], minutes: float, player: str,
    need: float, given: float,
) -> None:
    run = opened(tmp_path, f"minutes={minutes}", "expert.player=mcts:1000")
    clock = Clock(run, stages(run.config))
    assert prepare(run, clock, "cpu") == player
    assert clock.needs["expert"] == pytest.approx(need)
    told = capsys.readouterr().out
    assert (f"{player} stands in. With --minutes 6 mcts:1000 itself can play" in told) == (
        player != "mcts:1000")
    assert clock.budget("expert") == pytest.approx(given)


def test_one_that_nobody_can_stand_in_for_is_told_before_the_start(
    tmp_path: Path, slow: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tmp_path, "minutes=2", "expert.player=openspiel-mcts:8")
    prepare(run, Clock(run, stages(run.config)), "cpu")
    assert "the 20 games of openspiel-mcts:8 that SFT needs at the least take about 2:00, more " \
        "than a third of the time; --minutes 6" in capsys.readouterr().out


def test_the_stand_in_is_the_expert_until_the_real_one_has_played(
    run: Command, slow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ticking(0.01)
    monkeypatch.setattr(clocks, "time", clock)
    monkeypatch.setattr(clocks, "working_seconds", clock.monotonic)
    more = ("--set", "expert.player=mcts:64", "--set", "eval.baselines=", "--set",
            "sft.max_steps=200", "--set", "rl.iterations=1")
    assert "mcts:16 plays itself" in train(run, 2, *more)
    here = tmp_path / "here"
    found = [path.name for path in (here / "expert").iterdir()]
    assert "stand-in-mcts-16.jsonl.gz" in found and "games.jsonl.gz" not in found
    rated = json.loads((here / "evaluation.json").read_text())["baselines"]
    assert [row["player"] for row in rated if row["expert"]] == ["mcts:16"]
    assert "mcts:64 plays itself" in train(run, 60, *more)
    rated = json.loads((here / "evaluation.json").read_text())["baselines"]
    assert [row["player"] for row in rated if row["expert"]] == ["mcts:16"]  # SFT had all its steps
    train(run, 60, *more, "--set", "sft.max_steps=300")
    rated = json.loads((here / "evaluation.json").read_text())["baselines"]
    assert [row["player"] for row in rated if row["expert"]] == ["mcts:64"]


def test_who_stood_in_is_the_expert_until_sft_has_learnt_from_another(tmp_path: Path) -> None:
    """Other games are those that others are held out of, however many these are."""
    run, history = opened(tmp_path), tmp_path / "sft/history.jsonl"
    trainer = board_trainer(seeded(0, lambda: build(SPEC)), TrainConfig())
    meta = {"game": "tictactoe", "kind": "sft", "step": 1, "compute": {}}
    columns = SimpleNamespace(learnt=SimpleNamespace(value=[0.0] * 400),
                              about={"held_out": "its own", "teacher": "mcts:100"})
    assert teacher.expert_of(run) == run.config.expert.player
    for held_out, others in (("its own", False), ("a stand-in's", True)):
        checkpoint.save(tmp_path / "sft/ckpt-000001", trainer, SPEC,
                        {**meta, "held_out": held_out, "teacher": "mcts:12"})
        history.write_text('{"step": 1, "rows": 500}\n')
        assert teacher.other_games(run, columns) == others
        assert teacher.expert_of(run) == "mcts:12"
    columns.about["held_out"] = "a stand-in's"
    history.write_text('{"step": 1, "rows": 399}\n')
    assert teacher.other_games(run, columns)


def test_rl_without_the_time_for_a_first_point_is_told_before_the_start(
    tmp_path: Path, slow: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "teacher_game", lambda *words: 0.01)
    run = opened(tmp_path, "minutes=2", "rl.positions=1000", "rl.games=64", "rl.full_share=0.5",
                 "rl.sims=32", "rl.cheap_sims=8", "rl.reuse=4", "rl.batch_size=100",
                 "expert.player=random", "shares=0,0.2,0.6,0.2")
    # 1,000 positions and half of 64 games x 10 moves x 1/2; 32 + 8 evaluations for each; 40 steps
    assert first_rows(run.config.rl, 10) == 1160
    need = 1160 * 40 / 1000 + 40 * 0.2
    assert first_point(run.config, SLOW) == pytest.approx(need)
    clock = Clock(run, stages(run.config))
    prepare(run, clock, "cpu")
    assert "first point" not in capsys.readouterr().out  # 54 of 120 seconds
    clock = Clock(replace(run, config=replace(run.config, minutes=1.0)), stages(run.config))
    prepare(clock.run, clock, "cpu")  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert "RL: a first point needs about 0:54 at this speed, and of 1 minute it has" in told
    enough = float(told.partition("; --minutes ")[2].split()[0])
    clock.save()
    assert Clock(run, {}).enough == enough  # what the report says at the end
    assert clock.planned(enough)["rl"] >= need > clock.planned(1.05)["rl"]


def test_what_is_measured_is_near_what_it_costs(tmp_path: Path) -> None:
    """Against an hour-glass of another kind: the same work done by hand."""
    run = opened(tmp_path, "net=1x8")
    speed = calibrate.measure_speed(run, "cpu", 0.05)
    assert 5 <= speed.plies <= 9 and speed.evaluation > 0
    player = parse_player("mcts:64", GAME, slots=20)
    began = working_seconds()
    played = list(play_games(GAME, player, player, games=20, seed=0, opening=(0, 0), slots=20,
                             paired=False))
    took = (working_seconds() - began) / len(played)
    told = calibrate.teacher_game(GAME, "mcts:64", speed.plies, 0.2, (0, 0), "cpu")
    assert took / 10 < told < took * 10  # a busy machine


def test_the_forecast_knows_in_what_self_play_evaluates(tmp_path: Path) -> None:
    """A net too small for int8 and a dtype that is named stay as they are."""
    for settings in (["net=1x8"], ["net=4x64", "rl.dtype=float32"]):
        speed = calibrate.measure_speed(opened(tmp_path, *settings), "cpu", 0.05)
        assert speed.acting == speed.evaluation


@pytest.mark.parametrize(("usual", "int8", "gain"), [(3.0, 1.0, 3.0), (1.0, 2.0, 1.0)])
def test_int8_counts_for_the_first_point_where_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: float, int8: float, gain: float
) -> None:
    def evaluator(*words: object, dtype: str, calibration: object) -> SimpleNamespace:
        return SimpleNamespace(forward=lambda obs: {"auto": usual, "int8": int8}[dtype])

    run, measure = opened(tmp_path, "net=4x64"), calibrate.timed
    monkeypatch.setattr(calibrate, "Evaluator", evaluator)
    monkeypatch.setattr(calibrate.precision, "candidates", lambda device: ["int8"])
    monkeypatch.setattr(calibrate.precision, "LEAST_WORK", 0)
    monkeypatch.setattr(calibrate, "timed", lambda work, seconds: (
        work() if isinstance(work, partial) else measure(work, seconds)))
    speed = calibrate.measure_speed(run, "cpu", 0.02)
    assert speed.evaluation / speed.acting == pytest.approx(gain)
    slower = replace(speed, acting=speed.evaluation)
    assert (first_point(run.config, speed) < first_point(run.config, slower)) == (gain > 1)


def test_a_run_with_a_first_point_measures_nothing(
    run: Command, begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(30)
    monkeypatch.setattr(calibrate, "measure_speed", None)
    config = stored_config(tmp_path / "here")
    assert config is not None
    there = open_run(tmp_path / "here", config)
    assert prepare(there, Clock(there, stages(there.config)), "cpu") is None


# ------------------------------------------------------------------------- a stage that is late


def test_a_late_stage_says_what_it_waits_for(
    run: Command, ticking: Ticking, shown: list[str]
) -> None:
    ticking.tick = 2.0
    train(run, 0.05)
    late = [note for note in shown if note.startswith("expert: ") and "past its time" in note]
    few = [note for note in late if int(note.split()[1].partition("/")[0]) < 20]
    assert few and all("waits for the 20 games that SFT needs at the least" in n for n in few)
    assert any("at the least, about " in note for note in few)


def test_no_more_is_played_than_can_be_learnt_in_time(tmp_path: Path) -> None:
    config = RLConfig(dtype="float32", sims=2, cheap_sims=1, games=8, positions=16, reuse=2,
                      window_min=64, window_max=64, batch_size=8, iterations=1)

    def learner(iterations: int) -> KeptLearner:
        return KeptLearner(GAME, SPEC, replace(config, iterations=iterations), tmp_path / "a",
                           init=None, device="cpu", seed=1)

    assert train_rl(learner(1), left=lambda: 5.0, learning=6.0) is None  # the first one's guess
    assert train_rl(learner(1), left=lambda: 5.0, learning=4.0) is not None
    later = learner(2)
    later.history[-1]["learn_seconds"] = 6.0
    train_rl(later, left=lambda: 5.0)
    assert later.iteration == 1
    later.history[-1]["learn_seconds"] = 4.0
    train_rl(later, left=lambda: 5.0)
    assert later.iteration == 2


def test_learning_that_is_cut_off_is_done_again_to_the_same_weights(tmp_path: Path) -> None:
    config = RLConfig(dtype="float32", sims=2, cheap_sims=1, games=8, positions=16, reuse=4,
                      window_min=64, window_max=64, batch_size=8, iterations=1)

    def learner(name: str) -> KeptLearner:
        return KeptLearner(GAME, SPEC, config, tmp_path / name, init=None, device="cpu", seed=1)

    train_rl(learner("whole"))
    steps: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        steps.extend([done] * (what == "learning"))

    cut = train_rl(learner("cut"), left=lambda: -3.0 if len(steps) >= 2 else 1.0, overtime=3.0,
                   progress=progress)
    assert cut is None and len(steps) == 2 and not (tmp_path / "cut/history.jsonl").exists()
    again = train_rl(learner("cut"), left=lambda: 1.0, overtime=3.0)
    nets = [checkpoint.load_net(tmp_path / name / "ckpt-000001", GAME)[0].state_dict()
            for name in ("whole", "cut")]
    assert again is not None and all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])


def test_games_under_way_are_counted_as_they_are() -> None:
    config = RLConfig(games=6, sims=4, full_share=1.0, opening=(2, 2), positions=64)
    net = seeded(0, lambda: build(SPEC)).eval()
    play = SelfPlay(GAME, [Evaluator(net, GAME, "cpu")], config, seed=0, threads=1)
    assert play.in_flight() == (6, 0)
    for _ in range(20):
        play._some_waves(play.actors[0])
        plies = np.concatenate([actor.states.ply for actor in play.actors])
        assert play.in_flight() == (6, int((plies - 2).sum()))  # a row a move after the opening


def test_the_bar_of_rl_tells_how_long_a_first_point_takes(
    run: Command, ticking: Ticking, shown: list[str]
) -> None:
    said = train(run, 0.5, "--set", "rl.positions=100000")
    notes = [note for note in shown if note.startswith("RL: ")]
    assert any("0/100,000 positions, " in n and " more in 32 games under way" in n for n in notes)
    assert any("; a first point in about " in n for n in notes)
    assert said.count("RL: a first point needs about ") == 1
    assert "the time ended before the first iteration" in said


def test_the_bar_of_a_stage_that_counts_ends_it_follows_the_count(
    run: Command, ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: dict[str, list[float]] = {}
    monkeypatch.setattr(Bar, "at", lambda bar, done, note="": parts.setdefault(
        bar.title, []).append(bar.part))
    train(run, 60)
    for title, found in parts.items():
        assert found == sorted(found), title
    assert parts["expert"][-1] == parts["SFT"][-1] == parts["evaluation"][-1] == 1
    assert parts["RL"][-1] >= 2 / 3 and 0 < parts["expert"][len(parts["expert"]) // 2] < 1


# ------------------------------------------------------------------------------- evaluation


class Matches:
    """``play_match`` on a clock of its own: a game of ``mcts`` takes 30 seconds, others 1."""

    def __init__(self, seconds: float) -> None:
        self.left, self.played = seconds, list[tuple[str, str, int]]()

    def monotonic(self) -> float:
        return -self.left

    def __call__(self, game: Any, a: str, b: str, *, games: int, stop: Any, drop: Any,
                 progress: Any, **more: Any) -> MatchResult | None:
        done = 0
        progress(done)
        while done < games and not stop():
            self.left -= 30 if "mcts" in a + b else 1
            if drop():
                break
            done += 1
            progress(done)
        self.played.append((a, b, done))
        return None


def play(monkeypatch: pytest.MonkeyPatch, run: Run, pairings: list[Pairing], seconds: float,
         overtime: float = 0.0) -> Matches:
    matches = Matches(seconds)
    monkeypatch.setattr(compare, "play_match", matches)
    monkeypatch.setattr(compare, "time", matches)
    compare.play_matches(run, pairings, device="cpu", must=compare.anchoring(pairings),
                         left=lambda: matches.left, overtime=overtime)
    return matches


def test_no_game_is_begun_that_would_end_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairings = [Pairing("net:a/1", "mcts:9", 10), Pairing("net:b/2", "mcts:9", 10),
                Pairing("net:a/1", "net:b/2", 20)]
    run = opened(tmp_path)
    first = play(monkeypatch, run, pairings, 65)
    assert first.played[0] == ("net:a/1", "mcts:9", 2)  # 60 seconds
    assert ("net:b/2", "mcts:9", 0) not in first.played  # known to take 30, of which 5 are left
    assert first.played[1:] == [("net:a/1", "net:b/2", 4)]
    assert first.left >= 0
    late = play(monkeypatch, run, pairings, 10)  # nobody knew
    assert late.played[0] == ("net:a/1", "mcts:9", 0) and late.left == -20


def test_something_is_rated_however_late_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairings = [Pairing("net:a", "net:b", 10), Pairing("net:a", "random", 10),
                Pairing("net:b", "random", 10), Pairing("mcts:1", "net:b", 10),
                Pairing("mcts:1", "random", 10)]
    assert play(monkeypatch, opened(tmp_path), pairings, -1e6).played == [
        ("net:a", "random", 2), ("net:b", "random", 2)]


def test_compiling_is_in_no_rows_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = [0.0]
    monkeypatch.setattr(compiling, "seconds", lambda: compiled[0])
    kept = Kept(tmp_path, lambda path, row: path.mkdir())

    def rows() -> Iterator[dict[str, Any]]:
        with kept.watch("learn"):
            time.sleep(0.3)
            compiled[0] += 0.3
        yield {"step": 1}

    kept.go_on(rows())
    (row,) = read_history(tmp_path / "history.jsonl")
    assert 0 <= row["seconds"] < 0.2 and 0 <= row["learn_seconds"] < 0.2


def test_the_smallest_budget_ends_with_a_rated_point_and_a_chart(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every look at the clock takes 10 seconds of the 60 that there are."""
    clock = Ticking(10.0)
    monkeypatch.setattr(clocks, "time", clock)
    monkeypatch.setattr(clocks, "working_seconds", clock.monotonic)
    said = train(run, 1, "--set", "rl.iterations=1000")
    result = json.loads((tmp_path / "here/evaluation.json").read_text())
    assert any(point["elo"] is not None for point in result["points"]), said
    assert (tmp_path / "here/chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_desk_counts_how_late_it_is(ticking: Ticking, tmp_path: Path, shown: list[str]) -> None:
    ticking.tick = 0.0
    run = opened(tmp_path, "minutes=10", "shares=0.1,0.2,0.5,0.2")
    clock = Clock(run, stages(run.config))
    with clock.running("expert"), Bar("expert", clock.budget("expert")) as bar:
        desk = Desk("expert", clock, bar, None, str, "", "two games")
        ticking.now += 59
        desk.at("18 games")
        ticking.now += 76
        desk.at("19 games")
    late = "expert: 19 games  1:15 past its time, waits for two games"
    assert shown == ["expert: 18 games", late]
    assert boards.learnt_in([]) == 0
    assert boards.learnt_in([{}], 7) == 7
    slept = [{"learn_seconds": seconds} for seconds in (5.0, 18.0, 19.0, 3000.0)]
    assert boards.learnt_in(slept) == 18
