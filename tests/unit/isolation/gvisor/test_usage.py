"""What a sentry, which may be the guest, can tell of itself: numbers, or an error."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.isolation.gvisor.usage import usage_of
from skerry.model.errors import Error
from skerry.model.usage import MemberUsage


class Told:
    """A control connection whose answers a test gives."""

    def __init__(self, event: Any, memory: Any) -> None:
        self._answers = {"containerManager.Event": event, "Usage.Collect": memory}

    async def call(self, method: str, argument: object, files: object = (), *, seconds: float) -> Any:
        assert seconds <= 1
        return self._answers[method]


def event(current: object) -> dict[str, object]:
    return {"event": {"data": {"pids": {"current": current}}}}


async def test_the_agent_is_not_counted() -> None:
    assert await usage_of(Told(event(3), {"Tmpfs": 4096}), "c") == MemberUsage(file_bytes=4096, processes=2)  # type: ignore[arg-type]
    assert (await usage_of(Told(event(0), {"Tmpfs": 0}), "c")).processes == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("current", [None, -1, 1 << 63, True, 1.5, "3", [3], {"n": 3}])
async def test_what_is_no_number_is_an_error(current: object) -> None:
    with pytest.raises(Error, match="tells no number where its current"):
        await usage_of(Told(event(current), {"Tmpfs": 0}), "c")  # type: ignore[arg-type]
    with pytest.raises(Error, match="tells no number where its Tmpfs"):
        await usage_of(Told(event(1), {"Tmpfs": current}), "c")  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [None, [], "x", 3, {"event": []}, {"event": {"data": None}}])
async def test_what_has_another_form_is_an_error(answer: object) -> None:
    with pytest.raises(Error):
        await usage_of(Told(answer, {"Tmpfs": 0}), "c")  # type: ignore[arg-type]
