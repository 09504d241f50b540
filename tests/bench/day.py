"""A day of 1,000 sessions, 1,440 heartbeats each, beside an old snapshot: growth, and what a minute takes.

The snapshot is open for two hours, as that of a dump: each heartbeat reads past every version that it keeps. The clock
is a parameter of the tool's statements, so a day takes minutes. A minute is the message by which `heartbeat --here`
renews all sessions; a VACUUM every ten minutes stands for autovacuum. Each session claims and releases an item twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
from conftest import make_caller
from faults.servers import private_server

from bench.programs import recorded
from bench.rows import apply_schema, register, sleepers
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.database import Database
from claude_sessions_cli.operations.claim import claim
from claude_sessions_cli.operations.heartbeat_here import heartbeat_here
from claude_sessions_cli.operations.release import release

NEEDS = ()
SESSIONS, PROCESSES, MINUTES = 1000, 200, 1440
SNAPSHOT, VACUUM_EVERY, SAMPLE = 120, 10, 20
# A new term begins at these minutes, and ends at half the way to the next.
SHIFT = 720
SCHEMAS: dict[str, list[str]] = {"as shipped": [], "with hot_heartbeats": ["hot_heartbeats"]}
SIZES = """
SELECT
    pg_table_size('public.claude_sessions') / 1e6, pg_indexes_size('public.claude_sessions') / 1e6,
    pg_total_relation_size('public.claude_session_events') / 1e6
"""


def measure(sitting: Sitting) -> None:
    """Print the sizes and the time of a minute: at first, when the snapshot ends, and after the day."""
    with private_server() as server, ExitStack() as stack:
        pids = stack.enter_context(sleepers(PROCESSES))
        with psycopg.connect(server.dsn) as watch:
            sitting.name_server(watch, "a private server")
        days: dict[str, list[tuple[str, list[float]]]] = {}
        minutes = []
        for name, optional in SCHEMAS.items():
            dsn = server.create(f"cs_day_{len(optional)}")
            apply_schema(dsn, optional)
            connection = stack.enter_context(database.connect(dsn, "the bench"))
            register(connection, pids, range(SESSIONS))
            days[name] = []
            minutes.append(_day(dsn, connection, days[name]))
        # In turn, so that other load hits each alike.
        for _ in zip(*minutes, strict=True):
            pass
    rows = [[f"{name}, {moment}", *figures] for name, day in days.items() for moment, figures in day]
    columns = ["", "ms a minute", "table, MB", "its indexes, MB", "history, MB"]
    sitting.table(f"{SESSIONS:,} sessions, {MINUTES:,} heartbeats each", columns, rows)


def _day(dsn: str, connection: Database, found: list[tuple[str, list[float]]]) -> Iterator[None]:
    """Live through a day, a minute at each step; add what is found at its moments."""
    start = datetime.now(timezone.utc)
    with psycopg.connect(dsn, autocommit=True) as watch, psycopg.connect(dsn) as old:
        beat = _beat_of(connection, start)
        cursor = psycopg.ClientCursor(watch)
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT FROM public.claude_sessions LIMIT 1")
        took: list[float] = []
        for minute in range(MINUTES):
            now = start + timedelta(minutes=minute)
            if minute == SNAPSHOT:
                found.append((f"snapshot open for {SNAPSHOT // 60} h", [_ms(took), *_sizes(watch)]))
                old.rollback()
            if minute % VACUUM_EVERY == 0:
                watch.execute("VACUUM public.claude_sessions")
            began = time.perf_counter()
            cursor.execute(beat.replace(str(start).encode(), str(now).encode()))
            took.append(time.perf_counter() - began)
            if minute == SAMPLE:
                found.append(("at first", [_ms(took), *_sizes(watch)]))
            if minute % (SHIFT // 2) == 0:
                _shift(connection, now, begins=minute % SHIFT == 0)
            yield
        found.append(("after the day", [_ms(took), *_sizes(watch)]))
        beaten = watch.execute("SELECT count(*) FROM public.claude_sessions WHERE heartbeat_at = %s", [now]).fetchone()
        assert beaten == (SESSIONS,)


def _beat_of(connection: Database, now: datetime) -> bytes:
    """Return the message by which `heartbeat --here` renews all sessions at a time."""
    with recorded() as found:
        assert heartbeat_here(connection, make_caller(None, now=now)).renewed == SESSIONS
    return found.messages[-1]


def _shift(connection: Database, now: datetime, *, begins: bool) -> None:
    for number in range(SESSIONS):
        caller = make_caller(f"s-{number}", now=now)
        if begins:
            claim(connection, caller, f"SD-{number}")
        else:
            release(connection, caller)


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds[-SAMPLE:]) * 1000


def _sizes(watch: psycopg.Connection[Any]) -> list[float]:
    [row] = watch.execute(SIZES).fetchall()
    return [float(size) for size in row]
