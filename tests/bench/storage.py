"""HOT updates and WAL of a heartbeat at both levels of WAL, with and without hot_heartbeats; full pages aside."""

from __future__ import annotations

from typing import Any

import psycopg
from conftest import make_caller
from faults.servers import PrivateServer, private_server
from poll import until

from bench.here import position
from bench.rows import LIVE, apply_schema, fill
from bench.sitting import Sitting
from claude_sessions_cli import database
from claude_sessions_cli.operations.heartbeat import heartbeat

NEEDS = ()
LEVELS = ("replica", "logical")
SCHEMAS: dict[str, list[str]] = {"as shipped": [], "with hot_heartbeats": ["hot_heartbeats"]}
SESSIONS, BEATS = 200, 20
LEAST_HOT, MOST_WAL = 0.99, 250
COUNTS = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'claude_sessions'"


def measure(sitting: Sitting) -> None:
    """Print a line for each, and compare with the bars."""
    rows: list[list[object]] = []
    with private_server() as server:
        for level in LEVELS:
            # With full pages the figure would follow the checkpoints.
            restart(server, wal_level=level, full_page_writes="off")
            for name, optional in SCHEMAS.items():
                dsn = server.create(f"cs_{level}_{len(optional)}")
                apply_schema(dsn, optional)
                hot, wal = _beat(dsn)
                rows.append([f"{name}, {level}", hot, wal])
                if optional:
                    sitting.bar(f"{name}, {level}: HOT", hot, least=LEAST_HOT)
                if optional and level == "replica":
                    sitting.bar(f"{name}, {level}: B of WAL", wal, most=MOST_WAL)
        with psycopg.connect(server.dsn) as watch:
            sitting.name_server(watch, "a private server")
    columns = ["", "share of HOT updates", "B of WAL for each"]
    sitting.table(f"{BEATS} heartbeats of each of {SESSIONS} sessions, one after another", columns, rows)


def _beat(dsn: str) -> tuple[float, float]:
    fill(dsn, (LIVE[0], SESSIONS, *LIVE[2:]))
    with database.connect(dsn, "the bench") as connection, psycopg.connect(dsn, autocommit=True) as watch:
        callers = [make_caller(row[0]) for row in watch.execute("SELECT session_id FROM public.claude_sessions")]
        before = position(watch)
        for _ in range(BEATS):
            for caller in callers:
                heartbeat(connection, caller)
        written = position(watch) - before
    beats = SESSIONS * BEATS
    with psycopg.connect(dsn, autocommit=True) as watch:
        # A backend reports its counts when it ends, at the latest.
        updates, hot = until(lambda: _counts(watch, beats), "the counts of updates")
    return hot / updates, written / beats


def _counts(watch: psycopg.Connection[Any], least: int) -> tuple[int, int] | None:
    row = watch.execute(COUNTS).fetchone()
    return row if row and row[0] >= least else None


def restart(server: PrivateServer, **settings: str) -> None:
    """Restart a private server under other settings."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("CHECKPOINT")
    server.stop_immediately()
    server.start()
