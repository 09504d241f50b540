"""Tables of any size, and sessions whose processes are alive."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from conftest import make_caller

from claude_sessions_cli import database, process
from claude_sessions_cli.database import Database
from claude_sessions_cli.operations import schema
from claude_sessions_cli.operations.heartbeat import heartbeat

# Rows of one status: how many, the item of row n, and the age of row n.
Kind = tuple[str, int, str, str]
LIVE: Kind = ("active", 20, "'SD-LIVE-' || n", "interval '10 seconds'")


def every_optional_file() -> list[str]:
    """Return the names of the optional files, as `schema apply` takes them."""
    return [path.stem for path in schema.optional_files()]


def apply_schema(dsn: str, optional: Sequence[str] = ()) -> None:
    """Apply the schema and optional files of it."""
    with database.connect(dsn, "the bench") as connection:
        schema.apply(connection, optional=optional)


def fill(dsn: str, *kinds: Kind) -> None:
    """Insert rows as they are after months, without a history of theirs."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        for status, count, item, age in kinds:
            connection.execute(
                "INSERT INTO public.claude_sessions (session_id, sd_id, track, tty, pid, hostname, codebase,"
                " claimed_at, heartbeat_at, status, metadata, created_at, updated_at)"
                f" SELECT 'session_' || left(md5(n::text || '{status}'), 8) || '_pts' || n || '_' || n, {item}, 'A',"
                f" '/dev/pts/' || n % 40, n, 'host-' || n % 5, 'codebase-' || n % 7, now() - {age}, now() - {age},"
                f" '{status}', jsonb_build_object('branch', 'main', 'claude_sessions_cli', jsonb_build_object("
                "'cwd', '/home/somebody/codebase', 'branch', 'main', 'cli', '0.1.0', 'stale_after', 900)),"
                f" now() - {age}, now() - {age} FROM generate_series(1, {count}) AS n"
            )
        connection.execute("VACUUM ANALYZE public.claude_sessions")


@contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """Start processes that live until the block ends, and yield their pids."""
    started = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    try:
        yield [sleeper.pid for sleeper in started]
    finally:
        for sleeper in started:
            sleeper.kill()
            sleeper.wait()


def register(connection: Database, pids: Sequence[int], numbers: range) -> None:
    """Register a session for each number, on one of the processes."""
    for number in numbers:
        anchor = process.read(pids[number % len(pids)])
        heartbeat(connection, make_caller(f"s-{number}", anchor=anchor), register=True)
