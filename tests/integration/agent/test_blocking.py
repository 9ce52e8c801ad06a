"""PID 1 goes on answering, whatever its sandbox puts where it looks."""

from __future__ import annotations

from agent_places import Sandbox

# A file system of the guest's own, in a mount namespace of its own, that answers nothing.
SILENT = """
import ctypes, os, stat, sys, time
NEWNS, NEWUSER = 0x20000, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)
if not os.path.exists("/dev/fuse"):
    os.mknod("/dev/fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))
device = os.open("/dev/fuse", os.O_RDWR)
if libc.unshare(NEWNS | NEWUSER):
    sys.exit(os.strerror(ctypes.get_errno()))
for name, content in (("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(content)
options = f"fd={device},user_id=0,group_id=0,rootmode=40000".encode()
if libc.mount(b"silent", b"/mnt", b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
for name in ("passwd", "group"):
    os.rename(f"/etc/{name}", f"/etc/{name}.was")
    os.symlink(f"/proc/{os.getpid()}/root/mnt/{name}", f"/etc/{name}")
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_file_system_that_never_answers_holds_nobody_up(own_guest: Sandbox) -> None:
    host = own_guest.host
    stream = host.start("python3", "-c", SILENT)
    said = host.outputs[stream]
    host.wait(lambda: b"\n" in said.stdout or said.exit, "the mount")
    assert said.exit is None, said
    behind = f"/proc/{int(said.stdout)}/root/mnt/file"
    assert host.run("id", "-u").stdout == b"0\n"
    assert "passwd.was" in {entry["name"].decode() for entry in host.list_folder("/etc")}
    path = behind.encode()
    refused = [
        host.read_file(behind),
        host.request("write", path=path, mode=None, parents=True, append=False),
        host.request("write", path=path, mode=None, parents=False, append=True),
        host.request("stat", path=path),
        host.request("list", path=path, limit=1 << 20),
        host.request("mkdir", path=path, mode=0o777, parents=True),
        host.request("remove", path=path, recursive=True),
        host.run("true", cwd=behind),
    ]
    for output in refused:
        assert output.error["code"] in ("invalid_argument", "failed_precondition"), output
    # A program that lies there is given up.
    assert host.run(behind).exit["signal"] == 9
    assert b"silent" not in host.run("cat", "/proc/1/mounts", "/proc/self/mounts").stdout
    assert host.run("true").exit["code"] == 0


def test_account_files_count_up_to_64_kib(own_guest: Sandbox) -> None:
    host = own_guest.host
    fill = "yes a:x:123456:1::/: | head -c 1000000 > /etc/passwd; echo late:x:77:1::/: >> /etc/passwd"
    fill += "; cp /etc/passwd /etc/group; mkdir /many; cd /many; seq 2000 | xargs touch; chown -R 77 ."
    assert host.shell(fill).exit["code"] == 0
    entries = host.list_folder("/many")
    assert len(entries) == 2000
    assert {entry["owner"] for entry in entries} == {"77"}
    assert host.request("stat", path=b"/many").result["owner"] == "77"
    assert host.run("true", user="late").error["code"] == "failed_precondition"
    assert host.run("id", "-u", user="a").stdout == b"123456\n"
