"""Which dtype self-play runs in: measured agreement, the choice, and how a run keeps to it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfplay.board.config import RLConfig
from selfplay.common.errors import UserError
from selfplay.games import make
from selfplay.inference import openvino, precision
from selfplay.inference.precision import (
    ActorNets,
    Agreement,
    Trial,
    agree,
    fastest_sound,
    random_positions,
    trials,
)
from selfplay.models import NetSpec, build, seeded

GAME = make("go5x5")
CONFIG = RLConfig(games=200, cache_mb=1)

needs_openvino = pytest.mark.skipif(
    not openvino.available(), reason=f"openvino is not installed: {openvino.INSTALL}")


def net_of(seed: int = 0) -> nn.Module:
    net = seeded(seed, lambda: build(NetSpec("2x16", GAME.obs_shape, GAME.num_actions, True)))
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return net.eval()


def trial(dtype: Any, rate: float, same: float = 1.0, kl: float = 0.0) -> Trial:
    return Trial(dtype, rate, Agreement(same, kl, 0.0))


def test_agreement_worked_by_hand() -> None:
    """First row: 3/4 and 1/4 change places, KL = 3/4 ln 3 - 1/4 ln 3. Second row: the same but
    for a constant; a difference at an illegal move, the highest of all, does not count."""
    legal = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    log3 = math.log(3)
    theirs = np.array([[log3, 0, 9], [0, 1, 2], [0, 5, 1], [4, 4, 5]], np.float32)
    ours = np.array([[0, log3, 9], [7, 8, 9], [0, 50, 1], [4, 4, 5]], np.float32)
    values = np.array([0, 0.3, -1, 0], np.float32), np.array([0, 0.3, 1, 0.5], np.float32)
    found = agree((theirs, values[0]), (ours, values[1]), legal)
    assert found.same == 0.75
    assert found.kl == pytest.approx(log3 / 2 / 4)
    assert found.value == pytest.approx(2.5 / 4)
    assert agree((theirs, values[0]), (ours, values[1])).same == 1.0  # the illegal ones included


def test_the_fastest_that_agrees_is_chosen() -> None:
    slow, middle = trial("float32", 1.0), trial("bfloat16", 2.0, 0.99, 1e-4)
    assert fastest_sound([slow, middle, trial("int8", 4.0, 0.98, 1e-3)]).dtype == "int8"
    for same, kl in ((0.8, 1e-3), (0.98, 0.01), (math.nan, 0.0), (1.0, math.nan)):
        assert fastest_sound([slow, middle, trial("int8", 4.0, same, kl)]).dtype == "bfloat16"
    assert fastest_sound([slow, trial("bfloat16", 0.5)]).dtype == "float32"


def test_random_positions_are_of_games_and_differ() -> None:
    obs = random_positions(GAME, seed=1, count=64)
    assert obs.shape == (64, *GAME.obs_shape) and obs.dtype == np.uint8
    stones = obs[:, :2].sum((1, 2, 3))
    assert stones.min() == 0 and stones.max() >= 6
    assert np.array_equal(obs, random_positions(GAME, seed=1, count=64))
    assert not np.array_equal(obs, random_positions(GAME, seed=2, count=64))


def test_trials_measure_speed_and_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.01)
    obs = random_positions(GAME, seed=1)
    found = {t.dtype: t for t in trials(net_of(), GAME, obs, ["bfloat16"], 32)}
    assert found["float32"].agreement == Agreement(1.0, 0.0, 0.0)
    assert 0 < found["bfloat16"].agreement.kl < 1e-3
    assert found["bfloat16"].agreement.same > 0.9
    assert all(t.rate > 0 for t in found.values())


#: What makes torch and OpenVINO compute as on a CPU with AVX2 only, each set to "AVX2".
ISA = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")


def vnni() -> bool:
    """Whether the CPU adds products of 8-bit integers up in 32 bits, and is let to."""
    if all(os.environ.get(name) == "AVX2" for name in ISA):
        return False
    flags = Path("/proc/cpuinfo").read_text().split()
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags))


@needs_openvino
@pytest.mark.skipif(vnni(), reason="this CPU has VNNI: nothing saturates")
def test_sums_that_saturate_are_caught(tmp_path: Path) -> None:
    """Equal weights behind large inputs: pairs of products (up to 2 * 255 * 127) leave 16 bits.
    A weight a channel that is twice as large halves the others' integers: they fit, int8 agrees."""
    for twice in (True, False):
        net = net_of()
        with torch.no_grad():
            net.stem.norm.bias.add_(10)
            for block in net.blocks:
                for layer in (block.first, block.second):
                    layer.conv.weight.fill_(0.005)
                    if twice:
                        layer.conv.weight[:, 0, 0, 0] = 0.01
            generator = torch.Generator().manual_seed(3)
            for weight in (p for head in (net.policy, net.value) for p in head.parameters()):
                if weight.dim() > 1:
                    torch.nn.init.normal_(weight, 0, weight[0].numel() ** -0.5, generator)
        found = acting_in(tmp_path, replace(CONFIG, dtype="int8"), net=net)
        assert dtypes(found) == {"int8" if twice else PLAIN}
    assert "int8 has only" in found.said


