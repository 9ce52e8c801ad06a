"""The one table between Modal's words, which the SDK speaks, and the model's, which the wire speaks.

Parameters that Modal has and the engine has not yet are refused by name with the reason. They are never ignored: a
program that asks for a GPU or an allowlist must not run without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skerry.model.errors import UnimplementedError

# Modal's name of a parameter -> the field of the model that carries it.
SANDBOX_FIELDS: Final[Mapping[str, str]] = {
    "args": "entrypoint",
    "app": "app",
    "name": "name",
    "tags": "tags",
    "image": "image",
    "env": "env",
    "secrets": "secrets",
    "timeout": "lifetime_s",
    "idle_timeout": "idle_timeout_s",
    "workdir": "workdir",
    "user": "user",
    "cpu": "resources.cpu, resources.cpu_limit",
    "memory": "resources.memory_mib, resources.memory_limit_mib",
    "block_network": "network",
    "isolation": "isolation",
    "volumes": "volumes",
    "pty": "terminal",
    "pty_size": "terminal.rows, terminal.columns",
}
EXEC_FIELDS: Final[Mapping[str, str]] = {
    "args": "argv",
    "env": "env",
    "timeout": "timeout_s",
    "workdir": "workdir",
    "user": "user",
    "stdout": "stdout",
    "stderr": "stderr",
    "pty": "terminal",
    "pty_size": "terminal.rows, terminal.columns",
}
FILE_FIELDS: Final[Mapping[str, str]] = {"modified_time": "modified", "symlink_target": "target"}

_NO_CLOUD = "sandboxes run on your own machines, which have no clouds and regions"
_NO_STORAGE = "storage that outlives a sandbox is a Volume here"
_NO_TUNNELS = "ports of a sandbox cannot be reached from outside yet"
_NO_POLICY = "the network is open or, with block_network=True, closed; lists of what is allowed are not there yet"
_OLD_TERMINAL = "say pty=True, and pty_size=(rows, columns) where the size matters"
_NO_SNAPSHOTS = "snapshots are not there yet"
_NO_ENVIRONMENTS = "there are no environments on your own server"
_NO_IDENTITY = "identity tokens are not there yet"

SANDBOX_IDLE: Final[Mapping[str, str]] = {
    "gpu": "the engine does not pass GPUs to sandboxes yet",
    "cloud": _NO_CLOUD,
    "region": _NO_CLOUD,
    "network_file_systems": _NO_STORAGE,
    "runtime": "say isolation= instead",
    "outbound_cidr_allowlist": _NO_POLICY,
    "outbound_domain_allowlist": _NO_POLICY,
    "cidr_allowlist": _NO_POLICY,
    "inbound_cidr_allowlist": _NO_TUNNELS,
    "_experimental_outbound_policy": _NO_POLICY,
    "pty_info": _OLD_TERMINAL,
    "encrypted_ports": _NO_TUNNELS,
    "h2_ports": _NO_TUNNELS,
    "unencrypted_ports": _NO_TUNNELS,
    "custom_domain": _NO_TUNNELS,
    "proxy": "static addresses for outgoing traffic are not there",
    "include_oidc_identity_token": _NO_IDENTITY,
    "readiness_probe": "readiness probes are not there yet; exec a check in a loop",
    "verbose": "what happens in a sandbox is not logged to your terminal; read its stdout and stderr",
    "experimental_options": "there are none",
    "_experimental_enable_snapshot": _NO_SNAPSHOTS,
    "_experimental_persistent": _NO_SNAPSHOTS,
    "environment_name": _NO_ENVIRONMENTS,
}
EXEC_IDLE: Final[Mapping[str, str]] = {
    "pty_info": _OLD_TERMINAL,
    "_pty_info": _OLD_TERMINAL,
}
SET_TAGS_IDLE: Final[Mapping[str, str]] = {"client": "give it where the sandbox is made or found"}
ENVIRONMENT_IDLE: Final[Mapping[str, str]] = {"environment_name": _NO_ENVIRONMENTS}
VOLUME_IDLE: Final[Mapping[str, str]] = {
    "environment_name": _NO_ENVIRONMENTS,
    "namespace": _NO_ENVIRONMENTS,
    "version": "there is one kind of volumes",
}
APP_IDLE: Final[Mapping[str, str]] = {
    "tags": "an app has none; give them to Sandbox.create",
    "image": "pass image= to Sandbox.create",
    "secrets": "pass secrets= to Sandbox.create",
    "volumes": "pass volumes= to Sandbox.create",
    "include_source": "functions do not run here, so no source is sent",
    "environment_name": _NO_ENVIRONMENTS,
    "detach": "say `skerry run --detach`",
    "interactive": "say `skerry shell`",
}
_PIP_HINT = "write it as a command: .run_commands('pip install ...')"
IMAGE_IDLE: Final[Mapping[str, str]] = {
    "find_links": _PIP_HINT,
    "index_url": _PIP_HINT,
    "extra_index_url": _PIP_HINT,
    "pre": _PIP_HINT,
    "extra_options": _PIP_HINT,
    "env": "set variables with .env({...}) before this step",
    "secrets": "secrets in builds are not there yet",
    "volumes": "builds mount no volumes; mount them in the sandbox",
    "gpu": "builds have no GPU",
}
# Whole names of the module and of its classes that a Modal program may use.
MODULE_IDLE: Final[Mapping[str, str]] = {
    "NetworkFileSystem": _NO_STORAGE,
    "CloudBucketMount": _NO_STORAGE,
    "SandboxSnapshot": _NO_SNAPSHOTS,
    "Probe": "readiness probes are not there yet",
    "Proxy": "static addresses for outgoing traffic are not there",
    "Tunnel": _NO_TUNNELS,
    **dict.fromkeys(
        ("Function", "Cls", "Queue", "Dict", "Cron", "Period", "Retries", "method", "enter", "exit", "parameter"),
        "skerry runs sandboxes; functions, queues and schedules are not its work",
    ),
}


def refuse_idle(call: str, given: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Raise UnimplementedError for the first given parameter that asks for something, TypeError for an unknown one.

    A value that asks for nothing (None, False, an empty collection) is what Modal has as default and passes.
    """
    for name, value in given.items():
        if name not in known:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        if _asks_for_something(value):
            raise UnimplementedError(f"{call}({name}=...) is not available: {known[name]}", parameter=name)


def _asks_for_something(value: Any) -> bool:
    if value is None or value is False:
        return False
    return not (isinstance(value, (str, list, tuple, dict, set, frozenset)) and not value)
