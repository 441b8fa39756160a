"""Which matches the chart gets, what they are rated at, and the commands that go with it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.arena.elo import fit
from selfplay.arena.play import GameRecord
from selfplay.arena.records import append_records
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.cli import _open, cli
from selfplay.common.errors import DiskError, UserError
from selfplay.common.files import write_json
from selfplay.common.stats import spread_out
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.models import NetSpec, build, seeded
from selfplay.report.text import headlines
from selfplay.run import compare
from selfplay.run import folder as runs
from selfplay.run.compare import (
    Pairing,
    Point,
    chart_points,
    evaluation,
    match_folder,
    plan_matches,
    train_command,
)
from selfplay.run.config import RunConfig, override, preset
from selfplay.run.folder import Run, open_run

GAME = make("tictactoe")
SPEC = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)


def run_in(folder: Path, *settings: str, game: str = "tictactoe") -> Run:
    config = override(preset(game), ["net=1x8", "eval.sims=4", "eval.baselines=mcts:8,mcts:16",
                                     "expert.player=mcts:8", *settings])
    return open_run(folder, config)


def checkpoints(run: Run, stage: str, steps: list[int]) -> None:
    trainer = board_trainer(seeded(1, lambda: build(SPEC)), TrainConfig())
    for step in steps:
        trainer.steps = step
        checkpoint.save(run.folder / stage / f"ckpt-{step:06d}", trainer, SPEC, {
            "game": "tictactoe", "kind": stage, "step": step,
            "compute": {"flops": 1e6 * step, "seconds": float(step), "positions": 10 * step}})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with three SFT checkpoints, the second of which is the best, and two of RL."""
    made = run_in(tmp_path / "run")
    checkpoints(made, "sft", [10, 20, 30])
    write_json(made.path("sft", "best.json"), {"checkpoint": "ckpt-000020", "flat": True})
    checkpoints(made, "rl", [1, 2])
    return made


def chosen(sft: int, rl: int) -> list[Point]:
    return [Point(stage, Path(f"run/{stage}/ckpt-{i:06d}"), i, {})
            for stage, count in (("sft", sft), ("rl", rl)) for i in range(1, count + 1)]


def connected(pairings: list[Pairing]) -> set[str]:
    """All whom matches tie to ``random``."""
    found, grown = {"random"}, True
    while grown:
        more = {name for p in pairings for name in (p.a, p.b) if {p.a, p.b} & found}
        grown = not more <= found
        found |= more
    return found


# -------------------------------------------------------------------------------- plan

@settings(deadline=None)
@given(sft=st.integers(0, 6), rl=st.integers(0, 6))
def test_the_plan_rates_everybody(sft: int, rl: int) -> None:
    run = Run(Path("run"), run_config(), GAME)
    pairings = plan_matches(run, chosen(sft, rl))
    wanted = {p.player(sims) for p in chosen(sft, rl) for sims in (0, 4)}
    assert wanted | {"random", "mcts:8", "mcts:16"} <= connected(pairings)
    pairs = Counter(frozenset((p.a, p.b)) for p in pairings)
    assert max(pairs.values()) == 1
    assert all(len(pair) == 2 for pair in pairs)


def run_config() -> RunConfig:
    return override(preset("tictactoe"), ["eval.sims=4", "eval.baselines=mcts:8,mcts:16",
                                          "expert.player=mcts:8"])


def test_the_most_telling_matches_come_first() -> None:
    run = Run(Path("run"), run_config(), GAME)
    pairings = plan_matches(run, chosen(3, 4))
    sft, rl = "net:run/sft/ckpt-000003", "net:run/rl/ckpt-000004"
    decisive = [Pairing(rl, sft, run.config.eval.decisive_games),
                Pairing(f"{rl}@4", f"{sft}@4", run.config.eval.decisive_games)]
    assert pairings[0] == decisive[0]
    ends = {sft, rl, f"{sft}@4", f"{rl}@4", "random", "mcts:8", "mcts:16"}
    first_curve = next(i for i, p in enumerate(pairings) if not {p.a, p.b} <= ends)
    assert decisive[1] in pairings[:first_curve]
    # before any match along the curves, their ends have a rating
    assert {sft, rl} <= connected(pairings[:first_curve])


