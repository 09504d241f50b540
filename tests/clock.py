"""The time of tests that choose it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
DAY = 24 * 60  # in minutes, as `at` takes them


def at(minutes: float) -> datetime:
    """Return the time `minutes` after noon."""
    return NOON + timedelta(minutes=minutes)
