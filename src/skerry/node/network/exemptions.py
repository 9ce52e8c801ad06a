"""The exemptions: package indexes and proxies that sandboxes may reach although their addresses are not public.

Their names come from a fixed list, from this machine's own settings, and from what the caller's machine uses; never
from a sandbox. They are resolved by this machine, not from what a sandbox asked, so an answer that a sandbox arranges
for (DNS rebinding) opens nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from skerry.model.variables import leads_somewhere
from skerry.node.network.firewall import Exemption

DEFAULT_URLS = (
    "https://pypi.org",
    "https://files.pythonhosted.org",
    "http://deb.debian.org",
    "https://deb.debian.org",
    "http://security.debian.org",
    "https://registry.npmjs.org",
    "https://registry.yarnpkg.com",
    "https://proxy.golang.org",
    "https://sum.golang.org",
    "https://index.crates.io",
    "https://static.crates.io",
    "https://rubygems.org",
)
# Never exempt, whatever a name resolves to: this machine's loopback, cloud metadata, groups of hosts.
NEVER = tuple(
    IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16", "224.0.0.0/3")
)
SETTINGS_FILES = (
    "/etc/pip.conf",
    "/etc/xdg/pip/pip.conf",
    "~/.pip/pip.conf",
    "~/.config/pip/pip.conf",
    "/etc/uv/uv.toml",
    "~/.config/uv/uv.toml",
    "/etc/npmrc",
    "/usr/etc/npmrc",
    "~/.npmrc",
    "/etc/apt/sources.list",
    "/etc/apt/apt.conf",
)
SETTINGS_FOLDERS = {"/etc/apt/sources.list.d": (".list", ".sources"), "/etc/apt/apt.conf.d": ("",)}
_URL = re.compile(r"https?://[^\s\"'|,;\])>]+", re.IGNORECASE)
_PROXY_LINE = re.compile(r"^\s*(?:https?-)?proxy\s*[=:]\s*([^\s\"']+)", re.IGNORECASE | re.MULTILINE)
_COMMENT = re.compile(r"^\s*(?:#|;|//).*$", re.MULTILINE)
_SETTINGS_BYTES = 256 * 1024
_DESTINATIONS_MAX = 64
_NAMES_MAX = 1024
_RESOLVE_S = 5.0
_AT_ONCE = 4
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, order=True)
class Destination:
    """A name and a TCP port."""

    host: str
    port: int


def destination(url: str) -> Destination | None:
    """Return where a URL leads; None for what is no http(s) URL with a host. A bare `host:port` counts as http."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return None
    if not parts.hostname or not port:
        return None
    return Destination(parts.hostname.lower(), port)


def destinations_of_environment(env: Mapping[str, str]) -> set[Destination]:
    """Return the indexes and proxies that environment variables name."""
    values = (value for name, value in env.items() if leads_somewhere(name))
    split = (word for value in values for word in re.split(r"[\s,|]+", value))
    words = (word.partition("=")[2] if _is_named(word) else word for word in split)
    return _destinations(word for word in words if "://" in word or re.fullmatch(r"[\w.@:-]+:\d+", word))


def destinations_of_settings(text: str) -> set[Destination]:
    """Return the indexes and proxies that a settings file of pip, uv, npm or apt names."""
    plain = _COMMENT.sub("", text)
    return _destinations([*_URL.findall(plain), *_PROXY_LINE.findall(plain)])


def destinations_of_machine(env: Mapping[str, str]) -> set[Destination]:
    """Return the default indexes and those of this machine's settings."""
    found = _destinations(DEFAULT_URLS) | destinations_of_environment(env)
    for text in _settings_texts():
        found |= destinations_of_settings(text)
    return found


def addresses_in_hosts(file: Path) -> dict[str, IPv4Address]:
    """Return the names of a hosts file with the address of each that a sandbox could reach."""
    found: dict[str, IPv4Address] = {}
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        words = line.partition("#")[0].split()
        try:
            address = IPv4Address(words[0])
        except (IndexError, ValueError):
            continue
        if not any(address in network for network in NEVER):
            found |= {name.lower(): address for name in words[1:]}
    return found


def _is_named(word: str) -> bool:
    """Tell whether a word has uv's form `name=url`."""
    name, equals, url = word.partition("=")
    return bool(equals) and "://" in url and "://" not in name


def _destinations(urls: Iterable[str]) -> set[Destination]:
    found = (destination(url) for url in urls)
    return {each for each in found if each is not None}


def _settings_texts() -> Iterator[str]:
    files = [Path(name).expanduser() for name in SETTINGS_FILES]
    for folder, endings in SETTINGS_FOLDERS.items():
        if Path(folder).is_dir():
            files += sorted(file for file in Path(folder).iterdir() if file.name.endswith(endings))
    for file in files:
        try:
            with file.open("rb") as opened:
                yield opened.read(_SETTINGS_BYTES).decode("utf-8", "replace")
        except OSError:
            continue  # absent, or not for us to read


class Resolver:
    """Resolves destinations to exemptions. Remembers the last answers, so that a failing name server closes nothing."""

    def __init__(self, never: Collection[IPv4Network] = ()) -> None:
        self._never = (*NEVER, *never)
        self._known: dict[str, frozenset[IPv4Address]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def exemptions(
        self, destinations: Collection[Destination], *, fresh: bool, within: float | None = None
    ) -> frozenset[Exemption]:
        """Return the exemptions of `destinations`, as far as they are known `within` this time; with `fresh`, names
        that were resolved before are resolved again."""
        chosen = sorted(destinations)[:_DESTINATIONS_MAX]
        hosts = {each.host for each in chosen if fresh or each.host not in self._known}
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*(self._resolve(host) for host in hosts))
        return frozenset(
            Exemption(address, "tcp", each.port) for each in chosen for address in self._known.get(each.host, ())
        )

    async def _resolve(self, host: str) -> None:
        async with self._turns:
            found = await _addresses(host)
        allowed = frozenset(address for address in found if not any(address in network for network in self._never))
        if allowed:
            self._known.pop(host, None)
            self._known[host] = allowed
        while len(self._known) > _NAMES_MAX:
            del self._known[next(iter(self._known))]  # the one that was resolved longest ago


async def _addresses(host: str) -> Sequence[IPv4Address]:
    """Return what the C library finds for `host`, nothing if that takes too long.

    It looks where this machine is told to look (files, mDNS, a directory), which a DNS query of ours would not. It
    cannot be interrupted, so it has a thread that nobody waits for: one of asyncio's would hold up the end of the
    program for as long as a dead name server does.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[IPv4Address]] = loop.create_future()

    def settle(found: Sequence[IPv4Address]) -> None:
        if not answer.done():
            answer.set_result(found)

    def look() -> None:
        try:
            entries = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            entries = []
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, [IPv4Address(entry[4][0]) for entry in entries])

    threading.Thread(target=look, name="skerry-network-resolver", daemon=True).start()
    try:
        async with asyncio.timeout(_RESOLVE_S):
            return await answer
    except TimeoutError:
        return ()
