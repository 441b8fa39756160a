"""What is said is what is read."""

from __future__ import annotations

import pytest

from selfplay.common.console import say


@pytest.mark.parametrize("text", ["net:a against mcts:100: 50.0% of 20 games", "[bold]x[/bold] 3"])
def test_names_are_printed_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == f"{text}\n"
