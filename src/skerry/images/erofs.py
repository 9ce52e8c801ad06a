"""EROFS files: a folder, or a few files named one by one, packed the way gVisor reads them.

Uncompressed and without inline data, so that the sentry maps file contents as they lie. gVisor refuses every
inode that has an extended attribute, so images carry none: those found in a folder go to a JSON file beside
the image (`image_xattrs`), to be set again in the writable layer.
"""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from skerry.model.errors import ImageBuildError

MKFS = "mkfs.erofs"
MKFS_TIMEOUT_S = 600.0
MEMBER_FOLDERS = ("dev", "proc", "sys", "tmp", "run", "etc")
TRUST_FOLDER = "trust"

# One name for all images: nothing looks them up by it, and a random one would differ in each build.
UUID = str(uuid.uuid5(uuid.NAMESPACE_URL, "skerry:erofs"))

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to pack: its content, or the path of the host's file that holds it."""

    content: bytes | Path
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Xattr:
    """An extended attribute that an image could not carry; `path` is absolute in the image."""

    path: str
    name: str
    value: bytes


def pack(root: Path, image: Path, *, timestamp: int | None = None, progress: Progress = lambda _: None) -> None:
    """Write the folder's tree to an EROFS file, the same bytes for the same tree.

    With a `timestamp`, files that are newer are dated back to it. The image appears whole or not at all;
    raises ImageBuildError with what mkfs.erofs said.
    """
    if not root.is_dir():
        raise ImageBuildError(f"cannot pack {root} into {image}: it is no folder; build it first")
    progress(f"pack {image.name}")
    image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{image.name}.", dir=image.parent) as folder:
        partial = Path(folder) / "image"
        _mkfs(root, partial, timestamp)
        # The image last: whoever sees it finds its attributes too.
        _write_xattrs(list(_xattrs(root)), xattrs_path(image), Path(folder) / "xattrs")
        partial.replace(image)
    progress(f"pack {image.name}: {image.stat().st_size / 2**20:.0f} MiB")


def pack_tree(entries: Mapping[str, File | None], image: Path) -> None:
    """Write an EROFS file of the named files; None stands for an empty folder. All belong to root."""
    with tempfile.TemporaryDirectory(prefix="skerry-tree-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        for name, entry in entries.items():
            _place(root, name, entry)
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)  # whatever our umask is
        pack(root, image, timestamp=0)


def pack_agent(agent: Path, member_image: Path, agent_image: Path) -> None:
    """Write the two images that every sandbox uses.

    `member_image` is the root of a pool member: the agent at /skerry-agent and the folders that a container's
    mounts need. `agent_image` is mounted at /.skerry in a user's image: the agent, and a place to mount certificates.
    """
    binary = File(content=agent, mode=0o755)
    pack_tree({"skerry-agent": binary, **dict.fromkeys(MEMBER_FOLDERS)}, member_image)
    pack_tree({"agent": binary, TRUST_FOLDER: None}, agent_image)


def image_xattrs(image: Path) -> list[Xattr]:
    """Return the extended attributes that the image's files should have and do not."""
    try:
        told = json.loads(xattrs_path(image).read_text())
    except FileNotFoundError:
        return []
    return [
        Xattr(
            path=os.fsdecode(base64.b64decode(entry["path"])),
            name=entry["name"],
            value=base64.b64decode(entry["value"]),
        )
        for entry in told
    ]


def remove(image: Path) -> None:
    """Remove an image and what lies beside it; does nothing where there is none."""
    image.unlink(missing_ok=True)
    xattrs_path(image).unlink(missing_ok=True)


def _place(root: Path, name: str, entry: File | None) -> None:
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise ImageBuildError(f"cannot pack {name!r}: a name in an image is relative and has no '..'")
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry is None:
        target.mkdir(exist_ok=True)
    elif isinstance(entry.content, Path):
        shutil.copyfile(entry.content, target)
        target.chmod(entry.mode)
    else:
        target.write_bytes(entry.content)
        target.chmod(entry.mode)


def _mkfs(root: Path, image: Path, timestamp: int | None) -> None:
    argv = [MKFS, "-x-1", "-Enoinline_data", f"-U{UUID}", "--quiet"]
    # Dates the image and the files that are newer; -T would date all files alike, and --preserve-mtime is not
    # heeded beside either (erofs-utils 1.5).
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(_newest(root) if timestamp is None else timestamp)}
    argv += [str(image), str(root)]
    try:
        answer = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MKFS_TIMEOUT_S
        )
    except FileNotFoundError as exc:
        raise ImageBuildError(f"{MKFS} is not installed; run `apt-get install erofs-utils`") from exc
    except subprocess.TimeoutExpired as exc:
        raise ImageBuildError(f"{MKFS} took longer than {MKFS_TIMEOUT_S:.0f} s on {root}") from exc
    if answer.returncode != 0:
        said = (answer.stderr or answer.stdout).strip()
        raise ImageBuildError(f"{MKFS} ended with {answer.returncode} on {root}: {said}")


def _newest(root: Path) -> int:
    return max(math.ceil(os.lstat(path).st_mtime) for path in _paths(root))


def _xattrs(root: Path) -> Iterator[Xattr]:
    for path in _paths(root):
        for name in _listxattr(path):
            value = os.getxattr(path, name, follow_symlinks=False)
            yield Xattr(path=path.removeprefix(str(root)) or "/", name=name, value=value)


def _listxattr(path: str) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return []
        raise


def _paths(root: Path) -> Iterator[str]:
    yield str(root)
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted((*folders, *files)))


def xattrs_path(image: Path) -> Path:
    """Return the file beside an image that holds its attributes; there is none where it has none."""
    return image.with_name(f"{image.name}.xattrs.json")


def _write_xattrs(xattrs: list[Xattr], path: Path, partial: Path) -> None:
    if not xattrs:
        path.unlink(missing_ok=True)
        return
    # As the image helper writes it: names of files are bytes, and so are values.
    entries = [{"path": _text(os.fsencode(one.path)), "name": one.name, "value": _text(one.value)} for one in xattrs]
    partial.write_text(json.dumps(entries, indent=1) + "\n")
    partial.replace(path)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
