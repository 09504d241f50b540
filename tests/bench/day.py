"""A day of 1,000 sessions, 1,440 heartbeats each, beside a snapshot that stays open: growth, and what a minute takes.

The clock is a parameter of the tool's statements, so a day takes minutes. A minute is one `heartbeat --here`; each
session claims and releases an item four times a day.
"""

from __future__ import annotations

import statistics
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
from conftest import make_caller
from faults.servers import private_server

from bench.rows import apply_schema, register, sleepers
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.database import Database
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.release import release

NEEDS = ()
SESSIONS, PROCESSES, MINUTES = 1000, 200, 1440
# A new term begins at these minutes, and ends at half the way to the next.
SHIFT = 360
SCHEMAS: dict[str, list[str]] = {"as shipped": [], "with hot_heartbeats": ["hot_heartbeats"]}
SIZES = """
SELECT
    pg_table_size('public.claude_sessions') / 1e6, pg_indexes_size('public.claude_sessions') / 1e6,
    pg_total_relation_size('public.claude_session_events') / 1e6
"""


def measure(sitting: Sitting) -> None:
    """Print the sizes and the time of a minute before, at the end of, and after the snapshot."""
    rows: list[list[object]] = []
    with private_server() as server, sleepers(PROCESSES) as pids:
        with psycopg.connect(server.dsn) as watch:
            sitting.name_server(watch, "a private server")
        for name, optional in SCHEMAS.items():
            dsn = server.create(f"cs_day_{len(optional)}")
            apply_schema(dsn, optional)
            with database.connect(dsn, "the bench") as connection:
                register(connection, pids, range(SESSIONS))
                rows += [[f"{name}, {moment}", *figures] for moment, figures in _day(dsn, connection)]
    columns = ["", "ms a minute", "table, MB", "its indexes, MB", "history, MB"]
    sitting.table(f"{SESSIONS:,} sessions, {MINUTES:,} heartbeats each", columns, rows)


def _day(dsn: str, connection: Database) -> list[tuple[str, list[float]]]:
    start = datetime.now(timezone.utc)
    found = []
    with psycopg.connect(dsn, autocommit=True) as watch:
        with psycopg.connect(dsn) as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT FROM public.claude_sessions LIMIT 1")
            took = []
            for minute in range(MINUTES):
                now = start + timedelta(minutes=minute)
                took.append(_minute(connection, now))
                if minute == 10:
                    found.append(("at first", [_ms(took), *_sizes(watch)]))
                if minute % (SHIFT // 2) == 0:
                    _shift(connection, now, begins=minute % SHIFT == 0)
            found.append(("after a day", [_ms(took[-10:]), *_sizes(watch)]))
        watch.execute("VACUUM public.claude_sessions")
        later = [_minute(connection, start + timedelta(minutes=MINUTES + minute)) for minute in range(10)]
        found.append(("snapshot closed, vacuumed", [_ms(later), *_sizes(watch)]))
    return found


def _minute(connection: Database, now: datetime) -> float:
    began = time.perf_counter()
    assert heartbeat_here(connection, make_caller(None, now=now)).renewed == SESSIONS
    return time.perf_counter() - began


def _shift(connection: Database, now: datetime, *, begins: bool) -> None:
    for number in range(SESSIONS):
        caller = make_caller(f"s-{number}", now=now)
        if begins:
            claim(connection, caller, f"SD-{number}")
        else:
            release(connection, caller)


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def _sizes(watch: psycopg.Connection[Any]) -> list[float]:
    [row] = watch.execute(SIZES).fetchall()
    return [float(size) for size in row]
