"""Builds over a fake node: what is built, for whom, how often, and what is left when it fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from skerry.engine.images import EVENTS_CHARS, TAIL_LINES, BuiltImages, definition_key
from skerry.engine.interfaces import BuildEvent, BuildOutput, BuildStep
from skerry.images.files import ImageFolder
from skerry.model.errors import ImageBuildError, InvalidError, NotFoundError
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import ImageId, SandboxId
from skerry.model.sandboxes import ImageView
from skerry.model.specs import HostAccess, ImageConfig, ImageDefinition, ImageStep, StepKind
from skerry.testing.clock import VirtualClock
from skerry.testing.ids import CountingIds
from skerry.testing.node import FakeNode
from skerry.testing.programs import PROGRAMS, RunningProgram
from skerry.testing.store import MemoryStore

ACCESS = HostAccess(env={"PIP_INDEX_URL": "https://index.example/simple"}, ca_bundle=b"PEM")


class CountingBases:
    """Bases that are a file with a name in it."""

    def __init__(self) -> None:
        self.made = 0
        self.failure: Exception | None = None

    def key(self, python_version: str | None) -> str:
        if python_version == "1.0":
            raise InvalidError("python_version '1.0' does not exist")
        return f"base {python_version}"

    async def make(self, python_version: str | None, into: Path, progress: Callable[[str], None]) -> ImageConfig:
        self.made += 1
        progress("unpack")
        if self.failure is not None:
            raise self.failure
        into.write_bytes(b"base")
        return ImageConfig(env={"FROM": "base"})


class PackingNode(FakeNode):
    """A node that counts what it packs, leaves out what it is told to, and ends nothing while that is held."""

    packed = 0
    ending = 0
    left_out: Sequence[str] = ()

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.hold_ends = asyncio.Event()
        self.hold_ends.set()

    async def terminate(self, sandbox: SandboxId, reason: SandboxReason = SandboxReason.TERMINATED) -> SandboxExit:
        self.ending += 1
        await self.hold_ends.wait()
        return await super().terminate(sandbox, reason)

    async def pack_build(self, sandbox: SandboxId, into: Path) -> Sequence[str]:
        await super().pack_build(sandbox, into)
        self.packed += 1
        into.write_bytes(f"layer {self.packed}".encode())
        return self.left_out


@dataclass
class Works:
    """A build shop: its images, and what its steps did."""

    folder: Path
    ids: CountingIds = field(default_factory=CountingIds)
    clock: VirtualClock = field(default_factory=VirtualClock)
    bases: CountingBases = field(default_factory=CountingBases)
    ran: Counter[str] = field(default_factory=Counter)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    node: PackingNode = field(init=False)
    store: MemoryStore = field(init=False)
    files: ImageFolder = field(init=False)
    images: BuiltImages = field(init=False)

    def __post_init__(self) -> None:
        programs = {**PROGRAMS, "sh": self._sh, "apt-get": self._tool, "python": self._tool}
        self.node = PackingNode(clock=self.clock, programs=programs)
        self.store = MemoryStore(ids=self.ids)
        self.files = ImageFolder(self.folder)
        self.files.open()
        self.images = BuiltImages(
            store=self.store,
            files=self.files,
            bases=self.bases,
            node=lambda: self.node,
            clock=self.clock,
            ids=self.ids,
        )

    async def _tool(self, process: RunningProgram) -> int:
        self.ran[" ".join(process.spec.argv)] += 1
        return 0

    async def _sh(self, process: RunningProgram) -> int:
        """Run one word: `wait` until the test lets it, `fail`, `flood`; anything else is printed."""
        command = process.spec.argv[2]
        self.ran[command] += 1
        await process.write(f"{command}\n".encode())
        if command.startswith("wait"):
            await self.go_on.wait()
        if command == "flood":
            for _ in range(4):
                await process.write(b"x" * (EVENTS_CHARS // 3) + b"\n")
        if command == "escape":
            await process.write(b"\x1b[2Jgone \xff\n")
        if command.startswith("fail"):
            await process.write("".join(f"line {number}\n" for number in range(100)).encode())
            return 3
        return 0

    async def build(self, *commands: str, force: bool = False, events: list[BuildEvent] | None = None) -> ImageView:
        return await self.resolve(*(run(command) for command in commands), force=force, events=events)

    async def resolve(
        self, *steps: ImageStep, force: bool = False, events: list[BuildEvent] | None = None
    ) -> ImageView:
        told = events if events is not None else []
        return await self.images.resolve(ImageDefinition(steps=steps), ACCESS, force, told.append)

    def drafts(self) -> list[Path]:
        return list((self.folder / "drafts").iterdir())

    def live(self) -> int:
        return len(self.node.running())


def run(*commands: str) -> ImageStep:
    return ImageStep(kind=StepKind.RUN, arguments=commands)


@pytest.fixture
async def works(tmp_path: Path) -> AsyncIterator[Works]:
    shop = Works(tmp_path / "images")
    async with shop.node:
        yield shop
        assert shop.live() == 0
        assert shop.drafts() == []


def titles(events: Sequence[BuildEvent]) -> list[str]:
    return [event.title for event in events if isinstance(event, BuildStep)]


def text(events: Sequence[BuildEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, BuildOutput))


# What is kept


async def test_a_definition_is_built_once_and_then_found_without_events(works: Works) -> None:
    first_events: list[BuildEvent] = []
    second_events: list[BuildEvent] = []
    first = await works.build("one", "two", events=first_events)
    second = await works.build("one", "two", events=second_events)
    assert first == second
    assert works.ran == {"one": 1, "two": 1}
    assert titles(first_events)[-2:] == ["run_commands one", "run_commands two"]
    assert second_events == []


async def test_definitions_share_what_they_begin_with(works: Works) -> None:
    await works.build("one", "two")
    await works.build("one", "three")
    await works.build("one")
    assert works.ran == {"one": 1, "two": 1, "three": 1}
    assert works.bases.made == 1


async def test_the_same_step_after_another_one_is_another_image(works: Works) -> None:
    first = await works.build("one", "two")
    second = await works.build("two", "one")
    assert first.id != second.id
    assert works.ran == {"one": 2, "two": 2}


def test_a_key_tells_arguments_apart_whatever_is_in_them() -> None:
    told = [
        [run("a", "b")],
        [run("a b")],
        [run("a"), run("b")],
        [run('a", "b')],
        [ImageStep(kind=StepKind.APT, arguments=("a", "b"))],
        [],
    ]
    assert len({definition_key("base", steps) for steps in told}) == len(told)
    assert definition_key("base", told[0]) != definition_key("other", told[0])


async def test_how_the_machine_reaches_its_indexes_is_no_part_of_the_key(works: Works) -> None:
    first = await works.build("one")
    definition = ImageDefinition(steps=(run("one"),))
    assert (await works.images.resolve(definition, HostAccess(), False, lambda _: None)).id == first.id
    assert "index.example" not in repr(first)


async def test_a_step_runs_with_what_the_machine_uses_to_reach_its_indexes(works: Works) -> None:
    build = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"])
    (box,) = works.node._sandboxes.values()
    assert box.launch.spec.host_access == ACCESS
    assert box.launch.build_disk_mib is not None
    assert box.launch.spec.resources.memory_limit_mib == min(8192, works.node.view().memory_mib // 2)
    works.go_on.set()
    await build


async def test_env_and_workdir_start_no_sandbox_and_share_the_file(works: Works) -> None:
    steps = (
        ImageStep(kind=StepKind.ENV, arguments=("A=1", "FROM=step", "B=x=y")),
        ImageStep(kind=StepKind.WORKDIR, arguments=("/src",)),
    )
    events: list[BuildEvent] = []
    base = await works.resolve()
    image = await works.resolve(*steps, events=events)
    root = works.images.root(image.id)
    assert root.config.env == {"FROM": "step", "A": "1", "B": "x=y"}
    assert root.config.workdir == "/src"
    assert root.file.samefile(works.files.path(base.id))
    assert works.ran == {}
    assert works.node.packed == 0
    assert image.size == base.size == 4


async def test_a_step_inherits_the_settings_before_it(works: Works) -> None:
    image = await works.resolve(ImageStep(kind=StepKind.ENV, arguments=("A=1",)), run("one"))
    assert works.images.root(image.id).config.env == {"FROM": "base", "A": "1"}


async def test_attributes_beside_an_image_go_with_its_file(works: Works) -> None:
    base = await works.resolve()
    beside = works.files.path(base.id).with_name(f"{base.id}.erofs.xattrs.json")
    beside.write_text("[]")
    image = await works.resolve(ImageStep(kind=StepKind.WORKDIR, arguments=("/src",)))
    assert works.files.path(image.id).with_name(f"{image.id}.erofs.xattrs.json").samefile(beside)


async def test_an_image_whose_file_is_gone_is_built_again(works: Works) -> None:
    first = await works.build("one")
    works.files.path(first.id).unlink()
    with pytest.raises(NotFoundError, match="is gone; build it again"):
        works.images.root(first.id)
    second = await works.build("one")
    assert second.id != first.id
    assert works.images.root(second.id).file.read_bytes() == b"layer 2"
    assert works.ran == {"one": 2}
    assert works.bases.made == 1


async def test_a_forced_build_runs_every_step_again_but_not_the_base(works: Works) -> None:
    first = await works.build("one", "two")
    await works.clock.advance(1.0)
    second = await works.build("one", "two", force=True)
    third = await works.build("one", "two")
    assert first.id != second.id == third.id
    assert works.ran == {"one": 2, "two": 2}
    assert works.bases.made == 1


async def test_an_unknown_image_is_not_found(works: Works) -> None:
    with pytest.raises(NotFoundError, match="build it again from its definition"):
        works.images.get(ImageId("im_0"))


async def test_a_python_that_does_not_exist_is_refused_before_anything_is_built(works: Works) -> None:
    with pytest.raises(InvalidError):
        await works.images.resolve(ImageDefinition(python_version="1.0"), ACCESS, False, lambda _: None)
    assert works.bases.made == 0


# Steps


async def test_packages_are_installed_by_their_tools(works: Works) -> None:
    await works.resolve(
        ImageStep(kind=StepKind.APT, arguments=("jq", "tree")), ImageStep(kind=StepKind.PIP, arguments=("six",))
    )
    assert list(works.ran) == [
        "apt-get -q update",
        "apt-get -q install -y --no-install-recommends jq tree",
        "rm -rf /var/lib/apt/lists/*",
        "python -m pip install --no-cache-dir --progress-bar=off six",
    ]
    assert works.node.packed == 2


async def test_the_commands_of_a_step_make_one_layer(works: Works) -> None:
    await works.resolve(run("one", "two"))
    assert works.ran == {"one": 1, "two": 1}
    assert works.node.packed == 1


async def test_what_an_image_cannot_hold_is_told_in_the_log(works: Works) -> None:
    works.node.left_out = [f'"/dev{number}"' for number in range(12)]
    events: list[BuildEvent] = []
    await works.build("one", events=events)
    assert 'left out, since an image holds no devices: "/dev0", ' in text(events)
    assert '"/dev9", …;' in text(events)


async def test_guest_bytes_in_a_log_are_harmless_text(works: Works) -> None:
    events: list[BuildEvent] = []
    await works.build("escape", events=events)
    assert "gone" in text(events)
    assert "\x1b" not in text(events)


# Failures


async def test_a_failure_names_the_step_and_shows_its_last_lines(works: Works) -> None:
    with pytest.raises(ImageBuildError) as caught:
        await works.build("one", "fail", "never")
    told = str(caught.value)
    assert "step 'run_commands fail' failed" in told
    assert "ended with 3" in told
    assert told.splitlines()[1:] == [f"  | line {number}" for number in range(100 - TAIL_LINES, 100)]
    assert caught.value.details == {"step": "run_commands fail", "returncode": 3}
    assert works.ran == {"one": 1, "fail": 1}


async def test_a_failure_is_not_kept_but_what_came_before_it_is(works: Works) -> None:
    for _ in range(2):
        with pytest.raises(ImageBuildError):
            await works.build("one", "fail")
    assert works.ran == {"one": 1, "fail": 2}


async def test_a_later_command_of_a_step_that_failed_is_not_run(works: Works) -> None:
    with pytest.raises(ImageBuildError):
        await works.resolve(run("one", "fail", "never"))
    assert works.ran == {"one": 1, "fail": 1}


async def test_a_base_that_fails_is_built_at_the_next_call(works: Works) -> None:
    works.bases.failure = ImageBuildError("no mirror")
    with pytest.raises(ImageBuildError, match="no mirror"):
        await works.build("one")
    works.bases.failure = None
    await works.build("one")
    assert works.bases.made == 2


async def test_a_sandbox_that_cannot_start_fails_the_build(works: Works) -> None:
    await works.resolve()
    works.node.fail_next_start = ImageBuildError("no room")
    with pytest.raises(ImageBuildError, match="no room"):
        await works.build("one")
    assert works.ran == {}


# Callers


async def test_ten_callers_share_one_build(works: Works) -> None:
    builds = [asyncio.create_task(works.build("wait", "two")) for _ in range(10)]
    await until(lambda: works.ran["wait"])
    works.go_on.set()
    assert len({view.id for view in await asyncio.gather(*builds)}) == 1
    assert works.ran == {"wait": 1, "two": 1}
    assert works.bases.made == 1


async def test_two_definitions_build_what_they_share_together(works: Works) -> None:
    builds = [asyncio.create_task(works.build("wait", name)) for name in ("two", "three")]
    await until(lambda: works.ran["wait"])
    works.go_on.set()
    await asyncio.gather(*builds)
    assert works.ran == {"wait": 1, "two": 1, "three": 1}


async def test_a_failure_reaches_every_caller(works: Works) -> None:
    builds = [asyncio.create_task(works.build("wait", "fail")) for _ in range(3)]
    await until(lambda: works.ran["wait"])
    works.go_on.set()
    ends = await asyncio.gather(*builds, return_exceptions=True)
    assert all(isinstance(end, ImageBuildError) for end in ends)
    assert works.ran == {"wait": 1, "fail": 1}


async def test_a_caller_that_goes_does_not_end_the_build_of_another(works: Works) -> None:
    leaving = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"])
    staying = asyncio.create_task(works.build("wait"))
    await until(lambda: [build.callers for build in works.images._builds.values()] == [2])
    await cancelled(leaving)
    works.go_on.set()
    assert (await staying).size == len(b"layer 1")
    assert works.ran == {"wait": 1}


async def test_the_last_caller_that_goes_ends_the_build_and_its_sandbox(works: Works) -> None:
    callers = [asyncio.create_task(works.build("one", "wait")) for _ in range(2)]
    await until(lambda: works.ran["wait"])
    for caller in callers:
        await cancelled(caller)
    await until(lambda: works.live() == 0 and not works.images._builds)
    works.go_on.set()
    await works.build("one", "wait")
    assert works.ran == {"one": 1, "wait": 2}


async def test_a_caller_that_goes_ends_only_its_own_part_of_a_shared_prefix(works: Works) -> None:
    leaving = asyncio.create_task(works.build("wait", "two"))
    await until(lambda: works.ran["wait"])
    staying = asyncio.create_task(works.build("wait", "three"))
    await until(lambda: len(works.images._builds) == 3)
    await cancelled(leaving)
    works.go_on.set()
    await staying
    assert works.ran == {"wait": 1, "three": 1}


async def test_a_caller_that_comes_while_a_build_is_given_up_gets_a_build_of_its_own(works: Works) -> None:
    works.node.hold_ends.clear()
    leaving = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"])
    await cancelled(leaving)
    await until(lambda: works.node.ending)
    coming = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"] == 2)
    works.go_on.set()
    works.node.hold_ends.set()
    assert (await coming).size == len(b"layer 1")
    await until(lambda: works.live() == 0)


async def test_closing_ends_every_build_and_waits_for_what_was_given_up(works: Works) -> None:
    works.node.hold_ends.clear()
    leaving = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"])
    await cancelled(leaving)
    staying = asyncio.create_task(works.build("wait 2"))
    await until(lambda: works.ran["wait 2"])
    closing = asyncio.create_task(works.images.close())
    await until(lambda: works.node.ending == 2)
    assert not closing.done()
    works.node.hold_ends.set()
    await closing
    assert works.live() == 0
    assert works.drafts() == []
    with pytest.raises(asyncio.CancelledError):
        await staying


# Events


async def test_a_caller_that_comes_late_gets_every_event(works: Works) -> None:
    early: list[BuildEvent] = []
    late: list[BuildEvent] = []
    first = asyncio.create_task(works.build("wait", "two", events=early))
    await until(lambda: works.ran["wait"])
    second = asyncio.create_task(works.build("wait", "two", events=late))
    await until(lambda: late)
    works.go_on.set()
    await asyncio.gather(first, second)
    assert late == early
    assert titles(late) == ["debian_slim python of this machine", "run_commands wait", "run_commands two"]
    assert [event.index for event in late if isinstance(event, BuildStep)] == [0, 1, 2]
    assert {event.count for event in late if isinstance(event, BuildStep) and event.index} == {2}


async def test_the_events_kept_for_late_callers_are_bounded(works: Works) -> None:
    late: list[BuildEvent] = []
    first = asyncio.create_task(works.build("flood", "wait"))
    await until(lambda: works.ran["wait"])
    second = asyncio.create_task(works.build("flood", "wait", events=late))
    await until(lambda: late)
    assert sum(len(event.text) for event in late if isinstance(event, BuildOutput)) <= EVENTS_CHARS
    works.go_on.set()
    await asyncio.gather(first, second)


async def test_closing_ends_the_builds_in_progress(works: Works) -> None:
    build = asyncio.create_task(works.build("wait"))
    await until(lambda: works.ran["wait"])
    await works.images.close()
    with pytest.raises(asyncio.CancelledError):
        await build
    assert not works.node.running()


async def cancelled(task: asyncio.Task[ImageView]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_build_stands_on_is_in_use_until_it_is_over(works: Works) -> None:
    parent = await works.build("one")
    building = asyncio.ensure_future(works.build("one", "wait"))
    await until(lambda: works.ran["wait"])
    assert works.images.in_use() == {parent.id}
    works.go_on.set()
    await building
    assert works.images.in_use() == set()


async def test_an_image_that_was_collected_is_built_again(works: Works) -> None:
    first = await works.build("one")
    works.files.remove(first.id)
    await works.store.delete_image(first.id)
    with pytest.raises(NotFoundError, match="build it again"):
        works.images.root(first.id)
    second = await works.build("one")
    assert works.images.root(second.id).file.exists()
    assert works.ran["one"] == 2
