"""Images built for real: what the steps did is what sandboxes find, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from realnode import IDS, RealNode
from realserver import Server, wait_for

from skerry import Image, Sandbox
from skerry.exception import ImageBuildError
from skerry.model.ids import SANDBOX, ImageId, SandboxId
from skerry.model.nodes import Launch, RootImage
from skerry.model.specs import NetworkPolicy, Resources, SandboxSpec

pytestmark = pytest.mark.timeout(300)

MANY = 5000

# The first step makes files, the second changes them: what the layer of one step deletes is in the layer below.
FIRST = r"""
import os
os.mkdir('/made'); os.chdir('/made')
for name in ('deleted', 'renamed', 'kept', 'replaced', 'rewritten'): open(name, 'w').write(name + '\n')
os.mkdir('opaque'); open('opaque/old', 'w').write('old')
os.mkdir('becomes-a-file'); open('becomes-a-file/x', 'w').write('x')
open('becomes-a-folder', 'w').write('x')
os.makedirs('moved/deep'); open('moved/deep/file', 'w').write('deep')
os.mkdir('deleted-folder'); open('deleted-folder/file', 'w').write('x')
"""
SECOND = r"""
import os, socket
os.chdir('/made')
os.unlink('deleted'); os.rename('renamed', 'new-name')
os.unlink('replaced'); os.symlink('kept', 'replaced')
open('rewritten', 'a').write('more\n')
os.unlink('opaque/old'); os.rmdir('opaque'); os.mkdir('opaque'); open('opaque/new', 'w').write('new')
os.unlink('becomes-a-file/x'); os.rmdir('becomes-a-file'); open('becomes-a-file', 'w').write('file')
os.unlink('becomes-a-folder'); os.mkdir('becomes-a-folder')
os.rename('moved', 'moved-away')
os.unlink('deleted-folder/file'); os.rmdir('deleted-folder')
os.unlink('/etc/issue')
open('hard', 'w').write('one inode'); os.link('hard', 'hard2'); os.link('hard', '/made/becomes-a-folder/hard3')
os.link('kept', 'kept2')
open('setuid', 'w'); os.chown('setuid', 1000, 70000); os.chmod('setuid', 0o6751)
os.mkdir('sticky'); os.chmod('sticky', 0o1777)
open('dated', 'w').write('x'); os.utime('dated', ns=(1, 1_000_000_000_123_456_789))
open('before-1970', 'w'); os.utime('before-1970', (-86400, -86400))
os.mkfifo('fifo', 0o640); os.mkdir('empty')
open('zero', 'w'); open('binary', 'wb').write(bytes(range(256)) * 40)
open(b'\xff\xfe\n', 'wb').write(b'name'); os.symlink(b'\xff/target', b'link-to-\xff')
os.symlink('/nowhere', 'dangling')
open('n' * 255, 'w').write('long'); os.symlink('t' * 4095, 'long-link')
with open('sparse', 'wb') as sparse: sparse.seek(1 << 20); sparse.write(b'end')
os.mkdir('many')
for number in range(5000): open(f'many/{number}', 'w').write(str(number))
os.makedirs('/made/' + '/'.join(['d' * 50] * 40))
os.mknod('device', 0o20644, os.makedev(1, 3))
socket.socket(socket.AF_UNIX).bind('socket')
"""

# Prints what is there, as JSON: bytes of names in latin-1, content as a digest.
LOOK = r"""
import hashlib, json, os, stat
found = {}
def look(path):
    status = os.lstat(path)
    told = {'mode': oct(status.st_mode), 'uid': status.st_uid, 'gid': status.st_gid, 'links': status.st_nlink,
            'mtime': status.st_mtime_ns, 'ino': status.st_ino}
    if stat.S_ISREG(status.st_mode): told['content'] = hashlib.sha256(open(path, 'rb').read()).hexdigest()
    if stat.S_ISLNK(status.st_mode): told['target'] = os.readlink(path).decode('latin-1')
    found[path.decode('latin-1')] = told
    if stat.S_ISDIR(status.st_mode) and path != b'/made/many':
        for name in sorted(os.listdir(path)): look(path + b'/' + name)
