"""The same command a second time: what is kept, what is said again, who else is at work."""

from __future__ import annotations

import importlib
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import TINY, Command, save_net, selfplay
from rich.console import Console

from selfplay.common import console
from selfplay.common.errors import UserError
from selfplay.common.files import in_use, locked

T = ("--game", "tictactoe")
GOOD = "(;GM[1]FF[4]SZ[5]KM[7]RE[B+R];B[cc];W[{0}b];B[d{0}];W[ee])"


def compiles_nothing(match: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
    """A fresh process plays in ``two`` what was played in ``one``, by kernels that were kept."""
    second = selfplay(*match, "two", cwd=folder, env={"NUMBA_DEBUG_CACHE": "1", **env})
    assert second.returncode == 0, second.stderr
    assert "compiling" not in second.stderr
    assert "[cache] data loaded from" in second.stdout
    assert "[cache] data saved to" not in second.stdout
    one, two = ((folder / name / "games.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_first_start_says_that_it_compiles_and_the_second_does_not(tmp_path: Path) -> None:
    match = ("match", "random", "random", *T, "--games", "2", "--out")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = selfplay(*match, "one", cwd=tmp_path, env=cache)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("compiling (half a minute of a free core") == 1
    compiles_nothing(match, tmp_path, cache)


def test_what_go_has_compiled_is_kept_as_well(run: Command, tmp_path: Path) -> None:
    match = ("match", "random", "random", "--game", "go9x9", "--games", "2", "--out")
    assert run(*match, "one").code == 0
    compiles_nothing(match, tmp_path, {})


def test_the_match_of_a_finished_folder_is_not_played_again(run: Command, tmp_path: Path) -> None:
    match = ("match", "mcts:4", "random", *T, "--games", "6")
    first = run(*match)
    (folder,) = (tmp_path / "runs/matches").iterdir()
    before = (folder / "games.jsonl").read_bytes()
    again = run(*match)
    assert (folder / "games.jsonl").read_bytes() == before
    results = [said.out[said.out.index("mcts:4 against") :] for said in (first, again)]
    assert results[1] == results[0].rstrip() + " (all played before)\n"
    assert run(*match[:-1], "8").code == 0
    assert (folder / "games.jsonl").read_bytes().startswith(before)
    assert len(before.splitlines()) == 6


def test_a_match_after_more_training_is_another_match(run: Command, tmp_path: Path) -> None:
    match = ("match", "net:run", "random", *T, "--games", "2")
    for step in (1, 2):
        save_net(tmp_path / f"run/ckpt-{step:06d}", "tictactoe")
        said = run(*match)
        assert said.code == 0, said.err
        assert f"ckpt-{step:06d} against random" in said.out
    assert len([p for p in (tmp_path / "runs/matches").iterdir() if p.is_dir()]) == 2


def test_the_table_after_a_match_has_its_players(run: Command) -> None:
    run("match", "random", "mcts:2", *T, "--games", "2")
    said = run("match", "mcts:3", "mcts:4", *T, "--games", "2")
    table = said.out[said.out.index("Elo of") :]
    assert "mcts:4 (= 0)" in table and "  mcts:3 " in table and "random" not in table
    assert "random (= 0)" in run("match", "mcts:4", "random", *T, "--games", "2").out


def test_players_with_long_names_get_a_folder_each(run: Command, tmp_path: Path) -> None:
    nets = [f"{'long-path/' * 13}{letter}" for letter in "ab"]
    for net in nets:
        save_net(tmp_path / net, "tictactoe")
    for seed in "01":
        said = run("match", *(f"net:{net}" for net in nets), *T, "--games", "2", "--seed", seed)
        assert said.code == 0, said.err
    assert run("match", "random", "mcts:2", *T, "--games", "2").code == 0
    names = sorted(path.name for path in (tmp_path / "runs/matches").iterdir())
    assert names[2] == "tictactoe-random-mcts-2-0"
    assert len(set(names)) == 3 and max(map(len, names)) == 105


@pytest.mark.parametrize(("player", "redraws"), [("human", False), ("random", True)])
def test_no_bar_redraws_where_somebody_types(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, player: str, redraws: bool
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, highlight=False, soft_wrap=True)
    monkeypatch.setattr(console, "_console", terminal)
    monkeypatch.setattr("builtins.input", lambda prompt: "resign")
    assert run("match", player, "mcts:4", *T, "--games", "2").code == 0
    hides_cursor = "\x1b[?25l"
    assert (hides_cursor in screen.getvalue()) == redraws
    assert f"{player} against mcts:4" in screen.getvalue()


def test_files_that_cannot_be_used_are_named_once(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "games"
    folder.mkdir()
    for letter in "abce":
        (folder / f"{letter}.sgf").write_text(GOOD.format(letter))
    for number in range(25):
        (folder / f"bad{number:02d}.sgf").write_text("(;GM[1]SZ[19]RE[W+3];B[cc])")
    sft = ("sft", "--game", "go5x5", "--run", "here", "--games", str(folder), "--set", "net=1x8",
           "--set", "sft.batch_size=8", "--set", "sft.max_steps=2")
    said = run(*sft)
    assert said.code == 0, said.err
    assert said.out.count("board size 19") == 20
    assert (tmp_path / "here/skipped.txt").read_text().count("board size 19") == 25
    assert "skipped" not in run(*sft, "--set", "sft.max_steps=4").out
    (folder / "bad25.sgf").write_text("(;GM[1]SZ[7]RE[W+3];B[cc])")
    assert "4 read, 26 skipped" in run(*sft, "--set", "sft.max_steps=6").out


def test_a_player_that_cannot_be_stops_the_run_at_its_start(run: Command, tmp_path: Path) -> None:
    train = ("train", *T, "--run", "here", *TINY)
    run(*train, "--set", "eval.baselines=mcts:8,mtcs:9").mistake("mtcs:9", "did you mean mcts")
    run(*train, "--set", "expert.player=mcts:x").mistake("mcts:x", "number of simulations")
    assert not (tmp_path / "here").exists()
    missing = run(*train, "--set", "eval.baselines=mcts:8,gtp:no-such-engine", "--game", "go5x5",
                  "--run", "go", "--set", "expert.count=12", "--set", "rl.iterations=1")
    assert missing.code == 0, missing.err  # its matches are left out, and the report says so


def test_a_net_as_baseline_is_rated_and_may_move_away_later(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "other/ckpt-000001", "tictactoe")
    train = ("train", *T, "--run", "here", *TINY, "--set", "eval.baselines=net:other")
    assert run(*train).code == 0
    (tmp_path / "other").rename(tmp_path / "elsewhere")
    said = run("compare", "here", "--search", "1,2,4", "--minutes", "0.5", "--set", "eval.games=2")
    assert said.code == 0 and "the simulations bring SFT's net " in said.out, said.err
    run("compare", "here", "--search", "1,2,4").mistake("--search 1,2,4", "give it --minutes")
    run("compare", "here", "--search", "4,4,1").mistake("--search 4,4,1", "three different")
    run("compare", "here", "--search", "1,x", "--minutes", "1").mistake("--search 1,x", "counts")
    assert run(*train).code == 0  # the name that was typed still means that checkpoint
    rows = json.loads((tmp_path / "here/evaluation.json").read_text())["baselines"]
    (row,) = [row for row in rows if row["player"] == "net:other/ckpt-000001"]
    assert row["games"] > 0 and row["elo"] is not None
    run("compare", "here", "--set", "eval.baselines=net:gone").mistake("net:gone", "no folder")


def test_a_run_goes_on_without_its_settings_and_notes(run: Command, tmp_path: Path) -> None:
    train = ("train", *T, "--run", "here", *TINY, "--set", "eval.games=2")
    first = run(*train)
    assert first.code == 0, first.err
    (tmp_path / "here/config.json").write_text("rain")
    run(*train).mistake("config.json", "delete it")
    (tmp_path / "here/config.json").unlink()
    (tmp_path / "here/sft/best.json").unlink()
    again = run(*train)
    assert again.code == 0, again.err
    assert "RL: 3 iterations" in again.out
    longer = run("train", "--run", "here", "--set", "rl.iterations=4")  # its game is known
    assert longer.code == 0, longer.err
    assert "RL: 4 iterations" in longer.out


@pytest.mark.parametrize(("algo", "play", "other", "left"), [
    ("gumbel", "run.boards.ShardedGames.__call__", ("rl.sims=4", "rl.dtype=auto"), "rl/dtype.json"),
    ("ppo", "board.league.PolicyLearner.play", ("pool.games=6",), "rl/pool/ckpt-000000/meta.json"),
])
def test_an_rl_that_made_nothing_binds_nobody(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    algo: str, play: str, other: tuple[str, ...], left: str,
) -> None:
    """Its time was over before a game was: the same folder then does as an empty one would."""
    for name in ("one", "two"):
        save_net(tmp_path / name / "ckpt-000001", "tictactoe")
    rl = ("rl", *T, "--algo", algo, *(word for setting in (
        "rl.iterations=2", "rl.dtype=float32", "rl.positions=16", "rl.games=4", "rl.sims=2",
        "rl.cheap_sims=1", "rl.batch_size=8", "rl.reuse=1", "pool.games=8",
    ) for word in ("--set", setting)))
    others = [word for setting in other for word in ("--set", setting)]
    with monkeypatch.context() as patch:
        patch.setattr(f"selfplay.{play}", lambda *words: None)
        first = run(*rl, "--run", "here", "--init", "one", *others)
    assert first.code == 0 and "ended before the first iteration" in first.out, first
    assert (tmp_path / "here" / left).exists()
    for folder in ("here", "there"):
        done = run(*rl, "--run", folder, "--init", "two", "--seed", "3")
        assert done.code == 0, done.err
    here, there = ((tmp_path / folder / "rl/ckpt-000002/weights.safetensors").read_bytes()
                   for folder in ("here", "there"))
    assert here == there
    run(*rl, "--run", "here", "--init", "one", "--seed", "3").mistake("init=", "--run")
    run(*rl, "--run", "here", "--init", "two", "--seed", "3", *others).mistake("--run")


def test_a_game_of_rl_binds_its_settings(run: Command, tmp_path: Path) -> None:
    rl = ("rl", *T, "--run", "here", "--init", "random", "--set", "net=1x8", "--set", "rl.sims=2",
          "--set", "rl.cheap_sims=1", "--set", "rl.positions=16", "--set", "rl.games=4",
          "--set", "rl.iterations=1")
    assert run(*rl).code == 0
    shutil.rmtree(tmp_path / "here/rl/ckpt-000001")  # as a kill between games and learning does
    (tmp_path / "here/rl/history.jsonl").unlink()
    run(*rl, "--set", "rl.sims=4").mistake("rl.sims=2, not 4", "--run")
    save_net(tmp_path / "net/ckpt-000001", "tictactoe")
    run(*rl, "--init", "net").mistake("init=random", "--run")
    assert run(*rl).code == 0


def test_rl_names_its_algorithm_and_what_comes_next(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "a net/ckpt-000001", "tictactoe")
    rl = ("rl", *T, "--init", "a net", "--set", "rl.iterations=1", "--set", "rl.games=4",
          "--set", "rl.positions=16", "--set", "rl.sims=2", "--set", "rl.cheap_sims=1",
          "--set", "rl.batch_size=8", "--set", "rl.reuse=1", "--set", "pool.games=8")
    for algo, how in (("ppo", "policy gradient by ppo"), ("gumbel", "recipe alphazero")):
        said = run(*rl, "--run", f"by {algo}", "--algo", algo)
        assert said.code == 0, said.err
        assert f"minutes, {how}, from " in said.out
        (line,) = [line for line in said.out.splitlines() if line.startswith("next: ")]
        compare, match = line.removeprefix("next: ").split("   or   ")
        assert shlex.split(compare)[:3] == ["selfplay", "compare", f"by {algo}"]
        words = shlex.split(match)[1:]
        assert words[1:3] == [f"net:by {algo}", "net:a net/ckpt-000001"]
        assert run(*words, "--games", "2").code == 0
    none = run(*rl, "--run", "none", "--minutes", "0.05", "--set", "rl.positions=100000000")
    assert none.code == 0 and "ended before the first iteration" in none.out
    assert "next:" not in none.out


def test_rl_from_a_checkpoint_has_its_net(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "other/rl/ckpt-000003", "tictactoe")
    size = json.loads((tmp_path / "other/rl/ckpt-000003/meta.json").read_text())["net"]["size"]
    rl = ("rl", *T, "--run", "here", *TINY[4:], "--set", "rl.iterations=1", "--init", "other")
    said = run(*rl)
    assert said.code == 0, said.err
    assert f"net {size}," in said.out
    assert json.loads((tmp_path / "here/config.json").read_text())["init"].endswith("ckpt-000003")
    save_net(tmp_path / "other/rl/ckpt-000004", "tictactoe")
    assert run(*rl).code == 0  # the run goes on from what it began with
    run(*rl, "--net", "2x8").mistake("net=1x8, not 2x8", "--run")


def test_rl_lets_a_checkpoint_s_net_grow(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "other/rl/ckpt-000003", "tictactoe")
    rl = ("rl", *T, "--run", "here", *TINY[4:], "--set", "rl.iterations=1", "--init", "other")
    run(*rl[:-1], "tictactoe", "--net", "1x8").mistake("a net 3x32", "leave --net out")
    assert not (tmp_path / "here").exists()
    said = run(*rl, "--set", "net=3x16")
    assert said.code == 0, said.err
    assert "net 3x16," in said.out
    for folder in ("here", "here/rl/ckpt-000001"):
        file = tmp_path / folder / ("config.json" if folder == "here" else "meta.json")
        assert "3x16" in str(json.loads(file.read_text())["net"])
    said = run(*rl)  # without a net it is the one that the run has
    assert said.code == 0 and "net 3x16," in said.out, said


def test_a_run_without_time_left_for_its_matches_says_so(run: Command, tmp_path: Path) -> None:
    train = ("train", *T, "--run", "here", *TINY, "--set", "eval.baselines=")
    said = run(*train).out
    assert "time is used up" not in said and said.count("held out\n") == 1, said
    spent = {"seconds": {"rl": 7200.0}, "done": []}
    (tmp_path / "here/progress.json").write_text(json.dumps(spent))
    assert "compare here --minutes" in run(*train).out


# ------------------------------------------------------------------------------- two at one run

def test_two_processes_are_kept_apart(run: Command, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    hold = ("import sys, pathlib, selfplay.common.files as f\n"
            "with f.locked(pathlib.Path('here')): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", hold], cwd=tmp_path, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        run("train", *T, "--run", "here", *TINY).mistake("here", "another process", "--run")
        assert not (tmp_path / "here/config.json").exists()
        run("compare", "here").mistake("here", "no run there")
        with pytest.raises(UserError), locked(tmp_path / "here"):
            pass
        other.kill()  # a lock does not outlive its process
    with locked(tmp_path / "here"):
        pass


def test_two_matches_and_two_experts_are_kept_apart(run: Command, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/.notes.tmp").write_text("somebody's own")
    match = ("match", "random", "random", *T, "--games", "2", "--out", "here")
    expert = ("expert", *T, "--player", "random", "--games", "4", "--out", "x.jsonl.gz")
    with in_use(tmp_path / "here", "--out"), in_use(tmp_path / "x.jsonl.gz", "--out"):
        run(*match).mistake("here: another process is at work", "--out")
        run(*expert).mistake("x.jsonl.gz: another process is at work", "--out")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [".notes.tmp"]
    assert run(*match).code == run(*expert).code == 0
    assert (tmp_path / "here/.notes.tmp").exists()


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "rl").mkdir()
    kept = [tmp_path / "config.json", tmp_path / "rl" / "x.tmp"]
    left = [tmp_path / ".config.json.17.tmp", tmp_path / "rl" / ".history.jsonl.9.tmp"]
    for path in kept + left:
        path.write_text("{}")
    with locked(tmp_path):
        assert [path.exists() for path in kept + left] == [True, True, False, False]


def test_a_cache_beyond_all_memory_is_one_line(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "net", "tictactoe")
    run("rl", "--game", "tictactoe", "--run", "here", "--init", "net",
        "--set", "rl.cache_mb=100000000").mistake("allocate", "smaller", "--set rl.cache_mb=")


def test_the_largest_seed_plays(run: Command) -> None:
    said = run("train", "--game", "tictactoe", "--run", "here", *TINY,
               "--seed", str(2**63 - 1), "--set", "rl.gating=true")
    assert said.code == 0, said.err


def test_the_largest_seed_judges(run: Command) -> None:
    said = run("judge", "random", *T, "--count", "3", "--seed", str(2**63 - 1))
    assert said.code == 0, said.err


def test_a_gpu_that_is_not_there_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    run("match", "net:tictactoe", "random", *T, "--device", "cuda:2").mistake(
        "--device cuda:2", "2 GPUs")


def test_a_gpu_without_room_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*words: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(importlib.import_module("selfplay.cli.match"), "device_of", full)
    run("match", "net:.", "net:.", *T).mistake("memory is full", "rl.games")


def test_a_command_to_repeat_takes_a_folder_that_looks_like_an_option(
    run: Command, tmp_path: Path
) -> None:
    save_net(tmp_path / "net/ckpt-000001", "tictactoe")
    said = run("rl", *T, "--run", "./-dash run", "--init", "net", *TINY[2:],
               "--set", "rl.iterations=1")
    assert said.code == 0, said.err
    (line,) = [line for line in said.out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: ").split("   or   ")[0])
    assert words[:3] == ["selfplay", "compare", "./-dash run"]
    again = run(*words[1:3])
    assert again.code == 0, again.err
    assert "./-dash run" in (tmp_path / "-dash run/report.html").read_text()
