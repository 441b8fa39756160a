"""Sampling: against Hugging Face's own generation and logits, and against known distributions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason='pip install -e ".[llm]"')

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llm import EOS, MODELS, PAD, QUESTIONS, TOKENIZER, hugging_face, llama, prompts
from torch.utils.flop_counter import FlopCounterMode

from selfplay.common.errors import UserError
from selfplay.llm.generate import (
    ForwardDecoder,
    HostCache,
    Sampling,
    TorchGenerator,
    completion_keys,
    decoder_of,
    sample_completions,
    sample_tokens,
    uniforms,
)
from selfplay.models.transformer import Decoder, TensorCache, positions_of

GREEDY = Sampling(temperature=0, max_new_tokens=20)
WARM = Sampling(temperature=1.3, max_new_tokens=20)


def logp_by_forward(model, prompt, prompt_mask, action, mask, temperature):
    """Of every token, from one forward over the whole text without any cache."""
    tokens = torch.cat([prompt, action], 1)
    seen = torch.cat([prompt_mask, mask], 1)
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=seen.long(),
                       position_ids=positions_of(seen)).logits
    logp = torch.log_softmax(logits[:, prompt.shape[1] - 1:-1].float() / temperature, -1)
    return logp.gather(-1, action[..., None])[..., 0] * mask


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_hugging_face(name: str) -> None:
    model = MODELS[name]()
    prompt, mask = prompts()
    samples = sample_completions(model, prompt, mask, 1, GREEDY, 0, [EOS], PAD)
    theirs = hugging_face(model).generate(
        input_ids=prompt, attention_mask=mask.long(), do_sample=False, max_new_tokens=20,
        pad_token_id=PAD, eos_token_id=EOS)
    theirs = theirs[:, prompt.shape[1]:]
    assert len(set(map(tuple, theirs.tolist()))) > 1
    assert torch.equal(samples.action, theirs[:, :samples.action.shape[1]])


@pytest.mark.parametrize("name", MODELS)
def test_logp_is_the_whole_texts(name: str) -> None:
    model = MODELS[name]()
    prompt, mask = prompts()
    samples = sample_completions(model, prompt, mask, 5, WARM, 3, [EOS, *range(20, 40)], PAD)
    assert not samples.mask.all(), "some completions ended early, and were dropped"
    again = logp_by_forward(model, prompt.repeat_interleave(5, 0), mask.repeat_interleave(5, 0),
                            samples.action, samples.mask, 1.3)
    torch.testing.assert_close(samples.logp, again, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ["2x64", "1x32", "3x96"])
@pytest.mark.parametrize("cache", [HostCache, TensorCache])
def test_the_decoder_gives_hugging_faces_logits(size: str, cache: type) -> None:
    model = llama(size)
    prompt, mask = prompts()
    found = []
    for decoder in (Decoder(model, cache), ForwardDecoder(hugging_face(model))):
        with torch.no_grad():
            logits = [decoder.prefill(prompt, mask, 6)]
            decoder.select(torch.tensor([0, 0, 1, 3, 3]))
            logits.append(decoder.step(torch.tensor([5, 6, 7, 8, 9])))
            decoder.select(torch.tensor([4, 1, 2]))
            logits += [decoder.step(torch.tensor([i, i + 1, 9])) for i in range(10, 14)]
        found.append(torch.cat(logits))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_models_of_others_are_left_to_their_own_forward() -> None:
    assert isinstance(decoder_of(MODELS["llama"]()), Decoder)
    for name in ("grouped", "qwen", "gpt2", "lora"):
        assert isinstance(decoder_of(MODELS[name]()), ForwardDecoder)


def test_completions_do_not_depend_on_the_batch() -> None:
    generator = TorchGenerator(llama(), (EOS,), PAD)
    rows = [TOKENIZER(q)["input_ids"] for q in QUESTIONS]
    together = generator(rows, 6, WARM, 11)
    turned = generator(rows[::-1], 6, WARM, 11)
    alone = generator(rows[1:2], 6, WARM, 11)
    texts = [tuple(row[m].tolist()) for row, m in zip(together.action, together.mask, strict=True)]
    back = [tuple(row[m].tolist()) for row, m in zip(turned.action, turned.mask, strict=True)]
    assert texts[:6] == back[18:] and texts[18:] == back[:6]
    assert texts[6:12] == [tuple(row[m].tolist())
                           for row, m in zip(alone.action, alone.mask, strict=True)]
    assert len(set(texts)) == len(texts)
    other = generator(rows, 6, WARM, 12)
    assert not torch.equal(other.action[:, :5], together.action[:, :5])


def test_a_prompt_that_comes_twice_is_answered_differently(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read once; the answer beside it is what it is alone."""
    read, prefill = [], Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, tokens, *more: (
        read.append(len(tokens)), prefill(self, tokens, *more))[1])
    generator = TorchGenerator(llama(), (EOS,), PAD)
    row, other = (TOKENIZER(text)["input_ids"] for text in ("1+1=", "12+3="))
    samples = generator([row, other, row], 2, WARM, 0)
    assert len(set(map(tuple, samples.action.tolist()))) == 6 and read == [2]
    alone = generator([other], 2, WARM, 0)
    for found, wanted in zip(samples.action[2:4], alone.action, strict=True):
        length = int((wanted != PAD).sum())
        assert torch.equal(found[:length], wanted[:length])


