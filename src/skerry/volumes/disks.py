"""The file system of one volume: ext4 in a sparse file, mounted through a loop device.

Its size and its number of inodes are the volume's bounds, and the kernel keeps them whatever the machine's own file
system can do (docs/decisions/0013). `mount` reuses the loop device of a file that has one, so a file that an earlier
server mounted is never mounted through two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skerry.model.errors import ConflictError, Error, ResourceExhaustedError

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_JOURNAL_MIB: Final = 32
_SECONDS: Final = 60.0
# Devices and set-user-id programs of a guest mean nothing on the machine. What is deleted is given back to the disk.
# The tables of inodes are zeros already, since the file is sparse: writing them would only take space.
_OPTIONS: Final = "loop,rw,nosuid,nodev,discard,noinit_itable"
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


async def make(file: Path, *, size_bytes: int, files_max: int) -> None:
    """Make the file of a volume, on disk when this returns."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
        features = f"nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed={_seed()}"
        bounds = ["-m", "0", "-N", str(files_max), "-J", f"size={_JOURNAL_MIB}"]
        await _run(["mkfs.ext4", "-q", "-F", *bounds, "-E", features, str(file)])
        await asyncio.to_thread(os.fsync, descriptor)
    finally:
        os.close(descriptor)


async def mount(file: Path, at: Path) -> None:
    """Mount a volume's file; raises ConflictError, with what the machine says."""
    at.mkdir(mode=0o700, exist_ok=True)
    await _run(["mount", "-t", "ext4", "-o", _OPTIONS, str(file), str(at)])


async def unmount(at: Path) -> None:
    """Unmount it, and remove the folder; its loop device goes with the last mount."""
    with contextlib.suppress(Error):
        # `discard` works behind the deletions, and an unmount does not wait for it (ext4_discard_work in fs/ext4). What
        # was deleted is free only once that is in the journal.
        await _run(["sync", "--file-system", str(at)])
        await _run(["fstrim", str(at)])
    await _run(["umount", str(at)])
    with contextlib.suppress(FileNotFoundError):
        at.rmdir()


def mounted_below(folder: Path) -> list[Path]:
    """Return what is mounted directly in a folder, from the kernel's own list."""
    found = []
    for line in MOUNTINFO.read_text().splitlines():
        at = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4]))
        if at.parent == folder:
            found.append(at)
    return found


def _seed() -> str:
    """A seed of the folders' hashes that a guest cannot know, as a UUID."""
    raw = os.urandom(16).hex()
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


async def _run(argv: Sequence[str]) -> None:
    # In a thread: asyncio's own subprocesses take a watcher thread as well, and half a millisecond more.
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=_SECONDS,
        )
    except FileNotFoundError as exc:
        raise ConflictError(f"volumes need {argv[0]}, which is not installed; run `skerry doctor`") from exc
    except subprocess.TimeoutExpired as exc:
        raise ConflictError(f"{argv[0]} took longer than {_SECONDS:g} s; see the kernel's log") from exc
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        kind = ResourceExhaustedError if "No space left" in said else ConflictError
        raise kind(f"{argv[0]} failed: {said or f'status {done.returncode}'}; run `skerry doctor`")
