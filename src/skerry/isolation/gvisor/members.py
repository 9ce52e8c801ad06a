"""One member: a gVisor sandbox from its first process to the last file that it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skerry.isolation.gvisor import bodies
from skerry.isolation.gvisor.control import Control, ControlError
from skerry.isolation.gvisor.folders import StateFolder, container_id, member_id
from skerry.isolation.gvisor.gofer import Gofer
from skerry.isolation.gvisor.keeper import Keeper, KeeperError
from skerry.isolation.gvisor.logs import AGENT, ATTACH, Logs
from skerry.isolation.gvisor.processes import ProcessKey, Watch, reap
from skerry.isolation.gvisor.usage import usage_of
from skerry.model.errors import ConflictError, InternalError, StartFailedError
from skerry.model.ids import SandboxId
from skerry.model.members import AgentPipes, Claim, MemberRecord, Nic
from skerry.model.usage import MemberUsage

KEEPER_SECONDS = 5.0
END_SECONDS = 5.0
SAVE_SECONDS = 600.0
SENTRY_SECONDS = 1.0  # a gofer ends with its sentry, and may be seen to do so first
PIPE_BYTES = 1 << 20
_PACKET_VNET_HDR = 15  # linux/if_packet.h
_SOL_PACKET = 263


class GvisorMember:
    """A booted sandbox; matches `skerry.node.interfaces.Member`."""

    def __init__(
        self,
        sandbox: SandboxId,
        sentry: ProcessKey,
        *,
        state: StateFolder,
        logs: Logs,
        agent_image: int,
        new: bool,
        gofer: Gofer | None = None,
    ) -> None:
        """Take over a sandbox whose sentry runs, its logs and its gofer. `agent_image` stays the caller's."""
        self._sandbox = sandbox
        self._state = state
        self._agent_image = agent_image
        self._logs = logs
        self._gofer = gofer
        self._sentry = Watch(sentry)
        self._control = Control(state.control_socket(sandbox))
        folder = state.member(sandbox)
        self._keeper = Keeper(folder.keeper_in, folder.keeper_out, new=new)
        self._claimed = False
        self._collecting: set[asyncio.Task[None]] = set()
        self._destroying = asyncio.Lock()
        self._destroyed = False

    @property
    def record(self) -> MemberRecord:
        return MemberRecord(
            sandbox=self._sandbox,
            container_id=container_id(self._sandbox),
            control_socket=str(self._state.control_socket(self._sandbox)),
            pid=self._sentry.key.pid,
            pid_start=self._sentry.key.start,
            extra={} if self._gofer is None else self._gofer.record,
        )

    async def start(self) -> None:
        """Start the keeper; the first `set_lifetime` waits for its greeting, while a claim may go on."""
        await self._call("boot", "containerManager.SetNetworkArgs", bodies.loopback())
        await self._call("boot", "containerManager.StartRoot", member_id(self._sandbox))

    async def set_lifetime(self, seconds: float) -> None:
        await self._bounded("lifetime", self._keeper.ask(f"lifetime {max(0, round(seconds * 1000))}"))

    async def plug(self, nic: Nic) -> None:
        segmentation = _carries_virtio_headers(nic.socket_fd)
        body = bodies.card(nic, segmentation=segmentation)
        await self._call("network", "Network.CreateLinksAndRoutes", body, [nic.socket_fd])

    async def claim(self, claim: Claim, hello: bytes = b"") -> AgentPipes:
        if self._claimed:
            raise ConflictError(f"sandbox {self._sandbox} has been claimed already; boot another member")
        self._claimed = True
        identifier = container_id(self._sandbox)
        await self._call("claim", "containerManager.CreateSubcontainer", {"CID": identifier})
        volumes = () if self._gofer is None else self._gofer.volumes
        arguments = bodies.claim_arguments(
            claim, member_id=member_id(self._sandbox), container_id=identifier, volumes=volumes
        )
        with contextlib.ExitStack() as files:
            pipes = _Pipes(files)
            pipes.fill(hello)
            given = [*pipes.theirs, self._logs.new(AGENT), *_image_files(files, claim, self._agent_image)]
            if self._gofer is not None:
                given += self._gofer.sockets
                files.callback(self._gofer.close_sockets)
            await self._call("claim", "containerManager.StartSubcontainer", arguments, given)
            return pipes.keep()

    async def attach(self, hello: bytes) -> AgentPipes:
        arguments = bodies.attach_arguments(container_id(self._sandbox))
        with contextlib.ExitStack() as files:
            pipes = _Pipes(files)
            pipes.fill(hello)
            given = [*pipes.theirs, self._logs.new(ATTACH)]
            pid = await self._call("attach", "containerManager.ExecuteAsync", arguments, given)
            task = asyncio.create_task(self._collect(pid))
            self._collecting.add(task)
            task.add_done_callback(self._collecting.discard)
            return pipes.keep()

    async def save_upper(self, archive_fd: int) -> None:
        async with self._own_connection() as control:
            method, body = "Fs.TarRootfsUpperLayer", {"ContainerID": container_id(self._sandbox)}
            try:
                await control.call(method, body, [archive_fd], seconds=SAVE_SECONDS)
            except ControlError as exc:
                raise self._failed("save_upper", exc) from exc

    async def usage(self) -> MemberUsage:
        return await usage_of(self._control, container_id(self._sandbox))

    async def wait_ended(self) -> None:
        await self._sentry.ended()
        reap(self._sentry.key.pid)

    async def wait_volumes_lost(self) -> None:
        """Return when the gofer has ended and the sentry has not; never where there are no volumes."""
        if self._gofer is not None:
            await self._gofer.ended()
            try:
                async with asyncio.timeout(SENTRY_SECONDS):
                    await self._sentry.ended()
            except TimeoutError:
                return
        await asyncio.Event().wait()

    def last_words(self) -> str:
        return self._logs.last_words()

    def alive(self) -> bool:
        return self._sentry.key.alive()

    async def destroy(self) -> None:
        async with self._destroying:
            if self._destroyed:
                return
            await self._end(self._sentry, "sentry")
            if self._gofer is not None:
                if self._gofer.watch is not None:
                    await self._end(self._gofer.watch, "gofer")
                self._gofer.close()
            self._state.remove(self._sandbox)
            self._destroyed = True
            await self._stop_collecting()
            self._sentry.close()
            self._control.close()
            self._keeper.close()
            self._logs.close()

    async def _end(self, process: Watch, what: str) -> None:
        # Each is the first process of its pid namespace: the kernel ends all others there before it is gone.
        process.kill()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.ended()
                reap(process.key.pid)
        except TimeoutError as exc:
            pid = process.key.pid
            raise InternalError(
                f"the {what} of {self._sandbox} does not end; see /proc/{pid}/stack, and destroy it again"
            ) from exc

    async def _call(self, stage: str, method: str, argument: object, files: Sequence[int] = ()) -> Any:
        try:
            return await self._control.call(method, argument, files)
        except ControlError as exc:
            raise self._failed(stage, exc) from exc

    @contextlib.asynccontextmanager
    async def _own_connection(self) -> AsyncIterator[Control]:
        """A connection of its own for a call that takes long, since each carries one call at a time."""
        control = Control(self._state.control_socket(self._sandbox))
        try:
            yield control
        finally:
            control.close()

    async def _collect(self, pid: object) -> None:
        """Take the exit of an executed process: the sentry remembers each until somebody has."""
        arguments = {"CID": container_id(self._sandbox), "PID": pid}
        async with self._own_connection() as control:
            with contextlib.suppress(ControlError):
                await control.call("containerManager.WaitPID", arguments)

    async def _stop_collecting(self) -> None:
        for task in tuple(self._collecting):
            task.cancel()
        await asyncio.gather(*self._collecting, return_exceptions=True)

    async def _bounded(self, stage: str, answer: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(KEEPER_SECONDS):
                await answer
        except TimeoutError as exc:
            raise self._failed(stage, f"the keeper gave no answer within {KEEPER_SECONDS:g} s") from exc
        except KeeperError as exc:
            raise self._failed(stage, exc) from exc

    def _failed(self, stage: str, cause: object) -> StartFailedError:
        said = self.last_words()
        state = "" if self.alive() else "; its sentry has ended"
        return StartFailedError(f"{self._sandbox} at {stage}: {cause}{state}{said and f' ({said})'}", stage=stage)


class _Pipes:
    """Two pipes: `theirs` go to the sandbox, `reader` and `writer` stay."""

    def __init__(self, files: contextlib.ExitStack) -> None:
        self._ours = contextlib.ExitStack()
        files.push(self._ours)
        their_reader, self.writer = os.pipe2(os.O_CLOEXEC)
        self.reader, their_writer = os.pipe2(os.O_CLOEXEC)
        self.theirs = (their_reader, their_writer)
        for fd in self.theirs:
            files.callback(os.close, fd)
        for fd in (self.reader, self.writer):
            self._ours.callback(os.close, fd)
            os.set_blocking(fd, False)
            # The size of the pipe is what decides on the throughput; the default is 64 KiB.
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fill(self, hello: bytes) -> None:
        """Put a HELLO in before anyone reads; raises InternalError where it does not fit."""
        if os.write(self.writer, hello) != len(hello):
            raise InternalError(f"a HELLO of {len(hello)} bytes does not fit into a pipe")

    def keep(self) -> AgentPipes:
        self._ours.pop_all()
        return AgentPipes(reader_fd=self.reader, writer_fd=self.writer)


def _image_files(files: contextlib.ExitStack, claim: Claim, agent_image: int) -> Iterator[int]:
    if claim.upper.disk_folder is not None:
        yield _unlinked(files, claim.upper.disk_folder)
    yield _opened(files, claim.image, os.O_RDONLY)
    yield agent_image
    for extra in claim.extra_images:
        yield _opened(files, extra.image, os.O_RDONLY)


def _opened(files: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    files.callback(os.close, fd)
    return fd


def _unlinked(files: contextlib.ExitStack, folder: Path) -> int:
    """A file of its own without a name: it goes when the sandbox does, whatever else happens."""
    return files.enter_context(tempfile.TemporaryFile(dir=folder)).fileno()


def _carries_virtio_headers(packet_socket: int) -> bool:
    with socket.socket(fileno=os.dup(packet_socket)) as opened:
        return opened.getsockopt(_SOL_PACKET, _PACKET_VNET_HDR) != 0
