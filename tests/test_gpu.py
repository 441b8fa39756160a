"""What must be so on a GPU: run there by ``scripts/gpu``, and on a CPU wherever there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfplay.board.data import batch
from selfplay.board.trainer import TrainConfig, board_trainer, to_tensors
from selfplay.games import make
from selfplay.inference import graphs
from selfplay.inference.evaluator import Evaluator, load_all
from selfplay.inference.precision import agree, random_positions
from selfplay.models import build, placed, seeded, spec_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GAME = make("go5x5")
pytestmark = pytest.mark.gpu


def net() -> torch.nn.Module:
    made = seeded(0, lambda: build(spec_for(GAME, "2x16")))
    with torch.no_grad():  # blocks that begin as the identity would hide their own arithmetic
        for weight in made.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return made.eval()


def again(forward: graphs.Forward, planes: Tensor) -> tuple[Callable[[], object], Any]:
    """A recorder for a CPU: it calls, and writes into the outputs of the first call."""
    out = forward(planes)
    out = out._replace(policy=out.policy.clone(), value=out.value.clone())

    def replay() -> None:
        for mine, new in zip(out[:2], forward(planes)[:2], strict=True):
            mine.copy_(new)

    return replay, out


RECORD: graphs.Recorder = graphs.cuda_recorder if DEVICE == "cuda" else again


@torch.inference_mode()
def test_recorded_passes_are_the_net() -> None:
    """Batches of all sizes, in any order, beyond the largest too; nothing of others is left."""
    plain = placed(net(), DEVICE, torch.float32)
    recorded = graphs.Graphs(plain, RECORD)
    obs = torch.from_numpy(random_positions(GAME, 0, 300)).float().to(DEVICE)
    for rows in (3, 300, 16, 1, 17, 64, 3):
        found, wanted = recorded(obs[:rows]), plain(obs[:rows])
        for mine, other in zip(found[:2], wanted[:2], strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    assert recorded.replays == 7 and not recorded.given_up
    assert len(recorded(obs[:0]).policy) == 0
    many = obs.repeat(14, 1, 1, 1)
    assert len(many) > graphs.SIZES[-1] and len(recorded(many).policy) == len(many)
    assert recorded.replays == 7


@torch.inference_mode()
@pytest.mark.parametrize("fault", ["refuses", "is wrong"])
def test_what_cannot_be_recorded_is_called(fault: str) -> None:
    def record(forward: graphs.Forward, planes: Tensor) -> Any:
        if fault == "refuses":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        out = forward(planes)
        return (lambda: None), out._replace(policy=out.policy + 1)

    plain = placed(net(), DEVICE, torch.float32)
    recorded = graphs.Graphs(plain, record)
    obs = torch.from_numpy(random_positions(GAME, 0, 20)).float().to(DEVICE)
    for _ in range(2):
        assert torch.equal(recorded(obs).policy, plain(obs).policy)
    assert recorded.replays == 0
    assert recorded.given_up in ("operation not permitted when stream is capturing",
                                 "a recording is off by 1")


def test_evaluations_agree_with_a_cpus() -> None:
    obs, model = random_positions(GAME, 0, 200), net()
    here = Evaluator(model, GAME, DEVICE, "float32").forward(obs)
    there = Evaluator(model, GAME, "cpu", "float32").forward(obs)
    np.testing.assert_allclose(here[0], there[0], atol=2e-2)  # a GPU may multiply in TF32
    assert agree(there, here).same > 0.98
    low = Evaluator(model, GAME, DEVICE, "bfloat16").forward(obs)
    assert agree(there, low).kl < 0.01
    twice = [Evaluator(model, GAME, DEVICE, "float32").forward(obs)[0] for _ in range(2)]
    assert np.array_equal(*twice)


def test_learning_is_a_cpus() -> None:
    """The same batches, the same losses."""
    from selfplay.bench.net import random_columns

    columns, losses = random_columns(GAME, 64), {}
    for device in {DEVICE, "cpu"}:
        trainer = board_trainer(net().train(), TrainConfig(batch_size=64), device)
        made = batch(columns, np.arange(64), GAME, GAME.symmetries(), None)
        assert to_tensors(made, device).obs.device.type == device
        losses[device] = [trainer.step(made)["loss"] for _ in range(4)]
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=0.05)
    assert losses[DEVICE][-1] < losses[DEVICE][0]


def test_texts_are_a_cpus() -> None:
    """Greedy completions of the same weights; learning on the device."""
    pytest.importorskip("transformers")
    from selfplay.llm.embedded import character_tokenizer, small_model
    from selfplay.llm.generate import Sampling, TorchGenerator

    words, rows = character_tokenizer(), [[5, 6, 7], [8, 9, 10, 11, 12]]
    model = small_model("1x32", words, 0).eval()
    how = Sampling(temperature=0.0, max_new_tokens=8)
    there = TorchGenerator(model, (1,), 0)(rows, 2, how, 0)
    here = TorchGenerator(model.to(DEVICE), (1,), 0)(rows, 2, how, 0)
    same = (here.action.cpu() == there.action).float().mean()
    assert here.action.device.type == DEVICE and same > 0.8  # a near tie may turn


def test_evaluators_on_a_gpu_have_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, as an evaluator on a GPU asks for; on a CPU by its recorder."""
    made, real = [], graphs.Graphs

    def recorded(plain: torch.nn.Module) -> graphs.Graphs:
        made.append(real(plain, RECORD))
        return made[-1]

    monkeypatch.setattr(graphs, "Graphs", recorded)
    model, obs = net(), random_positions(GAME, 0, 40)
    two = [Evaluator(None, GAME, DEVICE, "float32") for _ in range(2)]
    assert [one.graphs for one in two] == [DEVICE == "cuda"] * 2
    for one in two:
        one.graphs = True
    load_all(two, model)
    wanted = Evaluator(model, GAME, DEVICE, "float32")
    wanted.graphs = False
    wanted.load(model)
    for one in two:
        for mine, other in zip(one.forward(obs), wanted.forward(obs), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)
    assert [one.replays for one in made] == [1, 1] and made[0] is not made[1]
