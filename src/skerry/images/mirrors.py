"""Debian mirrors: which ones this machine uses, read from its apt sources."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

APT = Path("/etc/apt")
KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"
OS_RELEASE = Path("/etc/os-release")

# Options of a source that say how far to trust the mirror; the others (arch, signed-by) are the machine's own.
KEPT_OPTIONS = ("trusted", "check-valid-until", "check-date", "allow-insecure", "allow-weak")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One suite on one mirror, as apt sees it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def line(self, keyring: str) -> str:
        """Return it as a line of sources.list, checked against a keyring file."""
        options = " ".join(f"{name}={value}" for name, value in self._options(keyring).items())
        return f"deb [{options}] {self.uri} {self.suite} {' '.join(self.components)}"

    def stanza(self, keyring: str) -> str:
        """Return it as a stanza of a .sources file, without what a URI may hold of names and passwords."""
        fields = {
            "Types": "deb",
            "URIs": without_credentials(self.uri),
            "Suites": self.suite,
            "Components": " ".join(self.components),
            **{name.title(): value for name, value in self._options(keyring).items()},
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())

    def _options(self, keyring: str) -> dict[str, str]:
        return {"signed-by": keyring, **self.options}


def without_credentials(uri: str) -> str:
    """Return the URI without a user name and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def machine_suite(os_release: Path = OS_RELEASE) -> str | None:
    """Return the code name of this machine's Debian, or None where it runs something else."""
    fields = dict(line.split("=", 1) for line in _read(os_release).splitlines() if "=" in line)
    values = {name: value.strip().strip("\"'") for name, value in fields.items()}
    return values.get("VERSION_CODENAME") if values.get("ID") == "debian" else None


def sources_for(suite: str, *, apt: Path = APT, os_release: Path = OS_RELEASE) -> list[Source]:
    """Return the machine's Debian sources, moved to a suite; none where the machine has no Debian mirror.

    Only sources under Debian's own keyring count (or under none by name), and of their suites the release
    itself, its updates and its security updates: third parties use the same code names.
    """
    own = machine_suite(os_release)
    if own is None:
        return []
    names = (own, "stable", "oldstable")
    wanted = {f"{name}{tail}": f"{suite}{tail}" for name in names for tail in ("", "-updates", "-security")}
    return [
        replace(source, suite=wanted[source.suite], options=_kept(source.options))
        for source in machine_sources(apt)
        if source.suite in wanted and "main" in source.components and _is_debians(source)
    ]


def download_settings() -> list[str]:
    """Return how this machine's apt downloads, as lines of apt.conf: mmdebstrap reads none, but proxies must count."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    entries = (line.rstrip(";").partition(" ") for line in dump.splitlines())
    return [
        f"{name} {value}" for name, _, value in entries if value != '""' and name.lower().startswith(_DOWNLOAD_SETTINGS)
    ]


_DOWNLOAD_SETTINGS = ("acquire::http", "acquire::https", "acquire::check-", "acquire::retries", "acquire::forceipv")


def machine_sources(apt: Path = APT) -> list[Source]:
    """Return every binary source that this machine's apt uses, in apt's order."""
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    stanzas = sorted((apt / "sources.list.d").glob("*.sources"))
    return [source for path in lists for source in parse_list(_read(path))] + [
        source for path in stanzas for source in parse_stanzas(_read(path))
    ]


def parse_list(text: str) -> list[Source]:
    """Read the one-line form: `deb [option=value ...] URI SUITE COMPONENT...`."""
    pattern = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<rest>.*)")
    matches = (pattern.fullmatch(line.split("#")[0].strip()) for line in text.splitlines())
    return [
        Source(
            uri=match["uri"],
            suite=match["suite"],
            components=tuple(match["rest"].split()),
            options=dict(_pairs((match["options"] or "").split())),
        )
        for match in matches
        if match is not None
    ]


def parse_stanzas(text: str) -> list[Source]:
    """Read the deb822 form; a stanza may name several URIs and suites."""
    return [source for stanza in _stanzas(text) for source in _of_stanza(stanza)]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        # A line that starts with a space continues the field above it.
        folded = re.sub(r"\n[ \t]+", " ", block)
        fields = (line.split(":", 1) for line in folded.splitlines() if ":" in line)
        yield {name.strip().lower(): value.strip() for name, value in fields}


def _of_stanza(stanza: dict[str, str]) -> Iterator[Source]:
    if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() in ("no", "false"):
        return
    known = {"types", "uris", "suites", "components", "enabled"}
    options = {name: value for name, value in stanza.items() if name not in known}
    for uri in stanza.get("uris", "").split():
        for suite in stanza.get("suites", "").split():
            components = tuple(stanza.get("components", "").split())
            yield Source(uri=uri, suite=suite, components=components, options=options)


def _pairs(options: Iterable[str]) -> Iterator[tuple[str, str]]:
    for option in options:
        name, _, value = option.partition("=")
        yield name.lower(), value


def _kept(options: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name in KEPT_OPTIONS}


def _is_debians(source: Source) -> bool:
    signer = source.options.get("signed-by", "")
    return not signer or "debian-archive" in signer


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
