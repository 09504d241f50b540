-- Register a new session, on a table with columns for its terminal: an index over them may allow one session in each.
-- Parameters: those of new_session, terminal_id, machine_id (text), now. Returns: the session, or nothing if it exists.
INSERT INTO public.claude_sessions AS s (
    session_id, tty, pid, hostname, codebase, heartbeat_at, status, metadata, created_at, updated_at,
    terminal_id, machine_id
)
SELECT
{new_session},
    %(terminal_id)s::text, %(machine_id)s::text
FROM (SELECT coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS now) AS clock
ON CONFLICT (session_id) DO NOTHING
RETURNING {session_columns};
