"""A real node for tests: names, ranges and folders of its own, and short ways to start, run and read."""

from __future__ import annotations

import os
import secrets
import string
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from leftovers import check_nothing_left

from skerry.apps.binaries import AGENT, IMAGE_HELPER, RUNSC, binary
from skerry.images.erofs import pack_agent
from skerry.images.trust import TrustFolder
from skerry.isolation.gvisor.backend import GvisorBackend
from skerry.model.ids import NODE, PROCESS, SANDBOX, ImageId, NodeId, ProcessId, RandomIds, SandboxId
from skerry.model.nodes import Launch, RootImage
from skerry.model.specs import ExecSpec, NetworkPolicy, Resources, SandboxSpec
from skerry.node import cgroups
from skerry.node.machinery import Machinery
from skerry.node.network.network import Network
from skerry.node.network.settings import NetworkSettings
from skerry.node.node import Node
from skerry.node.output_quota import NodeQuota, free_bytes_of
from skerry.node.processes import NodeProcess
from skerry.node.records import Records
from skerry.store.vault import Vault
from skerry.volumes.folder import VolumeFolder

IDS = RandomIds()


@dataclass
class RealNode:
    """A node of its own: nothing of it is shared with another one on the machine."""

    handle: Node
    machinery: Machinery
    image: Path

    async def start(
        self, *entrypoint: str, network: NetworkPolicy = NetworkPolicy.BLOCKED, **spec: object
    ) -> SandboxId:
        """Start a sandbox and return its id."""
        sandbox = SandboxId(IDS.new(SANDBOX))
        resources = spec.pop("resources", Resources())
        asked = SandboxSpec(
            image=ImageId("im_0"),
            entrypoint=entrypoint,
            network=network,
            resources=resources,  # type: ignore[arg-type]
            **spec,  # type: ignore[arg-type]
        )
        process = ProcessId(IDS.new(PROCESS)) if entrypoint else None
        launch = Launch(sandbox=sandbox, spec=asked, image=RootImage(file=self.image), entrypoint=process)
        await self.handle.start(launch)
        return sandbox

    async def exec(self, sandbox: SandboxId, *argv: str, **spec: object) -> NodeProcess:
        return await self.handle.exec(
            sandbox,
            ProcessId(IDS.new(PROCESS)),
            ExecSpec(argv=argv, **spec),  # type: ignore[arg-type]
        )

    async def run(self, sandbox: SandboxId, *argv: str, **spec: object) -> tuple[int, str, str]:
        """Run a command to its end and return its code and what it wrote."""
        process = await self.exec(sandbox, *argv, **spec)
        out, err = await read(process, 1), await read(process, 2)
        return (await process.wait()).returncode, out.decode(), err.decode()


async def read(process: NodeProcess, channel: int, offset: int = 0) -> bytes:
    """Return everything that a channel carries, once it has ended."""
    return b"".join([bytes(content) async for _, content in process.output(channel).follow(offset)])


@asynccontextmanager
async def real_node(image: Path, folder: Path) -> AsyncIterator[RealNode]:
    """Yield a node of a test's own; at the end all its sandboxes are gone, and so is all that it made."""
    prefix = "skt" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(3))
    machinery = make_machinery(folder, prefix)
    node = Node(id=NodeId(IDS.new(NODE)), machinery=machinery)
    await node.open()
    try:
        yield RealNode(handle=node, machinery=machinery, image=image)
        for sandbox in list(node.running()):
            await node.terminate(sandbox)
    finally:
        await node.close()
        machinery.quota.close()
    check_nothing_left(folder, prefix)


def make_machinery(folder: Path, prefix: str) -> Machinery:
    """Return the collaborators of a node whose names and folders are a test's own."""
    member_image, agent_image = folder / "member.erofs", folder / "agent.erofs"
    pack_agent(binary(AGENT), member_image, agent_image)
    backend = GvisorBackend(
        runsc=binary(RUNSC), state=folder / "gvisor", member_image=member_image, agent_image=agent_image
    )
    # A free range, and the record that all nodes of a machine share: kernel settings are put back by the last of them.
    settings = NetworkSettings(prefix=prefix)
    volumes = VolumeFolder(folder / "volumes")
    volumes.open()
    return Machinery(
        backend=backend,
        cgroups=cgroups.detect(f"skerry-{prefix}"),
        network=Network(settings),
        records=Records(folder / "records"),
        vault=Vault(folder / "keys", now=time.time),
        quota=NodeQuota(free_bytes_of(folder)),
        trust=TrustFolder(folder / "trust"),
        volumes=volumes,
        output_folder=folder / "output",
        build_folder=folder / "builds",
        image_helper=binary(IMAGE_HELPER),
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=8192,
    )
