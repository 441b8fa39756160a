"""Many positions at once: KataGo's protocol, the batch behind it, and the call from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import selfplay

import selfplay as sp
from selfplay.games.base import take
from selfplay.search.line import expected_line
from selfplay.search.search import Search
from selfplay.search.tree import node_bytes
from selfplay.serve import batch
from selfplay.serve.batch import AnalysisBatch, Job, analyses, jobs_of
from selfplay.serve.mind import Mind, mind_of, of_net
from selfplay.serve.queries import Server, answer_queries

#: As KataGo's documentation shows one, on our board.
QUERY = {"id": "foo", "initialStones": [["B", "D4"], ["B", "C2"]],
         "moves": [["W", "E5"], ["B", "A5"]], "rules": "tromp-taylor", "komi": 7,
         "boardXSize": 5, "boardYSize": 5, "analyzeTurns": [0, 1, 2], "maxVisits": 20}


@pytest.fixture(scope="module")
def mind() -> Mind:
    return of_net(sp.net("go5x5", "1x8"), sp.make("go5x5"), "tiny", 16)


def ask(mind: Mind, *queries: object, view: str = "BLACK") -> list[dict[str, Any]]:
    texts = [q if isinstance(q, str) else json.dumps(q) for q in queries]
    coming: list[list[str] | None] = [texts, None]
    out: list[str] = []
    answer_queries(Server(mind, 17, view), lambda wait: coming.pop(0), out.append)
    return [json.loads(text) for text in out]


def done(answers: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {a["turnNumber"]: a for a in answers if "moveInfos" in a and not a["isDuringSearch"]}


def test_a_query_written_for_katago_is_answered(mind: Mind) -> None:
    answers = ask(mind, {**QUERY, "includeOwnership": True, "includePolicy": True,
                         "includePVVisits": True, "includeMovesOwnership": True, "bogus": 1})
    warned = [a["field"] for a in answers if "warning" in a]
    assert warned == ["bogus", "rules"]  # suicide, which our game forbids
    found = done(answers)
    assert sorted(found) == [0, 1, 2]
    for turn, a in found.items():
        assert a["id"] == "foo" and a["rootInfo"]["visits"] == 20
        assert a["rootInfo"]["currentPlayer"] == "WBW"[turn]
        assert sum(m["visits"] for m in a["moveInfos"]) == 19
        assert [m["order"] for m in a["moveInfos"]] == list(range(len(a["moveInfos"])))
        for m in a["moveInfos"]:
            assert m["pv"][0] == m["move"] and len(m["pv"]) == len(m["pvVisits"])
            assert {"winrate", "scoreLead", "scoreMean", "prior", "lcb", "utility"} <= m.keys()
        assert len(a["ownership"]) == 25 and len(a["policy"]) == 26
        assert sum(p for p in a["policy"] if p > 0) == pytest.approx(1, abs=1e-4)
        assert a["policy"][8] == -1  # D4, taken: the fourth of the second line from the top
        assert a["moveInfos"][0]["ownership"]


def test_whose_winrate_is_told(mind: Mind) -> None:
    for turn, black in ((0, -1), (1, 1)):
        query = {**QUERY, "analyzeTurns": [turn]}
        told = {view: done(ask(mind, query, view=view))[turn]["rootInfo"]
                for view in ("BLACK", "WHITE", "SIDETOMOVE")}
        assert told["BLACK"]["winrate"] == pytest.approx(1 - told["WHITE"]["winrate"], abs=1e-5)
        assert told["BLACK"]["scoreLead"] == pytest.approx(-told["WHITE"]["scoreLead"], abs=1e-5)
        assert told["SIDETOMOVE"] == told["BLACK" if black > 0 else "WHITE"]
        own = {**query, "overrideSettings": {"reportAnalysisWinratesAs": "WHITE", "cpuct": 1}}
        answers = ask(mind, own)
        assert done(answers)[turn]["rootInfo"] == told["WHITE"]
        assert any(a.get("field") == "overrideSettings" for a in answers)


@pytest.mark.parametrize(("change", "field"), [
    ({"id": 5}, "id"), ({"moves": [["B", "Z9"]]}, "moves"), ({"moves": "B"}, "moves"),
    ({"moves": [["W", "E5"], ["B", "E5"]]}, "moves"), ({"moves": [["X", "E5"]]}, "moves"),
    ({"moves": [5]}, "moves"), ({"initialStones": [["B", "pass"]]}, "initialStones"),
    ({"initialPlayer": "green"}, "initialPlayer"), ({"boardXSize": 19, "boardYSize": 19},
                                                    "boardXSize"),
    ({"boardXSize": 7}, "boardYSize"), ({"boardXSize": "5"}, "boardXSize"),
    ({"rules": '{"ko"'}, "rules"),
    ({"komi": 6.5}, "komi"), ({"komi": 6.3}, "komi"), ({"komi": "7"}, "komi"),
    ({"analyzeTurns": [9]}, "analyzeTurns"), ({"analyzeTurns": [-1]}, "analyzeTurns"),
    ({"analyzeTurns": []}, "analyzeTurns"), ({"maxVisits": 0}, "maxVisits"),
    ({"maxVisits": 1e300}, "maxVisits"), ({"maxVisits": True}, "maxVisits"),
    ({"includePolicy": 1}, "includePolicy"), ({"priorities": [1]}, "priorities"),
    ({"overrideSettings": []}, "overrideSettings"), ({"allowMoves": [5]}, "allowMoves"),
    ({"reportDuringSearchEvery": 0}, "reportDuringSearchEvery")])
def test_bad_fields_are_named(mind: Mind, change: dict[str, Any], field: str) -> None:
    answers = [a for a in ask(mind, {**QUERY, **change}, QUERY) if "warning" not in a]
    assert answers[0]["field"] == field and "error" in answers[0]
    assert answers[0].get("id") == ("foo" if field != "id" else None)
    assert len(done(answers)) == 3  # the next query is answered


def test_what_is_no_json_stops_nothing(mind: Mind) -> None:
    bad = ["{", "5", "[]", '"x"', "{}", '{"id": NaN}', "[" * 100_000, "\ud800", "x" * 100_000,
           '{"id": "a", "moves": [], "maxVisits": 1e999}',
           *(f'{{"id": "a", "moves": [], "{name}": {10**400}}}' for name in ("komi", "priority"))]
    answers = ask(mind, *bad, "", QUERY)
    assert sum("error" in a for a in answers) == len(bad) and len(done(answers)) == 3
    endless = ask(mind, '{"id": "t", "action": "terminate_all", "more": [-1e999]}')
    assert endless == [{"error": "-1e999: a smaller number wanted"}]
    assert all(len(json.dumps(a)) < 1000 for a in answers if "error" in a)


def test_actions_and_ends(mind: Mind) -> None:
    answers = ask(mind, {**QUERY, "id": "long", "maxVisits": 5000, "priority": -1},
                  {"id": "v", "action": "query_version"}, {"id": "x", "action": "dance"},
                  {"id": "t", "action": "terminate", "terminateId": "long", "turnNumbers": [0, 1]},
                  {"id": "u", "action": "terminate_all"}, {"id": "c", "action": "clear_cache"},
                  {**QUERY, "id": "over", "moves": [["B", "pass"], ["W", "pass"]],
                   "initialStones": [], "analyzeTurns": [2]})
    by_id = {a["id"]: a for a in answers if "isDuringSearch" not in a and "warning" not in a}
    assert by_id["v"]["version"] and by_id["t"]["terminateId"] == "long"
    assert by_id["x"]["field"] == "action"
    assert [a["noResults"] for a in answers if a.get("id") == "long" and "turnNumber" in a] == \
        [True] * 3
    end = next(a for a in answers if a.get("id") == "over" and "rootInfo" in a)
    assert end["rootInfo"]["winrate"] == 0.0 and end["moveInfos"] == []


def test_what_the_protocol_has_besides(mind: Mind) -> None:
    answers = ask(mind, {"id": "m", "action": "query_models"},
                  {**QUERY, "analyzeTurns": [2], "analysisPVLen": 1, "whiteHandicapBonus": "N"})
    assert answers[0]["models"] == [{"name": "tiny", "game": "go5x5"}]
    assert "whiteHandicapBonus" in [a["field"] for a in answers if "warning" in a]
    lengths = {len(m["pv"]) for m in done(answers)[2]["moveInfos"]}
    assert max(lengths) == 2  # the move and one more


def test_reports_on_the_way(mind: Mind) -> None:
    answers = ask(mind, {**QUERY, "analyzeTurns": [2], "maxVisits": 600,
                         "reportDuringSearchEvery": 0.001})
    visits = [a["rootInfo"]["visits"] for a in answers if a.get("isDuringSearch")]
    assert visits == sorted(visits) and len(visits) > 2
    assert answers[-1]["isDuringSearch"] is False and answers[-1]["rootInfo"]["visits"] == 600


def test_some_moves_only(mind: Mind) -> None:
    allow = {**QUERY, "analyzeTurns": [2], "allowMoves": [
        {"player": "W", "moves": ["A1", "B1"], "untilDepth": 1}]}
    assert {m["move"] for m in done(ask(mind, allow))[2]["moveInfos"]} <= {"A1", "B1"}
    avoid = {**QUERY, "analyzeTurns": [2], "avoidMoves": [
        {"player": "W", "moves": ["A1"], "untilDepth": 3}]}
    answers = ask(mind, avoid)
    assert "A1" not in {m["move"] for m in done(answers)[2]["moveInfos"]}
    assert any(a.get("field") == "avoidMoves" for a in answers)  # untilDepth
    none = {**allow, "allowMoves": [{"player": "W", "moves": ["E5"], "untilDepth": 1}]}
    assert ask(mind, none)[-1]["error"]


def test_another_game() -> None:
    mind = mind_of("mcts:30", "connect4")
    answers = ask(mind, {"id": "c", "moves": ["4", ["W", "4"]], "maxVisits": 30})
    assert done(answers)[2]["rootInfo"]["visits"] == 30
    assert ask(mind, {"id": "c", "moves": [], "boardXSize": 19})[0]["field"] == "boardXSize"


# ------------------------------------------------------------------------------ the batch

@pytest.mark.parametrize("threads", [1, 2])
def test_the_batch_finds_what_a_search_alone_finds(mind: Mind, threads: int) -> None:
    """More positions than rows, of different lengths, against ``sp.search``, one at a time; with
    two threads each has a search of its own."""
    torch.set_num_threads(threads)
    assert len(mind.apart(threads)) == threads and mind_of("mcts:9", "connect4").apart(2)[1:] == []
    game, rng = mind.game, np.random.default_rng(0)
    states = game.new(70)
    for _ in range(6):
        legal = game.legal(states)
        legal[:, -1] = False
        game.step(states, (legal * rng.random(legal.shape)).argmax(1))
    jobs = jobs_of(mind, states, 20)
    for job in jobs[::3]:
        job.sims = 40
    before = mind.evaluations
    found = analyses(jobs)
    assert mind.evaluations - before > 70 * 20, "all threads' evaluations count"
    for row in (0, 1, 33, 68, 69):
        alone = sp.search(game, take(states, [row]), mind.net, sims=jobs[row].sims)
        visits = np.zeros(game.num_actions, int)
        for m in found[row].moves:
            visits[m.action] = m.visits
        assert (visits == alone.visits[0]).all()
        assert found[row].value == pytest.approx(alone.value[0], abs=1e-5)


def test_trees_of_all_threads_together_keep_to_the_memory(
        mind: Mind, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    tree = node_bytes(mind.game.num_actions) * (64 + 1)
    for most, rows in ((0, [1]), (1, [1]), (3, [1, 1, 1]), (9, [2] * 4), (1000, [32] * 4)):
        monkeypatch.setattr(batch, "TREE_BYTES", most * tree)
        waves = AnalysisBatch()
        waves.add(jobs_of(mind, mind.game.new(1), 64)[0])
        group, = waves._groups.values()
        assert [len(part.jobs) for part in group.parts] == rows


def test_lines_follow_the_most_visited_move_and_of_equals_the_better(mind: Mind) -> None:
    """Against the definition, from every node of a tree."""
    search = Search(mind.game, mind.config, 1, 80, 0)
    search.run(mind.game.new(1), 80, mind)
    tree = search.tree
    for node in range(int(tree.size[0])):
        moves, visits = expected_line(tree, 0, node, 5)
        at, sign = node, 1.0 - 2.0 * tree.to_play[0, node]
        for action, count in zip(moves, visits, strict=True):
            edges = range(tree.first[0, at], tree.first[0, at] + tree.degree[0, at])
            first = sorted(edges, key=lambda e: (-tree.n[0, e], -sign * tree.q[0, e], e))[0]
            assert (action, count) == (tree.move[0, first], tree.n[0, first])
            at, sign = tree.child[0, first], 1.0 - 2.0 * tree.to_play[0, tree.child[0, first]]
        assert len(moves) == 5 or not tree.degree[0, at]


def test_jobs_come_by_their_rank_and_can_be_stopped(mind: Mind) -> None:
    waves, order = AnalysisBatch(), []
    jobs = [Job(mind.game.new(1), 8, mind, first=-k, tag=k) for k in range(130)]
    for job in jobs:
        waves.add(job)
    jobs[129].stopped = jobs[5].stopped = True
    while waves.busy:
        for job, found, ended in waves.step():
            assert ended and (found is None) == job.stopped
            order.append(job.tag)
    assert sorted(order) == list(range(130)) and set(order[:64]) > set(range(70, 129))
    assert set(order[:2]) == {5, 129}  # however late their turn would have come


def test_the_call_from_python(mind: Mind) -> None:
    states = mind.game.new(3)
    mind.game.replay(states, np.array([[-1, -1], [3, -1], [3, 25]]))
    by_states = sp.analyse(states, mind.net, sims=10)
    by_moves = sp.analyse([[], ["D1"], [3, 25]], mind.net, sims=10)
    by_text = sp.analyse(["", "D1", "D1 pass"], mind.net, sims=10)
    for one, two, three in zip(by_states, by_moves, by_text, strict=True):
        assert one.moves[0].pv == two.moves[0].pv == three.moves[0].pv
        assert one.value == two.value == three.value
    assert [found.visits for found in by_states[:2]] == [11, 11]
    assert by_states[2].proven == 1.0  # black has passed, and so white wins by a pass
    assert by_states[1].to_play == 1
    rollouts = sp.analyse(["a1"], game="tictactoe", sims=50)
    assert rollouts[0].visits == 51
    with pytest.raises(sp.UserError, match="position 2, move 1: 'z9'"):
        sp.analyse(["a1", "z9"], game="tictactoe")
    with pytest.raises(sp.UserError, match="game"):
        sp.analyse(["a1"])


def test_the_program_answers_line_by_line(tmp_path: Path) -> None:
    command = ["analyse", "--json", "--net", "mcts:9", "--game", "tictactoe"]
    text = '{"id":"a","moves":["a1"]}\r\nno\n{"id":"b","moves":["a1","b2"]}'
    ended = selfplay(*command, cwd=tmp_path, hears=text)
    said = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert {a.get("id") for a in said} == {"a", "b", None} and len(said) == 3
    wrong = selfplay(*command, "x.sgf", cwd=tmp_path)
    assert wrong.returncode == 1 and "--json reads queries" in wrong.stderr
