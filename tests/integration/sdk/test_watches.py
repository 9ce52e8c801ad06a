"""Watching files of a sandbox, as a program does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from realserver import Server

import skerry
from skerry import exception
from skerry.types import FileWatchEvent, FileWatchEventType

DEADLINE_S = 30.0


class Watcher(threading.Thread):
    """Collects what a watch yields, and knows when it has begun."""

    def __init__(self, sandbox: skerry.Sandbox, path: str, **options: object) -> None:
        super().__init__(daemon=True)
        self.events: list[FileWatchEvent] = []
        self.error: Exception | None = None
        self._sandbox, self._path, self._options = sandbox, path, options
        self.start()

    def run(self) -> None:
        try:
            for event in self._sandbox.filesystem.watch(self._path, **self._options):
                self.events.append(event)
        except Exception as exc:
            self.error = exc

    def wait(self, kind: FileWatchEventType, *paths: str, again: str = "") -> None:
        """Wait for an event; `again` is touched until then, since a watch begins at some time."""
        deadline = time.monotonic() + DEADLINE_S
        while FileWatchEvent(list(paths), kind) not in self.events:
            assert time.monotonic() < deadline, (kind, paths, self.events[-5:], self.error)
            if again:
                self._sandbox.exec("touch", again).wait()
            time.sleep(0.02)


@pytest.fixture
def sandbox(shared: Server) -> Iterator[skerry.Sandbox]:
    with skerry.Sandbox.create(timeout=300) as box:
        yield box


def test_a_program_sees_changes_in_modals_words(sandbox: skerry.Sandbox) -> None:
    sandbox.filesystem.make_directory("/root/seen")
    watcher = Watcher(sandbox, "/root/seen", recursive=True)
    watcher.wait(FileWatchEventType.Modify, "/root/seen/begun", again="/root/seen/begun")
    sandbox.filesystem.write_text("x", "/root/seen/below/file")
    sandbox.filesystem.rename("/root/seen/below/file", "/root/seen/file")
    watcher.wait(FileWatchEventType.Modify, "/root/seen/below/file", "/root/seen/file")
    sandbox.filesystem.remove("/root/seen/file")
    watcher.wait(FileWatchEventType.Remove, "/root/seen/file")
    sandbox.terminate(wait=True)
    watcher.join(DEADLINE_S)
    assert not watcher.is_alive()
    assert watcher.error is None


def test_a_watch_ends_at_its_timeout_and_by_leaving_the_loop(sandbox: skerry.Sandbox) -> None:
    assert list(sandbox.filesystem.watch("/root", timeout=0.2)) == []
    sandbox.exec("sh", "-c", "while :; do : > /root/again; rm /root/again; sleep 0.01; done")
    for _ in range(70):  # more than may be open at once
        events = sandbox.filesystem.watch("/root", filter=[FileWatchEventType.Create], timeout=60)
        assert next(events) == FileWatchEvent(["/root/again"], FileWatchEventType.Create)
        events.close()


def test_what_cannot_be_watched_says_why(sandbox: skerry.Sandbox) -> None:
    with pytest.raises(exception.SandboxFilesystemNotFoundError, match="/none"):
        next(sandbox.filesystem.watch("/none"))
    with pytest.raises(exception.InvalidError, match="timeout"):
        next(sandbox.filesystem.watch("/root", timeout=-1))
    with pytest.raises(ValueError, match="created"):
        next(sandbox.filesystem.watch("/root", filter=["created"]))


def test_whether_something_exists_is_told_without_following_links(sandbox: skerry.Sandbox) -> None:
    sandbox.exec("ln", "-s", "/nowhere", "/root/link").wait()
    found = [sandbox.filesystem.exists(path) for path in ("/root", "/root/link", "/none", "/etc/passwd/x")]
    assert found == [True, True, False, False]
