"""What a commit has answered is on the disk: a trace of the server's own system calls, and a kill at any moment."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realserver import Server, wait_for
from volume_user import content, mount, sh

import skerry
from skerry.exception import Error

pytestmark = pytest.mark.root
SYSCALLS = "openat,rename,renameat,renameat2,fsync,fdatasync,syncfs,close,write,writev,sendto,sendmsg,pwrite64"


@contextmanager
def traced(server: Server, into: Path) -> Iterator[None]:
    """Write what the server asks of the kernel to a file, with the paths of its descriptors."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-tt", "-s", "64", "-e", f"trace={SYSCALLS}", "-p", str(server.pid), "-o", str(into)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def calls(trace: Path) -> list[str]:
    """Return the calls in the order of their ends; one that another thread interrupted is put together again."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, rest = line.split(" ", 1)[0], "", line.split(" ", 1)[1].strip()
        rest = rest.split(" ", 1)[1]
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>").rstrip()
        elif rest.startswith("<... "):
            lines.append(begun.pop(thread, "") + rest.partition("resumed>")[2])
        else:
            lines.append(rest)
    return lines


def test_every_file_of_a_commit_and_its_folder_is_synced_before_the_answer(server: Server, tmp_path: Path) -> None:
    volume = skerry.Volume.from_name("traced", create_if_missing=True)
    with mount(volume) as sandbox:
        sh(sandbox, "mkdir -p /data/d/e; for n in 1 2 3 4 5 6 7; do echo $n > /data/d/e/$n; done; echo x > /data/x")
        trace = tmp_path / "trace"
        with traced(server, trace):
            commit = volume.commit()
    folder = server.data / "volumes" / str(volume.object_id)
    lines = calls(trace)
    answered = next(
        n
        for n, line in enumerate(lines)
        if commit in line and re.match(r"(write|send|writev)", line) and "socket:" in line
    )
    before = lines[:answered]
    synced = {m[1]: n for n, line in enumerate(before) if (m := re.match(r"f(?:data)?sync\(\d+<(.*?)>\) += 0", line))}
    renamed = {
        m[2]: (m[1], n) for n, line in enumerate(before) if (m := re.match(r'rename\("(.*?)", "(.*?)"\) += 0', line))
    }

    blobs = list((folder / "blobs").glob("??/*"))
    assert len(blobs) == 8
    for file in [*blobs, folder / "commits" / commit]:
        draft, at = renamed[str(file)]
        assert synced[draft] < at, f"{file} was named before it was synced"
        assert synced[str(file.parent)] > at, f"the folder of {file} was not synced after it was named"
    for inner, outer in ((folder / "blobs", blobs[0].parent), (folder, folder / "commits")):
        assert str(inner) in synced, f"{inner} was not synced, which has {outer}"
    assert synced[str(folder)] > renamed[str(folder / "commits" / commit)][1]
    listed = renamed[str(folder / "commits" / commit)][1]
    assert all(renamed[str(blob)][1] < listed for blob in blobs), "the list came before what it lists"
    database = [n for path, n in synced.items() if path.startswith(str(server.data / "skerry.db"))]
    assert max(database) > listed, "the row was not synced"
    root = str(server.data / "volumes" / "mounted" / str(volume.object_id) / "files")
    assert any(re.match(rf"syncfs\(\d+<{re.escape(root)}>\) += 0", line) for line in before)


def test_a_commit_that_was_told_outlives_a_kill_and_one_that_was_not_leaves_nothing(server: Server) -> None:
    volume = skerry.Volume.from_name("killed", create_if_missing=True)
    with mount(volume) as sandbox:
        sh(sandbox, "mkdir /data/d; for n in $(seq 2000); do echo $n > /data/d/$n; done")
        told = volume.commit()
        sh(sandbox, "for n in $(seq 2000); do echo changed $n > /data/d/$n; done")
        blobs = server.data / "volumes" / str(volume.object_id) / "blobs"
        outcome: list[object] = []

        def commit() -> None:
            try:
                outcome.append(volume.commit())
            except Error as exc:
                outcome.append(exc)

        committing = threading.Thread(target=commit)
        committing.start()
        wait_for(lambda: len(list(blobs.glob("*.new"))) > 10, "the commit to be in its middle")
        server.kill9()
        assert content_after_restart(server, volume, told) == b"1000\n"
        committing.join()  # the client asks the next server again, with the same key
        assert isinstance(outcome[0], str)
        assert content(volume, "/d/1000", outcome[0]) == b"changed 1000\n"
        assert [one.id for one in volume.commits()] == [outcome[0], told]
        assert not list(blobs.glob("*.new"))


def content_after_restart(server: Server, volume: skerry.Volume, commit: str) -> bytes:
    server.start()
    return content(volume, "/d/1000", commit)
