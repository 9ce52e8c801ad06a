"""The gVisor backend: boots members, finds them again, and removes what a crash left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Collection, Sequence
from pathlib import Path

from skerry.isolation.gvisor import bodies
from skerry.isolation.gvisor.folders import MemberFolder, StateFolder, member_id, sandbox_of
from skerry.isolation.gvisor.gofer import Gofer
from skerry.isolation.gvisor.logs import GOFER, KEEPER, SENTRY, Logs
from skerry.isolation.gvisor.members import END_SECONDS, GvisorMember
from skerry.isolation.gvisor.probe import check_machine, unavailable
from skerry.isolation.gvisor.processes import ProcessKey, Watch, all_arguments, arguments_of, key_of, reap
from skerry.isolation.gvisor.sentry import Boot, Launcher, SentryError
from skerry.model.errors import StartFailedError
from skerry.model.ids import SANDBOX, RandomIds, SandboxId
from skerry.model.members import MemberRecord, MemberSpec, MountedVolume

BOOT_SECONDS = 30.0
# A trial takes 0.05 s. The first one on a machine reads 80 MB of runsc from its disk.
PROBE_SECONDS = 10.0


class GvisorBackend:
    """Sandboxes of gVisor; matches `skerry.node.interfaces.Backend`.

    `member_image` is the EROFS image of a member's root: `/skerry-agent`, and the empty folders `proc`, `sys`, `dev`
    and `tmp`. `agent_image` holds `agent`, and is mounted at /.skerry. `state` becomes the backend's own folder.
    """

    def __init__(
        self, *, runsc: Path, state: Path, member_image: Path, agent_image: Path, launcher: Path | None = None
    ) -> None:
        """`launcher` is skerry-launch; None looks for it beside `runsc`."""
        self._state = StateFolder(state)
        beside = launcher or runsc.with_name("skerry-launch")
        self._launcher = Launcher(launcher=beside, runsc=runsc, root=self._state.path)
        self._member_image = member_image
        self._agent_image = agent_image
        self._agent_image_fd = -1

    async def probe(self) -> None:
        """Start a sandbox and end it again; raises IsolationUnavailableError, with the cause and the next step."""
        check_machine(
            programs=(self._launcher.launcher, self._launcher.runsc), images=(self._member_image, self._agent_image)
        )
        trial = SandboxId(RandomIds().new(SANDBOX))
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                member = await self.boot(MemberSpec(sandbox=trial))
                try:
                    await member.set_lifetime(PROBE_SECONDS)
                finally:
                    await member.destroy()
        except TimeoutError as exc:
            raise unavailable(f"it was not up within {PROBE_SECONDS:g} s") from exc
        except (StartFailedError, OSError) as exc:
            raise unavailable(str(exc)) from exc

    async def boot(self, spec: MemberSpec, volumes: Awaitable[Sequence[MountedVolume]] | None = None) -> GvisorMember:
        self._prepare()
        folder = self._state.member(spec.sandbox)
        try:
            folder.make()
        except FileExistsError as exc:
            # Whatever is there belongs to the sandbox that was first, so nothing is removed.
            raise StartFailedError(
                f"{spec.sandbox} at boot: {folder.path} exists; destroy that sandbox or sweep", stage="boot"
            ) from exc
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                return await self._boot(spec, folder, volumes)
        except BaseException as exc:
            await asyncio.shield(self._remove(spec.sandbox))
            if isinstance(exc, TimeoutError):
                raise StartFailedError(f"{spec.sandbox} was not up within {BOOT_SECONDS:g} s", stage="boot") from exc
            raise

    async def adopt(self, record: MemberRecord) -> GvisorMember | None:
        self._prepare()
        sentry = ProcessKey(record.pid, record.pid_start)
        logs, gofer = Logs.of(record.pid), Gofer.of(record.extra)
        try:
            return self._member(record.sandbox, sentry, logs, new=False, gofer=gofer)
        except (ProcessLookupError, FileNotFoundError):
            logs.close()
            if gofer is not None:
                gofer.close()
            await self._remove(record.sandbox)
            return None

    async def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        lines = []
        running = self._running()
        for sandbox in sorted({*running, *self._state.sandboxes()} - set(keep)):
            pids = running.get(sandbox, [])
            await self._remove(sandbox)
            ended = f", ended process {', '.join(map(str, pids))}" if pids else ""
            lines.append(f"gvisor: removed what {sandbox} left{ended}")
        return lines

    def close(self) -> None:
        """Let go of the agent's image; members run on."""
        if self._agent_image_fd >= 0:
            os.close(self._agent_image_fd)
            self._agent_image_fd = -1

    async def _boot(
        self, spec: MemberSpec, folder: MemberFolder, volumes: Awaitable[Sequence[MountedVolume]] | None
    ) -> GvisorMember:
        logs = Logs()
        gofer: Gofer | None = None
        try:
            sentry = await self._launcher.start(self._what_it_gets(spec, folder, logs))
            if volumes is not None:  # mounted, and served, while the sentry boots
                gofer = await self._start_gofer(spec, folder, logs, await volumes)
            member = self._member(spec.sandbox, sentry, logs, new=True, gofer=gofer)
        except BaseException as exc:
            said = logs.last_words()
            logs.close()
            if gofer is not None:
                gofer.close()
            if isinstance(exc, SentryError | OSError):
                raise StartFailedError(f"{spec.sandbox} at boot: {exc}{said and f' ({said})'}", stage="boot") from exc
            raise
        try:
            await member.start()
        except BaseException:
            await asyncio.shield(member.destroy())
            raise
        return member

    async def _start_gofer(
        self, spec: MemberSpec, folder: MemberFolder, logs: Logs, volumes: Sequence[MountedVolume]
    ) -> Gofer:
        return await Gofer.start(
            self._launcher,
            volumes,
            container_id=member_id(spec.sandbox),
            folder=folder.path,
            log=logs.new(GOFER),
            cgroup_procs=spec.cgroup_procs,
        )

    def _what_it_gets(self, spec: MemberSpec, folder: MemberFolder, logs: Logs) -> Boot:
        return Boot(
            container_id=member_id(spec.sandbox),
            control_socket=self._state.control_socket(spec.sandbox),
            spec=self._state.spec,
            image=self._member_image,
            keeper_in=folder.keeper_in,
            keeper_out=folder.keeper_out,
            keeper_log=logs.new(KEEPER),
            log=logs.new(SENTRY),
            cgroup_procs=spec.cgroup_procs,
        )

    def _member(
        self, sandbox: SandboxId, sentry: ProcessKey, logs: Logs, *, new: bool, gofer: Gofer | None
    ) -> GvisorMember:
        return GvisorMember(
            sandbox, sentry, state=self._state, logs=logs, agent_image=self._agent_image_fd, new=new, gofer=gofer
        )

    def _prepare(self) -> None:
        if self._agent_image_fd < 0:
            self._state.prepare(bodies.member_spec())
            self._agent_image_fd = os.open(self._agent_image, os.O_RDONLY | os.O_CLOEXEC)

    def _running(self) -> dict[SandboxId, list[int]]:
        """The processes that carry our own --root, by sandbox."""
        found: dict[SandboxId, list[int]] = {}
        for pid, arguments in all_arguments():
            sandbox = self._sandbox_of(arguments)
            if sandbox is not None:
                found.setdefault(sandbox, []).append(pid)
        return found

    def _sandbox_of(self, arguments: Sequence[str]) -> SandboxId | None:
        return sandbox_of(arguments[-1]) if self._launcher.mark in arguments else None

    async def _remove(self, sandbox: SandboxId) -> None:
        for pid in self._running().get(sandbox, []):
            await self._end(pid, sandbox)
        self._state.remove(sandbox)

    async def _end(self, pid: int, sandbox: SandboxId) -> None:
        key = key_of(pid)
        if key is None:
            return
        with contextlib.suppress(ProcessLookupError):
            watch = Watch(key)
            try:
                # The pid may have become another process's since it was found; now that it is held, it cannot.
                if self._sandbox_of(arguments_of(pid)) == sandbox:
                    watch.kill()
                    # One that the kernel does not let go (a hung disk) must not hold up the sweep of all others.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(END_SECONDS):
                            await watch.ended()
                            reap(pid)
            finally:
                watch.close()