def test_an_engine_that_is_not_here_is_left_out() -> None:
    run = Run(Path("run"), override(run_config(), [
        "expert.player=gtp:no-such-engine --level 3"]), GAME)
    assert "no-such-engine" not in str(plan_matches(run, chosen(2, 2)))
    assert "not found" in str(compare.missing_engine("gtp:no-such-engine --level 3"))
    assert compare.missing_engine("mcts:8") is None


def test_points(run: Run) -> None:
    found = chart_points(run)
    assert [(p.stage, p.step) for p in found] == [("sft", 10), ("sft", 20), ("rl", 1), ("rl", 2)]
    assert found[1].compute == {"flops": 2e7, "seconds": 20.0, "positions": 200}


@settings(deadline=None)
@given(n=st.integers(1, 200), count=st.integers(1, 12), log=st.booleans())
def test_points_are_spread_and_the_last_is_among_them(n: int, count: int, log: bool) -> None:
    everything = [Point("rl", Path(str(i)), i, {}) for i in range(n)]
    found = [p.step for p in spread_out(everything, count, log)]
    assert len(found) <= count
    assert found[-1] == n - 1
    assert found == sorted(set(found))
    if count > 1:
        assert found[0] == 0


def test_a_damaged_best_checkpoint_is_named(run: Run) -> None:
    (run.folder / "sft/ckpt-000020/weights.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="ckpt-000020, which is missing or damaged"):
        chart_points(run)


@pytest.mark.parametrize(("a", "b", "name"), [
    ("net:run/rl/ckpt-000002@64", "gtp:gnugo --mode gtp",
     "net-rl-ckpt-000002@64--gtp-gnugo-mode-gtp-3f0d"),
    ("gtp:" + "x y" * 60, "net:run/sft/ckpt-1", f"gtp-{'x-y' * 32}-22b5"),
])
def test_the_folders_of_matches_keep_their_names(a: str, b: str, name: str) -> None:
    made = Run(Path("run"), run_config(), GAME)
    assert match_folder(made, Pairing(a, b, 4)) == Path("run/matches", name)


# -------------------------------------------------------------------------- evaluation

def hand_made(run: Run, pairing: Pairing, results: list[float]) -> None:
    """A match on disk; ``results`` are A's points in games 0, 1, 2, ... as 1, 0 or -1."""
    folder = match_folder(run, pairing)
    folder.mkdir(parents=True)
    names = [compare.local(run, name) for name in (pairing.a, pairing.b)]
    write_json(folder / "match.json", {
        "game": "tictactoe", "a": names[0], "b": names[1],
        "seed": compare.match_seed(run, pairing), "opening": list(run.config.eval.opening)})
    append_records(folder / "games.jsonl", [
        GameRecord(i, 0, (names[i % 2], names[1 - i % 2]), (0, 3, 1, 4, i), 0,
                   float(points if i % 2 == 0 else -points), None, "win")
        for i, points in enumerate(results)])


def all_played(run: Run) -> list[tuple[str, str, int, int, int]]:
    """Every match of the plan made up; the results as elo.fit takes them."""
    results = []
    for number, pairing in enumerate(plan_matches(run, chart_points(run))):
        wins, draws, losses = 3 + number % 3, number % 2, 1 + number % 4
        hand_made(run, pairing, [1] * wins + [0] * draws + [-1] * losses)
        results.append((pairing.a, pairing.b, wins, draws, losses))
    return results


def test_ratings_are_those_of_the_matches_on_disk(run: Run) -> None:
    results = all_played(run)
    nets = [name for result in results for name in result[:2] if name.startswith("net:")]
    ratings = fit(results, anchor="random", centre=set(nets))
    found = evaluation(run, "cpu")
    assert len(found["points"]) == 8  # four checkpoints, raw and with search
    for row in found["points"] + found["baselines"]:
        assert (row["elo"], row["low"], row["high"]) == pytest.approx(ratings[row["player"]])
        assert row["games"] == sum(sum(r[2:]) for r in results if row["player"] in r[:2])
    assert [row["expert"] for row in found["baselines"]] == [False, True, False]
    tallies = [(m["a"], m["b"], m["wins"], m["draws"], m["losses"]) for m in found["matches"]]
    assert tallies == results
    for match in found["matches"]:
        assert match["low"] <= match["score"] <= match["high"]
        assert match["distinct"] == match["games"]
    assert {p["flops"] for p in found["points"] if p["stage"] == "sft"} == {1e7, 2e7}
    assert found["config"]["game"] == run.game.name and "learning_rate" in found["config"]["sft"]


def test_numbers_of_simulations_are_compared(run: Run) -> None:
    """The last net of each stage, raw and with 1, 4 and 16, tied to random."""
    all_played(run)
    points = chart_points(run)
    assert evaluation(run, "cpu")["search"] == []
    wanted = compare.plan_search(run, points, (16, 1, 4))
    lasts = [[p for p in points if p.stage == stage][-1] for stage in ("sft", "rl")]
    assert {p.a.partition("@")[0] for p in wanted} == {f"net:{p.path}" for p in lasts}
    assert [p.b for p in wanted[:2]] == ["random"] * 2 and connected(wanted) >= {
        p.player(sims) for p in lasts for sims in (0, 1, 4, 16)}
    before = {row["player"]: row for row in evaluation(run, "cpu")["points"]}
    for pairing in wanted:
        if not match_folder(run, pairing).exists():
            hand_made(run, pairing, [1, 1, 0, 1, -1, 1])
    found = evaluation(run, "cpu")
    for row in found["points"]:  # more games of some of them widen no interval of the curves
        old = before[row["player"]]
        assert row["high"] - row["low"] <= 1.01 * (old["high"] - old["low"])
    seen = [(row["stage"], row["sims"]) for row in found["search"]]
    assert {("sft", 0), ("sft", 1), ("sft", 16), ("rl", 4)} <= set(seen) and seen[0] == ("sft", 0)
    assert set(found["exchange"]["gains"]) == {"sft", "rl"}
    refused = {row["refused"] for row in found["curves"]}
    assert refused == {"2 of the 5 points that it needs"}


def test_a_few_matches_are_enough_for_a_chart(run: Run) -> None:
    first = plan_matches(run, chart_points(run))[:8]
    for pairing in first:
        hand_made(run, pairing, [1, -1, 1, 0])
    found = compare.write_chart(run, "cpu").evaluation
    rated = connected(first)
    assert {row["player"] for row in found["points"]} == {n for n in rated if n.startswith("net:")}
    assert (run.folder / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run.folder / "summary.json").read_text())["games"] == 4 * len(first)


