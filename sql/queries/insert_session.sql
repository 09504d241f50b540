-- Register a new session: idle, without a claim.
-- Parameters: session_id, tty, pid, hostname, codebase, own (jsonb), now. Returns: the session, or nothing if it
-- exists.
INSERT INTO public.claude_sessions AS s (
    session_id, tty, pid, hostname, codebase, heartbeat_at, status, metadata, created_at, updated_at
)
SELECT
    %(session_id)s::text, %(tty)s::text, %(pid)s::integer, %(hostname)s::text, %(codebase)s::text, clock.now, 'idle',
    pg_catalog.jsonb_build_object('claude_sessions_cli', pg_catalog.jsonb_strip_nulls(%(own)s::jsonb)),
    clock.now, clock.now
FROM (SELECT coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS now) AS clock
ON CONFLICT (session_id) DO NOTHING
RETURNING {session_columns};
