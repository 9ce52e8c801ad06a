"""What a composition is made of: what the server stands on, and what each composition puts under the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from skerry.apps.settings import Settings
from skerry.engine.interfaces import Clock, DataFolders, ImageFiles, Images, NodeHandle, Store, VolumeDisk
from skerry.model.ids import Ids, NodeId
from skerry.store.vault import Vault


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the parts themselves stand on."""

    settings: Settings
    store: Store
    clock: Clock
    ids: Ids
    vault: Vault


@dataclass(frozen=True, kw_only=True)
class EngineParts:
    """What a composition puts under the engine."""

    nodes: Mapping[NodeId, NodeHandle]
    images: Images
    volume_disk: VolumeDisk
    image_files: ImageFiles | None = None
    data_folders: DataFolders | None = None


OpenParts = Callable[[Ground], AbstractAsyncContextManager[EngineParts]]
