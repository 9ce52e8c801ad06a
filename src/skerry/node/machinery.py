"""What all sandboxes of a node share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skerry.node.interfaces import Backend, Cgroups, Vault, VolumeMounts
from skerry.node.network.network import Network
from skerry.node.output_quota import NodeQuota
from skerry.node.records import Records


class TrustImages(Protocol):
    """Images that hold a CA bundle, one for each bundle."""

    async def image(self, bundle: bytes) -> Path:
        """Return the EROFS file with this bundle, made now if there is none."""


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """The collaborators of a node's sandboxes, and its folders."""

    backend: Backend
    cgroups: Cgroups
    network: Network
    records: Records
    vault: Vault
    quota: NodeQuota
    trust: TrustImages
    volumes: VolumeMounts
    output_folder: Path  # a folder for each sandbox, kept until it is forgotten
    build_folder: Path  # where the writable layers of builds lie
    image_helper: Path
    cpus: int
    memory_mib: int
