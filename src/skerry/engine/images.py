"""Images from definitions: each step an ordinary sandbox, each result kept under a key of what went into it.

The image of a definition is the image of all but its last step, changed by that step. So every prefix of a definition
is an image of its own: shared by all definitions that begin with it, built once however many callers wait for it, and
never built again while its key stays the same.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from skerry.engine.interfaces import (
    Bases,
    BuildEvent,
    BuildOutput,
    BuildStep,
    Clock,
    ImageFiles,
    Launch,
    NodeHandle,
    ProcessHandle,
    RootImage,
    Store,
)
from skerry.model import limits
from skerry.model.errors import ImageBuildError, NotFoundError
from skerry.model.ids import IMAGE, PROCESS, SANDBOX, Ids, ImageId, ProcessId, SandboxId
from skerry.model.sandboxes import ImageView
from skerry.model.specs import (
    ExecSpec,
    HostAccess,
    ImageConfig,
    ImageDefinition,
    ImageStep,
    Resources,
    SandboxSpec,
    StepKind,
)
from skerry.model.text import printable

BUILD_DISK_MIB = 20 * 1024
BUILD_MEMORY_MIB = 8 * 1024
BUILD_TMP_MIB = 2 * 1024
BUILD_LIFETIME_S = 3600.0
TAIL_LINES = 20
LEFT_OUT_SHOWN = 10
EVENTS_CHARS = 2 * limits.MIB  # of one build's events, for a caller that joins late; beyond it the oldest go
OUTPUT_S = 2.0

OnEvent = Callable[[BuildEvent], None]


@dataclass
class _Build:
    """A build in progress, and who listens to it."""

    task: asyncio.Task[ImageView]
    callers: int = 0
    listeners: list[OnEvent] = field(default_factory=list)
    events: deque[BuildEvent] = field(default_factory=deque)
    kept: int = 0

    def tell(self, event: BuildEvent) -> None:
        self.events.append(event)
        self.kept += _weight(event)
        while self.kept > EVENTS_CHARS:
            self.kept -= _weight(self.events.popleft())
        for listener in list(self.listeners):
            listener(event)


def _weight(event: BuildEvent) -> int:
    return 100 + (len(event.text) if isinstance(event, BuildOutput) else len(event.title))


class BuiltImages:
    """The images of this machine, and the way to new ones."""

    def __init__(
        self,
        *,
        store: Store,
        files: ImageFiles,
        bases: Bases,
        node: Callable[[], NodeHandle],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._files = files
        self._bases = bases
        self._node = node
        self._clock = clock
        self._ids = ids
        self._builds: dict[str, _Build] = {}
        self._parents: Counter[ImageId] = Counter()
        self._tasks: set[asyncio.Task[ImageView]] = set()  # of builds, those that are given up included

    def get(self, image: ImageId) -> ImageView:
        """Return what is known of an image; raises NotFoundError."""
        view = self._store.image(image)
        if view is None:
            raise NotFoundError(f"image {image} does not exist here; build it again from its definition")
        return view

    def root(self, image: ImageId) -> RootImage:
        """Return the file of an image and how processes start in it; raises NotFoundError."""
        view = self.get(image)
        if not self._usable(view):
            raise NotFoundError(f"the file of image {image} is gone; build it again from its definition")
        return RootImage(file=self._files.path(image), config=config_of(view))

    def in_use(self) -> Collection[ImageId]:
        """Return the images on top of which something is being built."""
        return set(self._parents.elements())

    async def close(self) -> None:
        """End the builds in progress; what they began is removed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def resolve(
        self, definition: ImageDefinition, host_access: HostAccess, force_build: bool, on_event: OnEvent
    ) -> ImageView:
        """Return the image of a definition, built now if there is none."""
        # A key may ask the machine (package lists, mirrors), so it is worked out in a thread.
        base_key = await asyncio.to_thread(self._bases.key, definition.python_version)
        known = self._store.image_by_key(definition_key(base_key, definition.steps))
        if known is not None and self._usable(known) and not (force_build and definition.steps):
            return known
        return await self._shared(_Order(definition, base_key, host_access, force_build), on_event)

    def _usable(self, view: ImageView) -> bool:
        """Tell whether the file of an image is there, which then counts as used."""
        self._files.touch(view.id)
        return self._files.path(view.id).exists()

    async def _shared(self, order: _Order, on_event: OnEvent) -> ImageView:
        build = self._builds.get(order.key)
        if build is None:
            build = _Build(task=asyncio.get_running_loop().create_task(self._run(order)))
            self._builds[order.key] = build
            self._tasks.add(build.task)
            build.task.add_done_callback(partial(self._done, order.key, build))
        for event in build.events:
            on_event(event)
        build.listeners.append(on_event)
        build.callers += 1
        try:
            return await asyncio.shield(build.task)
        finally:
            build.callers -= 1
            build.listeners.remove(on_event)
            if build.callers == 0 and not build.task.done():
                self._drop(order.key, build)  # it still cleans up: whoever comes now needs a build of their own
                build.task.cancel()

    def _drop(self, key: str, build: _Build) -> None:
        if self._builds.get(key) is build:
            del self._builds[key]

    def _done(self, key: str, build: _Build, task: asyncio.Task[ImageView]) -> None:
        self._drop(key, build)
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; asked for here so that asyncio does not complain

    async def _run(self, order: _Order) -> ImageView:
        if not order.definition.steps:
            return await self._build_base(order)
        parent = await self._parent(order)
        step = order.definition.steps[-1]
        with self._needed(parent.id):
            if step.kind in (StepKind.ENV, StepKind.WORKDIR):
                return await self._configure(order, parent, step)
            return await self._build_step(order, parent, step)

    @contextmanager
    def _needed(self, parent: ImageId) -> Iterator[None]:
        self._parents[parent] += 1
        try:
            yield
        finally:
            self._parents[parent] -= 1

    async def _parent(self, order: _Order) -> ImageView:
        below = order.below()
        known = self._store.image_by_key(below.key)
        if known is not None and self._usable(known) and not (order.force and below.definition.steps):
            return known
        return await self._shared(below, self._teller(order.key))

    def _teller(self, key: str) -> OnEvent:
        return lambda event: self._tell(key, event)

    def _tell(self, key: str, event: BuildEvent) -> None:
        if build := self._builds.get(key):
            build.tell(event)

    async def _build_base(self, order: _Order) -> ImageView:
        self._tell(order.key, BuildStep(index=0, count=0, title=base_title(order.definition)))
        loop = asyncio.get_running_loop()

        def progress(line: str) -> None:
            loop.call_soon_threadsafe(self._tell, order.key, BuildOutput(text=f"{printable(line)}\n"))

        with self._files.draft() as draft:
            config = await self._bases.make(order.definition.python_version, draft, progress)
            return await self._keep(order, config, lambda image: self._files.keep(draft, image))

    async def _configure(self, order: _Order, parent: ImageView, step: ImageStep) -> ImageView:
        config = configured(config_of(parent), step)
        return await self._keep(order, config, lambda image: self._files.share(parent.id, image))

    async def _keep(self, order: _Order, config: ImageConfig, place: Callable[[ImageId], int]) -> ImageView:
        image = ImageId(self._ids.new(IMAGE))
        size = await asyncio.to_thread(place, image)
        view = ImageView(
            id=image,
            definition_key=order.key,
            size=size,
            created_at=self._clock.now(),
            env=config.env,
            workdir=config.workdir,
            user=config.user,
            command=config.command,
        )
        await self._store.put_image(view, order.definition)
        return view

    async def _build_step(self, order: _Order, parent: ImageView, step: ImageStep) -> ImageView:
        self._tell(order.key, BuildStep(index=order.depth, count=order.count, title=step_title(step)))
        node = self._node()
        sandbox = SandboxId(self._ids.new(SANDBOX))
        memory_mib = node.view().memory_mib
        await node.start(build_launch(sandbox, parent.id, self.root(parent.id), order.host_access, memory_mib))
        try:
            for argv in commands(step):
                await self._command(order, node, sandbox, step, argv)
            with self._files.draft() as draft:
                self._tell_left_out(order, await _packed(node, sandbox, draft, step))
                return await self._keep(order, config_of(parent), lambda image: self._files.keep(draft, image))
        finally:
            await asyncio.shield(node.terminate(sandbox))
            node.forget(sandbox)

    def _tell_left_out(self, order: _Order, paths: Sequence[str]) -> None:
        if paths:
            shown = ", ".join(paths[:LEFT_OUT_SHOWN]) + (", …" if len(paths) > LEFT_OUT_SHOWN else "")
            text = f"skerry: left out, since an image holds no devices: {shown}; make them when a sandbox has started"
            self._tell(order.key, BuildOutput(text=f"{text}\n"))

    async def _command(
        self, order: _Order, node: NodeHandle, sandbox: SandboxId, step: ImageStep, argv: tuple[str, ...]
    ) -> None:
        spec = ExecSpec(argv=argv, stdin="null", stderr="stdout", env=STEP_ENV)
        process = await node.exec(sandbox, ProcessId(self._ids.new(PROCESS)), spec)
        tail = _Tail()
        following = asyncio.ensure_future(self._follow(order, process, tail))
        try:
            end = await process.wait()
            # What a step leaves in the background may hold its output open; the step is over all the same.
            await asyncio.wait([following], timeout=OUTPUT_S)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if end.returncode != 0:
            raise build_error(step, argv, end.returncode, end.evidence, tail.lines())

    async def _follow(self, order: _Order, process: ProcessHandle, tail: _Tail) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for _, chunk in process.output(1).follow(0):
            text = printable(decoder.decode(bytes(chunk)), keep="\n\t\r")
            self._tell(order.key, BuildOutput(text=text))
            tail.add(text)


