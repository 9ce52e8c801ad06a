"""One sandbox on this host, from its start to its end.

    starting ──> running ──> ended
        └───────────────────────^

One task owns it: `start` for a new sandbox, `take_over` for one that an earlier node started, then `watch` until its
end. Whatever may end it, from inside or outside, becomes a `Happening` in one queue. The first is judged (`ends.py`),
then all that the sandbox holds is given back. Everyone else reads what is published: `ended`, the process table.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from skerry.images.merge import DROPPED, merge
from skerry.model.errors import (
    ConflictError,
    Error,
    ImageBuildError,
    SandboxEndedError,
    ServerUnavailableError,
    StartFailedError,
)
from skerry.model.events import Events
from skerry.model.exits import ProcessExit, SandboxExit, SandboxReason
from skerry.model.ids import ProcessId
from skerry.model.nodes import Launch, SandboxEnded, Started
from skerry.model.sandboxes import ProcessView, Stage
from skerry.model.specs import ExecSpec, HostAccess, Resources
from skerry.model.text import escaped
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import LinkLost, Lost, StreamError
from skerry.node.archives import archive_bound, save_archive
from skerry.node.ends import Seen, sandbox_exit
from skerry.node.environment import sandbox_environment
from skerry.node.holdings import AGENT_S, Holdings
from skerry.node.interfaces import Member
from skerry.node.machinery import Machinery
from skerry.node.processes import NodeProcess, exec_spec, open_exec
from skerry.node.records import SandboxRecord
from skerry.node.table import ProcessTable
from skerry.node.waterfall import Waterfall
from skerry.wire.frames import FrameType, ProtocolViolation, encode_frame
from skerry.wire.messages import Hello, Ready, Setup, encode

log = Events("skerry.node")

DRAIN_S: Final = 0.3
"""How long the entrypoint's output may stand still before it is taken for all that comes."""
DRAIN_MAX_S: Final = 2.0
"""How long it may go on arriving: what was written before the end is at most a pipe and a window of each channel."""
PULSE_EVERY_S: Final = 5.0
PULSE_S: Final = 20.0
"""How often an agent that somebody waits for is asked for a sign, and how long it may take: a busy machine is slow."""
LIFETIME_GRACE_S: Final = 5.0
BEGIN_S: Final = 30.0
"""How long an agent may take to start a process, before it is taken for broken."""
SENTRY_S: Final = 1.0
"""How long a sentry whose agent is gone may take to follow it, before it is taken to live on."""


@dataclass(frozen=True)
class Asked:
    """Somebody ends it on purpose."""

    reason: SandboxReason


@dataclass(frozen=True)
class EntrypointEnded:
    exit: ProcessExit


@dataclass(frozen=True)
class AgentGone:
    """The link to its agent is over."""

    lost: Lost


@dataclass(frozen=True)
class AgentSilent:
    """Its agent answers nothing, though the link is there."""

    evidence: str


@dataclass(frozen=True)
class SentryGone:
    pass


@dataclass(frozen=True)
class Leave:
    """The node goes, the sandbox stays: its successor takes it over."""


