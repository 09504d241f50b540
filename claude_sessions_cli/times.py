"""Times: a claim's time is its fence, and people read ages."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# An earlier or later `claimed_at`, such as 'infinity' from another program, is not a fence.
FENCE_LIMIT = (datetime(9999, 1, 1, tzinfo=timezone.utc) - EPOCH) // timedelta(microseconds=1)


def fence_of(claimed_at: datetime | None) -> int | None:
    """Return a claim's fence.

    >>> fence_of(datetime(2026, 1, 1, tzinfo=timezone.utc))
    1767225600000000
    """
    if claimed_at is None:
        return None
    fence = (claimed_at - EPOCH) // timedelta(microseconds=1)
    return fence if 0 <= fence <= FENCE_LIMIT else None


def time_of(fence: int | None) -> datetime | None:
    """Return the `claimed_at` of a fence."""
    return None if fence is None else EPOCH + timedelta(microseconds=fence)


def utc(moment: datetime) -> str:
    """Return a time in UTC, ISO 8601.

    >>> utc(datetime(2026, 1, 1, tzinfo=timezone.utc))
    '2026-01-01T00:00:00Z'
    """
    if moment.year in (1, 9999):  # the database's infinities, which no zone can shift
        return moment.replace(tzinfo=None).isoformat() + "Z"
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"


def to_second(moment: datetime) -> str:
    """Return a time in UTC for people, without the fraction of its second.

    >>> to_second(datetime(2026, 1, 1, 0, 0, 0, 495367, tzinfo=timezone.utc))
    '2026-01-01T00:00:00Z'
    """
    return utc(moment.replace(microsecond=0))


def format_age(seconds: float | None) -> str:
    """Return an age for people.

    >>> format_age(42), format_age(900), format_age(5400), format_age(200_000)
    ('42s', '15m', '1h30m', '2d7h')
    """
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def to_fence(value: object) -> int | None:
    """Return a fence from metadata; None if it is malformed."""
    return value if isinstance(value, int) and 0 <= value <= FENCE_LIMIT else None


def to_time(value: object) -> datetime | None:
    """Return a time from metadata, UTC if it has no zone; None if it is malformed."""
    # Python 3.10 does not read the Z of other programs.
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def uptime() -> float:
    """Return seconds on a clock that cannot be set, and that runs while the machine sleeps."""
    # macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC runs during sleep.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
