"""What the terminal says when a command fails: one line, and what to do next."""

from __future__ import annotations

import os
import sys

import click

from selfplay.common import interrupt, ranks
from selfplay.common.errors import UserError
from selfplay.common.machine import keep_compiled
from selfplay.common.words import REFUSED, clip, disk_remedy

#: Commands that start from scratch when they are run again.
ANEW = ("analyse", "bench", "export", "games", "gtp", "judge", "llm chat", "llm check",
        "llm eval", "llm export", "nets", "play")

#: Commands whose work several processes share.
TOGETHER = ("train", "sft", "rl", "llm train")
#: In what torch.distributed says where another process is gone.
GONE = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL")

#: What to make smaller when memory runs out.
GAMES = ("--set rl.cache_mb=32, --set rl.games=64, --set rl.window_max=100000, "
         "--set eval.slots=16")
TEXTS = ("--set rl.prompts=8, --set sft.batch_size=16, --set sample.max_new_tokens=64, "
         "--set lora.rank=16")


def several() -> bool:
    """Whether torchrun, or whoever sets the same variables, may have started several processes."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def run_command(cli: click.Group) -> int:
    """Run ``cli`` and return its exit code. A user's mistake ends in one line on stderr: where
    torchrun has started several processes, in that of the first one that ends."""
    try:
        if not several():
            return _run_here(cli)
        from selfplay.learn.distributed import in_company

        with in_company():
            return _run_here(cli)
    except UserError as error:  # there is no such group
        return _fail(str(error))


def _run_here(cli: click.Group) -> int:
    anew = " ".join(sys.argv[1:3]).startswith(ANEW)
    goes_on = "" if anew else "; the same command continues"
    try:
        with interrupt.listening(f"stopped at once{goes_on}"):
            keep_compiled()
            _must_go_together()
            code = cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        name = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in cli.commands else ""
        command = error.ctx.command_path if error.ctx else f"selfplay {name}".strip()
        code = _fail(f"{error.format_message()} (see: {command} --help)", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _say_once(f"stopped{goes_on}", interrupt.EXIT_CODE)
    except UserError as error:
        code = _fail(str(error))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        code = _fail(f"{error.filename or 'disk'}: {disk_remedy(error)}; nothing finished was lost")
    except ValueError as error:
        if not _users(error):
            raise
        code = _fail(str(error))
    except FloatingPointError as error:
        code = _fail(str(error))
    except MemoryError as error:
        code = _fail(f"{str(error) or 'the memory is full'}; make something smaller: "
                     f"{TEXTS if sys.argv[1:2] == ['llm'] else GAMES}, or the net")
    except RuntimeError as error:
        if ranks.here().size > 1 and any(word in str(error) for word in GONE):
            return _fail("another process of this run has ended; the same command continues")
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        smaller = TEXTS if sys.argv[1:2] == ["llm"] else "--set rl.games=64, --set eval.slots=16"
        code = _fail(f"the GPU's memory is full; make something smaller: {smaller}, or the net; "
                     "or take --device cpu")
    return code or 0


def _users(error: ValueError) -> bool:
    """Whether the message is meant for the user: games and models import nothing of the package,
    so they have error classes of their own."""
    from selfplay.games.base import GameError
    from selfplay.models import NetError

    return isinstance(error, (GameError, NetError))


def _must_go_together() -> None:
    """Raises UserError for several processes of a command whose work one process does."""
    words = " ".join(word for word in sys.argv[1:3] if not word.startswith("-"))
    if ranks.here().size > 1 and words and not words.startswith(TOGETHER):
        raise UserError(f"selfplay {words.split()[0]}: is the work of one process; start it "
                        "without torchrun")


def _fail(message: str, code: int = 1) -> int:
    return _say_once(f"selfplay: {clip(message)}", code)


def _say_once(message: str, code: int) -> int:
    if ranks.here().may_speak():
        click.echo(message, err=True)
    return code
