"""A backend and control groups in memory. Real pipes lead to an agent that is a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skerry.model.errors import ConflictError, Error, InternalError, StartFailedError
from skerry.model.ids import SandboxId
from skerry.model.members import AgentPipes, Claim, MemberRecord, MemberSpec, MountedVolume, Nic
from skerry.model.usage import MemberUsage
from skerry.wire.frames import HEADER_SIZE, TO_AGENT, FrameType, encode_frame, split_frames
from skerry.wire.messages import VERSION, Hello, Ready, decode, encode

Agent = Callable[[AgentPipes], Awaitable[None]]
FIRST_PID = 1000
EMPTY_TAR = bytes(1024)


async def polite_agent(pipes: AgentPipes) -> None:
    """Answer HELLO and PING until the node hangs up; the least that an agent does."""
    buffer = bytearray()
    while chunk := await _read(pipes.reader_fd):
        buffer += chunk
        taken = 0
        for header, payload in split_frames(memoryview(bytes(buffer)), TO_AGENT):
            taken += HEADER_SIZE + header.length
            answer = _answer(header.type, bytes(payload))
            with contextlib.suppress(BrokenPipeError):
                os.write(pipes.writer_fd, answer)
        del buffer[:taken]


def _answer(kind: int, payload: bytes) -> bytes:
    if kind == FrameType.HELLO:
        generation = decode(payload, Hello).generation
        ready = Ready(version=VERSION, agent="fake", generation=generation, last_stream=0, streams=())
        return encode_frame(FrameType.READY, 0, encode(ready))
    return encode_frame(FrameType.PONG, 0, payload) if kind == FrameType.PING else b""


@dataclass
class FakeSentry:
    """What a machine knows of one sandbox, whatever becomes of the node."""

    pid: int
    agent: Agent
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    claim: Claim | None = None
    nic: Nic | None = None
    lifetime: asyncio.TimerHandle | None = None
    last_words: str = ""
    volumes: tuple[MountedVolume, ...] = ()
    volumes_lost: asyncio.Event = field(default_factory=asyncio.Event)
    agents: list[asyncio.Task[None]] = field(default_factory=list)

    def end(self) -> None:
        """The sentry dies: so does all that is in it."""
        self.ended.set()
        if self.lifetime is not None:
            self.lifetime.cancel()
        for task in self.agents:
            task.cancel()

    def channel(self, first: bytes = b"") -> AgentPipes:
        """Let an agent serve new pipes, and return the node's ends."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        their_reader, their_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if os.write(their_writer, first) != len(first):
            raise InternalError(f"a HELLO of {len(first)} bytes does not fit into a pipe")
        theirs = AgentPipes(reader_fd=their_reader, writer_fd=writer)
        serving = asyncio.get_running_loop().create_task(_serve(self.agent, theirs))
        serving.add_done_callback(lambda _: _close(theirs))  # also where it is cancelled before its first step
        self.agents.append(serving)
        return AgentPipes(reader_fd=reader, writer_fd=their_writer)


@dataclass
class FakeMachine:
    """The machine that outlives a node: give it to a second backend to see what that one finds."""

    sandboxes: dict[SandboxId, FakeSentry] = field(default_factory=dict)

    def new_pid(self) -> int:
        return FIRST_PID + len(self.sandboxes)


class FakeMember:
    """Matches `skerry.node.interfaces.Member`."""

    def __init__(self, machine: FakeMachine, sandbox: SandboxId) -> None:
        self._machine = machine
        self._sandbox = sandbox
        self.state = machine.sandboxes[sandbox]

    @property
    def record(self) -> MemberRecord:
        return MemberRecord(
            sandbox=self._sandbox,
            container_id=f"fake-{self._sandbox}",
            control_socket="/dev/null",
            pid=self.state.pid,
            pid_start=1,
        )

    async def set_lifetime(self, seconds: float) -> None:
        self._require_alive("lifetime")
        if self.state.lifetime is not None:
            self.state.lifetime.cancel()
        self.state.lifetime = asyncio.get_running_loop().call_later(max(0.0, seconds), self.state.end)

    async def plug(self, nic: Nic) -> None:
        self._require_alive("network")
        self.state.nic = nic

    async def claim(self, claim: Claim, hello: bytes = b"") -> AgentPipes:
        self._require_alive("claim")
        if self.state.claim is not None:
            raise ConflictError(f"sandbox {self._sandbox} has been claimed already; boot another member")
        self.state.claim = claim
        return self.state.channel(hello)

    async def attach(self, hello: bytes) -> AgentPipes:
        self._require_claimed("attach")
        return self.state.channel(hello)

    async def save_upper(self, archive_fd: int) -> None:
        self._require_claimed("save_upper")
        os.write(archive_fd, EMPTY_TAR)

    async def usage(self) -> MemberUsage:
        self._require_claimed("usage")
        return MemberUsage(file_bytes=0, processes=0)

    async def wait_ended(self) -> None:
        await self.state.ended.wait()

    async def wait_volumes_lost(self) -> None:
        await self.state.volumes_lost.wait()

    def last_words(self) -> str:
        return self.state.last_words

    def alive(self) -> bool:
        return not self.state.ended.is_set()

    async def destroy(self) -> None:
        self.state.end()
        await asyncio.gather(*self.state.agents, return_exceptions=True)
        self._machine.sandboxes.pop(self._sandbox, None)

    def _require_alive(self, stage: str) -> None:
        if not self.alive():
            raise StartFailedError(f"{self._sandbox} at {stage}: its sentry has ended", stage=stage)

    def _require_claimed(self, stage: str) -> None:
        self._require_alive(stage)
        if self.state.claim is None:
            raise StartFailedError(f"{self._sandbox} at {stage}: it has no container", stage=stage)


