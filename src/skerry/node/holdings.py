"""What one sandbox holds on its node, taken in order and given back whole."""

from __future__ import annotations

import asyncio
import math
import os
import select
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from skerry.images.erofs import image_xattrs
from skerry.model.errors import Error, InternalError, StartFailedError
from skerry.model.events import Events
from skerry.model.ids import SandboxId, VolumeId
from skerry.model.members import Claim, ExtraImage, MemberRecord, MemberSpec, MountedVolume, Upper
from skerry.model.nodes import Launch
from skerry.model.specs import NetworkPolicy, Resources
from skerry.model.volumes import VolumeMount
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import LinkLost
from skerry.node.environment import TRUST_MOUNT
from skerry.node.interfaces import Cgroup, Member
from skerry.node.machinery import Machinery
from skerry.node.network.slots import Slot
from skerry.node.streams import hello_frame
from skerry.node.waterfall import Waterfall
from skerry.wire.messages import Hello, Setup

log = Events("skerry.node")

AGENT_S: Final = 10.0
SENTRY_MIB: Final = 64
"""What gVisor's kernel needs for itself, on top of the memory that a program was promised."""
STUBS: Final = 4
"""What the machine may run for each process of the guest. gVisor takes three: the bare address space, the thread that
changes it, and the one in which the guest's code runs."""
HOST_PROCESSES: Final = 1024
"""Threads of the sentry, beside the stubs. A backstop that ends the sandbox: the guest has a limit of its own."""


