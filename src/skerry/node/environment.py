"""The environment that processes of a sandbox start with, and what the caller's machine adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from skerry.model import variables
from skerry.model.ids import SandboxId
from skerry.model.secrets import NO_SECRETS, Hidden, Sealed
from skerry.model.specs import HostAccess, ImageConfig, SandboxSpec
from skerry.node.interfaces import Vault

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULTS = {"PATH": PATH, "LANG": "C.UTF-8", "TZ": "UTC"}

TRUST_MOUNT = "/.skerry/trust"
TRUST_FILE = "ca-certificates.crt"


@dataclass(frozen=True, kw_only=True)
class ProcessDefaults:
    """What processes of a sandbox start with."""

    env: dict[str, str]
    workdir: str
    user: str


def process_defaults(config: ImageConfig, spec: SandboxSpec, secrets: Hidden = NO_SECRETS) -> ProcessDefaults:
    """Return what the image says and the sandbox does not say otherwise."""
    return ProcessDefaults(
        env=sandbox_environment(config, spec.host_access, secrets.reveal(), spec.env),
        workdir=spec.workdir or config.workdir,
        user=spec.user or config.user,
    )


def sandbox_environment(
    config: ImageConfig, access: HostAccess, secrets: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of every process in a sandbox.

    Later layers win: defaults, image, machine, secrets, and last what the sandbox's own `env` says.
    """
    return {**DEFAULTS, **config.env, **access_environment(access), **secrets, **own}


def kept_environment(
    env: Mapping[str, str], secrets: Hidden, vault: Vault, sandbox: SandboxId
) -> tuple[dict[str, str], Sealed | None]:
    """Return an environment as it may be written down: what came from secrets apart, and encrypted."""
    plain = {name: value for name, value in env.items() if name not in secrets.keys}
    hidden = {name: value for name, value in env.items() if name in secrets.keys}
    return plain, vault.seal(msgspec.json.encode(hidden), _context(sandbox)) if hidden else None


def whole_environment(
    plain: Mapping[str, str], sealed: Sealed | None, vault: Vault, sandbox: SandboxId
) -> dict[str, str]:
    """Return an environment that was written down; raises ConflictError if its secrets cannot be decrypted."""
    if sealed is None:
        return dict(plain)
    return {**plain, **msgspec.json.decode(vault.open(sealed, _context(sandbox)), type=dict[str, str])}


def _context(sandbox: SandboxId) -> str:
    return f"what sandbox {sandbox} has of secrets"


def access_environment(access: HostAccess) -> dict[str, str]:
    """Return the variables through which programs reach the machine's indexes and trust its certificates.

    Paths of the caller's machine mean nothing in a sandbox, so each CA variable names the file mounted there.
    """
    paths = (*variables.SANDBOX_CERTIFICATES, variables.CERTIFICATE_FOLDER)
    env = {name: value for name, value in access.env.items() if name not in paths}
    if access.ca_bundle:
        env |= dict.fromkeys(variables.SANDBOX_CERTIFICATES, f"{TRUST_MOUNT}/{TRUST_FILE}")
    return env


def encoded(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return an environment as execve takes it."""
    return tuple(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in env.items())
