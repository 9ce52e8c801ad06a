"""The HTTP half for volumes and their commits; their files go over the socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skerry.doors.native import payloads, rendering
from skerry.doors.native.calls import Call, Endpoint
from skerry.model.ids import CommitId, VolumeId
from skerry.model.volumes import VolumeView


async def find_volume(call: Call) -> payloads.VolumeAnswer:
    body: payloads.VolumeBody = call.body
    return _answer(call, await call.engine.volumes.find(body.name, create=body.create))


async def list_volumes(call: Call) -> payloads.VolumesAnswer:
    return payloads.VolumesAnswer(volumes=tuple(_answer(call, view) for view in call.engine.volumes.list()))


async def get_volume(call: Call) -> payloads.VolumeAnswer:
    return _answer(call, call.engine.volumes.get(_volume(call)))


async def delete_volume(call: Call) -> payloads.Nothing:
    await call.engine.volumes.delete(_volume(call))
    return payloads.Nothing()


async def commit_volume(call: Call) -> payloads.CommitAnswer:
    commit = await call.engine.volumes.commit(_volume(call), idempotency_key=call.idempotency_key)
    return rendering.commit(commit)


async def list_commits(call: Call) -> payloads.CommitsAnswer:
    commits = call.engine.volumes.commits(_volume(call))
    return payloads.CommitsAnswer(commits=tuple(rendering.commit(view) for view in commits))


async def delete_commit(call: Call) -> payloads.Nothing:
    await call.engine.volumes.delete_commit(_volume(call), CommitId(call.path["commit"]))
    return payloads.Nothing()


def _volume(call: Call) -> VolumeId:
    return VolumeId(call.path["volume"])


def _answer(call: Call, view: VolumeView) -> payloads.VolumeAnswer:
    return rendering.volume(view, call.engine.volumes.disk_bytes(view.id))


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint(
        "POST",
        "/v1/volumes",
        "Find a volume by its name, or create it",
        find_volume,
        body=payloads.VolumeBody,
        answer=payloads.VolumeAnswer,
    ),
    Endpoint("GET", "/v1/volumes", "List the volumes, by name", list_volumes, answer=payloads.VolumesAnswer),
    Endpoint("GET", "/v1/volumes/{volume}", "What is known of a volume", get_volume, answer=payloads.VolumeAnswer),
    Endpoint(
        "POST",
        "/v1/volumes/{volume}/delete",
        "Delete a volume with its commits, unless a sandbox mounts it",
        delete_volume,
        answer=payloads.Nothing,
    ),
    Endpoint(
        "POST",
        "/v1/volumes/{volume}/commits",
        "Keep the state of a volume, and answer once it is on the disk",
        commit_volume,
        answer=payloads.CommitAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/volumes/{volume}/commits",
        "List the commits of a volume, newest first",
        list_commits,
        answer=payloads.CommitsAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/volumes/{volume}/commits/{commit}/delete",
        "Delete a commit",
        delete_commit,
        answer=payloads.Nothing,
    ),
)
