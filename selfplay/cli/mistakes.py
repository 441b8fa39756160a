"""What the terminal says when a command fails: one line, and what to do next."""

from __future__ import annotations

import sys

import click

from selfplay.common import interrupt
from selfplay.common.errors import REFUSED, UserError, clip, disk_remedy
from selfplay.common.machine import keep_compiled

#: Commands that start from scratch when they are run again.
ANEW = ("analyse", "bench", "games", "gtp", "judge", "llm chat", "llm check", "llm eval",
        "llm export")

#: What to make smaller when memory runs out.
GAMES = ("--set rl.cache_mb=32, --set rl.games=64, --set rl.window_max=100000, "
         "--set eval.slots=16")
TEXTS = ("--set rl.prompts=8, --set sft.batch_size=16, --set sample.max_new_tokens=64, "
         "--set lora.rank=16")


def run_command(cli: click.Group) -> int:
    """Run ``cli`` and return its exit code. A user's mistake ends in one line on stderr."""
    anew = " ".join(sys.argv[1:3]).startswith(ANEW)
    goes_on = "" if anew else "; the same command continues"
    try:
        with interrupt.listening(f"stopped at once{goes_on}"):
            keep_compiled()
            code = cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        name = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in cli.commands else ""
        command = error.ctx.command_path if error.ctx else f"selfplay {name}".strip()
        code = _fail(f"{error.format_message()} (see: {command} --help)", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"stopped{goes_on}", err=True)
        code = interrupt.EXIT_CODE
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


def _fail(message: str, code: int = 1) -> int:
    click.echo(f"selfplay: {clip(message)}", err=True)
    return code
