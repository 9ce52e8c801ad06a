"""Apps: names under which sandboxes are grouped."""

from __future__ import annotations

from skerry.engine.admission import check_name
from skerry.engine.interfaces import Store
from skerry.model.errors import NotFoundError
from skerry.model.ids import AppId


class Apps:
    """The apps of this server."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def find(self, name: str, *, create: bool) -> AppId:
        """Return the app of this name; without `create` one that does not exist raises NotFoundError."""
        app = await self._store.app(check_name(name, what="app"), create=create)
        if app is None:
            raise NotFoundError(
                f"there is no app {name!r}; create it with `App.lookup({name!r}, create_if_missing=True)`"
            )
        return app
