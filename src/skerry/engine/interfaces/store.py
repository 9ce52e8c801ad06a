"""What the engine asks of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from skerry.engine.interfaces.vaults import SecretStore
from skerry.model.ids import AppId, CommitId, ImageId, SandboxId, VolumeId
from skerry.model.sandboxes import EndedRow, ImageView, SandboxFilter, SandboxView
from skerry.model.specs import ImageDefinition
from skerry.model.volumes import CommitView, VolumeView


class Store(Protocol):
    """Rows that outlive the server. Calls are short and synchronous for reads, committed when a write returns."""

    async def put_sandbox(self, view: SandboxView, *, idempotency_key: str | None = None) -> SandboxView:
        """Insert it, or return the sandbox that was made with the same key. What `host_access` holds is not stored.

        Raises AlreadyExistsError if another sandbox of the app has the name and has not ended.
        """

    async def update_sandbox(self, view: SandboxView) -> None:
        """Replace the row, but for its tags; a sandbox without one raises NotFoundError."""

    async def set_tags(self, sandbox: SandboxId, tags: Mapping[str, str]) -> None:
        """Replace the tags; a sandbox without a row raises NotFoundError."""

    def sandbox(self, sandbox: SandboxId) -> SandboxView | None: ...

    def sandbox_by_key(self, idempotency_key: str) -> SandboxView | None: ...

    def sandboxes(self, which: SandboxFilter) -> Sequence[SandboxView]: ...

    def live_sandboxes(self) -> Sequence[SandboxView]:
        """Every sandbox that has not ended."""

    def ended_sandboxes(self) -> Sequence[EndedRow]:
        """Every ended sandbox, the one that ended first in front."""

    async def delete_sandbox(self, sandbox: SandboxId) -> None:
        """Delete the row, and with it the idempotency key; deleting it again changes nothing."""

    async def app(self, name: str, *, create: bool) -> AppId | None: ...

    def app_name(self, app: AppId) -> str | None: ...

    async def put_image(self, view: ImageView, definition: ImageDefinition) -> None: ...

    def image(self, image: ImageId) -> ImageView | None: ...

    def image_by_key(self, definition_key: str) -> ImageView | None:
        """Return the newest image of a definition."""

    def images(self) -> Sequence[ImageId]:
        """Every image."""

    async def delete_image(self, image: ImageId) -> None:
        """Delete the row; deleting it again changes nothing."""

    async def put_volume(self, volume: VolumeView) -> None:
        """Insert it; on disk when this returns, whatever becomes of the machine."""

    def volume(self, volume: VolumeId) -> VolumeView | None: ...

    def volume_by_name(self, name: str) -> VolumeView | None: ...

    def volumes(self) -> Sequence[VolumeView]:
        """Every volume, by name."""

    async def delete_volume(self, volume: VolumeId) -> None:
        """Delete the row and those of its commits; deleting it again changes nothing."""

    async def put_commit(self, commit: CommitView, *, idempotency_key: str | None = None) -> None:
        """Insert it; on disk when this returns, whatever becomes of the machine."""

    def commits(self, volume: VolumeId) -> Sequence[CommitView]:
        """The commits of a volume, the newest first."""

    def commit_by_key(self, idempotency_key: str) -> CommitView | None: ...

    async def delete_commit(self, commit: CommitId) -> None:
        """Delete the row; deleting it again changes nothing."""

    @property
    def secrets(self) -> SecretStore: ...
