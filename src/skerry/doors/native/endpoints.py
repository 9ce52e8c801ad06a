"""The HTTP half, an endpoint a line: each parses, calls the engine and renders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from skerry.doors.native import payloads, rendering, storage, volumes
from skerry.doors.native.builds import resolve_image
from skerry.doors.native.calls import Call, Endpoint
from skerry.doors.native.secrets import (
    asks,
    create_secret,
    delete_secret,
    get_secret,
    list_secrets,
    rotate_keys,
    update_secret,
)
from skerry.model.ids import ImageId, SandboxId
from skerry.version import version
from skerry.wire.native import PROTOCOL

T = TypeVar("T")

VERSION: Final = version()


def health_at(started_at: float) -> Endpoint:
    """Return the endpoint that tells who answers, and since when."""

    async def health(_call: Call) -> payloads.HealthAnswer:
        return payloads.HealthAnswer(version=VERSION, protocol=PROTOCOL, pid=os.getpid(), started_at=started_at)

    return Endpoint("GET", "/v1/health", "Who answers here", health, answer=payloads.HealthAnswer)


async def find_app(call: Call) -> payloads.AppAnswer:
    body: payloads.AppBody = call.body
    app = await call.engine.apps.find(body.name, create=body.create)
    return payloads.AppAnswer(id=app, name=body.name)


async def put_trust(call: Call) -> payloads.TrustAnswer:
    digest = call.path["sha256"]
    call.engine.trust.put(digest, call.raw)
    return payloads.TrustAnswer(sha256=digest)


async def get_image(call: Call) -> payloads.ImageAnswer:
    return rendering.image(call.engine.images.get(ImageId(call.path["image"])))


async def create_sandbox(call: Call) -> payloads.SandboxAnswer:
    defaults = call.engine.sandboxes.default_resources()
    spec = rendering.sandbox_spec(call.body, defaults, call.engine.trust)
    secrets = asks(call.body.secrets)
    view = await call.engine.sandboxes.create(spec, secrets=secrets, idempotency_key=call.idempotency_key)
    return rendering.sandbox(view)


async def list_sandboxes(call: Call) -> payloads.SandboxesAnswer:
    views = call.engine.sandboxes.list(rendering.sandbox_filter(call.query))
    return payloads.SandboxesAnswer(sandboxes=tuple(rendering.sandbox(view) for view in views))


async def get_sandbox(call: Call) -> payloads.SandboxAnswer:
    return rendering.sandbox(call.engine.sandboxes.get(_sandbox(call)))


async def wait_sandbox(call: Call) -> payloads.SandboxAnswer:
    sandboxes = call.engine.sandboxes
    view = await _within(call.query.timeout, sandboxes.wait(_sandbox(call)))
    return rendering.sandbox(view or sandboxes.get(_sandbox(call)))


async def set_sandbox_tags(call: Call) -> payloads.SandboxAnswer:
    return rendering.sandbox(await call.engine.sandboxes.set_tags(_sandbox(call), call.body.tags))


async def terminate_sandbox(call: Call) -> payloads.SandboxAnswer:
    return rendering.sandbox(await call.engine.sandboxes.terminate(_sandbox(call)))


async def sample_usage(call: Call) -> payloads.UsageAnswer:
    asked = call.query.sandbox
    samples = await call.engine.usage.sample(None if asked is None else SandboxId(asked))
    return payloads.UsageAnswer(sandboxes=tuple(samples))


async def list_processes(call: Call) -> payloads.ProcessesAnswer:
    views = call.engine.processes.list(_sandbox(call))
    return payloads.ProcessesAnswer(processes=tuple(rendering.process(view) for view in views))


async def get_process(call: Call) -> payloads.ProcessAnswer:
    return rendering.process(call.engine.processes.get(_sandbox(call), call.path["process"]).view)


async def wait_process(call: Call) -> payloads.ProcessAnswer:
    processes = call.engine.processes
    where = _sandbox(call), call.path["process"]
    view = await _within(call.query.timeout, processes.wait(*where))
    return rendering.process(view or processes.get(*where).view)


async def find_output(call: Call) -> payloads.OutputAnswer:
    sandbox, process = _sandbox(call), call.path["process"]
    kept = await call.engine.logs.find(sandbox, process, tail=call.query.tail, since=call.query.since)
    identifier = call.engine.processes.get(sandbox, process).view.id
    return payloads.OutputAnswer(process=identifier, channels=tuple(kept))


async def signal_process(call: Call) -> payloads.Nothing:
    where = _sandbox(call), call.path["process"]
    await call.engine.processes.signal(*where, call.body.signal, idempotency_key=call.idempotency_key)
    return payloads.Nothing()


async def resize_process(call: Call) -> payloads.Nothing:
    where = _sandbox(call), call.path["process"]
    await call.engine.processes.resize(*where, rows=call.body.rows, columns=call.body.columns)
    return payloads.Nothing()


def _sandbox(call: Call) -> SandboxId:
    return SandboxId(call.path["sandbox"])


async def _within(seconds: float, waiting: Awaitable[T]) -> T | None:
    """Return what comes within the time, or None."""
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError:
        return None


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint(
        "POST",
        "/v1/apps",
        "Find an app by its name, or create it",
        find_app,
        body=payloads.AppBody,
        answer=payloads.AppAnswer,
    ),
    Endpoint(
        "PUT",
        "/v1/trust/{sha256}",
        "Send the CA bundle that later calls name by its digest",
        put_trust,
        raw_media="application/x-pem-file",
        answer=payloads.TrustAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/images",
        "Return the image of a definition, built now if there is none; the build's events come as lines",
        resolve_image,
        body=payloads.ImageBody,
        lines=payloads.BuildLine,
    ),
    Endpoint(
        "POST",
        "/v1/secrets",
        "Store a secret; no answer ever tells its values",
        create_secret,
        body=payloads.SecretBody,
        answer=payloads.SecretAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/secrets",
        "List secrets, newest first, created strictly before `before`",
        list_secrets,
        query=payloads.SecretsQuery,
        answer=payloads.SecretsAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/secrets/{secret}",
        "What is known of a secret, by its name",
        get_secret,
        answer=payloads.SecretAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/secrets/{secret}/update",
        "Lay values over those of a secret",
        update_secret,
        body=payloads.SecretEnvBody,
        answer=payloads.SecretAnswer,
    ),
    Endpoint(
        "DELETE",
        "/v1/secrets/{secret}",
        "Delete a secret; one that is gone already stays gone",
        delete_secret,
        answer=payloads.Nothing,
    ),
    Endpoint(
        "POST",
        "/v1/keys/rotate",
        "Encrypt all secrets with a new key, and tell its id",
        rotate_keys,
        answer=payloads.KeyAnswer,
    ),
    Endpoint("GET", "/v1/images/{image}", "What is known of an image", get_image, answer=payloads.ImageAnswer),
    Endpoint(
        "POST",
        "/v1/sandboxes",
        "Create a sandbox and answer once it runs",
        create_sandbox,
        body=payloads.SandboxBody,
        answer=payloads.SandboxAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes",
        "List sandboxes, newest first, created strictly before `before`",
        list_sandboxes,
        query=payloads.SandboxesQuery,
        answer=payloads.SandboxesAnswer,
    ),
    Endpoint(
        "GET", "/v1/sandboxes/{sandbox}", "What is known of a sandbox", get_sandbox, answer=payloads.SandboxAnswer
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes/{sandbox}/wait",
        "Answer when the sandbox has ended, or after `timeout` seconds",
        wait_sandbox,
        query=payloads.WaitQuery,
        answer=payloads.SandboxAnswer,
    ),
    Endpoint(
        "PUT",
        "/v1/sandboxes/{sandbox}/tags",
        "Replace the tags of a sandbox, running or ended",
        set_sandbox_tags,
        body=payloads.TagsBody,
        answer=payloads.SandboxAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/sandboxes/{sandbox}/terminate",
        "End a sandbox; one that has ended keeps its first exit",
        terminate_sandbox,
        answer=payloads.SandboxAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/usage",
        "What running sandboxes, or one of them, take from the machine now",
        sample_usage,
        query=payloads.UsageQuery,
        answer=payloads.UsageAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes/{sandbox}/processes",
        "List the processes of a sandbox, in the order of their start",
        list_processes,
        answer=payloads.ProcessesAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes/{sandbox}/processes/{process}",
        "What is known of a process; `entrypoint` names the first one",
        get_process,
        answer=payloads.ProcessAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes/{sandbox}/processes/{process}/wait",
        "Answer when the process has ended, or after `timeout` seconds",
        wait_process,
        query=payloads.WaitQuery,
        answer=payloads.ProcessAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/sandboxes/{sandbox}/processes/{process}/output",
        "What is kept of the output of a process, and where in it the last lines, or those since a time, begin",
        find_output,
        query=payloads.OutputQuery,
        answer=payloads.OutputAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/sandboxes/{sandbox}/processes/{process}/signal",
        "Send a signal to the process group; a process that has ended is left alone",
        signal_process,
        body=payloads.SignalBody,
        answer=payloads.Nothing,
    ),
    Endpoint(
        "POST",
        "/v1/sandboxes/{sandbox}/processes/{process}/resize",
        "Resize the terminal of a process, and tell what runs in it; `rows` and `columns` are 1 to 65,535",
        resize_process,
        body=payloads.ResizeBody,
        answer=payloads.Nothing,
    ),
    *volumes.ENDPOINTS,
    *storage.ENDPOINTS,
)
