"""What a caller asks for: a sandbox, a process in it, an image. Values are frozen; `replace` makes new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from skerry.model import limits
from skerry.model.ids import AppId, ImageId
from skerry.model.secrets import SecretSource
from skerry.model.volumes import VolumeMount


class Isolation(StrEnum):
    """What stands between the sandbox and the machine. Nothing weaker than what was named is ever used."""

    GVISOR = "gvisor"


class NetworkPolicy(StrEnum):
    """`open` reaches public IPv4 addresses, `blocked` nothing, DNS included."""

    OPEN = "open"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Requests count for placement, limits are enforced. CPU in cores, memory and disk in MiB."""

    cpu: float = limits.CPU_REQUEST_DEFAULT
    cpu_limit: float = limits.CPU_LIMIT_DEFAULT
    memory_mib: int = limits.MEMORY_REQUEST_DEFAULT_MIB
    memory_limit_mib: int = limits.MEMORY_LIMIT_DEFAULT_MIB
    disk_mib: int = limits.DISK_DEFAULT_MIB
    tmp_mib: int = limits.TMP_DEFAULT_MIB
    shm_mib: int = limits.SHM_DEFAULT_MIB
    processes: int = limits.PROCESSES_DEFAULT


@dataclass(frozen=True, kw_only=True)
class HostAccess:
    """What the caller's machine uses to reach package indexes: given to sandboxes at their start, never stored in
    layers, cache keys or snapshots.

    `env` holds index, proxy and CA variables without credentials; `ca_bundle` is the PEM text of the certificates.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What a process reads from and writes to instead of pipes. `term` is TERM where the environment has none."""

    rows: int = limits.TERMINAL_ROWS
    columns: int = limits.TERMINAL_COLUMNS
    term: str = "xterm-256color"


@dataclass(frozen=True, kw_only=True)
class ExecSpec:
    """A process to start. `env` is laid over the sandbox's. `timeout_s` None means none.

    A `terminal` is stdin, stdout and stderr in one: "pipe", "pipe" and "stdout".
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    timeout_s: float | None = None
    stdin: str = "pipe"  # "pipe" or "null"
    stdout: str = "pipe"  # "pipe" or "null"
    stderr: str = "pipe"  # "pipe", "null" or "stdout"
    no_new_privileges: bool = False
    terminal: Terminal | None = None


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """A sandbox to create. `entrypoint` empty means the image's command, or none: it then waits for its lifetime.

    `terminal` is the entrypoint's. `idle_timeout_s` None means that only the lifetime ends what nobody uses. `name` is
    its own among the sandboxes of its app that have not ended; `tags` are the caller's, and may be changed later. What
    `secrets` hold is no part of it.
    """

    image: ImageId
    entrypoint: tuple[str, ...] = ()
    app: AppId | None = None
    name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[SecretSource, ...] = ()
    workdir: str | None = None
    user: str = "root"
    terminal: Terminal | None = None
    lifetime_s: float = limits.LIFETIME_DEFAULT_S
    idle_timeout_s: float | None = None
    resources: Resources = field(default_factory=Resources)
    network: NetworkPolicy = NetworkPolicy.OPEN
    isolation: Isolation = Isolation.GVISOR
    volumes: tuple[VolumeMount, ...] = ()
    host_access: HostAccess = field(default_factory=HostAccess)

    def without_access(self) -> SandboxSpec:
        """Return it as it is shown and kept: what the caller's machine has stays with the launch alone."""
        return replace(self, host_access=HostAccess())


class StepKind(StrEnum):
    """What a step of an image does."""

    APT = "apt_install"
    PIP = "pip_install"
    RUN = "run_commands"
    ENV = "env"
    WORKDIR = "workdir"


@dataclass(frozen=True, kw_only=True)
class ImageStep:
    """One step: packages, command lines, or `K=V` settings, in `arguments`."""

    kind: StepKind
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageDefinition:
    """What an image is made of: a base and steps on top of it, in order."""

    base: str = "debian_slim"
    python_version: str | None = None
    steps: tuple[ImageStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How processes start in an image."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    command: tuple[str, ...] = ()
