"""The shapes of gVisor's control calls, and what is found out with them."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.isolation.gvisor.shapes import ShapeError, conform, conform_result, default_conf, shapes


def start() -> dict[str, Any]:
    return {
        "Spec": {
            "ociVersion": "1.0.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/init"], "cwd": "/", "noNewPrivileges": True},
            "root": {"path": "/empty"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "none"},
                {"destination": "/tmp", "type": "tmpfs", "source": "none", "options": ["size=64m"]},
            ],
            "annotations": {"dev.gvisor.spec.rootfs.type": "erofs"},
            "linux": {"namespaces": [{"type": "pid"}]},
        },
        "Conf": {**default_conf(), "Network": 2, "DirectFS": False},
        "CID": "sb-0001",
        "NumGoferFilestoreFDs": 0,
        "IsDevIoFilePresent": False,
        "GoferMountConfs": [{"lower": 2, "upper": 1, "size": "64m"}],
        "IsRootfsUpperTarFilePresent": False,
    }


def link() -> dict[str, Any]:
    return {
        "Name": "eth0",
        "MTU": 1500,
        "Addresses": [{"Address": "10.0.0.2", "PrefixLen": 32}],
        "Routes": [{"Destination": {"IP": "10.0.0.1", "Mask": "/////w=="}, "Gateway": ""}],
        "LinkAddress": "AgAABwAB",
        "NumChannels": 1,
        "IsPacket": [True],
        "PreConfigured": True,
    }


def network() -> dict[str, Any]:
    return {"LoopbackLinks": None, "FDBasedLinks": [link()], "Defaultv4Gateway": {"Name": "eth0"}}


VALID = [
    ("containerManager.StartSubcontainer", start()),
    ("containerManager.Wait", "sb-0001"),
    ("containerManager.Resume", None),
    ("containerManager.Resume", {}),
    ("containerManager.CreateSubcontainer", {"CID": "sb-0001"}),
    ("containerManager.Signal", {"CID": "sb-0001", "Signo": 9, "PID": 0, "Mode": 1}),
    ("containerManager.ExecuteAsync", {"argv": ["/init"], "GuestFDs": [0, 1, 2], "MountNamespace": None}),
    ("containerManager.Checkpoint", {"key": None, "metadata": {"a": "b"}, "have_pages_file": True}),
    ("Network.CreateLinksAndRoutes", network()),
    ("Usage.Collect", {"Full": True}),
]


@pytest.mark.parametrize(("method", "argument"), VALID, ids=[name for name, _ in VALID])
def test_arguments_that_gvisor_understands_conform(method: str, argument: object) -> None:
    conform(method, argument)


def changed(argument: dict[str, Any], *path: str | int, to: object) -> dict[str, Any]:
    place: Any = argument
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return argument


START = "containerManager.StartSubcontainer"
PLUG = "Network.CreateLinksAndRoutes"
INVALID = [
    (START, changed(start(), "Conf", "DirectFs", to=False), "$.Conf.DirectFs"),
    (START, changed(start(), "Conf", "DirectFS", to="false"), "$.Conf.DirectFS"),
    (START, changed(start(), "Spec", "mounts", 1, "option", to=["ro"]), "$.Spec.mounts[1].option"),
    (START, changed(start(), "Spec", "mounts", 1, "options", 0, to=64), "$.Spec.mounts[1].options[0]"),
    (START, changed(start(), "Spec", "mounts", to={}), "$.Spec.mounts"),
    (START, changed(start(), "Spec", "annotations", "size", to=1), "$.Spec.annotations['size']"),
    (START, changed(start(), "Spec", "process", "user", "uid", to=-1), "$.Spec.process.user.uid"),
    (START, changed(start(), "Spec", "process", "user", "uid", to=1 << 32), "$.Spec.process.user.uid"),
    (START, changed(start(), "Spec", "process", "user", "uid", to=True), "$.Spec.process.user.uid"),
    (START, changed(start(), "Spec", "process", "user", to=None), "$.Spec.process.user"),
    (START, changed(start(), "GoferMountConfs", 0, "lower", to=256), "$.GoferMountConfs[0].lower"),
    (START, changed(start(), "Spec", "windows", to={"servicing": True}), "$.Spec.windows"),
    (
        PLUG,
        changed(network(), "FDBasedLinks", 0, "LinkAddress", to="02:00:00:07:00:01"),
        "$.FDBasedLinks[0].LinkAddress",
    ),
    (PLUG, changed(network(), "FDBasedLinks", 0, "LinkAddress", to=b"\2\0"), "$.FDBasedLinks[0].LinkAddress"),
    (
        PLUG,
        changed(network(), "FDBasedLinks", 0, "Addresses", 0, "Address", to="10.0.0"),
        "$.FDBasedLinks[0].Addresses[0].Address",
    ),
    (PLUG, changed(network(), "FDBasedLinks", 0, "MTU", to=1500.0), "$.FDBasedLinks[0].MTU"),
    ("containerManager.Wait", {"CID": "sb-0001"}, "$"),
    ("containerManager.ExecuteAsync", {"argv": ["/init"], "MountNamespace": {}}, "$.MountNamespace"),
    ("containerManager.Resume", {"cid": "sb-0001"}, "$.cid"),
]


@pytest.mark.parametrize(("method", "argument", "path"), INVALID, ids=[path for *_, path in INVALID])
def test_the_first_field_that_does_not_fit_is_named(method: str, argument: object, path: str) -> None:
    with pytest.raises(ShapeError) as caught:
        conform(method, argument)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_call_that_is_not_described_is_refused_with_the_place_to_add_it() -> None:
    with pytest.raises(ShapeError, match=r"containerManager\.Explode .* runtime/cmd/shapes/methods\.go"):
        conform("containerManager.Explode", None)


def test_answers_are_checked_like_arguments() -> None:
    conform_result("containerManager.Processes", [{"uid": 0, "pid": 1, "cmd": "init", "threads": [1]}])
    conform_result("containerManager.Processes", None)
    conform_result("containerManager.Wait", 9)
    with pytest.raises(ShapeError, match=r"^\$\[0\]\.pid: "):
        conform_result("containerManager.Processes", [{"pid": "1"}])


def test_each_copy_of_the_default_conf_is_its_own() -> None:
    default_conf()["XDP"]["Mode"] = 7
    assert default_conf()["XDP"]["Mode"] == 0


def test_every_type_that_is_mentioned_is_described() -> None:
    known = shapes()
    scalars = {"bool", "string", "text", "bytes", "ip", "any", "never", "float32", "float64", "int", "uint"}
    scalars |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    expressions = [shape for method in known.methods.values() for shape in (method.argument, method.result)]
    expressions += [shape for fields in known.types.values() for shape in fields.values()]
    bare = {shape.replace("map[string]", "").replace("[]", "").replace("*", "") for shape in expressions}
    assert bare <= scalars | set(known.types)
