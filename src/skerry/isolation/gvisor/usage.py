"""How much a sandbox holds, as its sentry tells. That may be the guest: numbers are checked, nothing else is read."""

from __future__ import annotations

from typing import Any, Final

from skerry.isolation.gvisor.control import Control
from skerry.model.errors import InternalError
from skerry.model.usage import MemberUsage

USAGE_SECONDS: Final = 1.0
MOST: Final = 1 << 62
AGENTS: Final = 1  # PID 1 of the container is ours


async def usage_of(control: Control, container: str) -> MemberUsage:
    """Return the usage of a container, for two calls of 0.1 ms each; raises Error."""
    event = await control.call("containerManager.Event", container, seconds=USAGE_SECONDS)
    memory = await control.call("Usage.Collect", {"Full": True}, seconds=USAGE_SECONDS)
    return MemberUsage(
        file_bytes=_number(memory, "Tmpfs"),
        processes=max(0, _number(event, "event", "data", "pids", "current") - AGENTS),
    )


def _number(answer: Any, *names: str) -> int:
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer <= MOST:
        raise InternalError(f"the sentry tells no number where its {names[-1]} should be")
    return answer
