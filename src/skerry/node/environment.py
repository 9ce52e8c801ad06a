"""The environment that processes of a sandbox start with, and what the caller's machine adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skerry.model import variables
from skerry.model.specs import HostAccess, ImageConfig, SandboxSpec

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


def process_defaults(config: ImageConfig, spec: SandboxSpec) -> ProcessDefaults:
    """Return what the image says and the sandbox does not say otherwise."""
    return ProcessDefaults(
        env=sandbox_environment(config, spec.host_access, spec.env),
        workdir=spec.workdir or config.workdir,
        user=spec.user or config.user,
    )


def sandbox_environment(config: ImageConfig, access: HostAccess, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every process in a sandbox; later layers win: defaults, image, machine, sandbox."""
    return {**DEFAULTS, **config.env, **access_environment(access), **own}


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
