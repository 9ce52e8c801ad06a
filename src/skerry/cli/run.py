"""`skerry run`: a Python file's entrypoint, on this machine, with sandboxes at hand."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  skerry run examples/seed_hello.py
  skerry run evaluate.py --tasks 10 --verbose
  skerry run tools.py::cleanup
"""


@click.command(
    "run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=EXAMPLES,
)
@click.option("--detach", is_flag=True, help="Leave sandboxes that still run at the end alone.")
@click.argument("target", metavar="FILE[::ENTRYPOINT]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")
def command(target: str, arguments: tuple[str, ...], detach: bool) -> int:
    """Run a function marked with @app.local_entrypoint().

    Its parameters become options: `--name VALUE`. Output is the program's own; progress goes to stderr. At the end, and
    when interrupted, sandboxes that the program made and that still run are terminated, unless --detach is given.
    """
    from skerry.cli import program

    name, _, entrypoint = target.partition("::")
    file = Path(name)
    sys.argv = [name, *arguments]
    try:
        try:
            module = program.load(file)
        except Exception as exc:
            return _told(exc, file)
        chosen = program.entrypoint(module, entrypoint or None, file)
        args, options = program.parse(chosen, list(arguments), f"skerry run {target}")
        return _call(chosen, args, options, file)
    finally:
        if not detach:
            _terminate_created()


def _call(chosen: Any, args: list[Any], options: dict[str, Any], file: Path) -> int:
    try:
        chosen.run(*args, **options)
    except Exception as exc:
        return _told(exc, file)
    return 0


def _told(exc: Exception, file: Path) -> int:
    """Tell what a program raised: its own frames, or the line and the message of an error of ours."""
    from skerry.client.settings import traceback_wanted
    from skerry.model.errors import Error
    from skerry.model.text import printable

    frames = traceback.extract_tb(exc.__traceback__)
    first = next((index for index, frame in enumerate(frames) if Path(frame.filename) == file), None)
    if first is None and not isinstance(exc, SyntaxError):
        raise exc
    if isinstance(exc, Error) and not traceback_wanted():
        own = [frame for frame in frames if Path(frame.filename) == file][-1]
        print(f"skerry: {file}:{own.lineno}: {printable(exc.message)}", file=sys.stderr)
        return 1
    trace = traceback.TracebackException.from_exception(exc)
    if first is not None:
        trace.stack = traceback.StackSummary.from_list(list(trace.stack)[first:])
    print("".join(trace.format()), end="", file=sys.stderr)
    return 1


def _terminate_created() -> None:
    from skerry.client import loop
    from skerry.client._async.apps import terminate_created
    from skerry.client.client import resolve

    client = resolve(None)
    if client.created:
        loop.run(terminate_created, client)
