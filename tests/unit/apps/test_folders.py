from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.apps.folders import own_data_folder, own_runtime_folder
from skerry.model.errors import InvalidError

Own = Callable[[Path], None]
both = pytest.mark.parametrize("own", [own_runtime_folder, own_data_folder])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_made_closed_to_others_also_in_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    own_runtime_folder(tmp_path / "a" / "run", group=os.getegid())
    own_data_folder(tmp_path / "b" / "data")
    assert (mode(tmp_path / "a" / "run"), mode(tmp_path / "b" / "data")) == (0o750, 0o700)


def test_a_folder_of_an_earlier_server_is_closed_again(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    for name in ("start.lock", "start.log", "gvisor", "records", "v1.sock"):
        (run / name).mkdir(parents=True)
    data.mkdir()
    (data / "skerry.db").touch()
    (data / "images").mkdir()
    run.chmod(0o755)
    data.chmod(0o755)
    own_runtime_folder(run)
    own_data_folder(data)
    assert (mode(run), mode(data)) == (0o750, 0o700)


@both
def test_a_folder_that_others_use_is_neither_taken_nor_changed(own: Own, tmp_path: Path) -> None:
    shared = tmp_path / "run"
    (shared / "systemd").mkdir(parents=True)
    (shared / "start.lock").touch()  # from a client that was to start a server there
    shared.chmod(0o755)
    with pytest.raises(InvalidError, match="of its own, such as"):
        own(shared)
    assert mode(shared) == 0o755


@both
def test_a_folder_in_which_others_may_write_is_neither_taken_nor_changed(own: Own, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(InvalidError, match="others can write"):
        own(tmp_path)
    assert mode(tmp_path) == 0o1777


@both
def test_a_link_is_not_followed(own: Own, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("target")
    before = mode(tmp_path / "target")
    with pytest.raises(InvalidError, match="is a link"):
        own(tmp_path / "link")
    assert mode(tmp_path / "target") == before


@both
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_someone_else_is_refused(own: Own, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(InvalidError, match="belongs to uid 65534"):
        own(tmp_path)
    assert tmp_path.stat().st_uid == 65534
