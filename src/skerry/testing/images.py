"""Images in memory. Matches the engine's `Images`; every definition resolves at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from skerry.engine.interfaces import BuildEvent, BuildOutput, BuildStep, Clock, RootImage
from skerry.model.errors import ImageBuildError, NotFoundError
from skerry.model.ids import IMAGE, Ids, ImageId
from skerry.model.sandboxes import ImageView
from skerry.model.specs import HostAccess, ImageConfig, ImageDefinition

FAILING_STEP = "false"


class MemoryImages:
    """Images without files. A step whose only command is `false` fails."""

    def __init__(self, *, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._views: dict[ImageId, ImageView] = {}
        self._by_definition: dict[ImageDefinition, ImageId] = {}

    async def resolve(
        self,
        definition: ImageDefinition,
        host_access: HostAccess,
        force_build: bool,
        on_event: Callable[[BuildEvent], None],
    ) -> ImageView:
        known = self._by_definition.get(definition)
        if known is not None and not force_build:
            return self._views[known]
        for index, step in enumerate(definition.steps, start=1):
            title = f"{step.kind.value} {' '.join(step.arguments)}"
            on_event(BuildStep(index=index, count=len(definition.steps), title=title))
            on_event(BuildOutput(text=f"+ {' '.join(step.arguments)}\n"))
            if step.arguments == (FAILING_STEP,):
                raise ImageBuildError(f"step {index} of {len(definition.steps)} failed: {title}", step=index)
        return self._keep(definition)

    def get(self, image: ImageId) -> ImageView:
        view = self._views.get(image)
        if view is None:
            raise NotFoundError(f"there is no image {image}; resolve its definition first")
        return view

    def root(self, image: ImageId) -> RootImage:
        view = self.get(image)
        config = ImageConfig(env=view.env, workdir=view.workdir, user=view.user, command=view.command)
        return RootImage(file=Path("/nowhere") / image, config=config)

    def in_use(self) -> Collection[ImageId]:
        return ()

    def add(self, *, command: tuple[str, ...] = ()) -> ImageView:
        """Return a new image, with a command of its own or none."""
        image = ImageId(self._ids.new(IMAGE))
        now = self._clock.now()
        view = ImageView(id=image, definition_key=image, size=0, created_at=now, command=command)
        self._views[image] = view
        return view

    def _keep(self, definition: ImageDefinition) -> ImageView:
        view = self.add()
        self._by_definition[definition] = view.id
        return view