class Holdings:
    """The cgroup, network slot, volumes, member and agent link of one sandbox; each is None until it is there."""

    def __init__(self, sandbox: SandboxId, machinery: Machinery) -> None:
        self.sandbox = sandbox
        self._machinery = machinery
        self.cgroup: Cgroup | None = None
        self.slot: Slot | None = None
        self.member: Member | None = None
        self.link: AgentLink | None = None
        self._volumes: list[VolumeId] = []

    async def take(self, launch: Launch, hello: Callable[[Setup], Hello], waterfall: Waterfall) -> None:
        """Start everything; on failure, what was taken stays for `give_back`."""
        spec = launch.spec
        with waterfall.stage("boot"):
            self.cgroup = cgroup = self._machinery.cgroups.make(self.sandbox)
            _limit(cgroup, launch.spec.resources)
            open_network = spec.network is NetworkPolicy.OPEN
            await together(self._boot(cgroup, spec.volumes), *([self._take_slot()] if open_network else []))
        member = self._have_member()
        if self.slot is not None:
            with waterfall.stage("network"):
                async with self.slot.nic() as nic:
                    await member.plug(nic)
        with waterfall.stage("claim"):
            claim, greeting = await self._claim(launch), hello(self._setup(launch))
            frame = hello_frame(greeting)
            ahead = frame if len(frame) <= select.PIPE_BUF else b""
            opening = [self.slot.open(spec.host_access)] if self.slot is not None else []
            await together(self._start_container(claim, ahead), member.set_lifetime(spec.lifetime_s), *opening)
        with waterfall.stage("agent"):
            await self._greet(greeting, sent=bool(ahead))

    async def find(self, member: MemberRecord, volumes: Sequence[VolumeMount]) -> None:
        """Take what an earlier node left, as far as it is still there."""
        await self._hold(volumes)
        self.cgroup = self._machinery.cgroups.find(self.sandbox)
        self.slot = await self._machinery.network.adopt(self.sandbox)
        self.member = await self._machinery.backend.adopt(member)

    async def reopen(self) -> None:
        """Open the network again to what it is open to now, if an earlier node had opened it."""
        if self.slot is not None and self.slot.is_open:
            await self.slot.open()

    async def give_back(self) -> None:
        """Remove everything that was taken. A failure is logged and holds up nothing else; the sweep tries again."""
        failures: list[BaseException] = []
        if self.link is not None:
            self.link.close()
        ends: list[Coroutine[Any, Any, None]] = []
        if self.member is not None:
            ends.append(self.member.destroy())
        if self.slot is not None:
            ends.append(self.slot.release())
        for result in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(result, BaseException):
                failures.append(result)
        if self.cgroup is not None:
            try:
                # Removing waits for the kernel, at most two seconds.
                await asyncio.to_thread(self.cgroup.remove)
            except (OSError, InternalError) as exc:
                failures.append(exc)
        failures += await self._release_volumes()  # last: nothing of the sandbox has them open any more
        for failure in failures:
            log.error("sandbox.not_removed", exc=failure, sandbox=self.sandbox)

    def oom_kills(self) -> int:
        if self.cgroup is None:
            return 0
        try:
            return self.cgroup.oom_kills()
        except OSError:
            return 0  # the cgroup is gone

    async def _boot(self, cgroup: Cgroup, volumes: Sequence[VolumeMount]) -> None:
        spec = MemberSpec(sandbox=self.sandbox, cgroup_procs=cgroup.procs)
        if not volumes:
            self.member = await self._machinery.backend.boot(spec)
            return
        holding = asyncio.get_running_loop().create_task(self._hold(volumes))
        try:
            self.member = await self._machinery.backend.boot(spec, asyncio.shield(holding))
        finally:
            await asyncio.wait([holding])  # whatever became of the boot: what is held can only then be let go of

    async def _hold(self, volumes: Sequence[VolumeMount]) -> tuple[MountedVolume, ...]:
        mounted = []
        for one in volumes:
            self._volumes.append(one.volume)
            folder = await self._machinery.volumes.hold(one.volume, self.sandbox)
            mounted.append(MountedVolume(folder=folder, target=one.path, read_only=one.read_only))
        return tuple(mounted)

    async def _release_volumes(self) -> list[BaseException]:
        work = [self._machinery.volumes.release(volume, self.sandbox) for volume in self._volumes]
        self._volumes.clear()
        done = await asyncio.gather(*work, return_exceptions=True)
        return [failure for failure in done if isinstance(failure, BaseException)]

    async def _take_slot(self) -> None:
        self.slot = await self._machinery.network.slot(self.sandbox)

    async def _claim(self, launch: Launch) -> Claim:
        resources = launch.spec.resources
        extra = []
        if launch.spec.host_access.ca_bundle:
            trust = await self._machinery.trust.image(launch.spec.host_access.ca_bundle)
            extra.append(ExtraImage(image=trust, target=TRUST_MOUNT))
        upper = Upper(size_mib=resources.disk_mib)
        if launch.build_disk_mib is not None:
            upper = Upper(size_mib=launch.build_disk_mib, disk_folder=self._machinery.build_folder)
        return Claim(
            image=launch.image.file,
            upper=upper,
            tmp_mib=resources.tmp_mib,
            shm_mib=resources.shm_mib,
            extra_images=tuple(extra),
            hostname=hostname(self.sandbox),
        )

    async def _start_container(self, claim: Claim, hello: bytes) -> None:
        pipes = await self._have_member().claim(claim, hello)
        self.link = AgentLink(pipes.reader_fd, pipes.writer_fd)

    async def _greet(self, hello: Hello, *, sent: bool) -> None:
        assert self.link is not None
        try:
            await self.link.hello(hello, deadline=asyncio.get_running_loop().time() + AGENT_S, sent=sent)
        except (TimeoutError, LinkLost) as exc:
            cause = exc.lost.detail if isinstance(exc, LinkLost) else f"it gave no answer within {AGENT_S:g} s"
            said = self._have_member().last_words()
            text = f"the agent of {self.sandbox} is not there: {cause}{said and f' ({said})'}"
            raise StartFailedError(text, stage="agent") from exc

    def _setup(self, launch: Launch) -> Setup:
        name = hostname(self.sandbox)
        hosts = f"127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {name}\n"
        resolv_conf = ""
        if self.slot is not None:
            hosts, resolv_conf = self.slot.hosts(name), self.slot.resolv_conf()
        return Setup(
            hostname=name,
            files=tuple(
                (path, 0o644, text.encode())
                for path, text in (
                    ("/etc/hostname", f"{name}\n"),
                    ("/etc/hosts", hosts),
                    ("/etc/resolv.conf", resolv_conf),
                )
            ),
            attributes=image_attributes(launch.image.file),
            cpus=min(math.ceil(launch.spec.resources.cpu_limit), self._machinery.cpus),
            processes=launch.spec.resources.processes,
            cgroup=True,
        )

    def _have_member(self) -> Member:
        assert self.member is not None
        return self.member


def _limit(cgroup: Cgroup, resources: Resources) -> None:
    cgroup.limit(
        memory_mib=resources.memory_limit_mib + SENTRY_MIB,
        cpus=resources.cpu_limit,
        processes=STUBS * resources.processes + HOST_PROCESSES,
    )


def image_attributes(image: Path) -> tuple[tuple[bytes, str, bytes], ...]:
    """Return the attributes that files of an image should have, those of a folder after those of what is in it.

    A folder's default ACL would otherwise be inherited by the copies that setting the others makes.
    """
    found = sorted(image_xattrs(image), key=lambda one: one.path, reverse=True)
    return tuple((os.fsencode(one.path), one.name, one.value) for one in found)


def hostname(sandbox: SandboxId) -> str:
    """Return the name that a sandbox has for itself."""
    return sandbox.replace("_", "-")


async def together(*work: Awaitable[None]) -> None:
    """Do everything at once; the first failure ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(_as_coroutine(each))
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    ours = [exc for exc in group.exceptions if isinstance(exc, Error)]
    return ours[0] if ours else group.exceptions[0]
