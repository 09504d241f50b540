-- The columns of a session as its dataclass has them, with the server's clock beside them.
-- Part of other queries. Parameters: now (timestamptz, NULL for the server's clock).
    id, session_id, sd_id, track, tty, pid, hostname, codebase, claimed_at, heartbeat_at, status, metadata,
    created_at, updated_at, coalesce(%(now)s::timestamptz, clock_timestamp()) AS server_now
