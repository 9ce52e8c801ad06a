"""A gVisor backend for tests, in a folder of its own; at the end nothing of it is left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skerry.images.erofs import pack_agent
from skerry.isolation.gvisor import GvisorBackend
from skerry.model.ids import SANDBOX, RandomIds, SandboxId
from skerry.model.members import Claim, MemberSpec, Upper

BIN = Path(__file__).parents[2] / "src" / "skerry" / "_bin"
PROGRAMS = ("runsc", "skerry-launch", "skerry-agent")


def require() -> None:
    """Skip the test, with the reason, where sandboxes cannot run."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a sandbox has namespaces and a user of its own")
    missing = [name for name in PROGRAMS if not (BIN / name).exists()]
    if missing:
        pytest.skip(f"not built: {', '.join(missing)}; run `make setup`")


def new_sandbox() -> SandboxId:
    return SandboxId(RandomIds().new(SANDBOX))


@dataclass
class RealBackend:
    """The backend, and where its things lie."""

    backend: GvisorBackend
    state: Path
    member_image: Path
    agent_image: Path
    booted: list[SandboxId] = field(default_factory=list)

    def another(self) -> GvisorBackend:
        """A second backend on the same folder, as a successor of the node has it."""
        return GvisorBackend(
            runsc=BIN / "runsc", state=self.state, member_image=self.member_image, agent_image=self.agent_image
        )

    def spec(self, **more: object) -> MemberSpec:
        sandbox = new_sandbox()
        self.booted.append(sandbox)
        return MemberSpec(sandbox=sandbox, **more)  # type: ignore[arg-type]


def small_claim(image: Path, **more: object) -> Claim:
    sizes: dict[str, object] = {"upper": Upper(size_mib=16), "tmp_mib": 8, "shm_mib": 4, **more}
    return Claim(image=image, **sizes)  # type: ignore[arg-type]


@asynccontextmanager
async def real_backend(folder: Path) -> AsyncIterator[RealBackend]:
    """Yield a backend with its state below `folder`; what still runs at the end is removed."""
    require()
    images = folder / "images"
    images.mkdir()
    pack_agent(BIN / "skerry-agent", images / "member.erofs", images / "agent.erofs")
    state, member, agent = folder / "state", images / "member.erofs", images / "agent.erofs"
    backend = GvisorBackend(runsc=BIN / "runsc", state=state, member_image=member, agent_image=agent)
    real = RealBackend(backend, state, member, agent)
    try:
        yield real
    finally:
        await backend.sweep([])
        backend.close()
