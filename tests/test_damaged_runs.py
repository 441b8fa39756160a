"""A damaged file of a run: one line that names it, or it is passed over; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Command
from test_old_runs import unpacked

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
