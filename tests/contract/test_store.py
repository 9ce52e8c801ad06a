"""What the engine asks of a store, for every store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skerry.engine.interfaces import Store
from skerry.model.errors import AlreadyExistsError, NotFoundError
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import AppId, CommitId, ImageId, NodeId, ProcessId, SandboxId, VolumeId
from skerry.model.sandboxes import ImageView, SandboxFilter, SandboxState, SandboxView, Stage
from skerry.model.specs import (
    HostAccess,
    ImageDefinition,
    ImageStep,
    NetworkPolicy,
    Resources,
    SandboxSpec,
    StepKind,
)
from skerry.model.volumes import CommitView, VolumeView
from skerry.store.sqlite.store import SqliteStore
from skerry.testing.ids import CountingIds
from skerry.testing.store import MemoryStore

ACCESS = HostAccess(env={"PIP_INDEX_URL": "https://mirror"}, ca_bundle=b"PEM")
SPEC = SandboxSpec(
    image=ImageId("im_1"),
    entrypoint=("python", "-c", "print('ä\n')"),
    app=AppId("ap_1"),
    name="web",
    tags={"team": "search", "stage": "ä=1"},
    env={"A": "b=c"},
    workdir="/w",
    user="user",
    lifetime_s=12.5,
    resources=Resources(cpu=0.5),
    network=NetworkPolicy.BLOCKED,
)
VIEW = SandboxView(
    id=SandboxId("sb_1"),
    spec=SPEC,
    state=SandboxState.STARTING,
    node=NodeId("no_1"),
    created_at=1000.25,
    app_name="agents",
    entrypoint=ProcessId("pr_1"),
)
ENDED = replace(
    VIEW,
    state=SandboxState.STOPPED,
    started_at=1001.5,
    ended_at=1002.5,
    exit=SandboxExit(reason=SandboxReason.SIGNALED, signal=9, evidence="…"),
    stages=(Stage(name="claim", ms=3.5),),
)
ALL = SandboxFilter(include_ended=True)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    ids = CountingIds()
    made = MemoryStore(ids=ids) if request.param == "memory" else SqliteStore(tmp_path, ids=ids)
    yield made
    made.close()


async def test_a_sandbox_comes_back_as_it_was_put(store: Store) -> None:
    assert await store.put_sandbox(VIEW) == VIEW
    assert store.sandbox(VIEW.id) == VIEW


async def test_an_update_replaces_the_row(store: Store) -> None:
    await store.put_sandbox(VIEW)
    await store.update_sandbox(ENDED)
    assert store.sandbox(VIEW.id) == ENDED


async def test_an_update_without_a_row_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        await store.update_sandbox(VIEW)


async def test_what_the_callers_machine_has_is_not_kept(store: Store) -> None:
    await store.put_sandbox(replace(VIEW, spec=replace(SPEC, host_access=ACCESS)))
    await store.update_sandbox(replace(ENDED, spec=replace(SPEC, host_access=ACCESS)))
    kept = store.sandbox(VIEW.id)
    assert kept is not None
    assert kept.spec.host_access == HostAccess()


async def test_a_key_returns_the_sandbox_that_was_made_with_it(store: Store) -> None:
    await store.put_sandbox(VIEW, idempotency_key="k")
    other = replace(VIEW, id=SandboxId("sb_2"), created_at=1001.0)
    assert await store.put_sandbox(other, idempotency_key="k") == VIEW
    assert store.sandbox(other.id) is None
    assert store.sandbox_by_key("k") == VIEW
    assert store.sandbox_by_key("l") is None


async def test_of_many_puts_at_once_with_one_key_one_wins(store: Store) -> None:
    views = [replace(VIEW, id=SandboxId(f"sb_{number}"), created_at=float(number)) for number in range(20)]
    kept = await asyncio.gather(*(store.put_sandbox(view, idempotency_key="k") for view in views))
    assert len({view.id for view in kept}) == 1
    assert len(store.sandboxes(ALL)) == 1


async def test_deleting_frees_the_key_and_may_be_repeated(store: Store) -> None:
    await store.put_sandbox(VIEW, idempotency_key="k")
    await store.delete_sandbox(VIEW.id)
    await store.delete_sandbox(VIEW.id)
    assert store.sandbox(VIEW.id) is None
    assert store.sandbox_by_key("k") is None
    await store.put_sandbox(VIEW, idempotency_key="k")
    assert store.sandbox(VIEW.id) == VIEW


async def test_lists_are_newest_first_bounded_and_continued_before_a_time(store: Store) -> None:
    for number in range(5):
        await store.put_sandbox(named(number, None))
    first = store.sandboxes(SandboxFilter(limit=2))
    rest = store.sandboxes(SandboxFilter(limit=9, before=first[-1].created_at))
    assert [view.id for view in first] == ["sb_4", "sb_3"]
    assert [view.id for view in rest] == ["sb_2", "sb_1", "sb_0"]


async def test_lists_leave_out_what_has_ended_and_other_apps(store: Store) -> None:
    await store.put_sandbox(ENDED)
    await store.put_sandbox(replace(VIEW, id=SandboxId("sb_2"), created_at=2.0))
    await store.put_sandbox(named(3, None, app=AppId("ap_2")))
    await store.put_sandbox(named(4, None, app=None))

    def found(which: SandboxFilter) -> list[str]:
        return [view.id for view in store.sandboxes(which)]

    assert found(SandboxFilter()) == ["sb_4", "sb_3", "sb_2"]
    assert found(SandboxFilter(app=AppId("ap_1"))) == ["sb_2"]
    assert found(SandboxFilter(app=AppId("ap_1"), include_ended=True)) == ["sb_1", "sb_2"]
    assert found(ALL) == ["sb_1", "sb_4", "sb_3", "sb_2"]
    assert [view.id for view in store.live_sandboxes()] == ["sb_4", "sb_3", "sb_2"]


def named(number: int, name: str | None, **fields: object) -> SandboxView:
    spec = replace(SPEC, name=name, **fields)  # type: ignore[arg-type]
    return replace(VIEW, id=SandboxId(f"sb_{number}"), created_at=float(number), spec=spec)


async def test_a_name_is_one_sandboxs_of_an_app_until_that_has_ended(store: Store) -> None:
    await store.put_sandbox(named(1, "web"))
    with pytest.raises(AlreadyExistsError, match="'web' is in use in app 'agents' by sandbox sb_1") as caught:
        await store.put_sandbox(named(2, "web"), idempotency_key="k")
    assert caught.value.details == {"sandbox": "sb_1"}
    assert store.sandbox_by_key("k") is None
    await store.put_sandbox(named(3, "web", app=AppId("ap_2")))
    await store.put_sandbox(named(4, "db"))
    await store.update_sandbox(replace(named(1, "web"), state=SandboxState.STOPPED, ended_at=9.0))
    await store.put_sandbox(named(5, "web"), idempotency_key="k")
    assert [view.id for view in store.sandboxes(SandboxFilter(name="web"))] == ["sb_5", "sb_3"]
    assert [view.id for view in store.sandboxes(SandboxFilter(name="web", include_ended=True, app=SPEC.app))] == [
        "sb_5",
        "sb_1",
    ]


async def test_sandboxes_without_an_app_share_one_set_of_names(store: Store) -> None:
    await store.put_sandbox(named(1, "web", app=None))
    with pytest.raises(AlreadyExistsError):
        await store.put_sandbox(named(2, "web", app=None))
    for number in (3, 4):
        await store.put_sandbox(named(number, None, app=None))


async def test_a_repeated_put_finds_its_sandbox_and_not_its_own_name_in_use(store: Store) -> None:
    await store.put_sandbox(VIEW, idempotency_key="k")
    assert await store.put_sandbox(replace(VIEW, id=SandboxId("sb_2")), idempotency_key="k") == VIEW


async def test_of_many_puts_at_once_with_one_name_one_wins(store: Store) -> None:
    puts = [store.put_sandbox(named(number, "web")) for number in range(20)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(one, AlreadyExistsError) for one in outcomes) == 19
    assert len(store.live_sandboxes()) == 1


async def test_lists_keep_what_has_at_least_the_tags(store: Store) -> None:
    for number, tags in enumerate([{}, {"a": "1"}, {"a": "2", "b": "x"}, {"a": "1", "b": "x", "c.d-e": ""}]):
        await store.put_sandbox(named(number, None, tags=tags))

    def found(tags: dict[str, str]) -> list[str]:
        return [view.id for view in store.sandboxes(SandboxFilter(tags=tags))]

    assert found({}) == ["sb_3", "sb_2", "sb_1", "sb_0"]
    assert found({"a": "1"}) == ["sb_3", "sb_1"]
    assert found({"a": "1", "b": "x"}) == ["sb_3"]
    assert found({"c.d-e": ""}) == ["sb_3"]
    assert found({"a": "3"}) == found({"z": ""}) == []


async def test_new_tags_replace_the_old_ones_and_an_update_leaves_them(store: Store) -> None:
    await store.put_sandbox(VIEW)
    await store.set_tags(VIEW.id, {"new": "1"})
    await store.update_sandbox(ENDED)
    kept = store.sandbox(VIEW.id)
    assert kept is not None
    assert kept.spec.tags == {"new": "1"}
    with pytest.raises(NotFoundError):
        await store.set_tags(SandboxId("sb_none"), {})


async def test_ended_sandboxes_come_in_the_order_of_their_ends(store: Store) -> None:
    for number, ended_at in enumerate([30.0, 10.0, 20.0]):
        await store.put_sandbox(
            replace(ENDED, id=SandboxId(f"sb_{number}"), created_at=float(number), ended_at=ended_at)
        )
    await store.put_sandbox(replace(VIEW, id=SandboxId("sb_9")))
    rows = store.ended_sandboxes()
    assert [(row.id, row.node, row.ended_at) for row in rows] == [
        ("sb_1", "no_1", 10.0),
        ("sb_2", "no_1", 20.0),
        ("sb_0", "no_1", 30.0),
    ]


async def test_an_app_is_made_once_however_many_ask(store: Store) -> None:
    assert await store.app("agents", create=False) is None
    made = await asyncio.gather(*(store.app("agents", create=True) for _ in range(10)))
    assert len(set(made)) == 1
    assert await store.app("agents", create=False) == made[0]
    assert made[0] is not None
    assert store.app_name(made[0]) == "agents"
    assert store.app_name(AppId("ap_none")) is None
    assert await store.app("others", create=True) != made[0]


async def test_the_newest_image_of_a_definition_is_the_one_that_counts(store: Store) -> None:
    definition = ImageDefinition(steps=(ImageStep(kind=StepKind.PIP, arguments=("requests",)),))
    older = ImageView(id=ImageId("im_1"), definition_key="key", size=10, created_at=1.0, env={"A": "b"}, command=("x",))
    newer = replace(older, id=ImageId("im_2"), created_at=2.0)
    await store.put_image(newer, definition)
    await store.put_image(older, definition)
    assert store.image(older.id) == older
    assert store.image_by_key("key") == newer
    assert store.image(ImageId("im_3")) is None
    assert store.image_by_key("other") is None


async def test_a_deleted_image_is_gone_and_may_be_deleted_again(store: Store) -> None:
    view = ImageView(id=ImageId("im_1"), definition_key="key", size=10, created_at=1.0)
    await store.put_image(view, ImageDefinition())
    assert list(store.images()) == [view.id]
    for _ in range(2):
        await store.delete_image(view.id)
        assert not store.images()
        assert store.image(view.id) is None
        assert store.image_by_key("key") is None


VOLUME = VolumeView(id=VolumeId("vo_1"), name="data", created_at=1.5, size_bytes=10 << 30, files_max=1000)
COMMIT = CommitView(id=CommitId("vc_1"), volume=VOLUME.id, created_at=2.5, files=3, size=1 << 40)


async def test_volumes_come_back_as_they_were_put_by_name(store: Store) -> None:
    other = replace(VOLUME, id=VolumeId("vo_2"), name="a")
    await store.put_volume(VOLUME)
    await store.put_volume(other)
    assert store.volume(VOLUME.id) == store.volume_by_name("data") == VOLUME
    assert list(store.volumes()) == [other, VOLUME]
    assert store.volume(VolumeId("vo_3")) is None
    assert store.volume_by_name("vo_1") is None


async def test_commits_come_back_newest_first_and_by_their_key(store: Store) -> None:
    await store.put_volume(VOLUME)
    later = replace(COMMIT, id=CommitId("vc_2"), created_at=3.5)
    at_once = replace(COMMIT, id=CommitId("vc_3"), created_at=3.5)
    await store.put_commit(COMMIT, idempotency_key="k")
    await store.put_commit(later)
    await store.put_commit(at_once)
    assert list(store.commits(VOLUME.id)) == [at_once, later, COMMIT]
    assert store.commit_by_key("k") == COMMIT
    assert store.commit_by_key("other") is None
    await store.delete_commit(COMMIT.id)
    await store.delete_commit(COMMIT.id)
    assert list(store.commits(VOLUME.id)) == [at_once, later]
    assert store.commit_by_key("k") is None


async def test_a_deleted_volume_takes_its_commits_with_it(store: Store) -> None:
    await store.put_volume(VOLUME)
    await store.put_commit(COMMIT, idempotency_key="k")
    await store.delete_volume(VOLUME.id)
    await store.delete_volume(VOLUME.id)
    assert list(store.volumes()) == list(store.commits(VOLUME.id)) == []
    assert store.commit_by_key("k") is None
    await store.put_volume(replace(VOLUME, id=VolumeId("vo_2")))
