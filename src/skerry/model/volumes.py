"""Volumes: storage that outlives sandboxes, their commits, and where they are mounted."""

from __future__ import annotations

from dataclasses import dataclass

from skerry.model.ids import CommitId, VolumeId


@dataclass(frozen=True, kw_only=True)
class VolumeView:
    """A volume as its owner sees it. It holds at most `size_bytes` and `files_max` files, folders and links."""

    id: VolumeId
    name: str
    created_at: float
    size_bytes: int
    files_max: int


@dataclass(frozen=True, kw_only=True)
class CommitView:
    """A state of a volume that stays as it was: its files, folders and links, and the bytes of its files."""

    id: CommitId
    volume: VolumeId
    created_at: float
    files: int
    size: int


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A volume at a path of a sandbox."""

    volume: VolumeId
    path: str
    read_only: bool = False
