"""`skerry completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  skerry completion bash > /etc/bash_completion.d/skerry
  skerry completion zsh > "${fpath[1]}/_skerry"
  skerry completion fish > ~/.config/fish/completions/skerry.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    from skerry.cli.commands import cli

    found = get_completion_class(shell)
    assert found is not None, "the choices are those of click"
    print(found(cli, {}, "skerry", "_SKERRY_COMPLETE").source())
