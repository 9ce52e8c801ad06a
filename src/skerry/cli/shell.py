"""`skerry shell`: a terminal in a sandbox, joined to this one."""

from __future__ import annotations

from typing import Any, Final

import click

from skerry.cli import completing
from skerry.cli.options import detach_keys_option, parse_amount, parse_pairs, secret_option

EXAMPLES = """\b
Examples:
  skerry shell                                # a new sandbox, which ends with the shell
  skerry shell --pip pandas -- python
  skerry shell sb_... --user user
"""
NEW_ONLY: Final = ("python", "apt", "pip", "timeout", "cpu", "memory", "block_network", "host_access")
SHELL: Final = ("/bin/sh", "-c", 'exec "$(command -v bash || command -v sh)"')


class ShellCommand(click.Command):
    """Knows the command behind `--` from the sandbox before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["command"] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command("shell", cls=ShellCommand, epilog=EXAMPLES, options_metavar="[OPTIONS]")
@click.option("--python", metavar="VERSION", help="A new sandbox's Python, such as 3.11; default: Debian's own.")
@click.option("--apt", multiple=True, metavar="PACKAGE", help="Install a Debian package in it; repeatable.")
@click.option("--pip", multiple=True, metavar="PACKAGE", help="Install a Python package in it; repeatable.")
@click.option("--timeout", type=float, default=None, help="Its lifetime in seconds; default: an hour.")
@click.option("--cpu", callback=parse_amount(float), metavar="N[:LIMIT]", help="Its cores.")
@click.option("--memory", callback=parse_amount(int), metavar="N[:LIMIT]", help="Its memory in MiB.")
@click.option("--block-network", is_flag=True, help="Let it reach nothing, DNS included.")
@click.option("--host-access/--no-host-access", default=None, help="Pass this machine's package indexes on to it.")
@click.option("--env", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Set a variable; repeatable.")
@secret_option
@click.option("--workdir", metavar="PATH", help="Working directory.")
@click.option("--user", help="User; default: the sandbox's.")
@click.option("--attach", metavar="PROCESS", help="Go back to this process instead, as `skerry attach` does.")
@detach_keys_option
@click.argument("sandbox", required=False, metavar="[SANDBOX] [-- COMMAND...]", shell_complete=completing.sandboxes)
@click.pass_context
def command(ctx: click.Context, /, sandbox: str | None, attach: str | None, detach_keys: bytes, **options: Any) -> int:
    """Open a terminal in a sandbox and run COMMAND there: bash, where there is one.

    Without SANDBOX a new one is created, and terminated at the end. Every key goes to the command, Ctrl-C too; the
    keys to detach leave it running. The exit code is the command's.
    """
    import asyncio

    from skerry.cli.interactive import attach_joined, exec_joined, shell_joined
    from skerry.cli.rawmode import RawTerminal

    argv: tuple[str, ...] = ctx.meta.get("command") or SHELL
    new = {name: value for name in NEW_ONLY if (value := options.pop(name)) not in (None, ()) and value is not False}
    if sandbox is not None and new:
        raise click.UsageError(f"--{next(iter(new)).replace('_', '-')} is for a new sandbox; leave SANDBOX out")
    if attach is not None and (sandbox is None or "command" in ctx.meta or any(options.values())):
        raise click.UsageError("--attach goes back to a process as it is: give SANDBOX, and no command and no option")
    with RawTerminal(0, instead="run it in one, or pass streams on with `skerry exec`") as terminal:
        if attach is not None and sandbox is not None:
            return asyncio.run(attach_joined(sandbox, attach, terminal, detach_keys))
        if sandbox is None:
            return asyncio.run(shell_joined(new, argv, options, terminal, detach_keys))
        return asyncio.run(exec_joined(sandbox, argv, options, terminal, detach_keys))
