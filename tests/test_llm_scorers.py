"""Every data set of reasoning-gym: its own answer is right, cheap and hostile ones are not."""

from __future__ import annotations

import json

import pytest
from command import ROOT
from forked import python

pytest.importorskip("reasoning_gym", reason='pip install -e ".[llm]"')

from reasoning_gym.factory import DATASETS

from selfplay.common.errors import UserError
from selfplay.llm.rewards import FORMATS, Example, reward
from selfplay.llm.tasks.scorers import REFUSED, VERIFIED, decimal, parsed_complex, same, scorer
from selfplay.llm.tasks.task import make_task

SLOW = {"acre": "5 s to load", "knight_swap": "5 s of search for a few items"}
#: Reviewed: items without an answer of their own; what they are given is worked through.
UNANSWERED = {"boxnet", "graph_color", "rubiks_cube", "rush_hour"}
CHEAP = ["nan", "inf", "-inf", "zzz", "", " ", "True", "False", "None", "yes", "no", "1e308", "٣",
         "[]", "{}", "NaN", "null", "[NaN]", "-", "0/0", "9" * 900]


def right(answer: str, example: Example) -> bool:
    found = reward(f"<think></think><answer>{answer}</answer>", example)
    assert 0 <= found["partial"] <= 1
    return found["accuracy"] == 1


def first(name: str, count: int = 3) -> list[Example]:
    source = make_task(name).source
    return [source.item(index) for index in range(count)]


@pytest.mark.parametrize("name", sorted(set(DATASETS) - set(SLOW) - set(REFUSED)))
def test_the_right_answer_is_right_and_no_cheap_one_is(name: str) -> None:
    examples = first(name)
    for example in examples:
        assert right(example.answer, example) == (name not in UNANSWERED)
        others = CHEAP + [other.answer for other in examples]
        for other in others:
            if name in UNANSWERED or other.casefold() != example.answer.casefold():
                assert not right(other, example), (other, example.answer)


def test_a_cube_that_is_turned_back_is_solved() -> None:
    for example in first("rubiks_cube"):
        moves = str(example.metadata["scramble_moves"]).split()[::-1]
        back = [move[:-1] if move.endswith("'") else f"{move}'" for move in moves]
        assert right(" ".join(back), example) and not right(" ".join(moves), example)


def test_the_lists_name_data_sets() -> None:
    assert set(SLOW) | set(REFUSED) | VERIFIED | UNANSWERED <= set(DATASETS)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_data_set_without_a_safe_score_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"task {name}: "):
        make_task(name)


def of_metadata(name: str, answer: str, **metadata: object) -> Example:
    """An item of a data set with a metadata of its own."""
    data = make_task(name).source.data
    entry = {"question": "", "answer": answer, "metadata": metadata}
    return Example("", answer, "reasoning-gym", metadata, None, FORMATS["answer"],
                   scorer(name, data, entry))


def test_puzzle24_wants_its_numbers_and_24_exactly() -> None:
    example = of_metadata("puzzle24", "10*(8 - 5) - 6", numbers=[8, 5, 10, 6])
    assert right("(8-5)*10-6", example)
    for wrong in ("6*4*1*1", "10*8/5+6", "24", "8*5-10-6.0", "10*(8-5)-6+0", "10*(8 - 5) - 6 = 24"):
        assert not right(wrong, example)
    assert not right("5*5-1/5", of_metadata("puzzle24", "", numbers=[5, 5, 1, 5]))  # 24.8
    assert right("5*(5-1/5)", of_metadata("puzzle24", "", numbers=[5, 5, 1, 5]))


def test_complex_numbers_are_read_whole_and_finite() -> None:
    example = of_metadata("complex_arithmetic", "3.0 - 1.0i", result=(3, -1), operation="+")
    for text in ("3-i", "3 - 1i", "(3.0-1.0j)", "3.-1.0i"):
        assert right(text, example)
    for text in ("3", "-i", "3+i", "3-ii", "3i-1", "3--i", "nan", "nan-1i", "inf", "3-1e0i",
                 "3 1i"):
        assert not right(text, example)
    assert parsed_complex("-6.00i") == (0, -6) and parsed_complex("i") == (0, 1)
    assert parsed_complex("2") == (2, 0) and parsed_complex("") is None