class FakeBackend:
    """Matches `skerry.node.interfaces.Backend`. `fail_next_boot` is raised by the next boot."""

    def __init__(self, machine: FakeMachine | None = None, *, agent: Agent = polite_agent) -> None:
        self.machine = machine or FakeMachine()
        self._agent = agent
        self.fail_next_boot: Error | None = None
        self.unavailable: Error | None = None

    async def probe(self) -> None:
        if self.unavailable is not None:
            raise self.unavailable

    async def boot(self, spec: MemberSpec, volumes: Awaitable[Sequence[MountedVolume]] | None = None) -> FakeMember:
        mounted = () if volumes is None else tuple(await volumes)
        failure, self.fail_next_boot = self.fail_next_boot, None
        if failure is not None:
            raise failure
        if spec.sandbox in self.machine.sandboxes:
            raise StartFailedError(f"{spec.sandbox} at boot: there is one already", stage="boot")
        self.machine.sandboxes[spec.sandbox] = FakeSentry(self.machine.new_pid(), self._agent, volumes=mounted)
        return FakeMember(self.machine, spec.sandbox)

    async def adopt(self, record: MemberRecord) -> FakeMember | None:
        state = self.machine.sandboxes.get(record.sandbox)
        if state is None or state.pid != record.pid or state.ended.is_set():
            self.machine.sandboxes.pop(record.sandbox, None)
            return None
        return FakeMember(self.machine, record.sandbox)

    async def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        lines = []
        for sandbox in sorted(self.machine.sandboxes.keys() - set(keep)):
            await FakeMember(self.machine, sandbox).destroy()
            lines.append(f"fake: removed what {sandbox} left")
        return lines


class FakeCgroup:
    """Matches `skerry.node.interfaces.Cgroup`; what it tells is set from outside."""

    def __init__(self, owner: FakeCgroups, sandbox: SandboxId) -> None:
        self._owner = owner
        self._sandbox = sandbox
        self.limits: dict[str, float] = {}
        self.pids: set[int] = set()
        self.oom_killed = 0
        self.memory = self.memory_peak = 0
        self.cpu = 0.0

    @property
    def procs(self) -> tuple[Path, ...]:
        return ()

    def limit(self, *, memory_mib: int, cpus: float, processes: int) -> None:
        self.limits = {"memory_mib": memory_mib, "cpus": cpus, "processes": processes}

    def oom_kills(self) -> int:
        return self.oom_killed

    def memory_bytes(self) -> int:
        return self.memory

    def memory_peak_bytes(self) -> int:
        return self.memory_peak

    def cpu_seconds(self) -> float:
        return self.cpu

    def members(self) -> Collection[int]:
        return self.pids

    def remove(self) -> None:
        self.pids.clear()
        self._owner.groups.pop(self._sandbox, None)


class FakeCgroups:
    """Matches `skerry.node.interfaces.Cgroups`."""

    def __init__(self) -> None:
        self.groups: dict[SandboxId, FakeCgroup] = {}

    def make(self, sandbox: SandboxId) -> FakeCgroup:
        if sandbox in self.groups:
            raise ConflictError(f"sandbox {sandbox} has a control group already; sweep first")
        self.groups[sandbox] = FakeCgroup(self, sandbox)
        return self.groups[sandbox]

    def find(self, sandbox: SandboxId) -> FakeCgroup | None:
        return self.groups.get(sandbox)

    def close(self) -> None:
        """Nothing to do: sandboxes share nothing here."""

    def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        strays = sorted(self.groups.keys() - set(keep))
        for sandbox in strays:
            self.groups[sandbox].remove()
        return [f"fake: removed the control group of {sandbox}" for sandbox in strays]


async def _serve(agent: Agent, pipes: AgentPipes) -> None:
    await agent(pipes)


def _close(pipes: AgentPipes) -> None:
    os.close(pipes.reader_fd)
    os.close(pipes.writer_fd)


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 1 << 16)
