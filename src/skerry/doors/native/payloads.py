"""The bodies and answers of the HTTP half. `proto/native/openapi.json` is generated from these types."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from skerry.engine.secrets import IfExists
from skerry.model import limits
from skerry.model.exits import ProcessExit, SandboxExit
from skerry.model.sandboxes import KeptOutput, SandboxState, Stage
from skerry.model.secrets import SecretSource
from skerry.model.specs import ImageDefinition, Isolation, NetworkPolicy, Resources, Terminal
from skerry.model.storage import StoredThing
from skerry.model.usage import SandboxUsage
from skerry.model.volumes import VolumeMount


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. A field that is not known is refused by name, never ignored."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the server answers."""


class HealthAnswer(Answer, frozen=True, kw_only=True):
    version: str
    protocol: int
    pid: int
    started_at: float


class AppBody(Body, frozen=True, kw_only=True):
    name: str
    create: bool = False


class AppAnswer(Answer, frozen=True, kw_only=True):
    id: str
    name: str


class TrustAnswer(Answer, frozen=True, kw_only=True):
    sha256: str


class HostAccessBody(Body, frozen=True, kw_only=True):
    """What the caller's machine uses to reach package indexes; the bytes of the bundle come by `PUT /v1/trust`."""

    env: dict[str, str] = {}
    ca_bundle_sha256: str | None = None


class ImageBody(Body, frozen=True, kw_only=True):
    definition: ImageDefinition
    host_access: HostAccessBody = HostAccessBody()
    force_build: bool = False


class ImageAnswer(Answer, frozen=True, kw_only=True):
    id: str
    definition_key: str
    size: int
    created_at: float
    env: dict[str, str]
    workdir: str
    user: str
    command: tuple[str, ...]


class StepLine(Answer, frozen=True, kw_only=True, tag_field="event", tag="step"):
    index: int
    count: int
    title: str


class LogLine(Answer, frozen=True, kw_only=True, tag_field="event", tag="log"):
    text: str


class ImageLine(Answer, frozen=True, kw_only=True, tag_field="event", tag="image"):
    image: ImageAnswer


class ErrorBody(Answer, frozen=True, kw_only=True):
    code: str
    kind: str
    message: str
    details: dict[str, Any]


class ErrorLine(Answer, frozen=True, kw_only=True, tag_field="event", tag="error"):
    error: ErrorBody


class ErrorAnswer(Answer, frozen=True, kw_only=True):
    error: ErrorBody


BuildLine = StepLine | LogLine | ImageLine | ErrorLine


class ResourcesBody(Body, frozen=True, kw_only=True):
    """What is not given is the default of this machine; a request above the default limit raises the limit with it."""

    cpu: float | None = None
    cpu_limit: float | None = None
    memory_mib: int | None = None
    memory_limit_mib: int | None = None
    disk_mib: int | None = None
    tmp_mib: int | None = None
    shm_mib: int | None = None
    processes: int | None = None


class TerminalBody(Body, frozen=True, kw_only=True):
    """A terminal for the entrypoint; `term` is TERM where the environment has none."""

    rows: int = limits.TERMINAL_ROWS
    columns: int = limits.TERMINAL_COLUMNS
    term: str = Terminal.term


class MountBody(Body, frozen=True, kw_only=True):
    """A volume, by its id, at a path of the sandbox."""

    volume: str
    path: str
    read_only: bool = False


class SecretSourceBody(Body, frozen=True, kw_only=True):
    """Secret variables for a sandbox: a stored secret by its `name`, or the values in `env`. Later ones win."""

    name: str | None = None
    required_keys: tuple[str, ...] = ()
    env: dict[str, str] | None = None


class SandboxBody(Body, frozen=True, kw_only=True):
    image: str
    entrypoint: tuple[str, ...] = ()
    app: str | None = None
    name: str | None = None
    tags: dict[str, str] = {}
    env: dict[str, str] = {}
    secrets: tuple[SecretSourceBody, ...] = ()
    workdir: str | None = None
    user: str = "root"
    terminal: TerminalBody | None = None
    lifetime_s: float = limits.LIFETIME_DEFAULT_S
    idle_timeout_s: float | None = None
    resources: ResourcesBody = ResourcesBody()
    network: NetworkPolicy = NetworkPolicy.OPEN
    isolation: Isolation = Isolation.GVISOR
    volumes: tuple[MountBody, ...] = ()
    host_access: HostAccessBody = HostAccessBody()


