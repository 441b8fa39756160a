"""Settings: overrides, presets, and the round trip through a run's config.json."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.common.errors import UserError
from selfplay.common.settings import to_dict
from selfplay.run.config import PRESETS, RunConfig, from_dict, override, preset


@settings(deadline=None)
@given(sims=st.integers(1, 10_000), rate=st.floats(1e-6, 1, allow_nan=False),
       games=st.lists(st.sampled_from(["a.sgf", "b.zip", "dir"]), max_size=3))
def test_round_trip(sims: int, rate: float, games: list[str]) -> None:
    config = override(preset("go9x9", seed=7), [
        f"rl.sims={sims}", f"sft.learning_rate={rate!r}", f"expert.games={','.join(games)}",
    ])
    assert config.rl.sims == sims
    assert config.sft.learning_rate == rate
    assert config.expert.games == tuple(games)
    assert from_dict(json.loads(json.dumps(to_dict(config))), "x") == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_key_exists(name: str) -> None:
    assert preset(name) != RunConfig(game=name)
    assert abs(sum(preset(name).shares) - 1) < 1e-9


@pytest.mark.parametrize(("text", "words"), [
    ("rl.simz=3", "did you mean rl.sims"),
    ("rl.sims=many", "int wanted"),
    ("rl.gating=perhaps", "bool wanted"),
    ("rl.algorithm=alpha", "gumbel, puct"),
    ("rl.opening=1", "2 values"),
    ("sims", "key=value"),
    ("minutes=inf", "minutes=inf: at most 2147483647"),
    ("shares=0.1,0.2,inf,0.2", "at most"),
    ("rl.cache_mb=3_000_000_000", "at most 2147483647"),
    (f"seed={2**63}", "at most 9223372036854775807"),
])
def test_a_bad_override_says_what_to_do(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        override(RunConfig(game="go9x9"), [text])


@pytest.mark.parametrize(("text", "says"), [
    ("game=connect4", "--game"), ("rl.opening=4-2", "2 values"), ("shares=0,0,0,0", "above 0"),
])
def test_overrides_that_make_no_sense(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        override(preset("tictactoe"), [text])


def test_the_largest_seed_is_a_seed() -> None:
    config = override(RunConfig(game="go9x9"), [f"seed={2**63 - 1}"])
    assert from_dict(to_dict(config), "x").seed == 2**63 - 1


@pytest.mark.parametrize(("key", "value"), [
    ("seed", "0"), ("nets", 1), ("rl", {"sims": 1.5}), ("minutes", math.inf),
    pytest.param("minutes", 10**400, id="400 digits"),
    ("sft", {"learning_rate": math.inf}), ("seed", 2**63),
])
def test_a_damaged_config_names_the_file(key: str, value: object) -> None:
    with pytest.raises(UserError, match=r"here/config\.json"):
        from_dict({"game": "go9x9", key: value}, "here/config.json")
