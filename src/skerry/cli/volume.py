"""`skerry volume`: volumes, their files and their commits."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skerry.cli.options import json_option

if TYPE_CHECKING:
    from skerry.client.fileinfo import FileInfo
    from skerry.model.volumes import CommitView, VolumeView

EXAMPLES = """\b
Examples:
  skerry volume create my-data
  skerry volume put my-data ./inputs /inputs
  skerry create --volume my-data:/data -- python /data/inputs/run.py
  skerry volume get my-data /results ./results
  skerry volume commit my-data
"""
commit_option = click.option("--commit", metavar="ID", help="As it was at this commit.")


@click.group("volume", epilog=EXAMPLES)
def command() -> None:
    """Keep files beyond the life of sandboxes: volumes, their files and their commits."""


@command.command("ls", options_metavar="[OPTIONS]")
@click.option("-R", "--recursive", is_flag=True, help="With all that is below.")
@commit_option
@json_option
@click.argument("name", required=False)
@click.argument("path", default="/")
def list_(name: str | None, path: str, recursive: bool, commit: str | None, as_json: bool) -> None:
    """List volumes, or what is in a folder of one."""
    from skerry import Volume
    from skerry.cli.output import print_json, print_table

    if name is None:
        views = [volume.view for volume in Volume.list() if volume.view is not None]
        if as_json:
            print_json([_plain(view) for view in views])
        else:
            print_table(("VOLUME", "ID", "SIZE", "AGE"), [_row(view) for view in views])
        return
    found = Volume.from_name(name).listdir(path, recursive=recursive, commit=commit)
    if as_json:
        print_json([_plain(one) for one in found])
    else:
        print_table(("MODE", "OWNER", "SIZE", "PATH"), [_file_row(one) for one in found])


@command.command("create")
@json_option
@click.argument("name")
def create(name: str, as_json: bool) -> None:
    """Create a volume and print its id; one that exists already is no error."""
    from skerry import Volume
    from skerry.cli.output import print_json

    volume = Volume.from_name(name, create_if_missing=True).hydrate()
    if as_json:
        print_json(_plain(volume.view))
    else:
        print(volume.object_id)


@command.command("rm", options_metavar="[OPTIONS]")
@click.option("-r", "--recursive", is_flag=True, help="Remove a folder with all that is in it.")
@click.option("--commit", metavar="ID", help="Delete this commit, and nothing else.")
@click.argument("name")
@click.argument("path", required=False)
def remove(name: str, path: str | None, recursive: bool, commit: str | None) -> None:
    """Delete a volume with its commits; with PATH a file in it; with --commit one commit."""
    from skerry import Volume

    if commit is not None and path is not None:
        raise click.UsageError("a commit cannot be changed: give a PATH or --commit, not both")
    if commit is not None:
        Volume.from_name(name).delete_commit(commit)
    elif path is not None:
        Volume.from_name(name).remove_file(path, recursive=recursive)
    else:
        Volume.delete(name)


@command.command("put")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("path", required=False)
def put(name: str, source: Path, path: str | None) -> None:
    """Copy a file or a folder of this machine into a volume; SOURCE `-` is standard input.

    PATH is where it goes, by default its name; with a slash at its end it is the folder that it goes into.
    """
    from skerry import Volume
    from skerry.cli.output import tell
    from skerry.cli.volume_copies import put_tree

    volume = Volume.from_name(name)
    if str(source) == "-":
        if path is None or path.endswith("/"):
            raise click.UsageError("name the file: skerry volume put NAME - PATH")
        volume.write_file(path, sys.stdin.buffer)
        return
    target = path or "/"
    if target.endswith("/"):
        target += source.resolve().name
    left_out = put_tree(volume, source, target)
    if left_out:
        tell(f"left out {left_out} links, pipes and devices: a volume takes files and folders from here")


@command.command("get")
@commit_option
@click.argument("name")
@click.argument("path")
@click.argument("target", type=click.Path(path_type=Path, allow_dash=True), default=".")
def get(name: str, path: str, target: Path, commit: str | None) -> None:
    """Copy a file or a folder of a volume to this machine; TARGET `-` is standard output.

    TARGET is where it goes; an existing folder is where it goes into. A folder never goes over an existing one.
    """
    from skerry import Volume
    from skerry.cli.output import tell
    from skerry.cli.volume_copies import get_tree

    volume = Volume.from_name(name)
    if str(target) == "-":
        _to_stdout(volume, path, commit)
        return
    left_out = get_tree(volume, path, target, commit=commit)
    if left_out:
        tell(f"left out {left_out} pipes, sockets, devices, and links that lead out of the folder")


@command.command("cat")
@commit_option
@click.argument("name")
@click.argument("path")
def cat(name: str, path: str, commit: str | None) -> None:
    """Write a file of a volume to standard output, byte for byte."""
    from skerry import Volume

    _to_stdout(Volume.from_name(name), path, commit)


@command.command("commit")
@click.argument("name")
def commit_(name: str) -> None:
    """Keep the state of a volume on the disk as it is, and print its id."""
    from skerry import Volume

    print(Volume.from_name(name).commit())


@command.command("commits", options_metavar="[OPTIONS]")
@json_option
@click.argument("name")
def commits(name: str, as_json: bool) -> None:
    """List the commits of a volume, the newest first."""
    from skerry import Volume
    from skerry.cli.output import print_json, print_table

    found = Volume.from_name(name).commits()
    if as_json:
        print_json([_plain(one) for one in found])
    else:
        print_table(("COMMIT", "AGE", "FILES", "SIZE"), [_commit_row(one) for one in found])


def _to_stdout(volume: Any, path: str, commit: str | None) -> None:
    volume.read_file_into_fileobj(path, sys.stdout.buffer, commit=commit)
    sys.stdout.buffer.flush()


def _plain(value: Any) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(value)


def _row(view: VolumeView) -> tuple[str, ...]:
    from skerry.cli.output import amount, duration

    return (view.name, view.id, amount(view.size_bytes), duration(time.time() - view.created_at))


def _commit_row(view: CommitView) -> tuple[str, ...]:
    from skerry.cli.output import amount, duration

    return (view.id, duration(time.time() - view.created_at), f"{view.files:,}", amount(view.size))


def _file_row(one: FileInfo) -> tuple[str, ...]:
    import stat

    from skerry.cli.output import amount

    shown = one.path if one.symlink_target is None else f"{one.path} -> {one.symlink_target}"
    return (stat.filemode(one.mode), f"{one.owner}:{one.group}", amount(one.size), shown)
