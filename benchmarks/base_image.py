"""The default image, made once for the checkout and shared by the tests and the benchmarks.

`python -m benchmarks.base_image` makes it ahead, so that no test waits for it within its own time limit.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from skerry.apps.settings import Settings
from skerry.engine.images import definition_key
from skerry.images.bases import CONFIG, DebianBases
from skerry.images.files import ImageFolder
from skerry.model.ids import IMAGE, ImageId, RandomIds
from skerry.model.sandboxes import ImageView
from skerry.model.specs import ImageDefinition
from skerry.store.sqlite.store import SqliteStore


def made(build: Path) -> Path:
    """Return the file of the default image below `build`, made now if it is not there."""
    bases = DebianBases(build / "bases")
    file = build / "images" / f"{bases.key(None)[:20]}.erofs"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(bases.make(None, file, print))
    return file


def give(file: Path, settings: Settings) -> None:
    """Let a server that does not run yet have `file` as its default image, as if it had built it: a second name of it,
    and a row."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ids = RandomIds()
    store = SqliteStore(settings.data_dir, ids=ids)
    try:
        key = definition_key(DebianBases(settings.data_dir / "bases").key(None), ())
        folder = ImageFolder(settings.data_dir / "images")
        folder.open()
        known = store.image_by_key(key)
        if known is None or not folder.path(known.id).exists():
            _add(store, folder, file, key, ImageId(ids.new(IMAGE)))
    finally:
        store.close()


def _add(store: SqliteStore, folder: ImageFolder, file: Path, key: str, image: ImageId) -> None:
    with folder.draft() as draft:
        draft.hardlink_to(file)
        size = folder.keep(draft, image)
    view = ImageView(
        id=image,
        definition_key=key,
        size=size,
        created_at=time.time(),
        env=CONFIG.env,
        workdir=CONFIG.workdir,
        user=CONFIG.user,
        command=CONFIG.command,
    )
    asyncio.run(store.put_image(view, ImageDefinition()))


if __name__ == "__main__" and os.geteuid() == 0:  # others can build none, and their tests say so
    made(Path("build"))
