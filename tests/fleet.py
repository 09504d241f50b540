"""A table as it is after a year in a fleet: many ended sessions, many stale ones, and few that live."""

from __future__ import annotations

from typing import Any

import psycopg

from claude_sessions_cli.liveness import Host

# Every fourth ended session still carries its item, as older writers leave it. Every tenth stale one lost an item that
# nobody has claimed since. Every other live session holds an item, every tenth one is of this host.
SESSIONS = """
INSERT INTO public.claude_sessions (
    session_id, sd_id, track, tty, pid, hostname, codebase, claimed_at, heartbeat_at, status, metadata,
    created_at, updated_at
)
SELECT
    status || '-' || md5(n::text),
    CASE WHEN status = 'active' THEN 'SD-LIVE-' || n WHEN status = 'released' AND n %% 4 = 0 THEN 'SD-OLD-' || n END,
    CASE WHEN status = 'active' THEN 'A' END,
    '/dev/pts/' || n %% 40, 1000 + n, CASE WHEN is_here THEN %(host)s ELSE 'host-' || n %% 50 END,
    'codebase-' || n %% 20,
    CASE WHEN status = 'active' OR status = 'released' AND n %% 4 = 0 THEN at END, at, status,
    jsonb_build_object('claude_sessions_cli', jsonb_build_object(
        'process', jsonb_build_object(
            'pid', 1000 + n, 'start', n::text, 'pid_ns', %(pid_ns)s::text,
            'boot_id', CASE WHEN is_here THEN %(boot_id)s ELSE 'boot-' || n %% 50 END
        ),
        'cwd', '/home/somebody/codebase-' || n %% 20, 'branch', 'main', 'user', 'somebody', 'cli', '1.0'
    ) || CASE WHEN status = 'stale' AND n %% 10 < 5 THEN jsonb_build_object('tombstone', jsonb_build_object(
        'sd_id', 'SD-LOST-' || n, 'reason', 'silent', 'by', CASE WHEN n %% 10 > 0 THEN 'another' END
    )) ELSE '{}'::jsonb END),
    at, at
FROM (
    SELECT
        n, status, status IN ('active', 'idle') AND n %% 10 = 0 AS is_here,
        clock_timestamp() - CASE status WHEN 'released' THEN interval '1 day' + n * interval '30 seconds'
            WHEN 'stale' THEN interval '1 hour' + n * interval '0.1 seconds' ELSE interval '1 second' END AS at
    FROM (
        SELECT n, 'released' AS status FROM generate_series(1, %(released)s::bigint) AS n
        UNION ALL
        SELECT n, 'stale' FROM generate_series(1, %(stale)s::bigint) AS n
        UNION ALL
        SELECT n, CASE WHEN n %% 4 < 2 THEN 'active' ELSE 'idle' END FROM generate_series(1, %(live)s::bigint) AS n
    ) AS row
) AS row
"""
EVENTS = """
INSERT INTO public.claude_session_events (at, event, session_id, sd_id, claimed_at, reason)
SELECT
    at + part * interval '1 minute', (ARRAY['claimed', 'unclaimed'])[part], session_id, 'SD-OLD-' || n %% 5000, at,
    'released'
FROM (
    SELECT n, clock_timestamp() - n * interval '30 seconds' AS at, 'released-' || md5(n::text) AS session_id
    FROM generate_series(1, %(released)s::bigint) AS n
) AS term
CROSS JOIN generate_series(1, 2) AS part
ORDER BY n DESC, part
"""


def fill(connection: psycopg.Connection[Any], host: Host, *, released: int, stale: int, live: int) -> None:
    """Insert the sessions and the terms of the ended ones, on a connection that commits each statement."""
    values = {
        "released": released, "stale": stale, "live": live,
        "host": host.hostname, "boot_id": host.boot_id, "pid_ns": host.pid_ns,
    }  # fmt: skip
    # As a replica, no trigger records it.
    connection.execute("SET session_replication_role = replica")
    connection.execute(SESSIONS, values)
    if connection.execute("SELECT to_regclass('public.claude_session_events')").fetchone() != (None,):
        connection.execute(EVENTS, values)
    connection.execute("RESET session_replication_role")
    connection.execute("VACUUM (ANALYZE)")
