from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from skerry.model.errors import ConflictError, ResourceExhaustedError, ServerUnavailableError
from skerry.store.sqlite.database import FILE, Database, Write, _connect, migrate
from skerry.store.sqlite.queries import load_migrations, parse_queries

INSERT = "INSERT INTO apps (id, name) VALUES (:id, :name)"
COUNT = "SELECT count(*) FROM apps"


def insert(number: int) -> object:
    def job(write: Write) -> int:
        write.rows(INSERT, {"id": f"ap_{number}", "name": str(number)})
        return number

    return job


async def test_a_write_is_seen_by_reads_when_it_returns(tmp_path: Path) -> None:
    database = Database(tmp_path)
    assert await database.write(insert(7)) == 7
    assert database.read(COUNT) == [(1,)]
    database.close()


async def test_a_write_that_raises_is_undone_alone(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def fails(write: Write) -> None:
        write.rows(INSERT, {"id": "ap_x", "name": "x"})
        raise KeyError("after the insert")

    jobs = [insert(1), fails, insert(2), insert(1)]
    results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
    assert [results[0], results[2]] == [1, 2]
    assert isinstance(results[1], KeyError)
    assert isinstance(results[3], apsw.ConstraintError)
    assert database.read("SELECT id FROM apps ORDER BY id") == [("ap_1",), ("ap_2",)]
    database.close()


async def test_writes_at_once_are_all_done_in_order(tmp_path: Path) -> None:
    database = Database(tmp_path)
    numbers = await asyncio.gather(*(database.write(insert(number)) for number in range(1000)))
    assert numbers == list(range(1000))
    assert database.read("SELECT id FROM apps ORDER BY rowid LIMIT 3") == [("ap_0",), ("ap_1",), ("ap_2",)]
    database.close()


async def test_closing_commits_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    database = Database(tmp_path)
    writes = [asyncio.ensure_future(database.write(insert(number))) for number in range(100)]
    await asyncio.sleep(0)
    database.close()
    assert await asyncio.gather(*writes) == list(range(100))
    with pytest.raises(ServerUnavailableError):
        await database.write(insert(1))
    database.close()


async def test_a_caller_that_goes_away_does_not_undo_its_write(tmp_path: Path) -> None:
    database = Database(tmp_path)
    write = asyncio.ensure_future(database.write(insert(1)))
    await asyncio.sleep(0)
    write.cancel()
    await database.write(insert(2))
    assert database.read(COUNT) == [(2,)]
    database.close()


async def test_a_full_disk_is_told_as_such_and_the_database_goes_on(tmp_path: Path) -> None:
    database = Database(tmp_path)
    await database.write(insert(1))
    ((pages,),) = database.read("PRAGMA page_count")

    def fills(write: Write) -> None:
        write.rows(f"PRAGMA max_page_count = {pages}", {})
        write.rows(INSERT, {"id": "ap_big", "name": "x" * 1_000_000})

    with pytest.raises(ResourceExhaustedError, match="free space"):
        await database.write(fills)
    await database.write(insert(2))
    assert database.read(COUNT) == [(2,)]
    database.close()


def test_a_second_server_on_the_same_folder_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    first = Database(tmp_path)
    with pytest.raises(ConflictError, match=f"process {os.getpid()}.*SKERRY_DATA_DIR"):
        Database(tmp_path)
    first.close()
    Database(tmp_path).close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / FILE))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(ConflictError, match="newer skerry"):
        Database(tmp_path)
    assert next(apsw.Connection(str(tmp_path / FILE)).execute("PRAGMA user_version")) == (999,)


def test_migrations_are_numbered_from_1_without_gaps() -> None:
    assert [number for number, _ in load_migrations()] == list(range(1, len(load_migrations()) + 1))


def test_a_migration_that_fails_leaves_the_version_before_it() -> None:
    connection = apsw.Connection(":memory:")
    steps = [(1, "CREATE TABLE a (x)"), (2, "CREATE TABLE b (x); CREATE TABLE a (x)")]
    with pytest.raises(apsw.SQLError):
        migrate(connection, steps)
    assert next(connection.execute("PRAGMA user_version")) == (1,)
    assert list(connection.execute("SELECT name FROM sqlite_schema")) == [("a",)]


def test_queries_are_found_by_their_names() -> None:
    assert parse_queries("-- name: one\nSELECT 1;\n\n-- name: two\nSELECT\n2;\n") == {
        "one": "SELECT 1;",
        "two": "SELECT\n2;",
    }


def test_a_query_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;")


WRITER = """
import asyncio, sys
from pathlib import Path
from skerry.store.sqlite.database import Database

async def main():
    database = Database(Path(sys.argv[1]))
    for number in range(100_000):
        def job(write):
            write.rows("INSERT INTO apps (id, name) VALUES (:id, :id)", {"id": str(number)})
        await database.write(job)
        print(number, flush=True)

asyncio.run(main())
"""


def test_kill_9_loses_no_acknowledged_write(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(50):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = 50 + len(writer.stdout.read().split("\n")) - 1
    writer.wait()
    database = Database(tmp_path)
    ((count,),) = database.read(COUNT)
    database.close()
    assert acknowledged <= count <= acknowledged + 1


def test_the_settings_of_a_connection_hold(tmp_path: Path) -> None:
    connection = _connect(tmp_path / FILE)
    settings = {
        name: connection.execute(f"PRAGMA {name}").fetchall()
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert settings == {"journal_mode": [("wal",)], "synchronous": [(1,)], "foreign_keys": [(1,)]}


async def test_a_write_that_is_durable_syncs_the_log_and_the_next_one_does_not(tmp_path: Path) -> None:
    database = Database(tmp_path)
    asked = "PRAGMA synchronous"
    levels = [
        await database.write(lambda write: write.rows(asked, {})[0][0], durable=durable)
        for durable in (False, True, False)
    ]
    assert levels == [1, 2, 1]
    database.close()