Happening = Asked | EntrypointEnded | AgentGone | AgentSilent | SentryGone | Leave


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What processes of a sandbox start with."""

    env: dict[str, str]
    workdir: str
    user: str


class Supervisor:
    """The owner of one sandbox."""

    def __init__(
        self,
        launch: Launch,
        machinery: Machinery,
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
        self.table = ProcessTable(
            launch.sandbox,
            machinery.output_folder / launch.sandbox,
            machinery.quota,
            oom_kills=self._holdings.oom_kills,
            on_exit=self._on_process_exit,
        )
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self._watchers: list[asyncio.Task[None]] = []
        self._ending = False
        self._left = False
        self._secret = b""
        self._generation = 0
        self._started_at = 0.0
        config = launch.image.config
        self._defaults = Defaults(
            env=sandbox_environment(config, launch.spec.host_access, launch.spec.env),
            workdir=launch.spec.workdir or config.workdir,
            user=launch.spec.user or config.user,
        )

    # Its life

    async def start(self) -> Started:
        """Return when it runs, its entrypoint included; on any failure nothing of it is left."""
        waterfall = Waterfall()
        try:
            self._started_at = self._now()
            await self._holdings.take(self._launch, self._first_hello, waterfall)
            with waterfall.stage("entrypoint"):
                self._record(waterfall)
                await self._start_entrypoint()
        except BaseException as exc:
            await asyncio.shield(self._give_up(exc))
            if isinstance(exc, Error) or not isinstance(exc, Exception):
                raise
            raise StartFailedError(f"sandbox {self.id} could not be started: {exc}") from exc
        self.started = Started(started_at=self._started_at, stages=tuple(waterfall.stages))
        self._record(waterfall)
        return self.started

    async def watch(self) -> None:
        """Wait for what ends it, judge that, and remove everything; or let go of it when the node leaves."""
        self._begin_watching()
        happening = await self._happenings.get()
        if isinstance(happening, Leave):
            await self._let_go()
            return
        self._ending = True
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
            return SandboxEndedError(f"sandbox {self.id} is ending; create another one")
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
        link = self.link()
        defaults = self._defaults
        op = open_exec(spec, env=defaults.env, workdir=defaults.workdir, user=defaults.user)
        view = ProcessView(
            id=process,
            sandbox=self.id,
            argv=spec.argv,
            started_at=self._now(),
            terminal=spec.terminal is not None,
        )
        try:
            async with asyncio.timeout(BEGIN_S):
                return await self.table.start(link, view, op, timeout_s=spec.timeout_s)
        except TimeoutError as exc:
            self.happen(AgentSilent(f"its agent started no process within {BEGIN_S:g} s"))
            raise SandboxEndedError(f"sandbox {self.id} does not answer and is ended; create another one") from exc
        except LinkLost as exc:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGENT_S):
                    await asyncio.shield(self.ended)
            raise self.ended_error() from exc

    async def pack(self, into: Path) -> Sequence[str]:
        """Write its root file system, the image with its changes, to an EROFS file; return what was left out."""
        if self._launch.build_disk_mib is None or self._holdings.member is None:
            raise ConflictError(f"sandbox {self.id} is no build; only builds are packed")
        archive = into.with_name(into.name + ".tar")
        base, most = self._launch.image.file, archive_bound(self._launch.build_disk_mib)
        try:
            await self._save(self._holdings.member, archive, most)
            return await merge(
                self._machinery.image_helper, base=base, upper=archive, into=into, drop=DROPPED, most=most
            )
        finally:
            archive.unlink(missing_ok=True)

    async def _save(self, member: Member, archive: Path, most: int) -> None:
        try:
            await save_archive(member, archive, most=most)
        except StartFailedError as exc:
            memory = self.resources.memory_limit_mib
            # The collector lets go of a file only after it has made room for the next ones: with 512 MiB, files of
            # 256 MiB end the sentry and files of 170 MiB do not.
            raise ImageBuildError(
                f"its changes were not saved: {exc.message}. A file is read whole into the {memory} MiB of a build's "
                f"memory: files of up to {memory // 4} MiB fit, sparse ones with their full size"
            ) from exc

    # Start

    def _first_hello(self, setup: Setup) -> Hello:
        self._secret = secrets.token_bytes(32)
        self._generation = 1
        return Hello(secret=self._secret, proof=None, generation=1, setup=setup)

    async def _start_entrypoint(self) -> None:
        command = self._launch.spec.entrypoint or self._launch.image.config.command
        if self._launch.entrypoint is not None and command:
            await self.exec(self._launch.entrypoint, exec_spec(command, self._launch.spec.terminal))

    def _on_process_exit(self, process: ProcessId, end: ProcessExit) -> None:
        if process == self._launch.entrypoint:
            self.happen(EntrypointEnded(end))

    def _record(self, waterfall: Waterfall) -> None:
        self._put_record((self._secret,), tuple(waterfall.stages))

    def _put_record(self, keys: tuple[bytes, ...], stages: tuple[Stage, ...]) -> None:
        assert self._holdings.member is not None
        self._machinery.records.put(
            SandboxRecord(
                sandbox=self.id,
                member=self._holdings.member.record,
                secrets=keys,
                generation=self._generation,
                started_at=self._started_at,
                stages=stages,
                launch=without_access(self._launch),
                env=self._defaults.env,
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
        self._generation = record.generation
        self._defaults = Defaults(env=dict(record.env), workdir=self._defaults.workdir, user=self._defaults.user)
        self.started = Started(started_at=record.started_at, stages=record.stages)
        self.table.read()
        holdings = self._holdings
        holdings.cgroup = self._machinery.cgroups.find(self.id)
        holdings.slot = await self._machinery.network.adopt(self.id)
        holdings.member = await self._machinery.backend.adopt(record.member)
        if self.table.end is not None:  # the kill came while it was removed
            self._ending = True
            await self._finish(self.table.end.exit)
            return False
        if holdings.member is None:
            return await self._ended_meanwhile(sentry_alive=False)
        if holdings.slot is not None and holdings.slot.is_open:
            await holdings.slot.open()
        ready = await self._attach(record)
        if ready is None:
            return await self._ended_meanwhile(sentry_alive=True)
        assert holdings.link is not None
        self.table.resume(holdings.link, ready, now=self._now())
        entrypoint = self.table.get(self._launch.entrypoint) if self._launch.entrypoint else None
        if entrypoint is None:
            await self._start_entrypoint()  # the kill came between the start and its command
        elif entrypoint.ended:
            self.happen(EntrypointEnded(await entrypoint.wait()))
        return True

    async def _attach(self, record: SandboxRecord) -> Ready | None:
        """Return the agent's READY on a new link, or None if it gives none."""
        assert self._holdings.member is not None
        self._secret = secrets.token_bytes(32)
        for proof in record.secrets:
            self._generation += 1
            # Both until the answer is here: a kill in between leaves the question which of them the agent has.
            self._put_record((self._secret, *record.secrets), record.stages)
            hello = Hello(secret=self._secret, proof=proof, generation=self._generation, setup=None)
            ready = await self._try_attach(hello)
            if ready is not None:
                self._put_record((self._secret,), record.stages)
                return ready
        return None

    async def _try_attach(self, hello: Hello) -> Ready | None:
        assert self._holdings.member is not None
        try:
            pipes = await self._holdings.member.attach(encode_frame(FrameType.HELLO, 0, encode(hello)))
            link = AgentLink(pipes.reader_fd, pipes.writer_fd)
        except Error as exc:
            log.warning("sandbox.attach_failed", sandbox=self.id, cause=escaped(str(exc)))
            return None
        try:
            ready = await link.hello(hello, deadline=asyncio.get_running_loop().time() + AGENT_S, sent=True)
        except (TimeoutError, LinkLost) as exc:
            log.warning("sandbox.attach_failed", sandbox=self.id, cause=escaped(str(exc)))
            link.close()
            return None
        self._holdings.link = link
        return ready

    async def abandon(self, fault: Exception) -> None:
        """End it because this node cannot take it over; what it holds is given back."""
        self._ending = True
        evidence = f"its next node could not take it over: {type(fault).__name__}: {escaped(str(fault))}"
        await self._finish(SandboxExit(reason=SandboxReason.NODE_LOST, evidence=evidence))

    async def _ended_meanwhile(self, *, sentry_alive: bool) -> bool:
        self._ending = True
        entrypoint = self.table.get(self._launch.entrypoint) if self._launch.entrypoint else None
        seen = Seen(
            now=self._now(),
            deadline=self._deadline,
            entrypoint=await entrypoint.wait() if entrypoint is not None and entrypoint.ended else None,
            silent="its agent did not answer the server that came back",
            sentry_alive=sentry_alive,
            oom_kills=self.table.kills.untold(),
        )
        await self._finish(sandbox_exit(seen))
        return False

    # The end

    @property
    def _deadline(self) -> float:
        return self._started_at + self._launch.spec.lifetime_s

    def _begin_watching(self) -> None:
        create = asyncio.get_running_loop().create_task
        watches = (self._watch_sentry(), self._watch_agent(), self._watch_pulse(), self._watch_lifetime())
        self._watchers = [create(watch) for watch in watches]

    async def _watch_sentry(self) -> None:
        assert self._holdings.member is not None
        await self._holdings.member.wait_ended()
        self.happen(SentryGone())

    async def _watch_agent(self) -> None:
        assert self._holdings.link is not None
        self.happen(AgentGone(await asyncio.shield(self._holdings.link.lost)))

    async def _watch_pulse(self) -> None:
        """End it when its agent answers nothing while somebody waits for it: a guest may have stopped or blocked it."""
        link = self._holdings.link
        assert link is not None
        with contextlib.suppress(LinkLost):
            while True:
                await asyncio.sleep(PULSE_EVERY_S)
                if not len(link.streams):
                    continue
                try:
                    async with asyncio.timeout(PULSE_S):
                        await link.ping()
                except TimeoutError:
                    self.happen(AgentSilent(f"its agent gave no answer for {PULSE_S:g} s"))
                    return

    async def _watch_lifetime(self) -> None:
        """End it at its lifetime if its keeper has not: the keeper runs on a kernel that may have been broken into."""
        await asyncio.sleep(max(0.0, self._deadline + LIFETIME_GRACE_S - self._now()))
        self.happen(Asked(SandboxReason.LIFETIME))

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
            asyncio.ensure_future(self._drain(self._launch.entrypoint)),
            asyncio.ensure_future(self._happenings.get()),
        ]
        try:
            await asyncio.wait(work, timeout=DRAIN_MAX_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _await_sentry(self) -> None:
        """Give a sentry whose agent is gone a moment: the two usually end together, the pipes a little earlier."""
        assert self._holdings.member is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SENTRY_S):
                await self._holdings.member.wait_ended()

    async def _drain(self, identifier: ProcessId | None) -> None:
        """Let the output of an ended process arrive, until its channels end or nothing more comes."""
        process = self.table.get(identifier) if identifier is not None else None
        if process is None or process.stream is None:
            return
        while not all(process.output(channel).ended for channel in (1, 2)):
            before = sum(process.output(channel).end for channel in (1, 2))
            ends = [process.stream.ended(channel) for channel in (1, 2) if not process.output(channel).ended]
            with contextlib.suppress(TimeoutError, LinkLost, StreamError):
                async with asyncio.timeout(DRAIN_S):
                    await asyncio.gather(*ends)
            if before == sum(process.output(channel).end for channel in (1, 2)):
                return

    async def _finish(self, end: SandboxExit) -> None:
        """Give everything back, then tell; whatever fails, it is told."""
        ended = SandboxEnded(sandbox=self.id, exit=end, at=self._now())
        try:
            self.table.decide(end, ended.at)
            await self._stop_watching()
            await self._holdings.give_back()
            self.table.settle_all(end, ended.at)
            self._machinery.records.remove(self.id)
        except Exception as exc:
            log.error("sandbox.not_removed", exc=exc, sandbox=self.id)
        self._on_ended(ended)
        self.ended.set_result(ended)

    async def _stop_watching(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()

    async def _let_go(self) -> None:
        await self._stop_watching()
        self._ending = self._left = True
        if self._holdings.link is not None:
            self._holdings.link.close()
        gone = ServerUnavailableError(f"the server is stopping; sandbox {self.id} runs on, ask its next server")
        self.ended.set_exception(gone)
        self.ended.exception()  # nobody need ask


def without_access(launch: Launch) -> Launch:
    """Return a launch without what the caller's machine added. Of that a record only has the variables of processes,
    which hold no credentials, for as long as the sandbox lives."""
    return replace(launch, spec=replace(launch.spec, host_access=HostAccess()))
