-- Register a new session, on a table without columns for its terminal.
-- Parameters: those of new_session, and now. Returns: the session; nothing if it exists, or the table has the columns.
INSERT INTO public.claude_sessions AS s (
    session_id, tty, pid, hostname, codebase, heartbeat_at, status, metadata, created_at, updated_at
)
SELECT
{new_session}
FROM (SELECT coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS now) AS clock
WHERE NOT (
{has_terminals}
)
ON CONFLICT (session_id) DO NOTHING
RETURNING {session_columns};
