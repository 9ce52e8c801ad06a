"""What of this machine's settings reaches sandboxes, so that `pip install` works there as it does here.

A fixed list of variables (package indexes and proxies), without credentials in their URLs, and the certificates that
this machine trusts. They are sent with each request, and the server keeps them no longer than a sandbox lives that uses
them. Keys and passwords are never read: only CERTIFICATE blocks leave a PEM file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skerry.model import variables

SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
BUNDLE_BYTES_MAX: Final = 1024 * 1024  # what the server takes
VALUE_BYTES_MAX: Final = 4096

# pip's option in a configuration file -> the variable that says the same.
_PIP_OPTIONS: Final = {
    "index-url": "PIP_INDEX_URL",
    "extra-index-url": "PIP_EXTRA_INDEX_URL",
    "trusted-host": "PIP_TRUSTED_HOST",
    "proxy": "PIP_PROXY",
}
_PIP_SECTIONS: Final = ("global", "install")
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s,]*@")
_BARE_USERINFO: Final = re.compile(r"^[^/?#\s,]*@")


@dataclass(frozen=True)
class AccessSettings:
    """What goes to the server. `stripped` names the variables whose URLs held credentials."""

    env: Mapping[str, str] = field(default_factory=dict)
    bundle: bytes = b""
    stripped: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        return hashlib.sha256(self.bundle).hexdigest() if self.bundle else None

    def wire(self) -> dict[str, object]:
        """Return `host_access` as the server's calls take it."""
        return {"env": dict(self.env), "ca_bundle_sha256": self.digest}


def collect(environ: Mapping[str, str], pip: Mapping[str, str], read: Callable[[str], bytes | None]) -> AccessSettings:
    """Return the settings of a machine: its variables, its pip options, and its files through `read`."""
    env, stripped = {}, []
    for name, value in _values(environ, pip).items():
        clean = without_credentials(name, value)
        if clean != value:
            stripped.append(name)
        env[name] = clean
    return AccessSettings(env, certificates(_bundle_files(environ, pip), read), tuple(stripped))


def without_credentials(name: str, value: str) -> str:
    """Return a value without what stands before the `@` in its URLs; proxies may come without a scheme."""
    clean = _USERINFO.sub("", value)
    if name in variables.PROXIES and "://" not in clean:
        clean = _BARE_USERINFO.sub("", clean)
    return clean


def certificates(paths: Iterable[str], read: Callable[[str], bytes | None]) -> bytes:
    """Return the certificates of these files, each once, as PEM; nothing else that the files may hold."""
    seen: dict[bytes, None] = {}
    for path in paths:
        for block in _CERTIFICATE.findall(read(path) or b""):
            seen[b"\n".join(line.strip() for line in block.splitlines())] = None
    bundle, size = [], 0
    for block in seen:
        size += len(block) + 1
        if size > BUNDLE_BYTES_MAX:
            break
        bundle.append(block + b"\n")
    return b"".join(bundle)


def parse_pip_options(texts: Sequence[str]) -> dict[str, str]:
    """Return pip's options out of configuration files, the last file first in weight; a broken file counts as empty."""
    import configparser  # 10 ms, and few machines have such a file

    options: dict[str, str] = {}
    for text in texts:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        for section in _PIP_SECTIONS:
            if parser.has_section(section):
                options.update({key.replace("_", "-"): " ".join(val.split()) for key, val in parser.items(section)})
    return options


def _values(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    values = {variable: pip[option] for option, variable in _PIP_OPTIONS.items() if pip.get(option)}
    values.update({name: environ[name] for name in variables.SENT if environ.get(name)})
    return {name: value for name, value in values.items() if len(value) <= VALUE_BYTES_MAX and "\0" not in value}


def _bundle_files(environ: Mapping[str, str], pip: Mapping[str, str]) -> list[str]:
    named = [environ[name] for name in variables.CERTIFICATES if environ.get(name)]
    if pip.get("cert"):
        named.append(pip["cert"])
    return list(dict.fromkeys([*named, *SYSTEM_BUNDLES]))
