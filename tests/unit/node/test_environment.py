"""The environment of a sandbox's processes: its layers, and what of the caller's machine is in it."""

from __future__ import annotations

import pytest

from skerry.model import variables
from skerry.model.specs import HostAccess, ImageConfig
from skerry.node.environment import TRUST_FILE, TRUST_MOUNT, access_environment, sandbox_environment

TRUST = f"{TRUST_MOUNT}/{TRUST_FILE}"


def test_later_layers_win() -> None:
    config = ImageConfig(env={"TZ": "image", "LANG": "image", "PIP_INDEX_URL": "image"})
    access = HostAccess(env={"LANG": "machine", "PIP_INDEX_URL": "machine", "GOPROXY": "machine"})
    env = sandbox_environment(config, access, {}, {"GOPROXY": "sandbox"})
    assert env.pop("PATH").endswith("/bin")
    assert env == {"TZ": "image", "LANG": "machine", "PIP_INDEX_URL": "machine", "GOPROXY": "sandbox"}


@pytest.mark.parametrize("name", variables.SANDBOX_CERTIFICATES)
def test_each_variable_names_the_certificates_in_the_sandbox(name: str) -> None:
    assert access_environment(HostAccess(env={name: "/of/the/machine"}, ca_bundle=b"PEM"))[name] == TRUST


@pytest.mark.parametrize("name", [*variables.SANDBOX_CERTIFICATES, variables.CERTIFICATE_FOLDER])
def test_no_path_of_the_callers_machine_reaches_a_sandbox(name: str) -> None:
    assert access_environment(HostAccess(env={name: "/of/the/machine"})) == {}
