"""Conversations with environments: what is learnt of them, token by token, and what may fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, Command

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from given_llm import CHAT, saved, tokenizer
from tiny_llm import TOKENIZER, hugging_face, llama, qwen

from selfplay.common.errors import UserError
from selfplay.llm.envs.sandbox import sandboxed
from selfplay.llm.envs.talks import World
from selfplay.llm.generate import Samples, Sampling
from selfplay.llm.models import padded_tokens
from selfplay.llm.policy import Net, TextPolicy, evaluated, sample_batch, verifier
from selfplay.llm.rewards import FORMATS, Example
from selfplay.llm.rl import prompt_tokens
from selfplay.llm.stage_config import EnvConfig

GUESS = f"{ROOT}/docs/examples/guess.py:Guess"
CALCULATOR = f"{ROOT}/docs/examples/calculator.py:Calculator"

#: As Qwen2.5 writes conversations: a system prompt of its own where there is none.
QWEN = ("{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n"
        "{% endif %}" + CHAT)
#: As Qwen3 does: thoughts of earlier turns are left out, and tools answer as users.
QWEN3 = ("{% for m in messages %}{% set text = m.content %}"
         "{% if m.role == 'assistant' and '</think>' in text and not loop.last %}"
         "{% set text = text.split('</think>')[-1] %}{% endif %}"
         "<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
         "{{ '<tool_response>\n' + text + '\n</tool_response>' if m.role == 'tool' else text }}"
         "<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}")
#: Nobody's: turns begin and end on one line.
OWN = ("{% for m in messages %}{% if m.role == 'assistant' %} A:{{ m.content }}<|im_end|>"
       "{% else %}[{{ m.role }}]{{ m.content }}[/]{% endif %}{% endfor %}"
       "{% if add_generation_prompt %} A:{% endif %}")
TEMPLATES = {"chatml": CHAT, "qwen2.5": QWEN, "qwen3": QWEN3, "own": OWN}

ECHO = '''
class Echo:
    """Says what it heard, {n} times; a reward for each turn."""
    def reset(self, seed):
        self.heard = 0
        return [{{"role": "user", "content": f"Begin {{seed % 7}}."}}]
    def step(self, text):
        self.heard += 1
        said = [{{"role": "{role}", "content": f"Heard: {{text}}"}}]
        return said, 0.5 * self.heard, self.heard == {n}
'''

Made = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """A world of a file with the body, which is ended afterwards."""
    made: list[World] = []

    def make(body: str, name: str = "Echo", **config: Any) -> World:
        path = tmp_path / f"env{len(made)}.py"
        path.write_text(body)
        made.append(World(f"{path}:{name}", EnvConfig(**{"workers": 1, **config})))
        return made[-1]

    yield make
    for one in made:
        for process in one.processes:
            process.stop()


def start(world: World, seed: int) -> Example:
    return Example(f"conversation {seed}", "", metadata={"seed": seed}, format=FORMATS["plain"],
                   world=world)


class Scripted:
    """A generator that says fixed texts, one a turn; a text without end is cut off."""

    def __init__(self, words: Any, texts: list[str], cut: int = -1) -> None:
        self.words, self.texts, self.cut = words, texts, cut
        self.ends, self.pad, self.turn = (words.eos_token_id,), words.pad_token_id, 0
        self.asked: list[list[str]] = []

    def __call__(self, prompts: Any, group: int, sampling: Sampling, seed: int) -> Samples:
        self.asked.append([self.words.decode(prompt) for prompt in prompts])
        tokens, mask = padded_tokens(prompts, self.pad, left=True)
        whole = self.turn != self.cut
        row = self.words(self.texts[self.turn], add_special_tokens=False)["input_ids"]
        row = [*row, self.words.eos_token_id] if whole else row
        self.turn += 1
        count = len(prompts) * group
        action = torch.tensor([row] * count)
        return Samples(tokens, mask, action, torch.ones_like(action, dtype=torch.bool),
                       torch.full(action.shape, -0.25 * self.turn),
                       torch.full((count,), whole))

    def refresh(self, model: Any) -> None: ...


def of_template(template: str) -> Any:
    words = tokenizer("qwen2")
    words.chat_template = template
    return words


def policy_of(words: Any, write: Any, group: int = 1, **sampling: Any) -> TextPolicy:
    return TextPolicy(Net(llama()), (words.eos_token_id,), words.pad_token_id,
                      Sampling(**sampling), group, write)


# ------------------------------------------------------------------------ what is learnt of them


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("role", ["user", "tool"])
def test_only_the_models_own_tokens_are_learnt(name: str, role: str, world: Made) -> None:
    """Every token of the conversation, against the template's own text of it, whose spans between
    the beginning of a turn and its end mark are the model's."""
    words = of_template(TEMPLATES[name])
    says = ["one <think>or</think> 1", "two, 2", "three: 3!"]
    write = Scripted(words, says)
    batch = sample_batch(policy_of(words, write), words,
                         [start(world(ECHO.format(n=3, role=role)), 5)], verifier, {}, 0)
    rollout = batch.rollout
    prompt = rollout.inputs["prompt"][0][rollout.inputs["prompt_mask"][0]].tolist()
    tokens = rollout.action[0].tolist()

    talk = [{"role": "user", "content": "Begin 5."}]
    for text in says:  # as the model wrote it, thoughts as well
        talk += [{"role": "assistant", "content": text},
                 {"role": role, "content": f"Heard: {text}"}]
    kept = TEMPLATES[name].replace("and not loop.last ", "and false ")
    words.chat_template = kept
    text = words.apply_chat_template(talk[:-1], tokenize=False)
    opened = "<|im_start|>assistant\n" if name != "own" else " A:"
    spans = [(match.start(1), match.end(1)) for match in
             re.finditer(re.escape(opened) + r"(.*?<\|im_end\|>)", text, re.DOTALL)]
    assert len(spans) == 3

    place, mine, read = 0, [], ""
    for number, token in enumerate([*prompt, *tokens]):
        piece = words.decode([token])
        inside = any(a <= place and place + len(piece) <= b for a, b in spans)
        assert inside or not any(a < place + len(piece) and place < b for a, b in spans), piece
        if number >= len(prompt):
            mine.append(inside)
        place, read = place + len(piece), read + piece
    assert read == text[:place] and text[place:].strip() == "", "the template's own text"
    assert rollout.mask[0].tolist() == mine
    assert sum(mine) == sum(len(words(t, add_special_tokens=False)["input_ids"]) + 1 for t in says)
    assert prompt_tokens(rollout) == len(prompt) + len(tokens) - sum(mine), "compute knows them all"


