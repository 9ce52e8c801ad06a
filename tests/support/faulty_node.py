"""A node over fakes in which one step fails: the machine, the network, the agent of each sandbox, and the faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from skerry.model.errors import StartFailedError
from skerry.model.ids import NODE, PROCESS, SANDBOX, ImageId, NodeId, ProcessId, RandomIds, SandboxId
from skerry.model.members import AgentPipes, Nic
from skerry.model.nodes import Launch, RootImage
from skerry.model.specs import HostAccess, NetworkPolicy, SandboxSpec
from skerry.node.machinery import Machinery
from skerry.node.node import Node
from skerry.node.output_quota import NodeQuota
from skerry.node.records import Records
from skerry.testing.backend import FakeBackend, FakeCgroups, FakeMachine
from skerry.testing.vault import MemoryVault
from skerry.testing.volumes import FakeMounts
from skerry.wire.frames import HEADER_SIZE, TO_AGENT, FrameType, encode_end, encode_frame, split_frames
from skerry.wire.messages import VERSION, Hello, Ready, decode, encode

IDS = RandomIds()
EXIT = {"code": 0, "signal": None, "reason": "exited", "evidence": ""}
FAULTS = ("raises", "breaks", "hangs", "dies")


@dataclass
class Fault:
    """What goes wrong, once, when a step is taken: `Class.method`, or `agent` and a type of frame."""

    step: str
    kind: str
    met: asyncio.Event = field(default_factory=asyncio.Event)

    async def strike(self, step: str, machine: FakeMachine) -> None:
        if step != self.step or self.met.is_set():
            return
        self.met.set()
        if self.kind == "hangs":
            await asyncio.Event().wait()
        self._strike_now(machine)

    def strike_at_once(self, step: str, machine: FakeMachine) -> None:
        """The same for a step that waits for nothing."""
        if step == self.step and not self.met.is_set():
            self.met.set()
            self._strike_now(machine)

    def _strike_now(self, machine: FakeMachine) -> None:
        if self.kind == "raises":
            raise StartFailedError(f"{self.step} was refused", stage="test")
        if self.kind == "breaks":
            raise OSError(5, f"{self.step} does not work")
        for sentry in list(machine.sandboxes.values()):
            sentry.end()


NO_FAULT = Fault("", "")


class Between:
    """Stands before an object: its coroutines, and what they return, fail as the fault says."""

    def __init__(self, real: Any, world: World) -> None:
        self._real = real
        self._world = world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found
        step = f"{type(self._real).__name__}.{name}"
        if asyncio.iscoroutinefunction(found):
            return lambda *given, **named: self._call(step, found, *given, **named)
        return lambda *given, **named: self._call_now(step, found, *given, **named)

    async def _call(self, step: str, found: Any, *given: Any, **named: Any) -> Any:
        await self._world.fault.strike(step, self._world.machine)
        return self._between(await found(*given, **named))

    def _call_now(self, step: str, found: Any, *given: Any, **named: Any) -> Any:
        self._world.fault.strike_at_once(step, self._world.machine)
        return self._between(found(*given, **named))

    def _between(self, made: Any) -> Any:
        return Between(made, self._world) if type(made).__name__ in ("FakeMember", "FakeCgroup", "FakeSlot") else made


class FakeSlot:
    """The network of one sandbox."""

    def __init__(self, network: FakeNetwork, sandbox: SandboxId) -> None:
        self._network = network
        self._sandbox = sandbox
        self.is_open = False

    @contextlib.asynccontextmanager
    async def _nic(self) -> AsyncIterator[Nic]:
        yield None  # type: ignore[misc] - the fake member only keeps it

    def nic(self) -> contextlib.AbstractAsyncContextManager[Nic]:
        return self._nic()

    async def open(self, access: HostAccess | None = None) -> None:
        self.is_open = True

    async def release(self) -> None:
        self._network.slots.pop(self._sandbox, None)

    def hosts(self, name: str) -> str:
        return f"127.0.0.1 {name}\n"

    def resolv_conf(self) -> str:
        return "nameserver 127.0.0.1\n"


class FakeNetwork:
    """Slots in memory, which outlive a node as those of a machine do."""

    def __init__(self) -> None:
        self.slots: dict[SandboxId, FakeSlot] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def leave(self) -> None: ...

    async def slot(self, sandbox: SandboxId) -> FakeSlot:
        self.slots[sandbox] = FakeSlot(self, sandbox)
        return self.slots[sandbox]

    async def adopt(self, sandbox: SandboxId) -> FakeSlot | None:
        return self.slots.get(sandbox)

    async def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        strays = self.slots.keys() - set(keep)
        for stray in strays:
            del self.slots[stray]
        return [f"fake: removed the slot of {stray}" for stray in strays]


class NoTrust:
    """No certificates."""

    async def image(self, bundle: bytes) -> Path:
        return Path("trust.erofs")


class World:
    """The machine, and a node on it. `node()` again is its successor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = FakeMachine()
        self.cgroups = FakeCgroups()
        self.network = FakeNetwork()
        self.fault = NO_FAULT
        self.streams: dict[int, list[int]] = {}
        self.quota = NodeQuota(lambda: 1 << 40)
        self.vault = MemoryVault()
        self._nodes: list[Node] = []

    async def node(self) -> Node:
        """Open a node, or the successor of one that was closed."""
        machinery = Machinery(
            backend=Between(FakeBackend(self.machine, agent=self._agent), self),
            cgroups=Between(self.cgroups, self),
            network=Between(self.network, self),
            records=Between(Records(self.folder / "records"), self),
            vault=self.vault,
            quota=self.quota,
            trust=NoTrust(),
            volumes=FakeMounts(),
            output_folder=self.folder / "output",
            build_folder=self.folder / "builds",
            image_helper=Path("/none"),
            cpus=4,
            memory_mib=4096,
        )
        node = Node(id=NodeId(IDS.new(NODE)), machinery=machinery)
        await node.open()
        self._nodes.append(node)
        return node

    async def close(self) -> None:
        for node in self._nodes:
            await node.close()
        for sentry in list(self.machine.sandboxes.values()):
            sentry.end()
            await asyncio.gather(*sentry.agents, return_exceptions=True)
        self.quota.close()

    def launch(self, *, lifetime_s: float = 600.0) -> Launch:
        spec = SandboxSpec(
            image=ImageId("im_1"), entrypoint=("run",), network=NetworkPolicy.OPEN, lifetime_s=lifetime_s
        )
        return Launch(
            sandbox=SandboxId(IDS.new(SANDBOX)),
            spec=spec,
            image=RootImage(file=Path("image.erofs")),
            entrypoint=ProcessId(IDS.new(PROCESS)),
        )

    def left(self) -> Mapping[str, object]:
        """Return everything that a sandbox has on the machine, by kind; nothing of it where there is none."""
        kinds = {
            "sentries": list(self.machine.sandboxes),
            "control groups": list(self.cgroups.groups),
            "slots": list(self.network.slots),
            "records": [path.name for path in (self.folder / "records").iterdir()],
        }
        return {kind: found for kind, found in kinds.items() if found}

    def outputs(self) -> list[str]:
        return [path.name for path in (self.folder / "output").iterdir()]

    async def _agent(self, pipes: AgentPipes) -> None:
        """Start what is asked for, and run it on; `true` ends at once."""
        async for kind, stream, payload in _frames(pipes.reader_fd):
            step = f"agent.{FrameType(kind).name}"
            if self.fault.step == step and not self.fault.met.is_set():
                self.fault.met.set()
                if self.fault.kind == "hangs":
                    continue  # silent, and alive
                if self.fault.kind == "raises":
                    os.write(pipes.writer_fd, b"\xff" * HEADER_SIZE)  # no frame at all
                    continue
                if self.fault.kind == "breaks":
                    return  # its pipes close
                for sentry in list(self.machine.sandboxes.values()):
                    sentry.end()
                return
            for answer in self._answers(kind, stream, payload):
                with contextlib.suppress(BrokenPipeError):
                    os.write(pipes.writer_fd, answer)

    def _answers(self, kind: int, stream: int, payload: bytes) -> list[bytes]:
        if kind == FrameType.HELLO:
            generation = decode(payload, Hello).generation
            ready = Ready(version=VERSION, agent="fake", generation=generation, last_stream=0, streams=())
            return [encode_frame(FrameType.READY, 0, encode(ready))]
        if kind == FrameType.PING:
            return [encode_frame(FrameType.PONG, 0, payload)]
        if kind != FrameType.OPEN:
            return []
        answers = [encode_frame(FrameType.STARTED, stream, msgspec.msgpack.encode({"pid": 7}))]
        if bytes(msgspec.msgpack.decode(payload)["argv"][0]) == b"true":
            answers += [encode_end(stream, channel, 0) for channel in (1, 2)]
            answers += [encode_frame(FrameType.EXIT, stream, msgspec.msgpack.encode(EXIT))]
        return answers


async def _frames(fd: int) -> AsyncIterator[tuple[int, int, bytes]]:
    loop = asyncio.get_running_loop()
    buffer = bytearray()
    while True:
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(fd)
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return
        buffer += chunk
        taken = 0
        for header, payload in split_frames(memoryview(bytes(buffer)), TO_AGENT):
            taken += HEADER_SIZE + header.length
            yield header.type, header.stream, bytes(payload)
        del buffer[:taken]
