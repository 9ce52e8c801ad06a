"""A sandbox's changes laid into its image, by the image helper (runtime/cmd/skerry-image)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from skerry.images.erofs import image_xattrs, remove, xattrs_path
from skerry.model.errors import ImageBuildError

MERGE_S = 600.0
ATTRIBUTES_MAX = 256  # as many as the agent takes at a start (proto/agent.md), in one frame with everything else
ATTRIBUTES_BYTES_MAX = 32 * 1024
ATTRIBUTES_FILE_MAX = 512 * 1024  # so many as JSON: in base64, names escaped, keys repeated

# Written by the agent or by mounts of ours at every start, so no part of an image.
DROPPED = ("/.skerry", "/run", "/proc", "/sys", "/dev")


async def merge(
    helper: Path, *, base: Path, upper: Path, into: Path, drop: Sequence[str] = (), most: int | None = None
) -> Sequence[str]:
    """Write `base` with the changes of the archive `upper` to `into`, attributes beside it; return what was left out.

    That is devices, which an image cannot hold, each path quoted. Raises ImageBuildError, also where the image would
    have more than `most` bytes on top of the base.

    The archive is a guest's work. The helper reads it as a stream, opens nothing by the names in it, and by then has
    given up root and all but a few system calls.
    """
    flags = [f"--drop={path}" for path in drop]
    if most is not None:
        flags.append(f"--most={base.stat().st_size + most}")
    xattrs = xattrs_path(into)
    argv = [str(helper), "merge", f"--base={base}", f"--upper={upper}", f"--xattrs={xattrs}", *flags, str(into)]
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=pipe, stderr=pipe, env={})
    try:
        async with asyncio.timeout(MERGE_S):
            told, complaint = await child.communicate()
    except BaseException:
        child.kill()
        await child.wait()
        raise
    if child.returncode != 0:
        remove(into)
        text = complaint.decode("utf-8", "replace").strip()[-2000:]
        raise ImageBuildError(f"the changes of a build could not be packed into {into.name}: {text}")
    _check_attributes(into)
    return told.decode().splitlines()


def _check_attributes(image: Path) -> None:
    """Raise ImageBuildError for more attributes than a sandbox can be given at its start; keep no empty list."""
    length = xattrs_path(image).stat().st_size
    if length > ATTRIBUTES_FILE_MAX:
        raise ImageBuildError(
            f"the extended attributes of {image.name} take {length:,} bytes; rebuild the image helper"
        )
    found = image_xattrs(image)
    size = sum(len(one.path) + len(one.name) + len(one.value) for one in found)
    if len(found) > ATTRIBUTES_MAX or size > ATTRIBUTES_BYTES_MAX:
        raise ImageBuildError(
            f"the step left {len(found)} extended attributes of {size} bytes in the image, such as {found[0].name!r} "
            f"of {found[0].path!r}; an image holds at most {ATTRIBUTES_MAX} of {ATTRIBUTES_BYTES_MAX} bytes together: "
            "remove them in the step (`setfattr -x`)"
        )
    if not found:
        xattrs_path(image).unlink(missing_ok=True)
