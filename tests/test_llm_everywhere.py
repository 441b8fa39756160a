"""A language model that thinks a line before it moves, wherever a player may stand, and on one
chart with a board's net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

from command import Command

import selfplay as sp
from selfplay.arena.players import parse_player
from selfplay.board.trainer import TrainConfig, board_trainer
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.learn import checkpoint
from selfplay.llm.config import TextConfig, override
from selfplay.llm.folder import open_text_run
from selfplay.llm.play import compared
from selfplay.llm.play.compared import texts_beside
from selfplay.llm.recipes import run_recipe
from selfplay.models import NetSpec, build, seeded
from selfplay.run.compare_runs import entries, pairings
from selfplay.run.config import override as set_board
from selfplay.run.config import preset
from selfplay.run.folder import Run, freeze, open_run
from selfplay.serve.mind import mind_of
from selfplay.serve.web import minds

GAME = make("tictactoe")
TINY = ["recipe=grpo", "net=1x32", "play.games=40", "play.expert=mcts:5", "play.looked_at=0",
        "play.rival=random", "play.opening=0,3", "play.thought=line", "play.sims=16",
        "play.plies=2", "play.symmetries=false", "sft.max_steps=40", "sft.evaluate_every=40",
        "sft.learning_rate=0.01", "sft.looked_at=4", "data.held_out=4", "rl.prompts=3",
        "rl.group=2", "rl.steps=2", "rl.evaluate_every=2", "rl.evaluate_prompts=4",
        "rl.checkpoint_every=1", "play.opponents=self,mcts:2,random", "sample.max_new_tokens=8",
        "eval.samples=1", "pool.every=1", "pool.opponents=1"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a language model: SFT with lines of thought, then RL."""
    folder = tmp_path_factory.mktemp("runs") / "words"
    run_recipe(open_text_run(folder, override(TextConfig("game:tictactoe"), TINY)), "cpu")
    return folder


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a net, of two checkpoints that have learnt nothing."""
    config = set_board(preset("tictactoe"), [
        "net=1x8", "eval.sims=2", "eval.baselines=mcts:4", "expert.player=mcts:5", "eval.games=2",
        "eval.decisive_games=2", "eval.baseline_games=2", "eval.opening=0,3"])
    run = open_run(tmp_path_factory.mktemp("boards") / "net", config)
    freeze(run)
    spec = NetSpec("1x8", GAME.obs_shape, GAME.num_actions, GAME.has_ownership)
    for step, stage in enumerate(("sft", "rl"), 1):
        trainer = board_trainer(seeded(step, lambda: build(spec)), TrainConfig())
        checkpoint.save(run.folder / stage / f"ckpt-{step:06d}", trainer, spec, {
            "game": "tictactoe", "kind": stage, "step": step,
            "compute": {"flops": 1e9 * step, "seconds": 9.0 * step, "positions": step}})
    return run


def test_a_thought_is_learnt_by_sft_and_by_rl_and_is_voted_on(words: Path) -> None:
    row = read_history(words / "rl" / "history.jsonl")[-1]
    assert row["games"] == 6 and row["length"] > 2, "it thinks before it moves"
    samples = read_history(words / "rl" / "samples.jsonl")
    assert any("#" in sample["completion"] for sample in samples)
    states = GAME.new(3)
    GAME.step(states, np.array([0, 4, 8]))
    for how in ("", "@4", ",mask", "@4,mask"):
        player: Any = parse_player(f"llm:{words}{how}", GAME)
        moves = player.act(states, np.arange(3))
        assert player.moves == 3 and (player.illegal == 0 or not how.endswith("mask"))
        assert (moves == parse_player(f"llm:{words}{how}", GAME).act(states, np.arange(3))).all()


def test_it_plays_wherever_a_player_may_stand(
    words: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = f"llm:{words}@2,mask"
    played = run("match", masked, "random", f"llm:{words}/sft/ckpt-000040", "--game", "tictactoe",
                 "--games", "2", "--out", "round").out
    assert played.count("words") >= 2 and "Elo beside the mean of all" in played
    tested = run("match", masked, "random", "--games", "4", "--sprt", "-400,400", "--out",
                 "sprt").out  # the game is that of the run
    assert "4 games" in tested and "llr" in tested.lower()
    assert sp.match("tictactoe", masked, "random", games=2).games == 2
    judged = run("judge", masked, "--count", "10").out
    assert "keeps the value" in judged
    monkeypatch.setattr(minds, "RUNS", words.parent)
    assert f"llm:{words}" in [choice.words for choice in minds.choices(GAME)]
    states = GAME.new(1)
    for name in (f"llm:{words}", f"llm:{words}@3"):  # of the web board and of GTP
        mind = mind_of(name)
        logits, value = mind(states, GAME.legal(states))
        assert mind.name.endswith(",mask") and (logits == 0).sum() == 1 and value == 0
    with pytest.raises(UserError, match="no folder of a language-model run"):
        mind_of("llm:nowhere@3")


def test_a_net_and_a_language_model_share_their_opponents(words: Path, board: Run) -> None:
    own, texts = texts_beside([words], board, sims=(2, 4))
    net, model = found = entries([board, own[words]], texts=texts)
    assert [point.stage for point in model.points] == ["sft", "rl", "rl"]
    assert {point.path.name for point in model.points if point.stage == "rl"} == {
        "ckpt-000001", "ckpt-000002"}
    sft, *rl = model.points
    assert all(point.compute["flops"] > sft.compute["flops"] > 0 for point in rl)
    met: dict[str, set[str]] = {}
    for pairing in pairings(found):
        met.setdefault(pairing.a, set()).add(pairing.b)
    everybody = {"random", "mcts:4", "mcts:5"}  # the baseline, and the expert of both
    for entry, last in ((net, 4), (model, 16)):
        for point in entry.points:
            assert met[point.player(0)] >= everybody
        assert met[entry.points[-1].player(last)] >= everybody - {"random"}
    assert model.points[-1].player(16).startswith("llm:")
    assert texts_beside([words], None, mask=True)[1].points[words][0].player(2).endswith("@2,mask")


def test_one_chart_shows_both(
    words: Path, board: Run, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "VOTES", (2,))
    said = run("compare", str(board.folder), str(words), "--game", "tictactoe", "--minutes", "30",
               "--search", "1,2,4", "--mask", "--out", "both").out
    assert "chart: both/compared.png" in said and "words: " in said
    found = json.loads((Path("both") / "compared.json").read_text())
    assert (Path("both") / "compared.png").read_bytes().startswith(b"\x89PNG")
    net, model = found["runs"]
    assert found["masked"] and (net["spends"], model["spends"]) == ("simulations", "answers")
    assert all(point["player"].endswith(",mask") for point in model["points"])
    assert {point["stage"] for point in model["points"]} == {"sft", "rl"}
    assert {row["sims"] for row in model["search"]} == {0, 2}
    assert [row["player"] for row in found["baselines"] if row["expert"]] == ["mcts:5"]
    assert "No ceiling can be told of" in said and set(net["exchange"]["gains"]) == {"rl"}
    wrong = run("compare", str(words), "--game", "connect4")
    assert "a run of tictactoe, not of connect4" in wrong.err