@needs_openvino
@pytest.mark.skipif(not vnni(), reason="this CPU has no VNNI: the test above has run")
def test_sums_that_saturate_are_caught_where_older_instructions_are_asked_for() -> None:
    name = test_sums_that_saturate_are_caught.__name__
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", f"{__file__}::{name}"], check=False,
        env={**os.environ, **dict.fromkeys(ISA, "AVX2")}, capture_output=True, text=True)
    assert said.returncode == 0 and "PASSED" in said.stdout, said.stdout + said.stderr


@pytest.fixture(autouse=True)
def large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LEAST_WORK", 0)


def acting_in(folder: Path, config: RLConfig = CONFIG, **options: Any) -> ActorNets:
    net = options.pop("net", None) or net_of()
    return ActorNets(GAME, net, config, folder / "dtype.json", options.pop("device", "cpu"),
                     lambda: random_positions(GAME, seed=1, count=64), **options)


def dtypes(found: ActorNets) -> set[str]:
    assert len(found.evaluators) == 2  # 200 games: two groups
    return {e.dtype_name for e in found.evaluators}


PLAIN = precision._by_torch("cpu")


def noted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dtype.json").read_text())


def test_without_a_choice_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "trials", lambda *a: pytest.fail("measured"))
    monkeypatch.setattr(openvino, "available", lambda: False)
    named = acting_in(tmp_path, replace(CONFIG, dtype="float32"))
    assert dtypes(named) == {"float32"} and not list(tmp_path.iterdir())
    chosen = acting_in(tmp_path)
    assert dtypes(chosen) == {PLAIN} and chosen.said.startswith(f"self-play in {PLAIN}")
    assert noted(tmp_path)["dtype"] == PLAIN


def test_a_small_net_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, 2x16 on 25 cells: the blocks alone have 4 * 9 * 16 * 16 weights."""
    assert 4 * 9 * 16 * 16 * 25 < precision.work(net_of(), GAME) < 2 * 4 * 9 * 16 * 16 * 25
    monkeypatch.setattr(precision, "LEAST_WORK", precision.work(net_of(), GAME) + 1)
    monkeypatch.setattr(precision, "trials", lambda *a: pytest.fail("measured"))
    monkeypatch.setattr(openvino, "available", lambda: True)
    assert acting_in(tmp_path).said == f"self-play in {PLAIN}"


def test_a_run_says_once_what_openvino_would_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "available", lambda: False)
    said = acting_in(tmp_path).said
    assert said.startswith(f"self-play in {PLAIN}; OpenVINO") and openvino.INSTALL in said
    assert acting_in(tmp_path).said == f"self-play in {PLAIN}"


def test_a_run_that_has_begun_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO was installed after it began, with a note of its dtype and without one."""
    monkeypatch.setattr(precision, "trials", lambda *a: pytest.fail("measured"))
    monkeypatch.setattr(openvino, "available", lambda: True)
    assert dtypes(acting_in(tmp_path, fresh=False)) == {PLAIN}
    assert dtypes(acting_in(tmp_path)) == {PLAIN}


