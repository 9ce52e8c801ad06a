"""What the environment says about the server and about this machine: the only place where the client reads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from skerry.client._core import host_access
from skerry.model import places, variables
from skerry.model.errors import InvalidError, UnimplementedError
from skerry.wire.native import SOCKET_NAME

FILE_BYTES_MAX: Final = 16 * 1024 * 1024

_OFF: Final = ("0", "no", "false", "off")


@dataclass(frozen=True)
class ServerAddress:
    """A server's unix socket. `autostart` tells whether this client may start the server when there is none."""

    socket: Path
    autostart: bool = False

    @property
    def runtime_dir(self) -> Path:
        return self.socket.parent


def server_address(url: str | None = None, *, autostart: bool | None = None) -> ServerAddress:
    """Return the server that `url`, or else SKERRY_URL, or else the runtime folder names."""
    url = url or os.environ.get("SKERRY_URL") or None
    if url is None:
        local = places.runtime_dir(os.environ) / SOCKET_NAME
        allowed = not _is_off("SKERRY_AUTOSTART") if autostart is None else autostart
        return ServerAddress(local, autostart=allowed)
    if url.startswith("unix://"):
        path = Path(url.removeprefix("unix://"))
        if not path.is_absolute():
            raise InvalidError(
                f"SKERRY_URL={url!r}: give an absolute path, such as unix://{places.RUNTIME_DIR}/{SOCKET_NAME}"
            )
        return ServerAddress(path, autostart=False)
    if url.startswith(("https://", "http://")):
        raise UnimplementedError(
            f"SKERRY_URL={url!r}: servers on other machines are not there yet; "
            "unset SKERRY_URL to use the local server on this machine"
        )
    raise InvalidError(f"SKERRY_URL={url!r} is no address of a server; give unix:///path/to/{SOCKET_NAME} or unset it")


def host_access_wanted(wanted: bool | None) -> bool:
    """Tell whether this machine's settings go to sandboxes: as the call says, else SKERRY_HOST_ACCESS, else yes."""
    return not _is_off("SKERRY_HOST_ACCESS") if wanted is None else wanted


def traceback_wanted() -> bool:
    value = os.environ.get("SKERRY_TRACEBACK", "")
    return bool(value) and not _is_off("SKERRY_TRACEBACK")


class HostSettings:
    """This machine's settings for sandboxes, read again when a file has changed; says once what it leaves out."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._told: set[str] = set()
        self._key: object = None
        self._settings = host_access.AccessSettings()

    def current(self) -> host_access.AccessSettings:
        files = [*pip_files(self._environ), *_bundle_paths(self._environ)]
        names = variables.SENT + variables.CERTIFICATES
        key = ([_stamp(path) for path in files], [self._environ.get(name) for name in names])
        if key != self._key:
            self._key, self._settings = key, self._collect()
        return self._settings

    def _collect(self) -> host_access.AccessSettings:
        texts = [(_read(path) or b"").decode("utf-8", "replace") for path in pip_files(self._environ)]
        pip = host_access.parse_pip_options([text for text in texts if text])
        settings = host_access.collect(self._environ, pip, _read)
        news = [name for name in settings.stripped if name not in self._told]
        if news:
            self._told.update(news)
            names = ", ".join(news)
            print(
                f"skerry: {names}: the user name and password in the URL stay on this machine, "
                "sandboxes get the URL without them",
                file=sys.stderr,
            )
        return replace(settings, stripped=())


def pip_files(environ: Mapping[str, str]) -> list[str]:
    """Return the configuration files that pip reads on Linux, the weightiest last."""
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    home = environ.get("HOME") or "/"
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    system = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    named = environ.get("PIP_CONFIG_FILE")
    return [
        *[f"{folder}/pip/pip.conf" for folder in system if folder],
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{config}/pip/pip.conf",
        f"{sys.prefix}/pip.conf",
        *([named] if named else []),
    ]


def _bundle_paths(environ: Mapping[str, str]) -> list[str]:
    named = [environ[name] for name in variables.CERTIFICATES if environ.get(name)]
    return [*named, *host_access.SYSTEM_BUNDLES]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: str) -> bytes | None:
    """Return the content of a regular file of a sane size, else None: what cannot be read is not passed on."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > FILE_BYTES_MAX:
            return None
        return Path(path).read_bytes()
    except (OSError, ValueError):
        return None


def _is_off(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _OFF
