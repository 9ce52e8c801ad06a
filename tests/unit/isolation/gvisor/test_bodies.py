"""What is said to the sentry, held against the shapes that gVisor's own types print."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.isolation.gvisor import bodies
from skerry.isolation.gvisor.sentry import FLAGS
from skerry.isolation.gvisor.shapes import conform
from skerry.model.members import Claim, ExtraImage, Nic, Upper

MEMBER, CONTAINER = "sk-" + "0" * 20, "su-" + "0" * 20
NIC = Nic(socket_fd=7, address="10.1.2.3", gateway="10.1.0.1", mac="02:00:00:00:00:07", gateway_mac="02:00:00:00:00:01")


def claim(**more: object) -> Claim:
    sizes: dict[str, object] = {"upper": Upper(size_mib=100), "tmp_mib": 20, "shm_mib": 30, **more}
    return Claim(image=Path("/i.erofs"), **sizes)  # type: ignore[arg-type]


def arguments(**more: object) -> bodies.Body:
    return bodies.claim_arguments(claim(**more), member_id=MEMBER, container_id=CONTAINER)


EXTRA = (ExtraImage(image=Path("/a"), target="/.skerry/trust"), ExtraImage(image=Path("/b"), target="/opt/b"))


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("containerManager.SetNetworkArgs", bodies.loopback()),
        ("containerManager.StartSubcontainer", arguments()),
        ("containerManager.StartSubcontainer", arguments(extra_images=EXTRA)),
        ("containerManager.StartSubcontainer", arguments(upper=Upper(size_mib=1, disk_folder=Path("/d")))),
        ("containerManager.ExecuteAsync", bodies.attach_arguments(CONTAINER)),
        ("Network.CreateLinksAndRoutes", bodies.card(NIC, segmentation=True)),
        ("Network.CreateLinksAndRoutes", bodies.card(NIC, segmentation=False)),
    ],
)
def test_every_body_fits_gvisors_types(method: str, body: bodies.Body) -> None:
    conform(method, body)


def test_the_members_spec_fits_gvisors_type() -> None:
    conform("containerManager.StartSubcontainer", {"Spec": bodies.member_spec()})


def test_the_claims_conf_says_what_the_members_flags_say() -> None:
    conf = bodies.conf()
    said = {
        "--platform=systrap": conf["Platform"] == "systrap",
        "--network=none": conf["Network"] == 2,
        "--directfs=false": conf["DirectFS"] is False,
        "--ignore-cgroups": conf["IgnoreCgroups"] is True,
        "--host-settings=ignore": conf["HostSettings"] == 2,
        "--allow-suid": conf["AllowSUID"] is True,
        "--in-sandbox-cgroup=v2": conf["InSandboxCgroup"] == 1,
        "--control-rpc-stop-timeout=0": conf["ControlRPCStopTimeout"] == 0,
    }
    assert set(said) == set(FLAGS)
    assert all(said.values()), said


def test_everything_that_is_writable_and_grows_has_its_size() -> None:
    body = arguments()
    assert body["GoferMountConfs"][0] == {"lower": 2, "upper": 1, "size": "100M"}
    sizes = {}
    for mount in body["Spec"]["mounts"]:
        if mount["type"] == "tmpfs":
            (sizes[mount["destination"]],) = (o for o in mount["options"] if o.startswith("size="))
        elif mount["destination"] == "/dev":
            assert "ro" in mount["options"], "gVisor's /dev takes no size"
        else:
            assert mount["type"] in ("proc", "sysfs", "devpts") or "ro" in mount["options"]
    assert sizes == {"/tmp": "size=20M", "/dev/shm": "size=30M", "/run": f"size={bodies.RUN_MIB}M"}


def test_images_are_mounted_in_the_order_in_which_their_files_are_given() -> None:
    body = arguments(extra_images=EXTRA)
    mounted = [mount["destination"] for mount in body["Spec"]["mounts"] if mount["type"] == "erofs"]
    assert mounted == ["/.skerry", "/.skerry/trust", "/opt/b"]
    assert body["GoferMountConfs"][1:] == [{"lower": 2, "upper": 0}] * 3


def test_an_upper_layer_on_disk_asks_for_one_file() -> None:
    body = arguments(upper=Upper(size_mib=7, disk_folder=Path("/d")))
    assert body["NumGoferFilestoreFDs"] == 1
    assert body["GoferMountConfs"][0] == {"lower": 2, "upper": 3, "size": "7M"}
    assert arguments()["NumGoferFilestoreFDs"] == 0


def test_the_agent_has_more_capabilities_than_what_it_leaves_to_others_and_the_keeper_has_none() -> None:
    agent = arguments()["Spec"]["process"]["capabilities"]["effective"]
    assert set(agent) - set(bodies.CONTAINER_CAPABILITIES) == {"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"}
    keeper = bodies.member_spec()["process"]
    assert not any(keeper["capabilities"].values())
    assert keeper["noNewPrivileges"]


def test_attaching_has_the_capabilities_of_the_agent() -> None:
    masks = bodies.attach_arguments(CONTAINER)["Capabilities"]
    # CapEff of the agent, as the kernel's capability.h counts.
    assert masks["EffectiveCaps"] == masks["PermittedCaps"] == masks["BoundingCaps"] == 0xA92405DB | 1 << 5
    assert masks["AmbientCaps"] == masks["InheritableCaps"] == 0


def test_a_card_has_one_way_out_and_knows_its_neighbour() -> None:
    body = bodies.card(NIC, segmentation=True)
    (link,) = body["FDBasedLinks"]
    assert link["Addresses"] == [{"Address": "10.1.2.3", "PrefixLen": 32}]
    assert link["Routes"][0]["Destination"] == {"IP": "10.1.0.1", "Mask": "/////w=="}
    assert link["Neighbors"] == [{"IP": "10.1.0.1", "HardwareAddr": "AgAAAAAB"}]
    assert link["LinkAddress"] == "AgAAAAAH"
    assert body["Defaultv4Gateway"]["Route"]["Gateway"] == "10.1.0.1"
    assert body["Defaultv4Gateway"]["Route"]["Destination"] == {"IP": "0.0.0.0", "Mask": "AAAAAA=="}
    assert body["LoopbackLinks"] is None, "a second loopback would be another device"


def test_packets_are_batched_only_where_the_socket_carries_virtio_headers() -> None:
    assert bodies.card(NIC, segmentation=True)["FDBasedLinks"][0]["GSOMaxSize"] > 0
    assert bodies.card(NIC, segmentation=False)["FDBasedLinks"][0]["GSOMaxSize"] == 0