def test_probabilities_are_relative() -> None:
    small = of_metadata("coin_flip", "3.051757812e-05")
    assert right("1/32768", small) and right("0.00003052", small)
    assert not right("0", small) and not right("0.0001", small)
    assert not right("1e308", of_metadata("coin_flip", "1"))
    assert decimal("1e999999999") is None


def test_sorted_lists_are_the_same_numbers() -> None:
    example = of_metadata("number_sorting", "['-1.5', '2.0', '3.0']", direction="ascending")
    assert right("[-1.5, 2, 3.0]", example) and right('["-1.5", "2.0", "3"]', example)
    for wrong in ("[NaN, NaN, NaN]", "['nan', 'nan', 'nan']", "[-1.4, 2, 3]", "[3, 2, -1.5]",
                  "[-1.5, 2]", "[-1.5, 2, 3, 3]", "[]", "-1.5, 2, 3"):
        assert not right(wrong, example)


@pytest.mark.parametrize(("name", "answer", "metadata", "wrong"), [
    ("calendar_arithmetic", "-1", {"task": "recurring_event_day"}, "7"),
    ("figlet_font", "ABCDEFGHIJ", {}, "ABCDEFGHIJKLMNOP"),
    ("game_of_life", "[[0,1],[1,0]]", {}, "[[0,1,1,1],[1,0,5],[9]]"),
    ("game_of_life_halting", "True", {}, "False"),
    ("game_of_life_halting", "False", {}, "True"),
    ("rectangle_count", "3", {}, "٣"),
    ("spell_backward", "abcdefghijk", {}, "abcdefghijkz"),
    ("simple_integration", "3*x**2", {"integrand": "6*x", "variable": "x"}, "Integral(6*x, x)"),
    ("polynomial_multiplication", "x**2 - 1", {"variables": ["x"]}, "(x+1)*(x-1)"),
])
def test_answers_that_the_data_sets_let_through(name, answer, metadata, wrong) -> None:
    example = of_metadata(name, answer, **metadata)
    assert right(answer, example) and not right(wrong, example)


def test_the_same_but_for_spelling() -> None:
    assert same("Yes", "yes ") and same("1,000.0", "1000") and same('{"a": 1}', '{"a":1.0}')
    assert not same("1", "True") and not same("nan", "1") and not same("[" * 900, "[]")


HOSTILE = ["((((9**99)**99)**99)**99)", "(x+1)**99", "((x+1)**99)**99", "(((x+1)**9)**9)**9",
           "sin(" * 60 + "x" + ")" * 60, "9**9**9**9", "A+99999999999", "R99999999999",
           "[a for a in 'aaaaaaaaaaaaaaaa'" + " for b in 'aaaaaaaaaaaaaaaa'" * 20 + "]",
           "[" * 990, "{" * 990, "(" * 990, "1e999999999", "1" * 990, "-" * 990]
HUNG = """
import json, signal, sys
from selfplay.llm.rewards import answer_score
from selfplay.llm.tasks.task import make_task
names, texts = json.load(sys.stdin)
for example in [make_task(name).source.item(0) for name in names]:
    texts += [f"sin({example.prompt[:40]})"]
    for text in texts:
        signal.alarm(20)  # ends the process, whatever catches exceptions
        for answer in {text, text.replace("x", "X").replace("SIN", "sin")}:
            assert answer_score(answer, example) < 1, answer
signal.alarm(0)
print("done")
"""


def test_no_answer_hangs() -> None:
    names = ["polynomial_multiplication", "simple_integration", "intermediate_integration",
             "puzzle24", "countdown", "spiral_matrix", "string_insertion", "binary_matrix",
             "n_queens", "rush_hour", "rubiks_cube", "jugs", "power_function", "number_format",
             "complex_arithmetic", "coin_flip", "bitwise_arithmetic", "prime_factorization",
             "polynomial_equations", "sokoban", "fraction_simplification"]
    done = python(HUNG, cwd=ROOT, hears=json.dumps([names, HOSTILE]))
    assert done.stdout.endswith("done\n"), (done.returncode, done.stderr[-2000:])