def test_a_dtype_that_is_gone_is_replaced_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dtype.json").write_text('{"dtype": "int8"}')
    monkeypatch.setattr(openvino, "available", lambda: False)
    found = acting_in(tmp_path)
    assert dtypes(found) == {PLAIN} and f"int8 cannot be had here: {PLAIN}" in found.said
    assert noted(tmp_path)["dtype"] == PLAIN


def test_what_was_fastest_when_measured_plays_and_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "candidates", lambda device: ["bfloat16", "int8"])
    best = [trial("float32", 1.0), trial("bfloat16", 2.0), trial("int8", 1.5)]
    monkeypatch.setattr(precision, "trials", lambda *a: best)
    found = acting_in(tmp_path)
    assert dtypes(found) == {"bfloat16"}
    assert "self-play in bfloat16, 2.0 times float32's speed" in found.said
    assert [t["dtype"] for t in noted(tmp_path)["trials"]] == ["float32", "bfloat16", "int8"]


@needs_openvino
def test_a_run_keeps_to_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = [trial("float32", 1.0), trial("int8", 3.0, 0.97, 1e-3)]
    monkeypatch.setattr(precision, "trials", lambda *a: best)
    first = acting_in(tmp_path)
    assert "self-play in int8, 3.0 times float32's speed" in first.said
    assert dtypes(first) == {"int8"} and noted(tmp_path)["dtype"] == "int8"
    assert {"int8_same", "int8_kl", "int8_value"} == set(first.figures())
    monkeypatch.setattr(precision, "trials", lambda *a: pytest.fail("measured again"))
    again = acting_in(tmp_path, fresh=False)
    assert dtypes(again) == {"int8"} and again.said == "self-play in int8"


@needs_openvino
def test_all_groups_act_on_the_same_new_weights(tmp_path: Path) -> None:
    found = acting_in(tmp_path, replace(CONFIG, dtype="int8"))
    obs = random_positions(GAME, seed=3, count=50)
    before = found.evaluators[0].forward(obs)[0]
    found.load(net_of(1))
    one, two = (e.forward(obs)[0] for e in found.evaluators)
    assert np.array_equal(one, two) and not np.array_equal(one, before)
    assert found.evaluators[0].evaluations == 100  # the check of agreement is no evaluation


@needs_openvino
@pytest.mark.parametrize("named", ["int8", "auto"])
def test_int8_is_left_for_good_where_it_says_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any
) -> None:
    monkeypatch.setattr(precision, "trials",
                        lambda *a: [trial("float32", 1.0), trial("int8", 3.0)])
    config = replace(CONFIG, dtype=named)
    found = acting_in(tmp_path, config)
    with monkeypatch.context() as patch:
        patch.setattr(precision, "agree", lambda a, b: Agreement(0.5, 1.0, 0.1))
        found.load(net_of(1))
    assert "int8 has only" in found.said and found.figures() == {}
    assert dtypes(found) == {PLAIN}
    obs = random_positions(GAME, seed=4)
    want = precision.Evaluator(net_of(1), GAME).forward(obs)[0]
    assert all(np.array_equal(e.forward(obs)[0], want) for e in found.evaluators)
    assert dtypes(acting_in(tmp_path, config, fresh=False)) == {PLAIN}


def test_what_the_library_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise UserError("OpenVINO cannot compile this net")

    monkeypatch.setattr(precision, "SECONDS", 0.01)
    monkeypatch.setattr(openvino, "find_ranges", refuse)
    found = trials(net_of(), GAME, random_positions(GAME), ["int8"], 32)
    assert [t.dtype for t in found] == ["float32"]


def test_a_net_that_has_diverged_is_named() -> None:
    with pytest.raises(FloatingPointError, match="diverged"):
        fastest_sound([trial("float32", 1.0, math.nan, math.nan)])


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    for text in ("[]", '{"dtype": "int4"}', "{"):
        (tmp_path / "dtype.json").write_text(text)
        with pytest.raises(UserError, match=r"dtype\.json"):
            acting_in(tmp_path)


def test_int8_without_the_library_is_refused_before_anything_is_made(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "available", lambda: False)
    train = ("train", "--game", "tictactoe", "--set", "rl.dtype=int8")
    said = run(*train)
    assert said.code == 1 and "OpenVINO is not installed" in said.err
    assert openvino.GAIN in said.err and openvino.INSTALL in said.err
    assert len(said.err.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()
