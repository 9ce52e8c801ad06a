"""A sandbox's changes laid into its image, by the image helper (runtime/cmd/skerry-image)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from skerry.model.errors import ImageBuildError

MERGE_S = 600.0

# Written by the agent or by mounts of ours at every start, so no part of an image.
DROPPED = ("/.skerry", "/run", "/proc", "/sys", "/dev")


async def merge(helper: Path, *, base: Path, upper: Path, into: Path, drop: Sequence[str] = ()) -> None:
    """Write `base` with the changes of the archive `upper` to `into`, and attributes beside it; raises ImageBuildError.

    The archive is a guest's work. The helper reads it as a stream and opens nothing by the names in it.
    """
    flags = [f"--drop={path}" for path in drop]
    xattrs = into.with_name(into.name + ".xattrs.json")
    argv = [str(helper), "merge", f"--base={base}", f"--upper={upper}", f"--xattrs={xattrs}", *flags, str(into)]
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=pipe, env={})
    try:
        async with asyncio.timeout(MERGE_S):
            _, complaint = await child.communicate()
    except BaseException:
        child.kill()
        await child.wait()
        raise
    if child.returncode != 0:
        text = complaint.decode("utf-8", "replace").strip()[-2000:]
        raise ImageBuildError(f"the changes of a build could not be packed into {into.name}: {text}")
