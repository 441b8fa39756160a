"""Trees must not change by accident: visit counts, moves and whole trees as they once were."""

from __future__ import annotations

import json

import golden_trees
import pytest


@pytest.mark.parametrize("rule", golden_trees.RULES)
@pytest.mark.parametrize("name", golden_trees.GAMES)
def test_trees_are_those_that_were_kept(name: str, rule: str) -> None:
    kept = json.loads(golden_trees.FILE.read_text())[f"{name} {rule}"]
    found = golden_trees.trees(name, rule)
    assert len(found) >= 4
    assert found == kept
