"""Heartbeats under the optional files for large tables: HOT updates, and little WAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import Table, make_caller
from poll import until, until_waiting

from claude_sessions_cli import database, queries
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat import heartbeat

SESSIONS, BEATS = 20, 20


@pytest.fixture
def hot_table(fresh_database: Callable[..., str]) -> Iterator[Table]:
    """Return a table with the files for large fleets and tables, and sessions that have just begun to beat."""
    dsn = fresh_database()
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection, optional=["hot_heartbeats", "large_tables"])
    made = Table(dsn)
    with made.stack:
        for number in range(SESSIONS):
            claim(made.database, make_caller(f"s-{number}"), f"SD-{number}")
        _beat(made, 5)
        yield made


def _beat(table: Table, times: int) -> None:
    for _ in range(times):
        for number in range(SESSIONS):
            heartbeat(table.database, make_caller(f"s-{number}"))


def _counts(table: Table) -> tuple[int, int, int]:
    """Return the number of updates, that of HOT ones, and the position in the WAL."""
    # A backend reports what it did when it ends.
    backend = table.database.backend_pid
    table.database.reconnect()
    until(lambda: not table.execute("SELECT FROM pg_stat_activity WHERE pid = %s", backend), "the backend to end")
    [row] = table.execute(
        "SELECT pg_stat_get_tuples_updated(oid) AS updates, pg_stat_get_tuples_hot_updated(oid) AS hot,"
        " (pg_current_wal_insert_lsn() - '0/0') AS bytes FROM pg_class WHERE oid = 'public.claude_sessions'::regclass"
    )
    return row["updates"], row["hot"], int(row["bytes"])


@pytest.mark.faults
def test_heartbeats_are_hot_and_write_little(hot_table: Table) -> None:
    before = _counts(hot_table)
    _beat(hot_table, BEATS)
    updates, hot, written = (after - earlier for after, earlier in zip(_counts(hot_table), before, strict=True))
    assert updates == SESSIONS * BEATS
    assert hot >= 0.99 * updates
    assert written <= 250 * updates


def test_applying_does_not_deadlock_with_a_writer(fresh_database: Callable[..., str]) -> None:
    dsn = fresh_database()
    with database.connect(dsn, "the test") as connection:
        schema.apply(connection)
        claim(connection, make_caller("a"), "SD-1")
    file = (queries.directory() / "ddl/optional/hot_heartbeats.sql").read_text(encoding="utf-8")
    with (
        psycopg.connect(dsn) as writer,
        psycopg.connect(dsn, autocommit=True) as applier,
        psycopg.connect(dsn, autocommit=True) as looking,
        ThreadPoolExecutor(1) as pool,
    ):
        # As the first message of a release.
        writer.execute("SELECT FROM public.claude_sessions FOR UPDATE")
        applying = pool.submit(applier.execute, file.encode())
        until_waiting(looking)
        writer.execute("UPDATE public.claude_sessions SET updated_at = now()")
        writer.commit()
        applying.result()