class _Tail:
    """The last lines of a log, each cut to its last kibibyte."""

    def __init__(self) -> None:
        self._whole: deque[str] = deque(maxlen=TAIL_LINES)
        self._line = ""

    def add(self, text: str) -> None:
        *whole, line = (self._line + text).split("\n")
        self._whole.extend(each[-limits.KIB :] for each in whole)
        self._line = line[-limits.KIB :]

    def lines(self) -> Sequence[str]:
        return [*self._whole, self._line] if self._line else list(self._whole)


async def _packed(node: NodeHandle, sandbox: SandboxId, draft: Path, step: ImageStep) -> Sequence[str]:
    try:
        return await node.pack_build(sandbox, draft)
    except ImageBuildError as exc:
        title = step_title(step)
        raise ImageBuildError(f"step {title!r} failed: {exc.message}", step=title) from exc


@dataclass(frozen=True)
class _Order:
    """What one build makes."""

    definition: ImageDefinition
    base_key: str
    host_access: HostAccess
    force: bool
    count: int = -1

    def __post_init__(self) -> None:
        if self.count < 0:
            object.__setattr__(self, "count", len(self.definition.steps))

    @property
    def key(self) -> str:
        return definition_key(self.base_key, self.definition.steps)

    @property
    def depth(self) -> int:
        return len(self.definition.steps)

    def below(self) -> _Order:
        """Return the order for all but the last step."""
        return replace(self, definition=replace(self.definition, steps=self.definition.steps[:-1]))


