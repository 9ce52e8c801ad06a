"""What is changed on the machine itself: kernel settings, written down so that they are put back.

The record lies in a folder that does not outlive the machine's uptime, one file for each network namespace. Several
nodes may need the same setting: the last one that leaves puts it back, and one that vanished without leaving (its
firewall table is gone) does not count.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skerry.node.network.namespaces import namespace_number

FORWARDING = "net.ipv4.ip_forward"
CONNTRACK_MAX = "net.netfilter.nf_conntrack_max"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting that was changed: its value before, the value set, who needs it, the devices there were then."""

    old: str
    new: str
    owners: Sequence[str]
    devices: Sequence[str] = ()


class Ledger:
    """The kernel settings that nodes have changed in this network namespace. Blocking, and safe between processes."""

    def __init__(self, folder: Path, owner: str, *, alive: Callable[[str], bool], tell: Callable[..., None]) -> None:
        self._folder = folder
        self._owner = owner
        self._alive = alive
        self._tell = tell

    def need(self, setting: str, value: str, devices: Sequence[str] = ()) -> Change | None:
        """Give `setting` this value and return the change that is on record, whoever made it; None if there is none
        because the machine had the value by itself."""
        with self._changes() as changes:
            current = read(setting)
            change = changes.get(setting)
            if change is not None and change.new != current:
                change = None  # someone else has changed it since, or the machine was started anew
            if change is None and current == value:
                changes.pop(setting, None)
                return None
            if change is None:
                change = Change(old=current, new=value, owners=(), devices=devices)
            if current != value:
                write(setting, value)
                self._tell("network.machine_changed", setting=setting, old=current, new=value)
            owners = sorted({*change.owners, self._owner})
            changes[setting] = replace(change, new=value, owners=owners)
            return changes[setting]

    def devices_before(self, setting: str, value: str, devices: Sequence[str]) -> Sequence[str]:
        """Return the devices that were there when a node gave `setting` this value, or would be if it did so now;
        none if the machine has the value by itself."""
        with self._changes() as changes:
            current = read(setting)
            change = changes.get(setting)
            if change is not None and change.new == current:
                return change.devices
            return () if current == value else devices

    def old_value(self, setting: str) -> str | None:
        """Return what the machine had before a node changed `setting`; None if none did."""
        with self._changes() as changes:
            change = changes.get(setting)
            return change.old if change is not None and change.new == read(setting) else None

    def leave(self) -> None:
        """Put back what nobody else needs."""
        with self._changes() as changes:
            for setting, change in list(changes.items()):
                owners = [owner for owner in change.owners if owner != self._owner and self._alive(owner)]
                if owners:
                    changes[setting] = replace(change, owners=owners)
                    continue
                del changes[setting]
                self._put_back(setting, change)

    def _put_back(self, setting: str, change: Change) -> None:
        current = read(setting)
        if current != change.new:
            self._tell("network.machine_kept", setting=setting, value=current, reason="changed by someone else since")
            return
        write(setting, change.old)
        self._tell("network.machine_changed", setting=setting, old=change.new, new=change.old)

    @contextmanager
    def _changes(self) -> Iterator[dict[str, Change]]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / f"{namespace_number()}.json"
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            changes = _load(file)
            yield changes
            _save(file, changes)


def read(setting: str) -> str:
    return _path(setting).read_text().strip()


def write(setting: str, value: str) -> None:
    _path(setting).write_text(value)


def _path(setting: str) -> Path:
    return Path("/proc/sys") / setting.replace(".", "/")


def _load(file: Path) -> dict[str, Change]:
    try:
        return {setting: Change(**change) for setting, change in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}


def _save(file: Path, changes: Mapping[str, Change]) -> None:
    if not changes:
        file.unlink(missing_ok=True)
        return
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({setting: asdict(change) for setting, change in changes.items()}, indent=1))
    fresh.replace(file)
