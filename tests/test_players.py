from __future__ import annotations

import builtins
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay.arena.play import play_games
from selfplay.arena.players import (
    FORMS,
    PLAYERS,
    RESIGN,
    RawPlayer,
    SamplingPlayer,
    parse_player,
    pyspiel_name,
)
from selfplay.arena.spec import ABOVE, net_parts
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.games.base import Game, take
from selfplay.games.openings import deal

FAKE = Path(__file__).with_name("fake_gtp.py")
GO = make("go5x5")
TTT = make("tictactoe")


def fake(behaviour: str, **options: object) -> str:
    words = [sys.executable, str(FAKE), behaviour, *(f"{k}={v}" for k, v in options.items())]
    return "gtp:" + shlex.join(words)


def position(game: Game, actions: list[int]) -> Any:
    states = game.new(1)
    game.replay(states, np.array([actions]))
    return states


def played(game: Game, one: Any, two: Any, games: int, slots: int, seed: int = 0,
           opening: tuple[int, int] = (0, 3), **more: Any) -> list[Any]:
    records = play_games(game, one, two, games=games, seed=seed, opening=opening, slots=slots,
                         **more)
    return sorted(records, key=lambda record: record.index)


@pytest.mark.parametrize(("spec", "words"), [
    ("mtcs:100", ["mtcs:100", "did you mean mcts", FORMS]),
    ("gnugo", ["gnugo", FORMS]),
    ("mcts", ["number of simulations", "mcts:1000"]),
    ("mcts:0", ["number of simulations"]),
    ("openspiel-mcts:x", ["openspiel-mcts:1000"]),
    ("mcts:100x0", ["number of simulations", "leaves at once"]),
    ("net:nowhere@64x0", ["@64x0 is no budget", "@64x8"]),
    ("net:nowhere@64", ["no folder"]),
    ("openspiel-mcts:10x2", ["one leaf at a time", "openspiel-mcts:10"]),
    ("random:3", ["nothing goes after the colon"]),
    ("net:/nowhere/at/all", ["/nowhere/at/all", "no folder"]),
    ("gtp:nosuchengine --level 1", ["nosuchengine not found"]),
])
def test_bad_specs_are_explained(spec: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_player(spec, GO)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_spec_says_how_many_leaves_are_under_way() -> None:
    game = make("connect4")
    player = parse_player("mcts:40x8", game, slots=3)
    assert (player.sims, player._search.config.leaves) == (40, 8)
    assert parse_player("mcts:40", game)._search.config.leaves == 1
    path, thought = net_parts("runs/a@b@64x8")
    assert (str(path), *thought, str(thought)) == ("runs/a@b", 64, 8, "64x8")
    assert net_parts("runs/a@b") == (Path("runs/a@b"), None)
    assert net_parts("runs/a@64") == (Path("runs/a"), (64, 1))


def test_gtp_is_for_go_only() -> None:
    with pytest.raises(UserError, match="not tictactoe"):
        parse_player(fake("good"), TTT)


def test_every_prefix_is_in_the_list_of_forms() -> None:
    assert {form.split(":")[0] for form in FORMS.split(", ")} == {*PLAYERS, *ABOVE, "path.py"}


def test_random_against_random_loads_no_torch_and_no_pyspiel() -> None:
    code = ("import sys; from selfplay.arena.match import play_match;"
            "from selfplay.games import make;"
            "r = play_match(make('tictactoe'), 'random', 'random', games=4, opening=(0, 0));"
            "assert r.games == 4; assert not {'torch', 'pyspiel'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_random_games_depend_on_the_seed_not_on_the_slots() -> None:
    games = [played(TTT, parse_player("random", TTT), parse_player("random", TTT), 20, slots)
             for slots in (1, 3, 20)]
    assert games[0] == games[1] == games[2]
    assert len({record.actions for record in games[0]}) > 10
    other = played(TTT, parse_player("random", TTT), parse_player("random", TTT), 20, 5, seed=1)
    assert other != games[0]


def test_the_opening_stream_is_fixed() -> None:
    """Expert games that exist rely on it: the stream is spelled out here once more."""
    game = make("go9x9")
    for number in range(20):
        rng = np.random.default_rng([7, number])
        count = int(rng.integers(2, 9))
        free = [r * 9 + c for r in range(1, 8) for c in range(1, 8)]
        actions = []
        for _ in range(count):
            actions.append(free[rng.integers(len(free))])
            free.remove(actions[-1])
        seed = int(rng.integers(2**31 - 1))
        dealt = deal(game, 7, number, (2, 8), swapped=False)
        assert dealt.actions == tuple(actions) and dealt.seeds[0] == seed
        swapped = deal(game, 7, number, (2, 8), swapped=True)
        assert swapped.actions == dealt.actions
        assert len({*swapped.seeds, *dealt.seeds}) == 4


def test_an_opening_never_ends_a_game() -> None:
    for number in range(50):
        dealt = deal(TTT, 0, number, (9, 9), swapped=False)
        assert not TTT.result(position(TTT, list(dealt.actions)))[0][0]


def test_pairs_share_an_opening_with_colours_swapped() -> None:
    a, b = parse_player("random", GO), parse_player("random", GO)
    a.name, b.name = "a", "b"
    records = played(GO, a, b, 6, 2, opening=(2, 4))
    for one, two in zip(records[::2], records[1::2], strict=True):
        assert one.players == ("a", "b") and two.players == ("b", "a")
        assert one.opening == two.opening
        assert one.actions[: one.opening] == two.actions[: two.opening]
        assert one.actions != two.actions
    assert len({record.actions[: record.opening] for record in records}) == 3


def test_records_agree_with_a_replay() -> None:
    player = parse_player("random", GO)
    for record in played(GO, player, player, 12, 5, paired=False):
        states = position(GO, list(record.actions))
        done, value = GO.result(states)
        assert done[0] and value[0] == record.value
        assert GO.score(states)[0] == record.score
        passes = record.actions[-2:] == (25, 25)
        assert record.end == ("two passes" if passes else "max moves")
        if not passes:
            assert len(record.actions) == GO.max_moves


def test_a_raw_net_plays_its_best_legal_move() -> None:
    """Its favourite point is taken, and an illegal logit is the highest."""
    class Fixed:
        game = TTT

        def __call__(self, states: Any, legal: Any) -> tuple[Any, Any]:
            logits = np.tile(np.array([9.0, 1, 2, 3, 8, 4, 5, 6, 7], np.float32), (len(legal), 1))
            return logits, np.zeros(len(legal), np.float32)

    player = RawPlayer("raw", Fixed())
    states = position(TTT, [0, 4])
    assert player.act(states, np.array([3])).tolist() == [8]


def test_a_policy_draws_its_moves_by_its_probabilities() -> None:
    """4,000 games from one position against softmax over the legal moves; the same seeds draw the
    same."""
    logits = np.array([9.0, 1, 2, 0, 9, -1, 1.5, 0.5, 1], np.float32)  # 0 and 4 are taken

    class Fixed:
        game = TTT

        def __call__(self, states: Any, legal: Any) -> tuple[Any, Any]:
            return np.tile(logits, (len(legal), 1)), np.zeros(len(legal), np.float32)

    count = 4000
    player, slots = SamplingPlayer("policy", Fixed(), count), np.arange(count)
    player.start(slots, np.arange(count) * 7)
    states = take(position(TTT, [0, 4]), np.zeros(count, np.int64))
    actions = player.act(states, slots)
    weights = np.exp(logits) * (np.arange(9) % 4 != 0) + np.exp(logits) * (np.arange(9) == 8)
    wanted = weights / weights.sum()
    found = np.bincount(actions, minlength=9) / count
    assert found[[0, 4]].tolist() == [0, 0]
    assert np.abs(found - wanted).max() < 4 * np.sqrt(0.25 / count)
    assert (player.act(states, slots) == actions).all()


@pytest.mark.parametrize(("actions", "wins"), [([0, 3, 1, 4], 2), ([4, 0, 8, 1, 6], 2)])
@pytest.mark.parametrize("spec", ["mcts:300", "openspiel-mcts:300"])
def test_search_takes_a_win_in_one(spec: str, actions: list[int], wins: int) -> None:
    player = parse_player(spec, TTT, slots=2, seed=1)
    player.start(np.array([1]), np.array([5]))
    for action in actions:
        player.moved(np.array([1]), np.array([action]))
    assert player.act(position(TTT, actions), np.array([1])).tolist() == [wins]
    player.close()


def test_search_games_depend_on_the_seed_not_on_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    game = make("connect4")

    def games(slots: int, seed: int = 0) -> list[Any]:
        one = parse_player("mcts:30", game, seed=1, slots=slots)
        two = parse_player("mcts:20", game, seed=2, slots=slots)
        return played(game, one, two, 8, slots, seed)

    expected = games(1)
    assert games(8) == expected and games(8, seed=1) != expected
    # three trees take turns
    monkeypatch.setattr("selfplay.arena.players.TREE_BYTES", 8 * 7 * 31 * 3)
    assert games(8) == expected


def test_more_simulations_are_stronger() -> None:
    game = make("connect4")
    strong, weak = (parse_player(f"mcts:{n}", game, slots=20) for n in (200, 5))
    records = played(game, strong, weak, 20, 20, opening=(0, 2))
    assert sum(r.value if r.index % 2 == 0 else -r.value for r in records) >= 12


class Untrained:
    """What ``checkpoint.save`` asks of a trainer, with nothing learned."""

    def __init__(self, spec: Any) -> None:
        from selfplay.models import build

        self.net = build(spec)

    def inference_net(self) -> Any:
        return self.net

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}


def test_net_players_find_their_checkpoint(tmp_path: Path) -> None:
    from selfplay.learn import checkpoint
    from selfplay.models import NetSpec

    spec = NetSpec("1x8", TTT.obs_shape, TTT.num_actions, TTT.has_ownership)
    meta = {"game": "tictactoe", "step": 1, "kind": "sft", "compute": {}}

    def name(path: Path, sims: str = "") -> str:
        return parse_player(f"net:{path}{sims}", TTT, slots=4).name

    with pytest.raises(UserError, match="no checkpoint"):
        name(tmp_path)
    first, second = tmp_path / "sft" / "ckpt-000001", tmp_path / "sft" / "ckpt-000002"
    for folder in (first, second):
        checkpoint.save(folder, Untrained(spec), spec, meta)
    assert name(first) == f"net:{first}" and name(first, "@4") == f"net:{first}@4"
    assert name(tmp_path) == name(tmp_path / "sft") == f"net:{second}"
    (tmp_path / "sft" / "best.json").write_text('{"checkpoint": "ckpt-000001"}')
    assert name(tmp_path) == f"net:{first}"
    newest = tmp_path / "rl" / "ckpt-000007"
    checkpoint.save(newest, Untrained(spec), spec, meta)
    assert name(tmp_path, "@16") == f"net:{newest}@16"
    with pytest.raises(UserError, match="a net for tictactoe"):
        parse_player(f"net:{newest}", GO)

    raw, search = (parse_player(f"net:{newest}{s}", TTT, slots=4) for s in ("", "@8"))
    records = played(TTT, raw, search, 6, 4)
    assert len(records) == 6 and all(record.natural for record in records)


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "go5x5", "go7x7(komi=5.5)"])
def test_openspiel_plays_the_same_game(name: str) -> None:
    """Same legal actions in each of many random positions (but for superko, which OpenSpiel
    does not forbid), same end, same result."""
    import pyspiel

    game, rng = make(name), np.random.default_rng(0)
    spiel = pyspiel.load_game(pyspiel_name(game))
    for _ in range(6):
        states, other = game.new(1), spiel.new_initial_state()
        while not game.result(states)[0][0]:
            ours = set(np.flatnonzero(game.legal(states)[0]).tolist())
            theirs = set(other.legal_actions())
            if game.has_ownership:
                assert ours <= theirs
                for extra in theirs - ours:
                    assert other.child(extra).is_terminal()
            else:
                assert ours == theirs
            action = int(rng.choice(sorted(ours)))
            game.step(states, np.array([action]))
            other.apply_action(action)
        assert other.is_terminal()
        assert other.returns()[0] == game.result(states)[1][0]