def test_the_last_layer_makes_only_what_is_wanted() -> None:
    """Of a net of one layer, most of the work is that of the other tokens."""
    model, (prompt, mask) = llama("1x32"), prompts()
    with FlopCounterMode(display=False) as some, torch.no_grad():
        Decoder(model, TensorCache).prefill(prompt, mask, 1)
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        model(prompt, mask.long(), positions_of(mask), logits_to_keep=1)
    assert some.get_total_flops() < 0.4 * whole.get_total_flops()


def test_the_end() -> None:
    """Nothing is kept behind an end token; the longest completion sets the width."""
    ends = [EOS, *range(5, 60)]
    prompt, mask = prompts()
    samples = sample_completions(llama(), prompt, mask, 16, Sampling(max_new_tokens=6), 0, ends,
                                 PAD)
    lengths = samples.mask.sum(1)
    assert samples.action.shape[1] == int(lengths.max())
    assert 1 <= int(lengths.min()) < int(lengths.max())
    for row, length, ended in zip(samples.action, lengths, samples.ended, strict=True):
        inside = [int(token) in ends for token in row[:length]]
        assert not any(inside[:-1])
        assert inside[-1] == bool(ended)
        assert (row[length:] == PAD).all()
    assert (samples.logp[~samples.mask] == 0).all()
    assert (samples.logp[samples.mask] < 0).all()


def test_draws_follow_the_distribution() -> None:
    """Chi-squared of 20,000 draws against softmax(logits / T)."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -40.0])
    uniform = torch.from_numpy(uniforms(np.arange(20_000, dtype=np.uint64), 1)[:, 0])
    token, logp = sample_tokens(logits.expand(20_000, 5), Sampling(temperature=0.7), uniform)
    p = torch.softmax(logits / 0.7, 0)
    counts = torch.bincount(token, minlength=5)
    assert counts[4] == 0
    assert float(((counts - 20_000 * p)[:4] ** 2 / (20_000 * p)[:4]).sum()) < 16.3  # p = 0.001
    torch.testing.assert_close(logp, p.log()[token])


def test_top_p_by_hand() -> None:
    """Of 0.5, 0.3, 0.15, 0.05 the first two reach 0.8; what is left is drawn 5 : 3."""
    logits = torch.tensor([0.3, 0.05, 0.5, 0.15]).log().expand(8, 4)
    uniform = (torch.arange(8) + 0.5).double() / 8
    token, logp = sample_tokens(logits, Sampling(top_p=0.79), uniform)
    assert token.tolist() == [0] * 3 + [2] * 5
    torch.testing.assert_close(logp[0], torch.tensor(0.3).log())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), group=st.integers(1, 5))
def test_every_completion_has_a_key_of_its_own(seed: int, group: int) -> None:
    prompt, mask = prompts([*QUESTIONS, *QUESTIONS])
    found = completion_keys(prompt, mask, group, seed)
    assert len(set(found.tolist())) == 8 * group
    drawn = uniforms(found, 7)
    assert ((drawn > 0) & (drawn < 1)).all()
    assert len(np.unique(drawn)) == drawn.size


def test_too_long_for_the_model() -> None:
    prompt, mask = prompts()
    with pytest.raises(UserError, match="the model sees 1024"):
        sample_completions(llama(), prompt, mask, 1, Sampling(max_new_tokens=2000), 0, [EOS], PAD)
