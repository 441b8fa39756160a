"""A damaged file of a run: one line that names it, or it is passed over; never a traceback."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from command import Command
from test_old_runs import unpacked

from selfplay.arena.records import read_records
from selfplay.common.errors import UserError
from selfplay.common.files import write_json
from selfplay.common.history import read_figures, read_history
from selfplay.learn import checkpoint

DAMAGE = {
    "deep": "[" * 100_000, "digits": '{"step": ' + "9" * 5000 + "}", "empty": "{}", "list": "[]",
    "null": "null", "number": "5",
    "not finite": '{"seconds": {"sft": NaN}, "done": [], "checkpoint": 1e999, "step": Infinity}',
    "huge": '{"seconds": {"sft": 1' + "0" * 400 + '}, "done": []}',
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("run-before-floors", tmp_path_factory.mktemp("whole")) / "tictactoe"


def files(folder: Path) -> list[Path]:
    """One of each kind of JSON file in a run."""
    match = next(folder.glob("matches/*/match.json"))
    newest = folder / "rl" / "ckpt-000003"
    return [folder / "config.json", folder / "progress.json", folder / "sft" / "best.json",
            folder / "sft" / "history.jsonl", folder / "rl" / "history.jsonl",
            newest / "meta.json", newest / "train.json", match]


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_every_damaged_file_is_one_line_or_passed_over(
    whole: Path, run: Command, kind: str
) -> None:
    for file in files(whole):
        before = file.read_bytes()
        file.write_text(DAMAGE[kind])
        try:
            for words in (["compare", str(whole)],
                          ["match", f"net:{whole}", "random", "--game", "tictactoe",
                           "--games", "2"]):
                said = run(*words)
                if said.code:
                    assert said.err.startswith("selfplay: "), said.err
                    assert said.err.strip().count("\n") == 0 and len(said.err) < 700, said.err
        finally:
            file.write_bytes(before)


def test_a_damaged_neighbour_does_not_end_a_match(whole: Path, run: Command) -> None:
    for number, text in enumerate(DAMAGE.values()):
        folder = Path("runs/matches") / f"other-{number}"
        folder.mkdir(parents=True)
        (folder / "match.json").write_text(text)
    assert run("match", "random", "random", "--game", "tictactoe", "--games", "2").code == 0


#: What is no cost of games, beside DAMAGE.
COSTS = {"NaN": '{"seconds": NaN}', "negative": '{"evaluations": -1}', "text": '{"seconds": "1"}',
         "true": '{"cached": true}', "inside": '{"seconds": {"a": 1}}', "none": '{"seconds": null}'}


@pytest.mark.parametrize("kind", sorted({**DAMAGE, **COSTS}))
def test_damaged_figures_are_told_with_the_file_and_a_remedy(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "cost.json"
    start = {"evaluations": 0, "seconds": 0.0}
    file.write_text({**DAMAGE, **COSTS}[kind])
    if kind == "empty":
        assert read_figures(file, start) == start
        return
    with pytest.raises(UserError, match=rf"^{file}: damaged \(.*delete it and run the same"):
        read_figures(file, start)
    file.unlink()
    assert read_figures(file, start) == start
    write_json(file, {"seconds": 2.5})
    assert read_figures(file, start) == {"evaluations": 0, "seconds": 2.5}


def test_the_remedy_for_a_damaged_cost_of_self_play_works(
    whole: Path, run: Command, tmp_path: Path
) -> None:
    whole = Path(shutil.copytree(whole, tmp_path / "run"))
    cost = whole / "rl/records/000004.parts/cost.json"
    cost.parent.mkdir(parents=True)
    cost.write_text('{"evaluations": 1, "seconds": Infinity}')
    words = ("rl", "--run", str(whole), "--minutes", "5", "--set", "rl.iterations=4")
    run(*words).mistake(str(cost), "delete it and run the same command again")
    cost.unlink()
    assert run(*words).code == 0


LINE = {"index": 0, "seed": 1, "players": ["a", "b"], "actions": [0, 1], "opening": 0, "value": 1,
        "score": None, "end": "win"}


@pytest.mark.parametrize("wrong", [
    {"score": math.nan}, {"score": "1"}, {"value": math.nan}, {"value": True}, {"end": None},
    {"players": "abc"}, {"players": ["a"]}, {"actions": [0.5]}, {"actions": [-1]}, {"index": -1},
    {"opening": 3}, {"seed": "1"}, {"more": 1}])
def test_a_line_that_is_no_record_of_a_game_is_named(tmp_path: Path, wrong: dict) -> None:
    file = tmp_path / "games.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "index": 1, **wrong}) + "\n")
    with pytest.raises(UserError, match=rf"^{file}, line 2: damaged; delete that line"):
        read_records(file)
    file.write_text(json.dumps(LINE) + "\n")
    assert [record.actions for record in read_records(file)] == [(0, 1)]


@pytest.mark.parametrize("wrong", [
    {"opening": 5}, {"opening": [1]}, {"opening": [3, 1]}, {"opening": ["0", "1"]},
    {"seed": None}, {"seed": math.inf}])
def test_a_match_of_wrong_settings_is_left_out(
    whole: Path, run: Command, wrong: dict
) -> None:
    file = next(whole.glob("matches/*/match.json"))
    before = file.read_bytes()
    file.write_text(json.dumps({**json.loads(before), **wrong}))
    try:
        said = run("compare", str(whole))
        assert said.code == 0 and f"match left out: {file}: damaged" in said.out
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("row", [
    '{"step": 2.5}', '{"step": 1, "iteration": 2.5}', '{"step": 1, "learning_rate": 0}',
    '{"step": 1, "learning_rate": -0.1}', '{"step": 1, "rows": 0.5}'])
def test_a_row_of_a_history_with_impossible_figures_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text('{"step": 1, "learning_rate": 0.1}\n' + row + "\n")
    with pytest.raises(UserError, match="line 2: damaged; delete that line"):
        read_history(file, ["step"])


@pytest.mark.parametrize("name", ["a" * 100_000, "a\u0000b", "../sft/ckpt-000001", ""])
def test_a_best_that_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "best.json", {"checkpoint": name})
    with pytest.raises(UserError, match=r"best\.json: damaged") as said:
        checkpoint.note(tmp_path)
    assert len(str(said.value)) < 700
