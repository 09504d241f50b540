"""Poll for the effects of other processes and threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import scalar_row

# Enough for a busy machine; only a failing test waits that long.
PATIENCE_S = 60.0
PAUSE_S = 0.01


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
    """Poll until the condition is true and return its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(PAUSE_S)


def until_waiting(connection: psycopg.Connection[Any], number: int = 1) -> list[str]:
    """Wait until `number` clients of the connection's database wait for a lock, and return their application names."""
    waiting = (
        "SELECT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND wait_event_type = 'Lock'"
    )

    def all_wait() -> list[str] | None:
        with connection.cursor(row_factory=scalar_row) as cursor:
            # Within a transaction the statistics are cached.
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            found = cursor.execute(waiting).fetchall()
        return found if len(found) >= number else None

    names = until(all_wait, f"{number} clients that wait for a lock")
    assert isinstance(names, list)
    return names
