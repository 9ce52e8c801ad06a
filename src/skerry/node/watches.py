"""The tasks that wait for what may end a running sandbox, and tell its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from skerry.model.exits import SandboxReason
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import LinkLost
from skerry.node.happenings import AgentGone, AgentSilent, Asked, Happening, SentryGone
from skerry.node.interfaces import Member

PULSE_EVERY_S: Final = 5.0
PULSE_S: Final = 20.0
"""How often an agent that somebody waits for is asked for a sign, and how long it may take: a busy machine is slow."""
LIFETIME_GRACE_S: Final = 5.0


class Watches:
    """The watches over one sandbox, from `begin` to `stop`. What they see goes to `happen`."""

    def __init__(self, happen: Callable[[Happening], None], *, on_volumes_lost: Callable[[], None]) -> None:
        """`on_volumes_lost` is told when what serves its volumes has ended; the sandbox lives on without them."""
        self._happen = happen
        self._on_volumes_lost = on_volumes_lost
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, member: Member, link: AgentLink, *, lifetime_s: float) -> None:
        """Watch; `lifetime_s` is what is left of its lifetime."""
        create = asyncio.get_running_loop().create_task
        watches = (
            self._sentry(member),
            self._volumes(member),
            self._agent(link),
            self._pulse(link),
            self._lifetime(lifetime_s),
        )
        self._tasks = [create(watch) for watch in watches]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _sentry(self, member: Member) -> None:
        await member.wait_ended()
        self._happen(SentryGone())

    async def _volumes(self, member: Member) -> None:
        await member.wait_volumes_lost()
        self._on_volumes_lost()

    async def _agent(self, link: AgentLink) -> None:
        self._happen(AgentGone(await asyncio.shield(link.lost)))

    async def _pulse(self, link: AgentLink) -> None:
        """End it when its agent answers nothing while somebody waits for it: a guest may have stopped or blocked it."""
        with contextlib.suppress(LinkLost):
            while True:
                await asyncio.sleep(PULSE_EVERY_S)
                if not len(link.streams):
                    continue
                try:
                    async with asyncio.timeout(PULSE_S):
                        await link.ping()
                except TimeoutError:
                    self._happen(AgentSilent(f"its agent gave no answer for {PULSE_S:g} s"))
                    return

    async def _lifetime(self, left_s: float) -> None:
        """End it at its lifetime if its keeper has not: the keeper runs on a kernel that may have been broken into."""
        await asyncio.sleep(max(0.0, left_s + LIFETIME_GRACE_S))
        self._happen(Asked(SandboxReason.LIFETIME))
