"""The HTTP half of the real door."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest
from doorway import Door
from waiting import until

from skerry.doors.native.endpoints import VERSION
from skerry.model import limits
from skerry.model.errors import StartFailedError
from skerry.model.sandboxes import SandboxFilter

PEM = b"-----BEGIN CERTIFICATE-----\n"
DIGEST = hashlib.sha256(PEM).hexdigest()


async def test_health_tells_who_answers(door: Door) -> None:
    reply = await door.http.get("/v1/health")
    assert reply.status == 200
    assert reply.body == {
        "version": VERSION,
        "protocol": 1,
        "pid": os.getpid(),
        "started_at": door.clock.now(),
    }


async def test_a_created_sandbox_runs_and_tells_its_spec(door: Door) -> None:
    image = door.images.add().id
    body = {
        "image": image,
        "entrypoint": ["cat"],
        "env": {"A": "b"},
        "workdir": "/tmp/..",
        "lifetime_s": 60,
        "resources": {"cpu": 0.5, "memory_mib": 4096},
        "network": "blocked",
    }
    reply = await door.http.post("/v1/sandboxes", body)
    assert reply.status == 200
    assert reply.body["state"] == "running"
    assert reply.body["stages"] == [{"name": "claim", "ms": 1.0}]
    spec = reply.body["spec"]
    assert (spec["image"], spec["workdir"], spec["network"], spec["isolation"]) == (image, "/", "blocked", "gvisor")
    assert spec["resources"]["memory_limit_mib"] == 4096
    assert (await door.http.get(f"/v1/sandboxes/{reply.body['id']}")).body == reply.body


async def test_a_key_makes_a_repeat_return_the_first_answer(door: Door) -> None:
    body = {"image": door.images.add().id, "entrypoint": ["cat"]}
    first = await door.http.post("/v1/sandboxes", body, Idempotency_Key="k")
    again = await door.http.post("/v1/sandboxes", body, Idempotency_Key="k")
    assert first.body == again.body
    other = await door.http.post("/v1/sandboxes", {**body, "user": "user"}, Idempotency_Key="k")
    assert (other.status, other.body["error"]["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"image": "im_none"}, 404, "not_found", "im_none"),
        ({"lifetime_s": 0}, 400, "invalid_argument", "lifetime_s"),
        ({"workdir": "x"}, 400, "invalid_argument", "workdir"),
        ({"gpu": "H100"}, 400, "invalid_argument", "gpu"),
        ({"resources": {"memory_mib": -1}}, 400, "invalid_argument", "memory_mib"),
        ({"resources": {"gpu": 1}}, 400, "invalid_argument", "gpu"),
        ({"resources": {"cpu": 64, "cpu_limit": 64}}, 400, "invalid_argument", "the machine has"),
        ({"network": "half"}, 400, "invalid_argument", "half"),
        ({"isolation": "container"}, 400, "invalid_argument", "container"),
        ({"entrypoint": ["x" * 2 * limits.MIB]}, 400, "invalid_argument", "65,536"),
        ({"entrypoint": "cat"}, 400, "invalid_argument", "entrypoint"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    door: Door, change: dict[str, object], status: int, code: str, named: str
) -> None:
    reply = await door.http.post("/v1/sandboxes", {"image": door.images.add().id, **change})
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert named in reply.body["error"]["message"]
    assert door.engine.sandboxes.list(SandboxFilter(include_ended=True)) == []


async def test_a_lack_of_room_is_told_with_what_is_missing(door: Door) -> None:
    body = {"image": door.images.add().id, "resources": {"memory_mib": 10_000}}
    assert (await door.http.post("/v1/sandboxes", body)).status == 200
    reply = await door.http.post("/v1/sandboxes", body)
    assert reply.status == 429
    assert reply.body["error"]["details"] == {"missing": {"memory_mib": {"asked": 10_000.0, "free": 6_384.0}}}


async def test_a_failed_start_keeps_its_kind_and_stage(door: Door) -> None:
    door.node.fail_next_start = StartFailedError("no mount", stage="rootfs")
    reply = await door.http.post("/v1/sandboxes", {"image": door.images.add().id})
    assert (reply.status, reply.body["error"]["kind"]) == (500, "StartFailedError")
    assert reply.body["error"]["details"] == {"stage": "rootfs"}


async def test_lists_are_continued_before_a_time(door: Door) -> None:
    made = [await door.sandbox() for _ in range(3)]
    first = (await door.http.get("/v1/sandboxes?limit=2")).body["sandboxes"]
    rest = (await door.http.get(f"/v1/sandboxes?limit=2&before={first[-1]['created_at']}")).body["sandboxes"]
    assert [one["id"] for one in (*first, *rest)] == made[::-1]


async def test_lists_can_be_of_an_app_and_of_ended_ones(door: Door) -> None:
    app = (await door.http.post("/v1/apps", {"name": "agents", "create": True})).body["id"]
    ended = await door.sandbox("exit", "0", app=app)
    await door.engine.sandboxes.wait(ended)
    runs = await door.sandbox("cat", app=app)
    await door.sandbox("cat")

    async def ids(query: str) -> list[str]:
        return [one["id"] for one in (await door.http.get(f"/v1/sandboxes?{query}")).body["sandboxes"]]

    assert await ids(f"app={app}") == [runs]
    assert await ids(f"app={app}&include_ended=true") == [runs, ended]
    assert len(await ids("include_ended=1&app=")) == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "before=soon", "colour=red", "limit=100000"])
async def test_a_query_that_makes_no_sense_is_refused(door: Door, query: str) -> None:
    reply = await door.http.get(f"/v1/sandboxes?{query}")
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_argument")


async def test_waiting_returns_at_the_end_or_at_the_timeout(door: Door) -> None:
    sandbox = await door.sandbox("cat")
    running = await door.http.get(f"/v1/sandboxes/{sandbox}/wait?timeout=0.01")
    assert (running.status, running.body["state"]) == (200, "running")
    waiting = asyncio.ensure_future(door.http.get(f"/v1/sandboxes/{sandbox}/wait?timeout=20"))
    ended = await door.http.post(f"/v1/sandboxes/{sandbox}/terminate")
    assert (await waiting).body == ended.body
    assert ended.body["exit"] == {"reason": "terminated", "code": None, "signal": None, "evidence": ""}
    again = await door.http.post(f"/v1/sandboxes/{sandbox}/terminate")
    assert again.body == ended.body


@pytest.mark.parametrize("timeout", ["-1", "61", "nan", "soon"])
async def test_a_wait_has_a_bound(door: Door, timeout: str) -> None:
    sandbox = await door.sandbox("cat")
    reply = await door.http.get(f"/v1/sandboxes/{sandbox}/wait?timeout={timeout}")
    assert reply.body["error"]["code"] == "invalid_argument"


async def test_processes_are_listed_waited_for_and_signalled(door: Door) -> None:
    sandbox = await door.sandbox("cat")
    base = f"/v1/sandboxes/{sandbox}/processes"
    (entrypoint,) = (await door.http.get(base)).body["processes"]
    assert (entrypoint["argv"], entrypoint["exit"]) == (["cat"], None)
    assert (await door.http.get(f"{base}/entrypoint")).body == entrypoint
    assert (await door.http.get(f"{base}/{entrypoint['id']}/wait?timeout=0.01")).body["exit"] is None
    assert (await door.http.post(f"{base}/entrypoint/signal", {"signal": 15})).body == {}
    ended = (await door.http.get(f"{base}/entrypoint/wait")).body
    assert ended["exit"] == {"reason": "signaled", "code": None, "signal": 15, "evidence": ""}
    assert (await door.http.post(f"{base}/entrypoint/signal", {"signal": 99})).status == 400
    assert (await door.http.get(f"{base}/pr_none")).status == 404


async def test_a_terminal_is_asked_for_told_and_resized(door: Door) -> None:
    terminal = {"rows": 20, "columns": 70, "term": "vt220"}
    sandbox = await door.sandbox("cat", terminal=terminal)
    assert (await door.http.get(f"/v1/sandboxes/{sandbox}")).body["spec"]["terminal"] == terminal
    base = f"/v1/sandboxes/{sandbox}/processes/entrypoint"
    assert (await door.http.get(base)).body["terminal"] is True
    assert (await door.http.post(f"{base}/resize", {"rows": 65_535, "columns": 1})).body == {}
    for rows, columns in ((0, 1), (1, 0), (65_536, 1), (-1, 1)):
        refused = await door.http.post(f"{base}/resize", {"rows": rows, "columns": columns})
        assert refused.body["error"]["code"] == "invalid_argument"
    plain = await door.sandbox("cat")
    refused = await door.http.post(f"/v1/sandboxes/{plain}/processes/entrypoint/resize", {"rows": 1, "columns": 1})
    assert refused.body["error"]["code"] == "failed_precondition"
    assert "no terminal" in refused.body["error"]["message"]


async def test_apps_are_found_by_name(door: Door) -> None:
    assert (await door.http.post("/v1/apps", {"name": "agents", "create": False})).status == 404
    made = (await door.http.post("/v1/apps", {"name": "agents", "create": True})).body
    assert (await door.http.post("/v1/apps", {"name": "agents", "create": False})).body == made
    assert (await door.http.post("/v1/apps", {"name": "no name"})).status == 400


async def test_a_bundle_is_asked_for_once_and_then_known_by_its_digest(door: Door) -> None:
    body = {"image": door.images.add().id, "host_access": {"env": {"A": "b"}, "ca_bundle_sha256": DIGEST}}
    asked = await door.http.post("/v1/sandboxes", body)
    assert (asked.status, asked.body["error"]["code"]) == (409, "failed_precondition")
    assert asked.body["error"]["details"] == {"trust": DIGEST}
    assert (await door.http.call("PUT", f"/v1/trust/{DIGEST}", PEM)).body == {"sha256": DIGEST}
    made = await door.http.post("/v1/sandboxes", body)
    assert made.status == 200
    access = door.node._find(made.body["id"]).launch.spec.host_access
    assert (access.env, access.ca_bundle) == ({"A": "b"}, PEM)
    assert "host_access" not in made.body["spec"]
    wrong = await door.http.call("PUT", f"/v1/trust/{DIGEST}", b"other")
    assert wrong.status == 400


async def test_a_build_tells_its_steps_its_log_and_last_its_image(door: Door) -> None:
    definition = {"steps": [{"kind": "pip_install", "arguments": ["requests"]}]}
    reply = await door.http.post("/v1/images", {"definition": definition})
    assert [line["event"] for line in reply.body] == ["step", "log", "image"]
    assert reply.body[0] == {"event": "step", "index": 1, "count": 1, "title": "pip_install requests"}
    image = reply.body[-1]["image"]
    assert (await door.http.get(f"/v1/images/{image['id']}")).body == image
    again = await door.http.post("/v1/images", {"definition": definition})
    assert [line["event"] for line in again.body] == ["image"]
    assert again.body[0]["image"]["id"] == image["id"]


async def test_a_build_that_fails_tells_its_error_as_the_last_line(door: Door) -> None:
    definition = {"steps": [{"kind": "run_commands", "arguments": ["false"]}]}
    reply = await door.http.post("/v1/images", {"definition": definition})
    assert [line["event"] for line in reply.body] == ["step", "log", "error"]
    assert reply.body[-1]["error"]["kind"] == "ImageBuildError"
    assert reply.body[-1]["error"]["details"] == {"step": 1}


async def test_an_unknown_image_or_step_is_refused(door: Door) -> None:
    assert (await door.http.get("/v1/images/im_none")).status == 404
    strange = {"definition": {"steps": [{"kind": "teleport", "arguments": []}]}}
    assert (await door.http.post("/v1/images", strange)).status == 400


async def test_paths_and_methods_that_do_not_exist_answer_in_the_form_of_all_errors(door: Door) -> None:
    missing = await door.http.get("/v1/nothing")
    assert (missing.status, missing.body["error"]["code"]) == (404, "not_found")
    wrong = await door.http.call("DELETE", "/v1/sandboxes")
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"image": 1}', b'{"image": "\xff"}', b"[" * 100_000])
async def test_a_body_that_is_not_what_is_expected_is_refused(door: Door, body: bytes) -> None:
    reply = await door.http.call("POST", "/v1/sandboxes", body)
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_argument")


async def test_a_body_beyond_the_bound_is_refused(door: Door) -> None:
    body = b'{"image": "' + b"x" * limits.REQUEST_BYTES + b'"}'
    reply = await door.http.call("POST", "/v1/sandboxes", body)
    assert "4,194,304" in reply.body["error"]["message"]


async def test_a_defect_is_told_by_a_trace_and_not_by_its_text(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(door.engine.sandboxes, "list", broken)
    reply = await door.http.get("/v1/sandboxes")
    assert (reply.status, reply.body["error"]["code"]) == (500, "internal")
    assert "secret" not in str(reply.body)
    assert reply.body["error"]["details"]["trace"] in reply.body["error"]["message"]


async def test_the_listener_counts_its_clients(door: Door) -> None:
    async with door.connect():
        await until(lambda: door.listener.clients == 1)
    await until(lambda: door.listener.clients == 0)
