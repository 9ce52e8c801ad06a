"""`skerry volume` against a real server, with trees that nobody should trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from realserver import Server
from volume_user import mount, sh

import skerry

pytestmark = pytest.mark.root
PATIENCE_S = 60


def run(server: Server, *argv: str, stdin: bytes = b"", cwd: Path | None = None) -> tuple[bytes, str, int]:
    done = subprocess.run(
        [sys.executable, "-c", "from skerry.cli import main; main()", *argv],
        env=os.environ | {"SKERRY_URL": server.url, "COLUMNS": "200"},
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        cwd=cwd,
    )
    return done.stdout, done.stderr.decode(), done.returncode


def ok(server: Server, *argv: str, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    out, err, code = run(server, *argv, stdin=stdin, cwd=cwd)
    assert code == 0, (argv, err)
    return out


def told(server: Server, *argv: str) -> str:
    """Return what a command says when it fails."""
    out, err, code = run(server, *argv)
    assert (out, code) == (b"", 1), (argv, out, err)
    assert err.count("\n") == 1
    return err


def test_the_life_of_a_volume(shared: Server, tmp_path: Path) -> None:
    identifier = ok(shared, "volume", "create", "life").decode().strip()
    assert ok(shared, "volume", "create", "life").decode().strip() == identifier
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a").write_bytes(b"a\0b")
    (tmp_path / "in" / "sub" / "b").write_text("b")
    (tmp_path / "in" / "sub" / "b").chmod(0o755)
    (tmp_path / "in" / "link").symlink_to("a")
    _, err, code = run(shared, "volume", "put", "life", str(tmp_path / "in"), "/")
    assert code == 0
    assert "left out 1 links" in err
    ok(shared, "volume", "put", "life", "-", "/from/stdin", stdin=b"typed")
    assert ok(shared, "volume", "cat", "life", "/in/a") == b"a\0b"
    listed = json.loads(ok(shared, "volume", "ls", "life", "-R", "--json"))
    assert [one["path"] for one in listed] == ["/from", "/from/stdin", "/in", "/in/a", "/in/sub", "/in/sub/b"]
    assert ok(shared, "volume", "ls", "life", "/in/sub").decode().splitlines()[1].split() == [
        "-rwxr-xr-x", "0:0", "1", "B", "/in/sub/b",
    ]  # fmt: skip
    commit = ok(shared, "volume", "commit", "life").decode().strip()
    ok(shared, "volume", "rm", "life", "-r", "/in")
    assert ok(shared, "volume", "cat", "life", "/in/sub/b", "--commit", commit) == b"b"
    ok(shared, "volume", "get", "life", "/", str(tmp_path / "out"), "--commit", commit)
    assert (tmp_path / "out" / "in" / "a").read_bytes() == b"a\0b"
    assert (tmp_path / "out" / "in" / "sub" / "b").stat().st_mode & 0o777 == 0o755
    assert commit in ok(shared, "volume", "commits", "life").decode()
    ok(shared, "volume", "rm", "life", "--commit", commit)
    assert json.loads(ok(shared, "volume", "commits", "life", "--json")) == []
    assert "life" in ok(shared, "volume", "ls").decode()
    ok(shared, "volume", "rm", "life")
    assert "there is no volume 'life'" in told(shared, "volume", "ls", "life")


def test_create_mounts_volumes_and_one_in_use_stays(shared: Server) -> None:
    sandbox = (
        ok(shared, "create", "--block-network", "--volume", "used:/data", "--volume", "ro:/in:ro").decode().strip()
    )
    ok(shared, "exec", sandbox, "--", "sh", "-c", "echo x > /data/x")
    assert run(shared, "exec", sandbox, "--", "sh", "-c", "echo x > /in/x")[2] != 0
    assert ok(shared, "volume", "cat", "used", "x") == b"x\n"
    assert f"mounted in sandbox {sandbox}" in told(shared, "volume", "rm", "used")
    ok(shared, "terminate", sandbox)
    for name in ("used", "ro"):
        ok(shared, "volume", "rm", name)


@pytest.mark.parametrize("volume", ["x", "x:", ":/data", "x:data", "x:/"])
def test_a_volume_that_cannot_be_mounted_is_refused(shared: Server, volume: str) -> None:
    _, err, code = run(shared, "create", "--volume", volume)
    assert code in (1, 2)
    assert "Traceback" not in err


def test_get_of_a_hostile_tree_writes_where_it_was_told_and_nowhere_else(shared: Server, tmp_path: Path) -> None:
    volume = skerry.Volume.from_name("hostile", create_if_missing=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with mount(volume) as sandbox:
        sh(
            sandbox,
            "cd /data; mkdir -p t/sub; echo in > t/in; ln -s in t/ok; ln -s ../sub/x t/sub/near; "
            f"ln -s {victim} t/abs; ln -s ../../victim t/up; ln -s ../t2 t/sub/../sideways; "
            "printf x > \"t/$(printf 'a\\377b')\"; printf x > \"t/$(printf '\\033[2Jclear')\"; "
            "echo x > t/setuid; chmod 6755 t/setuid",
        )
    _, err, code = run(shared, "volume", "get", "hostile", "/t", "out", cwd=tmp_path)
    assert code == 0, err
    assert "left out 3 " in err
    assert "\x1b" not in err
    out = tmp_path / "out"
    names = {os.fsencode(path.relative_to(out)) for path in out.rglob("*")}
    assert names == {b"sub", b"sub/near", b"in", b"ok", b"setuid", b"a\xffb", b"\x1b[2Jclear"}
    assert (out / "ok").read_text() == "in\n"
    assert (out / "setuid").stat().st_mode & 0o7000 == 0
    assert victim.read_text() == "mine"
    listed = ok(shared, "volume", "ls", "hostile", "/t")
    assert b"\x1b" not in listed
    assert b"\\x1b[2Jclear" in listed
    assert "exists already" in told(shared, "volume", "get", "hostile", "/t", str(out / "in"))
    ok(shared, "volume", "rm", "hostile")


@pytest.mark.parametrize("ending", ["/.", "/./", "//"])
def test_get_of_a_path_that_is_not_written_plainly_stays_in_its_target(
    shared: Server, tmp_path: Path, ending: str
) -> None:
    volume = skerry.Volume.from_name("plain", create_if_missing=True)
    host = tmp_path / "host"
    host.mkdir()
    volume.write_file(f"{host}/theirs/file", b"theirs")
    ok(shared, "volume", "get", "plain", f"{host}{ending}", str(tmp_path / "out"))
    assert list(host.iterdir()) == []
    assert (tmp_path / "out" / "theirs" / "file").read_bytes() == b"theirs"
    assert "'..'" in told(shared, "volume", "get", "plain", f"{host}/../host", str(tmp_path / "other"))
    ok(shared, "volume", "rm", "plain")


def test_links_that_lead_out_through_each_other_are_left_out(shared: Server, tmp_path: Path) -> None:
    volume = skerry.Volume.from_name("chained", create_if_missing=True)
    (tmp_path / "victim").write_text("mine")
    with mount(volume) as sandbox:
        sh(sandbox, "mkdir -p /data/t/a/b; cd /data/t; ln -s ../b a/b/up; ln -s a/b/up/../../../victim out")
        sh(sandbox, "ln -s ../.. /data/t/a/b/top; ln -s a/b/top/../victim /data/t/chained")
    ok(shared, "volume", "get", "chained", "/t", str(tmp_path / "out"))
    for path in (tmp_path / "out").rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(tmp_path / "out"), path
    ok(shared, "volume", "rm", "chained")


def test_get_never_writes_through_a_link_that_lies_at_its_target(shared: Server, tmp_path: Path) -> None:
    volume = skerry.Volume.from_name("single", create_if_missing=True)
    volume.write_file("/file", b"theirs")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "target").symlink_to("victim")
    ok(shared, "volume", "get", "single", "file", str(tmp_path / "target"))
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert not (tmp_path / "target").is_symlink()
    ok(shared, "volume", "rm", "single")


def test_get_beside_a_guest_that_swaps_folders_for_links_stays_in_the_volume(shared: Server, tmp_path: Path) -> None:
    volume = skerry.Volume.from_name("race", create_if_missing=True)
    with mount(volume) as sandbox:
        sh(sandbox, "mkdir -p /data/t/d; echo mine > /data/t/d/passwd; ln -s /etc /data/t/l")
        swap = "cd /data/t; while :; do mv -T d s; mv -T l d; mv -T d l; mv -T s d; done"
        sandbox.exec("sh", "-c", swap)
        for turn in range(5):
            run(shared, "volume", "get", "race", "/t", str(tmp_path / str(turn)))
            for file in (tmp_path / str(turn)).rglob("passwd"):
                assert file.read_text() == "mine\n"
            out, _, code = run(shared, "volume", "cat", "race", "/t/d/passwd")
            assert (out, code) in ((b"mine\n", 0), (b"", 1))
    skerry.Volume.delete("race")
