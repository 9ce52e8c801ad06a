from __future__ import annotations

from pathlib import Path

from skerry.model.exits import ProcessExit, ProcessReason
from skerry.model.ids import ImageId, ProcessId, SandboxId
from skerry.model.members import MemberRecord
from skerry.model.nodes import Launch, RootImage
from skerry.model.sandboxes import Stage
from skerry.model.specs import SandboxSpec
from skerry.node.records import Journal, ProcessDropped, ProcessEnded, ProcessStarted, Records, SandboxRecord

BOX = SandboxId("sb_00000000000000000001")
PROCESS = ProcessId("pr_00000000000000000001")
SPEC = SandboxSpec(image=ImageId("im_00000000000000000001"), entrypoint=("sleep", "1"))


def record() -> SandboxRecord:
    member = MemberRecord(sandbox=BOX, container_id="c", control_socket="/run/x", pid=7, pid_start=8)
    return SandboxRecord(
        sandbox=BOX,
        member=member,
        secrets=(b"a" * 32,),
        generation=1,
        started_at=5.0,
        stages=(Stage(name="boot", ms=1.5),),
        launch=Launch(sandbox=BOX, spec=SPEC, image=RootImage(file=Path("/images/x.erofs")), entrypoint=PROCESS),
        env={"A": "ü"},
    )


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(record())
    assert list(records.all()) == [record()]


def test_records_are_for_root_only(tmp_path: Path) -> None:
    records = Records(tmp_path / "node")
    records.open()
    records.put(record())
    (path,) = (tmp_path / "node").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_half_a_record_that_a_kill_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(record())
    (tmp_path / f"{BOX}.new").write_text('{"sandbox": ')
    records.open()
    assert [path.name for path in tmp_path.iterdir()] == [f"{BOX}.json"]


def test_a_record_that_cannot_be_read_still_names_its_sandbox(tmp_path: Path) -> None:
    (tmp_path / f"{BOX}.json").write_text('{"sandbox": ')
    assert list(Records(tmp_path).all()) == [BOX]


def test_a_journal_keeps_its_lines_and_drops_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    started = ProcessStarted(process=PROCESS, stream=1, argv=("echo",), at=1.0, channels=(1, 2), stdin=True)
    ended = ProcessEnded(process=PROCESS, exit=ProcessExit(reason=ProcessReason.EXITED, code=0))
    journal.add(started)
    journal.add(ended)
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"type": "started", "proc')
    assert list(Journal(path).read()) == [started, ended]


def test_half_a_line_of_a_journal_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"type": "started", "proc')
    ended = ProcessEnded(process=PROCESS, exit=ProcessExit(reason=ProcessReason.EXITED, code=0))
    journal = Journal(path)
    journal.add(ended)
    journal.add(ended)
    journal.close()
    assert list(Journal(path).read()) == [ended, ended]


def test_a_journal_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert list(Journal(tmp_path / "journal").read()) == []


def test_a_journal_beyond_its_bound_leaves_out_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, bound=2000)
    killed = ProcessExit(reason=ProcessReason.OUT_OF_MEMORY, signal=9)
    kept = ProcessId("pr_kept")
    journal.add(ProcessStarted(process=kept, stream=1, argv=("kept",), at=1.0, channels=(1, 2), stdin=True))
    journal.add(ProcessEnded(process=ProcessId("pr_0"), exit=killed))
    for number in range(200):
        identifier = ProcessId(f"pr_{number}")
        journal.add(ProcessStarted(process=identifier, stream=2, argv=("x" * 50,), at=1.0, channels=(1,), stdin=False))
        journal.add(ProcessDropped(process=identifier))
    assert path.stat().st_size < 4000
    entries = list(Journal(path).read())
    assert isinstance(entries[0], ProcessStarted)
    assert entries[0].process == kept
    assert ProcessEnded(process=ProcessId("pr_0"), exit=killed) in entries
    assert [each.name for each in tmp_path.iterdir()] == ["journal"]


def test_since_when_nobody_uses_a_sandbox_is_found_again_and_goes_with_its_record(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(record())
    assert records.idle_since(BOX) is None
    records.note_idle(BOX, 1234.5)
    assert Records(tmp_path).idle_since(BOX) == 1234.5
    records.note_idle(BOX, None)
    assert records.idle_since(BOX) is None
    records.remove(BOX)
    assert list(tmp_path.iterdir()) == []


def test_a_note_without_its_record_is_removed(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.note_idle(BOX, 1.0)
    records.open()
    assert list(tmp_path.iterdir()) == []