look(b'/made')
print(json.dumps(found))
"""


def python(text: str) -> str:
    return f"python3 - <<'PROGRAM'\n{text}\nPROGRAM"


def changed() -> Image:
    return Image.debian_slim().run_commands(python(FIRST)).run_commands(python(SECOND))


def output(image: Image, *argv: str, **options: Any) -> str:
    """Return what a command prints in a new sandbox of an image."""
    with Sandbox.create(image=image) as sandbox:
        process = sandbox.exec(*argv, **options)
        told = process.stdout.read()
        assert process.wait() == 0, process.stderr.read()
        return str(told)


@pytest.fixture(scope="module")
def found(server: Server) -> dict[str, Any]:
    """What a sandbox of the changed image finds below /made."""
    return dict(json.loads(output(changed(), "python3", "-c", LOOK)))


# What comes back


def test_files_come_back_as_the_step_made_them(found: dict[str, Any]) -> None:
    with Sandbox.create(image=Image.debian_slim()) as sandbox:  # the same steps, without an image between
        assert sandbox.exec("sh", "-c", python(FIRST)).wait() == 0
        assert sandbox.exec("sh", "-c", python(SECOND)).wait() == 0
        made = json.loads(sandbox.exec("python3", "-c", LOOK).stdout.read())
    for gone in ("/made/device", "/made/socket"):
        assert made.pop(gone)
        assert gone not in found
    assert list(made) == list(found)
    for path, told in made.items():
        same = {key: told[key] for key in ("mode", "uid", "gid", "content", "target") if key in told}
        assert {key: found[path].get(key) for key in same} == same, path
        if not told["mode"].startswith("0o4"):
            assert found[path]["links"] == told["links"], path


def test_the_times_of_files_come_back(found: dict[str, Any]) -> None:
    assert found["/made/dated"]["mtime"] // 10**9 == 1_000_000_000
    assert found["/made/before-1970"]["mtime"] == -86400 * 10**9


def test_deletions_renames_and_replacements_hold(found: dict[str, Any]) -> None:
    names = {path.removeprefix("/made/") for path in found}
    assert not names & {"deleted", "renamed", "opaque/old", "becomes-a-file/x", "moved", "deleted-folder"}
    assert {"new-name", "opaque/new", "moved-away/deep/file"} <= names
    assert found["/made/becomes-a-file"]["mode"].startswith("0o100")
    assert found["/made/becomes-a-folder"]["mode"].startswith("0o40")
    assert found["/made/replaced"]["target"] == "kept"


def test_hard_links_are_one_file(found: dict[str, Any]) -> None:
    names = ("/made/hard", "/made/hard2", "/made/becomes-a-folder/hard3")
    assert len({found[name]["ino"] for name in names}) == 1
    assert found["/made/hard"]["links"] == 3


def test_many_files_come_back_with_their_content(server: Server) -> None:
    sums = (
        "import os; print(len(os.listdir('/made/many')), sum(int(open(f'/made/many/{n}').read()) for n in range(5000)))"
    )
    assert output(changed(), "python3", "-c", sums) == f"{MANY} {MANY * (MANY - 1) // 2}\n"
    assert output(changed(), "sh", "-c", "test ! -e /etc/issue && echo gone") == "gone\n"


def test_devices_are_left_out_and_the_log_says_so(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    image = Image.debian_slim().run_commands("mknod /gone c 1 3; mknod /gone2 b 7 0; ln /gone /gone3; echo made >/kept")
    assert output(image, "sh", "-c", "ls -d /gone* /kept; true") == "/kept\n"
    told = capfd.readouterr().err
    assert "left out, since an image holds no devices" in told
    assert all(f'"/{name}"' in told for name in ("gone", "gone2", "gone3"))  # of two names of one file, too


def test_nothing_of_the_build_itself_is_in_an_image(server: Server, base_image: Path, tmp_path: Path) -> None:
    image = Image.debian_slim().run_commands(
        "mkdir -p /run/mine; echo x >/run/mine/x; echo x >/dev/shm/x; echo x >/tmp/x"
    )
    image.build()
    assert image.object_id
    file = server.data / "images" / f"{image.object_id}.erofs"
    before, after = unpacked(base_image, tmp_path / "before"), unpacked(file, tmp_path / "after")
    for folder in ("run", "proc", "sys", "dev", "tmp", ".skerry"):
        assert list((after / folder).glob("*")) == []
    for name in ("hosts", "hostname", "resolv.conf"):
        assert (after / "etc" / name).read_bytes() == (before / "etc" / name).read_bytes()
    assert sorted(os.listdir(after / "etc")) == sorted(os.listdir(before / "etc"))


def unpacked(image: Path, into: Path) -> Path:
    subprocess.run(["fsck.erofs", f"--extract={into}", str(image)], check=True, capture_output=True)
    return into


# Attributes

ATTRIBUTES = r"""
import os
os.mkdir('/a'); os.chdir('/a')
def put(name, *attributes):
    open(name, 'a').close()
    for attribute, value in attributes: os.setxattr(name, attribute, value)
acl = bytes.fromhex('0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff')
put('acl', ('system.posix_acl_access', acl))
put('note', ('user.note', b'hello'), ('user.other', b'x' * 1000))
put(b'\xff', ('user.note', b'name'))
put('/etc/debian_version', ('user.note', b'of a file of the base'))
os.setxattr('/a', 'system.posix_acl_default', acl)
os.setxattr('/a', 'user.note', b'of a folder')
"""
SHOW = r"""
import os
for path in (b'/a', b'/a/acl', b'/a/note', b'/a/\xff', b'/etc/debian_version'):
    print(path, sorted((name, os.getxattr(path, name).hex()) for name in os.listxattr(path)))
