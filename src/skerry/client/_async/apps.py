"""Apps: names under which sandboxes are grouped, and the functions that `skerry run` calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, ParamSpec, TypeVar

from skerry.client import words
from skerry.client.client import Client, resolve
from skerry.client.connection import path
from skerry.model.errors import InvalidError, UnimplementedError

P = ParamSpec("P")
R = TypeVar("R")


class LocalEntrypoint(Generic[P, R]):
    """A function that `skerry run FILE` calls on this machine; calling it here does the same."""

    def __init__(self, function: Callable[P, R], name: str) -> None:
        self.function = function
        self.name = name
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what an asynchronous one returns is awaited."""
        outcome: Any = self.function(*args, **kwargs)
        if inspect.iscoroutine(outcome):
            coroutine: Coroutine[Any, Any, Any] = outcome
            return asyncio.run(coroutine)
        return outcome


class App:
    """A name for a group of sandboxes. It is registered with the server at first use."""

    def __init__(self, name: str | None = None, *, client: Client | None = None, **idle: object) -> None:
        words.refuse_idle("App", idle, words.APP_IDLE)
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"App: name={name!r} is no string")
        self._name = name
        self._client = client
        self._id: str | None = None
        self.registered_entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def app_id(self) -> str | None:
        """The app's id, once it has been used or looked up."""
        return self._id

    @staticmethod
    async def lookup(
        name: str, *, create_if_missing: bool = False, client: Client | None = None, **idle: object
    ) -> App:
        """Return the app of this name; raises NotFoundError if there is none and it is not to be made."""
        words.refuse_idle("App.lookup", idle, words.APP_IDLE)
        app = App(name, client=client)
        await app._register(create=create_if_missing)
        return app

    def local_entrypoint(self, *, name: str | None = None) -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Mark a function that `skerry run` calls: `@app.local_entrypoint()`."""
        if callable(name):
            raise InvalidError("write @app.local_entrypoint() with parentheses")

        def mark(function: Callable[P, R]) -> LocalEntrypoint[P, R]:
            chosen = name or function.__name__
            entrypoint = LocalEntrypoint(function, chosen)
            self.registered_entrypoints[chosen] = entrypoint
            return entrypoint

        return mark

    def function(self, *_args: object, **_options: object) -> Any:
        """Functions do not run here: raises UnimplementedError."""
        raise UnimplementedError(
            "app.function is not available: skerry runs sandboxes; call sandbox.exec in an @app.local_entrypoint()"
        )

    async def _register(self, *, create: bool = True) -> str | None:
        """Return the app's id, asked from the server once; None for an app without a name."""
        if self._id is None and self._name is not None:
            connection = await resolve(self._client).connection()
            answer = await connection.call("POST", path("apps"), body={"name": self._name, "create": create})
            self._id = str(answer["id"])
        return self._id

    @asynccontextmanager
    async def run(self, **idle: object) -> AsyncIterator[App]:
        """A block at whose end the sandboxes that it made are terminated: `async with app.run():`."""
        words.refuse_idle("App.run", idle, words.APP_IDLE)
        client = resolve(self._client)
        before = set(client.created)
        await self._register()
        try:
            yield self
        finally:
            await terminate_created(client, before)

    def __repr__(self) -> str:
        return f"<App {self._name!r}>"


async def terminate_created(client: Client, before: set[str] | None = None) -> None:
    """Terminate what this program has made since `before` and what still runs of it."""
    ids = [sandbox for sandbox in client.created if sandbox not in (before or set())]
    connection = await client.connection()
    calls = [connection.call("POST", path("sandboxes", sandbox, "terminate")) for sandbox in ids]
    await asyncio.gather(*calls, return_exceptions=True)
    for sandbox in ids:
        client.created.pop(sandbox, None)
