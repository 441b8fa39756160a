"""SFT that goes on after RL has begun from it: RL then begins again.

A short first start leaves an SFT net that has learnt little, and an RL that was built on it. With
more time SFT can do better, but self-play cannot be moved onto another net. So what RL has made is
put aside in ``earlier/``, with the matches of its nets, and RL begins from the better net.
"""

from __future__ import annotations

import re
from pathlib import Path

from selfplay.arena.records import read_settings
from selfplay.common.errors import UserError
from selfplay.run.clock import Clock
from selfplay.run.folder import Run

CHEAP = 0.25  #: of RL's time: while it has spent less, it begins again without being asked
BUILT = ("value", "rl")  #: stages that stand on the SFT net, RL last: while it is there, so is all
_OF_RL = re.compile(rf"^\w+:({'|'.join(BUILT)})/")


def is_cheap(clock: Clock) -> bool:
    """Whether so little of RL's time is spent that it may begin again, and SFT has the time to
    learn for at least as long as it has so far. Not where the run's clock has been lost."""
    return (clock.alone is None and 0 < clock.seconds["rl"] <= CHEAP * clock.budget("rl")
            and clock.left("sft") >= clock.seconds["sft"])


def put_aside(run: Run, clock: Clock) -> Path:
    """Move RL, the value net and their matches into a folder of their own, which is returned.

    A kill in between loses nothing: RL is moved last, and the next start moves the rest.
    """
    place = run.folder / "earlier" / str(len(list(run.folder.glob("earlier/*/rl"))) + 1)
    for match in sorted(run.folder.glob("matches/*/")):
        try:
            settings = read_settings(match / "match.json")
        except (UserError, OSError):
            continue
        if any(_OF_RL.match(str(settings.get(side))) for side in "ab"):
            _move(match, place / "matches" / match.name)
    for stage in BUILT:
        if (run.folder / stage).exists():
            _move(run.folder / stage, place / stage)
        if stage in clock.shares:
            clock.reopen(stage)
    return place


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
