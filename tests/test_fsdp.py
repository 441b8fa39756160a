"""Language models whose weights several processes share out: the same losses and updates as in one,
and a share of the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llm
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import EOS, PAD, TOKENIZER
from together import together

from selfplay.common import ranks
from selfplay.common.errors import UserError
from selfplay.common.history import read_history
from selfplay.learn import advantages
from selfplay.learn.config import algorithm
from selfplay.learn.policy_gradient import PolicyOptimizer
from selfplay.learn.rollout import Rollout
from selfplay.llm import generate
from selfplay.llm.generate import Sampling, sample_completions
from selfplay.llm.memory import Memory
from selfplay.llm.models import copy_of, load_model, save_model
from selfplay.llm.policy import Net, Prompts, TextPolicy, evaluated, value_model
from selfplay.llm.preferences import dpo
from selfplay.llm.preferences.config import DPOConfig, RewardConfig
from selfplay.llm.preferences.pairs import Pair
from selfplay.llm.preferences.reward_model import (
    load_reward_model,
    read_texts,
    reward_model,
    train_reward_model,
)
from selfplay.llm.sft import (
    Sequences,
    must_keep_apart,
    packed,
    parts_of_texts,
    text_loss,
    text_trainer,
)
from selfplay.llm.stage_config import TextSFTConfig

KINDS = ("llama", "qwen")  #: the embedded model, and one of Hugging Face's
MEMORY = Memory(shared_out=True)


def texts(number: int) -> Sequences:
    """Six texts of several lengths, of which the last two thirds are learnt."""
    torch.manual_seed(number)
    lengths = torch.tensor([3, 12, 5, 9, 4, 7])
    tokens = torch.randint(3, len(TOKENIZER), (6, 12))
    place = torch.arange(12)[None]
    real = place < lengths[:, None]
    return Sequences(tokens.where(real, PAD), real & (place >= lengths[:, None] // 3))


def keep(folder: Path, name: str, trainer: Any, model: Any, figures: list[dict[str, float]]
         ) -> None:
    tensors, numbers = trainer.state()
    save_model(folder / name, model, TOKENIZER)
    if ranks.leads():
        save_file({k: t.contiguous() for k, t in tensors.items()},
                  folder / name / "train.safetensors")
        (folder / name / "figures.json").write_text(json.dumps(
            [figures, numbers, trainer.held_bytes()]))


def learn_texts(folder: Path, kind: str, before: Path | None) -> None:
    """Two steps, or the second of them behind those that were kept in ``before``."""
    model = tiny_llm.MODELS[kind]() if before is None else load_model(before / kind)[0]
    trainer = text_trainer(MEMORY.shard(model.train()), TextSFTConfig(warmup=0, part_tokens=16))
    if before is not None:
        numbers = json.loads((before / kind / "figures.json").read_text())[1]
        trainer.load_state(load_file(before / kind / "train.safetensors"), numbers)
    steps = range(trainer.steps, trainer.steps + 1 if before else 1)
    figures = [trainer.step(texts(step)) for step in steps]
    keep(folder, kind, trainer, model, figures)


def learn_preferences(folder: Path, kind: str) -> None:
    """A reward model's two steps, its scores as those of a proxy, and a step of DPO."""
    pairs = [Pair(f"{k}+1=", f"{k + 1}", f"{k}-{k}") for k in range(7)]
    config = RewardConfig(batch_size=3, epochs=1, learning_rate=1e-4)
    made = MEMORY.shard(reward_model(tiny_llm.MODELS[kind](), config, TOKENIZER, 0))
    best = train_reward_model(made, TOKENIZER, pairs[:5], pairs[5:], config, folder / f"rm-{kind}",
                              seed=0)
    proxy = MEMORY.shard(load_reward_model(best)[0])
    scores = proxy.score(read_texts(TOKENIZER, pairs, [pair.chosen for pair in pairs]))
    held = [sum(ranks.here().part(p).nbytes for p in net.parameters()) for net in (made, proxy)]
    if ranks.leads():
        (folder / f"rm-{kind}" / "scores.json").write_text(json.dumps([scores.tolist(), held]))
    dpo.PART = 4
    policy = TextPolicy(Net(MEMORY.shard(tiny_llm.MODELS[kind]())), (EOS,), PAD)
    trainer = dpo.dpo_trainer(policy, DPOConfig(learning_rate=1e-4, warmup=0), "cpu")
    sides = dpo.sides_of(TOKENIZER, pairs, policy, MEMORY.shard(copy_of(tiny_llm.MODELS[kind]())))
    keep(folder, f"dpo-{kind}", trainer, policy.net.policy, [trainer.step(sides)])