def test_rewards_stand_on_the_last_tokens_of_their_turns(world: Made) -> None:
    words = of_template(CHAT)
    batch = sample_batch(policy_of(words, Scripted(words, ["a", "bb", "ccc"])), words,
                         [start(world(ECHO.format(n=3, role="user")), 0)], verifier, {}, 0)
    rollout = batch.rollout
    earned = rollout.reward[0].nonzero()[:, 0].tolist()
    assert [float(rollout.reward[0, t]) for t in earned] == [0.5, 1.0, 1.5]
    ends = [t for t in range(len(rollout.action[0]))
            if rollout.mask[0, t] and rollout.action[0, t] == words.eos_token_id]
    assert earned == ends
    assert {key: float(value) for key, value in batch.parts.items()} == {
        "accuracy": 1, "partial": 1, "format": 1, "length": batch.parts["length"], "ended": 1,
        "earned": 3, "turns": 3, "failed": 0}
    drawn = rollout.logp[0][rollout.mask[0]]
    assert set(drawn.tolist()) == {-0.25, -0.5, -0.75}
    assert not rollout.logp[0][~rollout.mask[0]].any()


@pytest.mark.parametrize("make", [llama, qwen])
def test_log_probabilities_are_those_of_the_whole_conversation(make: Any, world: Made) -> None:
    """Against one pass of transformers over each conversation, and those of the sampling; the
    environment's tokens get no gradient and give none."""
    words = TOKENIZER
    one = world(ECHO.format(n=3, role="user"))
    policy = TextPolicy(Net(make()), (words.eos_token_id, *range(40, 60)), words.pad_token_id,
                        Sampling(max_new_tokens=6), 3)
    rollout = sample_batch(policy, words, [start(one, 1), start(one, 2)], verifier, {}, 3).rollout
    assert (rollout.mask.int().diff(dim=1) > 0).any(), "some have a second turn"
    seen = policy.evaluate(rollout)
    plain = hugging_face(policy.net.policy)
    for i in range(len(rollout)):
        prompt = rollout.inputs["prompt"][i][rollout.inputs["prompt_mask"][i]]
        last = int(rollout.mask[i].nonzero()[-1]) + 1
        tokens = torch.cat([prompt, rollout.action[i, :last]])
        with torch.no_grad():
            logp = plain(input_ids=tokens[None]).logits[0].log_softmax(-1)
        own = rollout.mask[i, :last]
        wanted = logp[len(prompt) - 1:-1].gather(-1, tokens[len(prompt):, None])[:, 0]
        assert torch.allclose(seen.logp[i, :last][own], wanted[own], atol=1e-4)
        assert torch.allclose(rollout.logp[i, :last][own], wanted[own], atol=1e-4)
        assert not seen.logp[i][~rollout.mask[i]].any()
    policy.net.zero_grad()
    (seen.logp * ~rollout.mask).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.net.parameters())


