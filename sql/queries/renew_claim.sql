-- Refresh a claim that the session, whose row is locked, holds: same term, same fence.
-- Parameters: session_id, track (NULL keeps it), tty, pid, hostname, codebase, own (jsonb), now.
-- Returns: the session.
WITH written AS (
    UPDATE public.claude_sessions SET
        track = coalesce(%(track)s::text, track),
        status = 'active',
{seen_columns}
    FROM (SELECT %(own)s::jsonb AS own) AS given
    WHERE session_id = %(session_id)s::text
    RETURNING {session_columns}
)
{written_row};
