from __future__ import annotations

import inspect
import json
import subprocess
import sys

import generate_sync
import pytest

import skerry
from skerry import aio, exception
from skerry.client import facade
from skerry.model import errors


def test_the_synchronous_half_is_up_to_date() -> None:
    stale = [path.name for path, text in generate_sync.generate().items() if path.read_text() != text]
    assert stale == []


def test_importing_skerry_loads_nothing_that_costs_time() -> None:
    code = "import json, sys, skerry; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-I", "-c", code])))
    heavy = {
        "asyncio",
        "click",
        "httptools",
        "msgspec",
        "rich",
        "ssl",
        "starlette",
        "subprocess",
        "uvicorn",
        "websockets",
    }
    assert loaded & heavy == set()
    ours = {name for name in loaded if name.startswith("skerry.")}
    assert ours == set()


def test_using_the_sdk_loads_no_server() -> None:
    code = "import sys, skerry; skerry.Sandbox, skerry.aio, skerry.Image; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-I", "-c", code], text=True).split())
    packages = {name.split(".")[1] for name in loaded if name.startswith("skerry.")}
    assert packages <= {"aio", "client", "model", "wire", "stream_type", "types", "exception"}
    assert loaded & {"rich", "starlette", "uvicorn", "apsw", "pyroute2", "websockets"} == set()


@pytest.mark.parametrize("name", skerry.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(skerry, name) is not None
    assert name in dir(skerry)


def test_a_name_that_modal_has_says_why_it_is_not_here() -> None:
    with pytest.raises(exception.UnimplementedError, match=r"skerry.NetworkFileSystem is not available: storage"):
        skerry.NetworkFileSystem  # noqa: B018
    assert not hasattr(skerry, "Function")
    with pytest.raises(AttributeError, match="no attribute 'Sandbocks'"):
        skerry.Sandbocks  # noqa: B018


def test_every_error_is_under_the_exception_module() -> None:
    assert [name for name in errors.BY_NAME if getattr(exception, name, None) is not errors.BY_NAME[name]] == []
    assert issubclass(exception.TimeoutError, TimeoutError)


FACADES = [getattr(skerry, name) for name in sorted(generate_sync.FACADES)]


@pytest.mark.parametrize("kind", FACADES, ids=lambda kind: kind.__name__)
def test_the_synchronous_classes_have_what_the_asynchronous_ones_have(kind: type) -> None:
    source = getattr(aio, kind.__name__)
    for name, member in inspect.getmembers_static(source):
        if name.startswith("_") or (not callable(getattr(source, name)) and not isinstance(member, property)):
            continue
        assert hasattr(kind, name), name
        twin = inspect.getattr_static(kind, name)
        plain = member.__func__ if isinstance(member, staticmethod) else member
        if inspect.iscoroutinefunction(plain) and not isinstance(twin, property):
            assert isinstance(twin, (facade.dual, facade.Method)), name
            assert inspect.signature(twin.__wrapped__).parameters.keys() == inspect.signature(plain).parameters.keys()


def test_what_is_not_made_by_hand_says_so() -> None:
    with pytest.raises(TypeError, match="Sandbox"):
        skerry.Sandbox()
