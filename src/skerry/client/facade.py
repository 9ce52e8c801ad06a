"""What the generated synchronous classes are made of: each method runs its asynchronous twin on the background loop.

`sandbox.wait()` waits; `await sandbox.wait.aio()` is the same for a caller who is on a loop of their own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from skerry.client.loop import bridge, run

I = TypeVar("I")  # noqa: E741 - the asynchronous class inside
F = TypeVar("F")
K = TypeVar("K")
P = ParamSpec("P")
R = TypeVar("R")


class Facade(Generic[I]):
    """A synchronous object around an asynchronous one."""

    __slots__ = ("__weakref__", "_inner")
    _inner: I

    def __init__(self, *_args: object, **_options: object) -> None:
        name = type(self).__name__
        raise TypeError(f"{name}() is not made by hand; see docs/reference/sdk.md for what returns one")

    @classmethod
    def _wrap(cls, inner: I) -> Self:
        made = cls.__new__(cls)
        made._inner = inner
        return made

    def __repr__(self) -> str:
        return repr(self._inner)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._inner is self._inner

    def __hash__(self) -> int:
        return hash((type(self), id(self._inner)))


def unwrap(value: Facade[I] | None) -> I | None:
    """Return the asynchronous object inside."""
    return None if value is None else value._inner


def unwrap_values(values: Mapping[K, Facade[I]] | None) -> Mapping[K, I] | None:
    """Return a mapping with the asynchronous objects inside; what is no mapping of such is left to its user."""
    if not isinstance(values, Mapping):
        return values
    return {key: value._inner if isinstance(value, Facade) else value for key, value in values.items()}


def unwrap_all(values: Collection[Facade[I]] | None) -> Collection[I] | None:
    """Return the asynchronous objects inside; what is no collection of such is left to its user."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Collection):
        return values
    return [value._inner if isinstance(value, Facade) else value for value in values]


class Method(Generic[P, R]):
    """A method in both forms: called, it waits; `aio` returns an awaitable."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> None:
        self._function = function

    @property
    def __wrapped__(self) -> Callable[P, Coroutine[Any, Any, R]]:
        return self._function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(self._function, *args, **kwargs)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return await bridge(self._function, *args, **kwargs)


class dual(Generic[F, P, R]):
    """Makes a `Method` of a coroutine function in a class."""

    def __init__(self, function: Callable[Concatenate[F, P], Coroutine[Any, Any, R]]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: F, owner: type) -> Method[P, R]: ...

    def __get__(self, instance: F | None, owner: type) -> Self | Method[P, R]:
        if instance is None:
            return self
        bound: Callable[P, Coroutine[Any, Any, R]] = partial(self.__wrapped__, instance)
        return Method(bound)

    def __call__(self, instance: F, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(self.__wrapped__, instance, *args, **kwargs)


class dual_iter(Generic[F, P, R]):
    """Makes an `IterMethod` of a function in a class that yields."""

    def __init__(self, function: Callable[Concatenate[F, P], AsyncIterator[R]]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: F, owner: type) -> IterMethod[P, R]: ...

    def __get__(self, instance: F | None, owner: type) -> Self | IterMethod[P, R]:
        if instance is None:
            return self
        bound: Callable[P, AsyncIterator[R]] = partial(self.__wrapped__, instance)
        return IterMethod(bound)


class IterMethod(Generic[P, R]):
    """The same for a function that yields: called, it gives an iterator; `aio` an asynchronous one."""

    def __init__(self, function: Callable[P, AsyncIterator[R]]) -> None:
        self._function = function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        source = self._function(*args, **kwargs)
        try:
            while True:
                try:
                    item = run(_next, source)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            run(_close, source)  # who leaves a loop early holds nothing on from then on

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        source = self._function(*args, **kwargs)
        try:
            while True:
                try:
                    item = await bridge(_next, source)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            await bridge(_close, source)


class Block(Generic[R]):
    """A block for `with` and for `async with`."""

    def __init__(self, inner: AbstractAsyncContextManager[object], value: R) -> None:
        self._inner = inner
        self._value = value

    def __enter__(self) -> R:
        run(self._inner.__aenter__)
        return self._value

    def __exit__(self, *exc: Any) -> bool | None:
        return run(self._inner.__aexit__, *exc)

    async def __aenter__(self) -> R:
        await bridge(self._inner.__aenter__)
        return self._value

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await bridge(self._inner.__aexit__, *exc)


async def _next(source: AsyncIterator[R]) -> R:
    return await anext(source)


async def _close(source: AsyncIterator[object]) -> None:
    if isinstance(source, AsyncGenerator):
        await source.aclose()
