"""Taking up a sandbox that an earlier node started: what it holds is found, and its agent is attached to anew."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from msgspec.structs import replace

from skerry.model.errors import Error
from skerry.model.events import Events
from skerry.model.exits import SandboxExit
from skerry.model.text import escaped
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import LinkLost
from skerry.node.ends import Seen, sandbox_exit
from skerry.node.holdings import AGENT_S, Holdings
from skerry.node.interfaces import Member
from skerry.node.records import Records, SandboxRecord
from skerry.node.streams import hello_frame
from skerry.node.table import ProcessTable
from skerry.wire.messages import Hello, Ready

log = Events("skerry.node")


class Adoption:
    """The adoption of one sandbox. What is found goes into `holdings` and `table`, which are new and empty."""

    def __init__(
        self,
        record: SandboxRecord,
        holdings: Holdings,
        table: ProcessTable,
        records: Records,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._holdings = holdings
        self._table = table
        self._records = records
        self._now = now

    async def run(self) -> SandboxExit | None:
        """Take it up and return None, or how it has ended meanwhile: what it still holds is then in `holdings`."""
        self._table.read()
        await self._holdings.find(self._record.member, self._record.launch.spec.volumes)
        if self._table.end is not None:  # the kill came while it was removed
            return self._table.end.exit
        if self._holdings.member is None:
            return await self._ended_meanwhile(sentry_alive=False)
        await self._holdings.reopen()
        ready = await self._attach(self._holdings.member)
        if ready is None:
            return await self._ended_meanwhile(sentry_alive=True)
        assert self._holdings.link is not None
        self._table.resume(self._holdings.link, ready, now=self._now())
        return None

    async def _attach(self, member: Member) -> Ready | None:
        """Return the agent's READY on a new link, or None if it gives none."""
        record, secret = self._record, secrets.token_bytes(32)
        for generation, proof in enumerate(record.secrets, start=record.generation + 1):
            record = replace(record, member=member.record, generation=generation)
            # Both until the answer is here: a kill in between leaves the question which of them the agent has.
            self._records.put(replace(record, secrets=(secret, *record.secrets)))
            hello = Hello(secret=secret, proof=proof, generation=generation, setup=None)
            ready = await self._greet(member, hello)
            if ready is not None:
                self._records.put(replace(record, secrets=(secret,)))
                return ready
        return None

    async def _greet(self, member: Member, hello: Hello) -> Ready | None:
        try:
            pipes = await member.attach(hello_frame(hello))
            link = AgentLink(pipes.reader_fd, pipes.writer_fd)
        except Error as exc:
            log.warning("sandbox.attach_failed", sandbox=self._record.sandbox, cause=escaped(str(exc)))
            return None
        try:
            ready = await link.hello(hello, deadline=asyncio.get_running_loop().time() + AGENT_S, sent=True)
        except (TimeoutError, LinkLost) as exc:
            log.warning("sandbox.attach_failed", sandbox=self._record.sandbox, cause=escaped(str(exc)))
            link.close()
            return None
        self._holdings.link = link
        return ready

    async def _ended_meanwhile(self, *, sentry_alive: bool) -> SandboxExit:
        launch = self._record.launch
        entrypoint = self._table.get(launch.entrypoint) if launch.entrypoint else None
        return sandbox_exit(
            Seen(
                now=self._now(),
                deadline=self._record.started_at + launch.spec.lifetime_s,
                entrypoint=await entrypoint.wait() if entrypoint is not None and entrypoint.ended else None,
                silent="its agent did not answer the server that came back",
                sentry_alive=sentry_alive,
                oom_kills=self._table.kills.untold(),
            )
        )
