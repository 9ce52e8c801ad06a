"""A program that stands in for the local server in tests of its start: the real door over fakes, and notes on how it
was started. `python stand_in_server.py NOTES [crash]`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from doorway import opened_door


def note(path: Path) -> None:
    """Add a line about how this program was started."""
    umask = os.umask(0o077)
    told = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "cwd": os.getcwd(),
        "umask": umask,
        "environ": dict(os.environ),
        "descriptors": sorted(
            int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
        ),
    }
    with path.open("a") as file:
        file.write(json.dumps(told) + "\n")


async def serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    folder = Path(os.environ["SKERRY_RUNTIME_DIR"])
    (folder / "v1.sock").unlink(missing_ok=True)  # of one that was killed
    async with opened_door(folder):
        await stop.wait()


if __name__ == "__main__":
    note(Path(sys.argv[1]))
    if sys.argv[2:] == ["crash"]:
        print("\n".join(f"line {number}" for number in range(100)))
        sys.exit("the \x1b[31mmachine\x1b[0m lacks something")
    asyncio.run(serve())
