-- Register a new session: idle, without a claim.
-- Parameters: session_id, tty, pid, hostname, codebase, own (jsonb), now. Returns: the session, or nothing if it
-- exists.
INSERT INTO public.claude_sessions AS s (
    session_id, tty, pid, hostname, codebase, heartbeat_at, status, metadata, created_at, updated_at
)
SELECT
    %(session_id)s, %(tty)s, %(pid)s, %(hostname)s, %(codebase)s, clock.now, 'idle',
    jsonb_build_object('claude_sessions_cli', jsonb_strip_nulls(%(own)s::jsonb)), clock.now, clock.now
FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
ON CONFLICT (session_id) DO NOTHING
RETURNING {session_columns};
