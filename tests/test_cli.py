"""What a user may type, right and wrong: wrong ends in one line on stderr, right goes on."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command import TINY, Command, Said, save_net, selfplay

from selfplay.cli import cli
from selfplay.common.history import read_history
from selfplay.common.words import LONGEST
from selfplay.games import GameError, make
from selfplay.learn import checkpoint

FAKE = f"gtp:{sys.executable} {Path(__file__).with_name('fake_gtp.py')}"


# ------------------------------------------------------------------------------------- help

@pytest.mark.parametrize("name", [None, *cli.commands])
def test_help(run: Command, name: str | None) -> None:
    said = run(*filter(None, [name, "--help"]))
    assert said.code == 0
    assert "Usage: " in said.out
    assert said.err == ""
    if name:
        assert (cli.commands[name].get_short_help_str(200).split(".")[0]) in " ".join(
            said.out.split())


def every_command(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from every_command(command)


def test_every_option_has_a_help_text() -> None:
    for command in every_command(cli):
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{command.name} {option.name}"


@pytest.mark.parametrize("words", [(), ("llm",)])
def test_a_list_of_commands_says_whole_sentences(
    run: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    said = run(*words, "--help").out.partition("Commands:")[2]
    assert said and "..." not in said
    assert {line[-1] for line in re.split(r"\n  (?=\S)", said.rstrip())[1:]} == {"."}


def test_version_and_nothing(run: Command) -> None:
    assert run("--version").out.startswith("selfplay, version ")
    nothing = run()
    assert nothing.code != 0
    assert "Commands:" in nothing.err


def test_games(run: Command) -> None:
    said = run("games")
    assert said.code == 0
    assert {"tictactoe", "connect4", "go9x9"} <= set(said.out.split())
    assert "openspiel:hex" in said.out


# --------------------------------------------------------------------------- what does not exist

T, G = ("--game", "tictactoe"), ("--game", "go5x5")
MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("train", "--game", "tictactow"), ("tictactow", "did you mean 'tictactoe'")),
    (("match", "random", "random", "--game", "go9x"), ("did you mean 'go9x9'",)),
    (("bench", "--game", "chess960"), ("chess960", "selfplay games")),
    (("train", "--game", "go9x9(komi=x)"), ("komi", "a number")),
    (("train", "--game", "openspiel:no_such"), ("no_such",)),
    (("train", *T, "--set", "rl.simz=3"), ("rl.simz", "did you mean rl.sims")),
    (("train", *T, "--set", "rl.sims=many"), ("rl.sims=many", "int wanted")),
    (("train", *T, "--set", "rl.sims=-4"), ("rl.sims=-4", "more than 0")),
    (("train", *T, "--set", "rl.sims=0"), ("rl.sims=0", "more than 0")),
    (("train", *T, "--set", "sft.learning_rate=nan"), ("sft.learning_rate=nan",)),
    (("train", *T, "--set", "rl.full_share=1.5"), ("rl.full_share=1.5", "at most 1")),
    (("train", *T, "--set", "rl.opening=5,2"), ("rl.opening=5,2", "in order")),
    (("train", *T, "--set", "rl.gating=maybe"), ("bool wanted",)),
    (("train", *T, "--set", "rl"), ("key=value",)),
    (("train", *T, "--set", "net=huge"), ("net 'huge'", "4x32")),
    (("train", *T, "--init", "nowhere"), ("nowhere", "no checkpoint")),
    (("train", *T, "--device", "tpu"), ("--device tpu", "cpu")),
    (("train", *T, "--minutes", "soon"), ("--minutes", "soon", "selfplay train --help")),
    (("train", *T, "--minutes", "0"), ("--minutes",)),
    (("train", *T, "--minutes", "nan"), ("--minutes", "nan is not a finite number")),
    (("train", *T, "--minutes", "inf"), ("--minutes", "inf is not a finite number")),
    (("sft", *T, "--minutes", "inf"), ("--minutes", "inf is not a finite number")),
    (("compare", "nowhere", "--minutes", "inf"), ("--minutes", "inf is not a finite number")),
    (("train", *T, "--seed", "12345678901234567890123"), ("--seed", "9223372036854775807")),
    (("train", *T, "--set", f"seed={2**63}"), ("seed=", "at most 9223372036854775807")),
    (("train", *T, "--sims", "3"), ("--sims", "selfplay train --help")),
    (("train",), ("--game", "--run")),
    (("trane",), ("trane", "selfplay --help")),
    (("sft",), ("--game", "--run")),
    (("rl", "--run", "nowhere"), ("nowhere", "no run there", "selfplay train")),
    (("rl", *T, "--set", "expert.count=4"), ("no SFT checkpoint",)),
    (("train", *T, "--set", "rl.max_staleness=2"), ("rl.max_staleness=2: for games", "--ray")),
    (("compare", "nowhere"), ("nowhere", "no run there")),
    (("compare", "a", "b", "--out", "runs/x.png"), ("--out runs/x.png", "a folder", "runs/x;")),
    (("sft", *T, "--games", "nowhere.jsonl.gz"), ("nowhere.jsonl.gz", "no such file")),
    (("match", "rendom", "random", *T), ("rendom", "did you mean random")),
    (("match", "mcts:few", "random", *T), ("mcts:few", "mcts:1000")),
    (("match", "net:nowhere", "random", *T), ("nowhere", "no folder")),
    (("match", "gtp:no-such-engine -x", "random", *G), ("no-such-engine", "not found")),
    (("match", "gtp:gnugo", "random", *T), ("GTP engines play Go",)),
    (("match", "random", *T), ("players", "2 values", "selfplay match --help")),
    (("match", "random", "random", "--game", "go4x4"), ("go4x4", "go5x5 to go19x19")),
    (("match", "random", "random", "--game", "hex12x12"), ("hex12x12", "hex2x2 to hex11x11")),
    (("match", "random", "random", "--game", "chess"), ("openspiel:chess",)),
    (("match", "random", "random", *T, "--games", "ten"), ("--games", "ten")),
    (("match", "random", "random", *T, "--games", "0"), ("--games",)),
    (("match", "random", "random", *T, "--opening", "5-2"), ("--opening 5-2", "2-8")),
    (("match", "random", "random", *T, "--opening", "9" * 5000), ("--opening 999", "2-8")),
    (("match", "random", "random", *T, "--opening", f"1-{'9' * 30}"), ("--opening 1-9", "2-8")),
    (("match", "random", "mcts:2", *T, "--opening", "3-20"),
     ("--opening 3-20: a game of tictactoe has at most 9 moves", "within 0-8 wanted")),
    (("match", "random", "mcts:2", *T, "--opening", "9"), ("--opening 9: a game of tictactoe",)),
    (("match", "random", "mcts:2", "--game", "hex2x2", "--opening", "0-4"), ("within 0-3",)),
    (("expert", *T, "--player", "random", "--out", "x.jsonl.gz", "--opening", "3-20"),
     ("--opening 3-20: a game of tictactoe has at most 9 moves",)),
    (("judge", "random", *T, "--plies", "x"), ("--plies x", "2-8")),
    (("judge", "random", *T, "--seed", str(2**63)), ("--seed", "9223372036854775807")),
    (("match", "random", "random", "--game", f"gomoku(board_size={'9' * 5000})"),
     ("board_size", "whole number")),
    (("match", "random", "random", *T, "--seed", "-1"), ("--seed",)),
    (("expert", *T, "--player", "random", "--out", "x.sgf.gz"), ("x.sgf.gz", ".jsonl.gz")),
    (("expert", *T, "--player", "randy", "--out", "x.jsonl.gz"), ("randy", "random")),
    (("train", *T, "--algo", "PPO"), ("--algo PPO", "did you mean ppo?", "train --help")),
    (("train", *T, "--recipe", "AlphaGo"), ("--recipe AlphaGo", "did you mean alphago?")),
    (("llm", "train", "--algo", "GRPO"), ("--algo GRPO", "did you mean grpo?")),
    (("llm", "train", "--recipe", "R1-Zero"), ("--recipe R1-Zero", "did you mean r1-zero?")),
    (("match", "MCTS:10", "random", *T), ("MCTS:10", "did you mean mcts:10?")),
    (("train", *T, "--minutes", "two"), ("--minutes two", "a number, 0.05 or more, wanted")),
    (("match", "random", "random", *T, "--games", "ten"), ("--games ten", "whole number, 1 or")),
    (("train", *T, "--seed", "1.5"), ("--seed 1.5", "a whole number, from 0 to")),
    (("compare", "./-dash"), ("-dash", "--run ./-dash")),
    (("llm", "eval", "./-dash"), ("-dash", "--run ./-dash")),
    (("match", "random", "random", *T, "--pgn", "/dev/null/all.pgn"),
     ("--pgn /dev/null/all.pgn", "/dev/null is no folder")),
    (("judge", "random", *T, "--out", "/tmp"), ("--out /tmp: a folder; a file's name wanted",)),
    (("judge", "random", *T, "--out", "/"), ("--out /: a folder; a file's name wanted",)),
    (("judge", "random", *T, "--out", f"{'x' * 300}.png"), ("--out xxx", "File name too long")),
    (("train", *T, "--run", "x" * 300), ("File name too long", "choose a shorter name")),
    (("expert", *T, "--player", "random", "--games", "2", "--out", f"{'x' * 260}.jsonl.gz"),
     ("File name too long", "choose a shorter name")),
]


@pytest.mark.parametrize(("name", "near"), [
    ("chess960x", "openspiel:chess"), ("hexx", "hex"), ("openspiel:ches", "openspiel:chess"),
    ("backgammin", ""), ("openspiel:zzz", "")])
def test_only_names_that_are_near_are_suggested(name: str, near: str) -> None:
    with pytest.raises(GameError) as caught:
        make(name)
    told = re.findall(r"did you mean '([^']+)'", str(caught.value))
    assert told == [near] * bool(near)
    assert near or "selfplay games" in str(caught.value)


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=lambda v: " ".join(v)[:60])
def test_a_mistake_is_one_line(run: Command, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    run(*words).mistake(*told)


@pytest.mark.parametrize(("words", "said"), [
    (("bench", *T), "stopped"),
    (("match", "random", "random", *T), "stopped; the same command continues"),
    (("judge", "random", *T, "--count", "4"), "stopped"), (("play", "--no-browser"), "stopped"),
])
def test_ctrl_c_promises_what_is_so(
    run: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    def interrupted(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    for work in ("selfplay.bench.run_bench", "selfplay.arena.match.play_match",
                 "selfplay.arena.judge.solved", "selfplay.serve.web.server.listen"):
        monkeypatch.setattr(work, interrupted)
    ended = run(*words)
    assert (ended.code, ended.err.strip()) == (130, said)


@pytest.mark.parametrize("words", [
    ("match", "x" * 10**5, "random", *T), ("train", "--game", "x" * 10**5),
    ("train", *T, "--set", f"rl.sims={'x' * 10**5}"), ("train", *T, "--set", f"{'x' * 10**5}=3"),
    ("train", *T, "--minutes", "x" * 10**5), ("train", *T, "--algo", "x" * 10**5),
    ("train", *T, "--set", "x" * 10**5), ("x" * 10**5,), ("train", f"--{'x' * 10**5}"),
], ids=lambda words: " ".join(word[:20] for word in words))
def test_a_message_has_a_length(run: Command, words: tuple[str, ...]) -> None:
    said = run(*words)
    said.mistake()
    assert len(said.err) < LONGEST + 20


def test_no_traceback_from_the_shell(tmp_path: Path) -> None:
    done = selfplay("train", "--game", "tictactow", cwd=tmp_path, fresh=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("selfplay: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- wrong folders

def test_a_run_of_another_game_or_setting(run: Command, tmp_path: Path) -> None:
    small = ("--run", "here", "--set", "expert.count=4", "--set", "expert.player=random",
             "--set", "sft.max_steps=2", "--set", "net=1x8")
    assert run("sft", *T, *small).code == 0
    run("train", "--game", "connect4", "--run", "here").mistake("run of tictactoe", "--run")
    run("train", *T, "--run", "here", "--set", "net=2x8").mistake("net=1x8, not 2x8", "--run")
    run("train", *T, "--run", "here", "--seed", "5").mistake("seed=0, not 5")
    again = run("sft", *T, "--run", "here", "--minutes", "3", "--set", "sft.max_steps=4")
    assert again.code == 0
    assert "best checkpoint" in again.out
    assert [row["step"] for row in read_history(tmp_path / "here/sft/history.jsonl")] == [2, 4]
    stored = json.loads((tmp_path / "here/config.json").read_text())
    assert stored["net"] == "1x8"
    (tmp_path / "here/config.json").write_text('{"game": "tictactoe", "nets": 1}')
    run("train", *T, "--run", "here").mistake("config.json", "nets")
    for text in ("{", "[" * 10**5, '{"game": ' + "9" * 5000 + "}", "[]", "null", "NaN", "\ufeff{}"):
        (tmp_path / "here/config.json").write_text(text)
        run("train", *T, "--run", "here").mistake("here/config.json", "delete")


def test_a_mistake_is_not_frozen_into_the_run(run: Command) -> None:
    words = ("sft", *T, "--run", "here", "--set", "expert.count=4", "--set", "sft.max_steps=2",
             "--set", "net=1x8")
    run(*words, "--set", "expert.player=nobody:3").mistake("nobody")
    run(*words, "--games", "nowhere").mistake("nowhere")
    run("train", *T, "--run", "here", "--init", "nowhere").mistake("nowhere", "no checkpoint")
    assert run(*words, "--set", "expert.player=random").code == 0


def test_other_peoples_files(run: Command, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary/monday.txt").write_text("rain")
    (tmp_path / "note").write_text("rain")
    run("train", *T, "--run", "diary").mistake("diary", "other files")
    run("train", *T, "--run", "note").mistake("note", "other files")
    run("train", *T, "--run", "note/run").mistake("note")
    run("match", "random", "random", *T, "--games", "2", "--out", "note").mistake("note")
    run("expert", *T, "--player", "random", "--games", "2", "--out", "note/x.jsonl.gz").mistake(
        "note")
    (tmp_path / "x.jsonl.gz").write_bytes(b"")
    run("expert", *T, "--player", "random", "--out", "x.jsonl.gz").mistake("exists already")


def test_a_match_folder_of_another_match(run: Command) -> None:
    match = ("match", "random", "random", "--games", "2", "--out", "here")
    assert run(*match, *T).code == 0
    run(*match, "--game", "connect4").mistake("here", "tictactoe, not connect4")
    run(*match, *T, "--seed", "3").mistake("seed 0, not 3")


# --------------------------------------------------------------------------------- checkpoints

def test_checkpoints_that_do_not_fit(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "net", "tictactoe")
    match = ("match", "net:net", "random", "--games", "2", "--opening", "0")
    run(*match, "--game", "connect4").mistake("net for tictactoe, not for connect4")
    assert run(*match, *T).code == 0
    run("rl", "--game", "connect4", "--init", "net").mistake("net for tictactoe")

    whole = (tmp_path / "net/weights.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 5000):
        (tmp_path / "net/weights.safetensors").write_bytes(damaged)
        run(*match, *T, "--out", "other").mistake("weights.safetensors", "damaged")
    (tmp_path / "net/weights.safetensors").write_bytes(whole)
    meta = json.loads((tmp_path / "net/meta.json").read_text())
    for text in ("{", "[]", json.dumps({**meta, "net": {"size": "2x8"}}),
                 json.dumps({**meta, "net": {**meta["net"], "size": "2x8"}})):
        (tmp_path / "net/meta.json").write_text(text)
        run(*match, *T, "--out", "other").mistake("net")


def test_a_damaged_newest_checkpoint_is_passed_over(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "run/ckpt-000001", "tictactoe")
    save_net(tmp_path / "run/ckpt-000002", "tictactoe")
    (tmp_path / "run/ckpt-000002/weights.safetensors").write_bytes(b"half")
    said = run("match", "net:run", "random", *T, "--games", "2")
    assert said.code == 0
    assert "ckpt-000001 against random" in said.out


def test_self_play_from_a_checkpoint_of_another_size(run: Command, tmp_path: Path) -> None:
    save_net(tmp_path / "net", "tictactoe")  # 1x8; the preset says 2x16
    rl = ("rl", *T, "--init", "net", "--run", "here", "--set", "rl.positions=16",
          "--set", "rl.games=4", "--set", "rl.sims=2", "--set", "rl.cheap_sims=1",
          "--set", "rl.batch_size=8", "--set", "rl.reuse=1")
    assert run(*rl, "--set", "rl.iterations=1").code == 0
    shutil.rmtree(tmp_path / "net")  # it has been taken over
    assert run(*rl, "--set", "rl.iterations=2").code == 0
    rows = read_history(tmp_path / "here/rl/history.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2]
    assert checkpoint.read_meta(tmp_path / "here/rl/ckpt-000002")["net"]["size"] == "1x8"


# ----------------------------------------------------------------------------------------- SGF

GOOD = "(;GM[1]FF[4]SZ[5]KM[7]RE[B+R];B[cc];W[{0}b];B[d{0}];W[ee])"


def write_sgf(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_sgf_with_bad_ones_among_them(run: Command, tmp_path: Path) -> None:
    games = tmp_path / "a,b"  # a comma separates files in --set, but not here
    for letter in "abce":
        write_sgf(games, f"{letter}.sgf", GOOD.format(letter))
    write_sgf(games, "large.sgf", GOOD.format("a").replace("SZ[5]", "SZ[19]"))
    write_sgf(games, "torn.sgf", GOOD.format("a")[:40])
    write_sgf(games, "illegal.sgf", "(;GM[1]SZ[5]RE[W+3];B[cc];W[cc])")
    (games / "torn.sgf.gz").write_bytes(gzip.compress(b"(;GM[1]SZ[5])")[:-9])
    said = run("sft", *G, "--run", "here", "--games", str(games), "--set", "sft.max_steps=2",
               "--set", "sft.batch_size=8", "--set", "net=1x8")
    assert said.code == 0, said.err
    assert "4 read, 4 skipped" in said.out
    for reason in ("board size 19", "illegal move 2: the point is taken", "unreadable"):
        assert reason in said.out
    assert "3 to learn from, 1 held out" in said.out


def test_sgf_with_nothing_in_it(run: Command, tmp_path: Path) -> None:
    write_sgf(tmp_path / "bad", "torn.sgf", GOOD.format("a")[:40])
    write_sgf(tmp_path / "large", "large.sgf", GOOD.format("a").replace("SZ[5]", "SZ[19]"))
    write_sgf(tmp_path / "one", "one.sgf", GOOD.format("a"))
    sft = ("sft", *G, "--run", "here", "--games")
    run(*sft, "bad").mistake("bad", "not SGF")
    run(*sft, "large").mistake("large", "board size 19 (1: large.sgf)")
    run(*sft, "one").mistake("1 expert game", "at least 2")
    (tmp_path / "empty").mkdir()
    run(*sft, "empty").mistake("empty", ".sgf")


# ----------------------------------------------------------------------------- engines that fail

@pytest.mark.parametrize(("behaviour", "told"), [
    ("die moves=0", "out of cheese"), ("nonsense", "not GTP"), ("vertex", "is no move"),
])
def test_an_engine_that_never_plays(
    run: Command, tmp_path: Path, behaviour: str, told: str
) -> None:
    match = ("--game", "go5x5", "--games", "4", "--slots", "1", "--out", "here", "--opening", "0")
    run("match", f"{FAKE} {behaviour}", "random", *match).mistake("fake_gtp.py", told)
    games = tmp_path / "here/games.jsonl"
    kept = games.read_text() if games.exists() else ""
    assert not kept
    # the same engine, mended: what was finished stays as it is
    name = json.loads((tmp_path / "here/match.json").read_text())["a"]
    mended = tmp_path / "here/match.json"
    mended.write_text(mended.read_text().replace(behaviour, "good moves=2"))
    said = run("match", name.replace(behaviour, "good moves=2"), "random", *match)
    assert said.code == 0, said.err
    lines = games.read_text()
    assert lines.startswith(kept)
    assert sorted(json.loads(line)["index"] for line in lines.splitlines()) == [0, 1, 2, 3]


def test_an_engine_that_makes_expert_games_dies(run: Command, tmp_path: Path) -> None:
    expert = ("expert", *G, "--games", "3", "--slots", "1", "--out", "x.sgf.gz", "--opening", "1",
              "--player")
    engine = f"{FAKE} die moves=2 games=2"  # each start plays two games
    said = run(*expert, engine)
    assert said.code == 0 and "1 without a natural end" in said.out
    assert gzip.decompress((tmp_path / "x.sgf.gz").read_bytes()).count(b"(;") == 2


# ---------------------------------------------------------------------------------- full disks

def test_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    """A limit on the size of files: weights are the first that do not fit."""
    sft = ("sft", "--game", "tictactoe", "--run", "here", *TINY)

    selfplay("sft", "--game", "tictactoe", "--run", "warm", *TINY, cwd=tmp_path)  # Numba's cache
    done = selfplay(*sft, cwd=tmp_path, largest=8_000)
    Said(done.returncode, done.stdout, done.stderr).mistake("File too large", "again")
    assert (tmp_path / "here/expert/games.jsonl.gz").exists()
    assert not checkpoint.listing(tmp_path / "here/sft")
    done = selfplay(*sft, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in checkpoint.listing(tmp_path / "here/sft")][-1] == "ckpt-000045"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
                           capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    train = ("train", "--game", "tictactoe", "--run", "here", *TINY)
    (small_disk / "ballast").write_bytes(bytes(150_000))
    done = selfplay(*train, cwd=small_disk)
    Said(done.returncode, done.stdout, done.stderr).mistake("No space left on device")
    found = checkpoint.listing(small_disk / "here/sft")
    for path in found:
        checkpoint.load_net(path, "tictactoe")
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    done = selfplay(*train, cwd=small_disk)
    assert done.returncode == 0, done.stderr
    rows = read_history(small_disk / "here/rl/history.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
