"""Waiting for what other processes and threads do, by looking again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import scalar_row

# As long as a busy machine may need: where all is well, nobody waits that long.
PATIENCE_S = 60.0
PAUSE_S = 0.01


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
    """Poll until the condition is true and return its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(PAUSE_S)


def until_waiting(connection: psycopg.Connection[Any], number: int = 1) -> list[str]:
    """Wait until so many clients of the connection's database wait for a lock; return how their programs are called."""
    waiting = (
        "SELECT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND wait_event_type = 'Lock'"
    )

    def all_wait() -> list[str] | None:
        with connection.cursor(row_factory=scalar_row) as cursor:
            # Inside a transaction the statistics would stand still.
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            found = cursor.execute(waiting).fetchall()
        return found if len(found) >= number else None

    names = until(all_wait, f"{number} clients that wait for a lock")
    assert isinstance(names, list)
    return names
