"""`skerry gc` against a real server: what it tells, and that what it removes is gone and nothing else."""

from __future__ import annotations

import json
import os
import time

from command_line import skerry
from realserver import Server

from skerry import Image, Sandbox


def told(server: Server, *argv: str) -> dict[str, list[dict[str, object]]]:
    out, err, code = skerry(server, "gc", "--json", *argv)
    assert (err, code) == ("", 0)
    answer: dict[str, list[dict[str, object]]] = json.loads(out)
    return answer


def test_an_image_that_nobody_uses_goes_when_asked_for_and_one_in_use_stays(server: Server) -> None:
    built = Image.debian_slim().run_commands("echo built > /made")
    with Sandbox.create(block_network=True) as live:
        with Sandbox.create(image=built, block_network=True) as box:
            assert box.filesystem.read_text("/made") == "built\n"
            image = box.view.spec.image
        file = server.data / "images" / f"{image}.erofs"
        long_ago = time.time() - 7200
        for path in (server.data / "images").glob("*.erofs"):
            os.utime(path, (long_ago, long_ago))
        before = told(server, "--dry-run", "--older-than", "1h")
        goes = [one for one in before["kept"] if one["goes"]]
        assert [one["id"] for one in goes] == [image]
        assert goes[0]["bytes"] > 1 << 20  # type: ignore[operator]
        assert file.exists()
        after = told(server, "--older-than", "1h")
        assert [one["id"] for one in after["went"]] == [image]
        assert not file.exists()
        kept = {one["id"]: one["why"] for one in after["kept"]}
        assert kept[live.view.spec.image] == "a sandbox or a build uses it"
        assert kept[live.object_id] == "its sandbox runs"
        assert live.exec("echo", "alive").stdout.read() == "alive\n"
    with Sandbox.create(image=built, block_network=True) as again:  # built anew
        assert again.filesystem.read_text("/made") == "built\n"


def test_people_are_told_what_is_kept_and_what_it_costs(server: Server) -> None:
    box = Sandbox.create("sh", "-c", "head -c 3000000 /dev/zero", block_network=True)
    box.wait()
    out, err, code = skerry(server, "gc", "--dry-run")
    assert (err, code) == ("", 0)
    lines = out.decode().splitlines()
    assert {line.split()[0] for line in lines[1:-1]} >= {"image", "output", "agent", "server"}
    (output,) = [line for line in lines if line.startswith("output")]
    assert "2.9 MiB" in output
    assert "1: ended sandboxes are remembered for 1 day" in output
    assert lines[-1].startswith("would go: 0 of ")
    listed = skerry(server, "gc", "--all", "--verbose")[0].decode()
    assert box.object_id in listed  # it ended less than a minute ago
    assert box.stdout.read() == "\0" * 3_000_000
    assert skerry(server, "gc", "--all", "--older-than", "1d")[2] == 2
    assert "is no length of time" in skerry(server, "gc", "--older-than", "soon")[1]