def test_parts_of_a_rollout_are_evaluated_as_the_whole(world: Made) -> None:
    one = world(ECHO.format(n=3, role="user"))
    policy = TextPolicy(Net(qwen()), (TOKENIZER.eos_token_id, *range(40, 60)),
                        TOKENIZER.pad_token_id, Sampling(max_new_tokens=6), 4)
    rollout = sample_batch(policy, TOKENIZER, [start(one, 1), start(one, 2)], verifier, {}, 3
                           ).rollout
    whole = policy.evaluate(rollout).logp
    found = evaluated(rollout, policy, policy.net.policy)
    assert found.ref_logp is not None
    assert torch.allclose(found.ref_logp, whole, atol=1e-5)


def test_conversations_follow_from_their_seeds(world: Made) -> None:
    """The same again; those of a group begin alike; a prompt is the environment's first words."""
    one = world(ECHO.format(n=2, role="user"), workers=2)
    policy = TextPolicy(Net(llama()), (TOKENIZER.eos_token_id, *range(40, 60)),
                        TOKENIZER.pad_token_id, Sampling(max_new_tokens=5), 3)
    first, again, other = (
        sample_batch(policy, TOKENIZER, [start(one, 3), start(one, 11)], verifier, {}, seed)
        for seed in (0, 0, 1))
    assert first.completions == again.completions != other.completions
    assert torch.equal(first.rollout.action, again.rollout.action)
    assert [e.prompt for e in first.examples] == ["Begin 3."] * 3 + ["Begin 4."] * 3
    assert first.rollout.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(first.completions.texts)) > 3


# ------------------------------------------------------------------------------------- limits


def test_turns_and_tokens_have_limits(world: Made) -> None:
    words, says = of_template(CHAT), ["abc"] * 9
    def talk(cut: int = -1, room: int = 8, **config: Any) -> Any:
        one = world(ECHO.format(n=5, role="user"), **config)
        return sample_batch(policy_of(words, Scripted(words, says, cut), max_new_tokens=room),
                            words, [start(one, 0)], verifier, {}, 0)

    whole = talk()
    assert float(whole.parts["turns"]) == 5 and whole.completions.ended == [True]
    some = talk(turns=2)
    assert float(some.parts["turns"]) == 2 and some.completions.ended == [False]
    assert float(some.parts["earned"]) == 1.5, "what it has earned stays"
    length = some.rollout.mask.shape[1]
    short = talk(tokens=length)
    assert float(short.parts["turns"]) == 1, "another turn of 8 might not fit"
    assert float(talk(tokens=length + 8).parts["turns"]) == 2
    cut = talk(cut=1)
    assert float(cut.parts["turns"]) == 2 and float(cut.parts["earned"]) == 0.5
    assert cut.completions.ended == [False] and bool(cut.rollout.mask[0, -1])


# ----------------------------------------------------------------------------------- failures

FAILING = {
    "raises": "if self.seed == 2: raise ValueError('no')",
    "hangs": "while self.seed == 2: pass",
    "ends": "if self.seed == 2: import os; os._exit(1)",
    "NaN": "if self.seed == 2: return 'x', float('nan'), False",
    "no messages": "if self.seed == 2: return None, 0.0, False",
    "two values": "if self.seed == 2: return 'x', 0.0",
}


