"""`heartbeat --here` for 1, 100 and 1,000 sessions as whole processes, its messages, and its WAL for each session."""

from __future__ import annotations

import tempfile

import psycopg
from conftest import make_caller

from bench.programs import PROGRAM, Program, clean_home, recorded, take_turns
from bench.rows import apply_schema, every_optional_file, register, sleepers
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here

NEEDS = ()
COUNTS = (1, 100, 1000)
PROCESSES = 200
MAX_RATIO = 3.0


def measure(sitting: Sitting) -> None:
    """Print a line for each number of sessions, and compare with the bar."""
    names = [f"cs_bench_here_{count}" for count in COUNTS]
    with (
        sitting.databases(*names) as create,
        sleepers(PROCESSES) as pids,
        tempfile.TemporaryDirectory() as home,
        clean_home(home) as environment,
    ):
        dsns = [_sessions(create(name), pids, count) for name, count in zip(names, COUNTS, strict=True)]
        programs = [Program([PROGRAM, "heartbeat", "--here", "--quiet", "--dsn", dsn]) for dsn in dsns]
        take_turns(programs, environment, sitting.rounds)
        inside = [_inside(dsn, count) for dsn, count in zip(dsns, COUNTS, strict=True)]
    rows = [
        [f"{count} sessions", program.median, program.median / programs[0].median, messages, wal]
        for count, program, (messages, wal) in zip(COUNTS, programs, inside, strict=True)
    ]
    columns = ["", "ms", "over one", "messages", "B of WAL each"]
    sitting.table(f"whole processes, medians of {sitting.rounds} in turn; every optional file", columns, rows)
    sitting.bar("heartbeat --here, 1,000 sessions over one", programs[-1].median / programs[0].median, most=MAX_RATIO)
    sitting.bar("messages", max(messages for messages, _ in inside), most=2)


def _sessions(dsn: str, pids: list[int], count: int) -> str:
    apply_schema(dsn, every_optional_file())
    with database.connect(dsn, "the bench") as connection:
        register(connection, pids, range(count))
    _settle(dsn)
    return dsn


def _inside(dsn: str, count: int) -> tuple[int, float]:
    """Return how many messages one call sends, and the WAL it writes for each session."""
    _settle(dsn)
    with database.connect(dsn, "the bench") as connection, psycopg.connect(dsn, autocommit=True) as watch:
        before = position(watch)
        with recorded() as found:
            assert heartbeat_here(connection, make_caller(None)).renewed == count
        return len(found.messages), (position(watch) - before) / count


def position(watch: psycopg.Connection[tuple[float]]) -> float:
    """Return how many bytes of WAL the server has written."""
    row = watch.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8").fetchone()
    assert row is not None
    return row[0]


def _settle(dsn: str) -> None:
    # After a checkpoint the first change of a page writes the whole page: twice, so that pruning is done too.
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        connection.execute("VACUUM ANALYZE public.claude_sessions")
        connection.execute("UPDATE public.claude_sessions SET heartbeat_at = clock_timestamp()")
