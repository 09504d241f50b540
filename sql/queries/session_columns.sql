-- The columns of a session, named as the fields of its dataclass, and the server's clock.
-- Part of other queries. Parameters: now (timestamptz, NULL for the server's clock).
    id, session_id, sd_id, track, tty, pid, hostname, codebase, claimed_at, heartbeat_at, status, metadata,
    created_at, updated_at, coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS server_now
