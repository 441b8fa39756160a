"""Settings: overrides, presets, and the round trip through a run's config.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import pytest
import script
from hypothesis import given, settings
from hypothesis import strategies as st

import selfplay as sp
from selfplay.common.errors import UserError
from selfplay.common.settings import (
    Settings,
    flat,
    name_of,
    set_key,
    to_dict,
    typed_keys,
    validated,
)
from selfplay.common.words import LONGEST, clip, nearest
from selfplay.learn.config import ALGORITHMS
from selfplay.llm import config as texts
from selfplay.llm.config import Recipe, TextConfig
from selfplay.run.config import (
    PRESETS,
    RECIPES,
    RunConfig,
    from_dict,
    override,
    preset,
    with_algorithm,
    with_recipe,
)
from selfplay.run.folder import open_run


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


def test_what_the_code_sets_would_be_taken_from_outside() -> None:
    """Presets, algorithms and recipes are not checked where they are used."""
    made: list[RunConfig] = [with_recipe(preset(game), recipe)
                             for game in [*PRESETS, "go5x5"] for recipe in RECIPES]
    made += [with_algorithm(config, name) for config in made for name in ALGORITHMS]
    for config in made:
        assert from_dict(json.loads(json.dumps(to_dict(config))), "x") == config
    for recipe in get_args(Recipe):
        for name in (None, *ALGORITHMS) if recipe not in texts.AGAINST_A_MODEL else (None,):
            config = texts.with_recipe(TextConfig("gcd"), recipe)
            config = texts.with_algorithm(config, name) if name else config
            for whole in (config, texts.with_model(config, True)):
                again = json.loads(json.dumps(to_dict(whole)))
                assert validated(TextConfig, again, "x") == whole


@pytest.mark.parametrize("kind", [RunConfig, TextConfig])
def test_every_number_has_limits(kind: type[Settings]) -> None:
    """Negative numbers, and numbers that no machine holds, are refused whatever the setting."""
    config = kind(**{name_of(kind): "x"})
    seen = set()
    for key, now in flat(to_dict(config)):
        first = now[0] if isinstance(now, tuple) and now else now
        if type(first) in (int, float):
            seen.add(key)
            for wrong in (-2**63 if key.endswith(".failed") else -1, 2**63):  # rewards may be < 0
                with pytest.raises(UserError, match=f"^{key}={wrong}.*: .* wanted$"):
                    set_key(config, key, [wrong, *now[1:]] if first is not now else wrong)
    assert {"seed", "minutes", "pg.clip_low"} < seen and len(seen) > 70


def test_parts_of_a_machine_are_what_ray_can_give() -> None:
    config = RunConfig("x")
    for wrong in ("ray.cpus=0.001", "ray.gpus=0.001", "ray.gpus=1.5"):
        with pytest.raises(UserError, match=f"^{wrong}: .* wanted$"):
            override(config, [wrong])
    assert override(config, ["ray.cpus=1.5", "ray.gpus=0.25"]).ray.gpus == 0.25
    assert override(config, ["ray.cpus=0.5", "ray.gpus=2"]).ray.gpus == 2


@pytest.mark.parametrize("kind", [RunConfig, TextConfig])
def test_every_setting_is_described(kind: type[Settings]) -> None:
    rows = {row.key: row for row in script.load("settings_table").table(kind)}
    assert list(rows) == list(typed_keys(kind))
    for row in rows.values():
        assert len(row.meaning) > 4 and "..." not in row.meaning, row
    assert rows["minutes"][1:4] == ("float", "30.0", "more than 0")
    assert rows["pg.gamma"][1:4] == ("float", "1.0", "0 or more, at most 1")
    assert rows["pg.whiten"][1:4] == ("bool", "False", "")
    assert rows["pg.kl_estimator"].kind == "auto, k1, k2 or k3"
    assert rows["pg.average"].meaning.startswith("over all steps alike")
    assert rows["pg.average"].meaning.endswith("however many it has (Dr. GRPO)")


def test_the_table_is_markdown() -> None:
    printed = script.start("settings_table")
    assert printed.returncode == 0, printed.stderr
    table = [line for line in printed.stdout.splitlines() if line.startswith("|")]
    assert len(table) == len(typed_keys(RunConfig)) + len(typed_keys(TextConfig)) + 4
    assert {line.replace("\\|", "").count("|") for line in table} == {6}


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
    ("seed=" + "9" * 5000, "a smaller number wanted"),
    ("rl.algorithm=PPO", r"did you mean ppo\?"),
    ("RL.Sims=3", r"did you mean rl.sims\?"),
    ("rl=3", "a group of settings: rl.algorithm, sims, "),
    ("zzz=3", "there are game, recipe, seed"),
    ("sft.learning_rate=nan", "sft.learning_rate=nan: more than 0 wanted"),
    ("rl.opening=1,2,3", "rl.opening=1,2,3: 2 values wanted"),
    ("rl.opening=1,x", "rl.opening=x: int wanted"),
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


@pytest.mark.parametrize("text", ["4,0", "0,8", "64,5", "32,5"])
def test_simulations_that_would_not_grow_are_refused(text: str, tmp_path: Path) -> None:
    """A run that was begun so, before that was refused, goes on."""
    config = override(preset("connect4"), [f"rl.sims_from={text}"])
    with pytest.raises(UserError, match=rf"^rl\.sims_from={text}: .* or 0,0 ") as error:
        open_run(tmp_path, config)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=rf"^rl\.sims_from={text}: "):
        next(sp.alphazero("connect4", sims_from=tuple(map(int, text.split(",")))))
    open_run(tmp_path, override(config, ["rl.sims_from=4,8"]))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert open_run(tmp_path, config).config == config


@pytest.mark.parametrize("stage", ["expert", "rl", "pool", "eval"])
def test_an_opening_that_no_game_lasts_is_refused(stage: str, tmp_path: Path) -> None:
    """One move fewer is not, nor what an earlier version's run was begun with."""
    for plies, fits in (("9,9", False), ("0,9", False), ("8,8", True)):
        config = override(preset("tictactoe"), [f"{stage}.opening={plies}"])
        if fits:
            open_run(tmp_path, config)
            continue
        with pytest.raises(UserError, match=rf"^{stage}\.opening={plies}: .* from 0 to 8 wanted"):
            open_run(tmp_path, config)
    config = override(preset("tictactoe"), [f"{stage}.opening=9,9"])
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert open_run(tmp_path, config).config == config