# Steps run without a terminal and must not ask; everything else is the image's own environment.
STEP_ENV = {"DEBIAN_FRONTEND": "noninteractive", "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def definition_key(base_key: str, steps: Sequence[ImageStep]) -> str:
    """Return the key of an image: what went into it, step by step. How the machine reaches its indexes is no part."""
    key = base_key
    for step in steps:
        text = json.dumps([key, step.kind.value, list(step.arguments)])
        key = hashlib.sha256(text.encode()).hexdigest()
    return key


def config_of(view: ImageView) -> ImageConfig:
    """Return how processes start in an image."""
    return ImageConfig(env=view.env, workdir=view.workdir, user=view.user, command=view.command)


def configured(config: ImageConfig, step: ImageStep) -> ImageConfig:
    """Return the configuration after an `env` or `workdir` step."""
    if step.kind is StepKind.WORKDIR:
        return replace(config, workdir=step.arguments[0])
    pairs = (argument.partition("=") for argument in step.arguments)
    return replace(config, env={**config.env, **{key: value for key, _, value in pairs}})


def commands(step: ImageStep) -> list[tuple[str, ...]]:
    """Return the command lines of a step."""
    match step.kind:
        case StepKind.APT:
            return [
                ("apt-get", "-q", "update"),
                ("apt-get", "-q", "install", "-y", "--no-install-recommends", *step.arguments),
                ("sh", "-c", "rm -rf /var/lib/apt/lists/*"),
            ]
        case StepKind.PIP:
            return [("python", "-m", "pip", "install", "--no-cache-dir", "--progress-bar=off", *step.arguments)]
        case _:
            return [("sh", "-c", command) for command in step.arguments]


def step_title(step: ImageStep) -> str:
    """Return a step as one line for people."""
    text = " ".join(step.arguments).replace("\n", " ")
    return printable(f"{step.kind.value} {text}"[:120])


def base_title(definition: ImageDefinition) -> str:
    """Return the base as one line for people."""
    return f"{definition.base} python {definition.python_version or 'of this machine'}"


def build_launch(
    sandbox: SandboxId, parent: ImageId, image: RootImage, host_access: HostAccess, memory_mib: int
) -> Launch:
    """Return the sandbox that one step runs in: its writable layer is on disk, and large.

    It may use half of the node's memory, up to a bound: gVisor reads each file of the layer whole to save it.
    """
    resources = Resources(memory_limit_mib=min(BUILD_MEMORY_MIB, memory_mib // 2), tmp_mib=BUILD_TMP_MIB)
    spec = SandboxSpec(image=parent, lifetime_s=BUILD_LIFETIME_S, resources=resources, host_access=host_access)
    return Launch(sandbox=sandbox, spec=spec, image=image, build_disk_mib=BUILD_DISK_MIB)


def build_error(
    step: ImageStep, argv: Sequence[str], returncode: int, evidence: str, tail: Sequence[str]
) -> ImageBuildError:
    """Return the error of a step whose command failed, with the last lines of its log."""
    lines = "\n".join(f"  | {line.rstrip(chr(13))}" for line in tail) or "  | (it printed nothing)"
    command = printable(" ".join(argv))[:200]
    why = f" ({printable(evidence)})" if evidence else ""
    message = (
        f"step {step_title(step)!r} failed: {command!r} ended with {returncode}{why}; "
        f"mend the step and build again. Its last lines:\n{lines}"
    )
    return ImageBuildError(message, step=step_title(step), returncode=returncode)
