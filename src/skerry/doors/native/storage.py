"""What is kept, and cleaning it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skerry.doors.native import payloads
from skerry.doors.native.calls import Call, Endpoint


async def look(call: Call) -> payloads.StorageAnswer:
    kept = await call.engine.storage.look(older_than_s=call.query.older_than_s)
    return payloads.StorageAnswer(went=(), kept=tuple(kept))


async def collect(call: Call) -> payloads.StorageAnswer:
    cleaned = await call.engine.storage.collect(older_than_s=call.body.older_than_s)
    return payloads.StorageAnswer(went=tuple(cleaned.went), kept=tuple(cleaned.kept))


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint(
        "GET",
        "/v1/storage",
        "What is kept on the disk, what it costs, and what may go",
        look,
        query=payloads.StorageQuery,
        answer=payloads.StorageAnswer,
    ),
    Endpoint(
        "POST",
        "/v1/storage/collect",
        "Remove what is beyond the bounds, or was not used for `older_than_s` seconds",
        collect,
        body=payloads.CollectBody,
        answer=payloads.StorageAnswer,
    ),
)
