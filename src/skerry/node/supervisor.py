"""One sandbox on its node, from its start to its end.

    starting ──> running ──> ended
        └───────────────────────^

One task owns it: `start` for a new sandbox, `take_over` for one that an earlier node started (`adoption.py`), then
`watch` until its end. Whatever may end it, from inside or outside, becomes a `Happening` in one queue. The first is
judged (`ends.py`), then all that the sandbox holds is given back. Everyone else reads what is published: `ended`, the
process table.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from skerry.model.errors import (
    ConflictError,
    Error,
    SandboxEndedError,
    ServerUnavailableError,
    StartFailedError,
)
from skerry.model.events import Events
from skerry.model.exits import ProcessExit, SandboxExit, SandboxReason
from skerry.model.ids import ProcessId
from skerry.model.limits import OUTPUT_ARRIVES_S, OUTPUT_STILL_S
from skerry.model.nodes import Launch, SandboxEnded, Started
from skerry.model.sandboxes import ProcessView
from skerry.model.secrets import NO_SECRETS, Hidden
from skerry.model.specs import ExecSpec, Resources
from skerry.model.text import escaped
from skerry.model.usage import SandboxUsage
from skerry.node.adoption import Adoption
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import LinkLost, Lost
from skerry.node.archives import pack_build
from skerry.node.ends import Seen, sandbox_exit
from skerry.node.environment import kept_environment, process_defaults, whole_environment
from skerry.node.happenings import AgentGone, AgentSilent, Asked, EntrypointEnded, Happening, Leave
from skerry.node.holdings import AGENT_S, Holdings
from skerry.node.idle import IdleClock
from skerry.node.machinery import Machinery
from skerry.node.processes import NodeProcess, exec_spec, open_exec
from skerry.node.records import SandboxRecord
from skerry.node.table import ProcessTable
from skerry.node.usage import measure
from skerry.node.watches import Watches
from skerry.node.waterfall import Waterfall
from skerry.wire.frames import ProtocolViolation
from skerry.wire.messages import Hello, Setup

log = Events("skerry.node")

FIRST_GENERATION: Final = 1
"""Of the channel to its agent; each attach counts on."""
BEGIN_S: Final = 30.0
"""How long an agent may take to start a process, before it is taken for broken."""
SILENT: Final = f"its agent started no process within {BEGIN_S:g} s"
SENTRY_S: Final = 1.0
"""How long a sentry whose agent is gone may take to follow it, before it is taken to live on."""


class Supervisor:
    """The owner of one sandbox."""

    def __init__(
        self,
        launch: Launch,
        machinery: Machinery,
        secrets: Hidden = NO_SECRETS,
        *,
        on_ended: Callable[[SandboxEnded], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`on_ended` is told of the end before anyone who waits for it."""
        self.id = launch.sandbox
        self.resources: Resources = launch.spec.resources
        self.build: int | None = launch.build_disk_mib
        self.started: Started | None = None
        self.ended: asyncio.Future[SandboxEnded] = asyncio.get_running_loop().create_future()
        self._launch = launch
        self._machinery = machinery
        self._on_ended = on_ended
        self._now = now
        self._holdings = Holdings(launch.sandbox, machinery)
        self.idle = IdleClock(launch.spec.idle_timeout_s, now=now, note=self._note_idle, on_over=self._end_idle)
        self.table = ProcessTable(
            launch.sandbox,
            machinery.output_folder / launch.sandbox,
            machinery.quota,
            oom_kills=self._holdings.oom_kills,
            on_start=self._on_process_start,
            on_exit=self._on_process_exit,
        )
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self.volumes_lost = False
        self._watches = Watches(self.happen, on_volumes_lost=self._lose_volumes)
        self._ending = False
        self._left = False
        self._secret = b""
        self._started_at = 0.0
        self._secrets = secrets
        self._defaults = process_defaults(launch.image.config, launch.spec, secrets)

    # Its life

    async def start(self) -> Started:
        """Return when it runs, its entrypoint included; on any failure nothing of it is left."""
        waterfall = Waterfall()
        try:
            self._started_at = self._now()
            await self._holdings.take(self._launch, self._first_hello, waterfall)
            with waterfall.stage("entrypoint"):
                self._record(waterfall)
                instead = await self._start_entrypoint()
                if instead is not None:  # nobody watches it yet, so it is judged here
                    end = await self._judge(instead)
                    text = f"sandbox {self.id} ended before its command had started: {end.evidence}"
                    raise StartFailedError(text, stage="entrypoint")
        except BaseException as exc:
            await asyncio.shield(self._give_up(exc))
            if isinstance(exc, Error) or not isinstance(exc, Exception):
                raise
            raise StartFailedError(f"sandbox {self.id} could not be started: {exc}") from exc
        self.started = Started(started_at=self._started_at, stages=tuple(waterfall.stages))
        self._record(waterfall)
        self.idle.begin()
        return self.started

    async def watch(self) -> None:
        """Wait for what ends it, judge that, and remove everything; or let go of it when the node leaves."""
        assert self._holdings.member is not None
        assert self._holdings.link is not None
        left_s = self._deadline - self._now()
        self._watches.begin(self._holdings.member, self._holdings.link, lifetime_s=left_s)
        happening = await self._happenings.get()
        if isinstance(happening, Leave):
            await self._let_go()
            return
        self._ending = True
        self.idle.stop()
        try:
            end = await self._judge(happening)
        except Exception as exc:
            log.error("sandbox.node_fault", exc=exc, sandbox=self.id)
            end = SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence=f"a fault of its node: {type(exc).__name__}")
        await asyncio.shield(self._finish(end))

    def happen(self, happening: Happening) -> None:
        """Put something into the queue of its task."""
        self._happenings.put_nowait(happening)

    # What others ask of it while it runs

    def link(self) -> AgentLink:
        """Return the link to its agent; raises SandboxEndedError if there is none any more."""
        if self._holdings.link is None or self._ending or self._holdings.link.lost.done():
            raise self.ended_error()
        return self._holdings.link

    def ended_error(self) -> SandboxEndedError:
        if self._left:
            raise ServerUnavailableError(f"the server is stopping; sandbox {self.id} runs on, ask its next server")
        if not self.ended.done():
            why = " because nobody used it for its idle timeout" if self.idle.over else ""
            return SandboxEndedError(f"sandbox {self.id} is ending{why}; create another one")
        end = self.ended.result().exit
        evidence = f": {escaped(end.evidence)}" if end.evidence else ""
        return SandboxEndedError(
            f"sandbox {self.id} has ended ({end.reason}{evidence}); create another one", exit=end.reason.value
        )

    def broken(self, violation: ProtocolViolation) -> None:
        """End it: its agent broke a rule."""
        self.happen(AgentGone(Lost("violation", violation.detail, violation.rule)))

    async def exec(self, process: ProcessId, spec: ExecSpec) -> NodeProcess:
        """Return a process once it has started; one with this id that exists already is returned as it is."""
        known = self.table.get(process)
        if known is not None:
            await known.begun()
            return known
        try:
            return await self._start_process(self.link(), process, spec)
        except TimeoutError as exc:
            self.happen(AgentSilent(SILENT))
            raise SandboxEndedError(f"sandbox {self.id} does not answer and is ended; create another one") from exc
        except LinkLost as exc:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGENT_S):
                    await asyncio.shield(self.ended)
            raise self.ended_error() from exc

    async def _start_process(self, link: AgentLink, process: ProcessId, spec: ExecSpec) -> NodeProcess:
        """Return a new process once it has started; TimeoutError or LinkLost if the sandbox is broken or has ended."""
        defaults = self._defaults
        op = open_exec(spec, env=defaults.env, workdir=defaults.workdir, user=defaults.user)
        view = ProcessView(
            id=process,
            sandbox=self.id,
            argv=spec.argv,
            started_at=self._now(),
            terminal=spec.terminal is not None,
        )
        async with asyncio.timeout(BEGIN_S):
            return await self.table.start(link, view, op, timeout_s=spec.timeout_s)

    async def usage(self) -> SandboxUsage | None:
        """Return what it takes from the machine now; None if it is ending."""
        return None if self._ending or self.started is None else await measure(self._holdings)

    async def pack(self, into: Path) -> Sequence[str]:
        """Write its root file system, the image with its changes, to an EROFS file; return what was left out."""
        if self._launch.build_disk_mib is None or self._holdings.member is None:
            raise ConflictError(f"sandbox {self.id} is no build; only builds are packed")
        return await pack_build(self._holdings.member, self._launch, into, helper=self._machinery.image_helper)

    # Start

    def _first_hello(self, setup: Setup) -> Hello:
        self._secret = secrets.token_bytes(32)
        return Hello(secret=self._secret, proof=None, generation=FIRST_GENERATION, setup=setup)

    async def _start_entrypoint(self) -> Happening | None:
        """Return None once it runs, or what has happened to the sandbox instead."""
        command = self._launch.spec.entrypoint or self._launch.image.config.command
        if self._launch.entrypoint is None or not command:
            return None
        assert self._holdings.link is not None
        spec = exec_spec(command, self._launch.spec.terminal)
        try:
            await self._start_process(self._holdings.link, self._launch.entrypoint, spec)
        except TimeoutError:
            return AgentSilent(SILENT)
        except LinkLost as exc:
            return AgentGone(exc.lost)
        return None

    def _on_process_start(self, process: NodeProcess) -> None:
        """Count it as a use until it ends; the entrypoint is what the sandbox is for, and counts for nothing."""
        if process.view.id != self._launch.entrypoint:
            self.idle.enter()
            process.on_end(self.idle.leave)

    def _on_process_exit(self, process: ProcessId, end: ProcessExit) -> None:
        if process == self._launch.entrypoint:
            self.happen(EntrypointEnded(end))

    def _note_idle(self, since: float | None) -> None:
        if self._launch.spec.idle_timeout_s is not None:
            self._machinery.records.note_idle(self.id, since)

    def _end_idle(self) -> None:
        """End it, and give nothing out from this moment on: what comes now would be cut off in its middle."""
        self._ending = True
        self.happen(Asked(SandboxReason.IDLE_TIMEOUT))

    def _record(self, waterfall: Waterfall) -> None:
        assert self._holdings.member is not None
        env, sealed = kept_environment(self._defaults.env, self._secrets, self._machinery.vault, self.id)
        self._machinery.records.put(
            SandboxRecord(
                sandbox=self.id,
                member=self._holdings.member.record,
                secrets=(self._secret,),
                generation=FIRST_GENERATION,
                started_at=self._started_at,
                stages=tuple(waterfall.stages),
                # Of what the caller's machine added a record only has the variables, which hold no credentials.
                launch=replace(self._launch, spec=self._launch.spec.without_access()),
                env=env,
                sealed=sealed,
            )
        )

    async def _give_up(self, why: BaseException) -> None:
        """Remove what a start left, its output included: nobody was told of it."""
        self._ending = True
        await self._holdings.give_back()
        self._machinery.records.remove(self.id)
        end = SandboxExit(reason=SandboxReason.START_FAILED, evidence=escaped(str(why)))
        self.table.settle_all(end, self._now())
        self.table.remove()
        self.ended.set_result(SandboxEnded(sandbox=self.id, exit=end, at=self._now()))

    # After a restart of the node

    async def take_over(self, record: SandboxRecord) -> bool:
        """Take up a sandbox that an earlier node started; False if it has ended meanwhile (`ended` then says how)."""
        self._started_at = record.started_at
        env = whole_environment(record.env, record.sealed, self._machinery.vault, self.id)
        self._defaults = replace(self._defaults, env=env)
        self.started = Started(started_at=record.started_at, stages=record.stages)
        records = self._machinery.records
        end = await Adoption(record, self._holdings, self.table, records, now=self._now).run()
        if end is not None:
            self._ending = True
            await self._finish(end)
            return False
        for process in self.table.all():
            if not process.ended:
                self._on_process_start(process)
        self.idle.begin(records.idle_since(self.id))
        entrypoint = self.table.get(self._launch.entrypoint) if self._launch.entrypoint else None
        if entrypoint is None:
            instead = await self._start_entrypoint()  # the kill came between the start and its command
            if instead is not None:
                self.happen(instead)
        elif entrypoint.ended:
            self.happen(EntrypointEnded(await entrypoint.wait()))
        return True

    async def abandon(self, fault: Exception) -> None:
        """End it because this node cannot take it over; what it holds is given back."""
        self._ending = True
        evidence = f"its next node could not take it over: {type(fault).__name__}: {escaped(str(fault))}"
        await self._finish(SandboxExit(reason=SandboxReason.NODE_LOST, evidence=evidence))

    # The end

    @property
    def _deadline(self) -> float:
        return self._started_at + self._launch.spec.lifetime_s

    async def _judge(self, happening: Happening) -> SandboxExit:
        """Return the exit that a happening means, once everything that bears on it is known."""
        asked = entrypoint = violation = silent = None
        match happening:
            case Asked(reason):
                asked = reason
            case EntrypointEnded(end):
                entrypoint = end
                await self._drain_until_more_happens()
            case AgentGone(lost):
                if lost.reason == "fault":
                    log.error("sandbox.node_fault", sandbox=self.id, detail=escaped(lost.detail))
                violation = f"{lost.rule}: {escaped(lost.detail)}" if lost.rule else None
                await self._await_sentry()
            case AgentSilent(evidence):
                silent = evidence
        return sandbox_exit(
            Seen(
                now=self._now(),
                deadline=self._deadline,
                asked=asked,
                entrypoint=entrypoint,
                violation=violation,
                silent=silent,
                sentry_alive=self._holdings.member is not None and self._holdings.member.alive(),
                oom_kills=self.table.kills.untold(),
            )
        )

    async def _drain_until_more_happens(self) -> None:
        """Let the entrypoint's output arrive; something in the background may go on writing, so there is a bound."""
        work = [
            asyncio.ensure_future(self._drain_entrypoint()),
            asyncio.ensure_future(self._happenings.get()),
        ]
        try:
            await asyncio.wait(work, timeout=OUTPUT_ARRIVES_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _drain_entrypoint(self) -> None:
        process = self.table.get(self._launch.entrypoint) if self._launch.entrypoint is not None else None
        if process is not None:
            await process.drain(OUTPUT_STILL_S)

    async def _await_sentry(self) -> None:
        """Give a sentry whose agent is gone a moment: the two usually end together, the pipes a little earlier."""
        assert self._holdings.member is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SENTRY_S):
                await self._holdings.member.wait_ended()

    async def _finish(self, end: SandboxExit) -> None:
        """Give everything back, then tell; whatever fails, it is told."""
        ended = SandboxEnded(sandbox=self.id, exit=end, at=self._now())
        try:
            self.table.decide(end, ended.at)
            await self._watches.stop()
            await self._holdings.give_back()
            self.table.settle_all(end, ended.at)
            self._machinery.records.remove(self.id)
        except Exception as exc:
            log.error("sandbox.not_removed", exc=exc, sandbox=self.id)
        self._on_ended(ended)
        self.ended.set_result(ended)

    def _lose_volumes(self) -> None:
        """Note that its volumes answer every call with an error from now on; what was written to them is there."""
        self.volumes_lost = True
        paths = ", ".join(escaped(one.path) for one in self._launch.spec.volumes)
        log.error("sandbox.volumes_lost", sandbox=self.id, paths=paths, cause="the process that serves them has ended")

    async def _let_go(self) -> None:
        self.idle.stop()
        await self._watches.stop()
        self._ending = self._left = True
        if self._holdings.link is not None:
            self._holdings.link.close()
        gone = ServerUnavailableError(f"the server is stopping; sandbox {self.id} runs on, ask its next server")
        self.ended.set_exception(gone)
        self.ended.exception()  # nobody need ask
