"""Names and files of members on the machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from skerry.isolation.gvisor.folders import StateFolder, container_id, member_id, sandbox_of
from skerry.model.ids import SANDBOX, SandboxId, encode

ONE, TWO = SandboxId(encode(SANDBOX, 1)), SandboxId(encode(SANDBOX, 2**96 - 1))


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.prepare({"spec": 1})
    return folder


def test_ids_have_one_length_and_none_is_a_prefix_of_another() -> None:
    names = {member_id(ONE), member_id(TWO), container_id(ONE), container_id(TWO)}
    assert len(names) == 4
    assert len({len(name) for name in names}) == 1


def test_a_members_id_leads_back_to_its_sandbox_and_nothing_else_does() -> None:
    assert sandbox_of(member_id(TWO)) == TWO
    for other in (container_id(TWO), "sk-", "sk-short", member_id(TWO) + "0", "skerry", ""):
        assert sandbox_of(other) is None


def test_the_folders_are_the_servers_own_even_where_they_were_not(tmp_path: Path) -> None:
    loose = tmp_path / "state"
    loose.mkdir(mode=0o755)
    (loose / "sockets").mkdir(mode=0o777)
    StateFolder(loose).prepare({})
    for path in (loose, loose / "sockets", loose / "members"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_spec_is_written_once_and_again_when_it_changes(state: StateFolder) -> None:
    first = state.spec.stat().st_ino
    state.prepare({"spec": 1})
    assert state.spec.stat().st_ino == first
    state.prepare({"spec": 2})
    assert state.spec.read_text() == '{"spec": 2}'


def test_removing_a_sandbox_leaves_the_others(state: StateFolder) -> None:
    for sandbox in (ONE, TWO):
        state.member(sandbox).make()
        state.control_socket(sandbox).touch()
    assert state.sandboxes() == {ONE, TWO}
    state.remove(ONE)
    state.remove(ONE)
    assert state.sandboxes() == {TWO}
    assert stat.S_ISFIFO(state.member(TWO).keeper_in.stat().st_mode)


@pytest.mark.parametrize("part", ["folder", "socket"])
def test_a_sandbox_is_found_by_any_part_that_it_left(state: StateFolder, part: str) -> None:
    if part == "folder":
        state.member(ONE).make()
    else:
        state.control_socket(ONE).touch()
    assert state.sandboxes() == {ONE}
    state.remove(ONE)
    assert state.sandboxes() == set()


def test_files_of_others_are_neither_found_nor_removed(state: StateFolder) -> None:
    stranger = state.path / "members" / "notes.txt"
    stranger.touch()
    assert state.sandboxes() == set()
    state.remove(ONE)
    assert stranger.exists()