@pytest.mark.parametrize("how", FAILING)
def test_a_failure_is_one_conversations(
    how: str, world: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    body = ("class Env:\n    def reset(self, seed):\n        self.seed = seed\n"
            "        return 'hi'\n"
            f"    def step(self, text):\n        {FAILING[how]}\n        return 'x', 1.0, True\n")
    words = of_template(CHAT)
    # of those in the process that ends, all are lost
    one = world(body, "Env", failed=-3.0, seconds=1.0, workers=3, most_failed=0.8)
    batch = sample_batch(policy_of(words, Scripted(words, ["a"])), words,
                         [start(one, seed) for seed in (0, 1, 2)], verifier, {}, 0)
    assert batch.rollout.reward.sum(1).tolist() == [1, 1, -3]
    assert batch.parts["failed"].tolist() == [0, 0, 1]
    assert batch.parts["accuracy"].tolist() == [1, 1, 0]
    said = capsys.readouterr().out
    assert "1 of 3 conversations failed" in said and "worker.py" not in said, "no place of ours"


@pytest.mark.parametrize(("body", "says"), [
    ("class Env:\n def step(self, t): ...", "no reset in it"),
    ("class Env:\n def reset(self, s): ...", "no step in it"),
    ("class Env:\n def __init__(self): 1 / 0", "ZeroDivisionError"),
    ("class Env:\n def reset(self, s): return 7\n def step(self, t): ...",
     "reset\\(0\\): TypeError: messages 7"),
    ("class Env:\n def reset(self, s): raise KeyError(s)\n def step(self, t): ...",
     "reset\\(0\\): KeyError"),
    ("class Env:\n def reset(self, s): return 'x'\n def step(self, t): raise KeyError('y')",
     "1 of 1 conversations failed \\(KeyError: 'y', env0.py line 3\\)"),
    ("class Env:\n def reset(self, s): return 'x'\n"
     " def step(self, t): return [{'role': 'nobody', 'content': 'x'}], 0, False",
     "template refuses the environment's messages.*no nobody"),
])
def test_what_cannot_go_on_stops_with_a_line(body: str, says: str, world: Made) -> None:
    words = of_template("{% for m in messages %}{% if m.role == 'nobody' %}"
                        "{{ raise_exception('no nobody') }}{% endif %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match=says) as caught:
        one = world(body, "Env")
        one.start()
        sample_batch(policy_of(words, Scripted(words, ["a", "b"])), words, [start(one, 0)],
                     verifier, {}, 0)
    assert "\n" not in str(caught.value)


def test_the_adapter_for_verifiers(world: Made, tmp_path: Path, monkeypatch: Any) -> None:
    """Against a stand-in for the few names of the package that it uses."""
    (tmp_path / "verifiers.py").write_text(VERIFIERS)
    monkeypatch.syspath_prepend(tmp_path)
    one = world(Path(f"{ROOT}/docs/examples/from_verifiers.py").read_text(), "Verifiers")
    words = of_template(CHAT)
    batch = sample_batch(policy_of(words, Scripted(words, ["6", "7", "8"])), words,
                         [start(one, 3)], verifier, {}, 0)
    assert batch.examples[0].prompt == "Guess 7."
    assert batch.parts["turns"].tolist() == [2] and batch.parts["earned"].tolist() == [0.75]
    assert "not 6" in batch.completions.texts[0]


VERIFIERS = """
class Rubric:
    async def score_rollout(self, state, score_sem):
        async with score_sem:
            state["reward"] = 0.75 * (state["completion"][-1]["content"] == state["answer"])
class Env:
    rubric = Rubric()
    def get_dataset(self):
        return [{"prompt": [{"role": "user", "content": f"Guess {n}."}], "answer": str(n)}
                for n in (5, 6, 7)][::-1]
    async def init_state(self, row, client, model, sampling_args):
        return {**row, "trajectory": []}
    async def setup_state(self, state):
        return state
    async def is_completed(self, state):
        said = state["trajectory"]
        return bool(said) and said[-1]["completion"][-1]["content"] == state["answer"]
    async def env_response(self, messages, state):
        return [{"role": "user", "content": "not " + messages[-1]["content"]}]
def load_environment(name):
    return Env()
"""


# ------------------------------------------------------------------------- the docs' own, and runs


def test_the_docs_environments(world: Made) -> None:
    """Their rewards by hand; they are as short as a page says."""
    for words in (GUESS, CALCULATOR):
        assert len(Path(words.partition(":")[0]).read_text().splitlines()) < 30
    scope: dict[str, Any] = {}
    exec(Path(GUESS.partition(":")[0]).read_text(), scope)
    guess = scope["Guess"](top=9)
    assert "1 to 9" in guess.reset(4)
    assert guess.step("about 5") == ("A number alone, please.", -0.1, False)
    assert guess.step(str(guess.secret + 1)) == ("Lower.", 0.0, False)
    assert guess.step(f" {guess.secret} ") == ("", 1.0, True)
    exec(Path(CALCULATOR.partition(":")[0]).read_text(), scope)
    tool = scope["Calculator"]()
    asked = tool.reset(1)[0]["content"]
    a, b, c = map(int, re.findall(r"\d{3}", asked))
    said, reward, done = tool.step(f"<python>{a} * {b} + {c}</python>")
    assert (said[0]["content"], reward, done) == (f"Output: {a * b + c}", 0.0, False)
    assert tool.step(f"<answer>{a * b + c}</answer>") == ("", 1.0, True)
    assert tool.step(f"<answer>{a * b}</answer>") == tool.step("no idea") == ("", 0.0, True)


@pytest.mark.parametrize(("code", "says"), [
    ("1 + 1", "2"), ("print(3)\nprint(4)", "3\n4"), ("math.sqrt(16)", "4.0"),
    ("1 / 0", "ZeroDivisionError: division by zero"), ("(", "SyntaxError"),
    ("open('/etc/passwd').read()", "OSError"), ("import socket; socket.socket()", "OSError"),
    ("import os; os.close(0); open('/etc/passwd')", "OSError"),
    ("__import__('os').fork()", "BlockingIOError"), ("'x' * 10**10", "MemoryError"),
    ("while True: pass", "error: it took too"), ("9**9**9**9", "error: it took too"),
    ("__import__('os').kill(1, 9)", "PermissionError"),
    ("open('/tmp/made-by-a-model', 'w')", "OSError"),
])
def test_a_sandbox_computes_and_nothing_else(code: str, says: str) -> None:
    assert sandboxed(code, seconds=1).startswith(says)


def test_a_sandbox_says_no_more_than_it_may() -> None:
    assert len(sandboxed("print('y' * 10**7)")) == 4000


def test_a_run_with_an_environment(run: Command, tmp_path: Path) -> None:
    saved(tmp_path / "m", "qwen2")
    words = ["llm", "train", "--env", GUESS, "--model", "m", "--run", "r",
             *(word for setting in (
                 "rl.steps=2", "rl.prompts=2", "rl.group=4", "rl.evaluate_every=1",
                 "rl.evaluate_prompts=2", "data.held_out=2", "sample.max_new_tokens=4",
                 "eval.samples=1,2", "env.turns=2", "env.workers=1", "env.failed=0",
                 "sample.stop=a,e,1,2,3,4,5,6,7,8,9,0") for word in ("--set", setting))]
    done = run(*words)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("r/rl/history.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(1 <= row["reward_turns"] <= 2 for row in rows)
    assert any(row["reward_turns"] > 1 for row in rows)
    for row in rows:
        assert row["reward"] == pytest.approx(row["reward_earned"], abs=1e-6)
    shown = [json.loads(line) for line in Path("r/rl/samples.jsonl").read_text().splitlines()]
    assert shown[0]["prompt"].startswith("Guess my number")
    assert set(json.loads(Path("r/evaluation.json").read_text())["stages"]) == {"base", "rl"}
    assert run("llm", "train", "--run", "r").code == 0
    run("llm", "chat", "r").mistake("--model r")
    run("llm", "train", "--env", GUESS).mistake("give --model")
    run("llm", "train", "--env", GUESS, "--task", "gcd").mistake("one of --task, --env")
    run("llm", "train", "--env", GUESS, "--model", "m", "--run", "s", "--set",
        "rl.format_weight=1").mistake("its own rewards")
    run("llm", "check", GUESS).mistake("for --env")
    assert "selfplay llm chat --model r" in done.out
    run("llm", "train", "--env", GUESS, "--model", "m", "--recipe", "grpo", "--run", "s").mistake(
        "no demonstrations")
    measured = run("llm", "eval", "--model", "m", "--tasks", f"env:{GUESS}", "--samples", "1",
                   "--questions", "2", "--set", "sample.max_new_tokens=3")
    assert measured.code == 0 and "2 held-out questions" in measured.out