def test_openspiel_has_no_go_with_suicide() -> None:
    assert pyspiel_name(make("go5x5(suicide=true)")) is None
    with pytest.raises(UserError, match="mcts:N"):
        parse_player("openspiel-mcts:10", make("go5x5(suicide=true)"))


def test_the_openspiel_bot_plays_whole_games() -> None:
    for game in (make("connect4"), make("go5x5"), make("openspiel:tic_tac_toe")):
        bot, other = parse_player("openspiel-mcts:20", game), parse_player("random", game)
        records = played(game, bot, other, 4, 2)
        assert len(records) == 4
        assert not any("illegal" in record.end for record in records)


def test_a_gtp_engine_is_told_everything_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine, other = parse_player(fake("good", moves=4, log=log), GO), parse_player("random", GO)
    (record,) = played(GO, engine, other, 1, 1, opening=(2, 2), seed=5)
    engine.close()
    lines = log.read_text().splitlines()
    assert lines[:4] == ["boardsize 5", "clear_board", "komi 7", "list_commands"]
    assert lines[6] == f"set_random_seed {record.seed}"
    assert lines[7] == "genmove b" and lines[-1] == "quit"
    game = [line.split() for line in lines[4:-1]]
    told = [words[2].lower() for words in game if words[0] == "play"]
    texts = [GO.action_to_text(GO.new(1), 0, action).lower() for action in record.actions]
    assert told[:2] == texts[:2] and told[2:] == texts[3::2][: len(told) - 2]
    assert sum(words[0] == "genmove" for words in game) == len(texts[2::2])