def learn_rewards(folder: Path) -> None:
    """PPO with a critic and a reference: completions that are written here, and one update."""
    model = tiny_llm.qwen()
    net, reference = Net(model, value_model(model)), copy_of(model).requires_grad_(False)
    for part in (net.policy, net.value, reference):
        MEMORY.shard(part)
    policy = TextPolicy(net, (EOS,), PAD, Sampling(max_new_tokens=6), 2, tokenizer=TOKENIZER)
    prompts = Prompts(*tiny_llm.prompts(), 5)
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "sample_completions", lambda model, some, *words, **more: (
            asked.append(len(some)), sample_completions(model, some, *words, **more))[1])
        acted = policy.act(prompts)
    (folder / f"asked-{ranks.here().rank}").write_text(str(sum(asked)))
    score = torch.linspace(-1, 1, len(acted.action))
    rollout = Rollout(policy.inputs(prompts), acted.action, acted.mask, acted.logp,
                      advantages.on_last_step(score, acted.mask),
                      torch.arange(len(score)) // 2)
    optimizer = PolicyOptimizer(policy, algorithm("ppo", kl_weight=0.1, epochs=1, minibatches=1,
                                                  learning_rate=1e-3))
    found = optimizer(evaluated(rollout, policy, reference), np.random.default_rng(0))
    keep(folder, "ppo", optimizer.trainer, model, [found])
    if ranks.leads():
        save_file({"action": acted.action, "mask": acted.mask, "logp": acted.logp},
                  folder / "ppo" / "acted.safetensors")


def learn_all(folder: Path, before: Path | None = None) -> None:
    for kind in KINDS:
        learn_texts(folder, kind, before)
    if before is None:
        learn_rewards(folder)
        for kind in KINDS:
            learn_preferences(folder, kind)


def learn_both(folders: dict[str, Path]) -> None:
    learn_all(folders["two"])
    learn_all(folders["one-two"], folders["one"])


def same_learning(one: Path, other: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (mine, _, _), (theirs, _, _) = (json.loads((p / name / "figures.json").read_text())
                                        for p in (one, other))
        for a, b in zip(mine, theirs, strict=True):
            assert a == pytest.approx(b, abs=1e-5, rel=1e-5), name
        for file in ("train.safetensors", "model.safetensors"):
            a, b = load_file(one / name / file), load_file(other / name / file)
            assert a.keys() == b.keys(), name
            for key, tensor in a.items():
                torch.testing.assert_close(tensor, b[key], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By one process and by two, and a step more of each by the other number."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("one", "two", "one-two", "two-one")}
    learn_all(found["one"])
    assert together(2, learn_both, found) == [0, 0]
    learn_all(found["two-one"], found["two"])
    return found


def test_two_processes_learn_what_one_does(runs: dict[str, Path]) -> None:
    same_learning(runs["one"], runs["two"], (*KINDS, "ppo", *(f"dpo-{kind}" for kind in KINDS)))


def test_completions_are_shared_out_and_the_same(runs: dict[str, Path]) -> None:
    one, two = (load_file(runs[size] / "ppo/acted.safetensors") for size in ("one", "two"))
    assert torch.equal(one["action"], two["action"]) and torch.equal(one["mask"], two["mask"])
    torch.testing.assert_close(one["logp"], two["logp"], atol=1e-5, rtol=1e-5)
    asked = {size: [path.read_text() for path in sorted(runs[size].glob("asked-*"))]
             for size in ("one", "two")}
    assert asked == {"one": ["4"], "two": ["2", "2"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_model_is_learnt_and_asked_by_two_processes(
    runs: dict[str, Path], kind: str
) -> None:
    """The same losses, weights and moments as by one, and the same scores, by half of the bytes."""
    one, two = (runs[size] / f"rm-{kind}" for size in ("one", "two"))
    mine, theirs = (read_history(folder / "history.jsonl")[0] for folder in (one, two))
    for key in ("train", "loss", "accuracy"):
        assert mine[key] == pytest.approx(theirs[key], abs=1e-5), key
    for file in ("weights.safetensors", "train.safetensors"):
        a, b = (load_file(folder / "ckpt-000001" / file) for folder in (one, two))
        assert a.keys() == b.keys()
        for key, tensor in a.items():
            torch.testing.assert_close(tensor, b[key], atol=1e-5, rtol=1e-4)
    (scores, whole), (others, half) = (json.loads((folder / "scores.json").read_text())
                                       for folder in (one, two))
    assert scores == pytest.approx(others, abs=1e-5) and len(set(scores)) == 7
    assert all(a <= 0.55 * b for a, b in zip(half, whole, strict=True))


def test_another_number_of_processes_goes_on(runs: dict[str, Path]) -> None:
    same_learning(runs["one-two"], runs["two-one"], KINDS)


def test_two_processes_hold_half_each(runs: dict[str, Path]) -> None:
    for name in (*KINDS, "ppo"):
        whole, half = (json.loads((runs[size] / name / "figures.json").read_text())[2]
                       for size in ("one", "two"))
        assert half <= 0.55 * whole, name


@pytest.mark.parametrize("most", [0, 8, 16, 1000])
def test_parts_of_any_size_give_the_gradient_of_the_batch(most: int) -> None:
    """Against one backward pass of the whole, in which each learnt token counts the same."""
    model, batch = tiny_llm.llama(), texts(0)
    text_loss(model, batch).backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    trainer = text_trainer(model, TextSFTConfig(part_tokens=most))
    loss = trainer.gradient(batch)["loss"]
    assert loss == pytest.approx(float(text_loss(model, batch).detach()), abs=1e-6)
    for mine, parameter in zip(wanted, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, mine, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "most"), [("llama", 0), ("llama", 16), ("qwen", 0),
                                             ("gemma2", 0), ("lora", 0)])
def test_packed_texts_give_the_gradient_of_padded_ones(kind: str, most: int) -> None:
    """Of models with positions that turn, and with a window."""
    model, batch = tiny_llm.MODELS[kind](), texts(0)
    must_keep_apart(model)
    text_loss(model, batch).backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    wanted = [p.grad.clone() for p in learning]
    trainer = text_trainer(model, TextSFTConfig(part_tokens=most, pack=True))
    model.eval()
    loss = trainer.gradient(batch)["loss"]
    assert loss == pytest.approx(float(text_loss(model, batch).detach()), abs=1e-5)
    largest = max(float(grad.abs().max()) for grad in wanted)
    for mine, parameter in zip(wanted, learning, strict=True):
        torch.testing.assert_close(parameter.grad, mine, atol=1e-5 * max(1, largest), rtol=1e-4)


def test_packed_rows_hold_all_texts_and_little_else() -> None:
    batch = texts(1)
    found = packed(batch)
    assert found.tokens.shape == (4, 12), "12, 9 + 3, 7 + 5, 4"
    assert found.text is not None and int((found.text > 0).sum()) == 40
    assert sorted(found.tokens[found.learnt].tolist()) == sorted(
        batch.tokens[batch.learnt].tolist())


def test_a_model_that_sees_the_text_before_is_refused() -> None:
    """Such as one whose attention is given a mask of its own."""
    model = tiny_llm.qwen()
    forward = model.forward
    model.forward = lambda position_ids=None, **inputs: forward(**inputs)
    with pytest.raises(UserError, match=r"sft\.pack=true: .* apart; leave it out, and take"):
        must_keep_apart(model)


def test_parts_hold_each_learnt_token_once() -> None:
    batch = texts(1)
    parts = parts_of_texts(batch, 10)
    assert len(parts) == 4 and sum(part.share for part in parts) == pytest.approx(1)
    found = torch.cat([part.tokens[part.learnt] for part in parts])
    assert sorted(found.tolist()) == sorted(batch.tokens[batch.learnt].tolist())
    assert parts_of_texts(batch, 0) == [batch]
    assert len(parts_of_texts(batch, 0, 2)) == 2
