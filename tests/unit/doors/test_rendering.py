from __future__ import annotations

from dataclasses import fields

import pytest

from skerry.doors.native import payloads, rendering
from skerry.engine.trust import Trust
from skerry.model.errors import ConflictError
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import ImageId, NodeId, SandboxId
from skerry.model.sandboxes import SandboxState, SandboxView
from skerry.model.specs import HostAccess, Resources, SandboxSpec

DEFAULTS = Resources()


def resources(**given: float) -> Resources:
    return rendering.resources(payloads.ResourcesBody(**given), DEFAULTS)


def test_what_is_not_asked_for_is_the_default() -> None:
    assert resources() == DEFAULTS


def test_a_request_above_the_default_limit_raises_the_limit_with_it() -> None:
    asked = resources(cpu=4.0, memory_mib=8192)
    assert (asked.cpu_limit, asked.memory_limit_mib) == (4.0, 8192)


def test_a_limit_below_the_default_request_lowers_the_request_with_it() -> None:
    asked = resources(cpu_limit=0.1, memory_limit_mib=64)
    assert (asked.cpu, asked.memory_mib) == (0.1, 64)


def test_a_pair_is_taken_as_it_is() -> None:
    asked = resources(cpu=2.0, cpu_limit=1.0)
    assert (asked.cpu, asked.cpu_limit) == (2.0, 1.0)  # admission refuses it by name


def test_every_resource_of_the_model_can_be_asked_for() -> None:
    assert set(payloads.ResourcesBody.__struct_fields__) == {one.name for one in fields(Resources)}


def test_everything_but_the_access_of_the_callers_machine_is_told_of_a_spec() -> None:
    told = set(payloads.SpecAnswer.__struct_fields__)
    assert told == {one.name for one in fields(SandboxSpec)} - {"host_access"}


def test_a_bundle_that_never_came_is_asked_for() -> None:
    with pytest.raises(ConflictError):
        rendering.host_access(payloads.HostAccessBody(ca_bundle_sha256="0" * 64), Trust())
    assert rendering.host_access(payloads.HostAccessBody(env={"A": "b"}), Trust()) == HostAccess(env={"A": "b"})


def test_evidence_from_a_guest_is_escaped() -> None:
    view = SandboxView(
        id=SandboxId("sb_1"),
        spec=SandboxSpec(image=ImageId("im_1")),
        state=SandboxState.STOPPED,
        node=NodeId("no_1"),
        created_at=1.0,
        exit=SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence="\x1b[2J\nfake line"),
    )
    told = rendering.sandbox(view).exit
    assert told is not None
    assert told.evidence == "\\x1b[2J\\x0afake line"
