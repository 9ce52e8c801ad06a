"""The environment that processes of a sandbox start with, and what the caller's machine adds to it."""

from __future__ import annotations

from collections.abc import Mapping

from skerry.model.specs import HostAccess, ImageConfig

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULTS = {"PATH": PATH, "LANG": "C.UTF-8", "TZ": "UTC"}

TRUST_MOUNT = "/.skerry/trust"
TRUST_FILE = "ca-certificates.crt"

# Each program reads its own: OpenSSL and Go, curl, requests, pip, uv, git, Node.js, Cargo, the AWS tools.
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
)


def sandbox_environment(config: ImageConfig, access: HostAccess, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every process in a sandbox; later layers win: defaults, image, machine, sandbox."""
    return {**DEFAULTS, **config.env, **access_environment(access), **own}


def access_environment(access: HostAccess) -> dict[str, str]:
    """Return the variables through which programs reach the machine's indexes and trust its certificates.

    Paths of the caller's machine mean nothing in a sandbox, so each CA variable names the file mounted there.
    """
    env = {name: value for name, value in access.env.items() if name not in CA_VARIABLES and name != "SSL_CERT_DIR"}
    if access.ca_bundle:
        env |= dict.fromkeys(CA_VARIABLES, f"{TRUST_MOUNT}/{TRUST_FILE}")
    return env


def encoded(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return an environment as execve takes it."""
    return tuple(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in env.items())
