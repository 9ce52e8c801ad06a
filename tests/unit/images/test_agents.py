from __future__ import annotations

import os
from pathlib import Path

import pytest

from skerry.images import agents
from skerry.images.agents import AgentFolder
from skerry.images.trust import KEPT, TrustFolder


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pack by writing the program itself, and note what was packed."""
    made: list[Path] = []

    def pack(agent: Path, member_image: Path, agent_image: Path) -> None:
        member_image.parent.mkdir(parents=True)
        for image in (member_image, agent_image):
            image.write_bytes(agent.read_bytes())
        made.append(member_image.parent)

    monkeypatch.setattr(agents, "pack_agent", pack)
    return made


def build(folder: Path, number: int, used_at: float) -> Path:
    """Let build `number` of the agent be the one that a server uses at a time, and return its folder."""
    agent = folder / "agent"
    agent.write_bytes(b"%d" % number)
    own = AgentFolder(folder / "agents").images(agent).member.parent
    os.utime(own, (used_at, used_at))
    return own


def test_a_build_is_packed_once(tmp_path: Path, packed: list[Path]) -> None:
    assert build(tmp_path, 1, 1.0) == build(tmp_path, 1, 2.0)
    assert len(packed) == 1


def test_the_build_in_use_and_the_one_before_it_are_kept(tmp_path: Path, packed: list[Path]) -> None:
    for number in range(1, 6):
        newest = build(tmp_path, number, float(number))
    kept = set((tmp_path / "agents").iterdir())
    assert kept == {packed[-2], newest}
    back = build(tmp_path, 4, 6.0)  # the way back
    assert {back, newest} == set((tmp_path / "agents").iterdir())


def test_what_a_packing_left_that_was_cut_off_is_removed(tmp_path: Path, packed: list[Path]) -> None:
    own = build(tmp_path, 1, 1.0)
    (own / ".agent.erofs.x1").mkdir()
    (own / ".agent.erofs.x1" / "image").write_bytes(b"half")
    build(tmp_path, 1, 2.0)
    assert sorted(path.name for path in own.iterdir()) == ["agent.erofs", "member.erofs"]


def test_a_trust_folder_is_bounded_and_cleaned_when_a_server_starts(tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        file = tmp_path / f"{number:02}.erofs"
        file.write_bytes(b"x")
        os.utime(file, (number, number))
    (tmp_path / ".00.erofs.half").mkdir()
    TrustFolder(tmp_path).open()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:02}.erofs" for number in range(5, KEPT + 5)]
    TrustFolder(tmp_path / "none").open()
