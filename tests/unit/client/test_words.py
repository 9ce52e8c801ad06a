from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from skerry import aio
from skerry.client import words
from skerry.exception import UnimplementedError
from skerry.model.specs import ExecSpec, Resources, SandboxSpec, Terminal

# ruff: noqa: SIM905 - the names stand as in a signature
# The parameters of the official client's calls, version 1.6.4.
CREATE = """app name tags image env secrets network_file_systems timeout idle_timeout workdir gpu cloud region cpu
    memory runtime block_network outbound_cidr_allowlist outbound_domain_allowlist _experimental_outbound_policy
    inbound_cidr_allowlist volumes pty encrypted_ports h2_ports unencrypted_ports custom_domain proxy
    include_oidc_identity_token readiness_probe verbose experimental_options _experimental_enable_snapshot
    _experimental_persistent client environment_name pty_info cidr_allowlist""".split()
EXEC = "stdout stderr timeout workdir env secrets text bufsize pty pty_info _pty_info".split()
CALLS: list[tuple[Callable[..., Any], list[str], Any]] = [
    (aio.Sandbox.create, CREATE, words.SANDBOX_IDLE),
    (aio.Sandbox.exec, EXEC, words.EXEC_IDLE),
    (aio.Sandbox.list, ["app_id", "tags", "client"], {}),
    (
        aio.Sandbox.from_name,
        "app_name name environment_name include_terminated client".split(),
        words.ENVIRONMENT_IDLE,
    ),
    (aio.Sandbox.set_tags, ["tags", "client"], {}),
    (
        aio.Image.pip_install,
        "find_links index_url extra_index_url pre extra_options env secrets gpu".split(),
        words.IMAGE_IDLE,
    ),
    (aio.Image.run_commands, "env secrets volumes gpu force_build".split(), words.IMAGE_IDLE),
    (aio.Volume.from_name, "name environment_name namespace version create_if_missing".split(), words.VOLUME_IDLE),
    (aio.App, "name tags image secrets volumes include_source".split(), words.APP_IDLE),
]


@pytest.mark.parametrize(("call", "modal", "idle"), CALLS, ids=lambda one: getattr(one, "__qualname__", ""))
def test_every_parameter_of_modals_call_is_taken_or_refused(call: Any, modal: list[str], idle: Any) -> None:
    taken = set(inspect.signature(call).parameters)
    assert [name for name in modal if name not in taken and name not in idle] == []
    assert [name for name in idle if name in taken] == []


@pytest.mark.parametrize("name", sorted(words.SANDBOX_IDLE))
def test_what_asks_for_something_is_refused_with_the_reason(name: str) -> None:
    for value in (1, "x", ["x"], {"k": "v"}, True, object()):
        with pytest.raises(UnimplementedError, match=rf"Sandbox.create\({name}=...\) is not available: \w+") as caught:
            words.refuse_idle("Sandbox.create", {name: value}, words.SANDBOX_IDLE)
        assert caught.value.details == {"parameter": name}


def test_what_asks_for_nothing_passes() -> None:
    words.refuse_idle("Sandbox.create", dict.fromkeys(words.SANDBOX_IDLE), words.SANDBOX_IDLE)
    words.refuse_idle("Sandbox.create", {"custom_domain": "", "pty_info": None, "h2_ports": []}, words.SANDBOX_IDLE)


def test_a_misspelt_parameter_is_an_error_of_the_caller() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'timout'"):
        words.refuse_idle("Sandbox.create", {"timout": 3}, words.SANDBOX_IDLE)


def test_the_table_names_fields_that_the_model_has() -> None:
    known = {one.name for kind in (SandboxSpec, ExecSpec) for one in fields(kind)}
    known |= {f"resources.{one.name}" for one in fields(Resources)}
    known |= {f"terminal.{one.name}" for one in fields(Terminal)}
    named = {
        name for value in (*words.SANDBOX_FIELDS.values(), *words.EXEC_FIELDS.values()) for name in value.split(", ")
    }
    assert named <= known
    assert set(words.SANDBOX_FIELDS) <= set(inspect.signature(aio.Sandbox.create).parameters)
    assert set(words.EXEC_FIELDS) <= set(inspect.signature(aio.Sandbox.exec).parameters)