class SpecAnswer(Answer, frozen=True, kw_only=True):
    """The spec of a sandbox; what came from the caller's machine, and what secrets hold, is never told."""

    image: str
    entrypoint: tuple[str, ...]
    app: str | None
    name: str | None
    tags: dict[str, str]
    env: dict[str, str]
    secrets: tuple[SecretSource, ...]
    workdir: str | None
    user: str
    terminal: Terminal | None
    lifetime_s: float
    idle_timeout_s: float | None
    resources: Resources
    network: NetworkPolicy
    isolation: Isolation
    volumes: tuple[VolumeMount, ...]


class SandboxAnswer(Answer, frozen=True, kw_only=True):
    id: str
    spec: SpecAnswer
    state: SandboxState
    node: str
    created_at: float
    app_name: str | None
    started_at: float | None
    ended_at: float | None
    exit: SandboxExit | None
    entrypoint: str | None
    stages: tuple[Stage, ...]
    idle_since: float | None
    volumes_lost: bool


class SandboxesAnswer(Answer, frozen=True, kw_only=True):
    sandboxes: tuple[SandboxAnswer, ...]


class TagsBody(Body, frozen=True, kw_only=True):
    tags: dict[str, str]


class SandboxesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each `tag` is KEY=VALUE; it may be given several times, and all must fit."""

    app: str | None = None
    name: str | None = None
    tag: tuple[str, ...] = ()
    include_ended: bool = False
    before: float | None = None
    limit: int = 100


WAIT_MAX_S = 60.0


class WaitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timeout: Annotated[float, Meta(ge=0, le=WAIT_MAX_S)] = WAIT_MAX_S


class ProcessAnswer(Answer, frozen=True, kw_only=True):
    id: str
    sandbox: str
    argv: tuple[str, ...]
    started_at: float
    terminal: bool
    exit: ProcessExit | None


class ProcessesAnswer(Answer, frozen=True, kw_only=True):
    processes: tuple[ProcessAnswer, ...]


class OutputQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tail: int | None = None
    since: float | None = None


class OutputAnswer(Answer, frozen=True, kw_only=True):
    """What is kept of each channel of a process, and where in it what was asked for begins."""

    process: str
    channels: tuple[KeptOutput, ...]


class VolumeBody(Body, frozen=True, kw_only=True):
    name: str
    create: bool = False


class VolumeAnswer(Answer, frozen=True, kw_only=True):
    """A volume. `disk_bytes` is what it takes of the machine's disk, without its commits."""

    id: str
    name: str
    created_at: float
    size_bytes: int
    files_max: int
    disk_bytes: int


class VolumesAnswer(Answer, frozen=True, kw_only=True):
    volumes: tuple[VolumeAnswer, ...]


class CommitAnswer(Answer, frozen=True, kw_only=True):
    id: str
    volume: str
    created_at: float
    files: int
    size: int


class CommitsAnswer(Answer, frozen=True, kw_only=True):
    commits: tuple[CommitAnswer, ...]


class StorageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    older_than_s: float | None = None


class CollectBody(Body, frozen=True, kw_only=True):
    older_than_s: float | None = None


class StorageAnswer(Answer, frozen=True, kw_only=True):
    """What went, and what is kept: of that, what has `goes` would go."""

    went: tuple[StoredThing, ...]
    kept: tuple[StoredThing, ...]


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sandbox: str | None = None


class UsageAnswer(Answer, frozen=True, kw_only=True):
    sandboxes: tuple[SandboxUsage, ...]


class SignalBody(Body, frozen=True, kw_only=True):
    signal: int


class ResizeBody(Body, frozen=True, kw_only=True):
    rows: int
    columns: int


class SecretBody(Body, frozen=True, kw_only=True):
    """A secret to store; `if_exists` is what becomes of one that has the name already."""

    name: str
    env: dict[str, str]
    if_exists: IfExists = IfExists.FAIL


class SecretEnvBody(Body, frozen=True, kw_only=True):
    env: dict[str, str]


class SecretAnswer(Answer, frozen=True, kw_only=True):
    """A stored secret: never its values."""

    id: str
    name: str
    keys: tuple[str, ...]
    created_at: float
    updated_at: float
    used_at: float | None


class SecretsAnswer(Answer, frozen=True, kw_only=True):
    secrets: tuple[SecretAnswer, ...]


class SecretsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    before: float | None = None
    limit: int = 100


class KeyAnswer(Answer, frozen=True, kw_only=True):
    key: str


class Nothing(Answer, frozen=True, kw_only=True):
    """`{}`"""