"""


def test_attributes_come_back_also_through_later_steps(server: Server) -> None:
    image = Image.debian_slim().run_commands(python(ATTRIBUTES))
    with Sandbox.create(image=Image.debian_slim()) as sandbox:
        assert sandbox.exec("sh", "-c", python(ATTRIBUTES)).wait() == 0
        made = sandbox.exec("python3", "-c", SHOW).stdout.read()
    assert made.count("6e616d65") == 1
    assert output(image, "python3", "-c", SHOW) == made
    assert output(image.workdir("/a").run_commands("echo x >/other"), "python3", "-c", SHOW) == made


def test_a_program_whose_capability_no_sandbox_has_is_run_without_it(server: Server) -> None:
    image = Image.debian_slim().apt_install("iputils-ping")
    assert output(image, "ping", "-c1", "-W5", "127.0.0.1", user="user").count("1 received") == 1


def test_a_program_keeps_its_capability(server: Server) -> None:
    # Revision 2, effective, CAP_CHOWN.
    capability = "import os; os.setxattr('/own', 'security.capability', bytes([1, 0, 0, 2, 1] + [0] * 15))"
    image = Image.debian_slim().run_commands("cp /bin/chown /own", f'python3 -c "{capability}"', "touch /file")
    assert output(image, "sh", "-c", "/own user /file && stat -c %U /file", user="user") == "user\n"
    assert output(image, "sh", "-c", "/bin/chown user /file || echo refused", user="user") == "refused\n"


def test_more_attributes_than_a_sandbox_can_be_given_fail_the_build(server: Server) -> None:
    flood = "import os\nfor n in range(300): open(f'/f{n}', 'w'); os.setxattr(f'/f{n}', 'user.n', b'x')"
    with pytest.raises(ImageBuildError, match=r"too many extended attributes .*at most 256 .*setfattr -x"):
        Image.debian_slim().run_commands(python(flood)).build()
    server.check_nothing_of_a_build_left()


def test_large_attributes_fail_the_build_and_not_the_server(server: Server) -> None:
    flood = "import os\nfor n in range(500): open(f'/f{n}', 'w'); os.setxattr(f'/f{n}', 'user.n', b'x' * 60000)"
    with pytest.raises(ImageBuildError, match="too many extended attributes"):
        Image.debian_slim().run_commands(python(flood)).build()
    server.check_nothing_of_a_build_left()


# Steps


def test_steps_install_packages_from_the_machines_index(server: Server, python_index: None) -> None:
    image = Image.debian_slim().pip_install("six==1.16.0")
    assert output(image, "python", "-c", "import six; print(six.__version__)") == "1.16.0\n"


def test_env_and_workdir_reach_later_steps_and_sandboxes(server: Server) -> None:
    image = Image.debian_slim().env({"WHO": "wörld = x"}).workdir("/srv").run_commands('echo "$WHO" >here; pwd >>here')
    assert output(image, "sh", "-c", 'cat here; echo "$WHO"; pwd') == "wörld = x\n/srv\nwörld = x\n/srv\n"


@pytest.mark.timeout(60)
def test_a_step_that_leaves_a_process_in_the_background_is_over_when_it_ends(server: Server) -> None:
    image = Image.debian_slim().run_commands("(sleep 1000; echo never) & echo done > /made-in-time")
    assert output(image, "cat", "/made-in-time") == "done\n"


def test_a_step_that_fails_shows_its_last_lines_and_leaves_nothing(server: Server) -> None:
    with pytest.raises(ImageBuildError) as caught:
        Image.debian_slim().run_commands("seq 100; echo oops >&2; exit 7").build()
    assert "ended with 7" in str(caught.value)
    assert str(caught.value).splitlines()[-2:] == ["  | 100", "  | oops"]
    assert "  | 1\n" not in str(caught.value)
    server.check_nothing_of_a_build_left()
    server.check_no_sandbox_left()


def test_a_package_that_does_not_exist_is_named(server: Server) -> None:
    with pytest.raises(ImageBuildError, match="Unable to locate package no-such-package-here"):
        Image.debian_slim().apt_install("no-such-package-here").build()


def test_an_image_whose_file_was_removed_is_built_again(server: Server) -> None:
    steps = "date +%s%N >/when"
    first = Image.debian_slim().run_commands(steps).build()
    (server.data / "images" / f"{first.object_id}.erofs").unlink()
    second = Image.debian_slim().run_commands(steps).build()
    assert second.object_id != first.object_id
    assert output(second, "cat", "/when").strip().isdigit()
    assert output(first, "cat", "/when") == output(second, "cat", "/when")


def test_a_file_too_large_to_pack_fails_the_build_with_a_reason(server: Server) -> None:
    with pytest.raises(ImageBuildError) as caught:
        Image.debian_slim().run_commands("truncate -s 100T /huge").build()
    assert "step 'run_commands truncate -s 100T /huge' failed: its changes were not saved" in str(caught.value)
    assert "up to 2048 MiB fit" in str(caught.value)
    server.check_nothing_of_a_build_left()
    server.check_no_sandbox_left()


# Ends in the middle


def test_a_build_whose_client_goes_away_leaves_nothing(server: Server) -> None:
    program = "import skerry; skerry.Image.debian_slim().run_commands('echo begun; sleep 1000').build()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"SKERRY_URL": server.url}, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert any("begun" in line for line in child.stderr)
    assert server.sentries()
    child.kill()
    child.wait()
    child.stderr.close()
    server.check_no_sandbox_left()
    server.check_nothing_of_a_build_left()


def test_a_build_in_which_the_server_is_killed_is_made_again_by_its_successor(server: Server) -> None:
    server_pid = server.pid
    program = (
        "import skerry; image = skerry.Image.debian_slim().run_commands('echo begun; sleep 5; echo x >/made').build()\n"
        "print(image.object_id)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"SKERRY_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None and child.stdout is not None
    assert any("begun" in line for line in child.stderr)
    (server.data / "images" / "drafts" / "left").write_bytes(b"half an image")
    server.kill9()
    server.start()
    assert server.pid != server_pid
    out, _ = child.communicate(timeout=120)
    assert out.startswith("im_")
    wait_for(lambda: not list((server.data / "images" / "drafts").iterdir()), "drafts to go")
    server.check_no_sandbox_left()
    server.check_nothing_of_a_build_left()


# The disk


async def test_a_build_beyond_its_disk_gets_an_error_and_lives(node: RealNode, tmp_path: Path) -> None:
    sandbox = SandboxId(IDS.new(SANDBOX))
    spec = SandboxSpec(image=ImageId("im_0"), network=NetworkPolicy.BLOCKED)
    await node.handle.start(Launch(sandbox=sandbox, spec=spec, image=RootImage(file=node.image), build_disk_mib=64))
    code, _, said = await node.run(sandbox, "sh", "-c", "head -c 100M /dev/zero >/fill", stdin="null")
    assert code != 0
    assert "No space left on device" in said
    code, _, _ = await node.run(sandbox, "sh", "-c", "rm /fill; head -c 10M /dev/zero >/fits", stdin="null")
    assert code == 0
    assert list(await node.handle.pack_build(sandbox, tmp_path / "image")) == []
    assert sorted(path.name for path in tmp_path.glob("image*")) == ["image"]
    assert (tmp_path / "image").stat().st_size > 10 << 20
    await node.handle.terminate(sandbox)
    assert list((tmp_path / "builds").iterdir()) == []


def disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


async def test_sparse_files_of_a_build_cost_the_machine_no_disk(node: RealNode, tmp_path: Path) -> None:
    sandbox = SandboxId(IDS.new(SANDBOX))
    resources = Resources(memory_limit_mib=512)  # each file is as large as the error says that it may be
    spec = SandboxSpec(image=ImageId("im_0"), network=NetworkPolicy.BLOCKED, resources=resources)
    await node.handle.start(Launch(sandbox=sandbox, spec=spec, image=RootImage(file=node.image), build_disk_mib=1024))
    make = "for n in 1 2 3 4 5 6; do truncate -s 128M /sparse$n; done"
    code, _, _ = await node.run(sandbox, "sh", "-c", make, stdin="null")
    assert code == 0
    await node.handle.pack_build(sandbox, tmp_path / "image")
    assert (tmp_path / "image").stat().st_size > 768 << 20
    assert disk_bytes(tmp_path / "image") < disk_bytes(node.image) + (64 << 20)
    await node.handle.terminate(sandbox)


async def test_a_build_that_says_more_than_its_disk_holds_fails_with_the_bound(node: RealNode, tmp_path: Path) -> None:
    sandbox = SandboxId(IDS.new(SANDBOX))
    spec = SandboxSpec(image=ImageId("im_0"), network=NetworkPolicy.BLOCKED)
    await node.handle.start(Launch(sandbox=sandbox, spec=spec, image=RootImage(file=node.image), build_disk_mib=64))
    code, _, _ = await node.run(sandbox, "sh", "-c", "truncate -s 200M /a; truncate -s 200M /b", stdin="null")
    assert code == 0
    with pytest.raises(ImageBuildError, match="more than 320 MiB"):
        await node.handle.pack_build(sandbox, tmp_path / "image")
    assert list(tmp_path.glob("image*")) == []
    await node.handle.terminate(sandbox)
