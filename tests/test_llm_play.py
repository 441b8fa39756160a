"""Language models that play board games: texts of boards, positions to learn, games, players."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from command import Command

from selfplay.arena.expert import read_expert
from selfplay.arena.match import play_match
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.games import make
from selfplay.games.base import take
from selfplay.learn.config import PastSelves
from selfplay.llm.config import TextConfig, of_algorithm, override
from selfplay.llm.embedded import character_tokenizer, small_model, word_tokenizer
from selfplay.llm.evaluate import accuracy, answers
from selfplay.llm.folder import open_text_run, task_of
from selfplay.llm.generate import Sampling
from selfplay.llm.models import load_model, render
from selfplay.llm.play.learner import GameLearner
from selfplay.llm.play.lessons import EXPERT, FEWEST, POSITIONS, GameTask, game_task
from selfplay.llm.play.player import (
    Choosing,
    LanguageEvaluator,
    LanguagePlayer,
    Model,
    language_player,
    parse_language_player,
)
from selfplay.llm.play.words import Notation, said_move
from selfplay.llm.recipes import corpus_of, run_recipe
from selfplay.llm.rl import RewardedTask, TextRLConfig
from selfplay.llm.stage_config import PlayConfig
from selfplay.llm.tasks.corpus import other_task
from selfplay.serve.mind import mind_of

TICTACTOE = make("tictactoe")
NOTATION = Notation(TICTACTOE)
TOKENIZER = word_tokenizer(NOTATION.words())
TINY = ["net=1x32", "play.games=40", "play.expert=mcts:5", "play.looked_at=4",
        "play.rival=mcts:5", "play.opening=0,3", "sft.max_steps=30",
        "sft.evaluate_every=30", "sft.learning_rate=0.01", "sft.looked_at=8",
        "data.held_out=8", "rl.prompts=2", "rl.group=2", "rl.steps=2",
        "rl.evaluate_every=2", "rl.evaluate_prompts=4", "rl.checkpoint_every=1",
        "sample.max_new_tokens=4", "eval.samples=1,2", "pool.every=1", "pool.opponents=1"]


def after(game: Any, *lines: list[int]) -> Any:
    """Positions after these moves."""
    states, width = game.new(len(lines)), max(map(len, lines))
    game.replay(states, np.array([line + [-1] * (width - len(line)) for line in lines], np.int64)
                .reshape(len(lines), width))
    return states


# ----------------------------------------------------------------------------------------- texts


def test_a_board_is_written_as_its_side_to_move_sees_it() -> None:
    states = after(TICTACTOE, [4, 7, 0])  # b2, b3, a1; the second player is to move
    assert NOTATION.boards(states) == ["a3. b3X c3.\na2. b2O c2.\na1O b1. c1.\nsecond"]
    assert NOTATION.legal(states, 0) == ["b1", "c1", "a2", "c2", "a3", "c3"]


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go9x9", "hex5x5", "othello6x6"])
def test_tokens_are_those_of_the_text(name: str) -> None:
    """The table against the chat template and the tokenizer, which know nothing of games."""
    game, rng = make(name), np.random.default_rng(0)
    notation = Notation(game)
    words = word_tokenizer(notation.words())
    states = game.new(5)
    for _ in range(6):
        moves = [int(rng.choice(np.flatnonzero(row))) for row in game.legal(states)]
        game.step(states, np.array(moves))
    texts = notation.boards(states)
    assert notation.prompts(states, words) == [render(words, text) for text in texts]
    assert words.unk_token_id not in {token for row in notation.prompts(states, words)
                                      for token in row}
    characters = character_tokenizer()
    assert notation.prompts(states, characters) == [render(characters, text) for text in texts]
    move = int(np.flatnonzero(game.legal(states)[0])[0])
    assert notation.move(states, 0, game.action_to_text(states, 0, move)) == move


def test_a_line_of_thought_ends_with_the_move_that_it_begins_with() -> None:
    states = after(TICTACTOE, [])
    text = NOTATION.line(states, 0, [4, 0, 8], 0.9)
    assert text == "b2 a1 c3 wins # b2" and said_move(text) == "b2"
    assert NOTATION.move(states, 0, text) == 4
    assert NOTATION.move(states, 0, "b2 a1") is None and NOTATION.move(states, 0, "") is None
    assert "draws" in NOTATION.line(states, 0, [4], 0.1)


# ------------------------------------------------------------------------------ what SFT learns


def opened(folder: Path, *more: str, recipe: str = "grpo") -> Any:
    config = replace(TextConfig("game:tictactoe"), recipe=recipe)  # type: ignore[arg-type]
    return open_text_run(folder, override(config, [*TINY, *more]))


def worth(board: list[int], side: int) -> int:
    """What a position is worth to its side to move: minimax, by itself."""
    lines = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    if any(board[a] == board[b] == board[c] == -side for a, b, c in lines):
        return -1
    empty = [k for k in range(9) if not board[k]]
    values = []
    for k in empty:
        board[k] = side
        values.append(-worth(board, -side))
        board[k] = 0
    return max(values, default=0)


def test_positions_of_expert_games_are_learnt_and_others_held_out(tmp_path: Path) -> None:
    run = opened(tmp_path)
    task = run.task
    held, learnt = task.held_out(50), task.batch(0, 100)
    assert not {e.prompt for e in held} & {e.prompt for e in learnt}
    for example in learnt:
        assert example.answer in example.metadata["legal"] and example.demonstration
    for example in held[:6]:
        cells = [word for line in reversed(example.prompt.splitlines()[:3])
                 for word in line.split()]
        board = [{".": 0, "X": 1, "O": -1}[word[2]] for word in cells]
        best, right = worth(board, 1), set()
        for k in (k for k in range(9) if not board[k]):
            board[k] = 1
            if -worth(board, -1) == best:
                right.add(cells[k][:2])
            board[k] = 0
        assert set(example.metadata["right"]) == right
    again = game_task(run.config, tmp_path)  # from the file
    assert [e.prompt for e in again.held_out(50)] == [e.prompt for e in held]


def test_games_are_learnt_turned_as_well(tmp_path: Path) -> None:
    """As far as the board allows: a mirrored game is that of the mirrored moves."""
    from selfplay.arena.sgf import ExpertGame
    from selfplay.llm.play.lessons import turned_games

    game = make("connect4")
    one = ExpertGame((0, 3, 0, 4), 0.0, None, ("", ""), "", 0)
    assert [g.actions for g in turned_games(game, [one])] == [(0, 3, 0, 4), (6, 3, 6, 2)]
    turns = {g.actions for g in turned_games(TICTACTOE, [replace(one, actions=(0, 5))])}
    #: a corner and a side that it does not touch, in all eight ways
    assert turns == {(0, 5), (0, 7), (2, 3), (2, 7), (6, 1), (6, 5), (8, 1), (8, 3)}


def test_a_thought_is_the_line_of_a_search_and_is_learnt(tmp_path: Path) -> None:
    task = opened(tmp_path, "play.thought=line", "play.sims=30", "play.plies=3").task
    for example in task.batch(0, 20):
        *line, outcome, mark, move = str(example.demonstration).split()
        assert mark == "#" and outcome in ("wins", "draws", "loses")
        assert 1 <= len(line) <= 3 and line[0] == move == example.answer
    write = answers(_says(["b2"]), TOKENIZER, task.held_out(4), 2, Sampling(), 0)
    assert 0 <= accuracy(write)["legal"] <= 1 and accuracy(write)["format"] == 1


# --------------------------------------------------------------------------------------- players


def _says(texts: list[str]) -> Any:
    """A generator that says these completions to every prompt, the first ``group`` of them."""
    def write(prompts: Any, group: int, sampling: Sampling, seed: int) -> Any:
        rows = [TOKENIZER(texts[i % len(texts)])["input_ids"] + [TOKENIZER.eos_token_id]
                for _ in prompts for i in range(group)]
        width = max(map(len, rows))
        action = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        return SimpleNamespace(action=action, mask=mask, ended=torch.ones(len(rows)).bool())

    return write


def _model(net: str = "1x32") -> Model:
    from selfplay.llm.play.player import model_of_policy
    from selfplay.llm.policy import Net, TextPolicy

    net_of = small_model(net, TOKENIZER, 0).eval()
    return model_of_policy(TextPolicy(Net(net_of), (TOKENIZER.eos_token_id,),
                                      TOKENIZER.pad_token_id, tokenizer=TOKENIZER), TOKENIZER)


def said(texts: list[str], votes: int = 1) -> LanguagePlayer:
    model = replace(_model(), write=_says(texts))
    return LanguagePlayer("words", TICTACTOE, model, Choosing(votes))


def test_votes_are_for_legal_moves_and_the_most_named_wins() -> None:
    states = after(TICTACTOE, [4])  # b2 is taken
    slots = np.zeros(1, np.int64)
    assert said(["b2", "a1", "b2", "a1", "c3", "b2"], 6).act(states, slots) == [0]
    assert said(["c3", "a1"], 2).act(states, slots) == [8]  # of equals the first named
    assert said(["b2"], 2).act(states, slots) == [4]  # no vote: what was said, which loses
    assert said(["wins"]).act(states, slots) == [-3]
    counted = said(["b2"])
    counted.act(take(states, [0, 0]), np.arange(2))
    assert (counted.moves, counted.illegal) == (2, 2)


def test_what_is_no_legal_move_loses_the_game_and_the_record_says_so() -> None:
    result = play_match(TICTACTOE, said(["b2"]), "random", games=4, opening=(0, 0))
    assert result.losses == 4 and all("illegal move by words (b2)" in end or end == "win"
                                      for end in result.ends)
    result = play_match(TICTACTOE, said(["wins"]), "random", games=2, opening=(0, 0))
    assert result.ends == {"illegal move by words (no move)": 2}


@pytest.mark.parametrize("votes", [1, 4])
def test_masked_a_model_only_chooses_among_legal_moves(votes: int) -> None:
    model = _model()
    states = after(TICTACTOE, [], [4, 0], [4, 0, 8, 1, 2], [4, 0])
    slots = np.arange(4)
    free = LanguagePlayer("m", TICTACTOE, model, Choosing(votes, Sampling(max_new_tokens=3), True))
    chosen = free.act(states, slots)
    assert TICTACTOE.legal(states)[slots, chosen].all() and free.illegal == 0
    assert chosen[1] == chosen[3]  # equal positions are answered alike
    assert (free.act(take(states, [3, 0]), slots[:2]) == chosen[[3, 0]]).all()
    if votes == 1:  # against the model's own probabilities of the whole completions
        from selfplay.llm.models import complete
        with torch.no_grad():
            score = []
            prompt = NOTATION.prompts(states, TOKENIZER)[2]
            for move in NOTATION.legal(states, 2):
                tokens = prompt + complete(TOKENIZER, move)
                logp = torch.log_softmax(model.policy.net.policy(
                    input_ids=torch.tensor([tokens])).logits[0], -1)
                score.append(sum(float(logp[len(prompt) - 1 + k, tokens[len(prompt) + k]])
                                 for k in range(2)))
        assert chosen[2] == NOTATION.move(states, 2, NOTATION.legal(states, 2)[int(
            np.argmax(score))])


def test_as_an_evaluator_it_prefers_the_move_that_it_would_make() -> None:
    """What GTP and the web board ask: the likeliest legal move, as ``mask`` has it."""
    model, states = _model(), after(TICTACTOE, [4, 0], [4, 0, 8], [])
    legal = TICTACTOE.legal(states)
    logits, value = LanguageEvaluator(TICTACTOE, model)(states, legal)
    masked = LanguagePlayer("m", TICTACTOE, model, Choosing(1, Sampling(max_new_tokens=3), True))
    assert (logits.argmax(1) == masked.act(states, np.arange(3))).all()
    assert np.isinf(logits[~legal]).all() and np.isfinite(logits[legal]).all() and not value.any()


# ------------------------------------------------------------------------------------- learning


def learner(folder: Path, *opponents: str, **more: Any) -> GameLearner:
    from selfplay.llm.tasks.rows import Lines
    from selfplay.llm.tasks.task import Task

    model = small_model("1x32", TOKENIZER, 0)
    return GameLearner(
        RewardedTask(Task("none", Lines([]))), model, TOKENIZER,
        TextRLConfig(prompts=6, group=4, evaluate_prompts=0, **more), of_algorithm("rloo"),
        sampling=Sampling(max_new_tokens=2), seed=3, game=TICTACTOE, folder=folder,
        play=PlayConfig(opponents=opponents or ("self",), opening=(0, 4), looked_at=2,
                        rival="random"), pool=PastSelves(2, 1))


@pytest.fixture(autouse=True)
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.llm.tasks.task.Task.held_out", _held_out)


_KEPT = __import__("selfplay.llm.tasks.task", fromlist=["Task"]).Task.held_out


def _held_out(self: Any, count: int) -> Any:
    return _KEPT(self, count) if count else []


def test_a_move_earns_the_result_of_its_game_and_an_illegal_one_loses(tmp_path: Path) -> None:
    batch, row = learner(tmp_path, "random", "mcts:2").gather()
    assert batch is not None
    score = batch.rollout.reward.sum(1)
    assert row["games"] == 24 and row["illegal"] > 0.5  # random weights
    assert (score[batch.parts["legal"] == 0] == -1).all()
    assert torch.equal(score, batch.parts["result"]) and set(score.tolist()) <= {-1, 0, 1}
    ends = batch.rollout.mask.sum(1) - 1  # the reward stands on the last token
    assert torch.equal(batch.rollout.reward[torch.arange(len(ends)), ends], score)
    dealt = batch.rollout.group[batch.rollout.group < 3]  # half of the groups for each opponent
    assert 0 < len(dealt) < len(score)
    assert row["prompt_tokens"] == 10 * len(score)


def test_past_selves_join_and_a_step_can_be_repeated(tmp_path: Path) -> None:
    one, two = learner(tmp_path / "one"), learner(tmp_path / "two")
    for _ in range(2):
        rows = one.advance(), two.advance()
        assert {k: v for k, v in rows[0].items() if "seconds" not in k} == rows[1]
    assert [path.name for path in sorted((tmp_path / "one" / "pool").iterdir())] == [
        "ckpt-000000", "ckpt-000001", "ckpt-000002"]
    first, now = one.pool.member(0).net, one.policy.net
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), now.parameters(),
                                                     strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.pool.member(2).net.parameters(),
                                                 now.parameters(), strict=True))
    one.play = replace(one.play, rival="mcts:1", looked_at=30)  # more games than a step has
    assert 0 <= one.against_rival()["rival_score"] <= 1


def test_a_recipe_plays_is_continued_and_its_models_are_players(
    run: Command, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_recipe(opened(whole), "cpu")
    for steps in (1, 2):
        run_recipe(opened(cut, f"rl.steps={steps}"), "cpu")
    last = [load_model(folder / "rl" / "ckpt-000002")[0] for folder in (whole, cut)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in last), strict=True))
    row = read_history(whole / "rl" / "history.jsonl")[-1]
    assert {"illegal", "score", "rival_score", "sampled_accuracy"} <= set(row)
    said_by = run("match", f"llm:{whole}@2,mask", f"llm:{whole}/sft/ckpt-000030",
                  "--game", "tictactoe", "--games", "2", "--out", "match").out
    assert "rl/ckpt-000002@2,mask against llm:" in said_by and "2 games" in said_by
    judged = run("judge", str(whole), "--samples", "1,2", "--count", "20").out
    assert judged.count("keeps the value") == 4 and (whole / "judge.png").is_file()
    mind = mind_of(f"llm:{whole}")
    assert mind.game.name == "tictactoe" and mind.sims == 0 and mind.name.endswith(",mask")
    assert TICTACTOE.legal(after(TICTACTOE, [4]))[0, mind(
        after(TICTACTOE, [4]), TICTACTOE.legal(after(TICTACTOE, [4])))[0].argmax()]


def test_games_stay_within_their_time_and_go_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(tmp_path, "play.games=300")
    run.task.make(0.01)
    assert "of 300 games made in the time that they have" in capsys.readouterr().out
    few = read_history(tmp_path / POSITIONS)
    run.task.make(0.01)  # no more time: SFT goes on with the same
    assert not capsys.readouterr().out and read_history(tmp_path / POSITIONS) == few
    made = read_expert([tmp_path / EXPERT], run.task.game)[0]
    assert FEWEST <= len(made) < 200
    run.task.make(math.inf)
    assert "300 games made" not in capsys.readouterr().out
    more = read_history(tmp_path / POSITIONS)
    assert {row["prompt"] for row in few if row["held"]} < {
        row["prompt"] for row in more if row["held"]}
    opened(tmp_path / "whole", "play.games=300").task.make(math.inf)
    assert more == read_history(tmp_path / "whole" / POSITIONS)


def test_games_of_a_corpus_have_their_own_positions_and_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, float]] = []
    monkeypatch.setattr(GameTask, "make", lambda task, seconds: asked.append(
        (task.source.written.folder, seconds)))
    config = override(TextConfig("gcd"), ["recipe=three-stages", "minutes=2", *TINY,
                                          "data.corpus=game:tictactoe,gcd,game:connect4"])
    corpus_of(open_text_run(tmp_path, config))
    assert asked == [(tmp_path, 12.0), (tmp_path / "game-connect4", 12.0)]


def test_another_game_is_asked_in_its_own_positions(tmp_path: Path) -> None:
    run = opened(tmp_path, "play.games=4", "play.expert=random", "eval.also=game:hex5x5")
    for name, cells in (("game:tictactoe", 9), ("game:hex5x5", 25)):
        asked = other_task(run.config, name, tmp_path).batch(0, 2)
        assert {len(example.prompt.split()) for example in asked} == {cells + 1}


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write llm:RUN, llm:RUN@8"):
        parse_language_player("nowhere@3")
    with pytest.raises(UserError, match="unknown player"):
        opened(tmp_path, "play.opponents=nobody")
    with pytest.raises(UserError, match="human: nobody types"):
        opened(tmp_path, "play.opponents=self,human")
    with pytest.raises(UserError, match="unknown player 'self'"):  # only an opponent is that
        opened(tmp_path, "play.rival=self")
    with pytest.raises(UserError, match="no such file or folder"):
        opened(tmp_path, f"play.files={tmp_path / 'none.jsonl.gz'}")
    with pytest.raises(UserError, match="unknown task 'nosuch'"):
        opened(tmp_path, "data.corpus=nosuch")
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="a game's positions are a run's"):
        task_of(TextConfig("game:tictactoe"))
    run = opened(tmp_path / "run", recipe="sft")
    run_recipe(run, "cpu")
    setup: Any = SimpleNamespace(spec="llm:x", game=make("connect4"), seed=0, device="cpu",
                                 nets=None)
    with pytest.raises(UserError, match="has learnt tictactoe, not connect4"):
        language_player(str(tmp_path / "run"), setup)
