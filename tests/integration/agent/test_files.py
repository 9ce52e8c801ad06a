"""Files: reading, writing, listing, removing, and what is refused."""

from __future__ import annotations

import os

from agent_driver import WINDOW, Host
from agent_places import Sandbox


def stat(host: Host, path: str) -> dict[str, object]:
    output = host.request("stat", path=path.encode())
    return output.result or output.error


def names(host: Host, path: str) -> list[bytes]:
    return sorted(entry["name"] for entry in host.list_folder(path))


def test_what_is_written_is_read_again(host: Host, folder: str) -> None:
    data = os.urandom(3 * WINDOW + 17)
    assert host.write_file(f"{folder}/file", data).result == {"size": len(data)}
    output = host.read_file(f"{folder}/file")
    assert output.started == {"pid": None, "size": len(data)}
    assert output.stdout == data
    assert output.result == {}
    assert host.read_file(f"{folder}/file", offset=WINDOW, length=1000).stdout == data[WINDOW : WINDOW + 1000]
    assert host.read_file(f"{folder}/file", offset=len(data)).stdout == b""


def test_an_empty_file_is_a_file(host: Host, folder: str) -> None:
    assert host.write_file(f"{folder}/empty", b"").result == {"size": 0}
    assert host.read_file(f"{folder}/empty").stdout == b""
    assert stat(host, f"{folder}/empty")["mode"] == 0o100644


def test_replacing_a_file_keeps_its_mode_and_owner(host: Host, folder: str) -> None:
    host.write_file(f"{folder}/file", b"old", mode=0o640)
    host.run("chown", "4242:4343", f"{folder}/file")
    host.write_file(f"{folder}/file", b"new", mode=0o777)
    entry = stat(host, f"{folder}/file")
    assert (entry["mode"], entry["uid"], entry["gid"]) == (0o100640, 4242, 4343)
    assert names(host, folder) == [b"file"]


def test_writing_through_a_link_replaces_what_it_leads_to(host: Host, folder: str) -> None:
    host.shell(f"mkdir sub; echo old > sub/real; ln -s sub/real link; ln -s {folder}/link far", cwd=folder)
    host.write_file(f"{folder}/far", b"new")
    assert host.read_file(f"{folder}/sub/real").stdout == b"new"
    assert stat(host, f"{folder}/link")["type"] == "symlink"
    host.shell("ln -s round a; ln -s a round", cwd=folder)
    assert host.write_file(f"{folder}/a", b"").error["code"] == "invalid_argument"


def test_folders_on_the_way_are_made_when_asked_for(host: Host, folder: str) -> None:
    assert host.write_file(f"{folder}/a/b/c", b"x").error["code"] == "not_found"
    assert host.write_file(f"{folder}/a/b/c", b"x", parents=True).result == {"size": 1}


def test_appending_adds_to_the_end(host: Host, folder: str) -> None:
    assert host.write_file(f"{folder}/log", b"one\n", append=True).result == {"size": 4}
    assert host.write_file(f"{folder}/log", b"two\n", append=True).result == {"size": 8}
    assert host.read_file(f"{folder}/log").stdout == b"one\ntwo\n"


def test_a_write_that_is_given_up_leaves_nothing(host: Host, folder: str) -> None:
    stream = host.open("write", path=f"{folder}/file".encode(), mode=None, parents=False, append=False)
    host.feed(stream, b"half", end=False)
    host.close(stream)
    host.wait(lambda: host.outputs[stream].error, "the last word")
    assert host.outputs[stream].error["code"] == "aborted"
    assert names(host, folder) == []


def test_a_list_tells_of_each_entry(host: Host, folder: str) -> None:
    host.shell("mkdir d; echo abc > f; ln -s /target l; mkfifo p; chmod 4711 f", cwd=folder)
    entries = {entry["name"]: entry for entry in host.list_folder(folder)}
    assert {name: entry["type"] for name, entry in entries.items()} == {
        b"d": "directory", b"f": "file", b"l": "symlink", b"p": "fifo",
    }  # fmt: skip
    assert entries[b"f"]["mode"] == 0o104711
    assert entries[b"f"]["size"] == 4
    assert (entries[b"f"]["owner"], entries[b"f"]["group"]) == ("root", "root")
    assert entries[b"l"]["target"] == b"/target"
    assert entries[b"f"]["target"] is None
    assert stat(host, f"{folder}/f") == entries[b"f"]


def test_a_folder_of_many_entries_is_listed_whole(host: Host, folder: str) -> None:
    host.shell("seq -f 'a-rather-long-name-for-a-file-%05g' 0 4999 | xargs touch", cwd=folder)
    assert len(set(names(host, folder))) == 5000


def test_making_a_folder_behaves_as_os_mkdir_and_makedirs(host: Host, folder: str) -> None:
    def make(path: str, parents: bool, mode: int = 0o755) -> object:
        output = host.request("mkdir", path=f"{folder}/{path}".encode(), mode=mode, parents=parents)
        return output.error["code"] if output.error else output.result

    assert make("a", parents=False, mode=0o1777) == {}
    assert stat(host, f"{folder}/a")["mode"] == 0o41777
    assert make("a", parents=False) == "already_exists"
    assert make("a", parents=True) == {}
    assert make("x/y/z", parents=False) == "not_found"
    assert make("x/y/z/", parents=True) == {}
    host.write_file(f"{folder}/file", b"")
    assert make("file", parents=True) == "already_exists"
    assert make("file/x", parents=True) == "not_directory"


