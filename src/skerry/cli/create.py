"""`skerry create`: a sandbox from the shell."""

from __future__ import annotations

from typing import Any

import click

from skerry.cli import completing
from skerry.cli.options import json_option, mounted, parse_amount, parse_pairs, secret_option, tag_option, volume_option

EXAMPLES = """\b
Examples:
  skerry create                                   # waits for `skerry exec`
  skerry create --name web --tag team=search      # then `skerry exec web -- ls`
  skerry create --timeout 3600 --memory 512:4096
  skerry create --pip pandas -- python -c 'import pandas; print(pandas.__version__)'
"""


@click.command("create", epilog=EXAMPLES)
@click.option("--app", metavar="NAME", shell_complete=completing.apps, help="Group the sandbox under this app.")
@click.option("--name", metavar="NAME", help="Its own name among the running sandboxes of its app.")
@tag_option("Tag it")
@click.option("--python", metavar="VERSION", help="The image's Python, such as 3.11; default: Debian's own.")
@click.option("--apt", multiple=True, metavar="PACKAGE", help="Install a Debian package in the image; repeatable.")
@click.option("--pip", multiple=True, metavar="PACKAGE", help="Install a Python package in the image; repeatable.")
@click.option("--env", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Set a variable; repeatable.")
@secret_option
@click.option("--timeout", type=float, default=300, show_default=True, help="Lifetime in seconds.")
@click.option("--idle-timeout", type=float, help="End it when nobody has used it for so many seconds.")
@click.option("--workdir", metavar="PATH", help="Working directory.")
@click.option("--user", help="User of its processes; default: root.")
@click.option("--cpu", callback=parse_amount(float), metavar="N[:LIMIT]", help="Cores.")
@click.option("--memory", callback=parse_amount(int), metavar="N[:LIMIT]", help="Memory in MiB.")
@volume_option
@click.option("--block-network", is_flag=True, help="Reach nothing, DNS included.")
@click.option("--isolation", default="gvisor", show_default=True, help="What stands between sandbox and machine.")
@click.option(
    "--host-access/--no-host-access",
    default=None,
    help="Pass this machine's package indexes, proxies and certificates on (the default).",
)
@json_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND]...")
def command(
    app: str | None,
    python: str | None,
    apt: tuple[str, ...],
    pip: tuple[str, ...],
    volume: tuple[tuple[str, str, bool], ...],
    arguments: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Create a sandbox, start COMMAND in it, and print its id.

    Without COMMAND it waits for `skerry exec`. It ends with its COMMAND, at its timeout or its idle timeout, or with
    `skerry terminate`.
    """
    from skerry import App, Image, Sandbox
    from skerry.cli.output import print_json

    image = Image.debian_slim(python_version=python).apt_install(*apt).pip_install(*pip)
    mounts = mounted(volume)
    sandbox = Sandbox.create(*arguments, app=App(app) if app else None, image=image, volumes=mounts, **options)
    if as_json:
        stages = [{"name": stage.name, "ms": round(stage.ms, 3)} for stage in sandbox.timings.stages]
        print_json({"id": sandbox.object_id, "stages": stages})
    else:
        print(sandbox.object_id)
