"""Preferences and the reward model that learns them, against sums done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command import drop_sums

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from tiny_llm import EOS, TOKENIZER, gpt2, llama

from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.learn import checkpoint
from selfplay.llm.folder import best_checkpoint
from selfplay.llm.generate import Sampling
from selfplay.llm.policy import Completions, Net, TextPolicy, gold_of
from selfplay.llm.preferences.config import PairConfig, RewardConfig
from selfplay.llm.preferences.overoptimism import judged
from selfplay.llm.preferences.pairs import Pair, make_pairs, read_pairs, split_pairs, to_lines
from selfplay.llm.preferences.reward_model import (
    RewardModel,
    Texts,
    bradley_terry,
    last_real,
    load_reward_model,
    pair_texts,
    proxy_reward,
    read_texts,
    reward_model,
    train_reward_model,
)
from selfplay.llm.rewards import Example
from selfplay.llm.tasks.task import Task

PAD = TOKENIZER.pad_token_id


def model(policy=None, seed: int = 0) -> RewardModel:
    """With a head that says something."""
    made = reward_model(policy or llama("1x32"), RewardConfig(), TOKENIZER, seed)
    with torch.no_grad():
        torch.manual_seed(seed)
        made.body.head.weight.normal_()
        made.body.head.bias.fill_(0.3)
    return made.eval()


def asked(*prompts: str) -> list[Example]:
    return [Example(prompt, "") for prompt in prompts]


def planted(count: int, seed: int) -> list[Pair]:
    """The text with at least two more x in it is the better one; all else is chance."""
    rng, pairs = np.random.default_rng(seed), []
    while len(pairs) < count:
        a, b = ("".join(rng.choice(list("xyz"), 5)) for _ in range(2))
        if a.count("x") > b.count("x") + 1:
            pairs.append(Pair(f"{len(pairs)}?", a, b))
    return pairs


# ------------------------------------------------------------------------------------------- loss


def test_bradley_terry_and_its_gradient_by_hand() -> None:
    chosen = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    loss = bradley_terry(chosen, rejected)
    by_hand = [-math.log(1 / (1 + math.exp(-d))) for d in (1.0, -3.0, 0.0)]
    assert loss.tolist() == pytest.approx(by_hand, rel=1e-12)
    loss.sum().backward()
    slope = [1 / (1 + math.exp(-d)) - 1 for d in (1.0, -3.0, 0.0)]
    assert chosen.grad.tolist() == pytest.approx(slope, rel=1e-12)
    assert rejected.grad.tolist() == pytest.approx([-s for s in slope], rel=1e-12)


def test_bradley_terry_at_large_margins_and_wrong_shapes() -> None:
    loss = bradley_terry(torch.tensor([0.0, 1000.0]), torch.tensor([1000.0, 0.0]))
    assert loss.tolist() == [1000.0, 0.0]
    with pytest.raises(ValueError, match="differ in shape"):
        bradley_terry(torch.zeros(3), torch.zeros(3, 1))


def test_judged_by_hand() -> None:
    found = judged(torch.tensor([2.0, 0.0, 1.0, 3.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    margins = (2, -1, 0, 3)
    assert found["accuracy"] == (1 + 0 + 0.5 + 1) / 4
    assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 4)
    sure = [1 / (1 + math.exp(-abs(m))) for m in margins]  # each in a bin of its own
    wrong = sum(abs(s - r) for s, r in zip(sure, (1, 0, 0.5, 1), strict=True)) / 4
    assert found["calibration_error"] == pytest.approx(wrong)
    assert sum(n for _, _, n in found["calibration"]) == found["pairs"] == 4


def test_calibration_tells_sure_from_too_sure() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=20_000) * 2
    margin = torch.tensor(np.where(rng.random(20_000) < 1 / (1 + np.exp(-true)), true, -true))
    honest = judged(margin, torch.zeros_like(margin))["calibration_error"]
    boastful = judged(3 * margin, torch.zeros_like(margin))["calibration_error"]
    assert honest < 0.02 < 0.08 < boastful


# ------------------------------------------------------------------------------------------ scalar


@pytest.mark.parametrize("policy", [lambda: llama("2x64"), gpt2], ids=["llama", "gpt2"])
def test_the_scalar_is_that_of_the_last_real_token_wherever_padding_lies(policy) -> None:
    made = model(policy())
    rows = [TOKENIZER(text)["input_ids"] + [EOS] for text in ("1+1=2", "a longer text = 12", "9")]
    bare = []
    with torch.no_grad():
        for row in rows:  # Hugging Face's own call, no padding, no positions
            hidden = made.body.backbone(input_ids=torch.tensor([row])).last_hidden_state
            bare.append(float(made.body.head(hidden[:, -1])))
    for left, right in ((0, 0), (3, 0), (0, 5), (2, 4)):
        width = max(map(len, rows)) + left + right
        for at_left in (True, False):
            tokens = torch.full((3, width), PAD)
            mask = torch.zeros((3, width), dtype=torch.bool)
            for i, row in enumerate(rows):
                start = width - right - len(row) if at_left else left
                tokens[i, start:start + len(row)] = torch.tensor(row)
                mask[i, start:start + len(row)] = True
            assert made.score(Texts(tokens, mask)).tolist() == pytest.approx(bare, abs=2e-5)
            noise = torch.where(mask, tokens, torch.randint(3, 40, tokens.shape))
            assert made.score(Texts(noise, mask)).tolist() == pytest.approx(bare, abs=2e-5)


def test_last_real_wants_a_token() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False]])
    assert last_real(mask).tolist() == [2, 0]
    with pytest.raises(ValueError, match="without a token"):
        last_real(torch.zeros(1, 3, dtype=torch.bool))


def test_texts_end_as_the_policy_ends_them() -> None:
    texts = read_texts(TOKENIZER, asked("1+1=", "2="), ["2", "22"], [True, False])
    rows = [row[real].tolist() for row, real in zip(*texts, strict=True)]
    assert rows[0] == [*TOKENIZER("1+1=\n2")["input_ids"], EOS]
    assert rows[1] == TOKENIZER("2=\n22")["input_ids"]  # cut off: nothing behind it


def test_normalised_over_the_texts_given() -> None:
    made = model()
    texts = read_texts(TOKENIZER, asked("a", "b", "c", "d"), ["1", "22", "333", "4444"])
    raw = made.score(texts)
    other = made.normalised(raw)
    again = other.normalised(other.score(texts) * 1.0)
    for one in (other, again):
        found = one.score(texts)
        assert float(found.mean()) == pytest.approx(0, abs=1e-5)
        assert float(found.std()) == pytest.approx(1, abs=1e-5)
        assert found.argsort().tolist() == raw.argsort().tolist()
    assert torch.equal(made.score(texts), raw)


def test_the_reward_of_completions_has_what_was_cut_off_apart() -> None:
    made = model()
    reward = proxy_reward(made, TOKENIZER)
    parts = reward(Completions(["2", "3"], [True, False]), [Example("1+1=", "2")] * 2)
    assert parts["cut"].tolist() == [0, 1]
    wanted = made.score(read_texts(TOKENIZER, asked("1+1="), ["2"]))
    assert float(parts["proxy"][0]) == pytest.approx(float(wanted), abs=1e-5)


# ---------------------------------------------------------------------------------------- training


@pytest.mark.learns
@pytest.mark.parametrize("net", ["", "1x32"], ids=["policy", "small"])
def test_a_planted_preference_is_ranked(tmp_path: Path, net: str, learn_seed: int) -> None:
    config = RewardConfig(net=net, batch_size=32, learning_rate=1e-3, epochs=14)
    made = reward_model(llama("1x64", learn_seed), config, TOKENIZER, learn_seed)
    train, held = split_pairs(planted(500, 2 * learn_seed + 1), 0.2, learn_seed)
    best = train_reward_model(made, TOKENIZER, train, held, config, tmp_path, seed=learn_seed)
    rows = read_history(tmp_path / "history.jsonl")
    assert rows[0]["loss"] < math.log(2) + 0.05
    kept, meta = load_reward_model(best)
    fresh = planted(300, 2 * learn_seed + 2)
    sides = [kept.score(side) for side in pair_texts(TOKENIZER, fresh)]
    assert judged(*sides)["accuracy"] > 0.9
    assert meta["metrics"]["accuracy"] > 0.9
    scores = torch.cat([kept.score(side) for side in pair_texts(TOKENIZER, held)])
    assert abs(float(scores.mean())) < 1e-4
    assert float(scores.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.learns
def test_training_stops_where_the_held_out_pairs_get_no_better(
    tmp_path: Path, learn_seed: int
) -> None:
    config = RewardConfig(batch_size=16, learning_rate=2e-3, epochs=40, patience=2)
    rng = np.random.default_rng(learn_seed)
    pairs = [Pair(f"{i}", *(str(n) for n in rng.integers(0, 10**6, 2))) for i in range(80)]
    train, held = split_pairs(pairs, 0.3, 0)  # nothing in them to learn
    made = reward_model(llama("1x32", learn_seed), config, TOKENIZER, 0)
    best = train_reward_model(made, TOKENIZER, train, held, config, tmp_path, seed=learn_seed)
    losses = [row["loss"] for row in read_history(tmp_path / "history.jsonl")]
    assert len(losses) == int(np.argmin(losses)) + 1 + config.patience < config.epochs
    assert best == best_checkpoint(tmp_path) == tmp_path / f"ckpt-{np.argmin(losses) + 1:06d}"
    assert {path.name for path in checkpoint.listing(tmp_path)} == {
        best.name, f"ckpt-{len(losses):06d}"}


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    config = RewardConfig(batch_size=16, learning_rate=1e-3, epochs=4, patience=9)
    train, held = split_pairs(planted(80, 3), 0.25, 0)

    def run(folder: Path, looks: int) -> Path:
        times = iter([1.0] * looks)
        return train_reward_model(
            reward_model(llama("1x32"), config, TOKENIZER, 0), TOKENIZER, train, held, config,
            folder, seed=5, left=lambda: next(times, 0.0))

    whole = run(tmp_path / "whole", 99)
    run(tmp_path / "parts", 2)
    assert len(read_history(tmp_path / "parts" / "history.jsonl")) == 2
    parts = run(tmp_path / "parts", 99)
    histories = [read_history(path.parent / "history.jsonl") for path in (whole, parts)]
    for history in histories:
        seconds = [row.pop("seconds") for row in history]
        assert seconds == sorted(seconds) and seconds[0] > 0  # over both starts
    assert histories[0] == histories[1]
    assert len(histories[0]) == 4
    a, b = (load_reward_model(path)[0].state_dict() for path in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_no_reward_model_gives_one_line(tmp_path: Path) -> None:
    config = RewardConfig(epochs=1)
    train, held = split_pairs(planted(20, 3), 0.25, 0)
    path = train_reward_model(reward_model(llama("1x32"), config, TOKENIZER, 0), TOKENIZER, train,
                              held, config, tmp_path, seed=5)
    with pytest.raises(UserError, match="no checkpoint there yet"):
        best_checkpoint(tmp_path / "elsewhere")
    drop_sums(path)
    meta = json.loads((path / "meta.json").read_text())
    meta["net"]["backbone"]["hidden_size"] = 64
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="damaged") as found:
        load_reward_model(path)
    assert "\n" not in str(found.value)
    (path / "meta.json").write_text(json.dumps({**meta, "kind": "rl"}))
    with pytest.raises(UserError, match="no reward model"):
        load_reward_model(path)


# ----------------------------------------------------------------------------------------- pairs

GOOD = '{"prompt": "p%d", "chosen": "a", "rejected": "b"}'


@pytest.mark.parametrize(("line", "word"), [
    ('{"prompt": "p", "chosen": "a"', "not JSON"),
    ("[1, 2]", "wanted"),
    ('{"prompt": "p", "chosen": "a"}', "'rejected'"),
    ('{"prompt": "p", "chosen": 3, "rejected": "b"}', "'chosen'"),
    ('{"prompt": "", "chosen": "a", "rejected": "b"}', "empty prompt"),
    ('{"prompt": "p", "chosen": "a", "rejected": "a"}', "the same"),
])
def test_a_bad_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{GOOD % 1}\n\n{GOOD % 2}\n{line}\n{GOOD % 3}\n")
    with pytest.raises(UserError) as found:
        read_pairs(file)
    message = str(found.value)
    assert message.startswith(f"{file}, line 4: ")
    assert word in message
    assert "\n" not in message


def test_files_that_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(tmp_path / "bytes.jsonl")
    (tmp_path / "one.jsonl").write_text(GOOD % 1 + "\n" + GOOD % 1)
    with pytest.raises(UserError, match="2 different prompts"):
        read_pairs(tmp_path / "one.jsonl")


def test_pairs_come_back_from_a_file_and_prompts_stay_whole(tmp_path: Path) -> None:
    pairs = [Pair(f"p{i % 10} \n\"\u00e9", f"a{i}", f"b{i}") for i in range(40)]
    (tmp_path / "f.jsonl").write_bytes(to_lines(pairs))
    assert read_pairs(tmp_path / "f.jsonl") == pairs
    train, held = split_pairs(pairs, 0.2, 3)
    assert len(held) == 8
    assert sorted(train + held) == sorted(pairs)
    assert not {p.prompt for p in train} & {p.prompt for p in held}


class Letters:
    """Prompts to which anything is an answer."""

    count = 600

    def item(self, index: int) -> Example:
        return Example(f"{index}", "")


TASK = Task("letters", Letters())
GOLD = gold_of({"length": 1.0}, lambda completions, examples: {
    "length": torch.tensor([float(len(text)) for text in completions.texts])})


def policy(tokens: int = 6) -> TextPolicy:
    net = llama("1x32", 4)
    with torch.no_grad():
        net.model.embed_tokens.weight[EOS] *= 3  # some end soon, others late
    return TextPolicy(Net(net), (EOS,), PAD, Sampling(max_new_tokens=tokens))


def made(noise: float, seed: int = 0):
    return make_pairs(policy(), TOKENIZER, TASK, GOLD, PairConfig(count=150, noise=noise), seed)


def test_pairs_made_here_follow_the_gold_reward() -> None:
    found = made(0.0)
    assert len(found.pairs) == 150
    assert found.flipped == 0
    assert all(len(pair.chosen) > len(pair.rejected) for pair in found.pairs)
    assert all(len(pair.chosen) < 6 for pair in found.pairs)  # six tokens would be cut off
    assert not any(TASK.is_held_out(pair.prompt) for pair in found.pairs)
    assert found == made(0.0)
    assert found.pairs != made(0.0, seed=1).pairs


def test_noise_turns_that_share_of_the_labels_round() -> None:
    clean, noisy = made(0.0), made(0.3)
    swapped = [a != b for a, b in zip(clean.pairs, noisy.pairs, strict=True)]
    assert sum(swapped) == noisy.flipped
    assert 0.15 < noisy.flipped / 150 < 0.45  # 4 deviations
    for a, b in zip(clean.pairs, noisy.pairs, strict=True):
        assert b in (a, Pair(a.prompt, a.rejected, a.chosen))


def test_nothing_to_prefer_is_said() -> None:
    same = gold_of({"one": 1.0}, lambda completions, examples: {
        "one": torch.ones(len(completions.texts))})
    with pytest.raises(UserError, match="only 0 differ"):
        make_pairs(policy(), TOKENIZER, TASK, same, PairConfig(count=10), 0)
    endless = policy(3)
    endless.ends = (PAD,)
    with pytest.raises(UserError, match=r"cut off after 3 tokens; raise --set sample\.max_new"):
        make_pairs(endless, TOKENIZER, TASK, same, PairConfig(count=10), 0)


def test_a_training_state_that_counted_epochs_as_steps_is_read(tmp_path: Path) -> None:
    """As versions before 0.2 wrote it: the optimizer's steps beside each moment."""
    config = RewardConfig(batch_size=16, epochs=2, patience=9)
    train, held = split_pairs(planted(80, 3), 0.25, 0)

    def run(folder: Path, epochs: int) -> Path:
        return train_reward_model(
            reward_model(llama("1x32"), config, TOKENIZER, 0), TOKENIZER, train, held,
            RewardConfig(batch_size=16, epochs=epochs, patience=9), folder, seed=5)

    whole, first = run(tmp_path / "whole", 2), run(tmp_path / "old", 1)
    tensors, numbers = checkpoint.load_training(first)
    drop_sums(first)
    steps = {f"step.{key.removeprefix('exp_avg.')}": torch.tensor(float(numbers["steps"]))
             for key in tensors if key.startswith("exp_avg.")}
    checkpoint.write_training(first, {**tensors, **steps}, {
        "steps": numbers.pop("epochs"), "learning_rate": numbers["learning_rate"]})
    (first.parent / "best.json").unlink()
    assert best_checkpoint(first.parent) == first
    run(tmp_path / "old", 2)
    a, b = (load_reward_model(folder / "ckpt-000002")[0].state_dict()
            for folder in (whole.parent, first.parent))
    assert all(torch.equal(a[key], b[key]) for key in a)
