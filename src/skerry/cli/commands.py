"""The program `skerry`: its commands, and what becomes of their errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

# The order in which help lists them.
COMMANDS: Final = {
    "run": "skerry.cli.run",
    "create": "skerry.cli.create",
    "exec": "skerry.cli.exec",
    "shell": "skerry.cli.shell",
    "cp": "skerry.cli.cp",
    "attach": "skerry.cli.attach",
    "ls": "skerry.cli.ls",
    "ps": "skerry.cli.ps",
    "logs": "skerry.cli.logs",
    "top": "skerry.cli.top",
    "terminate": "skerry.cli.terminate",
    "volume": "skerry.cli.volume",
    "gc": "skerry.cli.gc",
    "secret": "skerry.cli.secret",
    "server": "skerry.cli.server",
    "doctor": "skerry.cli.doctor",
    "version": "skerry.cli.version",
    "completion": "skerry.cli.completion",
}
FAILED: Final = 1
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as a shell tells it


class LazyGroup(click.Group):
    """Loads the module of a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The first command that needs it starts the local server. Settings: docs/reference/settings.md.",
)
def cli() -> None:
    """Sandboxes for code that nobody has reviewed."""


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit status: 0, 1 for an error, 2 for a wrong call, 130 when interrupted."""
    try:
        outcome = cli.main(args=list(argv), prog_name="skerry", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("skerry: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as exc:
        return _failed(exc)
    return outcome if isinstance(outcome, int) else 0


def _failed(exc: Exception) -> int:
    """Tell an error in one line, with its next step; the trace only to who asks for it."""
    from skerry.client.settings import traceback_wanted
    from skerry.model.errors import Error
    from skerry.model.text import printable

    if traceback_wanted():
        raise exc
    if isinstance(exc, Error):
        print(f"skerry: {printable(exc.message)}", file=sys.stderr)
    elif isinstance(exc, OSError):
        print(f"skerry: {printable(str(exc))}", file=sys.stderr)
    else:
        told = printable(f"{type(exc).__name__}: {exc}")
        print(f"skerry: this is a defect of skerry ({told}); SKERRY_TRACEBACK=1 shows where", file=sys.stderr)
    return FAILED
