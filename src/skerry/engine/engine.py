"""The engine: all nouns together, and the time in which they live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from skerry.engine.apps import Apps
from skerry.engine.files import Files
from skerry.engine.image_retention import ImageBounds, ImageRetention
from skerry.engine.interfaces import Clock, DataFolders, ImageFiles, Images, NodeHandle, Store, Vault, VolumeDisk
from skerry.engine.logs import Logs
from skerry.engine.processes import Processes
from skerry.engine.retention import Bounds, Retention
from skerry.engine.sandboxes import Sandboxes
from skerry.engine.secrets import Secrets
from skerry.engine.storage import Storage
from skerry.engine.tasks import Tasks
from skerry.engine.trust import Trust
from skerry.engine.usage import Usage
from skerry.engine.volumes import Volumes
from skerry.model import limits
from skerry.model.ids import Ids, ImageId, NodeId


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What every operation means; the doors call nothing else."""

    apps: Apps
    images: Images
    sandboxes: Sandboxes
    processes: Processes
    logs: Logs
    files: Files
    volumes: Volumes
    usage: Usage
    secrets: Secrets
    trust: Trust
    retention: Retention
    storage: Storage
    image_retention: ImageRetention | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Adopt what lives on the nodes, then follow it until the block ends. Sandboxes outlive the block."""
        async with Tasks() as tasks:
            await self.sandboxes.supervise(tasks)
            await self.secrets.settle()
            tasks.start(self.retention.run(), name="retention")
            if self.image_retention is not None:
                tasks.start(self.image_retention.run(), name="image retention")
            yield


def assemble(
    *,
    store: Store,
    nodes: Mapping[NodeId, NodeHandle],
    images: Images,
    clock: Clock,
    ids: Ids,
    vault: Vault,
    volume_disk: VolumeDisk,
    volume_bytes: int = limits.VOLUME_DEFAULT_BYTES,
    bounds: Bounds | None = None,
    image_files: ImageFiles | None = None,
    image_bounds: ImageBounds | None = None,
    data_folders: DataFolders | None = None,
) -> Engine:
    """Return an engine over these collaborators; it collects `image_files`, if there are any."""
    volumes = Volumes(
        store=store,
        disk=volume_disk,
        clock=clock,
        ids=ids,
        users=lambda volume: sandboxes.users_of(volume),
        size_bytes=volume_bytes,
    )
    secrets = Secrets(store=store.secrets, vault=vault, clock=clock, ids=ids)
    sandboxes = Sandboxes(
        store=store, nodes=nodes, images=images, volumes=volumes, secrets=secrets, clock=clock, ids=ids
    )

    def in_use() -> Collection[ImageId]:
        return {*sandboxes.images_in_use(), *images.in_use()}

    processes = Processes(sandboxes=sandboxes, secrets=secrets)
    image_retention = None
    if image_files is not None:
        image_retention = ImageRetention(
            store=store, files=image_files, in_use=in_use, clock=clock, bounds=image_bounds
        )
    retention = Retention(store=store, nodes=nodes, clock=clock, bounds=bounds)
    return Engine(
        apps=Apps(store=store),
        images=images,
        sandboxes=sandboxes,
        processes=processes,
        logs=Logs(processes=processes),
        files=Files(sandboxes=sandboxes),
        volumes=volumes,
        usage=Usage(sandboxes=sandboxes, nodes=nodes, clock=clock),
        secrets=secrets,
        trust=Trust(),
        retention=retention,
        storage=Storage(
            sandboxes=sandboxes,
            volumes=volumes,
            retention=retention,
            image_retention=image_retention,
            folders=data_folders,
            clock=clock,
        ),
        image_retention=image_retention,
    )