@pytest.mark.parametrize(("text", "default"), [
    ("solved_from=3", "0"), ("value_lambda=0.5", "1.0"), ("decay_steps=100", "0; its own"),
    ("expert_share=0.5", "0.0"), ("sims_from=4,8", "0,0"), ("gating=True", "False"),
    ("learning_rate=0.0001", "0.001; its own"), ("opening=2,2", "0,3; its own")])
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_what_a_policy_gradient_ignores_is_refused(
    name: str, text: str, default: str, tmp_path: Path
) -> None:
    """But for what an earlier version's run of the same algorithm was begun with."""
    searches = override(preset("tictactoe"), [f"rl.{text}"])
    config = with_algorithm(searches, name)
    key, (default, own) = text.partition("=")[0], default.partition("; ")[::2]
    own = rf"; its own is (pg|pool)\.{key}" if own else ""
    told = rf"^rl\.{text}: rl\.algorithm={name} ignores it{own}; take --set rl\.{key}={default}, "
    with pytest.raises(UserError, match=told) as error:
        open_run(tmp_path, config)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(searches)))
    with pytest.raises(UserError, match=told):  # nor is it of use where SFT was by search's run
        open_run(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert open_run(tmp_path, config).config == config


def test_what_games_and_algorithms_bring_has_an_effect(tmp_path: Path) -> None:
    """Whatever the presets set, and what one list may say to runs of every algorithm."""
    for name in ALGORITHMS:
        for game in PRESETS:
            config = override(preset(game), [f"rl.algorithm={name}", "rl.iterations=3",
                                             "rl.sims=8", "rl.positions=64"])
            assert open_run(tmp_path / game, config).config == config


def test_the_largest_seed_is_a_seed() -> None:
    config = override(RunConfig(game="go9x9"), [f"seed={2**63 - 1}"])
    assert from_dict(to_dict(config), "x").seed == 2**63 - 1


@pytest.mark.parametrize(("key", "value"), [
    ("seed", "0"), ("nets", 1), ("rl", {"sims": 1.5}), ("minutes", math.inf),
    pytest.param("minutes", 10**400, id="400 digits"),
    ("sft", {"learning_rate": math.inf}), ("seed", 2**63), ("seed", True), ("seed", math.nan),
    ("minutes", math.nan), ("rl", 5), ("rl", []), ("rl", {"gating": 1}), ("net", None),
    ("rl", {"sims": {}}), ("rl", {"opening": [1]}), ("rl", {"opening": "ab"}),
    ("minutes", {"a": 1}),
    ("shares", [0, 0, 0, 0]), ("expert", {"games": [3]}), ("seed", [[[[]]]]), ("", 1),
    pytest.param("rl", {"sims": "\ud800"}, id="half a character"),
    pytest.param("seed", "9" * 10**6, id="a million characters"),
    pytest.param("x" * 10**6, 1, id="a long key"),
])
def test_a_damaged_config_names_the_file(key: str, value: object) -> None:
    with pytest.raises(UserError, match=r"^here/config\.json: ") as error:
        from_dict({"game": "go9x9", key: value}, "here/config.json")
    said = str(error.value)
    assert said.endswith("(mend it, or delete the file and run the same command again)")
    assert key in said or len(key) > 99
    assert len(said) < LONGEST


@pytest.mark.parametrize("data", [[], None, 5, "x", math.nan, {}, {"game": 5}, {"game": None}])
def test_what_is_no_config_is_told_so(data: object) -> None:
    with pytest.raises(UserError, match=r"^here/config\.json: no game in it; .* delete the file"):
        from_dict(data, "here/config.json")  # type: ignore[arg-type]


def test_a_config_without_all_keys_opens() -> None:
    old = {"game": "tictactoe", "rl": {"sims": 16}, "shares": [0.1, 0.1, 0.4, 0.4]}
    config = from_dict(old, "x")
    assert (config.rl.sims, config.rl.games, config.shares) == (16, 256, (0.1, 0.1, 0.4, 0.4))
    assert from_dict({"game": "tictactoe", "minutes": 5}, "x").minutes == 5.0


@given(st.text(min_size=1), st.integers(100, 600))
def test_a_clipped_message_is_one_printable_line(text: str, most: int) -> None:
    short = clip(text, most)
    assert len(short) <= most and short.isprintable()
    long = clip(f"here: {text * 1000} ends", most)
    assert long.startswith("here:") and long.endswith("ends") and len(long) <= most


def test_the_nearest_name_in_capitals_or_not() -> None:
    assert nearest("PPO", ["ppo", "grpo"]) == "ppo"
    assert nearest("mcst", ["MCTS", "net"]) == "MCTS"
    assert nearest("zebra", ["ppo"]) is None
