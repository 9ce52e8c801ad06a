"""Which range each node of a machine has, written down so that no two have the same.

One file for each node in the folder that they share, named for its network namespace and its prefix: locked while the
node is there, and with the range in it as long as anything of the node may be. It outlives a killed node, as what the
kernel holds of the range does. The kernel alone does not tell: a node may be killed between giving a range up and
taking it again, and its successor, who begins with giving it up, would take it away from whoever has it by then.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from skerry.model.errors import ConflictError
from skerry.node.network.namespaces import namespace_number


class RangeRecord:
    """One node's record in `folder`. `hold` comes first, `close` last. Blocking, and safe between processes."""

    _path: Path

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def hold(self) -> None:
        """Make the record this node's until it ends, however it ends; raises ConflictError if another node has it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self._folder / f"{namespace_number()}-{self._prefix}"
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._path.stat().st_ino == os.fstat(fd).st_ino:
                    self._fd = fd
                    return
            except BlockingIOError:
                os.close(fd)
                raise ConflictError(
                    f"another node of this machine uses the network prefix {self._prefix!r}; end it, or start this "
                    "one with another prefix"
                ) from None
            except FileNotFoundError:
                pass
            os.close(fd)  # the node that held it has removed it on leaving, between our opening and locking

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Let no other node of the machine choose a range for the length of the block.

        The lock is on the folder itself, so it leaves no file, and the kernel frees it when its holder is killed.
        """
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def read(self) -> IPv4Network | None:
        """Return the range that this node, or the one before it, has written down."""
        assert self._fd is not None
        return _parse(os.pread(self._fd, 64, 0))

    def write(self, network: IPv4Network) -> None:
        """Write the range down, before anything of it is taken."""
        assert self._fd is not None
        line = f"{network}\n".encode()
        os.pwrite(self._fd, line, 0)  # at once: a kill leaves the old range or the new one, never none
        os.ftruncate(self._fd, len(line))

    def clear(self) -> None:
        """Write down that there is no range, after everything of it was given up."""
        assert self._fd is not None
        os.ftruncate(self._fd, 0)

    def others(self) -> list[IPv4Network]:
        """Return the ranges of the other nodes in this network namespace; they change only in `choosing`, or go."""
        files = (file for file in self._folder.glob(f"{namespace_number()}-*") if file != self._path)
        return [network for network in map(_read, files) if network is not None]

    def remove(self) -> None:
        self._path.unlink()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _read(file: Path) -> IPv4Network | None:
    try:
        return _parse(file.read_bytes())
    except FileNotFoundError:  # its node has just left
        return None


def _parse(content: bytes) -> IPv4Network | None:
    line, _, _ = content.partition(b"\n")
    return IPv4Network(line.decode("ascii", "replace")) if line else None