def test_removing_needs_to_be_told_to_remove_what_is_inside(host: Host, folder: str) -> None:
    def remove(path: str, recursive: bool) -> object:
        output = host.request("remove", path=f"{folder}/{path}".encode(), recursive=recursive)
        return output.error["code"] if output.error else output.result

    host.shell(
        "mkdir -p full/a/b empty kept; touch full/a/b/c kept/file; ln -s ../kept full/link; touch file", cwd=folder
    )
    assert remove("file", recursive=False) == {}
    assert remove("empty", recursive=False) == {}
    assert remove("full", recursive=False) == "not_empty"
    assert remove("full/link", recursive=True) == {}
    host.shell("ln -s ../../kept full/a/link", cwd=folder)
    assert remove("full", recursive=True) == {}
    assert remove("full", recursive=True) == "not_found"
    assert names(host, folder) == [b"kept"]
    assert names(host, f"{folder}/kept") == [b"file"]


def test_a_tree_deeper_than_any_path_is_removed(host: Host, folder: str) -> None:
    script = "import os\nfor _ in range(600):\n  os.mkdir('a' * 20)\n  os.chdir('a' * 20)\n"
    host.run("python3", "-c", script, cwd=folder)
    path = f"{folder}/{'a' * 20}"
    assert host.request("remove", path=path.encode(), recursive=True).result == {}


def test_only_regular_files_are_read_and_written(host: Host, folder: str) -> None:
    host.shell("mkdir d; mkfifo p; ln -s p l", cwd=folder)
    for name, code in (("d", "is_directory"), ("p", "not_regular"), ("l", "not_regular"), ("x", "not_found")):
        assert host.read_file(f"{folder}/{name}").error["code"] == code
        if code != "not_found":
            assert host.write_file(f"{folder}/{name}", b"x").error["code"] == code
            assert host.write_file(f"{folder}/{name}", b"x", append=True).error["code"] == code
    assert host.read_file("/dev/zero").error["code"] == "not_regular"
    assert host.write_file("/dev/null", b"x").error["code"] == "not_regular"
    assert host.write_file(f"{folder}/d/", b"x").error["code"] == "is_directory"
    assert host.read_file(f"{folder}/d/../../..{folder}/x/").error["code"] in ("not_found", "not_directory")


def test_a_path_is_absolute_and_its_control_characters_are_escaped(host: Host) -> None:
    assert host.read_file("etc/passwd").error["code"] == "invalid_argument"
    assert host.read_file("/" + "a" * 4095).error["code"] == "invalid_argument"
    message = host.read_file("/no\x1b[2Jsuch\nfile").error["message"]
    assert "\x1b" not in message
    assert "\n" not in message


def test_a_file_that_does_not_fit_leaves_the_old_one(guest: Sandbox) -> None:
    host = guest.host
    host.write_file("/run/file", b"old")
    output = host.write_file("/run/file", bytes(65 << 20))
    assert output.error["code"] == "no_space"
    assert host.read_file("/run/file").stdout == b"old"
    assert b"file" in names(host, "/run")
    assert not [n for n in names(host, "/run") if n.startswith(b".skerry-")]
    host.request("remove", path=b"/run/file", recursive=False)


def test_files_of_proc_are_read_though_they_tell_no_size(host: Host) -> None:
    assert host.read_file("/proc/self/status").stdout.startswith(b"Name:")


def test_a_rename_replaces_a_file_or_an_empty_folder_and_nothing_else(host: Host, folder: str) -> None:
    def rename(path: str, target: str) -> object:
        fields = {"path": f"{folder}/{path}".encode(), "target": f"{folder}/{target}".encode()}
        output = host.request("rename", **fields)
        return output.error["code"] if output.error else output.result

    host.shell("echo a > a; echo b > b; mkdir d e full; touch full/x; ln -s nowhere link", cwd=folder)
    assert rename("a", "b") == {}
    assert host.read_file(f"{folder}/b").stdout == b"a\n"
    assert rename("d", "e") == {}
    assert rename("link", "moved") == {}
    assert stat(host, f"{folder}/moved")["type"] == "symlink"
    assert rename("b", "none/x") == "not_found"
    assert rename("none", "x") == "not_found"
    assert rename("e", "full") == "not_empty"
    assert rename("b", "full") == "is_directory"
    assert rename("full", "b") == "not_directory"
    assert rename("full", "full/x/y") in ("invalid_argument", "not_directory")
    assert rename("b", "..") == "invalid_argument"
    assert names(host, folder) == [b"b", b"e", b"full", b"moved"]


def test_a_rename_to_another_file_system_says_what_to_do(guest: Sandbox) -> None:
    guest.host.write_file("/tmp/file", b"x")
    output = guest.host.request("rename", path=b"/tmp/file", target=b"/root/file")
    assert output.error["code"] == "failed_precondition"
    assert "copy it there" in output.error["message"]