def test_an_engine_that_fails_costs_its_match_and_a_full_disk_ends_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairings, tried = plan_matches(run, chart_points(run))[:2], []

    def play(game: Any, a: str, b: str, **options: Any) -> None:
        tried.append(a)
        raise UserError("the engine died") if len(tried) < 3 else DiskError("the disk is full")

    monkeypatch.setattr(compare, "play_match", play)
    with pytest.raises(DiskError):
        compare.play_matches(run, pairings, device="cpu")
    assert len(tried) == 3
    assert capsys.readouterr().out.count("match left out: the engine died") == 2


def test_a_damaged_match_costs_that_match(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    all_played(run)
    whole = evaluation(run, "cpu")["matches"]
    folder = Path(whole[-1]["folder"])
    (folder / "games.jsonl").write_text("rain\n" + (folder / "games.jsonl").read_text())
    assert evaluation(run, "cpu")["matches"] == whole[:-1]
    assert f"match left out: {folder / 'games.jsonl'}, line 1" in capsys.readouterr().out


def test_a_chart_without_any_match(run: Run) -> None:
    assert compare.write_chart(run, "cpu").points == ()
    assert (run.folder / "report.html").exists()


def test_what_a_chart_lacks_comes_with_a_command_that_runs(run: Run, tmp_path: Path) -> None:
    """Checkpoints without matches ask for matches; no checkpoint of RL, for more time."""
    played = compare.write_chart(run, "cpu")
    assert played.missing == ("points",)
    assert headlines(played)[0] == (f"No checkpoint has been rated: selfplay compare {run.folder} "
                                    "--minutes 10")
    shutil.rmtree(run.folder / "rl")
    all_played(run)
    taught = compare.write_chart(run, "cpu")
    assert taught.missing == ("rl",)
    text, _, command = headlines(taught)[0].partition(": ")
    assert text == "No RL checkpoint has been rated"
    name, options = typed(command)
    again = _open(**options)
    assert (name, again.folder) == ("train", run.folder)
    assert again.config == replace(run.config, minutes=2 * run.config.minutes)
    (run.folder / "progress.json").write_text('{"seconds": {}, "done": [], "enough": 77}')
    assert "--minutes 77" in compare.remedies(run)["rl"]  # as the start said
    zero = run_in(tmp_path / "zero", "init=random", "recipe=zero")
    assert compare.remedies(zero).keys() == {"points", "rl"}


def test_a_missing_teacher_is_noted(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "expert.player=gtp:no-such-engine", "eval.baselines=mcts:8",
                 game="go5x5")
    found = compare.write_chart(run, "cpu").evaluation
    (teacher,) = (row for row in found["baselines"] if row["expert"])
    assert teacher["elo"] is None
    assert "no-such-engine not found" in teacher["note"]
    assert "no-such-engine" in (run.folder / "report.html").read_text()


def test_a_moved_run_keeps_its_matches(run: Run, tmp_path: Path) -> None:
    all_played(run)
    before = evaluation(run, "cpu")
    moved = Run(tmp_path / "elsewhere/mine", run.config, GAME)
    shutil.copytree(run.folder, moved.folder)
    after = evaluation(moved, "cpu")
    assert [p["elo"] for p in after["points"]] == [p["elo"] for p in before["points"]]
    assert len(after["matches"]) == len(before["matches"]) > 10
    # and goes on with them
    games = replace(run.config.eval, games=2, decisive_games=14, baseline_games=2)
    moved = Run(moved.folder, replace(run.config, eval=games), GAME)
    pairings = plan_matches(moved, chart_points(moved))
    torch.set_num_threads(1)
    compare.play_matches(moved, pairings, device="cpu")
    again = evaluation(moved, "cpu")
    assert again["matches"][0]["games"] == 14 > before["matches"][0]["games"]
    assert len(again["matches"]) == len(before["matches"])


def test_no_match_is_begun_when_time_is_up(run: Run) -> None:
    compare.play_matches(run, plan_matches(run, chart_points(run)), device="cpu", left=lambda: 0.0)
    assert not (run.folder / "matches").exists()


def test_every_match_gets_some_games_before_any_gets_all(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[str, str, int]] = []
    kept: list[Any] = []
    monkeypatch.setattr(compare, "play_match", lambda game, a, b, *, games, nets, **_: (
        kept.append(nets) or played.append((a, b, games))))
    pairings = plan_matches(run, chart_points(run))
    compare.play_matches(run, pairings, device="cpu")
    first, last = played[: len(pairings)], played[-len(pairings):]
    assert [match[:2] for match in first] == [(p.a, p.b) for p in pairings]
    assert all(0 < few[2] < p.games / 2 for few, p in zip(first, pairings, strict=True))
    assert [match[2] for match in last] == [p.games for p in pairings]
    assert all(games % 2 == 0 for _, _, games in played)  # openings are played in pairs
    assert all(nets is kept[0] for nets in kept) and kept[0] == {}  # loaded once for all


# ---------------------------------------------------------------------------- commands

def typed(command: str) -> tuple[str, dict[str, Any]]:
    """(name, options) as the command line takes a command apart."""
    program, name, *words = shlex.split(command)
    assert program == "selfplay"
    context = cli.commands[name].make_context(name, words)
    return name, context.params


@pytest.mark.parametrize("game", ["tictactoe", "go9x9", "go9x9(komi=5.5)",
                                  "openspiel:hex(board_size=3)"])
@pytest.mark.parametrize("settings", [
    [],
    ["seed=3", "minutes=12.5", "init=random", "device=cpu", "net=3x24"],
    ["expert.games=a b.sgf,c'd.zip", "expert.player=net:it's a 'net'@8",
     "rl.gating=true", "rl.opening=1,5", "rl.algorithm=puct", "sft.learning_rate=3e-05",
     "eval.baselines=", "shares=0.1,0.2,0.3,0.4"],
])
def test_the_command_makes_the_same_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, game: str, settings: list[str]
) -> None:
    monkeypatch.setattr(runs, "full_name", str)
    monkeypatch.setattr(runs, "_must_exist", lambda config, stored, game: None)
    config = override(preset(make(game).name), settings)
    folder = tmp_path / "it's here"
    name, options = typed(train_command(Run(folder, config, make(game))))
    assert name == "train"
    again = _open(**options)
    assert again.config == config
    assert again.folder == folder


def test_the_command_of_a_match_is_the_match(run: Run) -> None:
    all_played(run)
    for row in evaluation(run, "cpu")["matches"]:
        name, options = typed(row["command"])
        assert name == "match"
        assert options["players"] == (row["a"], row["b"])
        assert options["game"] == "tictactoe"
        assert options["opening"] == "{}-{}".format(*run.config.eval.opening)
        assert options["seed"] >= 0
