-- Prove life by writing heartbeat_at alone: with more columns, the whole row between them would go to the WAL.
-- Parameters: session_id, pid and process (jsonb; NULL if the command cannot see the session's process), older_than_s
-- (float8: leave a younger heartbeat alone, but not one in the future; NULL for none), now.
-- Returns: the session; nothing if it is fresh, must be registered or revived, or has another process.
UPDATE public.claude_sessions SET
    heartbeat_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
WHERE session_id = %(session_id)s::text
    AND status IS DISTINCT FROM 'stale'
    AND status IS DISTINCT FROM 'released'
    AND (
        %(process)s::jsonb IS NULL
        OR metadata -> 'claude_sessions_cli'::text -> 'process'::text IS NULL
        OR (
            metadata -> 'claude_sessions_cli'::text -> 'process'::text = %(process)s::jsonb
            AND pid = %(pid)s::integer
        )
    )
    AND (
        %(older_than_s)s::float8 IS NULL
        OR heartbeat_at IS NULL
        OR heartbeat_at > coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
        OR heartbeat_at
        <= coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp())
        - pg_catalog.make_interval(secs => %(older_than_s)s::float8)
    )
RETURNING {session_columns};
