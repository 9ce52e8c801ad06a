"""Whether volumes can be mounted where a caller wants them. Plain functions without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.guestpath import parse_guest_path
from skerry.model.volumes import VolumeMount

# Where no volume may lie: what the sandbox's kernel and its agent keep there, and files that they bind.
_PLACES_TAKEN = ("/proc", "/sys", "/dev", "/.skerry")
_FOLDERS_TAKEN = ("/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run", "/tmp")  # noqa: S108


def admit_mounts(mounts: Sequence[VolumeMount]) -> tuple[VolumeMount, ...]:
    """Return the mounts with their paths normalised; raises InvalidError."""
    if len(mounts) > limits.SANDBOX_VOLUMES_MAX:
        raise InvalidError(f"{len(mounts)} volumes; a sandbox mounts at most {limits.SANDBOX_VOLUMES_MAX}")
    admitted: dict[str, VolumeMount] = {}
    for mount in mounts:
        path = parse_guest_path(mount.path, what="the path of a volume")
        if path == "/":
            raise InvalidError("a volume cannot be mounted at `/`, where the image is; choose a folder, such as /data")
        taken = next((place for place in _PLACES_TAKEN if _overlap(path, place)), None)
        if taken is not None or path in _FOLDERS_TAKEN:
            raise InvalidError(
                f"a volume cannot be mounted at {path}: {taken or path} is the sandbox's own; choose /data"
            )
        if any(mount.volume == other.volume for other in admitted.values()):
            raise InvalidError(f"volume {mount.volume} is mounted twice; mount it once, and link to it from elsewhere")
        over = next((other for other in admitted if _overlap(path, other)), None)
        if over is not None:
            raise InvalidError(f"a volume at {path} would lie over or in the one at {over}; choose paths side by side")
        admitted[path] = replace(mount, path=path)
    return tuple(admitted.values())


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")
