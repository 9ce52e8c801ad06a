"""`skerry secret`: stored secrets. A value is never a word of a command line, where `ps` would show it."""

from __future__ import annotations

import click

from skerry.cli import completing
from skerry.cli.options import json_option

EXAMPLES = """\b
Examples:
  skerry secret create db PASSWORD USER           # asks for both, without echo
  skerry secret create db --from-dotenv .env
  skerry create --secret db -- python app.py
"""
CREATE_EXAMPLES = """\b
Examples:
  skerry secret create db PASSWORD USER           # asks for both, without echo
  skerry secret create db PASSWORD < password.txt
  skerry secret create db --from-dotenv .env
  pass show db | skerry secret create db --from-dotenv -
  skerry secret create token --from-environ API_TOKEN --force
"""
LS_EXAMPLES = """\b
Examples:
  skerry secret ls
  skerry secret ls --json | jq -r '.[].name'
"""
RM_EXAMPLES = """\b
Examples:
  skerry secret rm db
  skerry secret rm --allow-missing db token
"""
ROTATE_EXAMPLES = """\b
Examples:
  skerry secret rotate
"""
HEAD = ("NAME", "KEYS", "CREATED", "CHANGED", "USED")


@click.group("secret", epilog=EXAMPLES)
def command() -> None:
    """Store values that only the processes see which get them."""


@command.command("create", epilog=CREATE_EXAMPLES)
@click.option(
    "--from-dotenv", "dotenv", metavar="FILE", type=click.Path(), help="Take the variables of a .env file; - for stdin."
)
@click.option(
    "--from-environ", "environ", multiple=True, metavar="KEY", help="Take a variable of this shell; repeatable."
)
@click.option("--force", is_flag=True, help="Replace a secret that has the name already, with all its keys.")
@click.argument("name")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
def create(name: str, keys: tuple[str, ...], dotenv: str | None, environ: tuple[str, ...], force: bool) -> None:
    """Store a secret under NAME.

    The value of each KEY is asked for, without echo; that of a single one may come on stdin, whose last newline is
    left out.
    """
    import asyncio

    from skerry.cli import values
    from skerry.client._async.secrets import store

    for key in keys:
        if "=" in key:
            raise click.UsageError("give keys only: a value on the command line is shown by `ps` to every user")
    env = values.collect(keys, dotenv, environ)
    if not env:
        raise click.UsageError("name a KEY, or say --from-dotenv or --from-environ")
    asyncio.run(store(name, env, if_exists="replace" if force else "fail", client=None))


@command.command("ls", epilog=LS_EXAMPLES)
@json_option
def ls(as_json: bool) -> None:
    """List secrets by name and keys, the newest first; values are shown nowhere."""
    import asyncio

    from skerry.cli import values
    from skerry.cli.output import print_json, print_table

    views = asyncio.run(values.stored())
    if as_json:
        print_json([values.as_json(view) for view in views])
    else:
        print_table(HEAD, [values.row(view) for view in views])


@command.command("rm", epilog=RM_EXAMPLES)
@click.option("--allow-missing", is_flag=True, help="Say nothing of one that is not there.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completing.secrets)
def rm(names: tuple[str, ...], allow_missing: bool) -> None:
    """Delete secrets. Sandboxes that have their values keep them."""
    from skerry import Secret

    for name in names:
        Secret.objects.delete(name, allow_missing=allow_missing)


@command.command("rotate", epilog=ROTATE_EXAMPLES)
def rotate() -> None:
    """Encrypt all secrets with a new key, and print its id.

    The key before it goes on decrypting what running sandboxes have, and is removed after two days.
    """
    from skerry import Secret

    print(Secret.objects.rotate())
