"""Builds over the real door, and what of this machine goes with builds and sandboxes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from served_door import ServedDoor

import skerry
from skerry.client.client import Client
from skerry.exception import ImageBuildError
from skerry.model.specs import HostAccess

pytestmark = pytest.mark.usefixtures("client")

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nT1VSUw==\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without settings of its own, but for its own certificates."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy") or "CA_" in name or "SSL" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def last_access(door: ServedDoor) -> HostAccess:
    return door.call(lambda: list(door.node._sandboxes.values())[-1].launch.spec.host_access)


def test_an_image_is_built_at_first_use_and_then_found(capfd: pytest.CaptureFixture[str]) -> None:
    image = skerry.Image.debian_slim().pip_install("pandas", "pytest").run_commands("echo done")
    assert image.object_id is None
    first = skerry.Sandbox.create(image=image)
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "skerry: image: step 1 of 2: pip_install pandas pytest",
        "  + pandas pytest",
        "skerry: image: step 2 of 2: run_commands echo done",
        "  + echo done",
    ]
    assert image.object_id is not None
    assert first.view.spec.image == image.object_id
    again = skerry.Image.debian_slim().pip_install("pandas", "pytest").run_commands("echo done")
    assert again.build(skerry.App("x")).object_id == image.object_id
    assert capfd.readouterr().err == ""


def test_a_build_is_forced_on_demand() -> None:
    image = skerry.Image.debian_slim().run_commands("echo done").build()
    forced = skerry.Image.debian_slim().run_commands("echo done", force_build=True).build()
    assert forced.object_id != image.object_id


def test_a_step_that_fails_is_an_error_of_the_build() -> None:
    with pytest.raises(ImageBuildError, match="step 2 of 2 failed: run_commands false"):
        skerry.Sandbox.create(image=skerry.Image.debian_slim().apt_install("gcc").run_commands("false"))


def test_an_image_that_was_deleted_meanwhile_is_resolved_again(door: ServedDoor) -> None:
    image = skerry.Image.debian_slim().run_commands("echo done").build()
    door.call(door.images._views.clear)
    door.call(door.images._by_definition.clear)
    assert skerry.Sandbox.create(image=image).poll() is None


def test_the_machines_settings_go_with_a_sandbox(
    door: ServedDoor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own.pem").write_text("# ours\n" + CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@index/simple")
    skerry.Sandbox.create()
    access = last_access(door)
    assert access.env == {"PIP_INDEX_URL": "https://index/simple"}
    assert access.ca_bundle.startswith(CERTIFICATE.encode())


def test_certificates_are_sent_again_to_a_server_that_lost_them(door: ServedDoor, client: Client) -> None:
    skerry.Sandbox.create()
    sent = last_access(door).ca_bundle
    door.call(door.engine.trust._bundles.clear)
    skerry.Sandbox.create()
    assert last_access(door).ca_bundle == sent != b""


def test_nothing_goes_with_it_when_that_is_turned_off(door: ServedDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index/simple")
    skerry.Sandbox.create(host_access=False)
    assert last_access(door) == HostAccess()
    monkeypatch.setenv("SKERRY_HOST_ACCESS", "0")
    skerry.Sandbox.create()
    assert last_access(door) == HostAccess()
