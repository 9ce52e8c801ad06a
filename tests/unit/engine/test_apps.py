from __future__ import annotations

import pytest
from engine_world import World

from skerry.model.errors import InvalidError, NotFoundError


async def test_an_app_is_created_once_and_then_found(world: World) -> None:
    async with world.engine() as engine:
        made = await engine.apps.find("agents", create=True)
        assert await engine.apps.find("agents", create=True) == made
        assert await engine.apps.find("agents", create=False) == made


async def test_an_unknown_app_is_not_found_and_the_message_says_how_to_make_it(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NotFoundError, match="create_if_missing"):
            await engine.apps.find("agents", create=False)


async def test_a_name_that_is_none_is_refused(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="app"):
            await engine.apps.find("a b", create=True)
