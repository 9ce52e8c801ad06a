"""This machine as a node of the local server: backend, cgroups, network, output and images, joined."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from skerry.apps.binaries import AGENT, IMAGE_HELPER, RUNSC, binary
from skerry.apps.composition import EngineParts, Ground
from skerry.apps.storage import DataFolder
from skerry.engine.images import BuiltImages
from skerry.engine.interfaces import Store
from skerry.images.agents import AgentFolder
from skerry.images.bases import DebianBases
from skerry.images.files import ImageFolder
from skerry.images.trust import TrustFolder
from skerry.isolation.gvisor.backend import GvisorBackend
from skerry.model import places
from skerry.model.events import Events
from skerry.model.ids import NODE, CommitId, Ids, NodeId, VolumeId
from skerry.node import cgroups
from skerry.node.machinery import Machinery
from skerry.node.network.network import Network
from skerry.node.network.settings import NetworkSettings
from skerry.node.node import Node
from skerry.node.output_quota import NodeQuota, free_bytes_of
from skerry.node.records import Records
from skerry.volumes.folder import VolumeFolder

log = Events("skerry.images")


@asynccontextmanager
async def open_node(ground: Ground) -> AsyncIterator[EngineParts]:
    """Yield the parts of a server whose only node is this machine; sandboxes outlive the block."""
    data = ground.settings.data_dir
    backend = await _backend(data, ground.settings.runtime_dir)
    await backend.probe()
    volumes = VolumeFolder(data / "volumes")
    volumes.open()
    machinery = _machinery(ground, backend, volumes)
    node = Node(id=_node_id(data / "node-id", ground.ids), machinery=machinery)
    folder = ImageFolder(data / "images")
    folder.open()
    bases = DebianBases(data / "bases")
    for line in (*folder.sweep(lambda image: ground.store.image(image) is not None), *bases.sweep()):
        log.info("images.swept", detail=line)
    images = BuiltImages(
        store=ground.store,
        files=folder,
        bases=bases,
        node=lambda: node,
        clock=ground.clock,
        ids=ground.ids,
    )
    await node.open()
    for line in await volumes.clean(lambda volume: _commits(ground.store, volume)):
        log.info("volumes.swept", detail=line)
    try:
        yield EngineParts(
            nodes={node.view().id: node},
            images=images,
            volume_disk=volumes,
            image_files=folder,
            data_folders=DataFolder(data),
        )
    finally:
        await images.close()
        await node.close()
        machinery.quota.close()
        backend.close()


def _machinery(ground: Ground, backend: GvisorBackend, volumes: VolumeFolder) -> Machinery:
    data, runtime = ground.settings.data_dir, ground.settings.runtime_dir
    instance = instance_of(runtime)
    return Machinery(
        backend=backend,
        cgroups=cgroups.detect(f"skerry{instance}"),
        network=Network(NetworkSettings(prefix=f"sk{instance}")),
        records=Records(runtime / "records"),
        vault=ground.vault,
        quota=NodeQuota(free_bytes_of(data)),
        trust=_trust(data / "trust"),
        volumes=volumes,
        output_folder=data / "output",
        build_folder=data / "builds",
        image_helper=binary(IMAGE_HELPER),
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=_memory_mib(),
    )


def _commits(store: Store, volume: VolumeId) -> Collection[CommitId] | None:
    """Return the commits of a volume that have rows; None if it has none itself."""
    return None if store.volume(volume) is None else [commit.id for commit in store.commits(volume)]


async def _backend(data: Path, runtime: Path) -> GvisorBackend:
    images = await asyncio.to_thread(AgentFolder(data / "agent").images, binary(AGENT))
    return GvisorBackend(
        runsc=binary(RUNSC), state=runtime / "gvisor", member_image=images.member, agent_image=images.agent
    )


def _trust(folder: Path) -> TrustFolder:
    trust = TrustFolder(folder)
    trust.open()
    return trust


def instance_of(runtime: Path) -> str:
    """Return what sets the devices and groups of this server apart from those of another one on the machine."""
    if runtime == Path(places.RUNTIME_DIR):
        return ""
    digest = hashlib.sha256(os.fsencode(runtime)).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[:4])  # names of devices take letters only


def _node_id(path: Path, ids: Ids) -> NodeId:
    """Return the id of this node, chosen once for its data folder."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(ids.new(NODE))
        draft.rename(path)
    return NodeId(path.read_text())


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