def test_one_engine_plays_both_sides_of_its_game(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine = parse_player(fake("good", moves=6, log=log), GO)
    records = played(GO, engine, engine, 3, 1, opening=(2, 2), paired=False)
    engine.close()
    lines = log.read_text().splitlines()
    assert sum(line.startswith("boardsize") for line in lines) == 3
    assert lines.count("list_commands") == lines.count("quit") == 1
    assert sum(line.startswith("play") for line in lines) == 6
    assert [record.end for record in records] == ["two passes"] * 3
    assert {record.players for record in records} == {(engine.name, engine.name)}


def test_a_pass_becomes_a_cleanup_where_the_engine_knows_how(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine = parse_player(fake("cleanup", moves=3, log=log), GO)
    (record,) = played(GO, engine, engine, 1, 1, opening=(0, 0), paired=False)
    engine.close()
    assert len(record.actions) == 5 and record.end == "two passes"
    lines = log.read_text().splitlines()
    assert lines.count("undo") == 5 and lines.count("kgs-genmove_cleanup b") == 3


def test_an_illegal_move_forfeits_and_a_resignation_counts() -> None:
    other = parse_player("random", GO)
    cheat = parse_player(fake("illegal"), GO)
    for record in played(GO, cheat, other, 4, 2, opening=(1, 1)):
        mine = record.players.index(cheat.name)
        assert record.end.startswith(f"illegal move by {cheat.name}")
        assert record.value == (-1 if mine == 0 else 1) and record.score is None
        assert not record.natural and record.result == ("W+F" if mine == 0 else "B+F")
    cheat.close()
    quitter = parse_player(fake("resign"), GO)
    (record,) = played(GO, other, quitter, 1, 1)
    quitter.close()
    assert (record.end, record.value, record.result) == ("resignation", 1, "B+R")


@pytest.mark.parametrize(("behaviour", "words"), [
    ("die", ["has quit", "out of cheese", "genmove"]), ("nonsense", ["not GTP", "Hello"]),
    ("vertex", ["'z99' is no move", "genmove"]), ("refuse", ["unacceptable size", "boardsize 5"]),
])
def test_a_broken_engine_is_the_users_error(behaviour: str, words: list[str]) -> None:
    engine = parse_player(fake(behaviour, moves=0), GO)
    with pytest.raises(UserError) as caught:
        played(GO, engine, parse_player("random", GO), 2, 2)
    engine.close()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("how", "reason"), [
    ("fail", "null location"), ("off", "'t19' is no move"), ("die", "has quit")])
def test_an_engine_that_fails_in_one_position_loses_that_game(how: str, reason: str) -> None:
    """It is started again, and the match goes on."""
    script = Path(__file__).with_name("data") / "gtp" / "bad_at.py"
    engine = parse_player("gtp:" + shlex.join([sys.executable, str(script), how]), make("go9x9"))
    other = parse_player("random", make("go9x9"))
    records = played(make("go9x9"), engine, other, 8, 2, opening=(2, 2))
    engine.close()
    failed = [r for r in records if r.end.startswith("failure of")]
    assert len(records) == 8 and 0 < len(failed) < 8
    for record in failed:
        assert reason in record.end and "\n" not in record.end and not record.natural
        mine = record.players.index(engine.name)
        assert record.value == (-1 if mine == 0 else 1)
        assert record.result == ("W+F" if mine == 0 else "B+F")


def test_an_engine_that_fails_as_a_later_game_begins_loses_that_game() -> None:
    engine = parse_player(fake("refuse", games=2, moves=3), GO)
    records = played(GO, engine, parse_player("random", GO), 6, 1, opening=(0, 0))
    engine.close()
    failed = [r.index for r in records if r.end.startswith("failure of")]
    assert len(records) == 6 and failed == [2, 5]
    assert all("unacceptable size" in records[index].end for index in failed)
    with pytest.raises(UserError, match="unacceptable size"):  # one that has never played
        played(GO, parse_player(fake("refuse"), GO), parse_player("random", GO), 2, 1)


def test_an_engine_without_undo_keeps_its_pass(gnugo: str, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", f"{Path(gnugo).parent}:{os.environ['PATH']}")
    script = Path(__file__).with_name("data") / "gtp" / "no_undo.py"
    engine = parse_player("gtp:" + shlex.join([sys.executable, str(script)]), make("go5x5"))
    records = played(make("go5x5"), engine, engine, 2, 2, opening=(2, 2))
    engine.close()
    ends = {record.end for record in records}
    assert ends <= {"two passes", "resignation", "max moves"}
    assert capsys.readouterr().out.count("no undo") == 1


def test_a_human_is_asked_until_the_move_is_legal(monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    states = position(TTT, [4])
    taken, free = (TTT.action_to_text(states, 0, action) for action in (4, 0))
    answers = iter(["nonsense", taken, free])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(answers))
    player = parse_player("human", TTT)
    assert player.act(states, np.array([0])).tolist() == [0]
    said = capsys.readouterr().out
    assert TTT.render(states, 0) in said and "illegal" in said
    monkeypatch.setattr(builtins, "input", lambda prompt: "resign")
    assert player.act(states, np.array([0])).tolist() == [RESIGN]

    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", end)
    with pytest.raises(UserError, match="input ended"):
        player.act(states, np.array([0]))


def test_gnugo_beats_random_play(gnugo: str) -> None:
    engine = parse_player(f"gtp:{gnugo} --mode gtp --level 1", GO)
    records = played(GO, engine, parse_player("random", GO), 4, 2, opening=(0, 0))
    engine.close()
    assert sum(r.value if r.index % 2 == 0 else -r.value for r in records) >= 2
