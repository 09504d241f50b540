"""Time `heartbeat --here` for 1, 100 and 1,000 sessions as whole processes, and count its messages and its WAL.

Makes the database cs_bench_here on the server that the tests would use, and drops it.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import databases
from conftest import make_caller

from claude_sessions_cli import database, process
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here

COUNTS = (1, 100, 1000)
PROCESSES = 200
ROUNDS = 15
MAX_RATIO = 3.0
DATABASE = "cs_bench_here"


def main() -> int:
    """Print a line for each number of sessions; fail if the bar is missed."""
    with databases([DATABASE]) as create:
        sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(PROCESSES)]
        try:
            return _measure(create(DATABASE), [sleeper.pid for sleeper in sleepers])
        finally:
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()


def _measure(dsn: str, pids: list[int]) -> int:
    with database.connect(dsn, "the bench") as connection:
        schema.apply(connection)
        median, messages = {}, {}
        made = 0
        for count in COUNTS:
            for number in range(made, count):
                anchor = process.read(pids[number % len(pids)])
                heartbeat(connection, make_caller(f"s-{number}", anchor=anchor), register=True)
            made = count
            _vacuum(dsn)
            median[count] = statistics.median(_run(dsn) for _ in range(ROUNDS))
            messages[count], wal = _inside(dsn, connection, count)
            print(
                f"heartbeat --here, {count:5} sessions: {median[count] * 1000:6.1f} ms,"
                f" {median[count] / median[1]:4.2f} of one; {messages[count]} messages; {wal:4.0f} B of WAL each"
            )
    ratio = median[COUNTS[-1]] / median[1]
    good = ratio <= MAX_RATIO and set(messages.values()) == {2}
    print(f"heartbeat --here: {'good' if good else 'MISSED'}: {ratio:.2f} <= {MAX_RATIO}, two messages")
    return 0 if good else 1


def _run(dsn: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "PG"))}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "claude_sessions_cli", "heartbeat", "--here", "--quiet"],
        env={**environment, "CLAUDE_SESSIONS_DSN": dsn},
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def _inside(dsn: str, connection: database.Database, count: int) -> tuple[int, float]:
    """Return how many messages one call sends, and the WAL it writes for each session."""
    _vacuum(dsn)
    counter = itertools.count()
    execute = psycopg.Cursor.execute

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        next(counter)
        return execute(self, *args, **options)

    try:
        with psycopg.connect(dsn, autocommit=True) as watch:
            before = _position(watch)
            psycopg.Cursor.execute = counted  # type: ignore[method-assign]
            assert heartbeat_here(connection, make_caller(None)).renewed == count
            psycopg.Cursor.execute = execute  # type: ignore[method-assign]
            written = _position(watch) - before
    finally:
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    return next(counter), written / count


def _position(watch: psycopg.Connection[tuple[float]]) -> float:
    row = watch.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8").fetchone()
    assert row is not None
    return row[0]


def _vacuum(dsn: str) -> None:
    # After a checkpoint the first change of a page writes the whole page: twice, so that pruning is done too.
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        connection.execute("VACUUM ANALYZE public.claude_sessions")
        connection.execute("UPDATE public.claude_sessions SET heartbeat_at = clock_timestamp()")


if __name__ == "__main__":
    sys.exit(main())
